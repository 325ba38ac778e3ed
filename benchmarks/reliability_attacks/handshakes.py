"""Attacks before the handler has its turn: TLS that never gets anywhere, and PROXY headers that are none."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable

from .arena import Arena, Found
from .connecting import tracebacks
from .crowd import Crowd


def stalled_tls(arena: Arena) -> Found:
    """Half of them say nothing to the TLS port, half send a part of a ClientHello; and some send what is no TLS."""
    count = arena.many(500)
    hello = client_hello()
    address = arena.target.address
    with Crowd(address) as crowd:
        crowd.connect(count - count // 2, 3.0)
        made = len(crowd) + crowd.connect(count // 2, 3.0, hello[:60])
        began = time.monotonic()
        junk = (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 64, b"\x16\x03\x01\xff\xff" + b"\xff" * 400, b"\x80\x2e\x01")
        for noise in junk:
            with contextlib.suppress(OSError), arena.target.connect(0.3) as sock:
                sock.sendall(noise)
                sock.recv(100)
        gone = crowd.wait_gone(min(7.0, arena.left))
        gone = None if gone is None else time.monotonic() - began
        return {"attackers": made, "survivors": len(crowd), "gone_s": gone, **tracebacks(arena)}


def client_hello() -> bytes:
    """What a client of TLS says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    return said.read()


# -- PROXY -------------------------------------------------------------------------------------------------------------

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + (1024).to_bytes(2, "big") + (443).to_bytes(2, "big")
_V6 = bytes(16) + bytes(16) + bytes(4)


def _v2(command: int, family: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + payload


GOOD = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\r\n",
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1024 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN whatever it says\r\n",
    _v2(0x21, 0x11, _V4),
    _v2(0x21, 0x21, _V6),
    _v2(0x20, 0x00, b""),
    _v2(0x21, 0x11, _V4 + b"\x04\x00\x03abc"),
)

BAD = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1024 443\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 1024 443\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1024 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01024 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +1024 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1_024 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1024\r\n",
    b"PROXY TCP4 192.0.2.1  192.0.2.2 1024 443\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1024 443\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1024 443\r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 1024 443\r\n",
    b"proxy TCP4 192.0.2.1 192.0.2.2 1024 443\r\n",
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    b"hello\r\n",
    _v2(0x11, 0x11, _V4),
    _v2(0x22, 0x11, _V4),
    _v2(0x21, 0x41, _V4),
    _v2(0x21, 0x11, _V4[:8]),
    _v2(0x21, 0x11, _V4 + b"\x04\x00\xff"),
    _v2(0x21, 0x11, b"", 65535),
)

#: So many headers are refused within the time of a row on a slow machine.
STORM = 100_000


def proxy_garbage(arena: Arena) -> Found:
    """Headers that are none, very many of them; those that are right, in one piece and byte by byte; and silence."""
    target = arena.target
    with Crowd(target.address) as silent:
        silent.connect(arena.many(20), 3.0)
        began = time.monotonic()
        leaked = sum(_answered(arena, header, whole) for header in BAD for whole in (True, False))
        served = sum(_answered(arena, header, whole) for header in GOOD for whole in (True, False))
        gone_at: list[float] = []

        def look() -> None:
            if not silent.look() and not gone_at:
                gone_at.append(time.monotonic())

        sent, answers = _storm(arena, arena.many(STORM), look)
        silent.wait_gone(max(0.1, min(began + 7.0 - time.monotonic(), arena.left)))
        look()
        silent_s = gone_at[0] - began if gone_at else None
        return {
            "attackers": sent, "survivors": len(silent), "leaked": leaked + answers,
            "good_refused": 2 * len(GOOD) - served, "silent_s": silent_s, **tracebacks(arena),
        }  # fmt: skip


def _answered(arena: Arena, header: bytes, whole: bool) -> bool:
    """Whether the handler gets what follows a header."""
    with contextlib.suppress(OSError), arena.target.connect(1.0) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [header] if whole else [header[at : at + 1] for at in range(len(header))]:
            sock.sendall(piece)
        # One that waits for more of a long header is no leak: its end is told instead.
        sock.sendall(b"through\n")
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(100):
            got += piece
        return b"through" in got
    return False


def _storm(arena: Arena, count: int, look: Callable[[], None]) -> tuple[int, int]:
    """So many wrong headers on connections of their own, 64 at a time, as long as there is time; and how many were
    answered."""
    poll = select.epoll()
    live: dict[int, socket.socket] = {}
    sent = answered = 0
    end = time.monotonic() + max(0.0, arena.left - 2.0)
    while live or (sent < count and time.monotonic() < end):
        while len(live) < 64 and sent < count:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(arena.target.address)
            with contextlib.suppress(OSError):
                sock.send(BAD[sent % len(BAD)] + b"through\n")  # on loopback it is connected by now
            live[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
            sent += 1
            if BAD[sent % len(BAD) - 1].startswith(SIGNATURE):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        look()
        for number, _ in poll.poll(0.05):
            sock = live.pop(number)
            poll.unregister(number)
            with contextlib.suppress(OSError):
                answered += b"through" in sock.recv(200)
            sock.close()
        if time.monotonic() > end + 1.0:
            break
    for sock in live.values():
        sock.close()
    poll.close()
    return sent, answered
