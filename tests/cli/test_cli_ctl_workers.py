"""A server with workers, seen and told as one: by a process beside them, which may fall as well."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import SECONDS, Server, run

pytestmark = pytest.mark.slow

WORKERS = ["-b", "127.0.0.1:0", "-w", "2"]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "ctl"


def connect(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def say(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(100)


def ctl(control: Path, *words: str) -> Any:
    done = run("ctl", "-s", str(control), "--json", *words)
    assert (done.returncode, done.stderr) == (0, b""), done
    return json.loads(done.stdout)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def serving(control: Path) -> list[int]:
    return [row["pid"] for row in ctl(control, "workers") if row["state"] == "serving"]


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_all_workers_are_one_server(control: Path) -> None:
    with Server(*WORKERS, "--control-socket", str(control)) as server:
        clients = [connect(server) for _ in range(6)]
        assert [say(client, b"hello") for client in clients] == [b"HELLO"] * 6
        told = ctl(control, "status")
        (one,) = told["servers"]
        assert (told["state"], told["processes"], one["connections"], one["received"]) == ("ready", 2, 6, 30)
        assert one["limit"] == 10_000, "limits are those of all workers together"
        rows = ctl(control, "conns")["rows"]
        assert {row["peer"] for row in rows} == {"{}:{}".format(*client.getsockname()) for client in clients}
        last = rows[-1]
        ctl(control, "kick", f"{last['worker']}:{last['server']}:{last['id']}")
        (gone,) = [client for client in clients if "{}:{}".format(*client.getsockname()) == last["peer"]]
        assert gone.recv(10) == b""
        assert ctl(control, "scale", "3") == {"workers": 3}
        until(lambda: len(serving(control)) == 3)
        assert {record["worker"] for record in ctl(control, "log", "-n", "200")} >= {"0"}, "the supervisor's, too"
        ctl(control, "ban", "192.0.2.1")
        assert len(ctl(control, "bans")) == 1, "they have one book"
        for client in clients:
            client.close()
        ctl(control, "stop")
        assert server.wait() == 0
    assert not control.exists()


def test_what_was_counted_is_not_forgotten_with_a_worker(control: Path) -> None:
    """Not after a reload, and of one that is killed all that was told before."""
    with Server(*WORKERS, "--control-socket", str(control)) as server:

        def counted() -> tuple[int, int, int]:
            time.sleep(0.6)  # what is told may be half a second old
            (one,) = ctl(control, "status")["servers"]
            return one["accepted"], one["received"], sum(one["ends"].values())

        assert counted() == (0, 0, 0)
        for _ in range(5):
            with connect(server) as client:
                assert say(client, b"hello") == b"HELLO"
        until(lambda: counted() == (5, 25, 5))
        before = serving(control)
        ctl(control, "reload")
        until(lambda: not set(before) & {row["pid"] for row in ctl(control, "workers")})
        assert counted() == (5, 25, 5)
        with connect(server) as client:
            assert say(client, b"hello") == b"HELLO"
            assert counted()[:2] == (6, 30)
            # A worker shows it with its next sign of life.
            (pid,) = until(lambda: [row["pid"] for row in ctl(control, "workers") if row["connections"]])
            os.kill(pid, signal.SIGKILL)
            until(lambda: pid not in serving(control) and len(serving(control)) == 2)
        assert counted()[:2] == (6, 30)
        assert server.end() == 0


def test_a_worker_that_is_stuck_keeps_nobody_else_from_being_told_of(control: Path) -> None:
    with Server(*WORKERS, "--control-socket", str(control)) as server:
        first, _ = serving(control)
        os.kill(first, signal.SIGSTOP)
        try:
            until(lambda: ctl(control, "status")["processes"] == 1)  # what is told may be half a second old
        finally:
            os.kill(first, signal.SIGCONT)
        until(lambda: ctl(control, "status")["processes"] == 2)
        assert server.end() == 0


def test_the_process_that_answers_may_fall(control: Path) -> None:
    with Server(*WORKERS, "--control-socket", str(control)) as server:
        workers = children(server.process.pid)
        assert ctl(control, "status")["state"] == "ready"
        (clerk,) = children(server.process.pid) - workers
        with connect(server) as client:
            os.kill(clerk, signal.SIGKILL)
            server.read_until(lambda line: "the admin endpoint ended by SIGKILL; started again" in line)
            assert say(client, b"hello") == b"HELLO"
            assert ctl(control, "status")["servers"][0]["connections"] == 1
        assert len(serving(control)) == 2, "and no worker has noticed"
        assert server.end() == 0


def test_nobody_answers_after_the_supervisor(control: Path) -> None:
    """The process beside the workers does not outlive it."""
    with Server(*WORKERS, "--control-socket", str(control)) as server:
        workers = children(server.process.pid)
        ctl(control, "status")
        (clerk,) = children(server.process.pid) - workers
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not Path(f"/proc/{clerk}").exists())


def test_without_anybody_who_asks_there_is_no_such_process(control: Path) -> None:
    with Server(*WORKERS, "--control-socket", str(control)) as server:
        assert len(children(server.process.pid)) == 2
        assert server.end() == 0


def test_an_upgrade_takes_the_endpoint_along(control: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Server(*WORKERS, "--control-socket", str(control), "--pid", str(pid_file)) as server:
        before = ctl(control, "workers")
        os.kill(server.process.pid, signal.SIGUSR2)
        new = until(lambda: (pid := int(pid_file.read_text() or 0)) != server.process.pid and pid)
        try:
            assert server.process.wait(SECONDS) == 0
            rows = ctl(control, "workers")
            assert not {row["pid"] for row in rows} & {row["pid"] for row in before}
            assert ctl(control, "status")["state"] == "ready"
        finally:
            os.kill(new, signal.SIGTERM)
        server.process.communicate(timeout=SECONDS)  # where both speak: that ends with the new one
    assert not control.exists()
