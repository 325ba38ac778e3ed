"""adopt(): a module gets our sockets, gives them back, and cooperates meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

import jackfield.socket
from jackfield.adopt import _UNTOUCHABLE, Adoption, adopt
from jackfield.errors import MisuseError
from jackfield.reactor import GreenExit, run, spawn
from jackfield.sync import Event, Queue

SOON = 10.0  # seconds that nothing here takes


def module(name: str = "client", **names: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


@contextmanager
def package(**submodules: ModuleType) -> Iterator[ModuleType]:
    """A package ``family`` with these submodules, imported."""
    parent = module("family", __path__=[], socket=socket)
    names = {"family": parent, **{f"family.{name}": each for name, each in submodules.items()}}
    sys.modules.update(names)
    try:
        yield parent
    finally:
        for name in names:
            del sys.modules[name]


# --- what is replaced, and given back -------------------------------------------------------------------------------


def test_each_name_of_socket_time_and_select_is_replaced_whatever_it_is_called() -> None:
    client = module(
        socket=socket, s=socket.socket, connect=socket.create_connection, resolve=socket.getaddrinfo,
        time=time, pause=time.sleep, select=select, wait=select.select,
        AF_INET=socket.AF_INET, error=socket.error, timeout=socket.timeout, other=threading, now=time.monotonic,
    )  # fmt: skip
    before = dict(vars(client))
    adoption = adopt(client)
    after = vars(client)
    assert after["socket"] is jackfield.socket
    assert after["s"] is jackfield.socket.socket
    assert after["connect"] is jackfield.socket.create_connection
    assert after["resolve"] is jackfield.socket.getaddrinfo
    assert after["time"].sleep is after["pause"] is not time.sleep
    assert after["select"].select is after["wait"] is not select.select
    for same in ("AF_INET", "error", "timeout", "other", "now"):
        assert after[same] is before[same]
    assert set(adoption.names) == {
        f"client.{name}" for name in ("socket", "s", "connect", "resolve", "time", "pause", "select", "wait")
    }
    assert "client.connect" in repr(adoption)
    adoption.undo()
    assert vars(client) == before
    assert "undone" in repr(adoption)
    adoption.undo()


def test_the_standard_library_itself_is_untouched() -> None:
    before = dict(vars(socket)), dict(vars(time)), dict(vars(select))
    with adopt(module(socket=socket, time=time, select=select)):
        assert before == (dict(vars(socket)), dict(vars(time)), dict(vars(select)))


def test_the_stand_ins_are_otherwise_the_modules_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    client = module(time=time, select=select)
    with adopt(client):
        assert client.time.monotonic is time.monotonic and client.time.__name__ == "time"
        assert client.select.poll is select.poll and dir(client.select) == dir(select)
        assert "sleep" in repr(client.time)
        monkeypatch.setattr(time, "jackfield_was_here", 1, raising=False)
        assert client.time.jackfield_was_here == 1
        with pytest.raises(AttributeError):
            client.time.nothing_of_the_kind  # noqa: B018


def test_a_package_is_adopted_with_the_submodules_that_are_imported() -> None:
    inner, stranger = module("family.inner", sleep=time.sleep), module("familyish", sleep=time.sleep)
    with package(inner=inner) as parent, pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "familyish", stranger)
        with adopt(parent) as adoption:
            assert set(adoption.names) == {"family.socket", "family.inner.sleep"}
            assert inner.sleep is not time.sleep and stranger.sleep is time.sleep
        assert inner.sleep is time.sleep and parent.socket is socket


def test_undo_leaves_what_was_changed_since() -> None:
    client, marker = module(socket=socket, sleep=time.sleep, connect=socket.create_connection), object()
    adoption = adopt(client)
    client.sleep = marker  # type: ignore[attr-defined]
    del client.connect
    adoption.undo()
    assert client.sleep is marker and client.socket is socket and not hasattr(client, "connect")


@pytest.mark.parametrize("inner_first", [True, False])
def test_adopted_twice_it_gets_its_own_back_after_the_last_undo(inner_first: bool) -> None:
    client = module(socket=socket)
    adoptions = [adopt(client), adopt(client)]
    assert adoptions[0].names == adoptions[1].names
    first, last = adoptions[::-1] if inner_first else adoptions
    first.undo()
    first.undo()
    assert client.socket is jackfield.socket
    last.undo()
    assert client.socket is socket


def test_named_twice_in_one_call_it_is_adopted_once() -> None:
    client = module(socket=socket)
    with adopt(client, client) as adoption:
        assert adoption.names == ("client.socket",)
    assert client.socket is socket


def test_what_cannot_be_adopted_is_refused_and_nothing_is_changed() -> None:
    client = module(socket=socket)
    with pytest.raises(MisuseError, match="offload"):
        adopt(client, module("empty", x=1))
    assert client.socket is socket
    with pytest.raises(TypeError, match=r"adopt\(http\.client\)"):
        adopt("http.client")  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="which module"):
        adopt()
    for shared in (socket, time, select, asyncio, asyncio.selector_events, jackfield.socket):
        with pytest.raises(MisuseError, match="shares it"):
            adopt(shared)
    assert {"jackfield", "socket", "ssl"} <= set(_UNTOUCHABLE)


def test_the_function_and_its_module_have_one_name_and_do_the_same() -> None:
    client = module(socket=socket)
    with sys.modules["jackfield.adopt"](client) as adoption:  # type: ignore[operator]
        assert isinstance(adoption, Adoption) and client.socket is jackfield.socket


# --- what it then does ----------------------------------------------------------------------------------------------


class Gathering(http.server.BaseHTTPRequestHandler):
    """Answers when as many requests as were announced have come in: 200 then, 503 if they do not come."""

    protocol_version = "HTTP/1.1"
    together: threading.Barrier

    def do_GET(self) -> None:
        try:
            self.together.wait()
            self.send_response(200)
        except threading.BrokenBarrierError:
            self.send_response(503)
        body = self.path.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # with the default of 5 some connect again after a second


@contextmanager
def gathering(number: int, patience: float) -> Iterator[tuple[str, int]]:
    handler = type("Handler", (Gathering,), {"together": threading.Barrier(number, timeout=patience)})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[:2]  # type: ignore[misc]
        finally:
            server.shutdown()
            thread.join()


def ask_all(address: tuple[str, int], number: int) -> list[tuple[int, bytes]]:
    """``number`` green threads of one OS thread ask at once."""

    def ask(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*address, timeout=SOON)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def main() -> list[tuple[int, bytes]]:
        asking = [spawn(ask, f"/{each}") for each in range(number)]
        return [each.result() for each in asking]

    return run(main)


def test_a_blocking_client_cooperates() -> None:
    with gathering(20, SOON) as address, adopt(http.client):
        assert ask_all(address, 20) == [(200, f"/{each}".encode()) for each in range(20)]
    assert http.client.socket is socket  # type: ignore[attr-defined]


def test_without_adoption_it_holds_the_loop_and_the_proof_fails() -> None:
    with gathering(2, 0.1) as address:
        assert [status for status, _ in ask_all(address, 2)] == [503, 503]


def test_in_a_plain_thread_an_adopted_client_works_as_ever() -> None:
    with gathering(1, SOON) as address, adopt(http.client):
        connection = http.client.HTTPConnection(*address, timeout=SOON)
        connection.request("GET", "/plain")
        assert connection.getresponse().read() == b"/plain"
        connection.close()


def in_turns(first: Callable[[], object]) -> list[str]:
    """``first`` in one green thread while another needs its turn to end it."""
    order: list[str] = []

    def waiter() -> None:
        first()
        order.append("first")

    def main() -> None:
        waiting = spawn(waiter)
        spawn(order.append, "second").join()
        waiting.result(SOON)

    run(main)
    return order


def test_sleep_gives_the_others_their_turn() -> None:
    client = module(time=time)
    with adopt(client):
        assert in_turns(lambda: client.time.sleep(0.01)) == ["second", "first"]
        assert in_turns(lambda: client.time.sleep(0)) == ["second", "first"]
        client.time.sleep(0)  # a plain thread
        for wrong, error in ((-1, ValueError), ("1", TypeError)):
            with pytest.raises(error):
                run(client.time.sleep, wrong)

        async def coroutine() -> None:
            assert client.time.sleep(0.001) is None  # blocks, as it always did: it is no awaitable

        asyncio.run(coroutine())
    assert in_turns(lambda: client.time.sleep(0)) == ["first", "second"]


def test_select_gives_the_others_their_turn() -> None:
    client = module(select=select)
    with adopt(client):
        wait = client.select.select
    one, two = socket.socketpair()
    with one, two:
        answers: Queue[Any] = Queue()
        asked = Event()

        def waiter(*arguments: Any) -> None:
            asked.set()
            answers.put(wait(*arguments))

        def main() -> None:
            waiting = spawn(waiter, [one], [], [one], SOON)
            asked.wait()
            two.send(b"x")
            assert answers.get() == ([one], [], [])
            assert wait([one], [two], []) == ([one], [two], [])
            assert wait([one.fileno()], [], [], 0) == ([one.fileno()], [], [])
            one.recv(1)
            assert wait([one], [], [], 0.01) == ([], [], [])
            assert wait([one], [], [], 0) == ([], [], [])
            two.shutdown(socket.SHUT_WR)
            assert wait([one], [], [], SOON) == ([one], [], [])
            # A hang-up alone is not what it waits for, and does not make it spin.
            idle = spawn(wait, [], [], [one])
            spawn(lambda: None).join()
            two.close()
            spawn(lambda: None).join()
            assert not idle.done
            idle.kill()
            with pytest.raises(GreenExit):
                idle.result()
            with pytest.raises(ValueError):
                wait([two], [], [])
            waiting.result()

        run(main)
        assert wait([one], [], [], SOON) == ([one], [], [])  # a plain thread
