"""What the tests of the examples share: each example as its user runs it, in a process of its own, and real clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doc_support import ENVIRONMENT, complaints

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""

#: Both ways to start one; a test that takes ``how`` is run with each.
WAYS = ("python", "jackfield")
both_ways = pytest.mark.parametrize("how", WAYS)


class Program:
    """A program in a process of its own, whose output is read as it comes."""

    def __init__(self, command: list[str], **popen: Any) -> None:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options["env"] = ENVIRONMENT | popen.pop("variables", {})
        self.process = subprocess.Popen(command, **(options | popen))
        self.addresses: list[str] = []
        self._unread = {"stdout": b"", "stderr": b""}

    def read_until(self, end: bytes, stream: str = "stdout") -> str:
        """What it wrote, up to and with ``end``."""
        file = getattr(self.process, stream)
        deadline = time.monotonic() + SECONDS
        while end not in self._unread[stream]:
            assert select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0], self._unread
            data = os.read(file.fileno(), 65536)
            assert data, f"it ended: {self._unread}, {self.process.communicate(timeout=SECONDS)}"
            self._unread[stream] += data
        read, _, self._unread[stream] = self._unread[stream].partition(end)
        return (read + end).decode()

    def port(self) -> int:
        """The port it says it listens on, once it does."""
        found = re.fullmatch(r"(?:\w+: )?listening on (.*:(\d+))\n", self.read_until(b"\n"))
        assert found
        self.addresses = found[1].split(", ")
        return int(found[2])

    def record(self) -> Any:
        """The next line of JSON that it writes."""
        return json.loads(self.read_until(b"\n"))

    def finish(self, number: signal.Signals | None = signal.SIGINT) -> tuple[int, str, str]:
        """Ctrl-C, and the exit code with what else it wrote."""
        if number is not None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=SECONDS)
        return (
            self.process.returncode,
            complaints((self._unread["stdout"] + (output or b"")).decode()),
            complaints((self._unread["stderr"] + (errors or b"")).decode()),
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def _running(command: list[str], **popen: Any) -> Iterator[Program]:
    it = Program(command, **popen)
    try:
        yield it
    finally:
        it.close()


def program(name: str | Path, *arguments: str, **popen: Any) -> contextlib.AbstractContextManager[Program]:
    """An example that runs for the length of the block: ``python examples/NAME ARGUMENTS``."""
    return _running([sys.executable, str(EXAMPLES / name), *arguments], **popen)


def run(name: str | Path, *arguments: str, **popen: Any) -> tuple[int, str, str]:
    """Run an example to its end: exit code, output, errors."""
    with program(name, *arguments, **popen) as it:
        return it.finish(None)


@contextlib.contextmanager
def served(
    how: str, target: str, *addresses: str, mode: str = "auto", flags: tuple[str, ...] = (), says: str = r"(?!)",
    more: int = 0, **popen: Any,
) -> Iterator[Program]:  # fmt: skip
    """``target``, module:Class, on ``addresses``, started in one of the two ways; ``addresses`` of what is yielded are
    the real ones. At the end it is stopped by Ctrl-C, and has to end well and without a word of complaint.

    ``mode`` and ``flags`` are for ``jackfield serve``: the program says by itself what it needs. ``says`` is what the
    lines on stderr look like that it may write. ``more`` of the addresses are other arguments, which come first.
    """
    module = target.partition(":")[0]
    if how == "python":
        command = [sys.executable, str(EXAMPLES / f"{module}.py"), *addresses]
    else:
        command = [sys.executable, "-m", "jackfield", "serve", target, "--app-dir", str(EXAMPLES), "-k", mode]
        command += ["--graceful-timeout", "1s", *flags]
        for address in addresses:
            command += ["-b", address]
    with _running(command, **popen) as it:
        if how == "python":
            it.port()
        else:
            banner = it.read_until(b"Ready in ", "stderr")
            it.read_until(b"\n", "stderr")
            it.addresses = re.findall(r"^  (?:listening|         )  (\w+://\S+)", banner, re.MULTILINE)
        assert len(it.addresses) >= len(addresses) - more
        yield it
        code, _, errors = it.finish()
        # That it stops is said by the command, on stderr.
        complained = [line for line in errors.splitlines() if not re.search(f" info jackfield.serve: |{says}", line)]
        assert (code, complained) == (0, []), (code, complained)


def port_of(it: Program, scheme: str = "tcp") -> int:
    """The port of its first address of that scheme."""
    return next(int(address.rpartition(":")[2]) for address in it.addresses if address.startswith(f"{scheme}://"))


def needs(name: str, package: str) -> str:
    """The path of a program; skips the test where it is missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"no {name} on this machine: install Debian's package {package}")
    return path


def command(
    *words: str, data: bytes = b"", code: int | None = 0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """A client, run to its end; AssertionError, with its complaint, if that is another exit code than ``code``; None
    stands for any."""
    done = subprocess.run(words, input=data, capture_output=True, timeout=SECONDS, check=False, **options)
    assert code in (None, done.returncode), f"{' '.join(words)}: exit status {done.returncode}: {done}"
    return done


class Line:
    """A client of a text protocol."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._file = self.socket.makefile("rb")

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode() + b"\n")

    def hear(self) -> str:
        return self._file.readline().decode().removesuffix("\n")

    def read(self, size: int) -> str:
        return self._file.read(size).decode()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
