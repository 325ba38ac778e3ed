"""``benchmarks/run.py`` in a small form: every row is measured, every reply checked, the answer is in three forms.

No figure is asserted: few connections for tenths of seconds on a machine that does other things say nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from benchmarks_support import run

SMALL = ["--rounds", 1, "--seconds", 0.1, "--connections", 8, "--mib", 1, "--no-peers"]

OURS = {
    "echo": [["c", "async", "green", "thread", "stdlib-threading"]] * 2,
    "pure": [["c", "async-pure", "green-pure"]],
    "churn": [["c", "async", "green", "thread"]],
    "udp": [["c", "serial", "green", "async", "c-batch"]],
    "memory": [["c", "async", "green"]],
    "idle": [["c", "async", "green"]],
    "large": [["c", "async", "green"]],
    "file": [["c", "thread", "green", "async"]],
    "latency": [["c", "async", "green", "thread"]],
    "fairness": [["c", "async", "green"]],
}

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="run.py needs two processors, and says so")


def measured(folder: Path, *options: object) -> tuple[subprocess.CompletedProcess[str], Any]:
    """What a run says, and the document that it writes."""
    done = run("run.py", *options, "--json", folder / "figures.json", "--svg", folder / "figures.svg")
    assert (folder / "figures.json").exists(), done.stdout + done.stderr
    return done, json.loads((folder / "figures.json").read_text())


def texts(drawing: Path) -> list[str]:
    """What is written in a drawing; ParseError if it is no XML."""
    return [
        "".join(element.itertext()) for element in ElementTree.parse(drawing).iter() if element.tag.endswith("text")
    ]


@pytest.mark.parametrize("group", OURS)
def test_every_row_is_measured(group: str, tmp_path: Path) -> None:
    done, document = measured(tmp_path, group, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "void" not in done.stdout
    assert [[entry["server"] for entry in row["servers"]] for row in document["rows"]] == OURS[group]
    drawn = texts(tmp_path / "figures.svg")
    for row in document["rows"]:
        assert row["group"] == group
        assert f"| {row['title']}: {row['what']} |" in done.stdout
        assert row["title"] in drawn
        for entry in row["servers"]:
            assert entry["void"] is None
            assert entry["lowest"] <= entry["median"] <= entry["highest"]
            assert [entry["median"]] == entry["rounds"]
            if group != "memory":  # of so few connections it may be nothing
                assert entry["measured"] > 0
    assert document["machine"]["processors"] >= 2 and document["date"].endswith(" UTC")
    assert document["native"] is None if group in ("file", "pure") else document["native"] in (True, False)


@pytest.mark.parametrize("limits", ["default", "none"])
def test_it_says_which_limits_the_servers_had(limits: str, tmp_path: Path) -> None:
    done, document = measured(tmp_path, "churn", *SMALL, "--limits", limits)
    assert done.returncode == 0, done.stdout + done.stderr
    assert document["limits"] == limits
    words = {"default": "have the limits on that they have by default", "none": "**Our own servers have no limits**"}
    assert [word in done.stdout for word in words.values()] == [key == limits for key in words]


def test_what_must_be_reached_is_judged(tmp_path: Path) -> None:
    done, document = measured(tmp_path, "echo", "large", *SMALL)
    judged = 0
    for row in document["rows"]:
        medians = {entry["server"]: entry["median"] for entry in row["servers"]}
        for entry in row["servers"]:
            if "bar" in entry:
                kind, value = entry["bar"]["kind"], entry["bar"]["value"]
                if kind == "below":
                    assert value == medians[entry["bar"]["server"]]
                median = entry["median"]
                assert (
                    entry["reached"]
                    == {
                        "at most": median <= value,
                        "at least": median >= value,
                        "below": median < value,
                    }[kind]
                )
                judged += 1
    assert judged == 8
    words = [line.split("|")[6].strip() for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert sum(word.startswith(("reached", "**missed**")) for word in words) == judged


def test_peers_are_measured_when_installed(tmp_path: Path) -> None:
    done, document = measured(tmp_path, "udp", *SMALL[:-1], "--peers")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = document["rows"]
    found = {entry["server"]: entry for entry in row["servers"]}
    assert {"stdlib-serial", "stdlib-threading", "asyncio-protocol"} <= found.keys()
    assert found["stdlib-serial"]["peer"] and not found["async"]["peer"]
    for library in ("uvloop", "gevent"):
        measured_too = any(server.startswith(library) for server in found)
        assert measured_too != (library in document["not_installed"])


def test_peers_of_streams(tmp_path: Path) -> None:
    done, document = measured(tmp_path, "churn", *SMALL[:-1], "--peers")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {entry["server"]: entry for entry in document["rows"][0]["servers"]}
    for peer in ("stdlib-threading", "stdlib-forking", "asyncio-protocol", "asyncio-streams"):
        assert found[peer]["peer"] and found[peer]["median"] > 0


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "broken"),
    [
        *((group, "wrong") for group in ("echo", "churn", "udp", "memory", "idle", "fairness")),
        *((group, "silent") for group in ("latency", "udp", "memory")),
        *((group, "twice") for group in ("latency", "memory")),
    ],
)
def test_a_reply_that_is_wrong_or_lost_makes_a_run_void(group: str, broken: str, tmp_path: Path) -> None:
    done, document = measured(tmp_path, group, *SMALL, "--broken", broken)
    assert done.returncode == 1, done.stdout + done.stderr
    for row in document["rows"]:
        for entry in row["servers"]:
            if entry["server"] == "async":
                assert "wrong and" in entry["void"] and "lost replies" in entry["void"]
                assert "median" not in entry and entry.get("reached") is None
            else:
                assert entry["void"] is None and "median" in entry
    assert "**void**" in done.stdout
    assert "async" not in texts(tmp_path / "figures.svg")


# -- what cannot be measured -------------------------------------------------------------------------------------------


def refused(processors: int | None = None, compiler: str = "") -> str:
    """The one line that a run which cannot measure says."""
    done = run("run.py", *SMALL, processors=processors, compiler=compiler)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_one_processor_is_not_enough() -> None:
    assert "two processors are needed" in refused(processors=1)


def test_without_a_compiler() -> None:
    assert "there is no no-such-compiler" in refused(compiler="no-such-compiler")


def test_a_program_that_cannot_be_built() -> None:
    assert "could not be built" in refused(compiler="false")


def test_too_few_descriptors() -> None:
    done = run("run.py", "idle", *SMALL, "--connections", 100, descriptors=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not measured: 264 descriptors are needed, and the hard limit is 250" in done.stdout


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    done = run("run.py", "--json", tmp_path / "none" / "figures.json")
    assert done.returncode == 2 and done.stdout == ""
    assert "there is no folder" in done.stderr


# -- again, from what was written --------------------------------------------------------------------------------------


def test_table_and_drawing_again(tmp_path: Path) -> None:
    done, document = measured(tmp_path, "latency", *SMALL)
    again = run("run.py", "--from", tmp_path / "figures.json", "--svg", tmp_path / "again.svg")
    assert again.returncode == 0 and again.stdout == done.stdout and again.stderr == ""
    assert (tmp_path / "again.svg").read_text() == (tmp_path / "figures.svg").read_text()

    document["machine"]["processor"] = "<one> & 'two'"
    document["rows"].append({**document["rows"][0], "title": "5 > 4", "servers": document["rows"][0]["servers"][:1]})
    (tmp_path / "odd.json").write_text(json.dumps(document))
    assert run("run.py", "--from", tmp_path / "odd.json", "--svg", tmp_path / "odd.svg").returncode == 0
    drawn = texts(tmp_path / "odd.svg")
    assert "5 > 4" in drawn and any("<one> & 'two'" in text for text in drawn)
