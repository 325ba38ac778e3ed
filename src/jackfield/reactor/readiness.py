"""The kernel's set of descriptors to watch: epoll on Linux, kqueue elsewhere with epoll's face.

Both report edges: a descriptor is named when something became possible, not for as long as it is.
"""

from __future__ import annotations

import select
from typing import Any, Protocol

# epoll's numbers (sys/epoll.h), which are the language of the poller on every system.
IN = 0x001
PRI = 0x002
OUT = 0x004
ERR = 0x008
HUP = 0x010
RDHUP = 0x2000
ET = 1 << 31


class ReadySet(Protocol):
    """What the poller needs of a set: the part of ``select.epoll`` that it uses."""

    @property
    def closed(self) -> bool: ...

    def fileno(self) -> int: ...

    def register(self, fd: int, eventmask: int, /) -> None: ...

    def modify(self, fd: int, eventmask: int, /) -> None: ...

    def unregister(self, fd: int, /) -> None: ...

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]: ...

    def close(self) -> None: ...


class KqueueSet:
    """kqueue(2) with epoll's face. A descriptor is watched for both directions, by edge (EV_CLEAR)."""

    def __init__(self, module: Any = select) -> None:
        self._select = module
        self._kqueue = module.kqueue()

    @property
    def closed(self) -> bool:
        return bool(self._kqueue.closed)

    def fileno(self) -> int:
        return int(self._kqueue.fileno())

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch ``fd``; watching one again is no error here, where epoll raises FileExistsError."""
        flags = self._select.KQ_EV_ADD | self._select.KQ_EV_CLEAR
        self._change(fd, self._select.KQ_FILTER_READ, flags)
        try:
            self._change(fd, self._select.KQ_FILTER_WRITE, flags)
        except OSError:
            pass  # the reading end of a pipe, a listening socket: nothing to write to

    modify = register

    def unregister(self, fd: int, /) -> None:
        for direction in (self._select.KQ_FILTER_READ, self._select.KQ_FILTER_WRITE):
            try:
                self._change(fd, direction, self._select.KQ_EV_DELETE)
            except OSError:
                pass  # closed already: kqueue forgets a descriptor with its close

    def _change(self, fd: int, direction: int, flags: int) -> None:
        self._kqueue.control([self._select.kevent(fd, direction, flags)], 0, 0)

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]:
        events = []
        for event in self._kqueue.control(None, maxevents, timeout):
            mask = IN if event.filter == self._select.KQ_FILTER_READ else OUT
            if event.flags & self._select.KQ_EV_EOF:
                # Sticky, as with epoll: what is left in the buffer comes before the end, and is told only once.
                mask |= RDHUP if mask == IN else HUP
            if event.flags & self._select.KQ_EV_ERROR:
                mask |= ERR
            events.append((event.ident, mask))
        return events

    def close(self) -> None:
        self._kqueue.close()


def open_set() -> ReadySet:
    """The set of this system."""
    if hasattr(select, "epoll"):
        return select.epoll()
    return KqueueSet()
