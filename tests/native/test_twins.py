"""Which twin is taken and when, that the two agree in their numbers, and how the native one is built or left out."""

from __future__ import annotations

import ast
import gc
import shutil
import sys
from pathlib import Path

import pytest
from twin_support import natively, pair, python

from jackfield import run
from jackfield.reactor import cooperative, pure
from jackfield.reactor.twin import native

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# pytest's own helper for tests of fixtures, and the fixture of ours that is tested.
GATE = """
import pytest
from jackfield.reactor.twin import native

kept = []

{body}
"""


@natively
def test_both_count_and_batch_alike() -> None:
    assert native is not None
    for name in ("BATCH", "ROUNDS", "STREAK"):
        assert getattr(native, name) == getattr(pure, name), name


def test_both_call_the_same_size_absurd() -> None:
    header = ROOT / "native" / "native.h"
    [line] = [line for line in header.read_text().splitlines() if line.startswith("#define ABSURD")]
    expression = line.removeprefix("#define ABSURD").strip().replace("(Py_ssize_t)", "")
    one, operator, shift = ast.unparse(ast.parse(expression, mode="eval")).split()
    assert (int(one) << int(shift), operator) == (cooperative.ABSURD, "<<")


WHICH = "from jackfield.reactor import twin, poller; print(twin.native is None, poller.Channel.__module__)"


@natively
def test_the_environment_turns_it_off() -> None:
    assert python("-c", WHICH, JACKFIELD_PURE="1").stdout.split() == ["True", "jackfield.reactor.pure"]
    for unset in ("", "0"):
        assert python("-c", WHICH, JACKFIELD_PURE=unset).stdout.split() == ["False", "jackfield.reactor._native"]


def test_without_the_built_part_the_pure_one_is_taken() -> None:
    code = "import sys; sys.modules['jackfield.reactor._native'] = None\n" + WHICH
    assert python("-c", code, JACKFIELD_PURE="0").stdout.split() == ["True", "jackfield.reactor.pure"]


# -- building --------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is built from, in a place of its own."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the native twin is built on Linux only")
    pytest.importorskip("setuptools", reason="nothing here to build with")
    folder = tmp_path / "source"
    shutil.copytree(ROOT / "native", folder / "native")
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "src" / "jackfield" / "reactor").mkdir(parents=True)
    return folder


def build(source: Path, **environment: str) -> tuple[int, list[str], list[Path]]:
    """How the build ended, the lines that tell a person of it, and what it made."""
    # By its path, so in its folder: what setup.py names is beside it.
    code = "import os, sys, runpy; os.chdir(sys.argv[1]); sys.argv = ['setup.py', '-q', 'build_ext', '--inplace']\n"
    done = python("-c", f"{code}runpy.run_path('setup.py')", str(source), **environment)
    told = [line for line in done.stderr.splitlines() if line.startswith("jackfield: ")]
    return done.returncode, told, list((source / "src").rglob("*.so"))


def test_without_a_compiler_it_is_left_out_with_one_line(source: Path) -> None:
    code, told, made = build(source, CC="/bin/false", JACKFIELD_PURE="", JACKFIELD_SANITIZE="")
    assert (code, made) == (0, [])
    [line] = told
    assert "in Python" in line and "install a C compiler" in line and len(line) < 300


def test_asked_to_it_does_not_even_try(source: Path) -> None:
    code, told, made = build(source, CC="/bin/false", JACKFIELD_PURE="1")
    assert (code, told, made) == (0, [], [])


@natively
def test_a_warning_is_an_error(source: Path) -> None:
    with (source / "native" / "module.c").open("a") as file:
        file.write("static int nobody_calls_this(void) { return 0; }\n")
    code, told, made = build(source, JACKFIELD_PURE="", JACKFIELD_SANITIZE="")
    assert (code, len(told), made) == (0, 1, [])


def test_a_build_with_sanitizers_that_fails_is_told(source: Path) -> None:
    code, told, made = build(source, CC="/bin/false", JACKFIELD_PURE="", JACKFIELD_SANITIZE="1")
    assert code != 0 and (told, made) == ([], [])


# -- what is counted -------------------------------------------------------------------------------------------------


@natively
def test_each_native_object_is_counted() -> None:
    assert native is not None
    gc.collect()
    before = native.alive()
    seen = []

    def main() -> None:
        with pair() as (left, right):
            right.sendall(b"x")
            left.recv(1)
            seen.append(native.alive())

    run(main)
    gc.collect()
    assert seen[0]["Core"] == before["Core"] + 1
    assert seen[0]["Channel"] >= before["Channel"] + 2
    assert native.alive() == before


@natively
@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("def test_it():\n    kept.append(native.Channel(7, None))", {"passed": 1, "errors": 1}),
        ("def test_it():\n    native.Channel(7, None)", {"passed": 1}),
        # What the collector has to find is found before anybody is blamed.
        ("def test_it():\n    channel = native.Channel(7, None)\n    channel.reader = channel", {"passed": 1}),
        (
            '@pytest.mark.leaks("it is the point of it")\ndef test_it():\n    kept.append(native.Channel(7, None))',
            {"passed": 1},
        ),
    ],
)
def test_a_test_that_leaves_native_objects_behind_fails(
    pytester: pytest.Pytester, body: str, outcomes: dict[str, int]
) -> None:
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(GATE.format(body=body))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(**outcomes)
    if "errors" in outcomes:
        result.stdout.fnmatch_lines(["*leaves native objects behind: 1 Channel*"])
