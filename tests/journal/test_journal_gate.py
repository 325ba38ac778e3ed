"""How much goes into the log, what becomes of the rest, and what happens where it cannot be written."""

from __future__ import annotations

import copy
import gc
import io
import json
import logging
import logging.handlers
import os
import pickle
import queue
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from journal_support import Lines, journal_to, logged_by, raised, records_in

from jackfield.journal import Incident, Journal, tallies
from jackfield.journal.tallies import BURST, BURST_BYTES, MOST_KINDS, Tallies
from jackfield.testing import ManualClock

KIND = "errors of the test"


class Fault(Exception):
    """One that can be waited for to be let go of."""


def flood(journal: Journal, number: int, kind: str = KIND, text: str = "serving %s") -> int:
    return sum(journal.write(logging.ERROR, text, number, kind=kind) for number in range(number))


# --- how much -------------------------------------------------------------------------------------------------------


def test_a_burst_then_one_a_second_and_the_rest_is_told() -> None:
    lines = Lines()
    with journal_to(lines) as (journal, clock):
        assert flood(journal, 300) == BURST
        assert journal.suppressed == 290 and journal.suppressed_by_kind == {KIND: 290}
        assert records_in(lines.log) == BURST
        clock.advance(0.9)
        assert flood(journal, 1) == 0
        clock.advance(0.1)
        assert flood(journal, 2) == 1
        assert lines.texts[BURST] == f"8c1f ERROR journal under test: ... 291 more of these: {KIND}"
        assert lines.texts[BURST + 1].endswith("serving 0")
        clock.advance(1000)
        assert flood(journal, 300) == BURST
        assert journal.suppressed == 292 + 290


def test_whole_tracebacks_until_the_bytes_are_used_up() -> None:
    lines = Lines()
    error = raised(Fault("\x1b" * 10_000))
    with journal_to(lines) as (journal, clock):
        for _ in range(300):
            journal.write(logging.ERROR, "serving", kind=KIND, error=error)
        first = len(lines.log)
        assert BURST_BYTES / 2 < first <= BURST_BYTES
        assert 5 <= len(lines.texts) <= BURST
        clock.advance(10)
        for _ in range(300):
            journal.write(logging.ERROR, "serving", kind=KIND, error=error)
        assert len(lines.log) <= first + 10 * 1024 + 200


def test_kinds_are_held_back_one_by_one_up_to_a_number_of_them() -> None:
    lines = Lines()
    with journal_to(lines) as (journal, _):
        assert [flood(journal, 20, kind) for kind in ("a", "b")] == [BURST, BURST]
        assert journal.suppressed_by_kind == {"a": 10, "b": 10}
        assert sum(flood(journal, 20, f"kind {number}") for number in range(100)) == (MOST_KINDS - 2) * BURST
        assert len(journal.suppressed_by_kind) == MOST_KINDS
        assert flood(journal, 1, "one\nthat a peer has named") == 0


def test_what_the_level_leaves_out_costs_nothing_and_is_not_counted() -> None:
    with journal_to(Lines()) as (journal, _):
        logging.getLogger("journal under test").setLevel(logging.INFO)
        assert not journal.write(logging.DEBUG, "%s", Unreadable(), kind=KIND)
        assert journal.suppressed == journal.lost == 0


def test_a_look_tells_when_there_is_room() -> None:
    lines, woken = Lines(), []
    with journal_to(lines) as (journal, clock):
        journal.on_held = lambda: woken.append(1)
        assert journal.look() is None
        flood(journal, 300)
        assert woken == [1]
        assert journal.look() == pytest.approx(1.0)
        clock.advance(0.75)
        assert journal.look() == pytest.approx(0.25)
        assert len(lines.texts) == BURST
        clock.advance(0.25)
        assert journal.look() is None
        assert lines.texts[BURST:] == [f"8c1f ERROR journal under test: ... 290 more of these: {KIND}"]
        flood(journal, 3)
        assert woken == [1, 1]
        journal.tell()
        journal.close()
        journal.close()
        assert lines.texts[BURST + 1 :] == [f"8c1f ERROR journal under test: ... 3 more of these: {KIND}"]
        assert journal.suppressed == 293


def test_a_wake_that_fails_disturbs_nobody() -> None:
    with journal_to(Lines()) as (journal, _):
        journal.on_held = lambda: [].pop()
        assert flood(journal, 300) == BURST


def test_threads_share_the_allowance_and_each_record_is_counted_once() -> None:
    lines = Lines()
    with journal_to(lines) as (journal, _):
        threads = [threading.Thread(target=flood, args=(journal, 100)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert records_in(lines.log) == BURST
        assert journal.suppressed == 800 - BURST and journal.lost == 0


# --- never an error -------------------------------------------------------------------------------------------------


class Unreadable:
    def __str__(self) -> str:
        raise RecursionError


class Full:
    """A stream to a full disk."""

    def write(self, text: str) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(text.encode())

    def flush(self) -> None: ...


class Raises(logging.Handler):
    """A handler that lets out what the standard library's own keep to themselves."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self._error


@pytest.mark.parametrize(
    "handler",
    [lambda: logging.StreamHandler(Full()), lambda: Raises(OSError()), lambda: Raises(SystemExit())],
    ids=["a full disk", "raises", "leaves"],
)
def test_what_cannot_be_written_is_counted(
    handler: Callable[[], logging.Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with journal_to(handler()) as (journal, _):
        assert flood(journal, 50) == 0
        assert (journal.lost, journal.suppressed) == (BURST, 40)
        journal.tell()
        assert journal.lost == BURST + 1


def test_logging_says_what_it_says_of_a_handler_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(Full())
    with journal_to(handler) as (journal, _):
        journal.write(logging.ERROR, "a\x1bb", kind=KIND, error=raised(Fault("c\x1bd")))
    said = capsys.readouterr().err
    assert "--- Logging error ---" in said and "No space left" in said and "\x1b" not in said
    logging.getLogger("journal under test").handlers.clear()
    gone = weakref.ref(handler)
    del handler, journal
    assert gone() is None, "a handler that is listened to is let go of as before"


def test_a_record_of_somebody_elses_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with journal_to(logging.StreamHandler(Full())) as (journal, _):
        journal.write(logging.ERROR, "ours", kind=KIND)
        logging.getLogger("journal under test").error("theirs")
        assert journal.lost == 1


def test_an_interrupt_goes_its_way_and_the_next_is_written() -> None:
    handler = Raises(KeyboardInterrupt())
    with journal_to(handler) as (journal, _):
        with pytest.raises(KeyboardInterrupt):
            journal.write(logging.ERROR, "text", kind=KIND)
        lines = Lines()
        logging.getLogger("journal under test").handlers[:] = [lines]
        assert journal.write(logging.ERROR, "text", kind=KIND)


def test_a_handler_that_brings_about_the_next_record_is_not_called_for_it() -> None:
    class Recursive(Lines):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            assert not journal.write(logging.ERROR, "again", kind="of the log")
            assert journal.look() is None
            journal.tell()

    lines = Recursive()
    with journal_to(lines) as (journal, _):
        assert flood(journal, 3) == 3
        assert len(lines.texts) == 3 and journal.lost == 3


def test_a_text_that_cannot_be_made_is_counted_or_told_as_such() -> None:
    lines = Lines()
    with journal_to(lines) as (journal, _):
        assert journal.write(logging.ERROR, "serving %s", Unreadable(), kind=KIND)
        assert "<str() of Unreadable raised RecursionError>" in lines.log
        assert not journal.write(logging.ERROR, "serving %s and %s", 1, kind=KIND)
        assert journal.lost == 1


def test_records_are_made_as_the_application_makes_them() -> None:
    factory = logging.getLogRecordFactory()
    lines = Lines(keeps=True)
    lines.addFilter(lambda record: "no" not in record.getMessage())

    def tagged(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.__dict__["tag"] = "ours"
        return record

    logging.setLogRecordFactory(tagged)
    try:
        with journal_to(lines) as (journal, _):
            assert journal.write(logging.ERROR, "100 % of %d", kind=KIND)
            assert journal.write(logging.ERROR, "no", kind=KIND)
    finally:
        logging.setLogRecordFactory(factory)
    (record,) = lines.records
    assert record.getMessage() == "100 % of %d" and record.__dict__["tag"] == "ours"
    assert record.filename == os.path.basename(__file__)
    assert record.funcName == "test_records_are_made_as_the_application_makes_them"


# --- what a record carries ------------------------------------------------------------------------------------------


def one_record(error: BaseException | None) -> logging.LogRecord:
    lines = Lines(keeps=True)
    with journal_to(lines) as (journal, _):
        journal.write(logging.ERROR, "serving %s", "x", kind=KIND, error=error, peer=("::1", 7, 0, 0))
    return lines.records[0]


def test_a_record_has_the_text_for_formatters_and_the_error_for_others() -> None:
    error = raised(Fault("\x1b"))
    record = one_record(error)
    assert record.exc_info is None
    assert record.exc_text is not None and record.exc_text.endswith(r"Fault: \x1b")
    assert isinstance(incident := record.__dict__["incident"], Incident)
    assert (incident.kind, incident.peer, incident.error) == (KIND, ("::1", 7, 0, 0), error)
    assert repr(incident) == f"<Incident of {KIND!r}>"
    assert one_record(None).exc_text is None
    json.dumps(record.__dict__, default=str)


def test_an_error_is_let_go_of_with_its_record() -> None:
    lines = Lines(keeps=True)

    def body() -> weakref.ref[Fault]:
        try:
            raise Fault("gone")
        except Fault as caught:
            journal.write(logging.ERROR, "serving", kind=KIND, error=caught)
            return weakref.ref(caught)

    gc.disable()
    try:
        with journal_to(lines) as (journal, _):
            gone = body()
            assert gone() is not None, "the record holds it"
            lines.records.clear()
            assert gone() is None, "and nothing else does"
            for _ in range(20):
                gone = body()
                lines.records.clear()
                assert gone() is None, "nor where it was held back"
    finally:
        gc.enable()


def test_a_record_goes_to_other_processes_without_the_error() -> None:
    error = Fault(lambda: "cannot be pickled")
    record = one_record(raised(error))
    sent = logging.handlers.SocketHandler("localhost", 1).makePickle(record)
    assert b"Fault" in sent
    assert pickle.loads(pickle.dumps(record)).incident.error is None
    assert copy.copy(record).__dict__["incident"].error is error


def test_a_queue_of_records_is_formatted_as_any_other() -> None:
    handler = logging.handlers.QueueHandler(queue.SimpleQueue())
    with journal_to(handler) as (journal, _):
        journal.write(logging.ERROR, "a\nb", kind=KIND, error=raised(Fault("c\nd")))
    record: logging.LogRecord = handler.queue.get_nowait()  # type: ignore[union-attr]
    first, *others = record.getMessage().split("\n")
    assert first == r"a\nb" and others and all(line.startswith("  ") for line in others)


def test_without_any_handler_it_goes_where_logging_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(stream))
    with logged_by(Lines(), "journal under test") as logger:
        logger.handlers.clear()
        assert Journal(logger, clock=ManualClock()).write(logging.ERROR, "text\x1b", kind=KIND)
    assert stream.getvalue() == "text\\x1b\n"


# --- forks ----------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> int:
    """The pid of a process that exits 0 when ``work()`` is done; it ends in any case."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("shared", [False, True])
def test_a_child_does_not_inherit_a_lock_that_is_held(shared: bool) -> None:
    counts = Tallies()
    if shared:
        counts.share()
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with counts._lock:
            held.set()
            go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = in_child(lambda: counts.take(KIND, 40, 1.0))
    go.set()
    thread.join()
    assert status_of(pid) == 0
    counts.close()


def test_a_child_does_not_tell_what_its_parent_holds_back() -> None:
    lines = Lines()
    with journal_to(lines) as (journal, _):
        flood(journal, 300)

        def work() -> None:
            journal.tell()
            assert flood(journal, 1) == 0
            assert len(lines.texts) == BURST

        assert status_of(in_child(work)) == 0
        journal.tell()
        assert "290 more" in lines.texts[-1]


@pytest.mark.parametrize("shared", [True, False])
def test_children_draw_on_one_allowance_once_it_is_shared(shared: bool) -> None:
    counts = Tallies()
    if shared:
        counts.share()
        counts.share()

    def work() -> None:
        for _ in range(20):
            counts.take(KIND, 40, 1.0)
        counts.lose()

    assert [status_of(pid) for pid in [in_child(work) for _ in range(5)]] == [0] * 5
    assert counts.suppressed() == ({KIND: 100 - BURST} if shared else {})
    assert counts.lost == (5 if shared else 0)
    assert counts.holds is shared
    assert [held.count for held in counts.rest()] == ([100 - BURST] if shared else [])
    counts.close()
    counts.close()
    assert counts.suppressed() == ({KIND: 100 - BURST} if shared else {}), "it stays known"


def test_one_that_is_killed_with_the_lock_in_its_hand_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Tallies()
    counts.share()

    def die() -> None:
        assert tallies._lock(counts._lock_fd)
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(die)) == -signal.SIGKILL
    monkeypatch.setattr(tallies, "LOOKS", 1)
    assert tallies._lock(counts._lock_fd)
    counts.close()


def test_nor_does_one_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Tallies()
    counts.share()
    monkeypatch.setattr(tallies, "LOOKS", 2)
    told, tells = os.pipe()
    ends, end = os.pipe()

    def stand() -> None:
        os.close(end)
        tallies._lock(counts._lock_fd)
        os.write(tells, b"x")
        os.read(ends, 1)

    pid = in_child(stand)
    assert os.read(told, 1) == b"x"
    assert not tallies._lock(counts._lock_fd)
    assert counts.take(KIND, 40, 1.0) is not None
    for fd in (end, ends, told, tells):
        os.close(fd)
    assert status_of(pid) == 0
    assert counts.take(KIND, 40, 1.0) is not None
    counts.close()


def test_a_child_that_closes_all_it_finds_still_counts_and_locks_no_file_of_its_own() -> None:
    counts = Tallies()
    counts.share()

    def work() -> None:
        os.close(counts._lock_fd)
        own = os.open("/dev/null", os.O_RDWR)
        os.dup2(own, counts._lock_fd)
        assert not counts._is_lock()
        counts.lose()

    assert status_of(in_child(work)) == 0
    assert counts.lost == 1
    counts.close()


def test_without_a_descriptor_each_child_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tallies, "_nameless_file", fail)
    lines = Lines()
    with journal_to(lines) as (journal, _):
        journal.share()
        assert flood(journal, 300) == BURST
        journal.close()


def test_a_signal_handler_in_the_middle_of_a_count_changes_the_same_one() -> None:
    counts = Tallies()
    counts.share()
    with counts._changing():
        counts.lose()
        counts.lose()
    assert counts.lost == 2
    counts.close()
