"""CPython's test_socketserver on ``jackfield.socketserver``: as it is, and with green servers for threading ones."""

from collections.abc import Collection
from pathlib import Path

import pytest

from . import exceptions, runner
from .baseline import baseline_of
from .faces import Face
from .verdict import Run, complaints

SUITE = "test_socketserver"

pytestmark = [
    pytest.mark.skipif(runner.why_unavailable(SUITE) is not None, reason=str(runner.why_unavailable(SUITE))),
    # The children bound each test.
    pytest.mark.timeout(170),
]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The outcomes on the standard library, so that what this machine cannot do is not held against ours."""
    return baseline_of(SUITE, tmp_path_factory)


def _run(
    face: Face, scratch: Path, *, only: Collection[str] | None = None, broken: str | None = None, workers: int = 4
) -> Run:
    return runner.run(SUITE, face, scratch / "run", only=only, broken=broken, workers=workers)


def test_the_standard_library_passes_its_own_tests(baseline: Run) -> None:
    assert baseline.names("failed") == set()


def test_every_test_passes_on_ours(baseline: Run, tmp_path: Path) -> None:
    ours = _run("ours", tmp_path)
    found = complaints(baseline, ours, exceptions.SERVERS)
    assert not found, "\n\n".join(found)
    assert ours.names("failed") <= set(exceptions.SERVERS)


def test_every_test_passes_with_green_servers_for_threading_ones(baseline: Run, tmp_path: Path) -> None:
    ours = _run("green-servers", tmp_path)
    found = complaints(baseline, ours, exceptions.GREEN_SERVERS)
    assert not found, "\n\n".join(found)
    assert ours.names("failed") <= set(exceptions.GREEN_SERVERS)


# The broken cases: each gate, shown to fail.

STREAM = "test_socketserver.SocketServerTest.test_TCPServer"
THREADING = "test_socketserver.SocketServerTest.test_ThreadingTCPServer"


@pytest.mark.parametrize("face", ["ours", "green-servers"])
def test_a_server_that_calls_no_handler_is_found(face: Face, baseline: Run, tmp_path: Path) -> None:
    some = {STREAM, THREADING}
    ours = _run(face, tmp_path, only=some, broken="handler-is-never-called", workers=1)
    found = complaints(_only(baseline, some), ours)
    # A third complaint: the failed tests leave their serving threads behind.
    assert {text.partition(":")[0] for text in found} >= some


def test_a_server_that_leaves_a_thread_behind_is_found(baseline: Run, tmp_path: Path) -> None:
    ours = _run("ours", tmp_path, only={STREAM}, broken="a-thread-stays-behind", workers=1)
    found = complaints(_only(baseline, {STREAM}), ours)
    assert found == ["test_socketserver.SocketServerTest: leaves threads behind on ours, not on the standard library"]


def _only(run: Run, names: set[str]) -> Run:
    return Run({name: run.outcomes[name] for name in names}, run.littering)
