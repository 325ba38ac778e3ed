"""How a server waits: for its listeners, for a wake-up from anywhere, and for whatever else it was told to watch.

One loop for plain threads and one for green threads, with one face, so that what is done in between is written once.
Neither ticks: a server with nothing to do makes no wake-ups.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import weakref
from collections import deque
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

    def ignore(self, fd: int, ready: Callback | None = None) -> None:
        """No longer watch ``fd``; nothing happens if it was not watched, or not for ``ready``, where that is given: the
        number of a descriptor that was closed may have been another's since."""
        ...

    def turn(self, timeout: float | None = None) -> bool:
        """Wait for at most ``timeout`` seconds (None: for ever), call what is ready; False if nothing was."""
        ...

    def wake(self) -> None:
        """End the turn that is waiting, or the next one. From any thread, task or signal handler."""
        ...

    def ask(self, then: Callback) -> None:
        """Have ``then()`` called on the thread that waits, as soon as it turns. From any thread; never, where the loop
        is closed before. It must neither wait nor raise."""
        ...

    def close(self) -> None: ...


def open_loop() -> Loop:
    """The loop for whoever calls: a green thread or a plain one."""
    return GreenLoop() if in_green() else PollLoop()


class _SignalPipe:
    """Lets signals end a wait on the main thread, so that their handlers are run.

    A signal that comes after CPython's last look and before the system call only marks its handler to be run; a wait
    without ticks would go on. It also writes to this pipe, which is among what is waited for (signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        # A pipe, not an eventfd, because a signal handler may interrupt the very call that writes to it.
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(self.writing, False)
        self._hears = False

    def listen(self) -> bool:
        """Whether it is told of signals from now on: not on other threads than the main one, nor where somebody sees to
        them already (asyncio, uvloop, serve())."""
        if threading.current_thread() is not threading.main_thread():
            return False
        before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        self._hears = before == -1
        if not self._hears:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            # There is no other way to ask who listens. A signal that came meanwhile was told to the wrong one.
            with contextlib.suppress(OSError):
                os.write(before, os.read(self.reading, 4096))
        return self._hears

    def empty(self) -> None:
        try:
            while os.read(self.reading, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Any number of times."""
        if self._hears:
            self._hears = False
            before = signal.set_wakeup_fd(-1)
            if before != self.writing:
                signal.set_wakeup_fd(before, warn_on_full_buffer=False)  # taken over meanwhile, by asyncio perhaps
        if self.writing >= 0:
            reading, writing = self.reading, self.writing
            self.reading = self.writing = -1
            os.close(writing)
            os.close(reading)


class PollLoop:
    """Waits by poll(2): a handful of descriptors for a whole thread, where epoll would gain nothing."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._ready: dict[int, Callback] = {}
        self._pipe = _SignalPipe()
        self._pipe.listen()
        self._asked: deque[Callback] = deque()
        self._woken = self._wake_up
        self.watch(self._pipe.reading, self._woken)

    def watch(self, fd: int, ready: Callback) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, select.POLLIN)

    def ignore(self, fd: int, ready: Callback | None = None) -> None:
        known = self._ready.get(fd)
        if known is not None and ready in (None, known):
            del self._ready[fd]
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

    def wake(self) -> None:
        try:
            os.write(self._pipe.writing, b"\0")
        except (BlockingIOError, OSError):
            pass  # full of wake-ups already, or closed: nobody waits

    def ask(self, then: Callback) -> None:
        self._asked.append(then)
        self.wake()

    def _wake_up(self) -> None:
        self._pipe.empty()
        while self._asked:
            self._asked.popleft()()

    def close(self) -> None:
        self._pipe.close()


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
        self._pipe: _SignalPipe | None = None
        self._listen_to_signals()

    def _listen_to_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        pipe = _SignalPipe()
        if pipe.listen():
            self._pipe = pipe
            self.watch(pipe.reading, pipe.empty)
            _deaf.discard(self)
        else:
            pipe.close()
            _deaf.add(self)

    def watch(self, fd: int, ready: Callback) -> None:
        channel, known = self._channels.get(fd, (None, None))
        if known is not None and known != ready:
            self.ignore(fd)  # of a descriptor that was closed, and whose number this one got
            channel = None
        if channel is None or channel.poller is not self._poller:
            channel = self._borrow(fd)
        self._channels[fd] = (channel, ready)
        self._level.register(fd, select.POLLIN)

    def _borrow(self, fd: int) -> Channel:
        known = self._poller.find(fd)
        # Asked of the kernel in any case: what is known may be of a descriptor that was closed without our knowing, and
        # whose number this one got.
        channel = self._poller.register(fd)
        if channel is not known:
            channel.lent = True  # until a socket object of ours joins, which then gives it back with its close
        channel.borrowers += 1
        return channel

    def ignore(self, fd: int, ready: Callback | None = None) -> None:
        channel, known = self._channels.get(fd, (None, None))
        if channel is None or ready not in (None, known):
            return
        del self._channels[fd]
        self._level.unregister(fd)
        if channel.reader is self:
            channel.reader = None
        channel.borrowers -= 1
        if channel.lent and not channel.borrowers and channel.poller is not None:
            # Before its owner closes it: the next descriptor of this number must not be taken for it.
            self._poller.forget(channel)

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

    def ask(self, then: Callback) -> None:
        with contextlib.suppress(RuntimeError):  # the host loop is closed
            self._loop.call_soon_threadsafe(then)

    def _end_wait(self) -> None:
        wait = self._wait
        if wait is not None:
            wait.wake()

    def close(self) -> None:
        for fd in list(self._channels):
            self.ignore(fd)
        _deaf.discard(self)
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            for other in list(_deaf):
                other._listen_to_signals()  # another server's, on the same host loop perhaps, that relied on this one


#: Those on the main thread that leave the signals to somebody else.
_deaf: weakref.WeakSet[GreenLoop] = weakref.WeakSet()
