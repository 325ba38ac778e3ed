"""The rules by which outcomes are compared, each shown to complain."""

from .verdict import Outcome, Run, complaints

PASSED = Outcome("passed")
FAILED = Outcome("failed", "Traceback")
SKIPPED = Outcome("skipped", "no such name")


def test_the_same_outcomes_are_no_complaint() -> None:
    run = Run({"a": PASSED, "b": SKIPPED, "c": FAILED}, frozenset({"C"}))
    assert complaints(run, run) == []


def test_what_fails_or_is_skipped_on_the_standard_library_is_not_asked_of_ours() -> None:
    assert complaints(Run({"a": PASSED, "b": SKIPPED, "c": FAILED}), Run({"a": PASSED, "b": FAILED})) == []


def test_a_failure_is_a_complaint_with_its_traceback() -> None:
    assert complaints(Run({"a": PASSED}), Run({"a": FAILED})) == [
        "a: passes on the standard library, fails on ours\nTraceback"
    ]


def test_a_new_skip_is_a_complaint() -> None:
    assert complaints(Run({"a": PASSED}), Run({"a": SKIPPED})) == [
        "a: ran on the standard library, skipped on ours: no such name"
    ]


def test_a_test_that_did_not_run_is_a_complaint() -> None:
    assert complaints(Run({"a": PASSED}), Run({})) == ["a: ran on the standard library, did not run on ours"]


def test_an_exception_excuses_a_failure() -> None:
    assert complaints(Run({"a": PASSED}), Run({"a": FAILED}), {"a": "why"}) == []


def test_an_exception_for_a_passing_test_is_a_complaint() -> None:
    assert complaints(Run({"a": PASSED}), Run({"a": PASSED}), {"a": "why"}) == [
        "a: passes, so its exception is stale (why)"
    ]


def test_an_exception_for_a_test_nobody_passes_is_a_complaint() -> None:
    assert complaints(Run({"a": PASSED}), Run({"a": PASSED}), {"b": "why"}) == [
        "b: an exception for a test that does not pass on the standard library is stale"
    ]


def test_threads_left_behind_are_a_complaint() -> None:
    clean, littered = Run({"a": PASSED}), Run({"a": PASSED}, frozenset({"C"}))
    assert complaints(clean, littered) == ["C: leaves threads behind on ours, not on the standard library"]
    assert complaints(littered, clean) == []


def test_comparing_nothing_is_a_complaint() -> None:
    assert complaints(Run(), Run()) == ["no test passed on the standard library: the harness compares nothing"]
