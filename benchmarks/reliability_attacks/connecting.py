"""Attacks by connecting: all at once, and staying, and going in every way there is."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from .arena import Arena, Found
from .crowd import Crowd

#: close(2) resets the connection (SO_LINGER, socket(7)).
RESET = struct.pack("ii", 1, 0)

#: Seconds for what was open to be closed again, after everybody has gone.
AFTERWARDS = 3.0


def burst(arena: Arena) -> Found:
    """So many connect in the same instant, and each says one line: how long until each has its answer? A short queue
    makes the kernel drop the handshake, and the peer tries again after 1, 2, 4 s."""
    count = arena.many(1000)
    with Crowd(arena.target.address, stays=False) as crowd:
        began = time.monotonic()
        crowd.connect(count, min(8.0, arena.left), b"here\n", at_once=count)
        crowd.wait_answers(count, max(0.1, began + 8.0 - time.monotonic()))
        last = None if crowd.last_answer is None else crowd.last_answer - began
        return {"attackers": count, "answered": crowd.answered, "unanswered": count - crowd.answered, "last_s": last}


def idle(arena: Arena) -> Found:
    """They connect, say nothing, and stay."""
    count = arena.many(500)
    patience = arena.limit("first_byte_timeout")
    memory = arena.target.usage().memory
    with Crowd(arena.target.address) as crowd:
        crowd.connect(count, 5.0)
        time.sleep(0.3)
        made = len(crowd) or 1
        kib = (arena.target.usage().memory - memory) / 1024 / made
        gone = crowd.wait_gone(min(patience + 1.0, arena.left))
        return {"attackers": made, "survivors": len(crowd), "gone_s": gone, "kib_each": kib}


def fill(arena: Arena) -> Found:
    """Many more than there is room for connect from three addresses, say nothing, and stay: is there room for a client
    from a fourth?"""
    count = arena.many(5000)
    with Crowd(arena.target.address, ["127.0.1.1", "127.0.1.2", "127.0.1.3"]) as crowd:
        made = crowd.connect(count, min(6.0, arena.left))
        end = time.monotonic() + min(1.5, arena.left)
        while time.monotonic() < end:
            crowd.look(0.1)
        return {"attackers": made, "survivors": len(crowd), "turned_away": crowd.ended}


def forked_idle(arena: Arena) -> Found:
    """More idle peers than there may be children: does the next one hear anything, and does SIGTERM end the server?"""
    with Crowd(arena.target.address) as crowd:
        crowd.connect(arena.many(60), 3.0)
        crowd.look(0.3)
        next_s = None
        began = time.monotonic()
        with contextlib.suppress(OSError), arena.target.connect(2.5) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"here\n")
                sock.recv(100)  # an answer, or the end: it knows
            next_s = time.monotonic() - began
        processes = arena.watch.processes
        exit_s = arena.target.end(4.0)
        return {"attackers": crowd.made, "survivors": len(crowd), "next_s": next_s, "exit_s": exit_s,
                "processes": processes}  # fmt: skip


def resets(arena: Arena) -> Found:
    """They reset before they say anything, in the midst of an answer, or leave in the midst of a line."""
    count = arena.many(300)
    before = arena.target.usage().descriptors
    for number in range(count):
        if arena.left < AFTERWARDS:
            break
        for way in range(3):
            with contextlib.suppress(OSError), arena.target.connect() as sock:
                if way == 1:
                    sock.sendall(b"BLOB 1048576\n")
                    sock.recv(1000)
                elif way == 2:
                    sock.sendall(b"half a li")
                if way < 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if number % 10 == 0:
            time.sleep(0.005)
    return {"attackers": 3 * count, "fds_back_s": back(arena, before), **tracebacks(arena)}


def back(arena: Arena, before: int) -> float | None:
    """Seconds until the server has no more descriptors than before, give or take the honest client's one."""
    began = time.monotonic()
    while time.monotonic() < began + AFTERWARDS:
        if arena.target.usage().descriptors <= before + 1:
            return time.monotonic() - began
        time.sleep(0.05)
    return None


def tracebacks(arena: Arena) -> Found:
    return {"tracebacks": arena.target.log.read_bytes().count(b"Traceback")}


def half_close(arena: Arena) -> Found:
    """A request and the end of the client's side in one go, and then it reads: the whole answer has to come, and a
    clean end; also for a last line without its end."""
    count, size = arena.many(50), 512 * 1024
    whole = last = 0
    for _ in range(count):
        with contextlib.suppress(OSError), arena.target.connect(5.0) as sock:
            sock.sendall(b"BLOB %d\n" % size)
            sock.shutdown(socket.SHUT_WR)
            whole += _read_all(sock) == b"b" * size
        with contextlib.suppress(OSError), arena.target.connect(5.0) as sock:
            sock.sendall(b"no line end")
            sock.shutdown(socket.SHUT_WR)
            last += _read_all(sock) == b"no line end"
    return {"attackers": 2 * count, "wrong": 2 * count - whole - last}


def _read_all(sock: socket.socket) -> bytes:
    got = bytearray()
    while piece := sock.recv(65536):
        got += piece
    return bytes(got)


def small_pieces(arena: Arena) -> Found:
    """They send and read seven bytes at a time."""
    count, right = arena.many(20), 0
    line = bytes(range(97, 123)) * 40 + b"\n"
    for _ in range(count):
        with contextlib.suppress(OSError), arena.target.connect(5.0) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(line), 7):
                sock.sendall(line[start : start + 7])
            got = b""
            while len(got) < len(line) and (piece := sock.recv(7)):
                got += piece
            right += got == line
    return {"attackers": count, "wrong": count - right}


def churn(arena: Arena) -> Found:
    """Short connections, several at a time: is anything left of them?"""
    count, at_once = arena.many(5000), 32
    target = arena.target
    began, done, failed = time.monotonic(), 0, 0
    before = target.usage()
    while done + failed < count and arena.left > AFTERWARDS:
        with Crowd(target.address) as crowd:
            crowd.connect(at_once, 5.0, b"here\n", at_once=at_once)
            crowd.wait_answers(at_once, 5.0)
            done += crowd.answered
            failed += at_once - crowd.answered
    took = time.monotonic() - began
    fds_back_s = back(arena, before.descriptors)
    # Those that there was no time for count as failed: a server that lets five in a second fails no faster.
    failed += max(0, count - done - failed)
    return {"attackers": done + failed, "failed": failed, "per_second": done / took, "fds_back_s": fds_back_s}
