"""A pool of processes that were forked beforehand: workers of mode serial, each for one connection at a time."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from supervised import Supervised, children, until

pytestmark = pytest.mark.slow


def test_each_client_has_a_process_that_was_there_before_it(tmp_path: Path) -> None:
    """No fork when it comes, and none beside it in its process; who comes when all have one waits for the first that is
    free."""
    with Supervised(tmp_path, "serial", workers=3) as program, program.clients(3) as clients:
        pool = set(program.workers)
        assert {int(client.ask("pid") or 0) for client in clients} == pool
        assert [children(pid) for pid in pool] == [[], [], []]
        with program.client() as waiting:
            waiting.tell("pid")
            assert all(client.ask("say on") == "on" for client in clients)
            assert select.select([waiting.socket], [], [], 0)[0] == [], "there is nobody for it yet"
            free = int(clients[0].ask("pid") or 0)
            clients[0].socket.close()
            assert waiting.hear() == str(free)
        assert set(program.workers) == pool
        for client in clients:
            client.socket.close()
        assert program.end() == 0


def test_what_a_handler_does_to_its_process_is_its_own_clients_affair(tmp_path: Path) -> None:
    with Supervised(tmp_path, "serial", workers=2) as program, program.clients(2) as clients:
        pids = [int(client.ask("pid") or 0) for client in clients]
        with program.client() as waiting:
            waiting.tell("pid")
            os.kill(pids[0], signal.SIGSEGV)
            assert clients[0].hear() is None
            assert clients[1].ask("pid") == str(pids[1])
            served = int(waiting.hear() or 0)
            assert served not in pids, "the one that has taken its place serves who waited"
        until(lambda: set(program.workers) == {served, pids[1]}, "there are two")
        for client in clients:
            client.socket.close()
        assert program.end() == 0


def test_a_worn_one_is_replaced_between_two_clients(tmp_path: Path) -> None:
    """As Apache's MaxConnectionsPerChild: what leaks is gone with the process."""
    with Supervised(tmp_path, "serial", workers=2, recycling={"max_accepts": 5}) as program:
        pids: set[str | None] = set()
        until(lambda: pids.add(program.ask("pid")) or len(pids) >= 4, "two were replaced")  # type: ignore[func-returns-value]
        assert None not in pids and "ERROR" not in program.log
        assert program.end() == 0
