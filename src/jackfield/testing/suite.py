"""What a conformance suite is: named checks, run one by one against a factory, each with a time it may take."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["ConformanceError", "NotPromised", "Report", "Suite", "bounded", "equal", "fails_with", "true"]

Factory = TypeVar("Factory")

CHECK_SECONDS = 60.0
"""How long one check may take before it counts as hung. The slowest sound check takes about a second."""


class NotPromised(Exception):
    """Raised by a check that does not apply to the factory at hand; its text is the reason the report shows."""


@dataclass(frozen=True)
class Report:
    """How a suite went: the checks that passed, those that do not apply (with the reason), those that failed."""

    suite: str
    factory: str
    passed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, BaseException] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when no check failed."""
        return not self.failed

    def __str__(self) -> str:
        lines = [
            f"{self.suite} suite on {self.factory}: {len(self.passed)} passed, "
            f"{len(self.skipped)} not promised, {len(self.failed)} failed"
        ]
        lines += [f"  failed  {name}: {type(error).__name__}: {error}" for name, error in self.failed.items()]
        lines += [f"  not promised  {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


class ConformanceError(AssertionError):
    """At least one check failed. The text names each; `report` holds the exceptions with their tracebacks."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class Suite(Generic[Factory]):
    """A named, ordered collection of checks, by name: iterate over it to make each a test of your own.

    A check is a function of the factory; its docstring says what is promised.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._checks: dict[str, Callable[[Factory], None]] = {}

    def check(self, function: Callable[[Factory], None]) -> Callable[[Factory], None]:
        """Decorator: add `function` to the suite under its own name."""
        name = function.__name__
        if name in self._checks:
            raise ValueError(f"the {self.name} suite has two checks named {name}")
        self._checks[name] = function
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self._checks)

    def __len__(self) -> int:
        return len(self._checks)

    def __contains__(self, name: object) -> bool:
        return name in self._checks

    def promise(self, name: str) -> str:
        """The first line of the docstring of check `name`: what it holds an implementation to."""
        return (self._checks[name].__doc__ or "").strip().partition("\n")[0]

    def run_one(self, name: str, factory: Factory, *, timeout: float = CHECK_SECONDS) -> None:
        """Run one check; return when it passes.

        Raises what the check raised, `NotPromised` where the check does not apply, AssertionError when it
        still runs after `timeout` seconds (it is then left behind in a daemon thread).
        """
        missing: Mapping[str, str] = getattr(factory, "missing", {})
        if name in missing:
            raise NotPromised(missing[name])
        check = self._checks[name]
        enter = getattr(factory, "enter", _call)
        bounded(lambda: enter(lambda: check(factory)), timeout, name)

    def run(self, factory: Factory, *, only: Iterable[str] | None = None, timeout: float = CHECK_SECONDS) -> Report:
        """Run every check (or those named in `only`), each whether or not the ones before it passed.

        Returns the report when all passed, raises `ConformanceError` when one did not.
        """
        passed: list[str] = []
        skipped: dict[str, str] = {}
        failed: dict[str, BaseException] = {}
        names = list(self._checks if only is None else only)
        if unknown := [name for name in names if name not in self._checks]:
            raise ValueError(f"the {self.name} suite has no check {unknown[0]!r}; it has {', '.join(self._checks)}")
        for name in names:
            try:
                self.run_one(name, factory, timeout=timeout)
            except NotPromised as reason:
                skipped[name] = str(reason)
            except Exception as error:
                failed[name] = error
            else:
                passed.append(name)
        title = getattr(factory, "name", None) or getattr(factory, "__name__", None) or type(factory).__name__
        report = Report(self.name, title, tuple(passed), skipped, failed)
        if failed:
            raise ConformanceError(report) from next(iter(failed.values()))
        return report


def _call(body: Callable[[], None]) -> None:
    body()


def bounded(body: Callable[[], None], seconds: float, name: str) -> None:
    """Run `body` in a thread of its own and return when it has; raise what it raised.

    A thread, because nothing else can give up on a call that blocks in the kernel: AssertionError says
    where it stood after `seconds`, and the daemon thread is left behind.
    """
    raised: list[BaseException] = []
    before = set(threading.enumerate())

    def target() -> None:
        try:
            body()
        except BaseException as error:  # handed to the waiting thread, which raises it
            raised.append(error)

    thread = threading.Thread(target=target, name=f"check {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        frames = sys._current_frames()
        stands = [
            f"in {new.name}:\n" + "".join(traceback.format_stack(frames[new.ident])[-5:])
            for new in threading.enumerate()
            if new not in before and new.ident in frames
        ]
        raise AssertionError(f"{name} still runs after {seconds:g} s\n" + "".join(stands))
    if raised:
        raise raised[0]


def true(condition: object, message: str) -> None:
    """Raise AssertionError with `message` unless `condition` holds (also under `python -O`)."""
    if not condition:
        raise AssertionError(message)


def equal(got: Any, wanted: Any, what: str) -> None:
    """Raise AssertionError unless `got == wanted`; long values are shown by length and start only."""
    if got != wanted:
        raise AssertionError(f"{what}: got {_short(got)}, wanted {_short(wanted)}")


def fails_with(
    errors: type[BaseException] | tuple[type[BaseException], ...], body: Callable[[], Any], what: str
) -> Any:
    """Call `body`, which must raise one of `errors`, and return the exception. AssertionError otherwise."""
    names = " or ".join(e.__name__ for e in (errors if isinstance(errors, tuple) else (errors,)))
    try:
        result = body()
    except errors as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what}: raised {type(error).__name__} ({error}), wanted {names}") from error
    raise AssertionError(f"{what}: returned {_short(result)}, wanted {names}")


def _short(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value) > 60:
        return f"{len(value)} bytes starting {bytes(value[:40])!r}"
    return repr(value)
