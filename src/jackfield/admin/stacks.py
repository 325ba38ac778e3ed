"""Where everything is at this moment: the stacks of threads, green threads and coroutines."""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from ..reactor import GreenThread

__all__ = ["MOST", "stacks"]

#: Different stacks that are told of each kind, those that most are at first; frames of one, from the innermost out.
MOST, DEEPEST = 200, 50


def stacks() -> dict[str, Any]:
    """``threads``, ``greens`` and ``coroutines``: for each different stack its frames, the innermost last, how many are
    there, and the names of a few. What one does while this looks is not stopped: a stack is as it was found.

    Those that wait are found by the collector of garbage: it goes over all objects, some milliseconds for 100,000.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    others = [(ident, frame) for ident, frame in sys._current_frames().items() if ident != here]
    threads = ((names.get(ident, str(ident)), _frames(frame)) for ident, frame in others)
    waiting = gc.get_objects()
    greens = (
        (one.name, _frames(one.gr_frame)) for one in waiting if type(one) is GreenThread and one.gr_frame is not None
    )
    told = {"threads": _grouped(threads), "greens": _grouped(greens), "coroutines": _grouped(_coroutines(waiting))}
    del waiting, others
    return told


def _coroutines(objects: Iterable[Any]) -> Iterator[tuple[str, list[str]]]:
    """The outermost ones, each down to where it waits."""
    found = [one for one in objects if type(one) is types.CoroutineType and one.cr_frame is not None]
    inner = {id(one.cr_await) for one in found}
    for one in found:
        if id(one) not in inner and not one.cr_running:
            yield one.__qualname__, list(_down(one))[:DEEPEST]


def _down(awaited: Any) -> Iterator[str]:
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            return  # a future, or what is written in C
        yield _place(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _frames(frame: types.FrameType | None) -> list[str]:
    places: list[str] = []
    while frame is not None and len(places) < DEEPEST:
        places.append(_place(frame))
        frame = frame.f_back
    return places[::-1]


def _place(frame: types.FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _grouped(found: Iterable[tuple[str, list[str]]]) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, ...]] = Counter()
    names: dict[tuple[str, ...], list[str]] = {}
    for name, frames in found:
        key = tuple(frames)
        counts[key] += 1
        if len(some := names.setdefault(key, [])) < 3:
            some.append(name)
    return [
        {"count": count, "names": names[frames], "frames": list(frames)} for frames, count in counts.most_common(MOST)
    ]
