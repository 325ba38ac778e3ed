"""One reactor for each thread, on whatever loop runs there; several at once, one after the other, and after a fork."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from typing import Any

import pytest
from reactor_support import HOSTS, SOON, Host, async_until, pair, turns, until

from jackfield import socket
from jackfield.errors import MisuseError
from jackfield.reactor import Reactor, await_, current_reactor, drive, green, in_green, run, sleep, spawn
from jackfield.streams import AsyncSocket
from jackfield.sync import Event, Queue


def echo_through(host: Host, connections: int = 20, messages: int = 5) -> int:
    """Green threads and coroutines echo to each other over sockets; the number of messages that came back right."""

    def serve(sock: socket.socket) -> None:
        while data := sock.recv(100):
            sock.sendall(data.upper())

    async def serve_async(sock: socket.socket) -> None:
        mine = AsyncSocket(sock)
        while data := await mine.recv(100):
            await mine.sendall(data.upper())

    def ask(sock: socket.socket, number: int) -> int:
        good = 0
        for turn in range(messages):
            text = f"message {turn} of {number}"
            sock.sendall(text.encode())
            good += sock.recv(100).decode() == text.upper()
        sock.shutdown(socket.SHUT_WR)
        return good

    def main() -> int:
        ends = [socket._fallback_socketpair() if n % 2 else socket.socketpair() for n in range(connections)]
        try:
            servers: list[Any] = [
                spawn(serve, left) if n % 3 else drive(serve_async(left)) for n, (left, _) in enumerate(ends)
            ]
            clients = [spawn(ask, right, n) for n, (_, right) in enumerate(ends)]
            good = sum(client.result() for client in clients)
            for server in servers:
                await_(server)
            return good
        finally:
            for left, right in ends:
                left.close()
                right.close()

    return host.run(main)  # type: ignore[no-any-return]


def test_everything_together(host: Host) -> None:
    assert echo_through(host) == 100


def test_one_reactor_for_one_loop(host: Host) -> None:
    def main() -> None:
        reactor = current_reactor()
        assert spawn(current_reactor).result() is reactor

        async def coroutine() -> Reactor:
            return current_reactor()

        assert await_(coroutine()) is reactor
        assert await_(drive(coroutine())) is reactor
        assert repr(reactor.loop) in repr(reactor)

    host.run(main)


def test_an_application_that_runs_already(host: Host) -> None:
    """Its own tasks, callbacks and timers go on beside ours, and it ends when it likes."""

    async def application() -> None:
        ticks: list[int] = []
        loop = asyncio.get_running_loop()

        async def tick() -> None:
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        ticking = loop.create_task(tick())
        before = len(ticks)

        def works() -> str:
            with pair() as (left, right):
                reader = spawn(left.recv, 10)
                until(lambda: len(ticks) > before + 10)
                right.send(b"x")
                return reader.result().decode()

        assert await green(works) == "x"
        ticking.cancel()
        await async_until(ticking.done)

    host.drive(application)


def test_a_loop_that_is_run_several_times(host: Host) -> None:
    """run_until_complete, again and again on one loop: its reactor stays."""
    if "running" in host.name:
        pytest.skip("this is about a loop that stops in between")

    import contextlib

    with contextlib.closing(host._factory() if host._factory else asyncio.new_event_loop()) as loop:

        async def once() -> Reactor:
            event = Event()
            waiting = spawn(event.wait)
            spawn(event.set)
            await waiting
            return current_reactor()

        reactors = {loop.run_until_complete(once()) for _ in range(3)}
        assert len(reactors) == 1
        left_waiting: list[Any] = []

        async def leaves() -> None:
            left_waiting.append(spawn(lambda: (sleep(0.001), in_green())[1]))

        async def comes_back() -> bool:
            return await left_waiting[0]  # type: ignore[no-any-return]

        loop.run_until_complete(leaves())
        assert loop.run_until_complete(comes_back()) is True
        reactors.pop().close()


def test_one_loop_after_the_other_in_one_thread() -> None:
    """A reactor whose loop was closed gives its descriptor back when the next one is made."""

    async def main() -> Reactor:
        await green(turns)
        return current_reactor()

    reactors = [asyncio.run(main()) for _ in range(5)]
    assert len(set(map(id, reactors))) == 5
    assert all(reactor.closed for reactor in reactors)
    assert all(reactor.poller.closed for reactor in reactors[:-1])
    reactors[-1].close()


def test_a_loop_inside_a_loop_that_stands_still() -> None:
    """A callback of one loop may not run another in the same thread: asyncio refuses, and so do we."""

    async def main() -> None:
        with pytest.raises(MisuseError):
            run(turns)
        await green(turns)
        current_reactor().close()

    asyncio.run(main())


@pytest.mark.parametrize("name", HOSTS)
def test_reactors_of_several_threads_at_once(name: str) -> None:
    if "uvloop" in name:
        pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed")
    results: list[int] = []
    reactors: list[Any] = []
    all_there = threading.Barrier(4)

    def body() -> None:
        host = Host(name)
        host.run(lambda: (reactors.append(current_reactor()), all_there.wait(SOON)))
        results.append(echo_through(host))

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [100] * 4
    assert len(set(map(id, reactors))) == 4


def test_they_hand_things_to_each_other() -> None:
    """A ring of four threads, each with a reactor, and a token that goes round by queues."""
    rings: list[Queue[int]] = [Queue() for _ in range(4)]

    def body(number: int) -> None:
        def main() -> None:
            while (token := rings[number].get()) >= 0:
                rings[(number + 1) % 4].put(token - 1)
            rings[(number + 1) % 4].put(-1)

        run(main)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    rings[0].put(1001)
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()


def test_a_green_thread_is_joined_and_killed_from_another_reactor() -> None:
    handed: Queue[Any] = Queue()

    def owner() -> None:
        def main() -> None:
            waits, returns = spawn(Event().wait), spawn(lambda: "value")
            handed.put((waits, returns))
            waits.join()

        run(main)

    thread = threading.Thread(target=owner)
    thread.start()

    def main() -> None:
        waits, returns = handed.get()
        assert returns.result(SOON) == "value"
        waits.kill(KeyError)
        with pytest.raises(KeyError):
            waits.result(SOON)

    run(main)
    thread.join()


def test_a_socket_moves_from_one_reactor_to_the_next() -> None:
    """Handed over when nobody waits on it, it is registered where it is used."""
    with pair() as (left, right):
        for number in range(3):
            answer: list[bytes] = []

            def body(answer: list[bytes] = answer) -> None:
                def main() -> bytes:
                    reader = spawn(left.recv, 10)
                    turns()
                    right.send(b"x%d" % number)  # noqa: B023
                    return reader.result()  # type: ignore[no-any-return]

                answer.append(run(main))

            thread = threading.Thread(target=body)
            thread.start()
            thread.join()
            assert answer == [b"x%d" % number]
            right.send(b"plain")
            assert left.recv(10) == b"plain", "and in a plain thread in between"


def test_a_forked_child_has_reactors_of_its_own() -> None:
    """It shares the parent's epoll set (fork(2), epoll(7)): what it registered there, the parent would see."""

    def main() -> int:
        with pair() as (left, right):
            reader = spawn(left.recv, 10)
            turns()
            reactor = current_reactor()
            fds = set(reactor.poller.channels)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    # In a thread without a running loop, as a forked handler has it.
                    outcome: list[int] = []
                    child = threading.Thread(target=lambda: outcome.append(echo_through(Host("asyncio"), 4, 2)))
                    child.start()
                    child.join()
                    status = 0 if outcome == [8] else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            assert set(reactor.poller.channels) == fds
            right.send(b"the parent's")
            assert reader.result() == b"the parent's"[:10]
            return status

    assert run(main) == 0


def test_a_reactor_that_ended_is_not_kept() -> None:
    def main() -> weakref.ref[Any]:
        with pair() as (left, right):
            spawn(left.recv, 10)
            right.send(b"x")
            turns()
            return weakref.ref(current_reactor())

    reference = run(main)
    gc.collect()
    assert reference() is None


def test_the_host_is_asked_for_one_descriptor_and_one_timer() -> None:
    """However many sockets and sleepers there are."""

    def main() -> None:
        reactor = current_reactor()
        loop = reactor.loop
        timers = len(loop._scheduled)  # type: ignore[attr-defined]
        readers = len(loop._selector.get_map())  # type: ignore[attr-defined]
        with pair() as (a, b), pair() as (c, d):
            waiting = [spawn(sock.recv, 10) for sock in (a, b, c, d)] + [spawn(sleep, n) for n in range(3600, 3650)]
            turns()
            assert len(loop._selector.get_map()) == readers  # type: ignore[attr-defined]
            live = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
            assert len(live) == timers + 1
            for one in waiting:
                one.kill()
            for one in waiting:
                one.join()

    run(main)


def test_a_host_that_does_not_watch_the_set_would_be_found_out() -> None:
    """The broken case: nobody tells the reactor that something is ready."""

    def main(watched: bool) -> bool:
        reactor = current_reactor()
        with pair() as (left, right):
            reader = spawn(left.recv, 10)
            turns()
            told = Event()

            async def outside() -> bool:
                if not watched:
                    reactor.loop.remove_reader(reactor.poller.fileno())
                right.send(b"x")
                for _ in range(20):
                    await asyncio.sleep(0)
                told.set()
                return reader.done

            task = reactor.loop.create_task(outside())
            told.wait()
            reader.join()
            return await_(task)

    assert run(main, True) is True
    assert run(main, False) is False
