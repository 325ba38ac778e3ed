"""What the tests of the drop-in servers share: classes of either module, a server that serves, clients, and waiting."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jackfield import socketserver as ours

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0

#: What a class name begins with, by mode.
PREFIX = {"serial": "", "threading": "Threading", "forking": "Forking", "green": "Green", "async": "Async"}
MODES = list(PREFIX)
#: Modes whose handlers are blocking-style, and run in this process.
HERE = ["serial", "threading", "green"]


def server_class(mode: str, kind: str = "TCP", module: Any = ours) -> Any:
    """The composed class: ``server_class("green", "UDP")`` is GreenUDPServer."""
    name = f"{PREFIX[mode]}{kind}Server"
    made = getattr(module, name, None)
    # Composed by hand where the standard library of this version has none: the Unix servers that fork.
    return made or type(name, (getattr(module, f"{PREFIX[mode]}MixIn"), getattr(module, f"{kind}Server")), {})


def handler_base(mode: str, kind: str = "Base", module: Any = ours) -> Any:
    if mode == "async":
        return getattr(module, f"Async{kind.removeprefix('Base')}RequestHandler")
    return getattr(module, f"{kind}RequestHandler")


@contextlib.contextmanager
def address_for(kind: str) -> Iterator[Any]:
    """An address to bind: a free port on loopback, or a path that is gone afterwards."""
    if not kind.startswith("Unix"):
        yield ("127.0.0.1", 0)
        return
    with tempfile.TemporaryDirectory(prefix="jf-") as directory:
        yield str(Path(directory) / "s")


@contextlib.contextmanager
def serving(server: Any, *, close: bool = True, poll_interval: float = 1000.0) -> Iterator[Any]:
    """``server.serve_forever()`` in a thread; stopped, joined and closed at the end. Nothing ticks meanwhile."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=serve, name="serves")
    thread.start()
    try:
        yield server
    finally:
        server._BaseServer__shutdown_request = True
        # The standard library's looks at the flag when its tick is over, or when somebody comes.
        with contextlib.suppress(OSError):
            if not isinstance(server, ours.BaseServer):
                with connect(server) as nudge:
                    nudge.send(b"")
        thread.join(SOON)
        assert not thread.is_alive(), "it still serves"
        if close:
            server.server_close()
        if errors:
            raise errors[0]


@contextlib.contextmanager
def served(cls: Any, handler: Any, kind: str = "TCP", **attributes: Any) -> Iterator[Any]:
    """A server of ``cls`` that serves; ``attributes`` are set on it before."""
    with address_for(kind) as address:
        server = cls(address, handler)
        for name, value in attributes.items():
            setattr(server, name, value)
        with serving(server):
            yield server


def connect(server: Any, timeout: float = SOON) -> socket.socket:
    """A standard library's socket connected to ``server``, datagram or stream; every call is bounded."""
    theirs = server.socket
    sock = socket.socket(theirs.family, theirs.type)
    sock.settimeout(timeout)
    try:
        if theirs.type == socket.SOCK_DGRAM and theirs.family == socket.AF_UNIX:
            sock.bind("")  # autobind (unix(7)): an abstract address, so that there is somewhere to answer to
        sock.connect(theirs.getsockname())
    except BaseException:
        sock.close()
        raise
    return sock


def ask(server: Any, data: bytes = b"hello") -> bytes:
    """Send one message and return all of the answer; of a connection that was refused or reset, what had come."""
    answer = b""
    with connect(server) as client:
        client.sendall(data)
        if client.type == socket.SOCK_DGRAM:
            return client.recv(65536)
        with contextlib.suppress(OSError):  # the server may have closed it unread, which resets it (tcp(7))
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
    return answer


def until(condition: Callable[[], object]) -> None:
    """Wait in a plain thread until ``condition()`` holds; an AssertionError after SOON."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, f"it never came to {condition}"
        select.select([], [], [], 0.0005)


#: Children that were there when the test began: what some fixture of a wider scope has started.
others: set[int] = set()


def children() -> set[int]:
    """The pids of the children of this process since the test began, those that have ended and are not reaped too."""
    return set(_states_of_children())


def living_children() -> set[int]:
    """Those of them that still run."""
    return {pid for pid, state in _states_of_children().items() if state != "Z"}


def _states_of_children() -> dict[int, str]:
    # Not /proc/self/task/*/children: a child of a thread that ends becomes another thread's, and is in neither list if
    # that one's was read before; and while siblings are reaped one is skipped (proc_pid_children(5)). A child's own
    # word for who its parent is, which is the process, never changes meanwhile.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none
        return {}
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent = Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == os.getpid() and int(entry.name) not in others:
                    found[int(entry.name)] = state
    return found


class Told:
    """Lines told by whatever process, through a pipe. For traces of servers that fork."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._lines: list[str] = []

    def tell(self, line: str) -> None:
        os.write(self._writer, line.encode() + b"\n")  # one write of less than PIPE_BUF is whole (pipe(7))

    def lines(self) -> list[str]:
        """All that was told so far."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reader, 65536):
                data += part
        self._lines += data.decode().splitlines()
        return list(self._lines)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        os.close(self._writer)
