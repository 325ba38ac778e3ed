"""What a process that takes over from another one inherits: listening sockets, and a way to say that it is ready.

The old process names the descriptors in one variable of the environment, as a service manager does in ``LISTEN_FDS``,
but each with the address that was asked for: an address that is asked for again gets its old socket, with whoever waits
in its queue, and one that is not is closed in the end.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable
from typing import Any

from ..address import parse_address
from .adoption import adopt_descriptor
from .listener import BACKLOG, Listener, listener_of
from .unixpath import SocketFile

__all__ = ["VARIABLE", "Inheritance", "described", "inheritance"]

#: Where the old process describes what it leaves.
VARIABLE = "JACKFIELD_INHERITED"


def described(listeners: Iterable[Listener], ready: int, pid_file: int = -1) -> str:
    """The variable's value: what each of ``listeners`` was asked for as, and the descriptors, which stay as they are.

    :param ready: the end of a pipe that the new process writes to when it serves.
    :param pid_file: the descriptor that holds the pid file's lock; -1 where there is none.
    """
    left = [[one.fileno(), str(one.address), one.shared] for one in listeners if one.fileno() >= 0]
    return json.dumps({"listeners": left, "ready": ready, "pid_file": pid_file})


class Inheritance:
    """What was left to this process; nothing, in one that was started in any other way."""

    def __init__(self, text: str | None = None) -> None:
        left: dict[str, Any] = json.loads(text) if text else {}
        self._listeners: list[tuple[int, str, bool]] = [
            (int(fd), str(asked), bool(shared)) for fd, asked, shared in left.get("listeners", ())
        ]
        self._ready = int(left.get("ready", -1))
        #: The descriptor with the lock of the old process's pid file; -1: none.
        self.pid_file = int(left.get("pid_file", -1))
        self._taken: list[Listener] = []
        for fd in [fd for fd, _, _ in self._listeners] + [self._ready, self.pid_file]:
            if fd >= 0:
                os.set_inheritable(fd, False)

    def __bool__(self) -> bool:
        return self._ready >= 0

    def has(self, asked: str) -> bool:
        """Whether the old process was asked to listen on that address."""
        return any(text == asked for _, text, _ in self._listeners)

    def take(self, address: Any, *, backlog: int = BACKLOG) -> list[Listener]:
        """The listeners that the old process had for ``address``, in their order; none, if it had none."""
        from jackfield.socket import socket  # late: whoever inherits nothing does without it

        if not self._listeners:
            return []
        asked = str(parse_address(address) if isinstance(address, str | int) else address)
        found = [one for one in self._listeners if one[1] == asked]
        self._listeners = [one for one in self._listeners if one[1] != asked]
        taken = [
            listener_of(adopt_descriptor(fd, backlog=backlog, socket_class=socket), parse_address(text), shared=shared)
            for fd, text, shared in found
        ]
        for fd, _, _ in found:
            os.close(fd)  # a duplicate was taken
        self._taken += taken
        return taken

    def ready(self) -> None:
        """This process serves: what it took is its own now, a Unix socket's path among it, and the old one goes."""
        for listener in self._taken:
            if listener.address.is_unix and not listener.address.path.startswith("@"):
                with contextlib.suppress(OSError):
                    listener.own(SocketFile.at(listener.address.path, listener.address.path))
        for fd, _, _ in self._listeners:
            os.close(fd)  # asked for no more
        self._listeners = []
        if self._ready >= 0:
            with contextlib.suppress(OSError):
                os.write(self._ready, b"\n")
            os.close(self._ready)
            self._ready = -1


@functools.cache
def inheritance() -> Inheritance:
    """What this process inherited, read once; the variable is taken out of the environment, as its children inherit
    nothing."""
    try:
        return Inheritance(os.environ.pop(VARIABLE, None))
    except (ValueError, TypeError, OSError):
        return Inheritance()  # not written by us
