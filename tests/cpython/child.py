"""The process in which CPython's tests run: one JSON order a line in, one JSON report a line out.

It is started with one JSON argument: ``suite`` (``test_socket``), ``face``, ``broken`` (or null) and ``hang``, the
seconds after which a test that has not ended ends the process, its traceback on standard error.
"""

import ctypes
import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback
import unittest
from types import TracebackType
from typing import Any

from . import broken, faces

_CLONE_NEWUTS = 0x04000000


class _Reports:
    """The way back to the parent.  Whatever a test prints goes to standard error instead."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def send(self, **report: object) -> None:
        os.write(self._fd, json.dumps(report).encode() + b"\n")


class _Result(unittest.TestResult):
    """Reports each test as it starts and once as it ends, by its worst outcome."""

    def __init__(self, reports: _Reports, hang: float) -> None:
        super().__init__()
        self._reports, self._hang = reports, hang
        self._running: unittest.TestCase | None = None
        self._trouble: list[str] = []
        self._skip: str | None = None
        self._passed = False
        self._started = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._running, self._trouble, self._skip, self._passed = test, [], None, False
        self._started = time.monotonic()
        self._reports.send(event="start", name=name_of(test))
        faulthandler.dump_traceback_later(self._hang, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        if self._running is not test:
            # As in _failed: the end of a test that was given up.
            return
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self._running = None
        if self._trouble:
            status, detail = "failed", "\n".join(self._trouble)
        elif self._skip is not None:
            status, detail = "skipped", self._skip
        elif self._passed:
            status, detail = "passed", ""
        else:
            status, detail = "failed", "it was ended from outside, before it could say how it went"
        seconds = time.monotonic() - self._started
        self._reports.send(event="end", name=name_of(test), status=status, detail=detail, seconds=seconds)

    def _failed(self, test: unittest.TestCase, error: Any) -> None:
        text = "".join(traceback.format_exception(*error))
        if not isinstance(test, unittest.TestCase):
            # Not a test but the set-up or tear-down of a class or module.
            self._reports.send(event="fixture", name=str(test), status="failed", detail=text)
        elif test is self._running or getattr(test, "test_case", None) is self._running:
            self._trouble.append(text)
        # Else it is the end of a test that was given up: its green thread is being cleared away.

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._failed(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._failed(test, err)

    def addSubTest(
        self,
        test: unittest.TestCase,
        subtest: unittest.TestCase,
        err: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None,
    ) -> None:
        if err is not None:
            self._failed(test, err)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._passed = True

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._passed = True

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._trouble.append("unexpected success")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if not isinstance(test, unittest.TestCase):
            self._reports.send(event="fixture", name=str(test), status="skipped", detail=reason)
        elif self._running is not None:
            self._skip = reason
        else:
            # CPython 3.12.1 alone neither starts nor stops a test whose decorator skips it.
            self._reports.send(event="end", name=name_of(test), status="skipped", detail=reason, seconds=0.0)


def name_of(test: unittest.TestCase) -> str:
    """``test_socket.BasicTCPTest.testRecv``: as CPython names it, without the package."""
    return test.id().removeprefix("test.")


def _by_class(suite: Any, found: dict[str, dict[str, unittest.TestCase]]) -> dict[str, dict[str, unittest.TestCase]]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            _by_class(item, found)
        else:
            name = name_of(item)
            found.setdefault(name.rpartition(".")[0], {})[name] = item
    return found


def _keep_the_host_name_to_ourselves() -> None:
    # test_socket renames the machine when it runs as root.  Where we may not have a name of our own, it may not either.
    ctypes.CDLL(None).unshare(_CLONE_NEWUTS)


def main() -> None:
    order = json.loads(sys.argv[1])
    reports = _Reports()
    faulthandler.enable()
    _keep_the_host_name_to_ourselves()
    faces.put_in_place(order["face"])
    if order["broken"]:
        broken.DAMAGE[order["broken"]]()
    support: Any = importlib.import_module("test.support")
    # As `python -m test` runs them: quietly, without the resources that must be asked for.  What test_socketserver
    # calls "network" is the loopback.
    support.verbose = 0
    support.use_resources = ["network"] if order["suite"] == "test_socketserver" else []
    try:
        module = importlib.import_module(f"test.{order['suite']}")
    except unittest.SkipTest as error:
        reports.send(event="unavailable", reason=str(error))
        return
    faces.check(order["face"], module)
    tests = _by_class(unittest.defaultTestLoader.loadTestsFromModule(module), {})
    if order["face"] == "green":
        from . import greenly

        greenly.put_in_place(module)
        tests = _by_class(unittest.defaultTestLoader.loadTestsFromModule(module), {})
        for cases in tests.values():
            for case in cases.values():
                greenly.run_as_green(case)
    reports.send(event="ready", classes={name: list(cases) for name, cases in tests.items()})
    # CPython's tests collect garbage several times each: not the modules and tests loaded up to here.
    gc.collect()
    gc.freeze()
    result = _Result(reports, order["hang"])
    for line in sys.stdin:
        names = json.loads(line)
        cls = names[0].rpartition(".")[0]
        support.environment_altered = False
        unittest.TestSuite([tests[cls][name] for name in names]).run(result)
        reports.send(event="done", littered=support.environment_altered)
