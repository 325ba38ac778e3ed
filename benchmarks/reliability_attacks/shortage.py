"""Attacks by shortage: no descriptor is left, or the kernel says so, or has no memory."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from processes import Unable, family

from .arena import Arena, Found

#: Seconds that the shortage lasts.
HOLD = 2.0


def descriptors(arena: Arena) -> Found:
    """With ``ulimit -n 64``, many connect and stay: does the server spin, keep those it has, come back at once?"""
    return _starved(arena, b"here\n", b"here\n")


def descriptors_of_handlers(arena: Arena) -> Found:
    """The same where the handlers take the descriptors, so that no limit of connections can foresee it."""
    return _starved(arena, b"OPEN 3\n", b"OK\n")


def _starved(arena: Arena, line: bytes, answer: bytes) -> Found:
    target, peers, unanswered = arena.target, [], 0
    with contextlib.ExitStack() as exits:
        for _ in range(200):
            if unanswered >= 3:  # the queue is full as well
                break
            try:
                sock = exits.enter_context(target.connect(0.4))
                sock.sendall(line)
                peers.append(sock)
                unanswered = 0
            except OSError:
                unanswered += 1
            time.sleep(0.003)
        time.sleep(0.3)
        before, began = target.usage().cpu, time.monotonic()
        time.sleep(min(HOLD, arena.left))
        load = (target.usage().cpu - before) / (time.monotonic() - began)
        served = [sock for sock in peers if _said(sock, 0.02) == answer]
        kept = sum(_asked(sock) for sock in served)
        refused = sum(_ended(sock) for sock in peers if sock not in served)
        log = target.log.stat().st_size
    back = target.served(6.0)
    return {
        "attackers": len(peers), "served": len(served), "let_down": len(served) - kept, "turned_away": refused,
        "cpu_percent": 100 * load, "back_s": back, "log_in_attack": log,
    }  # fmt: skip


def _said(sock: socket.socket, timeout: float) -> bytes:
    sock.settimeout(timeout)
    with contextlib.suppress(OSError):
        return sock.recv(100)
    return b""


def _asked(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        sock.settimeout(1.0)
        sock.sendall(b"again\n")
        return sock.recv(100) == b"again\n"
    return False


def _ended(sock: socket.socket) -> bool:
    sock.settimeout(0.001)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


# -- by the kernel's word ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def injected(pid: int, error: str, when: str) -> Iterator[list[float]]:
    """accept4(2) of a process and its threads fails as told, by strace; the list has, after the block, when it did
    (seconds of the clock on the wall). Unable without strace, or where one process may not trace another."""
    if shutil.which("strace") is None:
        raise Unable("strace is needed to make system calls fail: install it (apt install strace)")
    times: list[float] = []
    with tempfile.NamedTemporaryFile(prefix="jackfield-strace-") as trace:
        pids = [argument for member in family(pid) for argument in ("-p", str(member))]
        inject = f"inject=accept4:error={error}:when={when}"
        strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-ttt", "-e", "trace=accept4", "-e", inject, "-o", trace.name, *pids],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_traced(pid, strace)
            yield times
        finally:
            strace.terminate()
            strace.wait()
            found = re.findall(r"([0-9]+\.[0-9]+) .*\(INJECTED\)", Path(trace.name).read_text())
            times += map(float, found)


def _wait_traced(pid: int, strace: subprocess.Popen[bytes]) -> None:
    status = Path(f"/proc/{pid}/status")
    end = time.monotonic() + 5.0
    while f"TracerPid:\t{strace.pid}" not in status.read_text():
        if strace.poll() is not None or time.monotonic() > end:
            raise Unable("strace may not trace another process here (kernel.yama.ptrace_scope, or a container)")
        time.sleep(0.01)


def failing_accept(arena: Arena) -> Found:
    """For two seconds accept fails for want of descriptors, then of memory: how often is it called, and how soon is a
    client served when it works again?"""
    target, rates, backs = arena.target, [], []
    for error in ("EMFILE", "ENOMEM"):
        with injected(target.pid, error, "1+") as times:
            with contextlib.suppress(OSError), target.connect(1.0) as sock:
                sock.sendall(b"here\n")
                time.sleep(2.0)
        backs.append(target.served(5.0))
        rates.append(max(sum(begin <= other < begin + 1.0 for other in times) for begin in times or [0.0]))
    back = None if None in backs else max(float(one or 0.0) for one in backs)
    return {"attackers": 0, "calls_per_second": max(rates), "back_s": back}


def aborted(arena: Arena) -> Found:
    """27 times in a row accept finds a connection that its peer has given up."""
    target, lost, log = arena.target, 0, arena.target.log.stat().st_size
    with injected(target.pid, "ECONNABORTED", "4..30") as times:
        for _ in range(30):
            if not arena.left:
                break
            try:
                with target.connect(1.0) as sock:
                    lost += target.ask(sock, b"here") != b"here"
            except OSError:
                lost += 1
    # Each traced thread counts its own calls: what is asked is how long 27 in a row take.
    first = times[:27]
    lines = target.log.read_bytes()[log:].count(b"\n")
    return {"attackers": len(times), "span_s": max(first) - min(first) if first else None, "lost_clients": lost,
            "log_lines": lines}  # fmt: skip
