"""What a record says: as in the standard library's traceback, and nothing that a peer could make a terminal or a reader
of the log take for anything else."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_support import MOST, Lines, journal_to, raised, wrong_in

from jackfield.journal import escaping
from jackfield.journal.escaping import cut, escape, fit, one_line, said, size
from jackfield.journal.tracebacks import INDENT, MOST_ERRORS, MOST_PARTS, traceback_lines

pytestmark = pytest.mark.slow

KIND = "errors of the test"


def trace(error: BaseException) -> str:
    return "\n".join(traceback_lines(error))


# --- one text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("größer 数", "größer 数"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x07\x00\x7f", r"\x1b[2J\x07\x00\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\u2028\u2029\u202e\u200b\ufeff", r"\u2028\u2029\u202e\u200b\ufeff"),
        ("\xa0", r"\xa0"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_is_not_printable_is_written_out(text: str, written: str) -> None:
    assert escape(text) == written


@given(st.text(), st.integers(0, 200))
def test_any_text_becomes_one_printable_line_of_the_bytes_it_may_have(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert size(line) == len(line.encode("utf-8")) <= most
    if size(escape(text)) <= most:
        assert line == escape(text)


@given(st.lists(st.text("ab€", max_size=30)), st.integers(0, 300))
def test_lines_that_do_not_fit_lose_their_middle(lines: list[str], most: int) -> None:
    kept = fit(lines, most)
    assert sum(size(line) + 1 for line in kept) <= most
    if sum(size(line) + 1 for line in lines) <= most:
        assert kept == lines


def test_what_matters_most_is_kept_of_what_does_not_fit() -> None:
    lines = [f"  line {number}" for number in range(100)]
    kept = fit(lines, 200)
    assert kept[0] == lines[0] and kept[-1] == lines[-1]
    assert len([line for line in kept if "cut" in line]) == 1
    assert fit(["  short", "  " + "x" * 1000], 200)[-1].endswith("x" * 20)
    assert cut("x" * 1000, 100).startswith("xxx") and "cut" in cut("x" * 1000, 100)


# --- what errors say of themselves ----------------------------------------------------------------------------------


class Silent(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class Cunning(str):
    def isprintable(self) -> bool:
        return True

    def __getitem__(self, _: Any) -> Any:
        return "\n"

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return self


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), ""),
        (ValueError("text"), "text"),
        (ValueError(5), "5"),
        (ValueError(b"a\n"), r"b'a\n'"),
        (ValueError("a", b"b"), "('a', b'b')"),
        (KeyError("a"), "'a'"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (Silent(), "<str() of Silent raised ZeroDivisionError>"),
        (Endless(), "<str() of Endless raised RecursionError>"),
        (Leaving(), "<str() of Leaving raised SystemExit>"),
        (NoText(), "<str() of NoText raised TypeError>"),
        (ValueError(10**10_000), "<str() of int raised ValueError>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_error_says(error: Exception, text: str) -> None:
    assert said(error) == text
    assert traceback_lines(error)[-1].startswith(f"{INDENT}")


def test_a_text_with_methods_of_its_own_is_taken_for_the_text_it_is() -> None:
    assert trace(ValueError(Cunning("a\nb"))) == rf"{INDENT}ValueError: a\nb"


@pytest.mark.parametrize("huge", [b"x\n" * 10**7, "x\n" * 10**7], ids=["bytes", "str"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_message_of_megabytes_is_not_made_into_another(huge: Any, number: int) -> None:
    import tracemalloc

    error = ValueError(*[huge] * number)
    tracemalloc.start()
    try:
        text = trace(error)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size(text) < 2000 and "cut" in text
    assert peak < 1_000_000


# --- tracebacks -----------------------------------------------------------------------------------------------------


def test_it_reads_as_the_standard_librarys_does() -> None:
    def handle() -> None:
        raise ValueError("bad")

    lines = trace(raised(ValueError(), handle)).splitlines()
    assert lines[0] == "  Traceback (most recent call last):"
    assert lines[-3].startswith(f'    File "{__file__}", line ') and lines[-3].endswith(", in handle")
    assert lines[-2:] == ['      raise ValueError("bad")', "  ValueError: bad"]


def test_causes_contexts_groups_and_notes_are_told() -> None:
    first, second = raised(KeyError("first")), raised(ValueError("second"))
    second.__cause__ = first
    third = raised(TypeError("third"))
    third.__context__ = second
    third.add_note("a note\nof two lines")
    group = ExceptionGroup("both", [third, OSError("inner")])
    text = trace(group)
    places = [text.index(part) for part in (
        "ExceptionGroup: both (2 sub-exceptions)", "+- 1 of 2", "KeyError: 'first'", "direct cause",
        "ValueError: second", "During handling", "TypeError: third", r"a note\nof two lines", "+- 2 of 2",
        "|  OSError: inner",
    )]  # fmt: skip
    assert places == sorted(places)
    third.__suppress_context__ = True
    assert "second" not in trace(group)


def test_all_of_it_is_bounded() -> None:
    chain = ValueError("the last")
    oldest = chain
    for number in range(1000):
        oldest.__context__ = oldest = ValueError(f"number {number}")
    assert trace(chain).count("number") == MOST_ERRORS - 1
    assert trace(chain).endswith("ValueError: the last")

    group = ExceptionGroup("g", [ValueError(f"one of {number}") for number in range(1000)])
    assert trace(group).count("one of") == MOST_PARTS and "995 more errors" in trace(group)
    deep: Exception = ValueError("the deepest")
    for _ in range(200):
        deep = ExceptionGroup("deep", [deep])
    assert trace(deep).count("deep (1 sub-exception)") == MOST_ERRORS

    def endless() -> None:
        endless()

    text = trace(raised(ValueError(), endless))
    assert "frames ..." in text and len(text.splitlines()) < 60 and "RecursionError" in text

    noted = ValueError("noted")
    noted.__notes__ = ["note"] * 1000
    assert trace(noted).count("note\n") == MOST_PARTS


def test_circles_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert trace(one).count("ValueError") == 2
    one.__context__ = None
    one.__cause__ = one
    assert trace(one).count("ValueError") == 1


def test_names_and_sources_are_foreign_as_well() -> None:
    evil = "a\x1b[2J\n8c1f forged"
    code = compile("def f(): raise E('x')", evil, "exec")
    module: dict[str, Any] = {"E": type(evil, (Exception,), {"__module__": evil})}
    exec(code, module)
    function = module["f"]
    function.__code__ = function.__code__.replace(co_name=evil)

    class Loader:
        def get_source(self, name: str) -> str:
            return "'\x1b\x85'"

    module["__loader__"], module["__name__"] = Loader(), "evil"
    text = trace(raised(ValueError(), function))
    assert wrong_in(text, margin="  ") == []
    assert r"in a\x1b[2J\n8c1f forged" in text


class Broken(Exception):
    @property
    def __cause__(self) -> Any:
        raise AttributeError("no")


def test_an_error_whose_attributes_raise_is_told_as_far_as_it_can_be() -> None:
    assert "no more can be told" in trace(Broken("broken"))


TEXTS = st.text() | st.text("\n\r\x1b\x85\u2028\u202e\x00 A8c1f", max_size=2000)


@st.composite
def errors(draw: st.DrawFn, depth: int = 3) -> BaseException:
    text: Any = draw(TEXTS | st.binary())
    if depth and draw(st.booleans()):
        inner = draw(st.lists(errors(depth - 1), min_size=1, max_size=3))
        error: BaseException = BaseExceptionGroup(draw(TEXTS), inner)
    else:
        error = draw(st.sampled_from([ValueError, KeyError, OSError, UnicodeError]))(*draw(st.lists(TEXTS)), text)
    error = raised(error)
    error.__notes__ = draw(st.lists(TEXTS, max_size=2))
    if depth and draw(st.booleans()):
        error.__cause__ = draw(errors(depth - 1))
    return error


@given(TEXTS, errors())
def test_of_any_error_only_the_first_line_of_a_record_begins_at_the_margin(text: str, error: BaseException) -> None:
    """The invariant: one printable first line, and printable lines after it that each begin with two blanks."""
    lines = Lines()
    with journal_to(lines) as (journal, _):
        assert journal.write(40, "serving %s", text, kind=KIND, error=error)
    (written,) = lines.texts
    first, *others = written.split("\n")
    assert first.isprintable() and first.startswith("8c1f ERROR journal under test: serving ")
    assert others and all(line.isprintable() and line.startswith("  ") for line in others)
    assert len(written.encode("utf-8")) <= MOST


def test_the_invariant_is_broken_without_escaping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escaping, "escape", lambda text: text)
    with pytest.raises(BaseException) as caught:
        test_of_any_error_only_the_first_line_of_a_record_begins_at_the_margin()
    failures = caught.value.exceptions if isinstance(caught.value, BaseExceptionGroup) else [caught.value]
    assert any(isinstance(failure, AssertionError | UnicodeEncodeError) for failure in failures)


def test_nothing_is_kept_of_an_error() -> None:
    error = raised(ValueError("kept?"))
    before = sys.getrefcount(error), sys.getrefcount(error.__traceback__)
    traceback_lines(error)
    assert (sys.getrefcount(error), sys.getrefcount(error.__traceback__)) == before
