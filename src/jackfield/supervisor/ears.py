"""Whether listeners hear: a server that is deaf looks well from inside, and waits for nobody for ever.

A listening socket is one thing that several processes have; whoever of them calls shutdown(2) on it does so for all.
And a Unix path can be removed, or be another server's, while the socket that was bound to it listens on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket as _socket_std
from collections.abc import Iterable
from typing import Any

from ..door import Listener
from ..door.listener import BACKLOG
from ..reactor.bridges import ready_now

_log = logging.getLogger("jackfield.supervisor")

#: Seconds between two looks.
STEP = 5.0

#: Linux's; what a shut down socket of the Unix domain shows, which is still said to listen.
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)


class Ears:
    """Looks after ``listeners``, which have just been opened; those for datagrams have no state that could be lost."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._paths: dict[Listener, tuple[str, tuple[int, int] | None]] = {}
        self._listeners: list[Listener] = []
        self._names: dict[Listener, Any] = {}
        self.add(listeners)
        #: Those that cannot hear any more, each with why.
        self.deaf: dict[Listener, str] = {}

    def add(self, listeners: Iterable[Listener]) -> None:
        """Look after those as well."""
        for listener in listeners:
            if listener.is_datagram:
                continue
            self._listeners.append(listener)
            self._names[listener] = listener.socket.getsockname()
            # Not getsockname(): a path of ours was bound by another name, and renamed when it was ready.
            if (path := listener.address.path) and not path.startswith("@"):
                path = os.path.abspath(path)
                self._paths[listener] = path, _inode(path)

    @property
    def all_deaf(self) -> bool:
        """Whether there were some to hear, and none does."""
        return bool(self._listeners) and all(listener in self.deaf for listener in self._listeners)

    def look(self) -> bool:
        """Look at all of them, and have those listen again that can; whether one does. The log tells of each once."""
        mended = False
        for listener in self._listeners:
            if listener in self.deaf or listener.fileno() < 0:
                continue
            if _is_shut(listener):
                self._listen_again(listener)
                if not _is_shut(listener) and listener.socket.getsockname() == self._names[listener]:
                    mended = True
                    _log.error("%s: somebody had shut it down; it listens again", listener.location)
                else:
                    self._is_deaf(listener, "somebody has shut it down")
            elif listener in self._paths:
                path, inode = self._paths[listener]
                now = _inode(path)
                if now != inode:
                    self._is_deaf(listener, "the file is gone" if now is None else "the file is another server's")
        return mended

    def _listen_again(self, listener: Listener) -> None:
        # A port that the kernel had chosen is given back at the shutdown, and listen(2) would choose another.
        with contextlib.suppress(OSError):  # EINVAL: it is still bound, as it was to a port that it had asked for
            listener.socket.bind(self._names[listener])
        with contextlib.suppress(OSError):
            listener.socket.listen(BACKLOG)

    def _is_deaf(self, listener: Listener, why: str) -> None:
        self.deaf[listener] = why
        _log.error("%s: nobody can come by it any more: %s", listener.location, why)


def _is_shut(listener: Listener) -> bool:
    """Whether the kernel lets nobody in: socket(7), SO_ACCEPTCONN, is 0 for TCP then, and poll(2) tells the rest."""
    if not listener.socket.getsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_ACCEPTCONN):
        return True
    poll = select.poll()
    poll.register(listener.fileno(), _POLLRDHUP)
    return bool(poll.poll(0))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def somebody_waits(listeners: Iterable[Listener]) -> bool:
    """Whether somebody has connected at one of them, and waits in the kernel's queue for a process of this server."""
    mine = [one for one in listeners if not (one.is_datagram or one.shared) and one.fileno() >= 0]
    return any(ready_now(listener.fileno(), reading=True) for listener in mine)
