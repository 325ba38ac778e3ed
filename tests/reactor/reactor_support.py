"""What the reactor's tests share: the loops that can host it, and how a test waits for something without a clock."""

from __future__ import annotations

import asyncio
import contextlib
import socket as _socket_std
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from jackfield import socket as jackfield_socket
from jackfield.reactor import Reactor, await_, current_reactor, drive, green, run, sleep
from jackfield.reactor.twin import native
from jackfield.testing import ManualClock

#: For the cases that break the pure twin on purpose: they run where that is the one in use.
breaks_the_pure_twin = pytest.mark.skipif(native is not None, reason="breaks the pure twin, which is not in use")

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0


class Host:
    """A way to have a loop under the reactor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if "uvloop" in name:
            import uvloop

            self._factory = uvloop.new_event_loop

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` in a green thread; on a loop of its own, or on one that an application runs already."""
        if not self.name.startswith("running"):
            return run(function, *args, loop_factory=self._factory)

        async def application() -> Any:
            try:
                return await green(function, *args)
            finally:
                current_reactor().close()

        with asyncio.Runner(loop_factory=self._factory) as runner:
            return runner.run(application())

    def drive(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """``function(*args)``, a coroutine function, as a driven task."""
        return self.run(lambda: await_(drive(function(*args))))


HOSTS = ("asyncio", "uvloop", "running", "running-uvloop")


def until(condition: Callable[[], object]) -> None:
    """In a green thread: give the others turns until ``condition()`` holds. Bounded by the test's own timeout."""
    while not condition():
        sleep(0)


async def async_until(condition: Callable[[], object]) -> None:
    """The same in a coroutine."""
    while not condition():
        await asyncio.sleep(0)


def turns(number: int = 5) -> None:
    """In a green thread: let everybody who can run do so, ``number`` times."""
    for _ in range(number):
        sleep(0)


def tcp_pair() -> tuple[jackfield_socket.socket, jackfield_socket.socket]:
    """Two of our sockets connected over loopback TCP, where (unlike in a Unix pair) a short read proves emptiness."""
    return jackfield_socket._fallback_socketpair()


@contextlib.contextmanager
def pair(tcp: bool = False) -> Iterator[tuple[jackfield_socket.socket, jackfield_socket.socket]]:
    """Two connected sockets of ours, closed at the end."""
    left, right = tcp_pair() if tcp else jackfield_socket.socketpair()
    try:
        yield left, right
    finally:
        left.close()
        right.close()


def fill(sock: _socket_std.socket) -> int:
    """Send until the kernel takes no more; the number of bytes."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += _socket_std.socket.send(sock, bytes(65536), _socket_std.MSG_DONTWAIT)
    return total


def drain(sock: _socket_std.socket) -> int:
    """Receive all that is there now; the number of bytes."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while taken := len(_socket_std.socket.recv(sock, 1 << 20, _socket_std.MSG_DONTWAIT)):
            total += taken
    return total


class StoppedClock(ManualClock):
    """The clock of one reactor, moved by hand; :meth:`pass_time` lets the reactor notice, as its host's timer would."""

    @classmethod
    def of(cls, reactor: Reactor) -> StoppedClock:
        clock = cls(1000.0)
        reactor.clock = clock
        return clock

    def pass_time(self, reactor: Reactor, seconds: float) -> None:
        """From a green thread: ``seconds`` pass, and whoever they were too long for has had its turn afterwards."""
        self.advance(seconds)
        done: list[bool] = []

        def notice() -> None:
            reactor._on_time()
            done.append(True)

        reactor.loop.call_soon(notice)
        until(lambda: done)
