"""Nothing of one unit can be seen on its thread by the next."""

from __future__ import annotations

import _threading_local
import asyncio
import contextvars
import decimal
import gc
import json
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from modes_support import SOON, crew, name_of_thread, until, waiting

from jackfield.modes import spares, traces

LOCAL = threading.local()
PLAIN_LOCAL = _threading_local.local()
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")
BY_THREAD: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
KEPT: list[Any] = []


class Prepared(threading.local):
    """Has something on each thread that only looks at it."""

    def __init__(self) -> None:
        self.list: list[str] = []


PREPARED = Prepared()


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Any:
    # A list that is younger than gc.freeze(): once the thread of a main greenlet has ended, greenlet asks gc who holds
    # the greenlet, and if gc knows nobody lets go of it in the holder's place. gc does not look into what is frozen.
    global KEPT
    KEPT = []
    yield
    KEPT = []
    gc.collect()  # what belonged to a thread that has ended may be part of a circle


def silently(work: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: work() and None


def use_asyncio() -> None:
    asyncio.run(asyncio.sleep(0))


def set_an_event_loop() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()


def hold_an_unfinished_greenlet() -> None:
    inner = greenlet(lambda: getcurrent().parent.switch())
    inner.switch()
    KEPT.append(inner)


#: What a handler may leave on its thread; after each of these the thread ends.
LEFT: dict[str, Callable[[], Any]] = {
    "local": lambda: setattr(LOCAL, "left", "mine"),
    "local that prepares itself": lambda: PREPARED.list,
    "local in plain Python": lambda: setattr(PLAIN_LOCAL, "left", "mine"),
    "attribute of the Thread": lambda: setattr(threading.current_thread(), "left", "mine"),
    "weak key": lambda: BY_THREAD.__setitem__(threading.current_thread(), "mine"),
    "weak reference": lambda: KEPT.append(weakref.ref(threading.current_thread())),
    "the Thread": lambda: KEPT.append(threading.current_thread()),
    "the list of threads": lambda: KEPT.append(threading.enumerate()),
    "attribute of the greenlet": lambda: setattr(getcurrent(), "left", "mine"),
    "weak key of the greenlet": lambda: BY_THREAD.__setitem__(getcurrent(), "mine"),
    "the greenlet": lambda: KEPT.append(getcurrent()),
    "a greenlet's parent": hold_an_unfinished_greenlet,
    "trace": lambda: sys.settrace(lambda *_: None),
    "profile": lambda: sys.setprofile(lambda *_: None),
    "asyncgen hooks": lambda: sys.set_asyncgen_hooks(firstiter=lambda _: None),
    "coroutine origin": lambda: sys.set_coroutine_origin_tracking_depth(1),
    "event loop": set_an_event_loop,
    "asyncio": use_asyncio,
}

#: What leaves nothing, or nothing that the next one could see.
NOTHING_LEFT: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "context variable": lambda: VARIABLE.set("mine"),
    "decimal context": lambda: setattr(decimal.getcontext(), "prec", 3),
    "name": lambda: setattr(threading.current_thread(), "name", "mine"),
    "repr": lambda: (repr([[1], {2: 3}]), repr(threading.current_thread())),
    "json": lambda: json.dumps([json.loads('{"a": [1]}')]),
    "log": lambda: logging.getLogger("jackfield.tests").debug("of %s", threading.current_thread()),
    "a local of its own": lambda: setattr(threading.local(), "left", "gone with it"),
    "a greenlet that ends": lambda: greenlet(lambda: None).switch(),
    "a thread": lambda: threading.Thread(target=lambda: None).start(),
    "an error that it catches": lambda: silently(lambda: None)(),
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_thread_on_which_anything_was_left_ends(kind: str) -> None:
    with crew() as threads:
        first = name_of_thread(threads, LEFT[kind])
        assert waiting(threads) == 0
        assert name_of_thread(threads) != first


@pytest.mark.parametrize("kind", NOTHING_LEFT)
def test_a_thread_on_which_nothing_was_left_goes_on(kind: str) -> None:
    with crew() as threads:
        first = name_of_thread(threads, NOTHING_LEFT[kind])
        assert name_of_thread(threads, NOTHING_LEFT[kind]) == first
        assert name_of_thread(threads) == first


def what_it_finds() -> dict[str, Any]:
    """What a unit finds on its thread, as a handler would look for it."""
    thread, green = threading.current_thread(), getcurrent()
    return {
        "local": getattr(LOCAL, "left", None),
        "prepared": list(PREPARED.list),
        "plain local": getattr(PLAIN_LOCAL, "left", None),
        "attribute": getattr(thread, "left", None),
        "weak key": BY_THREAD.get(thread) or BY_THREAD.get(green),
        "green attribute": getattr(green, "left", None),
        "variable": VARIABLE.get(None),
        "precision": decimal.getcontext().prec,
        "name": thread.name == "mine",
        "trace": (sys.gettrace(), sys.getprofile(), sys.get_asyncgen_hooks().firstiter),
    }


def leave_all() -> None:
    PREPARED.list.append("mine")
    for kind, leave in {**LEFT, **NOTHING_LEFT}.items():
        if kind not in ("trace", "profile"):
            leave()


def test_no_unit_finds_anything_of_another() -> None:
    found: list[dict[str, Any]] = []
    with crew() as threads:
        for work in (leave_all, lambda: None, *LEFT.values(), *NOTHING_LEFT.values()):
            name_of_thread(threads, lambda work=work: (found.append(what_it_finds()), work()))
    first, *others = found
    assert first["local"] is None
    assert [finding for finding in others if finding != first] == []


def test_who_is_not_looked_at_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate can fail: with threads that are used again whatever was left, the next unit finds it."""
    monkeypatch.setattr(traces.Traces, "left", lambda self: False)
    found: list[Any] = []
    with crew() as threads:
        name_of_thread(threads, lambda: setattr(LOCAL, "left", "mine"))
        name_of_thread(threads, lambda: found.append(getattr(LOCAL, "left", None)))
    assert found == ["mine"]


def test_where_nobody_can_tell_no_thread_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an interpreter whose inside is another, a trial shows that a local is not noticed."""
    monkeypatch.setattr(traces, "_thread_dict", dict)
    monkeypatch.setattr(traces, "_sentinel_of", lambda local: lambda: None)
    monkeypatch.setattr(traces.Traces, "_can_tell", None)
    with crew() as threads:
        assert name_of_thread(threads) != name_of_thread(threads)
    assert traces.Traces._can_tell is False


def test_without_ctypes_no_thread_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(traces.Traces, "_can_tell", None)
    traces._thread_dict_getter.cache_clear()
    try:
        with crew() as threads:
            assert name_of_thread(threads) != name_of_thread(threads)
    finally:
        traces._thread_dict_getter.cache_clear()


# -- the Thread object -------------------------------------------------------------------------------------------------


def test_who_keeps_the_thread_of_a_unit_can_join_it() -> None:
    with crew() as threads:
        kept: list[threading.Thread] = []
        begun, go = threading.Event(), threading.Event()

        def unit() -> None:
            kept.append(threading.current_thread())
            begun.set()
            assert go.wait(SOON)

        name_of_thread(threads)  # on a thread that was used before
        threads.start(unit)
        assert begun.wait(SOON)
        assert kept[0].is_alive()
        assert kept[0].ident is not None
        go.set()
        kept[0].join(SOON)
        assert not kept[0].is_alive()


def test_who_lists_the_threads_can_join_them() -> None:
    """The end of many a program: ``for thread in threading.enumerate(): thread.join()``."""
    with crew() as threads:
        here = set(threading.enumerate())
        for _ in range(3):
            threads.start(lambda: None)
        for thread in threading.enumerate():
            if thread not in here:
                thread.join(SOON)
                assert not thread.is_alive()


def test_the_first_count_is_corrected_when_it_was_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may hold the list of all threads in the moment in which the first worker counts who holds it."""
    monkeypatch.setattr(spares.Worker, "references", spares.Worker.references + 3 or 30)
    with crew() as threads:
        for _ in range(2):
            name_of_thread(threads)
        first = name_of_thread(threads)
        assert name_of_thread(threads, lambda: KEPT.append(threading.current_thread())) == first
        assert name_of_thread(threads) != first


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_an_error_that_is_let_out_is_reported_and_ends_the_thread(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(
        threading,
        "excepthook",
        lambda args: reported.append((args.exc_type, args.thread is threading.current_thread())),
    )

    def fail() -> None:
        raise error

    with crew() as threads:
        first = name_of_thread(threads, fail)
        assert name_of_thread(threads) != first
        until(lambda: threads.live == 0)
    assert reported == [(error, True)]
