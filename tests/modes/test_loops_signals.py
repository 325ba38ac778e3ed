"""Who is told of signals: one at a time, and none is told to nobody."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from jackfield.modes import open_loop
from jackfield.reactor import run


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """Somebody who is told of signals already: the end of a pipe that he reads."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    action = signal.signal(signal.SIGUSR1, lambda *_: None)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
        assert signal.set_wakeup_fd(before) == writing, "he still is"
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGUSR1, action)
        os.close(reading)
        os.close(writing)


def open_and_close() -> None:
    open_loop().close()


@pytest.mark.parametrize("kind", ["plain", "green"])
def test_a_signal_that_comes_while_a_loop_asks_who_listens_is_told_to_him(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way to ask but to take his place for a moment (signal.set_wakeup_fd)."""
    sent = []
    set_wakeup_fd = signal.set_wakeup_fd

    def interrupted(fd: int, **options: Any) -> int:
        before = set_wakeup_fd(fd, **options)
        if not sent:
            sent.append(fd)
            os.kill(os.getpid(), signal.SIGUSR1)
        return before

    with listener() as reading:
        monkeypatch.setattr(signal, "set_wakeup_fd", interrupted)
        if kind == "plain":
            open_and_close()
        else:
            run(open_and_close)
        monkeypatch.undo()
        assert sent, "or it says nothing"
        assert os.read(reading, 100) == bytes([signal.SIGUSR1])
