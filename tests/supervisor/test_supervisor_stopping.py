"""A server with workers is stopped: everything under way is finished, in every mode, and what is not is cut in time."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from pathlib import Path

import pytest
from supervised import MODES, SECONDS, Client, Supervised, session, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES)
def test_it_starts_and_stops(mode: str, tmp_path: Path) -> None:
    with Supervised(tmp_path, mode, workers=2) as program:
        assert len(program.workers) == 2
        assert program.ask("say hello") == "hello"
        with program.client() as client:
            assert int(client.ask("pid") or 0) in session(program.pid)
        assert program.end() == 0
        assert program.said[-2:] == ["stopping", "ended 0"]
        assert session(program.pid) == []
        with pytest.raises(ConnectionRefusedError):
            program.client()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_exchanges_under_way_are_finished(mode: str, workers: int, tmp_path: Path) -> None:
    """Those of a serial server, and beyond the children of a process server, wait in the kernel's queue."""
    together = {"serial": workers, "process": min(100, 40 * workers)}.get(mode, 100)
    seconds = 0.02 if mode == "serial" else 0.5
    with Supervised(tmp_path, mode, workers=workers) as program, program.clients(100) as clients:
        for client in clients:
            client.tell(f"work {seconds}")
            client.socket.shutdown(1)  # a serial server comes to the next one only when this one has left
        begun = [client.hear() for client in clients[:together]] if mode != "serial" else []
        assert set(begun) <= {"begun"}
        program.send(signal.SIGTERM)
        if mode == "serial":
            begun = []
        answers = []
        for number, client in enumerate(clients):
            if number >= len(begun):
                assert client.hear() == "begun", (number, program.log)
            answers.append(client.hear())
        assert all(answer and answer.startswith("done ") for answer in answers), answers
        assert program.wait() == 0, program.log


@pytest.mark.parametrize("mode", MODES)
def test_who_never_finishes_is_cut_at_the_deadline_and_named(mode: str, tmp_path: Path) -> None:
    with Supervised(tmp_path, mode, workers=2, graceful_timeout=1.0) as program:
        with program.client() as stuck:
            assert stuck.ask("hang") == "begun"
            name = f"{stuck.socket.getsockname()}"
            began = time.monotonic()
            program.send(signal.SIGTERM)
            assert stuck.hear() is None
            cut = time.monotonic() - began
            assert program.wait() == 0
        assert 0.9 <= cut < 1.0 + SECONDS / 10, cut
        assert re.search(rf"WARNING .*cuts 1 of its handlers .*{re.escape(name)}", program.log), program.log
        if mode != "serial":  # its handler may hold the thread that would tell
            assert re.search(r"worker \d \(process \d+\) has cut 1 connection\b", program.log), program.log
        assert session(program.pid) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGQUIT, 0)])
def test_the_second_signal_means_now(number: int, code: int, tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, graceful_timeout=1000.0) as program:
        with program.client() as stuck:
            assert stuck.ask("hang") == "begun"
            program.send(signal.SIGTERM if number == signal.SIGQUIT else number)
            assert program.line() == "stopping"
            # The same within a tenth of a second is the same wish.
            program.send(number)
            time.sleep(0.15)
            program.send(number)
            assert stuck.hear() is None
        assert program.wait() == code


def test_the_same_signal_to_all_processes_is_one_wish(tmp_path: Path) -> None:
    """As a service manager sends it to a control group, and timeout(1) to a process group."""
    with Supervised(tmp_path, "thread", workers=3) as program, program.clients(30) as clients:
        for client in clients:
            assert client.ask("work 0.5") == "begun"
        for pid in (program.pid, *program.workers):
            os.kill(pid, signal.SIGTERM)
        assert all((client.hear() or "").startswith("done") for client in clients), program.log
        assert program.wait() == 0
        assert "ERROR" not in program.log


def test_the_same_to_the_workers_first_is_as_good(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=3) as program, program.clients(30) as clients:
        for client in clients:
            assert client.ask("work 0.5") == "begun"
        for pid in (*program.workers, program.pid):
            os.kill(pid, signal.SIGTERM)
        assert all((client.hear() or "").startswith("done") for client in clients), program.log
        assert program.wait() == 0
        assert "ERROR" not in program.log


def test_it_is_stopped_while_it_starts(tmp_path: Path) -> None:
    with Supervised(tmp_path, workers=2, plan="hang", wait=False) as program:
        until(lambda: len(program.workers) == 2, "two workers begin")
        assert program.end() == 0
        assert program.said == ["stopping", "ended 0"]
        assert session(program.pid) == []


def test_who_waits_for_the_first_workers_is_served_at_a_stop(tmp_path: Path) -> None:
    """It could connect, as the supervisor binds first, and knows nothing of workers."""
    path = tmp_path / "socket"
    with Supervised(tmp_path, workers=2, plan="late", wait=False, addresses=[f"unix:{path}"]) as program:
        until(lambda: len(program.workers) == 2, "two workers begin")
        with Client(f"unix:{path}") as client:
            client.tell("say served")
            program.send(signal.SIGTERM)
            assert program.line() == "stopping"
            program.plan.write_text("serve")
            assert client.hear() == "served", program.log
            assert client.hear() is None
        assert program.wait() == 0
        assert session(program.pid) == []


def test_who_waits_for_one_that_never_begins_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """The broken case; and it is not told as served."""
    path = tmp_path / "socket"
    with Supervised(
        tmp_path, plan="hang", wait=False, addresses=[f"unix:{path}"], graceful_timeout=0.2
    ) as program:  # fmt: skip
        until(lambda: len(program.workers) == 1, "a worker begins")
        with Client(f"unix:{path}") as client:
            client.tell("say served")
            assert program.end() == 0
            assert client.hear() is None
        assert session(program.pid) == []


def test_one_that_serves_already_finishes_while_the_others_still_start(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Supervised(tmp_path, workers=2, plan="late", wait=False, addresses=[f"unix:{path}"]) as program:
        late = until(lambda: program.workers if len(program.workers) == 2 else [], "two workers begin")[1]
        os.kill(late, signal.SIGSTOP)
        program.plan.write_text("serve")
        with Client(f"unix:{path}") as client:
            client.tell("work 0.3")
            assert client.hear() == "begun"
            program.send(signal.SIGTERM)
            assert program.line() == "stopping"
            os.kill(late, signal.SIGCONT)
            assert (client.hear() or "").startswith("done"), program.log
        assert program.wait() == 0
        assert session(program.pid) == []


def test_starting_costs_no_processor(tmp_path: Path) -> None:
    """While it waits for workers that load it waits."""
    with Supervised(tmp_path, workers=2, plan="late", wait=False) as program:
        until(lambda: len(program.workers) == 2, "two workers begin")
        program.send(signal.SIGHUP)  # a reload waits for the start
        began = time.monotonic()
        used = Path(f"/proc/{program.pid}/stat")

        def ticks() -> int:
            fields = used.read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        first = ticks()
        until(lambda: time.monotonic() - began > 0.5, "half a second")
        assert (ticks() - first) / os.sysconf("SC_CLK_TCK") < 0.1
        program.plan.write_text("serve")
        assert program.line().startswith("tcp:")
        assert program.end() == 0


def test_a_unix_path_goes_at_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Supervised(tmp_path, "thread", workers=2, addresses=[f"unix:{path}"]) as program:
        with Client(f"unix:{path}") as client:
            assert client.ask("work 3") == "begun"
            program.send(signal.SIGTERM)
            until(lambda: not path.exists(), "the path is gone")
            assert not select.select([client.socket], [], [], 0)[0], "before the last connection is"
            assert (client.hear() or "").startswith("done")
        assert program.wait() == 0
