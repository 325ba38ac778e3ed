"""The scripts under ``benchmarks/`` that prove a size, in a small form: they hold it, and they find what is broken."""

from __future__ import annotations

import json
import resource
import subprocess
from typing import Any

import pytest
from benchmarks_support import run

FEW = ["--connections", "200", "--seconds", "20"]
SMALL = ["--mib", "8", "--growth-mib", "4", "--rounds", "1"]


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line of JSON that a script prints."""
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return json.loads(lines[0])  # type: ignore[no-any-return]


def test_many_connections() -> None:
    done = run("many_connections.py", *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(done)
    assert found["ok"] and found["benchmark"] == "many_connections"
    assert [server["mode"] for server in found["servers"]] == ["green", "async"]
    for server in found["servers"]:
        assert server["open_at_once"] == 200
        assert server["replies"] == 200 * 20
        assert server["wrong"] == server["lost"] == server["left_open"] == 0
        assert 0 < server["server_kib_per_connection"] < 40
    assert done.stderr == ""


@pytest.mark.parametrize(("broken", "wrong"), [("wrong", 1), ("lost", 0), ("silent", 0)])
def test_a_reply_that_is_lost_or_wrong_is_found(broken: str, wrong: int) -> None:
    done = run("many_connections.py", "--connections", "100", "--seconds", "3", "--modes", "green", "--broken", broken)
    assert done.returncode == 1
    (server,) = report(done)["servers"]
    assert server["wrong"] == wrong
    assert server["lost"] > 0
    assert server["replies"] + server["lost"] + wrong == 100 * 20


def test_a_limit_that_is_too_low_is_said() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 150
    done = run("many_connections.py", *FEW, descriptors=150)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "200 connections need 300 descriptors" in done.stderr and "the hard limit is 150" in done.stderr


def test_file_transfer() -> None:
    done = run("file_transfer.py", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    found = report(done)
    assert found["ok"] and found["bytes"] == 8 << 20
    assert [way["way"] for way in found["ways"]] == ["thread", "green", "async", "loop"]
    for way in found["ways"]:
        assert way["same"] and way["flat"]
        assert way["ratio_to_loop"] > 0
    assert done.stderr == ""


def test_memory_that_is_not_flat_is_found() -> None:
    done = run("file_transfer.py", *SMALL, "--broken", "memory")
    assert done.returncode == 1
    assert [way["flat"] for way in report(done)["ways"]] == [False, False, False, True]


def test_a_file_that_is_not_the_same_is_found() -> None:
    done = run("file_transfer.py", *SMALL, "--broken", "byte")
    assert done.returncode == 1
    assert [way["same"] for way in report(done)["ways"]] == [False, False, False, True]
