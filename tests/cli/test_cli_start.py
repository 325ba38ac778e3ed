"""The program itself: help, version, and that neither makes anybody wait."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, accepting, run, start_and_run
from forked import Forked

import jackfield
from jackfield.cli.app import COMMANDS, build_parser
from jackfield.reactor.twin import native

TWIN = "native" if native else "pure"
PYTHON = f"Python {sys.version.split()[0]}"

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
        assert (done.returncode, done.stdout.decode()) == (0, f"jackfield {jackfield.__version__} ({TWIN}, {PYTHON})\n")


def test_version_without_the_native_twin() -> None:
    environment = {**ENVIRONMENT, "JACKFIELD_PURE": "1"}
    for words in (["--version"], ["--version", "--json"]):
        done = subprocess.run([*PROGRAM, *words], capture_output=True, timeout=SECONDS, env=environment, check=True)
        assert b"pure" in done.stdout and b"native" not in done.stdout


def test_version_as_json() -> None:
    done = run("--version", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["jackfield"] == jackfield.__version__
    assert facts["reactor"] == TWIN
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
    assert subprocess.run([script, "--help"], capture_output=True, check=True).stdout == start_and_run("--help").stdout


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


# --- what most tests run is forked and not started --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--version --json", 0),
        ("serve --help", 0),
        ("serve --bnd :9999", 2),
        ("serve broken:Handler -b 127.0.0.1:0", 3),
        ("serve nobody:Handler -b 127.0.0.1:0 -v", 3),
        ("serve open:make --factory -b 127.0.0.1:0", 3),
        ("connect unix:nobody", 1),
        ("connect :1 -o /nowhere/file", 2),
    ],
)
def test_a_forked_run_is_like_one_that_is_started(words: str, code: int, tmp_path: Path) -> None:
    """In what it shows on both descriptors, and in its exit code."""
    (tmp_path / "broken.py").write_text("raise KeyError('broken on purpose')\n")
    (tmp_path / "open.py").write_text("import socket\nkept = socket.socket()\ndef make(): pass\n")
    forked, started = (way(*words.split(), cwd=tmp_path) for way in (run, start_and_run))
    assert (forked.returncode, forked.stdout, forked.stderr) == (code, started.stdout, started.stderr)
    assert started.returncode == code
    # What is never closed is told when an interpreter ends, and so when a fork does.
    assert (b"ResourceWarning" in forked.stderr) is ("open:" in words)


@pytest.mark.parametrize("way", [run, start_and_run])
def test_both_are_pipes(way: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)

    data = os.urandom(1 << 20)
    with accepting(echo) as address:
        done = way("connect", address, data=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_a_forked_run_that_does_not_end_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.closing(Forked(ENVIRONMENT)) as forked:
        words = ["connect", "{}:{}".format(*listener.getsockname()), "--recv-only"]
        with pytest.raises(subprocess.TimeoutExpired):
            forked.run(words, b"", 0.2)
        assert forked.run(["--version"], b"", SECONDS).returncode == 0
