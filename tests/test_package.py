"""What a user downloads: its metadata, its files, the two commands of the Makefile, and the net under every test."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jackfield
from jackfield.clock import MONOTONIC, Clock
from jackfield.errors import AddressError, ClosedSocketError, JackfieldError, MisuseError, StartError

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


# --- metadata -------------------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert jackfield.__version__ == PROJECT["project"]["version"]
    assert jackfield.__version__ == importlib.metadata.version("jackfield")
    assert re.fullmatch(r"\d+\.\d+\.\d+", jackfield.__version__)


def test_greenlet_is_all_that_is_required() -> None:
    assert [re.split(r"[^\w-]", need)[0] for need in PROJECT["project"]["dependencies"]] == ["greenlet"]
    required = [need for need in importlib.metadata.requires("jackfield") or [] if "extra ==" not in need]
    assert [re.split(r"[^\w-]", need)[0] for need in required] == ["greenlet"]


def test_the_extras_are_the_documented_ones() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"uvloop", "cli", "reload", "redis", "nats", "prometheus", "tls", "test", "dev"}


def test_importing_the_package_loads_no_extra() -> None:
    extras = ["uvloop", "rich", "prompt_toolkit", "watchfiles", "redis", "nats", "prometheus_client"]
    script = f"import sys, jackfield; print([name for name in {extras} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_the_types_are_shipped() -> None:
    assert (Path(jackfield.__file__).parent / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["jackfield"]


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n")
    assert "without restriction, including without limitation" in text
    assert PROJECT["project"]["license"] == "MIT"
    assert importlib.metadata.metadata("jackfield")["License-Expression"] == "MIT"


# --- no trace of the machine it was written on ----------------------------------------------------------------------


def texts() -> Iterator[Path]:
    """The files that are or will be in the repository: what version control knows or does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode:
        pytest.skip("not a checkout, or no git: which files belong to the project cannot be told")
    for name in listing.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            yield ROOT / name


def machine_traces(text: str) -> list[str]:
    """Names and paths that mean something on one machine only."""
    places = {str(ROOT), str(Path.home()), sys.prefix, sys.base_prefix}
    places |= {os.path.dirname(place) for place in places}
    # /usr, /tmp and the like are the same everywhere.
    places = {place for place in places if place == "/root" or (place.count("/") > 1 and not place.startswith("/usr"))}
    patterns = [rf"(?<![\w.~-]){re.escape(place)}/" for place in places]
    patterns.append(r"(?<![\w.~-])/(?:home|Users)/\w+")
    host = socket.gethostname()
    if len(host) >= 6 and re.search(r"\d", host):  # "localhost", "runner" and the like are words
        patterns.append(re.escape(host))
    return [match[0] for pattern in patterns for match in re.finditer(pattern, text)]


def test_no_file_names_the_machine_it_was_written_on() -> None:
    traces = {}
    for path in texts():
        if path != Path(__file__).resolve() and (found := machine_traces(path.read_text("utf-8", "replace"))):
            traces[str(path.relative_to(ROOT))] = found
    assert not traces


@pytest.mark.parametrize("place", [f"{ROOT / 'src'}/x", "/home/me/x", "see /Users/me"])
def test_a_machine_path_is_found(place: str) -> None:
    assert machine_traces(place)


@pytest.mark.parametrize("text", ["https://a.example/home/me", "~/src/a", "src/jackfield/x", "/usr/bin/env", "/tmp/x"])
def test_what_is_no_machine_path_is_left_alone(text: str) -> None:
    assert not machine_traces(text)


# --- the commands of the Makefile -----------------------------------------------------------------------------------


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make as a newcomer would, not as a part of the make that may be running the tests."""
    program = shutil.which("make")
    if program is None:
        pytest.skip("no make on this machine: install Debian's package make")
    inherited = ("MAKE", "MFLAGS", "GNUMAKEFLAGS", "PYTHON", "VENV", "ARGS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    return subprocess.run(
        [program, *arguments], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=50
    )


def test_make_finds_the_pythons_of_this_machine() -> None:
    result = make("-s", "pythons")
    assert result.returncode == 0
    versions = [line.split(" ", 1)[0] for line in result.stdout.splitlines()]
    assert len(set(versions)) == len(versions), "each minor version once"
    for line in result.stdout.splitlines():
        version, python = line.split(" ", 1)
        said = subprocess.run([python, "-V"], capture_output=True, text=True).stdout
        assert said.startswith(f"Python {version}.")


def test_make_makes_the_environment_anew_only_for_another_python(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    found = make("-s", "pythons").stdout.splitlines()
    if not found:
        pytest.skip("no Python here has what make needs (ensurepip)")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (venv / ".python").write_text(found[0] + "\n")
    (venv / ".installed").touch()
    (venv / ".installed-dev").touch()
    for chosen, made in ((found[0].split(" ", 1)[1], False), ("", False), ("/bin/false", True)):
        result = make("-n", "test", f"PYTHON={chosen}", f"VENV={venv}")
        assert result.returncode == 0
        assert (f"Making {venv}" in result.stdout) is made, chosen
        assert (f"Installing jackfield into {venv}" in result.stdout) is made, chosen
        assert f"{venv}/bin/python -m pytest" in result.stdout
    os.utime(venv / ".installed", (0, 0))  # older than pyproject.toml
    result = make("-n", "test", f"VENV={venv}")
    assert f"Making {venv}" not in result.stdout
    assert f"Installing jackfield into {venv}" in result.stdout


@pytest.mark.parametrize("target", ["serve", "test"])
def test_without_a_suitable_python_make_says_so_in_one_line(target: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "cat", "head"):
        (tools / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool}"))
    # A python3 too old, or without its venv module.
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    result = make(target, f"VENV={tmp_path}/venv", PATH=str(tools), HOME=str(tmp_path), PYENV_ROOT=str(tmp_path))
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert "needs Python 3.11 or newer" in said[0]
    assert "make PYTHON=" in said[0]
    assert not (tmp_path / "venv").exists()


def test_an_unsuitable_python_is_named(tmp_path: Path) -> None:
    result = make("test", "PYTHON=/bin/false", f"VENV={tmp_path}/venv")
    assert result.returncode != 0
    assert "/bin/false has none" in result.stderr


# --- errors and clock -----------------------------------------------------------------------------------------------


def test_the_tree_of_errors() -> None:
    assert issubclass(MisuseError, JackfieldError)
    assert issubclass(MisuseError, RuntimeError)
    assert issubclass(AddressError, JackfieldError)
    assert issubclass(AddressError, ValueError)
    assert issubclass(StartError, JackfieldError)
    assert not issubclass(JackfieldError, OSError)


@pytest.mark.parametrize("error", [ClosedSocketError(), ClosedSocketError("closed by the other green thread")], ids=str)
def test_a_closed_socket_error_has_the_number_of_a_closed_socket(error: ClosedSocketError) -> None:
    with socket.socket() as closed:
        closed.close()
        with pytest.raises(OSError) as stdlib:
            closed.recv(1)
    assert error.errno == stdlib.value.errno
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.errno, str(copy)) == (type(error), error.errno, str(error))


def test_the_clock_goes_forward() -> None:
    assert isinstance(MONOTONIC, Clock)
    first = MONOTONIC.now()
    assert 0 <= MONOTONIC.now() - first < 60


# --- the net under every test: shown to catch -----------------------------------------------------------------------

LEAKY = """
    import os, socket, threading
    import pytest

    stop = threading.Event()
    kept = []

    def test_descriptor():
        kept.append(socket.socket())

    def test_closes_what_was_there_before():
        kept.pop().close()

    def test_thread():
        kept.append(threading.Thread(target=stop.wait, daemon=True))
        kept[-1].start()

    def test_nothing_left():
        stop.set()
        with socket.socket():
            threading.Thread(target=lambda: None).start()

    @pytest.mark.leaks("the socket is the case")
    def test_says_so():
        kept.append(socket.socket())

    @pytest.mark.leaks
    def test_does_not_say_why():
        pass

    def test_only_a_collection_closes_it():
        ring = [socket.socket()]
        ring.append(ring)
"""


def test_what_a_test_leaves_behind_is_found(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    pytester.makeconftest(conftest.replace("GRACE = 5.0", "GRACE = 0.1"))
    pytester.makepyfile(LEAKY)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "ignore")
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_descriptor*",
            "*descriptor * was left open: socket:*",
            "*ERROR at teardown of test_closes_what_was_there_before*",
            "*descriptor * was closed, which is not the test's: socket:*",
            "*ERROR at teardown of test_thread*",
            "*a thread goes on: *",
            "*ERROR at setup of test_does_not_say_why*",
            "*say what may stay and why*",
        ]
    )
    result.assert_outcomes(passed=6, errors=4)  # an error at teardown comes after a pass
