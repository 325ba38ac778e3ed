"""Serve until told by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from .server import Server


def serve(handler: Any, *addresses: Any, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM: ``Server(handler, *addresses, **options).serve_forever()`` with these signals
    meaning a graceful stop, and a second one now. In other threads than the main one no signals are taken.

    StartError, AddressError and MisuseError as of :class:`~jackfield.Server`.
    """
    server = Server(handler, *addresses, **options)
    if threading.current_thread() is not threading.main_thread():
        server.serve_forever()
        return

    def asked(number: int, frame: object) -> None:
        server.stop(0 if server.draining else None)

    with _wake_up_pipe() as pipe:
        server.also_watch(pipe)
        before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.serve_forever()
        finally:
            for number, action in before.items():
                signal.signal(number, signal.SIG_DFL if action is None else action)  # None: not installed by Python


@contextlib.contextmanager
def _wake_up_pipe() -> Iterator[int]:
    """A descriptor that becomes readable with each signal.

    CPython runs a signal's handler between two instructions of its own. A signal that comes after the last one before
    a system call only marks the handler to be run, and the call would wait on; with this pipe among what it waits for
    it ends (signal.set_wakeup_fd).
    """
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(before)
        os.close(write_end)
        os.close(read_end)
