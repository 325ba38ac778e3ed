"""The table of states, move by move; and what each call of a server does in each state."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, Echo, Held, ask, dial, echo, in_thread, leave, until

from jackfield import MisuseError, Server, StartError
from jackfield.door import open_listeners
from jackfield.lifecycle import ENDED, LifeCycle, State

# -- the table ---------------------------------------------------------------------------------------------------------

NEW, SERVING, SUSPENDED, DRAINING, STOPPED, FAILED = State

#: Written out once more, so that a change of the table is a change of this test.
LEGAL = {
    (NEW, SERVING), (NEW, STOPPED), (NEW, FAILED),
    (SERVING, SUSPENDED), (SERVING, DRAINING), (SERVING, STOPPED), (SERVING, FAILED),
    (SUSPENDED, SERVING), (SUSPENDED, DRAINING), (SUSPENDED, FAILED),
    (DRAINING, STOPPED), (DRAINING, FAILED),
}  # fmt: skip

PATHS = {
    NEW: [],
    SERVING: [SERVING],
    SUSPENDED: [SERVING, SUSPENDED],
    DRAINING: [SERVING, DRAINING],
    STOPPED: [SERVING, DRAINING, STOPPED],
    FAILED: [FAILED],
}


@pytest.mark.parametrize(("start", "to"), list(itertools.product(State, State)), ids=lambda state: state.value)
def test_every_move(start: State, to: State) -> None:
    life = LifeCycle()
    for step in PATHS[start]:
        life.move(step)
    if (start, to) in LEGAL:
        life.move(to)
        assert life.state is to
    else:
        with pytest.raises(MisuseError, match=f"{start.value} cannot become {to.value}; make a new Server"):
            life.move(to)
        assert life.state is start
    assert life.ended == (life.state in {STOPPED, FAILED})


def test_whatever_happens_it_comes_to_an_end() -> None:
    assert frozenset({STOPPED, FAILED}) == ENDED
    for state in State:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {to for start, to in LEGAL if start in frontier} - reached
            reached |= frontier
        assert reached & ENDED


def test_of_two_who_move_at_once_one_is_refused() -> None:
    for _ in range(50):
        life, together, outcomes = LifeCycle(), threading.Barrier(4), []

        def move(life: LifeCycle = life, together: Any = together, outcomes: list[str] = outcomes) -> None:
            together.wait()
            try:
                life.move(SERVING)
                outcomes.append("moved")
            except MisuseError:
                outcomes.append("refused")

        threads = [threading.Thread(target=move) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["moved", "refused", "refused", "refused"]


# -- the server in each state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_one_life_from_beginning_to_end(mode: str) -> None:
    server = Server(echo(mode), TCP, mode=mode)
    assert (server.state, server.addresses, server.connections, bool(server.draining)) == ("new", [], [], False)
    with pytest.raises(MisuseError, match="ask between start"):
        _ = server.server_address
    assert server.wait_stopped(0) is False

    assert server.bind() is server
    address = server.server_address
    assert (server.state, server.addresses) == ("new", [f"tcp://127.0.0.1:{address[1]}"])
    assert server.bind() is server
    assert server.server_address == address

    assert server.start() is server
    assert server.state == "serving"
    assert ask(server) == b"HELLO"
    assert server.info().uptime > 0

    server.stop()
    assert server.draining
    assert server.wait_stopped(SOON)
    assert server.state == "stopped"
    assert server.addresses == [f"tcp://127.0.0.1:{address[1]}"], "they stay readable"
    assert server.info().accepted == 1
    server.stop()
    assert server.wait_stopped(0)
    with pytest.raises(ConnectionRefusedError):
        dial(server)


@pytest.mark.parametrize("mode", MODES)
def test_clients_may_connect_as_soon_as_it_is_bound(mode: str) -> None:
    server = Server(echo(mode), TCP, mode=mode).bind()
    with dial(server) as client:
        client.sendall(b"early")
        with server:
            assert client.recv(100) == b"EARLY"
            leave(client)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "process"])  # these handlers are let go from here
def test_it_is_draining_while_somebody_is_at_work(mode: str) -> None:
    held = Held(mode)
    server = Server(held.handler, TCP, mode=mode).start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop()
        if mode != "serial":  # there the loop is in the handler, and moves on when that returns
            until(lambda: server.state == "draining")
        assert not server.wait_stopped(0.01)
        assert server.bind() is server
        held.go.set()
        assert client.recv(10) == b"bye"
    assert server.wait_stopped(SOON)
    assert server.state == "stopped"


@pytest.mark.parametrize("mode", MODES)
def test_stopped_before_it_began(mode: str) -> None:
    for bound in (False, True):
        server = Server(echo(mode), TCP, mode=mode)
        if bound:
            server.bind()
        server.stop()
        assert server.state == "stopped"
        assert server.wait_stopped(0)
        # A signal may come before the call that begins: that call returns quietly, and nothing is served.
        assert server.start() is server
        server.serve_forever()
        with server:
            assert server.state == "stopped"


@pytest.mark.parametrize("again", ["start", "__enter__"])
@pytest.mark.parametrize("mode", MODES)
def test_one_that_has_served_does_not_serve_again(mode: str, again: str) -> None:
    """In silence it would look as if it did."""
    server = Server(echo(mode), TCP, mode=mode)
    with server:
        ask(server)
    with pytest.raises(MisuseError, match="has served and is stopped: make a new Server"):
        getattr(server, again)()
    assert server.state == "stopped"


def test_nor_does_one_that_drains() -> None:
    held = Held("thread")
    server = Server(held.handler, TCP).start()
    with dial(server) as client:
        assert client.recv(10) == b"here"
        server.stop()
        until(lambda: server.state == "draining")
        with pytest.raises(MisuseError, match="make a new Server"):
            server.start()
        held.go.set()
    assert server.wait_stopped(SOON)


def test_waiting_for_the_end_of_one_that_has_ended() -> None:
    """serve_forever() after start(): if it was stopped in between, there is nothing to wait for any more."""
    server = Server(Echo, TCP).start()
    server.stop()
    assert server.wait_stopped(SOON)
    server.serve_forever()


@pytest.mark.parametrize("first", ["bind", "start", "serve_forever", "__enter__"])
def test_one_that_could_not_start_does_not_start_again(first: str) -> None:
    with Server(Echo, TCP) as taken:
        server = Server(Echo, *taken.addresses)
        with pytest.raises(StartError) as why:
            getattr(server, first)()
        assert server.state == "failed"
    for again in ("start", "__enter__"):
        with pytest.raises(MisuseError, match="has failed: make a new Server") as caught:
            getattr(server, again)()
        assert caught.value.__cause__ is why.value
    with pytest.raises(StartError) as caught_again:
        server.serve_forever()  # it raises what ended it, whenever that was
    assert caught_again.value is why.value
    assert server.state == "failed"
    server.stop()
    assert server.wait_stopped(0)


@pytest.mark.parametrize("mode", MODES)
def test_starting_one_that_serves_changes_nothing(mode: str) -> None:
    """``with server.start():`` starts it twice."""
    with Server(echo(mode), TCP, mode=mode).start() as server:
        assert ask(server) == b"HELLO"
        threads, loop = threading.active_count(), server._loop
        assert server.start() is server
        assert (threading.active_count(), server._loop) == (threads, loop)
        assert ask(server) == b"HELLO"


def test_serve_forever_on_one_that_serves_waits_for_its_end() -> None:
    server = Server(Echo, TCP).start()
    with in_thread(server.serve_forever) as waiting:
        assert ask(server) == b"HELLO"
        assert waiting.is_alive()
        server.stop()


@pytest.mark.parametrize("mode", MODES)
def test_what_ends_the_serving_is_raised_and_the_server_failed(
    mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Exception):
        pass

    def attend(self: Any, loop: Any) -> None:
        raise Broken

    monkeypatch.setattr("jackfield.serving.service.Service.attend", attend)
    server = Server(echo(mode), TCP, mode=mode)
    with pytest.raises(Broken):
        server.serve_forever()
    assert server.state == "failed"
    assert server.wait_stopped(0)
    in_background = Server(echo(mode), TCP, mode=mode).start()
    assert in_background.wait_stopped(SOON)
    assert in_background.state == "failed"
    until(lambda: "serving ended by an error" in caplog.text)
    with pytest.raises(Broken):
        in_background.serve_forever()


def test_the_repr_tells_what_it_is() -> None:
    server = Server(Echo, TCP, name="upper")
    assert repr(server) == "<Server upper thread new on nothing yet>"
    with server:
        assert repr(server) == f"<Server upper thread serving on {server.addresses[0]}>"


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_started_and_stopped_at_once(mode: str) -> None:
    """Whoever is first: it ends stopped, nothing is raised, nothing is left."""
    for _ in range(30):
        server, together = Server(echo(mode), TCP, mode=mode), threading.Barrier(2)

        def start(server: Server = server, together: threading.Barrier = together) -> None:
            together.wait()
            server.start()

        with in_thread(start):
            together.wait()
            server.stop()
        assert server.wait_stopped(SOON)
        assert server.state == "stopped"


@pytest.mark.parametrize("moment", ["bind", "pop", "move"])
def test_a_stop_that_interrupts_the_start(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler does: in the midst of start(), on the same thread."""
    server = Server(Echo, TCP)

    if moment == "bind":

        def interrupted_open(*args: Any, **options: Any) -> Any:
            opened = open_listeners(*args, **options)
            interrupted.append(1)
            server.stop(0)
            return opened

        monkeypatch.setattr("jackfield.server.open_listeners", interrupted_open)
    elif moment == "move":

        class Interrupting:
            """In the place of the lock that a move holds: the signal comes while it is held."""

            def __init__(self) -> None:
                self.lock = threading.Lock()

            def __enter__(self) -> None:
                assert self.lock.acquire(timeout=5), "the handler waits for what it interrupted"
                if not interrupted:
                    interrupted.append(1)
                    server.stop(0)

            def __exit__(self, *_: object) -> None:
                self.lock.release()

        server._life._lock = Interrupting()  # type: ignore[assignment]
    else:
        begin = Server._begin

        def interrupted_begin(self: Server) -> bool:
            interrupted.append(1)
            self.stop(0)
            return begin(self)

        monkeypatch.setattr(Server, "_begin", interrupted_begin)
    interrupted: list[int] = []
    server.start()
    assert interrupted
    assert server.wait_stopped(SOON)
    assert server.state == "stopped"


def test_waits_that_gave_up_are_forgotten() -> None:
    """Whoever asks every second does not leave a trace for each."""
    with Server(Echo, TCP) as server:
        for _ in range(5):
            assert not server.wait_stopped(0.001)
        assert server._stopped._waits == []


@pytest.mark.parametrize("waiters", [1, 5])
def test_several_wait_for_the_end(waiters: int) -> None:
    server = Server(Echo, TCP).start()
    told: list[bool] = []
    threads = [threading.Thread(target=lambda: told.append(server.wait_stopped(SOON))) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    until(lambda: len(server._stopped._waits) == waiters)
    server.stop()
    for thread in threads:
        thread.join()
    assert told == [True] * waiters


def test_a_table_with_a_hole_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a move that nobody intended."""
    from jackfield import lifecycle

    monkeypatch.setitem(lifecycle.MOVES, STOPPED, frozenset({SERVING}))
    broken: Callable[..., None] = test_every_move
    with pytest.raises(pytest.fail.Exception):
        broken(STOPPED, SERVING)
