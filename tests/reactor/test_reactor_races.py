"""Several things in one turn: a wake and a deadline, a wake and a kill, in either order; by a stopped clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent
from reactor_support import StoppedClock, pair, turns, until

from jackfield.reactor import GreenExit, GreenThread, GreenWait, current_reactor, run, sleep, spawn
from jackfield.reactor.poller import Channel
from jackfield.sync import Event, Queue


class Waits:
    """A green thread that waits five seconds for a wake, notes the outcome, and waits again without end."""

    def __init__(self) -> None:
        self.reactor = current_reactor()
        self.clock = StoppedClock.of(self.reactor)
        self.outcomes: list[Any] = []
        self.waits: list[GreenWait] = []
        self.green = spawn(self._run)
        until(lambda: self.waits)
        turns()

    def _run(self) -> None:
        try:
            self._wait(5.0)
            self._wait(None)
        except GreenExit:
            self.outcomes.append("killed")

    def _wait(self, timeout: float | None) -> None:
        wait = GreenWait(getcurrent())  # type: ignore[arg-type]
        self.waits.append(wait)
        self.outcomes.append(wait.wait(timeout))

    def in_one_callback(self, *steps: Callable[[], object]) -> None:
        """Run ``steps`` in one turn of the host loop, and let everything come of it that may."""
        done: list[bool] = []

        def callback() -> None:
            for step in steps:
                step()
            done.append(True)

        self.reactor.loop.call_soon(callback)
        until(lambda: done)
        turns(10)

    def deadline(self) -> None:
        self.clock.advance(5.0)
        self.reactor._on_time()

    def wake(self) -> None:
        self.waits[0].wake()

    def kill(self) -> None:
        self.green.kill()

    def turn(self) -> None:
        self.reactor._turn()


@pytest.mark.parametrize(
    ("steps", "outcomes"),
    [
        ("wake", [True]),
        ("deadline", [False]),
        ("wake-deadline", [True]),
        ("wake-turn-deadline", [True]),
        ("deadline-wake", [False]),
        ("deadline-wake-turn", [False]),
        ("wake-wake", [True]),
        ("kill", ["killed"]),
        ("wake-kill", [True, "killed"]),
        ("kill-wake", ["killed"]),
        ("kill-kill", ["killed"]),
        ("deadline-kill", [False, "killed"]),
        ("kill-deadline", [False, "killed"]),
        ("wake-deadline-kill", [True, "killed"]),
        ("kill-wake-deadline", [True, "killed"]),
    ],
)
def test_in_one_turn(steps: str, outcomes: list[Any]) -> None:
    """What came first counts, and nothing of the first wait reaches into the second."""

    def main() -> None:
        scene = Waits()
        scene.in_one_callback(*(getattr(scene, step) for step in steps.split("-")))
        assert scene.outcomes == outcomes
        if "kill" in steps:
            assert scene.green.done
            return
        assert len(scene.waits) == 2
        assert not scene.green.done, "the second wait was ended by what belonged to the first"
        scene.clock.pass_time(scene.reactor, 100)
        assert not scene.green.done, "the deadline of the first wait is none of the second"
        scene.waits[1].wake()
        scene.green.join()
        assert scene.outcomes == [*outcomes, True]

    run(main)


def test_a_wait_that_hears_a_stale_turn_would_be_found_out() -> None:
    """The broken case: a wait that resumes its green thread whether it waits there or not."""

    def deaf(self: GreenWait) -> None:
        self._green.switch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GreenWait, "switch", deaf)
        with pytest.raises(AssertionError):
            test_in_one_turn("wake-deadline", [True])


def test_a_wake_before_the_wait_is_not_lost() -> None:
    def main() -> bool:
        wait = GreenWait(getcurrent())  # type: ignore[arg-type]
        wait.wake()
        turns()
        return wait.wait(0.0)

    assert run(main) is True


@pytest.mark.parametrize("order", ["event-deadline", "deadline-event"])
def test_data_and_the_timeout_in_one_turn(order: str) -> None:
    """A socket's reader that is resumed by its deadline leaves the channel clean, and the data is there afterwards."""

    def main() -> None:
        reactor = current_reactor()
        with pair() as (left, right):
            clock = StoppedClock.of(reactor)
            outcomes: list[Any] = []
            channel = left._join(reactor.poller)
            assert isinstance(channel, Channel)
            turns()
            channel.readable = False

            def reader() -> None:
                for patience in (5.0, None):
                    try:
                        left._wait_readable(channel, getcurrent(), patience and clock.now() + patience)
                    except TimeoutError:
                        outcomes.append("timed out")
                    else:
                        outcomes.append("readable")
                    channel.readable = False

            green = spawn(reader)
            until(lambda: channel.reader is green)
            done: list[bool] = []

            def callback() -> None:
                right.send(b"x")
                clock.advance(5.0)
                for step in order.split("-"):
                    reactor._on_time() if step == "deadline" else reactor._turn()
                done.append(True)

            reactor.loop.call_soon(callback)
            until(lambda: done)
            turns()
            if order == "event-deadline":
                assert outcomes == ["readable"]
                right.send(b"y")
            green.join()
            assert outcomes == (["readable"] * 2 if order == "event-deadline" else ["timed out", "readable"])
            assert channel.reader is None

    run(main)


def test_killed_while_it_waits_on_a_socket_it_leaves_the_channel_clean() -> None:
    def main() -> None:
        with pair() as (left, right):
            for patience in (None, 3600.0):
                left.settimeout(patience)
                reader = spawn(left.recv, 10)
                turns()
                assert left._registered is not None
                assert left._registered.reader is reader
                reader.kill()
                reader.join()
                assert left._registered.reader is None
                right.send(b"still there")
                assert left.recv(100) == b"still there"

    run(main)


@pytest.mark.parametrize("at", [1, 62, 63, 64, 65, 127])
def test_a_kill_takes_nothing_that_was_received(at: int) -> None:
    """A green thread that reads without ever having to wait gives up its turn now and then. Killed there, it must not
    have bytes in hand: the next reader of the connection would miss them."""

    class Stop(Exception):
        pass

    def main() -> None:
        with pair() as (left, right):
            right.sendall(bytes(range(200)))
            taken: list[int] = []

            def reader() -> None:
                while True:
                    taken.append(left.recv(1)[0])
                    if len(taken) == at:
                        # From elsewhere at any moment: the kill has its turn as soon as this one gives its own away.
                        killer = threading.Thread(target=thread.kill, args=(Stop,))
                        killer.start()
                        killer.join()

            thread = spawn(reader)
            with pytest.raises(Stop):
                thread.result()
            assert [*taken, *left.recv(1000)] == list(range(200))

    run(main)


def test_wakes_from_many_threads_are_all_heard() -> None:
    """Ten plain threads hand a thousand things each to green threads, which wait for each."""

    def main() -> int:
        queue: Queue[int] = Queue()
        total = 0

        def feed() -> None:
            for number in range(1000):
                queue.put(number)

        threads = [threading.Thread(target=feed) for _ in range(10)]
        for thread in threads:
            thread.start()
        for _ in range(10_000):
            total += queue.get()
        for thread in threads:
            thread.join()
        return total

    assert run(main) == 10 * sum(range(1000))


def test_two_that_wait_on_each_other_in_turn() -> None:
    def main() -> list[str]:
        seen: list[str] = []
        ping, pong = Queue[int](), Queue[int]()

        def player(name: str, mine: Queue[int], other: Queue[int]) -> None:
            for _ in range(100):
                seen.append(f"{name}{mine.get()}")
                other.put(len(seen))

        players = [spawn(player, "a", ping, pong), spawn(player, "b", pong, ping)]
        ping.put(0)
        for one in players:
            one.join()
        return seen

    assert run(main) == [f"{'ab'[n % 2]}{n}" for n in range(200)]


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    def main() -> None:
        reactor = current_reactor()
        clock = StoppedClock.of(reactor)
        woken: list[int] = []
        sleepers: list[GreenThread] = []
        for seconds in (3, 1, 2, 5, 4):
            sleepers.append(spawn(lambda s=seconds: (sleep(s), woken.append(s))))
        turns()
        clock.pass_time(reactor, 0.5)
        assert woken == []
        clock.pass_time(reactor, 2.5)
        assert woken == [1, 2, 3]
        clock.pass_time(reactor, 10)
        assert woken == [1, 2, 3, 4, 5]
        for sleeper in sleepers:
            sleeper.join()

    run(main)


def test_an_event_set_before_its_waiter_comes() -> None:
    def main() -> None:
        event = Event()
        event.set()
        spawn(event.wait).join()

    run(main)
