"""How a server waits: for its listeners, for a wake-up from anywhere, and for whatever else it was told to watch.

One loop for plain threads and one for green threads, with one face, so that what is done in between is written once.
Neither ticks: a server with nothing to do makes no wake-ups.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Protocol

from greenlet import getcurrent

from ..errors import MisuseError
from ..reactor import GreenThread, GreenWait, in_green
from ..reactor.poller import Channel

Callback = Callable[[], object]


class Loop(Protocol):
    """Waits for descriptors. All but :meth:`wake` on the thread (or green thread) that waits."""

    def watch(self, fd: int, ready: Callback) -> None:
        """``ready()`` is called from :meth:`turn` whenever ``fd`` can be read."""
        ...

    def ignore(self, fd: int) -> None:
        """No longer watch ``fd``; nothing happens if it was not watched."""
        ...

    def turn(self, timeout: float | None = None) -> bool:
        """Wait for at most ``timeout`` seconds (None: for ever), call what is ready; False if nothing was."""
        ...

    def wake(self) -> None:
        """End the turn that is waiting, or the next one. From any thread, task or signal handler."""
        ...

    def close(self) -> None: ...


def open_loop() -> Loop:
    """The loop for whoever calls: a green thread or a plain one."""
    return GreenLoop() if in_green() else PollLoop()


class PollLoop:
    """Waits by poll(2): a handful of descriptors for a whole thread, where epoll would gain nothing."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._ready: dict[int, Callback] = {}
        # A pipe, not an eventfd, because a signal handler may interrupt the very call that writes to it.
        self._wake_end, self._wake = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._wake, False)
        self.watch(self._wake_end, self._woken)
        self._hears_signals = self._listen_to_signals()

    def _listen_to_signals(self) -> bool:
        """On the main thread: let each signal end the wait, so that its handler is run.

        A signal that comes after CPython's last look and before the system call only marks its handler to be run; a
        wait without ticks would go on. Whoever has a wake-up descriptor set already sees to it.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
        return before == -1

    def watch(self, fd: int, ready: Callback) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def turn(self, timeout: float | None = None) -> bool:
        called = False
        # poll(2) counts in milliseconds; rounding up keeps a short wait from becoming a spin.
        for fd, _ in self._poll.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))):
            ready = self._ready.get(fd)
            if ready is not None:
                called = called or ready != self._woken
                ready()
        return called

    def _woken(self) -> None:
        try:
            while os.read(self._wake_end, 4096):
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        try:
            os.write(self._wake, b"\0")
        except (BlockingIOError, OSError):
            pass  # full of wake-ups already, or closed: nobody waits

    def close(self) -> None:
        if self._wake >= 0:
            if self._hears_signals:
                signal.set_wakeup_fd(-1)
            wake_end, wake = self._wake_end, self._wake
            self._wake_end = self._wake = -1
            os.close(wake)
            os.close(wake_end)


class GreenLoop:
    """Waits in the reactor, on the green thread that made it.

    The reactor's edges become levels again here: a listener that still has connections to give is ready at the next
    turn as well, whatever the code in between did or left undone.
    """

    def __init__(self) -> None:
        green = getcurrent()
        if not isinstance(green, GreenThread):
            raise MisuseError("a green loop is made on the green thread that will wait; call jackfield.run(fn)")
        self._green = green
        self._loop = green.reactor.loop
        self._poller = green.reactor.poller
        self._channels: dict[int, tuple[Channel, Callback]] = {}
        self._level = select.poll()
        self._wait: GreenWait | None = None
        self._woken = False

    def watch(self, fd: int, ready: Callback) -> None:
        channel = self._poller.channels.get(fd) or self._poller.register(fd)
        self._channels[fd] = (channel, ready)
        self._level.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        entry = self._channels.pop(fd, None)
        if entry is not None:
            self._level.unregister(fd)
            if entry[0].reader is self:
                entry[0].reader = None

    def turn(self, timeout: float | None = None) -> bool:
        ready = self._level.poll(0)
        if not ready and not self._woken:
            self._park(timeout)
            ready = self._level.poll(0)
        self._woken = False
        for fd, _ in ready:
            entry = self._channels.get(fd)
            if entry is not None:
                entry[1]()
        if ready:
            self._green.pass_turn()  # those who were just let in come first
        return bool(ready)

    def _park(self, timeout: float | None) -> None:
        self._wait = GreenWait(self._green)
        channels = [channel for channel, _ in self._channels.values()]
        for channel in channels:
            channel.claim_reader(self)
        try:
            self._wait.wait(timeout)
        finally:
            self._wait = None
            for channel in channels:
                if channel.reader is self:
                    channel.reader = None

    def switch(self) -> None:
        """A channel became readable."""
        wait = self._wait
        if wait is not None:
            wait.woken = True
            wait.switch()

    def wake(self) -> None:
        self._woken = True
        try:
            # As from another thread, even on this one: a signal handler runs while the host loop sleeps in its select.
            self._loop.call_soon_threadsafe(self._end_wait)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def _end_wait(self) -> None:
        wait = self._wait
        if wait is not None:
            wait.wake()

    def close(self) -> None:
        for fd in list(self._channels):
            self.ignore(fd)
