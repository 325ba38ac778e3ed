"""The processes of a load test: together they do all of it, a lost one is told of, and none is left behind."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from bench_support import Peer, echo

from jackfield.address import parse_address
from jackfield.bench.crowd import Crowd, LostProcessError
from jackfield.bench.load import Beat
from jackfield.bench.plan import Plan
from jackfield.bench.result import Result
from jackfield.bench.target import find, try_out

pytestmark = pytest.mark.usefixtures("twin")


def crowd_of(address: str, on_beat: Any = None, **asked: Any) -> tuple[Plan, Crowd]:
    plan = Plan(parse_address(address), **{"warmup": 0.0, "connections": 4, **asked})
    return plan, Crowd(plan, find(plan.address)[0], None, on_beat)


def children() -> set[str]:
    with open(f"/proc/self/task/{threading.get_native_id()}/children", encoding="ascii") as file:
        return set(file.read().split())


def test_together_they_do_all_of_it(twin: str) -> None:
    beats: dict[int, list[Beat]] = {}
    with Peer(echo) as peer:
        plan, crowd = crowd_of(
            peer.address, lambda number, beat: beats.setdefault(number, []).append(beat), workers=3, duration=None,
            requests=500,
        )  # fmt: skip
        result = Result.of(plan, crowd.run())
    assert result.latencies.count == 500
    assert len(result.processors) == 3
    assert result.native is (twin == "native")
    assert sum(told[-1].measured for told in beats.values()) == 500
    assert sum(replies for replies, _ in result.timeline) == 500


def test_all_of_it_is_measured_for_as_long_as_was_asked() -> None:
    with Peer(echo) as peer:
        plan, crowd = crowd_of(peer.address, workers=2, duration=0.3, warmup=0.1)
        result = Result.of(plan, crowd.run())
    assert result.seconds == pytest.approx(0.3)
    assert 0 < result.latencies.count <= result.counts["replied"]
    assert all(0 <= used < 1.5 for used, _ in result.processors)


def test_told_to_stop_they_end_with_what_they_have() -> None:
    told = []

    def stop(_number: int, beat: Beat) -> None:
        if beat.measured and not told:  # again would be without
            told.append(beat)
            crowd.stop()

    with Peer(echo) as peer:
        plan, crowd = crowd_of(peer.address, stop, duration=60.0)
        result = Result.of(plan, crowd.run(), True)
    assert 0 < result.seconds < 60
    assert result.latencies.count >= told[0].measured


def test_told_twice_they_end_without() -> None:
    before = children()

    def stop(_number: int, _beat: Beat) -> None:
        crowd.stop()
        crowd.stop()

    with Peer(echo) as peer:
        _, crowd = crowd_of(peer.address, stop, duration=60.0, workers=2)
        with pytest.raises(KeyboardInterrupt):
            crowd.run()
    assert children() == before


def test_a_process_that_is_killed_is_told_of_and_the_others_are_ended() -> None:
    before = children()

    def kill(number: int, _beat: Beat) -> None:
        if number == 0:
            os.kill(int(next(iter(children() - before))), signal.SIGKILL)

    with Peer(echo) as peer:
        _, crowd = crowd_of(peer.address, kill, duration=60.0, workers=2)
        with pytest.raises(LostProcessError, match="killed by SIGKILL"):
            crowd.run()
    assert children() == before


def test_a_process_that_fails_says_why() -> None:
    with Peer(echo) as peer:
        plan = Plan(parse_address(peer.address), duration=60.0)

        def fail(_sock: Any) -> Any:
            raise RuntimeError("cannot")

        crowd = Crowd(plan, find(plan.address)[0], fail)
        with pytest.raises(LostProcessError, match="RuntimeError: cannot"):
            crowd.run()


def test_whoever_asked_for_it_may_go_and_the_processes_end() -> None:
    with Peer(echo) as peer:

        def die(_number: int, _beat: Beat) -> None:
            raise ZeroDivisionError

        before = children()
        _, crowd = crowd_of(peer.address, die, duration=60.0)
        with pytest.raises(ZeroDivisionError):
            crowd.run()
        assert children() == before


def test_the_first_address_that_answers_is_taken() -> None:
    with Peer(echo) as peer:
        port = int(peer.address.rsplit(":", 1)[1])
        both = find(parse_address(f"localhost:{port}"))
        assert try_out(both, 5.0).host == b"127.0.0.1"
