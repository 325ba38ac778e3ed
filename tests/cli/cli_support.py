"""What the tests of the command share: the real program in a process of its own, and small servers to talk to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forked import Forked

SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""

PROGRAM = [sys.executable, "-m", "jackfield"]
# What is said of this process's terminal. Its size too: readline exports LINES and COLUMNS (rl_change_environment in
# readline(3)), and pytest imports readline: every process that it starts has them, the workers of xdist first of all.
_TERMINAL = {"FORCE_COLOR", "NO_COLOR", "TERM", "LINES", "COLUMNS"}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in _TERMINAL},
    "TERM": "xterm",
    # A server or client that forgets to close something says so on stderr, and the tests look at stderr.
    "PYTHONWARNINGS": "always::ResourceWarning",
}


_forked: Forked | None = None


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """As long as this lasts, `run` can be called."""
    global _forked
    with contextlib.closing(Forked(ENVIRONMENT)) as _forked:
        yield
    _forked = None


def run(*arguments: str, data: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end with `data` as its input, in a process forked from one that has imported it."""
    assert _forked is not None, "the fixture of this folder's conftest.py is not there"
    return _forked.run(list(arguments), data, SECONDS, cwd)


def start_and_run(*arguments: str, data: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """The same with an interpreter of its own."""
    return subprocess.run(
        [*PROGRAM, *arguments], input=data, capture_output=True, timeout=SECONDS, env=ENVIRONMENT, cwd=cwd, check=False
    )


def answer(*words: str, data: bytes) -> bytes:
    """What a client, whose arguments begin with the address, shows of the answer to `data`; it has to end well.

    From a datagram server that is the first that comes. Its end would be a second without another.
    """
    datagrams = words[0].startswith(("udp", "unixgram"))
    script = ["--send", data.decode().replace("\n", "\\n"), "--expect", "(?s)."] if datagrams else []
    done = run("connect", *words, *script, data=b"" if datagrams else data)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def only_line(output: bytes) -> str:
    """The one line that `output` has to be."""
    lines = output.decode().splitlines()
    assert len(lines) == 1, f"expected one line, got {output.decode()!r}"
    return lines[0]


_WATCHDOG = re.compile(r'^\S+ \S+ warning jackfield\.watchdog: |"logger": "jackfield\.watchdog"')


class Server:
    """``jackfield serve`` in a process of its own; ready when the constructor returns."""

    def __init__(self, *arguments: str, cwd: Path | None = None, **popen: Any) -> None:
        self.said: list[str] = []
        self._reports = False
        self._unread = b""
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd=cwd,
            **popen,
        )
        self.ready = self.read_until(lambda line: line.startswith("Ready in") or '"event": "ready"' in line)

    def read_until(self, wanted: Callable[[str], bool]) -> str:
        """Read stderr up to the line that is wanted."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + SECONDS
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                if self._hear(line.decode()) and wanted(self.said[-1]):
                    return self.said[-1]
            elif select.select([self.process.stderr], [], [], max(0.0, deadline - time.monotonic()))[0]:
                # Not readline(): what a buffered reader has taken already is nothing that select() would see.
                data = os.read(self.process.stderr.fileno(), 65536)
                if not data:
                    break
                self._unread += data
            else:
                break
        self.process.kill()
        self.process.communicate()
        raise AssertionError(f"the server did not say it; it said: {self.said}")

    @property
    def addresses(self) -> list[str]:
        """The real addresses, from the banner or the record."""
        if self.ready.startswith("{"):
            listeners: list[str] = json.loads(self.ready)["listeners"]
            return listeners
        return re.findall(r"(?m)^(?:  listening|           )  (\S+)", "\n".join(self.said))

    @property
    def address(self) -> str:
        """The first of them."""
        return self.addresses[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def insist(self, number: int) -> int:
        """Send the signal again and again, as fast as a hurried user would; the exit code."""
        while True:
            self.process.send_signal(number)
            try:
                self.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            return self.wait()

    def wait(self) -> int:
        """The exit code; what is said meanwhile is added to `said`."""
        _, rest = self.process.communicate(timeout=SECONDS)
        for line in (self._unread + rest).decode().splitlines():
            self._hear(line)
        return self.process.returncode

    def _hear(self, line: str) -> bool:
        """Note a line, unless it is of a report of the watchdog's: on a busy machine that may be about the machine."""
        self._reports = _WATCHDOG.search(line) is not None or (self._reports and line.startswith("    "))
        if not self._reports:
            self.said.append(line)
        return not self._reports

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Upper(socketserver.BaseRequestHandler):
    """The upper-case echo of the standard library: what `connect` is tested against."""

    def handle(self) -> None:
        while data := self.request.recv(1024).strip():
            self.request.sendall(data.upper())


class UpperDatagram(socketserver.BaseRequestHandler):
    """The same for datagrams."""

    def handle(self) -> None:
        data, sock = self.request
        if self.client_address:
            sock.sendto(data.upper(), self.client_address)


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler], scheme: str = "tcp", path: str = "") -> Iterator[str]:
    """A standard-library server of that scheme in a thread; its address."""
    base, address = {
        "tcp": (socketserver.TCPServer, ("127.0.0.1", 0)),
        "udp": (socketserver.UDPServer, ("127.0.0.1", 0)),
        "unix": (socketserver.UnixStreamServer, path),
        "unixgram": (socketserver.UnixDatagramServer, path),
    }[scheme]
    mixed = type("Threading", (socketserver.ThreadingMixIn, base), {"daemon_threads": True, "max_packet_size": 65536})
    with mixed(address, handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            name = server.server_address
            yield f"{scheme}:{name}" if path else f"{scheme}://{name[0]}:{name[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def accepting(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server for one connection, which `talk` has; its address.  What `talk` raises fails the test."""
    failure: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def accept() -> None:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(SECONDS)
                    talk(connection)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        yield "tcp://{}:{}".format(*listener.getsockname())
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server's side of the conversation did not end"
    if failure:
        raise failure[0]
