"""Serve until told by a signal, and read again what is in files when a signal asks for that."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .modes.arenas import share_arenas
from .server import Server

_log = logging.getLogger("jackfield.server")

#: Seconds from the end of one reload to the beginning of the next, however many are asked for.
REST = 1.0

#: Seconds that a reload under way has when nobody waits for what comes of it any more.
_LAST_SECONDS = 1.0


def serve(handler: Any, *addresses: Any, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM: ``Server(handler, *addresses, **options).serve_forever()`` with these signals
    meaning a graceful stop, and a second one now. SIGHUP is ``Server.reload()``, on a thread of its own and at most
    once a second, unless the program has a handler of its own for it. In other threads than the main one no signals are
    taken.

    StartError, AddressError and MisuseError as of :class:`~jackfield.Server`.
    """
    server = Server(handler, *addresses, **options)
    if server.mode == "thread":
        share_arenas()
    if threading.current_thread() is not threading.main_thread():
        server.serve_forever()
        return
    process, hung_up = os.getpid(), [False]
    reloads, terminal = Reloads(server.reload), Terminal()

    def asked(number: int, frame: object) -> None:
        server.stop(0 if server.draining else None)

    def asked_to_reload(number: int, frame: object) -> None:
        hung_up[0] = os.getpid() == process  # a child that serves one connection ends with that, as it began

    def attend() -> None:
        if hung_up[0]:
            hung_up[0] = False
            if not terminal.gone:
                reloads.ask()
            elif not server.draining:
                server.stop()

    taken: dict[int, Any] = {signal.SIGINT: asked, signal.SIGTERM: asked}
    if signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN):
        taken[signal.SIGHUP] = asked_to_reload
    with _wake_up_pipe() as pipe:
        server.also_watch(pipe, attend)
        before = {number: signal.signal(number, action) for number, action in taken.items()}
        try:
            server.serve_forever()
        finally:
            for number, action in before.items():
                signal.signal(number, signal.SIG_DFL if action is None else action)  # None: not installed by Python
            reloads.close()


class Reloads:
    """Has ``reload()`` called whenever it is asked to: on a thread of its own, as files may be slow to read, and with a
    rest after each. However many ask meanwhile, the last of them is heard: one more reload begins after it has asked.

    Not for signal handlers, which may interrupt a thread that holds a lock needed here: they note that they were
    called, and whoever they wake asks.
    """

    def __init__(self, reload: Callable[[], object], rest: float = REST) -> None:
        self._reload = reload
        self._rest = rest
        self._lock = threading.Lock()
        self._asked = False
        self._over = threading.Event()
        #: Only while there is something to do: a server that forks is better off without other threads.
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Have it called; returns at once."""
        with self._lock:
            self._asked = True
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._work, name="jackfield-reload", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while self._is_asked():
            try:
                self._reload()
            except Exception:
                _log.exception("a reload failed; what was read before stays in force")
            self._over.wait(self._rest)

    def _is_asked(self) -> bool:
        with self._lock:
            asked, self._asked = self._asked and not self._over.is_set(), False
            if not asked:
                self._thread = None
            return asked

    def close(self) -> None:
        """No more of them; waits a second at most for one that is under way."""
        self._over.set()
        thread = self._thread
        if thread is not None:
            thread.join(_LAST_SECONDS)


class Terminal:
    """The terminal that this process was started in the foreground of, if it was.

    The kernel sends SIGHUP when a terminal goes away, and a program that takes it to mean something else lives on with
    nobody to see it. Who is in the foreground of a terminal ends with it; who was started in the background, by a
    service manager, or with SIGHUP ignored (nohup), does not.

    :param action: what SIGHUP did when the process was started; by default what it does now.
    """

    def __init__(self, action: Any = None) -> None:
        action = signal.getsignal(signal.SIGHUP) if action is None else action
        self._had = action is not signal.SIG_IGN and _in_foreground() is True

    @property
    def gone(self) -> bool:
        """Whether there was one, and is no more."""
        return self._had and _in_foreground() is None


def _in_foreground() -> bool | None:
    """Whether this process is in the foreground of its terminal; None if it has none (tty(4): ENXIO)."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return None  # it goes away just now
    finally:
        os.close(terminal)


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
