"""Reloads, scaling, and signals without end, one in the middle of another: it serves on, with as many as are wanted."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from supervised import MODES, Supervised, children, descriptors, session, state, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES)
def test_a_reload_has_new_workers_and_keeps_who_is_there(mode: str, tmp_path: Path) -> None:
    with Supervised(tmp_path, mode, workers=2) as program, program.client() as client:
        assert client.ask("say before") == "before"
        before = program.workers
        assert program.reload() == "reloaded True"
        assert client.ask("say after") == "after"
        until(lambda: len(set(program.workers) - set(before)) == 2, "there are two new ones")
        assert program.ask("say new") == "new"
        client.socket.close()
        until(lambda: not set(before) & set(program.workers), "the old ones end with their last connection")
        assert program.end() == 0
        assert "ERROR" not in program.log, program.log


def test_who_is_left_behind_a_reload_is_told_after_its_time(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", retire_timeout=0.5, graceful_timeout=0.5) as program, program.client() as stuck:
        assert stuck.ask("hang") == "begun"
        old = program.workers
        began = time.monotonic()
        assert program.reload() == "reloaded True"
        assert stuck.hear() is None
        assert 0.9 < time.monotonic() - began < 15
        until(lambda: not set(old) & set(program.workers), "the old one has ended")
        assert program.end() == 0


def test_one_that_is_frozen_while_it_retires_is_killed(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", worker_timeout=1.0) as program, program.client() as client:
        old = int(client.ask("pid") or 0)
        assert program.reload() == "reloaded True"
        os.kill(old, signal.SIGSTOP)
        assert client.hear() is None
        program.logged(rf"process {old}\) gave no sign of life")
        assert program.ask("say on") == "on"
        assert program.end() == 0


def test_many_reloads_at_once_are_few(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=1) as program:
        began = time.monotonic()
        for number in range(200):
            program.send(signal.SIGHUP)
            until(lambda at=began + number / 200: time.monotonic() >= at, "its turn")  # type: ignore[misc]
        took = time.monotonic() - began
        assert program.ask("say on") == "on"
        until(lambda: program.log.count("the reload is done") >= 2, "the last one counts")
        assert program.end() == 0
        assert program.log.count("the reload is done") <= 3 + int(took)  # one a second where the machine is slow


def test_a_reload_while_one_runs_follows_it(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=1) as program:
        program.plan.write_text("late")
        program.send(signal.SIGHUP)
        until(lambda: len(program.workers) == 2, "a new one begins")
        program.send(signal.SIGHUP)
        program.plan.write_text("serve")
        assert [program.line(), program.line()] == ["reloaded True", "reloaded True"]
        until(lambda: len(program.workers) == 1, "one is left")
        assert program.end() == 0


def test_it_is_stopped_while_it_reloads(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2) as program, program.client() as client:
        assert client.ask("work 0.5") == "begun"
        program.plan.write_text("hang")
        program.send(signal.SIGHUP)
        until(lambda: len(program.workers) == 4, "new ones begin")
        program.send(signal.SIGTERM)
        assert (client.hear() or "").startswith("done")
        assert program.wait() == 0
        assert session(program.pid) == []


def test_a_reload_and_a_stop_in_one_breath_are_a_stop(tmp_path: Path) -> None:
    for _ in range(3):
        with Supervised(tmp_path, "thread", workers=2) as program:
            os.kill(program.pid, signal.SIGSTOP)  # so that both wait for it
            program.send(signal.SIGHUP)
            program.send(signal.SIGTERM)
            os.kill(program.pid, signal.SIGCONT)
            assert program.wait() == 0
            assert not any(line.startswith("reloaded") for line in program.said)
            assert session(program.pid) == []


def test_it_becomes_more_and_fewer(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=1) as program, program.client() as client:
        pid = client.ask("pid")
        for number in (2, 3, 4):
            program.send(signal.SIGTTIN)
            until(lambda n=number: len(program.workers) == n, f"{number} workers")  # type: ignore[misc]
        program.logged("4 workers from now on")
        for number in (3, 2, 1):
            program.send(signal.SIGTTOU)
            until(lambda n=number: len(program.workers) == n, f"{number} workers")  # type: ignore[misc]
        program.send(signal.SIGTTOU)  # one is the least
        assert client.ask("pid") == pid and program.ask("say on") == "on"
        assert program.end() == 0
        assert "ERROR" not in program.log


def test_it_becomes_fewer_while_it_reloads(tmp_path: Path) -> None:
    """Those who are to come are not those who are too many."""
    with Supervised(tmp_path, "thread", workers=3) as program:
        before = program.workers
        program.plan.write_text("late")
        program.send(signal.SIGHUP)
        until(lambda: len(program.workers) == 6, "three new ones begin")
        for number in (2, 1):
            program.send(signal.SIGTTOU)
            program.logged(rf"{number} workers? from now on")
        until(lambda: len(program.workers) == 4, "two of the old ones retire")
        program.plan.write_text("serve")
        assert program.line() == "reloaded True"
        until(lambda: len(program.workers) == 1, "one is left")
        assert not set(before) & set(program.workers)
        assert program.ask("say on") == "on"
        assert program.end() == 0
        assert "ERROR" not in program.log, program.log


def test_a_worker_that_is_sent_sigterm_is_replaced_first(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=1) as program, program.client() as client:
        old = int(client.ask("pid") or 0)
        assert client.ask("work 1") == "begun"
        os.kill(old, signal.SIGTERM)
        until(lambda: program.ask("pid") != str(old), "another serves")
        assert (client.hear() or "").startswith("done")
        until(lambda: state(old) == "", "it ends with its last connection")
        assert program.end() == 0
        assert "ERROR" not in program.log, program.log


def test_signals_without_end_end_nobody(tmp_path: Path) -> None:
    """A thousand in a second, of every kind but those that ask it to stop."""
    kinds = [
        signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD, signal.SIGWINCH,
        signal.SIGCONT, signal.SIGURG, signal.SIGPIPE,
    ]  # fmt: skip
    chance = random.Random(5)
    with Supervised(tmp_path, "thread", workers=2, level="WARNING") as program, program.client() as client:
        assert client.ask("say before") == "before"
        began = time.monotonic()
        for number in range(1000):
            program.send(chance.choice(kinds))
            if number % 50 == 0:
                assert program.ask("say on") == "on"
            until(lambda at=began + number / 1000: time.monotonic() >= at, "its turn")  # type: ignore[misc]
        assert client.ask("say after") == "after"
        assert program.ask("say on") == "on"
        assert program.end() == 0
        assert session(program.pid) == []
    assert "Traceback" not in program.log


def test_twenty_reloads_leave_nothing_open(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2) as program:
        assert program.reload() == "reloaded True"
        until(lambda: len(children(program.pid)) == 2, "the old ones are gone")
        before = _settled(program)
        for _ in range(20):  # one a second at most
            program.send(signal.SIGHUP)
            while not program.line().startswith("reloaded"):
                pass
        until(lambda: len(children(program.pid)) == 2, "the old ones are gone")
        assert _settled(program) == before
        assert program.end() == 0


def _settled(program: Supervised) -> tuple[list[str], list[list[str]]]:
    """What the supervisor and its workers have open for good: each opens a file of /proc for a moment now and then,
    which is among what they have at one look and not at all of ten."""
    looks = []
    for _ in range(10):
        looks.append((_kinds(program.pid), [_kinds(pid) for pid in program.workers]))
        time.sleep(0.02)
    return min(looks, key=lambda look: len(look[0]) + sum(map(len, look[1])))


def _kinds(pid: int) -> list[str]:
    """What its descriptors refer to, without the numbers."""
    return sorted(re.sub(r"\d+", "", what) for what in descriptors(pid).values())
