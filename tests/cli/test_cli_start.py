"""The program itself: help, version, and that neither makes anybody wait."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, run

import jackfield
from jackfield.cli.app import COMMANDS, build_parser

# What --help must not cost: each is milliseconds, and the whole start is to stay below 60.
HEAVY = {
    "asyncio",
    "shutil",
    "greenlet",
    "socket",
    "logging",
    "json",
    "dataclasses",
    "inspect",
    "typing",
    "uvloop",
}


def imported_by(code: str) -> set[str]:
    """The modules that are loaded in a new interpreter once it has run `code`."""
    script = f"import sys\ntry:\n  {code}\nexcept SystemExit: pass\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=SECONDS, env=ENVIRONMENT, check=True
    )
    return set(done.stderr.decode().split())


def cpu_seconds(*command: str) -> float:
    """What one run of the command costs in processor time, the least of several."""
    costs = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=SECONDS, env=ENVIRONMENT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(costs)


def test_version() -> None:
    for flag in ("-V", "--version"):
        done = run(flag)
        assert (done.returncode, done.stdout.decode()) == (0, f"jackfield {jackfield.__version__}\n")


def test_version_as_json() -> None:
    done = run("--version", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["jackfield"] == jackfield.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3])) and facts["greenlet"] and facts["openssl"]


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["serve", "--help"], ["connect", "-h"]])
def test_help(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: jackfield")
    assert b"examples:" in done.stdout


def test_the_module_and_the_script_are_one_program() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "jackfield")
    if not os.path.exists(script):
        pytest.skip("jackfield is not installed here: no script beside the interpreter")
    assert subprocess.run([script, "--help"], capture_output=True, check=True).stdout == run("--help").stdout


@pytest.mark.parametrize("words", ["--help", "--version", "serve --help", "connect --help"])
def test_help_and_version_import_nothing_heavy(words: str) -> None:
    loaded = imported_by(f"from jackfield.cli import main; main({words.split()!r})")
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("jackfield.") and not name.startswith("jackfield.cli")] or (
        {name for name in loaded if name.startswith("jackfield.") and not name.startswith("jackfield.cli")}
        == {"jackfield.errors"}
    )


def test_something_heavy_would_be_noticed() -> None:
    assert "socket" in imported_by("import socket") & HEAVY


def test_help_costs_little_more_than_argparse() -> None:
    """The aim is 60 ms where the bare interpreter takes 16 and argparse 32; in processor time, as machines are busy."""
    bare = cpu_seconds(sys.executable, "-c", "pass")
    assert cpu_seconds(*PROGRAM, "--help") < 60 / 16 * bare + 0.01


def test_every_command_says_what_the_others_would_be_told() -> None:
    """The whole tree can be built, and each answer to a flag of other programs is about one that we do not have."""
    parser, named = build_parser()
    assert set(named) == set(COMMANDS)
    for command in [parser, *named.values()]:
        assert not set(command.answers) & set(command.flags())
        assert {"--help", "--verbose", "--quiet", "--color"} <= set(command.flags())


@pytest.mark.parametrize("words", [["-v", "connect", ":1"], ["connect", ":1", "-v"], ["connect", "-v", ":1"]])
def test_what_holds_everywhere_may_stand_anywhere(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr  # -v


def test_color_only_where_it_is_wanted() -> None:
    assert b"\x1b" not in run("connect", ":1").stderr
    assert b"\x1b[31m" in run("--color", "always", "connect", ":1").stderr
