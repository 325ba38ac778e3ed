"""stop(): from any thread, task, handler or signal handler; what is at work finishes, what does not is cut."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from native_support import (
    HERE,
    MODES,
    SOON,
    TCP,
    AsyncEcho,
    Echo,
    Held,
    ask,
    children,
    dial,
    echo,
    in_thread,
    leave,
    lines,
    until,
)

from jackfield import (
    AsyncRequestHandler,
    BaseRequestHandler,
    MisuseError,
    Server,
)
from jackfield.modes import PollLoop
from jackfield.reactor import drive, green, run, sleep, spawn

# -- from everywhere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("deadline", [None, 0, SOON])
def test_from_another_thread(mode: str, deadline: float | None) -> None:
    server = Server(echo(mode), TCP, mode=mode)
    with in_thread(server.serve_forever):
        until(lambda: server.addresses)
        assert ask(server) == b"HELLO"
        server.stop(deadline)
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", ["serial", "thread", "green", "async"])
@pytest.mark.parametrize("deadline", [None, SOON])
def test_from_a_handler(mode: str, deadline: float | None) -> None:
    """It finishes what it does, and gets its answer out."""

    class Stops(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.server.stop(deadline)
            self.request.sendall(b"stopped")

    class AsyncStops(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            self.server.stop(deadline)
            await self.request.sendall(b"stopped")

    server = Server(AsyncStops if mode == "async" else Stops, TCP, mode=mode).start()
    assert ask(server) == b"stopped"
    assert server.wait_stopped(SOON)
    assert server.info().handler_errors == 0


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Has SIGUSR1 call a function in this thread, between two instructions of whatever runs here."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(action: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: action() and None)

    yield install
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("busy", [False, True])
def test_from_a_signal_handler_of_the_thread_that_serves(mode: str, busy: bool, on_signal: Any) -> None:
    """The signal does not interrupt what that thread waits in, as when it comes just before the system call: here
    another thread gets it, and CPython only notes that the main thread is to run the handler."""
    server = Server(echo(mode), TCP, mode=mode, graceful_timeout=0.01)
    clients: list[Any] = []

    def sends_the_signal() -> None:
        until(lambda: server.addresses)
        if busy:
            clients.append(dial(server))
            clients[0].sendall(b"x")
            assert clients[0].recv(10) == b"X"
        else:
            assert ask(server) == b"HELLO"
        if busy and mode == "serial":
            # There it is the handler's own recv that waits: should the signal not interrupt that, the data ends it.
            os.kill(os.getpid(), signal.SIGUSR1)
            clients[0].sendall(b"y")
        else:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    on_signal(server.stop)
    with in_thread(sends_the_signal):
        server.serve_forever()
    assert server.state == "stopped"
    for client in clients:
        leave(client)


def test_of_two_servers_the_one_that_is_left_still_hears(on_signal: Any) -> None:
    """They share a loop, and what ends its wait when a signal comes."""

    async def main() -> None:
        one, other = Server(Echo, TCP, mode="green").start(), Server(AsyncEcho, TCP).start()
        for server in (one, other):
            assert await asyncio.to_thread(ask, server) == b"HELLO"
        one.stop()
        await one.stopped()
        on_signal(other.stop)
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        thread.start()
        await other.stopped()
        thread.join()

    asyncio.run(main())
    assert wake_up_descriptor() == -1, "and gives back what it took"


def test_a_host_loop_that_comes_to_hear_signals_itself_keeps_its_ears() -> None:
    """asyncio's add_signal_handler() takes the process's one wake-up descriptor; the server's end leaves it alone."""
    heard: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Server(Echo, TCP, mode="green") as server:
            assert await asyncio.to_thread(ask, server) == b"HELLO"
            ours = wake_up_descriptor()
            loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
            assert wake_up_descriptor() not in (-1, ours)
        assert wake_up_descriptor() not in (-1, ours)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not heard:
            await asyncio.sleep(0)
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(main())
    assert wake_up_descriptor() == -1


def wake_up_descriptor() -> int:
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number


@pytest.mark.parametrize("mode", ["green", "async"])
def test_from_a_task_and_a_green_thread_of_its_own_loop(mode: str) -> None:
    async def main() -> None:
        for how in ("task", "driven", "green"):
            server = Server(echo(mode), TCP, mode=mode).start()
            assert await asyncio.to_thread(ask, server) == b"HELLO"

            async def stops(server: Server = server) -> None:
                server.stop()

            if how == "green":
                await green(server.stop)
            else:
                await (drive(stops()) if how == "driven" else asyncio.create_task(stops()))
            await server.stopped()
            assert server.state == "stopped"

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_times_from_many_threads(mode: str) -> None:
    """While a handler is at work. The earliest deadline holds, whoever comes first."""
    server = Server(echo(mode), TCP, mode=mode).start()
    with dial(server) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"X"
        deadlines = (None, 1000, 0, 50, None, 1000) * 2
        threads = [threading.Thread(target=server.stop, args=(deadline,)) for deadline in deadlines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.wait_stopped(SOON)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    for _ in range(3):
        server.stop()


@pytest.mark.parametrize("first", [0, 1])
def test_stops_that_meet_in_the_midst_of_each_other(first: int) -> None:
    """A signal handler's, say, between any two steps of another one: both deadlines are known, the earlier holds, and
    no timer is left behind."""
    held = Held("serial")
    server = Server(held.handler, TCP, mode="serial").start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        deadlines = [500.0, 1000.0]

        def interrupts(frame: Any, event: str, argument: object) -> Any:
            if frame.f_code is Server.stop.__code__ and event == "line" and len(deadlines) == 1:
                steps[0] -= 1
                if not steps[0]:
                    server.stop(deadlines.pop())
            return interrupts

        for number in range(1, 100):
            steps, deadlines[:] = [number], [500.0, 1000.0]
            before = sys.gettrace()
            sys.settrace(interrupts)
            try:
                server.stop(deadlines.pop(first))
            finally:
                sys.settrace(before)
            if steps[0] > 0:
                break  # there are no more steps
            assert server._deadline is not None
            assert server._deadline <= time.monotonic() + 500
            server._deadlines[:] = [time.monotonic() + 5000]  # later than all: with none it would be cut at once
        assert number > 5
        held.go.set()
        assert client.recv(10) == b"bye"
    assert server.wait_stopped(SOON)


def test_waiting_on_its_own_loop_is_a_misuse_and_shows_the_right_call() -> None:
    async def main() -> None:
        server = Server(AsyncEcho, TCP).start()
        with pytest.raises(MisuseError, match=r"await server\.stopped\(\)"):
            server.wait_stopped()
        with pytest.raises(MisuseError, match=r"server\.start\(\)"):
            server.serve_forever()
        server.stop()
        await server.stopped()
        await server.stopped()
        assert server.wait_stopped()

    asyncio.run(main())


# -- drain -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", HERE)
def test_what_is_at_work_finishes(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    held = Held(mode)
    server = Server(held.handler, TCP, mode=mode).start()
    clients = [dial(server) for _ in range(3)]
    for client in clients:
        assert client.recv(10) == b"here"
    server.stop()
    until(lambda: server.state == "draining")
    with pytest.raises(ConnectionRefusedError):
        dial(server)
    assert len(server.connections) == 3, "they are still there to be looked at"
    held.go.set()
    for client in clients:
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""
        client.close()
    assert server.wait_stopped(SOON)
    assert held.ended == ["finished"] * 3
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("deadline", [0, 0.01])
def test_what_does_not_finish_is_cut_and_named(mode: str, deadline: float, caplog: pytest.LogCaptureFixture) -> None:
    """Peers in the midst of a message: each sees the end of its connection, and the log says who they were."""
    server = Server(lines(mode), TCP, mode=mode).start()
    clients = [dial(server) for _ in range(1 if mode == "serial" else 3)]
    for client in clients:
        client.sendall(b"x\nhalf")
        assert client.recv(10) == b"X\n"
    server.stop(deadline)
    assert server.wait_stopped(SOON)
    for client in clients:
        assert client.recv(10) == b""
        assert str(client.getsockname()[1]) in caplog.text
        client.close()
    assert server.state == "stopped"
    assert not server.connections
    assert not children()


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "serial"])
def test_one_finishes_and_another_is_cut(mode: str) -> None:
    server = Server(lines(mode), TCP, mode=mode).start()
    finishing, idle = dial(server), dial(server)
    for client in (finishing, idle):
        client.sendall(b"x\none ")
        assert client.recv(10) == b"X\n"
    server.stop(1000)
    until(lambda: server.state == "draining")
    finishing.sendall(b"more\n")
    assert finishing.recv(100) == b"ONE MORE\n"
    leave(finishing)
    until(lambda: len(server.connections) == 1)
    assert server.state == "draining"
    server.stop(0)  # a second stop: the earliest deadline holds
    assert server.wait_stopped(SOON)
    assert idle.recv(10) == b""
    idle.close()


@pytest.mark.parametrize("mode", HERE)
def test_a_later_deadline_does_not_give_more_time(mode: str) -> None:
    held = Held(mode)
    server = Server(held.handler, TCP, mode=mode).start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop(0.01)
        server.stop(1000)
        # A thread cannot be ended from outside, but its connection is.
        assert client.recv(10) == b""
        held.go.set()
        assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", HERE)
def test_a_handler_sees_that_a_stop_was_asked_for(mode: str) -> None:
    class Watches(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here")
            while not self.server.draining:
                sleep(0.001)
            self.request.sendall(b"bye")

    class AsyncWatches(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(b"here")
            while not self.server.draining:
                await sleep(0.001)
            await self.request.sendall(b"bye")

    server = Server(AsyncWatches if mode == "async" else Watches, TCP, mode=mode).start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop()
        assert client.recv(10) == b"bye"
    assert server.wait_stopped(SOON)


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_cut_handler_may_clean_up(mode: str) -> None:
    """It meets the cut where it waits, and what it does about it may wait as well."""
    cleaned: list[str] = []

    class Cleans(BaseRequestHandler[Any]):
        def handle(self) -> None:
            try:
                self.request.sendall(b"here")
                sleep(3600)
            finally:
                sleep(0.001)
                cleaned.append("cleaned")

    class AsyncCleans(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            try:
                await self.request.sendall(b"here")
                await sleep(3600)
            finally:
                await sleep(0.001)
                cleaned.append("cleaned")

    server = Server(AsyncCleans if mode == "async" else Cleans, TCP, mode=mode).start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop(0)
        assert server.wait_stopped(SOON)
    assert cleaned == ["cleaned"]
    assert server.info().handler_errors == 0, "being cut is no fault of the handler's"


@pytest.mark.parametrize("mode", HERE)
def test_who_waits_in_the_queue_when_a_graceful_stop_begins_is_served(mode: str) -> None:
    """They have connected, as far as they know. (Those for whom there is no room are not.)"""
    held = Held(mode)
    server = Server(held.handler, TCP, mode=mode, max_connections=1).start()
    first = dial(server)
    assert first.recv(10) == b"here"
    second = dial(server)  # waits in the kernel's queue: there is room for one
    # And now for two, which nobody noticed.
    server._service.hold(server.limits, 2)
    server.stop(SOON)
    assert second.recv(10) == b"here"
    held.go.set()
    for client in (first, second):
        assert client.recv(10) == b"bye"
        client.close()
    assert server.wait_stopped(SOON)


def test_a_process_that_ignores_the_hint_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackfield.serving.drain.CUT_SECONDS", 0.05)

    class Ignores(BaseRequestHandler[Any]):
        def handle(self) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.request.sendall(b"here")
            while True:
                threading.Event().wait(60)

    server = Server(Ignores, TCP, mode="process").start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop(0)
        assert server.wait_stopped(SOON)
    assert not children()


def test_a_handler_that_never_looks_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """A thread that computes cannot be ended from outside. The server has stopped all the same, and says so."""
    release = threading.Event()

    class Computes(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here")
            release.wait(SOON)

    server = Server(Computes, TCP, mode="thread").start()
    with pytest.MonkeyPatch.context() as patch, dial(server) as client:
        patch.setattr("jackfield.serving.drain.CUT_SECONDS", 0.01)
        assert client.recv(10) == b"here"
        server.stop(0)
        assert server.wait_stopped(SOON)
        assert server.state == "stopped"
    assert "have not finished" in caplog.text
    release.set()


@pytest.mark.parametrize("mode", ["green", "async"])
def test_one_after_the_other_on_one_loop(mode: str) -> None:
    """Each gets the descriptor that the one before has left."""

    async def main() -> None:
        numbers = []
        for _ in range(5):
            async with Server(echo(mode), TCP, mode=mode) as server:
                numbers.append(server._service.listeners[0].fileno())
                assert await asyncio.to_thread(ask, server) == b"HELLO"
        assert len(set(numbers)) < 5, "or it says nothing"

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["green", "async"])
def test_stopped_in_a_run_beside_others(mode: str) -> None:
    """In a green thread of an application it serves beside the others, and leaves them alone when it ends."""

    def main() -> str:
        other = spawn(sleep, 3600)
        server = Server(echo(mode), TCP, mode=mode).start()
        with in_thread(lambda: ask(server)) as asking:
            while asking.is_alive():
                sleep(0.001)
        server.stop()
        server.wait_stopped()
        assert not other.done
        other.kill()
        return server.state

    assert run(main) == "stopped"


def test_a_stop_that_is_lost_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: one that nobody is woken for."""
    wake = PollLoop.wake
    with monkeypatch.context() as patch:
        patch.setattr(PollLoop, "wake", lambda self: None)
        server = Server(Echo, TCP).start()
        ask(server)
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "jackfield-Echo")
        where = Path(f"/proc/self/task/{thread.native_id}/wchan")
        if not where.exists():
            pytest.skip("this system does not tell where a thread sleeps")
        until(lambda: "poll" in where.read_text())
        server.stop()
        assert not server.wait_stopped(0.05)
    loop: Any = server._loop
    wake(loop)
    assert server.wait_stopped(SOON)
