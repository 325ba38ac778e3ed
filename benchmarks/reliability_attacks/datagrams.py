"""Attacks by datagrams: very many, slow to answer, of every size, and one that makes two servers talk for ever."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import Unable

from .arena import Arena, Found
from .target import started

#: Every one of these is this machine's (RFC 1122, 3.2.1.3).
SOURCES = [f"127.0.{1 + number // 100}.{1 + number % 100}" for number in range(200)]

#: Seconds for the last answers, after the last datagram.
DRAIN = 1.0


def _flood(arena: Arena, count: int, text: bytes, rate: float | None, drain: float) -> tuple[int, int]:
    """Send so many, in turn from all the sources; how many were sent, and how many answers came back."""
    poll = select.epoll()
    sockets = {}
    with contextlib.ExitStack() as exits:
        exits.callback(poll.close)
        for source in SOURCES:
            sock = exits.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((source, 0))
            sock.connect(arena.target.address)
            sock.setblocking(False)
            sockets[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        senders = list(sockets.values())
        sent = answered = 0
        began = time.monotonic()

        def read(seconds: float) -> int:
            got = 0
            for number, _ in poll.poll(seconds):
                with contextlib.suppress(OSError):
                    while True:
                        sockets[number].recv(65535)
                        got += 1
            return got

        while sent < count and arena.left > drain:
            for sock in senders[: count - sent]:
                with contextlib.suppress(OSError):
                    sock.send(text)
                    sent += 1
            answered += read(0.0)
            if rate:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        quiet = time.monotonic() + drain
        while time.monotonic() < quiet and arena.left:
            if got := read(0.1):
                answered += got
                quiet = time.monotonic() + DRAIN
        return sent, answered


def _info(arena: Arena) -> dict[str, Any]:
    """What the server has counted itself; empty if it does not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        sock.connect(arena.target.address)
        # As long as the answer: no server would send more than it has got, several times over, to a stranger.
        sock.send(b"INFO".ljust(1000))
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(sock.recv(65535))
            return found if isinstance(found, dict) else {}
    return {}


def kernel_drops(port: int) -> int:
    """Datagrams that the kernel had no room for, of the sockets of a port (proc_net_udp)."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(fields[-1]) for fields in lines if fields[1].endswith(f":{port:04X}"))


def flood(arena: Arena) -> Found:
    """From 200 addresses, as fast as one process can."""
    before = _info(arena)
    sent, answered = _flood(arena, arena.many(200_000), b"f" * 64, None, DRAIN)
    drops = kernel_drops(arena.target.port)
    found = {"attackers": sent, "answered_percent": 100 * answered / max(1, sent), "kernel_drops": drops}
    after = _info(arena)
    if before and after:
        counted = after["datagrams"] - before["datagrams"] - 1  # asking for it is one
        own = after.get("kernel_dropped")
        lost = drops if own is None else own - before["kernel_dropped"]
        found["uncounted"] = abs(sent - counted - lost)
    return found


def slow_handler(arena: Arena) -> Found:
    """Three thousand in a second, each of which takes a second to answer."""
    before = arena.target.usage().memory
    sent, answered = _flood(arena, arena.many(3000), b"SLEEP 1", 3000.0, 2 * DRAIN)
    growth = max(0, arena.watch.memory - before) / 2**20
    return {"attackers": sent, "answered_percent": 100 * answered / max(1, sent), "threads": arena.watch.threads,
            "growth_mib": growth}  # fmt: skip


def sizes(arena: Arena) -> Found:
    """From none to the most that UDP carries: each comes back whole, or not at all."""
    shortened = missing = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.settimeout(0.5)
        sock.connect(arena.target.address)
        tried = (1, 1472, 8192, 8193, 20_000, 65_507, 0)
        for size in tried:
            sock.send(b"u" * size)
            try:
                shortened += len(sock.recv(65535)) != size
            except TimeoutError:
                missing += 1
    return {"attackers": len(tried), "shortened": shortened, "missing": missing}


# -- two that answer each other ----------------------------------------------------------------------------------------


def loop(arena: Arena) -> Found:
    """One datagram that seems to come from another server of the same kind: how many follow it in a second and a half?
    Only in a network namespace of this row's own, where nobody else's are counted. The honest client asks 50 times a
    second here: more than 100 answers a second to one address are what ends such a loop (`reply_rate_per_address`), and
    to a server that is talked to in another's name nothing tells the two apart, as each answers all it is sent."""
    with started(arena.target.name, arena.setup) as other:
        time.sleep(1.5)  # what the honest client has used of a rate, which is that of this address, is there again
        before = _received()
        _spoof(other.port, arena.target.port, b"hello, who is there?\n")
        time.sleep(1.5)
        return {"attackers": 1, "datagrams": _received() - before}


def _received() -> int:
    """Datagrams that were delivered in this network namespace (RFC 1213, udpInDatagrams)."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Udp:")
    return int(values[names.index("InDatagrams")])


def _spoof(source: int, target: int, text: bytes, new: Callable[..., socket.socket] = socket.socket) -> None:
    """A datagram from one port of this machine to another, though it is sent from neither."""
    local = socket.inet_aton("127.0.0.1")
    udp = struct.pack("!HHHH", source, target, 8 + len(text), 0) + text  # checksum 0: none (RFC 768)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, local, local)
    try:
        with new(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(ip + udp, ("127.0.0.1", 0))
    except PermissionError:
        raise Unable("a datagram from another's address needs CAP_NET_RAW: run it as root") from None
