"""The life of a drop-in server: shutdown and stop from anywhere, at any moment, any number of times."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import socketserver as std
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dropin_support import HERE, MODES, SOON, ask, connect, handler_base, server_class, serving, until

from jackfield import socketserver as ours
from jackfield import sync
from jackfield.reactor import await_, green, run, sleep, spawn


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class AsyncEcho(ours.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


def echo(mode: str) -> Any:
    return AsyncEcho if mode == "async" else Echo


def ends(server: Any, action: Callable[[], object]) -> None:
    """``serve_forever()`` on this thread ends by ``action()``, which a thread does once somebody was served."""
    asked: list[bytes] = []

    def act() -> None:
        asked.append(ask(server))
        action()

    thread = threading.Thread(target=act)
    thread.start()
    server.serve_forever()
    thread.join(SOON)
    assert not thread.is_alive()
    assert asked == [b"HELLO"]


# -- shutdown: asks, and waits where waiting can end -------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_shutdown_from_another_thread_waits_until_it_has_stopped(mode: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        ended: list[bool] = []

        def serve() -> None:
            server.serve_forever()
            ended.append(True)

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(server) == b"HELLO"
        server.shutdown()
        assert server._BaseServer__is_shut_down.is_set()
        thread.join(SOON)
        assert ended == [True]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["shutdown", "stop", "flag"])
def test_before_serving_it_makes_the_next_serve_forever_return_at_once(mode: str, call: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        ask_to_end(server, call)
        server.serve_forever()
        # And the one after that serves.
        ends(server, server.shutdown)


def ask_to_end(server: Any, call: str) -> None:
    if call == "flag":
        server._BaseServer__shutdown_request = True  # programs in the wild do, for want of a stop()
    else:
        getattr(server, call)()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["shutdown", "stop", "flag"])
def test_from_a_thread_while_it_serves(mode: str, call: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        ends(server, lambda: ask_to_end(server, call))


@pytest.mark.parametrize("mode", ["serial", "threading", "green", "async"])
@pytest.mark.parametrize("call", ["shutdown", "stop", "flag"])
def test_from_a_handler(mode: str, call: str) -> None:
    """In the standard library a handler of a serial server that calls shutdown() waits for itself."""

    class Ends(Echo):
        def handle(self) -> None:
            ask_to_end(self.server, call)
            self.request.sendall(b"asked")

    class AsyncEnds(AsyncEcho):
        async def handle(self) -> None:
            ask_to_end(self.server, call)
            await self.request.sendall(b"asked")

    with server_class(mode)(("127.0.0.1", 0), AsyncEnds if mode == "async" else Ends) as server:
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(ask(server)))
        thread.start()
        server.serve_forever()
        thread.join(SOON)
        assert answers == [b"asked"]


@pytest.mark.parametrize("mode", ["serial", "threading", "green", "async"])
@pytest.mark.parametrize("call", ["shutdown", "stop"])
def test_from_a_hook_of_the_loop(mode: str, call: str) -> None:
    base = server_class(mode)

    class Ends(base):  # type: ignore[misc,valid-type]
        def service_actions(self) -> None:
            super().service_actions()
            ask_to_end(self, call)

    with Ends(("127.0.0.1", 0), echo(mode)) as server:
        server.serve_forever(0.001)


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Has SIGUSR1 call a function in this thread, between two instructions of whatever runs here."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda action: signal.signal(signal.SIGUSR1, lambda number, frame: action()) and None
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", ["shutdown", "stop"])
def test_from_a_signal_handler_of_the_thread_that_serves(mode: str, call: str, on_signal: Any) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        on_signal(lambda: ask_to_end(server, call))
        ends(server, lambda: os.kill(os.getpid(), signal.SIGUSR1))


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_times_from_everywhere(mode: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        with serving(server, close=False):
            ask(server)
            threads = [threading.Thread(target=server.shutdown) for _ in range(5)]
            threads += [threading.Thread(target=server.stop) for _ in range(5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SOON)
                assert not thread.is_alive()
            server.shutdown()
        server.server_close()
        server.server_close()


@pytest.mark.parametrize("mode", MODES)
def test_served_and_stopped_again_and_again(mode: str) -> None:
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        for _ in range(3):
            with serving(server, close=False):
                assert ask(server) == b"HELLO"


def test_after_its_end() -> None:
    server = ours.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    with serving(server):
        pass
    server.shutdown()
    server.stop()
    server.stop(0)


def test_closing_the_listener_ends_the_serving() -> None:
    """server_close() from another thread, without a shutdown(): a closed listener cannot be served."""
    for mode in HERE:
        server = server_class(mode)(("127.0.0.1", 0), Echo)
        ends(server, server.server_close)


# -- in green threads and coroutines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["serial", "threading", "green", "async"])
def test_served_in_a_green_thread_beside_others(mode: str) -> None:
    """serve_forever() in a green thread waits cooperatively, whatever the mode."""

    def main() -> list[bytes]:
        from jackfield import socket as jackfield_socket

        with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
            thread = spawn(server.serve_forever)
            answers = []
            for _ in range(3):
                with jackfield_socket.create_connection(server.server_address) as client:
                    client.sendall(b"hello")
                    client.shutdown(socket.SHUT_WR)
                    answers.append(client.recv(100))
            server.shutdown()  # from another green thread it waits, cooperatively
            assert thread.done or thread.join(SOON)
            return answers

    assert run(main) == [b"HELLO"] * 3


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_served_on_an_applications_loop(mode: str) -> None:
    import asyncio

    from jackfield.reactor import current_reactor

    async def main() -> bytes:
        with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
            serving = asyncio.ensure_future(green(server.serve_forever))
            answer = await asyncio.to_thread(ask, server)
            server.stop()
            await serving
        current_reactor().close()
        return answer

    assert asyncio.run(main()) == b"HELLO"


def test_a_coroutine_that_calls_shutdown_does_not_hold_its_own_loop() -> None:
    def main() -> None:
        with ours.GreenTCPServer(("127.0.0.1", 0), Echo) as server:
            thread = spawn(server.serve_forever)
            sleep(0)

            async def stops() -> None:
                server.shutdown()

            await_(stops())
            assert thread.join(SOON)

    run(main)


# -- stop(deadline) ----------------------------------------------------------------------------------------------------


#: More than the kernel takes for a peer that reads nothing.
MUCH = b"x" * 32_000_000


def drained(client: socket.socket) -> None:
    """All that comes until the end."""
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1_000_000):
            pass


@pytest.mark.parametrize("mode", MODES)
def test_stop_with_a_deadline_cuts_those_who_do_not_finish(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Peers that take nothing, which would hold server_close() for ever: they see the end, and the log names them."""
    ended: list[str] = []

    class Sends(handler_base(mode, "Base" if mode != "async" else "")):  # type: ignore[misc]
        if mode == "async":

            async def handle(self) -> None:
                try:
                    await self.request.sendall(b"here" + MUCH)
                finally:
                    ended.append("ended")
        else:

            def handle(self) -> None:
                try:
                    self.request.sendall(b"here" + MUCH)
                finally:
                    ended.append("ended")

    clients = []
    with caplog.at_level(logging.WARNING, "jackfield.server"):
        server = server_class(mode)(("127.0.0.1", 0), Sends)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for _ in range(1 if mode == "serial" else 3):
            clients.append(connect(server))
            assert clients[-1].recv(4) == b"here"
        server.stop(0.01)
        thread.join(SOON)
        assert not thread.is_alive()
        server.server_close()  # nothing is left to wait for
    for client in clients:
        drained(client)
        client.close()
    if mode != "forking":  # they ended in other processes
        assert ended == ["ended"] * len(clients)
    assert "the deadline passed" in caplog.text


@pytest.mark.parametrize("mode", MODES)
def test_stop_with_a_deadline_lets_those_finish_who_do(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that waits for more is at its end: it reads that at once, and may say goodbye."""
    go = sync.Event()

    class Slow(handler_base(mode, "Base" if mode != "async" else "")):  # type: ignore[misc]
        if mode == "async":

            async def handle(self) -> None:
                await self.request.sendall(b"here")
                await go.await_(SOON)
                while await self.request.recv(10):
                    await self.request.sendall(b"more")
                await self.request.sendall(b"bye")
        else:

            def handle(self) -> None:
                self.request.sendall(b"here")
                go.wait(SOON if mode != "forking" else 0.3)
                while self.request.recv(10):
                    self.request.sendall(b"more")
                self.request.sendall(b"bye")

    with caplog.at_level(logging.WARNING, "jackfield.server"):
        server = server_class(mode)(("127.0.0.1", 0), Slow)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(server) as client:
            assert client.recv(4) == b"here"
            server.stop(SOON)
            until(lambda: server.stopping)
            client.sendall(b"another")
            assert thread.is_alive(), "it waits for the one that is at work"
            go.set()
            assert client.recv(4) == b"more"
            if mode in ("serial", "forking"):
                client.shutdown(socket.SHUT_WR)
            assert client.recv(4) == b"bye"
            assert client.recv(10) == b""
        thread.join(SOON)
        assert not thread.is_alive()
        server.server_close()
    assert caplog.text == ""


def test_asked_again_the_earlier_deadline_holds() -> None:
    for order in ((0.01, 1000), (1000, 0.01)):
        server = ours.ThreadingTCPServer(("127.0.0.1", 0), Echo)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(server) as client:
            client.sendall(b"x")
            client.recv(10)
            for deadline in order:
                server.stop(deadline)
            thread.join(SOON)
            assert not thread.is_alive(), order
            assert client.recv(10) == b""
        server.server_close()


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_a_handler_sees_that_a_stop_was_asked_for(mode: str) -> None:
    class Watches(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(b"here")
            until_stopping = self.server.stopping
            while not until_stopping:
                sleep(0.001)
                until_stopping = self.server.stopping
            self.request.sendall(b"bye")

    class AsyncWatches(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(b"here")
            while not self.server.stopping:
                await sleep(0.001)
            await self.request.sendall(b"bye")

    server = server_class(mode)(("127.0.0.1", 0), AsyncWatches if mode == "async" else Watches)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with connect(server) as client:
        assert client.recv(10) == b"here"
        assert not server.stopping
        server.stop(SOON)
        assert client.recv(10) == b"bye"
    thread.join(SOON)
    server.server_close()


def test_no_more_requests_after_a_stop() -> None:
    """One that comes in the same turn as the stop is not taken: it stays in the kernel's queue."""
    taken: list[int] = []

    class Stops(Echo):
        def handle(self) -> None:
            taken.append(1)
            self.server.stop()

    with ours.TCPServer(("127.0.0.1", 0), Stops) as server:
        clients = [connect(server) for _ in range(3)]
        server.serve_forever()
        assert len(taken) == 1
        for client in clients:
            client.close()


# -- nothing ticks -----------------------------------------------------------------------------------------------------


class Counted:
    """A loop of a server whose turns are noted: how long each would wait at most."""

    def __init__(self, loop: Any, waits: list[float | None]) -> None:
        self._loop, self._waits = loop, waits

    def turn(self, timeout: float | None = None) -> bool:
        self._waits.append(timeout)
        return bool(self._loop.turn(timeout))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def waits_of(cls: Any, handler: Any, monkeypatch: pytest.MonkeyPatch, poll_interval: float = 0.5) -> list[float | None]:
    import jackfield.baseserver as module

    waits: list[float | None] = []
    open_loop = module.open_loop
    monkeypatch.setattr(module, "open_loop", lambda: Counted(open_loop(), waits))
    with cls(("127.0.0.1", 0), handler) as server, serving(server, close=False, poll_interval=poll_interval):
        assert ask(server) == b"HELLO"
    return waits


@pytest.mark.parametrize("mode", MODES)
def test_an_idle_server_waits_without_an_end(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait is for ever, so there is nothing that could wake it: none of them has a time."""
    waits = waits_of(server_class(mode), echo(mode), monkeypatch)
    assert waits
    assert set(waits) == {None}


def test_a_server_with_service_actions_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other case, and the broken one for the test before: where the hook is overridden, poll_interval counts."""

    class Acts(ours.TCPServer):
        def service_actions(self) -> None:
            pass

    assert set(waits_of(Acts, Echo, monkeypatch, 0.01)) == {0.01}


def wake_ups(servers: dict[str, Any]) -> dict[str, int]:
    """How often the thread of each server wakes in a fifth of a second in which nothing happens; by the kernel's own
    count of the times that a thread gave the processor away because it waited."""
    threads = {name: threading.Thread(target=server.serve_forever, args=(0.01,)) for name, server in servers.items()}

    def count() -> dict[str, int]:
        counts = {}
        for name, thread in threads.items():
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            counts[name] = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return counts

    for thread in threads.values():
        thread.start()
    try:
        for server in servers.values():
            assert ask(server) == b"HELLO"
        for server in servers.values():  # the end of a child is no tick, however late it comes
            until(lambda server=server: not getattr(server, "active_children", None))
        before = count()
        while True:  # until what the clients caused is over; bounded by the test's own timeout
            threading.Event().wait(0.05)
            previous, before = before, count()
            if all(before[name] == previous[name] for name in MODES):
                break
        threading.Event().wait(0.2)  # not to wait for something: this is what is measured
        after = count()
    finally:
        for name, server in servers.items():
            server.shutdown()
            threads[name].join(SOON)
            server.server_close()
    return {name: after[name] - before[name] for name in before}


def test_idle_servers_of_every_mode_do_not_wake() -> None:
    servers = {mode: server_class(mode)(("127.0.0.1", 0), echo(mode)) for mode in MODES}
    servers["the standard library's"] = std.TCPServer(("127.0.0.1", 0), Echo)
    woken = wake_ups(servers)
    # The broken case in the same go: with these ticks of 10 ms it wakes twenty times.
    assert woken.pop("the standard library's") > 5
    assert woken == dict.fromkeys(MODES, 0)


def test_shutdown_is_noticed_at_once_and_not_at_the_next_tick() -> None:
    with ours.TCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(10_000,))
        thread.start()
        until(lambda: not server._BaseServer__is_shut_down.is_set())
        server.shutdown()
        thread.join(SOON)
        assert not thread.is_alive()
