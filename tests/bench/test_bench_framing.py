"""Messages: made of payloads, and found again in what comes in, wherever it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.bench.framing import EXACT, LARGEST_FRAME, LINE, NETSTRING, U32, Frame, FramingError, framed

FRAMED = {"line": LINE, "netstring": NETSTRING, "u32": U32}


def found(kind: int, reply: bytes, pieces: list[bytes]) -> list[int]:
    """Where each reply in the pieces ends, counted from the beginning of all."""
    frame, ends, before = Frame(kind, reply), [], 0
    for piece in pieces:
        view, at = memoryview(piece), 0
        while at < len(view):
            taken, whole = frame.take(view[at:])
            assert taken > 0
            at += taken
            if whole:
                ends.append(before + at)
        before += len(piece)
    return ends


def cut(data: bytes, at: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[begin:end] for begin, end in pairwise(borders)]


@given(st.sampled_from(sorted(FRAMED)), st.lists(st.binary(max_size=40), min_size=1), st.lists(st.integers(0, 999)))
def test_replies_are_found_wherever_they_are_cut(framing: str, payloads: list[bytes], at: list[int]) -> None:
    messages = [framed(payload.replace(b"\n", b" "), framing) for payload in payloads]
    ends = [sum(map(len, messages[: number + 1])) for number in range(len(messages))]
    assert found(FRAMED[framing], b"", cut(b"".join(messages), at)) == ends


@given(st.binary(min_size=1, max_size=30), st.integers(1, 5), st.lists(st.integers(0, 999)))
def test_known_replies_are_found_wherever_they_are_cut(reply: bytes, number: int, at: list[int]) -> None:
    assert found(EXACT, reply, cut(reply * number, at)) == [len(reply) * (one + 1) for one in range(number)]


@given(st.binary(min_size=1, max_size=30), st.integers(0, 29), st.integers(1, 255))
def test_one_wrong_byte_is_found_out(reply: bytes, at: int, change: int) -> None:
    wrong = bytearray(reply)
    wrong[at % len(reply)] ^= change
    with pytest.raises(FramingError):
        found(EXACT, reply, [bytes(wrong)])


@pytest.mark.parametrize(
    ("framing", "came"),
    [
        ("netstring", b":abc,"),
        ("netstring", b"3;abc,"),
        ("netstring", b"3:abcd"),
        ("netstring", b"123456789:"),
        ("u32", (LARGEST_FRAME + 1).to_bytes(4, "big")),
    ],
)
def test_what_is_no_message_is_refused(framing: str, came: bytes) -> None:
    with pytest.raises(FramingError):
        found(FRAMED[framing], b"", [came])


def test_a_line_without_end_is_refused() -> None:
    frame = Frame(LINE, b"")
    piece = memoryview(bytes(LARGEST_FRAME // 2 + 1))
    assert frame.take(piece) == (len(piece), False)
    with pytest.raises(FramingError):
        frame.take(piece)


def test_a_line_cannot_hold_a_line_feed() -> None:
    with pytest.raises(ValueError, match="--framing netstring"):
        framed(b"a\nb", "line")
