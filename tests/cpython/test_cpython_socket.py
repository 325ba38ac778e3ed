"""CPython's test_socket on ``jackfield.socket``: in plain threads, and with every thread a green one on one thread."""

from collections.abc import Collection
from pathlib import Path

import pytest

from . import exceptions, runner
from .baseline import baseline_of
from .faces import Face
from .verdict import Outcome, Run, complaints

SUITE = "test_socket"

pytestmark = [
    pytest.mark.skipif(runner.why_unavailable(SUITE) is not None, reason=str(runner.why_unavailable(SUITE))),
    # The children bound each test.
    pytest.mark.timeout(170),
]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The outcomes on the standard library; only what passes there is asked of ours."""
    return baseline_of(SUITE, tmp_path_factory)


def _run(
    face: Face,
    scratch: Path,
    *,
    only: Collection[str] | None = None,
    broken: str | None = None,
    hang: float = 45.0,
    workers: int = 4,
) -> Run:
    return runner.run(SUITE, face, scratch / "run", only=only, broken=broken, hang=hang, workers=workers)


def test_in_plain_threads_what_passes_on_the_standard_library_passes_on_ours(baseline: Run, tmp_path: Path) -> None:
    ours = _again_where_a_port_was_taken(_run("ours", tmp_path, only=baseline.names("passed")), "ours", tmp_path)
    found = complaints(baseline, ours, exceptions.PLAIN)
    assert not found, "\n\n".join(found)


def test_in_green_threads_what_passes_on_the_standard_library_passes_on_ours(baseline: Run, tmp_path: Path) -> None:
    ours = _again_where_a_port_was_taken(_run("green", tmp_path, only=baseline.names("passed")), "green", tmp_path)
    found = complaints(baseline, ours, exceptions.GREEN)
    assert not found, "\n\n".join(found)


def _again_where_a_port_was_taken(run: Run, face: Face, scratch: Path) -> Run:
    """CPython's tests ask for a free port (socket_helper.find_unused_port), let go of it and bind it again; on a
    machine with other tests at work somebody may have it by then. Once more, in a row, they say what they mean."""
    taken = {name for name, outcome in run.outcomes.items() if "[Errno 98]" in outcome.detail}
    if not taken:
        return run
    once_more = _run(face, scratch / "again", only=taken, workers=1)
    return Run({**run.outcomes, **once_more.outcomes}, run.littering)


# The broken cases: each gate, shown to fail.

RECV = "test_socket.BasicTCPTest.testRecv"
DETACH = "test_socket.BasicTCPTest.testDetach"
BYTES_ADDRESS = "test_socket.TestUnixDomain.testBytesAddr"
SOME = {RECV, DETACH, BYTES_ADDRESS}


@pytest.mark.parametrize("face", ["ours", "green"])
def test_a_socket_that_drops_a_byte_is_found(face: Face, baseline: Run, tmp_path: Path) -> None:
    ours = _run(face, tmp_path, only=SOME, broken="recv-drops-a-byte", workers=1)
    found = complaints(_only(baseline, SOME), ours)
    assert [text.partition(":")[0] for text in found] == [DETACH, RECV]
    assert "AssertionError" in found[1]


def test_a_socket_module_that_lacks_a_name_is_found_by_its_skips(baseline: Run, tmp_path: Path) -> None:
    ours = _run("ours", tmp_path, only={BYTES_ADDRESS, RECV}, broken="no-unix-family", workers=1)
    found = complaints(_only(baseline, {BYTES_ADDRESS, RECV}), ours)
    assert found == [
        f"{BYTES_ADDRESS}: ran on the standard library, skipped on ours: {ours.outcomes[BYTES_ADDRESS].detail}"
    ]


def test_a_green_run_that_is_not_on_one_thread_is_found(baseline: Run, tmp_path: Path) -> None:
    ours = _run("green", tmp_path, only={RECV}, broken="connect-starts-a-thread", workers=1)
    found = complaints(_only(baseline, {RECV}), ours)
    assert [text.partition(":")[0] for text in found] == [RECV]
    assert "not on one thread" in found[0]


@pytest.mark.parametrize("face", ["ours", "green"])
def test_a_test_that_never_ends_fails_and_the_rest_goes_on(face: Face, baseline: Run, tmp_path: Path) -> None:
    ours = _run(face, tmp_path, only=SOME, broken="a-test-never-ends", workers=1, hang=3.0)
    found = complaints(_only(baseline, SOME), ours)
    assert [text.partition(":")[0] for text in found] == [DETACH]
    assert "Timeout" in found[0], "the hung test's traceback is shown"


def test_an_exception_that_passes_after_all_is_stale(baseline: Run, tmp_path: Path) -> None:
    ours = _run("ours", tmp_path, only={RECV}, workers=1)
    found = complaints(_only(baseline, {RECV}), ours, {RECV: "no reason"})
    assert found == [f"{RECV}: passes, so its exception is stale (no reason)"]


def test_only_a_port_that_was_taken_is_asked_for_again(tmp_path: Path) -> None:
    taken = Outcome("failed", "OSError: [Errno 98] Address already in use")
    wrong = Outcome("failed", "AssertionError")
    again = _again_where_a_port_was_taken(Run({RECV: taken, DETACH: wrong}), "ours", tmp_path)
    assert again.outcomes[RECV].status == "passed"
    assert again.outcomes[DETACH] == wrong


def _only(run: Run, names: set[str]) -> Run:
    return Run({name: run.outcomes[name] for name in names}, run.littering)
