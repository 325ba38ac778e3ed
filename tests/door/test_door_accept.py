"""The accept policy: each error has one action, an episode has two log lines, and no batch is without an end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable

import pytest

from jackfield.clock import Clock
from jackfield.door.accept import PAUSE, QUIET, AcceptPolicy, Action, Outcome, Pauses, accept_batch
from jackfield.errors import ClosedSocketError


class HandMovedClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def script(*steps: object) -> Callable[[], object]:
    """An accept that gives, or raises, one step after the other, and then finds nothing waiting."""
    remaining = iter(steps)

    def accept() -> object:
        step = next(remaining, failing(errno.EAGAIN))
        if isinstance(step, BaseException):
            raise step
        return step

    return accept


def run(
    accept: Callable[[], object], policy: AcceptPolicy, budget: int = 64
) -> tuple[Outcome, list[object], list[str]]:
    taken: list[object] = []
    lines: list[str] = []
    return accept_batch(accept, taken.append, policy, budget, lines.append), taken, lines


@pytest.mark.parametrize(
    ("names", "action"),
    [
        ("EAGAIN EWOULDBLOCK", Action.DRAINED),
        ("ECONNABORTED ECONNRESET EPROTO EPERM ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH", Action.RETRY),
        ("EOPNOTSUPP ENETUNREACH ETIMEDOUT EINTR", Action.RETRY),
        ("EMFILE ENFILE ENOBUFS ENOMEM", Action.PAUSE),
        ("EBADF EINVAL ENOTSOCK", Action.CLOSED),
        ("EIO EFAULT ENOENT EDOM", Action.UNKNOWN),
    ],
)
def test_each_error_has_its_action(names: str, action: Action) -> None:
    policy = AcceptPolicy(HandMovedClock())
    for name in names.split():
        assert policy.verdict(failing(getattr(errno, name))) is action, name


def test_errors_without_a_number_of_the_systems() -> None:
    policy = AcceptPolicy(HandMovedClock())
    assert policy.verdict(TimeoutError("timed out")) is Action.DRAINED
    assert policy.verdict(OSError("odd")) is Action.UNKNOWN
    assert policy.verdict(ClosedSocketError()) is Action.CLOSED
    # EIO if it were errno; it is SSL_ERROR_SYSCALL of a handshake inside accept.
    assert policy.verdict(ssl.SSLEOFError(errno.EIO, "EOF in the handshake")) is Action.RETRY


def test_a_batch_takes_all_that_wait_and_ends_drained() -> None:
    outcome, taken, lines = run(script("a", "b", "c"), AcceptPolicy(HandMovedClock()))
    assert (outcome, taken, lines) == (Outcome(3, Action.DRAINED), ["a", "b", "c"], [])


def test_a_batch_ends_with_its_budget_and_asks_to_come_again() -> None:
    outcome, taken, _ = run(lambda: "endless", AcceptPolicy(HandMovedClock()), budget=5)
    assert (outcome, len(taken)) == (Outcome(5, Action.RETRY), 5)


def test_connections_that_fail_on_their_own_are_passed_over_without_a_word() -> None:
    policy = AcceptPolicy(HandMovedClock())
    aborted = [failing(errno.ECONNABORTED)] * 27
    outcome, taken, lines = run(script(*aborted, "a"), policy)
    assert (outcome, taken, lines, policy.faults) == (Outcome(1, Action.DRAINED), ["a"], [], 27)


def test_a_storm_of_failing_connections_does_not_keep_the_loop() -> None:
    calls = []

    def accept() -> object:
        calls.append(1)
        raise failing(errno.ECONNABORTED)

    outcome, _, _ = run(accept, AcceptPolicy(HandMovedClock()), budget=64)
    assert (outcome.action, outcome.pause, len(calls)) == (Action.RETRY, 0.0, 64)


def test_an_error_that_never_ends_is_not_taken_for_the_connections_fault() -> None:
    policy = AcceptPolicy(HandMovedClock(), name="here")
    accept = script(*[failing(errno.EOPNOTSUPP)] * 5000)
    outcomes = [run(accept, policy) for _ in range(40)]
    pauses = [outcome for outcome, _, _ in outcomes if outcome.action is Action.UNKNOWN]
    assert len(pauses) == 2 and pauses[0].pause == PAUSE
    assert sum(len(lines) for _, _, lines in outcomes) == 1
    # A connection, or an empty queue, among them shows that the listener lives.
    lively = AcceptPolicy(HandMovedClock())
    accept = script(*([failing(errno.EOPNOTSUPP)] * 100 + ["a"]) * 50)
    assert all(run(accept, lively)[0].action is Action.RETRY for _ in range(40))


def test_the_listener_is_gone() -> None:
    error = failing(errno.EBADF)
    outcome, _, lines = run(script("a", error, "never"), AcceptPolicy(HandMovedClock()))
    assert (outcome, lines) == (Outcome(1, Action.CLOSED, error=error), [])


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_capacity_pauses_and_says_what_to_do(name: str) -> None:
    number = getattr(errno, name)
    outcome, taken, lines = run(script("a", failing(number), "never"), AcceptPolicy(HandMovedClock(), name="tcp://x:1"))
    assert (outcome.accepted, outcome.action, outcome.pause) == (1, Action.PAUSE, 0.1)
    assert outcome.error is not None and outcome.error.errno == number
    assert taken == ["a"]
    (line,) = lines
    assert line.startswith("tcp://x:1: cannot accept") and name in line and "\n" not in line
    assert any(remedy in line for remedy in ("ulimit -n", "fs.file-max", "tcp_mem", "cgroup"))


def test_an_unknown_error_is_reported_once_and_pauses() -> None:
    policy = AcceptPolicy(HandMovedClock())
    seen = [run(script(failing(errno.EIO)), policy) for _ in range(10)]
    assert {outcome.action for outcome, _, _ in seen} == {Action.UNKNOWN}
    assert {outcome.pause for outcome, _, _ in seen} == {PAUSE}
    assert [len(lines) for _, _, lines in seen] == [1] + [0] * 9


def test_an_episode_has_a_line_at_its_beginning_and_one_with_the_count_at_its_end() -> None:
    clock = HandMovedClock()
    policy = AcceptPolicy(clock, name="here")
    log: list[str] = []

    def batch(*steps: object) -> None:
        log.extend(run(script(*steps), policy)[2])

    # At the limit: connections end, each lets one in, and accepting fails again ten times a second.
    for _ in range(50):
        batch("a", failing(errno.EMFILE))
        clock.time += 0.1
    assert len(log) == 1
    batch("a")  # too soon to say that it is over
    assert len(log) == 1 and policy.in_trouble
    clock.time += QUIET
    batch("a", "b")
    assert log[1:] == ["here: EMFILE on accept is over, it failed 50 times in 4.9 s"]
    assert not policy.in_trouble and policy.failures == 50
    # The next one is a new episode.
    batch(failing(errno.EMFILE))
    assert len(log) == 3


def test_episodes_of_different_errors_are_told_apart() -> None:
    clock = HandMovedClock()
    policy = AcceptPolicy(clock)
    first = [run(script(failing(number)), policy)[2] for number in (errno.EMFILE, errno.ENFILE, errno.EMFILE)]
    assert [len(lines) for lines in first] == [1, 1, 0]
    clock.time += QUIET
    assert len(run(script("a"), policy)[2]) == 2


def test_a_server_that_stops_ends_its_episodes() -> None:
    policy = AcceptPolicy(HandMovedClock())
    run(script(failing(errno.EMFILE)), policy)
    assert policy.end() == []
    assert [line for line in policy.end(stopping=True) if "failed once" in line]
    assert policy.end(stopping=True) == []


def test_without_a_report_the_lines_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "jackfield.door"):
        accept_batch(script(failing(errno.EMFILE)), list, AcceptPolicy(HandMovedClock()))
    (record,) = caplog.records
    assert record.name == "jackfield.door" and "EMFILE" in record.getMessage()


def test_what_take_raises_is_the_callers() -> None:
    def take(connection: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        accept_batch(script("a"), take, AcceptPolicy(HandMovedClock()))


def test_errors_other_than_the_systems_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        run(script(ZeroDivisionError()), AcceptPolicy(HandMovedClock()))


def test_a_real_listener_is_drained_and_then_closed() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    policy = AcceptPolicy()
    assert run(listener.accept, policy)[0] == Outcome(0, Action.DRAINED)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    outcome, taken, _ = run(listener.accept, policy)
    assert outcome == Outcome(3, Action.DRAINED)
    for connection, _ in taken:  # type: ignore[misc]
        connection.close()
    for client in clients:
        client.close()
    listener.close()
    assert run(listener.accept, policy)[0].action is Action.CLOSED


def test_real_exhaustion_of_descriptors_loses_no_connection() -> None:
    resource = pytest.importorskip("resource")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    client = socket.create_connection(listener.getsockname())
    policy = AcceptPolicy()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Every number below the lowest free one is taken, so nothing can be opened.
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), limits[1]))
        outcome, _, lines = run(listener.accept, policy)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert outcome.action is Action.PAUSE and len(lines) == 1
    outcome, taken, _ = run(listener.accept, policy)
    assert outcome.accepted == 1
    taken[0][0].close()  # type: ignore[index]
    client.close()
    listener.close()


def lowest_free() -> int:
    number = os.dup(0)
    os.close(number)
    return number


# -- pauses ------------------------------------------------------------------------------------------------------------

SHORT = Outcome(0, Action.PAUSE, PAUSE, failing(errno.EMFILE))
ODD = Outcome(0, Action.UNKNOWN, PAUSE, failing(errno.EIO))


def test_a_listener_is_left_alone_for_as_long_as_the_outcome_says() -> None:
    clock = HandMovedClock()
    pauses: Pauses[str] = Pauses(clock)
    assert pauses.left("a") == 0
    for outcome in (SHORT, ODD):
        pauses.note("a", outcome)
        assert pauses.left("a") == pytest.approx(PAUSE) and pauses.left("b") == 0
        clock.time += PAUSE / 2
        assert pauses.left("a") == pytest.approx(PAUSE / 2)
        clock.time += PAUSE / 2
        assert pauses.left("a") == 0


def test_other_outcomes_are_no_pause() -> None:
    pauses: Pauses[str] = Pauses(HandMovedClock())
    for outcome in (Outcome(3, Action.DRAINED), Outcome(64, Action.RETRY), Outcome(0, Action.CLOSED)):
        pauses.note("a", outcome)
        assert pauses.left("a") == 0


def test_what_is_given_back_ends_the_want_of_all_listeners_and_nothing_else() -> None:
    pauses: Pauses[str] = Pauses(HandMovedClock())
    assert not pauses.freed(), "nobody waits for it: nobody is to be woken"
    pauses.begin()
    for listener, outcome in (("a", SHORT), ("b", SHORT), ("c", ODD)):
        pauses.note(listener, outcome)
    assert pauses.freed()
    assert not pauses.freed(), "once is enough"
    assert [pauses.left(listener) > 0 for listener in "abc"] == [False, False, True]


def test_what_is_given_back_between_the_failure_and_the_pause_is_not_missed() -> None:
    """On another thread, whose connection ends at just that moment."""
    pauses: Pauses[str] = Pauses(HandMovedClock())
    pauses.begin()
    assert not pauses.freed()
    pauses.note("a", SHORT)
    assert pauses.left("a") == 0
    # Once: a loop that forgot to say that a batch begins would spin otherwise.
    pauses.note("a", SHORT)
    assert pauses.left("a") > 0


def test_what_was_given_back_before_the_batch_is_known_to_it() -> None:
    pauses: Pauses[str] = Pauses(HandMovedClock())
    pauses.freed()
    pauses.begin()
    pauses.note("a", SHORT)
    assert pauses.left("a") > 0


# -- the broken case ---------------------------------------------------------------------------------------------------


def batches_of_a_spinning_loop(policy: AcceptPolicy, errors: Iterable[OSError]) -> int:
    return sum(run(script(error), policy)[0].pause == 0 for error in errors)


def test_the_gate_against_spinning_can_fail() -> None:
    class Careless(AcceptPolicy):
        def verdict(self, error: OSError) -> Action:
            return Action.RETRY

    clock: Clock = HandMovedClock()
    errors = [failing(errno.EMFILE)] * 10
    assert batches_of_a_spinning_loop(AcceptPolicy(clock), errors) == 0
    assert batches_of_a_spinning_loop(Careless(clock), errors) == 10
