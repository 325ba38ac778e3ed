"""A socket for each worker (``reuse_port``): the kernel spreads, and nobody is lost who waits at one of them."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervised import SECONDS, Client, Supervised, descriptors, state, until

from jackfield.door import Listener, open_listeners
from jackfield.supervisor.places import Places, open_places

APART = "tcp://127.0.0.1:0?reuse_port=1"

slow = pytest.mark.slow


# -- who has which ---------------------------------------------------------------------------------------------------


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    """A port for several sockets, and one for one."""
    opened = [*open_listeners(APART), *open_listeners("tcp://127.0.0.1:0")]
    yield opened
    for listener in opened:
        listener.close()


def test_what_is_missing_is_opened_on_the_same_port_with_the_same_options(listeners: list[Listener]) -> None:
    more = open_places(listeners, 3)
    listeners += more
    assert [one.location for one in more] == [listeners[0].location] * 2
    assert all(one.address == listeners[0].address for one in more)
    assert open_places(listeners, 3) == []
    places = Places(listeners)
    assert places and not Places(listeners[1:2])
    assert [places.of(number, 3) for number in range(3)] == [{listeners[0]}, {more[0]}, {more[1]}]
    assert places.of(0, 1) == {listeners[0], *more}


def test_one_for_whom_there_is_no_socket_has_anothers(listeners: list[Listener]) -> None:
    assert Places(listeners).of(5, 8) == {listeners[0]}


@pytest.mark.parametrize("address", [APART, "udp://127.0.0.1:0?reuse_port=1", "tcp://:0?reuse_port=1",
                                     "tcp6://[::1]:0?reuse_port=1", "tcp4://:0?reuse_port=1"])  # fmt: skip
def test_a_worker_is_given_its_own_and_those_of_all(address: str, listeners: list[Listener]) -> None:
    first = open_listeners(address)
    asked = [*listeners, *first]
    listeners += first
    listeners += open_places(first, 2)
    places = Places([*first, listeners[1], *listeners[3:]])
    mine = places.of(1, 2)
    chosen = places.for_worker(mine)([asked[1], *first])
    assert chosen == [asked[1], listeners[3]]
    assert first[0].fileno() == -1, "the other one's is closed: nobody would serve who waits there"
    assert listeners[3].fileno() >= 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_where_the_port_is_another_users_there_are_fewer(
    listeners: list[Listener], caplog: pytest.LogCaptureFixture
) -> None:
    os.seteuid(65534)
    try:
        with caplog.at_level(logging.WARNING):
            assert open_places(listeners, 4) == []
    finally:
        os.seteuid(0)
    (record,) = caplog.records
    assert "some workers have no socket of their own: cannot listen" in record.getMessage()


@given(st.lists(st.tuples(st.sampled_from(["die", "more", "fewer", "replace", "replace all"]), st.integers(0, 7)),
                max_size=40))  # fmt: skip
def test_no_socket_is_ever_nobodys(steps: list[tuple[str, int]]) -> None:
    """But for the time until the one is there whose it is to be."""
    sockets = [object() for _ in range(2)]
    places = Places([])
    places._ports = [sockets]  # type: ignore[list-item]
    workers, members = 2, [_member(places, number, 2, []) for number in range(2)]
    for step, number in steps:
        if step == "more" and workers < 8:
            workers += 1
            if len(sockets) < workers:
                sockets.append(object())
        elif step == "fewer" and workers > 1:
            workers -= 1
            members = [_member(places, place, workers, []) for place in range(workers)]
        elif step == "replace all":
            members = [_member(places, place, workers, []) for place in range(workers)]
        elif step in ("die", "replace"):
            gone = members.pop(number % len(members))
            if step == "replace":
                members.append(_member(places, gone.place, workers, members))
        while len(members) < workers:
            members.append(_member(places, places.free(members), workers, members))
        assert {one for member in members for one in member.listeners} == set(sockets)


def _member(places: Places, place: int, workers: int, others: list[Any]) -> Any:
    return SimpleNamespace(place=place, listeners=places.of(place, workers, others))


# -- in workers ------------------------------------------------------------------------------------------------------


def _listening(program: Supervised) -> set[str]:
    """The sockets that listen on its port (proc(5), /proc/net/tcp; 0A is TCP_LISTEN)."""
    port = int(program.address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}


def _of(pid: int, sockets: set[str]) -> set[str]:
    return set(descriptors(pid).values()) & sockets


@slow
def test_each_worker_has_one_and_the_kernel_spreads(tmp_path: Path) -> None:
    with Supervised(tmp_path, "green", workers=4, addresses=[APART]) as program:
        sockets = _listening(program)
        assert len(sockets) == 4
        assert _of(program.pid, sockets) == sockets
        own = [_of(pid, sockets) for pid in program.workers]
        assert [len(one) for one in own] == [1] * 4 and set().union(*own) == sockets
        with program.clients(200) as clients:
            pids = [client.ask("pid") for client in clients]
        # A hash over 200 ports leaves one of four out once in 4 * 0.75 ** 200, or 10 ** 24, times.
        assert len(set(pids)) == 4
        assert program.end() == 0


def states_of_threads(pid: int) -> set[str]:
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[tuple[Supervised, int, Client]]:
    """A program, a worker of it that is stopped, and a client that waits at its socket."""
    with Supervised(tmp_path, "thread", workers=2, addresses=[APART]) as program, ExitStack() as stack:
        stopped = program.workers[0]
        os.kill(stopped, signal.SIGSTOP)
        # A thread that still runs would let the client in, and then be stopped.
        until(lambda: states_of_threads(stopped) == {"T"}, "it is stopped")
        while True:
            client = stack.enter_context(program.client())
            client.tell("say on")
            if not select.select([client.socket], [], [], 0.5)[0]:
                break
            client.socket.close()
        yield program, stopped, client
        assert program.end() == 0


@slow
def test_who_waits_at_the_socket_of_one_that_dies_is_served_by_the_next(
    waiting: tuple[Supervised, int, Client],
) -> None:
    _, stopped, client = waiting
    os.kill(stopped, signal.SIGKILL)
    assert client.hear() == "on"


@slow
def test_who_waits_through_a_reload_is_served(waiting: tuple[Supervised, int, Client]) -> None:
    program, stopped, client = waiting
    assert program.reload() == "reloaded True"
    assert client.hear() == "on"
    os.kill(stopped, signal.SIGCONT)
    until(lambda: state(stopped) == "", "the old one ends")


@slow
def test_who_waits_while_they_become_fewer_is_served(waiting: tuple[Supervised, int, Client]) -> None:
    program, stopped, client = waiting
    program.send(signal.SIGTTOU)
    assert client.hear() == "on"
    os.kill(stopped, signal.SIGCONT)
    until(lambda: len(program.workers) == 1, "one is left")


def test_a_socket_that_is_closed_loses_who_waits_there() -> None:
    """The broken case, as a worker that opens its own would have it: what the supervisor holds them all for."""
    (first,) = open_listeners(APART)
    (second,) = open_places([first], 2)
    with ExitStack() as stack:
        stack.callback(first.close)
        clients = []
        for _ in range(64):
            clients.append(stack.enter_context(socket.create_connection(first.socket.getsockname(), SECONDS)))
        second.close()
        lost = 0
        for client in clients:
            try:
                client.sendall(b"x")
                client.setblocking(False)
                client.recv(1)
            except BlockingIOError:
                continue
            except ConnectionError:
                lost += 1
        assert lost


@slow
def test_more_and_fewer_and_more(tmp_path: Path) -> None:
    with Supervised(tmp_path, "green", workers=1, addresses=[APART]) as program, program.client() as client:
        pid = client.ask("pid")
        for number in (2, 3, 4):
            program.send(signal.SIGTTIN)
            until(lambda n=number: len(_listening(program)) == n == len(program.workers), f"{number}")  # type: ignore[misc]
        until(lambda: len({program.ask("pid") for _ in range(60)}) == 4, "all four serve")
        program.send(signal.SIGTTOU)
        until(lambda: program.log.count("3 workers from now on") == 2, "the first is heard")  # two at once are one
        program.send(signal.SIGTTOU)
        until(lambda: len(_who_serve(program)) == 2, "two serve")
        sockets = _listening(program)
        assert len(sockets) == 4, "none was closed"
        serving = _who_serve(program)
        until(lambda: all(_of(pid, sockets) for pid in serving), "they have them")
        assert set().union(*(_of(pid, sockets) for pid in serving)) == sockets
        os.kill(serving.pop(), signal.SIGKILL)
        until(lambda: all(program.ask("say on") == "on" for _ in range(40)), "all sockets are somebody's")
        program.send(signal.SIGTTIN)
        until(lambda: len(_who_serve(program)) == 3, "three serve")
        assert all(program.ask("say on") == "on" for _ in range(40))
        assert client.ask("pid") == pid, "who was there is where it was"
        client.socket.close()
        assert program.end() == 0
        assert len(re.findall("ERROR", program.log)) == 1, program.log  # the kill


def _who_serve(program: Supervised) -> set[int]:
    """Those that hold a listening socket, once no new one is on its way: a retiring one has closed its own."""
    sockets = _listening(program)
    return {pid for pid in program.workers if _of(pid, sockets)}


PROGRAM = """
import os, jackfield
from jackfield.door import open_listeners

class Handler(jackfield.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"%d" % os.getpid())

if __name__ == "__main__":
    (listener,) = open_listeners("127.0.0.1:0", reuse_port=True)
    print(listener.location, flush=True)
    jackfield.serve(Handler, listener, workers=3, reuse_port=True)
"""


@slow
def test_a_program_has_it_by_an_argument(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            pids = set()
            for _ in range(100):  # the same fault as above: once in 10 ** 17 times
                with Client(address) as client:
                    pids.add(client.socket.recv(100))
            assert len(pids) == 3
        finally:
            process.terminate()
        assert process.wait(SECONDS) == 0
