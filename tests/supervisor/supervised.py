"""What the tests of a supervisor share: the program that has one, in a process of its own, and clients of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 30.0
"""What any one thing may take on a machine that is busy with other things."""

PROGRAM = Path(__file__).with_name("supervised_program.py")
MODES = ["serial", "thread", "process", "green", "async"]


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Look at what other processes do until it is so; what ``condition`` has returned then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


def children(pid: int) -> list[int]:
    """The children of a process, those of each thread in the order in which it forked them, zombies among them
    (proc(5))."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def state(pid: int) -> str:
    """``R``, ``S``, ``T``, ``Z`` and so on (proc(5)); "" once it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def descriptors(pid: int) -> dict[int, str]:
    """Those of another process, and what each refers to."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def cpu_seconds(pid: int) -> float:
    """What a process and those of its children that were waited for have used of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class Client:
    """One connection."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(SECONDS)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            self.socket = socket.create_connection((host, int(port)), SECONDS)
        self._unread = b""

    def tell(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\n")

    def hear(self) -> str | None:
        """The next line; None at the end or a reset."""
        while b"\n" not in self._unread:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def ask(self, line: str) -> str | None:
        self.tell(line)
        return self.hear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class Supervised:
    """The program; ready when the constructor returns, unless ``wait`` is false."""

    def __init__(
        self, folder: Path, mode: str = "green", *, wait: bool = True, plan: str = "serve",
        stderr: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.plan = folder / "plan"
        self.log_path = folder / "log"
        self.plan.write_text(plan)
        options.setdefault("workers", 1)
        self._unread = b""
        self.said: list[str] = []
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, mode, json.dumps({**options, "plan": str(self.plan)})],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log if stderr is None else stderr,
                start_new_session=True,
            )  # fmt: skip
        #: Where it listens, and the first of them.
        self.addresses = self.line().split() if wait else []
        self.address = self.addresses[0] if wait else ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        return [pid for pid in children(self.pid) if state(pid) != "Z"]

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def line(self, seconds: float = SECONDS) -> str:
        """The next line that it prints; "" when it has ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], f"it said nothing; its log: {self.log}"
            data = os.read(self.process.stdout.fileno(), 4096)
            if not data:
                return ""
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        self.said.append(line.decode())
        return line.decode()

    def logged(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Wait for its log to have that."""
        found: re.Match[str] = until(lambda: re.search(pattern, self.log), f"{pattern!r} in: {self.log}", seconds)
        return found

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def until_replaced(self, victim: int, workers: int = 1) -> None:
        """Wait until it is gone, and there are so many others."""
        until(lambda: len(self.workers) == workers and victim not in self.workers, f"{victim} is replaced")

    def reload(self) -> str:
        """Ask for a reload, and wait for it."""
        self.send(signal.SIGHUP)
        while not (line := self.line()).startswith("reloaded"):
            assert line, self.log
        return line

    def client(self) -> Client:
        return Client(self.address)

    @contextlib.contextmanager
    def clients(self, count: int) -> Iterator[list[Client]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.client()) for _ in range(count)]

    def ask(self, line: str) -> str | None:
        """The answer to a client that comes for it alone."""
        with self.client() as client:
            return client.ask(line)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code; what it prints meanwhile is added to ``said``."""
        rest, _ = self.process.communicate(timeout=seconds)
        self.said += (self._unread + rest).decode().splitlines()
        return self.process.returncode

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing of it stays, whatever has become of it: all its processes are of one session."""
        left = [pid for pid in _session(self.pid) if pid != self.pid]
        for pid in (self.pid, *left) if self.process.poll() is None else left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


def _session(sid: int) -> list[int]:
    """The processes of a session (proc(5), field 6 of stat)."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if name.isdigit() and int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[3]) == sid:
                found.append(int(name))
    return found


def session(sid: int) -> list[int]:
    """The live processes of a program's session: it, its workers, theirs."""
    return [pid for pid in _session(sid) if state(pid) not in ("Z", "")]
