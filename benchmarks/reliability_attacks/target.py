"""One server under attack in a process of its own, what can be seen of it from outside, and its honest client."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from processes import Void, cpu_seconds, family, memory

HERE = Path(__file__).parent
HOST = "127.0.0.1"

#: Seconds that a server may take to say that clients can connect, and the honest client to end its last request.
SOON = 10.0
LAST_REQUEST = 6.0

#: Seconds between two looks at a server's memory and threads.
GLANCE = 0.1


class Usage(NamedTuple):
    """What a server has at one moment: processor time in seconds, memory in bytes, and how many of the rest."""

    cpu: float
    memory: int
    descriptors: int
    threads: int


class Target:
    """A server that runs. ``address`` is what clients connect to."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self.log = log
        self.port = 0
        self.path: str | None = None

    @property
    def address(self) -> Any:
        return self.path or (HOST, self.port)

    def alive(self) -> bool:
        return self.process.poll() is None

    def usage(self) -> Usage:
        members = family(self.pid)
        return Usage(
            cpu_seconds(self.pid),
            memory(self.pid),
            sum(_entries(member, "fd") for member in members),
            sum(_entries(member, "task") for member in members),
        )

    def last_words(self) -> str:
        said = self.log.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it says nothing"

    def connect(self, timeout: float = 2.0) -> socket.socket:
        """A blocking client."""
        sock = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        try:
            sock.settimeout(timeout)
            sock.connect(self.address)
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, sock: socket.socket, line: bytes) -> bytes:
        """One line there, and one back; b"" if the server closes instead."""
        sock.sendall(line + b"\n")
        got = b""
        while not got.endswith(b"\n") and (piece := sock.recv(65536)):
            got += piece
        return got.rstrip(b"\n")

    def served(self, timeout: float) -> float | None:
        """Seconds until a new client has its answer, trying again and again; None if not within ``timeout``."""
        began = time.monotonic()
        while (left := began + timeout - time.monotonic()) > 0:
            with contextlib.suppress(OSError), self.connect(min(1.0, max(0.05, left))) as sock:
                if self.ask(sock, b"there?") == b"there?":
                    return time.monotonic() - began
            time.sleep(0.005)
        return None

    def end(self, timeout: float) -> float | None:
        """Seconds from SIGTERM to the server's end; None if it has not ended by ``timeout``."""
        began = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - began


def _entries(pid: int, of: str) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/{of}"))
    return 0


@contextlib.contextmanager
def started(
    name: str, setup: dict[str, Any], *, descriptors: int | None = None, processor: int | None = None
) -> Iterator[Target]:
    """A server, until the end of the block; Void if it does not start. ``descriptors``: its limit of them, as by
    ``ulimit -n``."""
    command = [sys.executable, str(HERE / "servers.py"), name, json.dumps(setup)]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    allowed = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="jackfield-attack-") as folder:
        log = Path(folder, "log")
        if processor is not None:
            os.sched_setaffinity(0, {processor})  # inherited through fork and execve (sched_setaffinity(2))
        try:
            with open(log, "ab") as file:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file)
        finally:
            os.sched_setaffinity(0, allowed)
        target = Target(name, process, log)
        try:
            line = _first_line(process, SOON)
            if not line:
                raise Void(f"{name} does not start: {target.last_words()}")
            if setup.get("path"):
                target.path = line
            else:
                target.port = int(line)
            yield target
        finally:
            end_family(process)
            assert process.stdout is not None
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], timeout: float) -> str:
    """What a process says first; "" if it ends, or says nothing for so many seconds."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], timeout)[0]:
        return ""
    return process.stdout.readline().decode().strip()


def end_family(process: subprocess.Popen[Any]) -> None:
    """End a process that was started here and all that descends from it, each by its number."""
    if process.poll() is not None:
        return
    members = family(process.pid)[1:]
    process.kill()
    process.wait()
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


class Watch:
    """Looks at a server's memory and threads now and then, on a thread, until the end of the block."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.memory = self.threads = self.processes = 0

    def _look(self) -> None:
        while True:
            members = family(self._target.pid)
            self.memory = max(self.memory, memory(self._target.pid))
            self.threads = max(self.threads, sum(_entries(member, "task") for member in members))
            self.processes = max(self.processes, len(members))
            if self._over.wait(GLANCE):
                return

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Honest:
    """The honest client of a server: one request after another from ``begin`` to ``end``."""

    def __init__(self, target: Target, kind: str, pause: float) -> None:
        setup = {"kind": kind, "port": target.port, "path": target.path, "pause": pause}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "honest.py"), json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Honest:
        if _first_line(self._process, SOON) != "ready":
            self.__exit__()
            raise Void("the honest client does not start")
        return self

    def __exit__(self, *_: object) -> None:
        end_family(self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def begin(self) -> None:
        self._say(b"b")

    def end(self) -> dict[str, Any]:
        """What has become of the requests; Void if it does not say."""
        self._say(b"e")
        line = _first_line(self._process, LAST_REQUEST)
        if not line:
            raise Void("the honest client does not say what it has found")
        found: dict[str, Any] = json.loads(line)
        return found

    def _say(self, text: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()
