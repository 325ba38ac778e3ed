"""Under a steady load workers come and go, by reloads, by scaling and by kills: only their own clients notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from supervised import SECONDS, Supervised, until

pytestmark = pytest.mark.slow

LOAD = Path(__file__).parents[2] / "benchmarks" / "steady_load.py"

#: A socket for all workers, and one for each.
SHARED, APART = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0?reuse_port=1"


class Load:
    """The load, in a process of its own."""

    def __init__(self, address: str, connections: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, LOAD, address, "--connections", f"{connections}", "--every", "0.05", "--anew", "0.5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def end(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=SECONDS)
        found: dict[str, Any] = json.loads(out)
        return found

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize(
    ("mode", "address"), [("thread", SHARED), ("green", SHARED), ("async", SHARED), ("thread", APART), ("green", APART)]
)
def test_nobody_else_notices(mode: str, address: str, tmp_path: Path) -> None:
    killed: dict[int, float] = {}
    with Supervised(tmp_path, mode, workers=2, addresses=[address]) as program, Load(program.address, 100) as load:
        began = time.monotonic()

        def wait(seconds: float) -> None:
            at = time.monotonic() + seconds
            until(lambda: time.monotonic() >= at, "a while")

        for number in range(3):
            wait(0.3)
            assert program.reload() == "reloaded True"
            victim = program.workers[-1]
            killed[victim] = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            program.send(signal.SIGTTIN if number < 2 else signal.SIGTTOU)
            until(lambda: victim not in program.workers, "it is gone")  # noqa: B023
        program.send(signal.SIGTTOU)
        until(lambda: time.monotonic() - began > 4, "four seconds")
        found = load.end()
        assert program.end() == 0
    assert found["exchanges"] > 500 and found["connects"] > 200, found
    assert found["refused"] == [] and found["wrong"] == [], found
    assert [one for one in found["broken"] if one["pid"] not in killed] == []
    # Who has no answer yet does not know whose it is: a worker that was killed at about that time.
    assert all(any(-0.1 < one["at"] - at < 2 for at in killed.values()) for one in found["unanswered"]), (found, killed)


def test_nobody_notices_that_workers_leak(tmp_path: Path) -> None:
    """Each client leaves 256 KiB, and a worker that has 100 MiB is replaced: again and again, and nobody is lost."""
    with (
        Supervised(tmp_path, "thread", workers=2, leak=256, recycling={"max_rss": 100 << 20}) as program,
        Load(program.address, 100) as load,
    ):
        until(lambda: program.log.count("MiB of memory") >= 3, "three are replaced")
        found = load.end()
        assert program.end() == 0
    assert found["exchanges"] > 500 and found["connects"] > 200, found
    assert [found[what] for what in ("refused", "wrong", "broken", "unanswered")] == [[]] * 4, found
    assert "ERROR" not in program.log, program.log


def test_a_server_that_loses_connections_would_be_noticed(tmp_path: Path) -> None:
    """The retirement that gives no patience, in place of the one that lets connections go on."""
    with (
        Supervised(tmp_path, "thread", workers=2, retire_timeout=0.0, graceful_timeout=0.0) as program,
        Load(program.address, 50) as load,
    ):
        for _ in range(2):
            program.send(signal.SIGHUP)
            while not program.line().startswith("reloaded"):
                pass
        found = load.end()
        assert program.end() == 0
    assert found["broken"], found
