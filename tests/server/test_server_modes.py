"""Modes and handlers that go together, those that do not, and whose loop it is that serves."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, AsyncEcho, Echo, Held, ask, dial, echo, in_thread, leave, until

from jackfield import AsyncRequestHandler, BaseRequestHandler, MisuseError, Server, StreamRequestHandler
from jackfield.limits import Limits
from jackfield.reactor import await_, current_reactor, in_green, run, sleep, spawn


async def coroutine_function(request: Any, address: Any, server: Any) -> None:
    """Looks like a handler, and called it would do nothing."""


# -- which goes with which ---------------------------------------------------------------------------------------------


def test_auto_takes_what_the_handler_is() -> None:
    assert Server(Echo).mode == "thread"
    assert Server(AsyncEcho).mode == "async"
    assert Server(lambda request, address, server: None).mode == "thread"


@pytest.mark.parametrize(
    ("handler", "mode", "told"),
    [
        (Echo, "async", "derive it from AsyncRequestHandler, or serve it with mode='green'"),
        (AsyncEcho, "green", "serve it with mode='async'"),
        (AsyncEcho, "thread", "serve it with mode='async'"),
        (AsyncEcho, "process", "serve it with mode='async'"),
        (AsyncEcho, "serial", "serve it with mode='async'"),
        (Echo, "theads", "no mode 'theads': write one of auto, serial, thread, process, green, async"),
        (Echo, None, "no mode None"),
        ("not a handler", "thread", "is no handler class: derive one from jackfield.BaseRequestHandler"),
        (None, "auto", "is no handler class"),
        ("a text", "auto", "is no handler class: derive one from jackfield.BaseRequestHandler"),
        (coroutine_function, "auto", "make it handle() of an AsyncRequestHandler"),
        (coroutine_function, "async", "make it handle() of an AsyncRequestHandler"),
    ],
)
def test_what_does_not_go_together_is_told_when_it_is_made(handler: Any, mode: Any, told: str) -> None:
    """At once, and not by the first client; and the message shows the right call."""
    with pytest.raises(MisuseError) as caught:
        Server(handler, TCP, mode=mode)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["serial", "thread", "process", "green"])
def test_anything_that_takes_three_arguments(mode: str) -> None:
    """As in the standard library: a function, a partial, an object that can be called."""

    def function(request: Any, address: Any, server: Any) -> None:
        request.sendall(b"function")

    def with_more(more: bytes, request: Any, address: Any, server: Any) -> None:
        request.sendall(more)

    class Callable_:
        def __call__(self, request: Any, address: Any, server: Any) -> None:
            request.sendall(b"object")

    for handler, answer in (
        (function, b"function"),
        (functools.partial(with_more, b"partial"), b"partial"),
        (Callable_(), b"object"),
    ):
        with Server(handler, TCP, mode=mode) as server, dial(server) as client:
            assert client.recv(10) == answer
            leave(client)


@pytest.mark.parametrize("mode", ["serial", "thread", "process", "green"])
def test_a_handler_may_prepare_itself_before_or_after(mode: str) -> None:
    """handle() is called when __init__ has returned, so it does not matter when the base class's is called."""

    class Before(BaseRequestHandler[Any]):
        def __init__(self, *args: Any) -> None:
            self.answer = b"before"
            super().__init__(*args)

        def handle(self) -> None:
            self.request.sendall(self.answer)

    class After(Before):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.answer = b"after"

    for handler, answer in ((Before, b"before"), (After, b"after")):
        with Server(handler, TCP, mode=mode) as server, dial(server) as client:
            assert client.recv(10) == answer
            leave(client)


@pytest.mark.parametrize("mode", MODES)
def test_where_a_handler_runs(mode: str) -> None:
    class Tells(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(f"{os.getpid()} {threading.get_ident()} {in_green()}".encode())

    class AsyncTells(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(f"{os.getpid()} {threading.get_ident()} {in_green()}".encode())

    with Server(AsyncTells if mode == "async" else Tells, TCP, mode=mode) as server:
        clients = [dial(server) for _ in range(2)]
        told = [client.recv(100).decode().split() for client in clients]
        for client in clients:
            leave(client)
    assert {pid == str(os.getpid()) for pid, _, _ in told} == {mode != "process"}
    assert {green for _, _, green in told} == {str(mode == "green")}
    if mode in ("serial", "green", "async"):
        assert len({thread for _, thread, _ in told}) == 1


# -- whose loop --------------------------------------------------------------------------------------------------------


LOOPS = ["asyncio", "uvloop"]


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "uvloop":
        return pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed").new_event_loop  # type: ignore[no-any-return]
    return None


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_loop_of_ones_own_choice(mode: str) -> None:
    make = factory("uvloop")
    names: list[str] = []

    class Tells(BaseRequestHandler[Any]):
        def handle(self) -> None:
            names.append(type(current_reactor().loop).__module__)

    class AsyncTells(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            names.append(type(asyncio.get_running_loop()).__module__)

    with Server(AsyncTells if mode == "async" else Tells, TCP, mode=mode, loop_factory=make) as server:
        assert ask(server) == b""
    assert names == ["uvloop"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loop", LOOPS)
def test_on_an_applications_running_loop(loop: str, mode: str) -> None:
    """start() returns at once. Green and async serve on that loop, the others in a thread; the application goes on."""

    async def main() -> None:
        here = threading.get_ident()
        seen: list[int] = []

        class Notes(echo(mode)):  # type: ignore[misc]
            if mode == "async":

                async def handle(self) -> None:
                    seen.append(threading.get_ident())
                    await super().handle()
            else:

                def handle(self) -> None:
                    seen.append(threading.get_ident())
                    super().handle()

        ticks = 0
        async with Server(Notes, TCP, mode=mode) as server:
            assert server.state == "serving"
            asking = asyncio.ensure_future(asyncio.to_thread(ask, server))
            while not asking.done():
                ticks += 1
                await asyncio.sleep(0)
            assert await asking == b"HELLO"
            assert ticks > 0
            if mode in ("green", "async"):
                assert seen == [here]
            elif mode != "process":
                assert here not in seen
        assert server.state == "stopped"

    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_several_servers_on_one_loop(loop: str) -> None:
    async def main() -> None:
        async with Server(Echo, TCP, mode="green") as one, Server(AsyncEcho, TCP) as other:
            answers = await asyncio.gather(
                *(asyncio.to_thread(ask, server, b"x%d" % number) for server in (one, other) for number in range(5))
            )
            assert answers == [b"X%d" % number for number in range(5)] * 2
            one.stop()
            await one.stopped()
            assert await asyncio.to_thread(ask, other) == b"HELLO", "the end of one is not the end of the other"

    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        runner.run(main())


def test_in_a_green_thread_and_by_await() -> None:
    def main() -> list[Any]:
        with Server(Echo, TCP, mode="green") as server:
            client = spawn(green_client, server)
            answers = [client.result()]
            answers.append(await_(asyncio.to_thread(ask, server)))
        return answers

    def green_client(server: Server) -> bytes:
        from jackfield import socket

        with socket.create_connection(server.server_address) as client:
            client.sendall(b"hello")
            return client.recv(100)

    assert run(main) == [b"HELLO", b"HELLO"]


def test_a_loop_that_ends_first_takes_its_server_along() -> None:
    """The application leaves without a stop(): the run's end kills what it left behind, and nothing stays open."""

    def main() -> Server:
        server = Server(Echo, TCP, mode="green").start()
        sleep(0.001)
        return server

    server = run(main)
    assert server.wait_stopped(SOON)
    assert server.state in ("stopped", "failed")
    with pytest.raises(ConnectionRefusedError):
        dial(server)


# -- serve_forever -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_served_on_this_very_thread(mode: str) -> None:
    server = Server(echo(mode), TCP, mode=mode).bind()

    def client() -> None:
        try:
            assert ask(server) == b"HELLO"
        finally:
            server.stop()

    with in_thread(client):
        server.serve_forever()
    assert server.state == "stopped"


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_served_in_a_green_thread_it_lets_the_others_run(mode: str) -> None:
    def main() -> str:
        server = Server(echo(mode), TCP, mode=mode)
        serving = spawn(server.serve_forever)
        turns = 0

        def client() -> None:
            until(lambda: server.addresses)
            try:
                assert ask(server) == b"HELLO"
                before = turns
                until(lambda: turns > before + 3)  # while it waits, too
            finally:
                server.stop()

        with in_thread(client):
            while not serving.done:
                turns += 1
                sleep(0.001)
        serving.result()
        return server.state

    assert run(main) == "stopped"


def test_in_a_coroutine_it_is_a_misuse() -> None:
    async def main() -> None:
        for mode in ("green", "thread"):
            with pytest.raises(MisuseError, match=r"write server\.start\(\)"):
                Server(Echo, TCP, mode=mode).serve_forever()

    asyncio.run(main())


@pytest.mark.parametrize("mode", HERE)
def test_an_idle_server_makes_no_wake_ups(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait of its loop is without an end, once the deadlines of its connections have gone with them."""
    import jackfield.server as module

    waits: list[float | None] = []
    open_loop = module.open_loop

    class Counted:
        def __init__(self) -> None:
            self._loop: Any = open_loop()

        def turn(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return bool(self._loop.turn(timeout))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

    monkeypatch.setattr(module, "open_loop", Counted)
    limits = Limits(idle_timeout=1, first_byte_timeout=1, send_timeout=1, message_timeout=1)
    with Server(echo(mode), TCP, mode=mode, limits=limits) as server:
        assert waits.count(None) == len(waits)
        assert ask(server) == b"HELLO"
        until(lambda: not server.connections)
        until(lambda: waits[-1] is None)
    timed = [wait for wait in waits if wait is not None]
    assert len(timed) <= 2, "the connection was there for a moment only"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "async"])
def test_lines(mode: str) -> None:
    class Lines(StreamRequestHandler[Any]):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    with Server(Lines, TCP, mode=mode) as server:
        assert ask(server, b"one\ntwo\nthree") == b"ONE\nTWO\nTHREE"


def test_a_server_on_the_wrong_loop_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: one that always takes a thread of its own."""
    monkeypatch.setattr("jackfield.server.loop_runs_here", lambda: False)
    with pytest.raises(AssertionError):
        test_on_an_applications_running_loop("asyncio", "green")


def test_held_handlers_are_let_go() -> None:
    """The helper of these tests itself."""
    held = Held("thread")
    with Server(held.handler, TCP) as server, dial(server) as client:
        assert client.recv(10) == b"here"
        assert held.running == 1
        held.go.set()
        assert client.recv(10) == b"bye"
    assert held.ended == ["finished"]
