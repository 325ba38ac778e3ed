"""Runs one of CPython's test modules in child processes and gathers the outcomes.

A few children work side by side, each fed one test class at a time, because most of these tests wait rather than
work.  A test that hangs ends its child; it counts as failed, and a new child takes up the rest of the class.
"""

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .exceptions import NOT_RUN
from .faces import Face
from .verdict import Outcome, Run

_TESTS = Path(__file__).parent.parent
_PACKAGE = Path(__file__).parent.name
# Classes that take longest, started first so that they do not end last.
_SLOWEST = (
    "test_socket.NetworkConnectionBehaviourTest",
    "test_socket.GeneralModuleTests",
    "test_socket.UnbufferedFileObjectClassTestCase",
    "test_socket.SendfileUsingSendTest",
    "test_socket.SendfileUsingSendfileTest",
)
_WORKERS = 4
_RECORD = "outcomes.json"


class UnavailableError(Exception):
    """This interpreter does not run the module; the text says why."""


def why_unavailable(suite: str) -> str | None:
    """Return why this interpreter cannot run CPython's *suite*, or None if it can."""
    try:
        spec = importlib.util.find_spec(f"test.{suite}")
    except ModuleNotFoundError:
        spec = None
    return None if spec else f"this interpreter has no test.{suite} (distributions often leave the test package out)"


class _Child:
    """One child process and the line protocol with it."""

    def __init__(self, order: dict[str, object], scratch: Path) -> None:
        scratch.mkdir(parents=True)
        self.log = scratch / "stderr.txt"
        # The tests bind Unix sockets where they run, at paths that may have 107 bytes (unix(7)): pytest's folders, and
        # more so those of xdist's workers, leave too little for them.
        self._folder = tempfile.TemporaryDirectory(prefix="jf-", ignore_cleanup_errors=True)
        code = f"import sys; sys.path[0] = {str(_TESTS)!r}; from {_PACKAGE}.child import main; main()"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", code, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder.name,
                start_new_session=True,
            )

    def ask(self, names: list[str]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(names).encode() + b"\n")
            self._process.stdin.flush()

    def reports(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def end(self) -> str:
        """End the process and all it forked; return the end of what it wrote to standard error."""
        # Until communicate() has reaped it, and only until then, the number is surely its own.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # Closes both pipes.
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._folder.cleanup()
        return self.log.read_text(errors="replace")[-4000:]


class _Gathering:
    """What the workers share."""

    def __init__(self, order: dict[str, object], only: Collection[str] | None, scratch: Path) -> None:
        self.order, self.only, self.scratch = order, only, scratch
        self.lock = threading.Lock()
        self.todo: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self.planned = False
        self.outcomes: dict[str, Outcome] = {}
        self.littering: set[str] = set()
        self.children: list[_Child] = []
        self.given_up = False

    def start(self) -> tuple[_Child, Iterator[dict[str, Any]]]:
        with self.lock:
            if self.given_up:
                raise RuntimeError("the run was given up")
            child = _Child(self.order, self.scratch / f"child-{len(self.children)}")
            self.children.append(child)
        reports = child.reports()
        first = next(reports, None)
        if first is None:
            raise RuntimeError(f"the child ended before its first test:\n{child.end()}")
        if first["event"] == "unavailable":
            raise UnavailableError(first["reason"])
        with self.lock:
            if not self.planned:
                self.planned = True
                self._plan(first["classes"])
        return child, reports

    def _plan(self, classes: dict[str, list[str]]) -> None:
        for cls in NOT_RUN.keys() - classes.keys():
            if cls.startswith(f"{self.order['suite']}."):
                raise RuntimeError(f"NOT_RUN names {cls}, which this interpreter's tests do not have")
        rank = {name: place for place, name in enumerate(_SLOWEST)}
        for cls in sorted(classes, key=lambda name: rank.get(name, len(rank))):
            names = [name for name in classes[cls] if self.only is None or name in self.only]
            if names and cls not in NOT_RUN:
                self.todo.put(names)

    def give_up(self) -> None:
        """End every child, and start no other."""
        with self.lock:
            self.given_up = True
            for child in self.children:
                child.end()

    def work(self) -> None:
        """Feed one child, and its successors where it fails, until nothing is left to do."""
        child, reports = self.start()
        while True:
            try:
                names = self.todo.get_nowait()
            except queue.Empty:
                child.end()
                return
            child.ask(names)
            if not self._follow(names, child, reports):
                child, reports = self.start()

    def _follow(self, names: list[str], child: _Child, reports: Iterator[dict[str, Any]]) -> bool:
        """Record the reports on *names*; False if the child ended before it was done with them."""
        running = ""
        for report in reports:
            match report["event"]:
                case "start":
                    running = report["name"]
                case "end":
                    running = ""
                    self.outcomes[report["name"]] = Outcome(report["status"], report["detail"], report["seconds"])
                case "fixture":
                    for name in names:
                        self.outcomes[name] = Outcome(report["status"], f"{report['name']}: {report['detail']}")
                case "done":
                    if report["littered"]:
                        self.littering.add(names[0].rpartition(".")[0])
                    return True
        tail = child.end()
        broken_at = running or names[0]
        self.outcomes[broken_at] = Outcome("failed", f"the process ended in this test (hung or crashed):\n{tail}")
        rest = [name for name in names if name not in self.outcomes]
        if rest:
            self.todo.put(rest)
        return False


def run(
    suite: str,
    face: Face,
    scratch: Path,
    *,
    only: Collection[str] | None = None,
    broken: str | None = None,
    hang: float = 45.0,
    workers: int = _WORKERS,
) -> Run:
    """Run CPython's *suite* with *face* in place and return every outcome.

    *only* names the tests to run (all if None); *broken* a damage of :mod:`broken`; *hang* is the seconds after which
    one test is given up.  The outcomes are also written under *scratch*, for :func:`read`.  Raises UnavailableError.
    """
    order: dict[str, object] = {"suite": suite, "face": face, "broken": broken, "hang": hang}
    gathering = _Gathering(order, only, scratch)
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in [pool.submit(gathering.work) for _ in range(workers)]:
                future.result()
        finally:
            gathering.give_up()
    record = {
        "order": order,
        "seconds": time.monotonic() - began,
        "littering": sorted(gathering.littering),
        "outcomes": {name: [o.status, o.detail, o.seconds] for name, o in sorted(gathering.outcomes.items())},
    }
    (scratch / _RECORD).write_text(json.dumps(record, indent=1))
    return Run(gathering.outcomes, frozenset(gathering.littering))


def read(scratch: Path) -> Run:
    """What an earlier run left under *scratch*."""
    record = json.loads((scratch / _RECORD).read_text())
    outcomes = {name: Outcome(*outcome) for name, outcome in record["outcomes"].items()}
    return Run(outcomes, frozenset(record["littering"]))
