"""The set for systems without epoll, against a model of kqueue: there is none on Linux to ask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jackfield.reactor.readiness import ERR, HUP, IN, OUT, RDHUP, KqueueSet


class FakeKqueue:
    """Knows of each (descriptor, filter) that is watched, and gives the events that a test puts in."""

    def __init__(self) -> None:
        self.watched: set[tuple[int, int]] = set()
        self.events: list[Any] = []
        self.closed = False
        self.unwritable: set[int] = set()

    def fileno(self) -> int:
        return 7

    def control(self, changes: list[Any] | None, most: int, timeout: float) -> list[Any]:
        for change in changes or []:
            key = (change.ident, change.filter)
            if change.flags & SELECT.KQ_EV_ADD:
                if change.filter == SELECT.KQ_FILTER_WRITE and change.ident in self.unwritable:
                    raise OSError(22, "Invalid argument")
                assert change.flags & SELECT.KQ_EV_CLEAR, "watched by level"
                self.watched.add(key)
            elif key in self.watched:
                self.watched.discard(key)
            else:
                raise FileNotFoundError(2, "No such file")
        taken, self.events = self.events[:most], self.events[most:]
        return taken

    def close(self) -> None:
        self.closed = True


def kevent(ident: int, filter: int, flags: int = 0) -> SimpleNamespace:
    return SimpleNamespace(ident=ident, filter=filter, flags=flags)


SELECT = SimpleNamespace(
    kqueue=FakeKqueue, kevent=kevent, KQ_FILTER_READ=-1, KQ_FILTER_WRITE=-2,
    KQ_EV_ADD=0x1, KQ_EV_DELETE=0x2, KQ_EV_CLEAR=0x20, KQ_EV_EOF=0x8000, KQ_EV_ERROR=0x4000,
)  # fmt: skip


@pytest.fixture
def ready() -> KqueueSet:
    return KqueueSet(SELECT)


def test_a_descriptor_is_watched_in_both_directions_and_let_go(ready: KqueueSet) -> None:
    ready.register(3, 0)
    ready.register(3, 0)
    assert ready._kqueue.watched == {(3, -1), (3, -2)}
    ready.unregister(3)
    ready.unregister(3)  # closed meanwhile, as far as the kernel is concerned
    assert ready._kqueue.watched == set()


def test_what_cannot_be_written_is_watched_for_reading(ready: KqueueSet) -> None:
    ready._kqueue.unwritable = {5}
    ready.register(5, 0)
    assert ready._kqueue.watched == {(5, -1)}


def test_events_speak_epolls_language(ready: KqueueSet) -> None:
    ended, failed = 0x8000, 0x4000
    plain = [kevent(3, -1), kevent(3, -2)]
    ready._kqueue.events = [*plain, kevent(4, -1, ended), kevent(4, -2, ended), kevent(5, -1, failed)]
    assert ready.poll(0, 10) == [(3, IN), (3, OUT), (4, IN | RDHUP), (4, OUT | HUP), (5, IN | ERR)]
    assert ready.poll(0, 10) == []


def test_a_batch_is_no_larger_than_asked(ready: KqueueSet) -> None:
    ready._kqueue.events = [kevent(fd, -1) for fd in range(5)]
    assert len(ready.poll(0, 3)) == 3
    assert len(ready.poll(0, 3)) == 2


def test_it_is_closed_once(ready: KqueueSet) -> None:
    assert not ready.closed
    assert ready.fileno() == 7
    ready.close()
    assert ready.closed
