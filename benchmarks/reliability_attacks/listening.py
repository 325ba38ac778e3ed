"""Attacks on what listens: the file of a Unix socket, and a listener that is shut down from outside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import time
from pathlib import Path

from processes import Unable, Void

from .arena import Arena, Found
from .target import Target, started

#: pidfd_getfd(2), which has this number on every architecture that Python 3.11 runs on.
PIDFD_GETFD = 438


def unix_path(arena: Arena) -> Found:
    """Nine promises about a socket's file: live ones and what is no socket are left alone, what is left over is taken,
    strangers cannot connect, and at the end nobody else's file is removed."""
    target, path = arena.target, Path(arena.setup["path"])
    name, setup = target.name, arena.setup
    kept = {"served": target.served(2.0) is not None, "mode": stat.S_IMODE(path.stat().st_mode) == 0o660}
    kept["live one refused"] = not _starts(name, setup)
    kept["live one unharmed"] = target.served(2.0) is not None
    path_of_other = path.with_name("other")
    path_of_other.write_text("a file")
    other = {**setup, "path": str(path_of_other)}
    kept["file left alone"] = not _starts(name, other) and path_of_other.read_text() == "a file"
    link = path.with_name("link")
    link.symlink_to(path_of_other)
    kept["link left alone"] = not _starts(name, {**setup, "path": str(link)}) and path_of_other.exists()
    left = {**setup, "path": str(path.with_name("left"))}
    with contextlib.suppress(Void), started(name, left) as first:
        first.process.kill()
    kept["left-over taken"] = _starts(name, left)
    kept["removed at the end"] = _end(name, {**setup, "path": str(path.with_name("own"))}, replaced=False)
    kept["another's kept"] = _end(name, {**setup, "path": str(path.with_name("replaced"))}, replaced=True)
    return {"attackers": len(kept), "broken": [promise for promise, holds in kept.items() if not holds],
            "promises_broken": sum(not holds for holds in kept.values())}  # fmt: skip


def _starts(name: str, setup: dict[str, object]) -> bool:
    with contextlib.suppress(Void), started(name, setup) as target:
        return target.served(2.0) is not None
    return False


def _end(name: str, setup: dict[str, object], *, replaced: bool) -> bool:
    """Whether the path is as it should be when a server has ended: gone, or another's file as that left it."""
    path = Path(str(setup["path"]))
    with contextlib.suppress(Void), started(name, setup) as target:
        target.served(2.0)  # from then on it knows what SIGTERM means
        if replaced:
            path.unlink()
            path.write_text("another's")
        target.end(3.0)
        return path.exists() is replaced
    return False


# -- a listener that is one no more ------------------------------------------------------------------------------------


def lost_listener(arena: Arena) -> Found:
    """The listening socket is shut down under the server: it listens again, or ends, or is deaf from then on."""
    target = arena.target
    with _listening(target) as listener:
        listener.shutdown(socket.SHUT_RDWR)
    began = time.monotonic()
    while time.monotonic() < began + min(3.0, arena.left):
        if not target.alive():
            return {"attackers": 1, "noticed_s": time.monotonic() - began, "outcome": "it ended"}
        if target.served(0.05) is not None:
            return {"attackers": 1, "noticed_s": time.monotonic() - began, "outcome": "it listens again"}
        time.sleep(0.02)
    return {"attackers": 1, "noticed_s": None, "outcome": "it is deaf"}


def _listening(target: Target) -> socket.socket:
    """The server's own listening socket."""
    inodes = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and fields[1].endswith(f":{target.port:04X}")
    }
    for entry in Path(f"/proc/{target.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry).removeprefix("socket:[").removesuffix("]") in inodes:
                return socket.socket(fileno=_taken(target.pid, int(entry.name)))
    raise Unable("the server's listening socket is not found in /proc")


def _taken(pid: int, number: int) -> int:
    """A descriptor of ours for what another process has open."""
    process = os.pidfd_open(pid)
    try:
        found = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if found < 0:
        raise Unable(f"another process's socket cannot be had here ({os.strerror(ctypes.get_errno())})")
    return int(found)
