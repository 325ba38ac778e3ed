"""The clerk's own side: asking workers through the supervisor, and waiting for their answers."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..admin import BadQuestion, Unanswered
from ..admin.totals import Past
from .link import Link, taken

__all__ = ["Through"]

#: Seconds that those who are asked have for an answer: one that is stuck does not keep the others' from being told.
PATIENCE = 3.0


class _Asked:
    """One question, until all that were asked have answered."""

    def __init__(self) -> None:
        self.asked: list[int] | None = None
        self.answers: dict[int, Any] = {}
        self.problems: list[str] = []
        self.done = threading.Event()

    def look(self) -> None:
        if self.asked is not None and len(self.answers) + len(self.problems) >= len(self.asked):
            self.done.set()


class Through:
    """An :class:`~jackfield.admin.Inquiry` over a link. Any thread asks; :meth:`attend` reads, on one."""

    def __init__(self, link: Link) -> None:
        self.past = Past()
        self._link = link
        self._lock = threading.Lock()
        self._numbers = 0
        self._open: dict[int, _Asked] = {}
        #: The last figures of each worker, for one that ends without telling them.
        self._last: dict[int, dict[str, Any]] = {}
        #: Those that have told theirs, and are not asked again.
        self._gone: set[int] = set()

    # -- asking ------------------------------------------------------------------------------------------------------

    def ask(self, what: str, worker: int | None = None, **arguments: Any) -> Mapping[int, Any]:
        asked = self._ask(what, worker, arguments)
        if asked.problems and not asked.answers:
            raise BadQuestion(asked.problems[0])
        if worker is not None and not asked.asked and not asked.answers:
            raise BadQuestion(f"there is no worker {worker} that serves: /workers tells which there are")
        if not asked.answers:
            raise Unanswered("no worker answers")
        if what == "stats":
            with self._lock:
                self._last.update((one, told) for one, told in asked.answers.items() if one not in self._gone)
        return dict(sorted(asked.answers.items()))

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._ask("workers", None, {}).answers[0]
        there = {row["number"] for row in rows}
        with self._lock:
            for number in [number for number in self._last if number not in there]:
                self._gone.add(number)
                self.past.add(self._last.pop(number))
        return rows

    def do(self, what: str, **arguments: Any) -> Any:
        return self._ask(what, None, arguments).answers[0]

    def _ask(self, what: str, worker: int | None, arguments: dict[str, Any]) -> _Asked:
        asked = _Asked()
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._open[number] = asked
        try:
            if not self._link.send(ask=number, what=what, worker=worker, arguments=arguments):
                raise Unanswered("the supervisor does not answer, or that is too long for it")
            if not asked.done.wait(PATIENCE) and not asked.answers:
                raise Unanswered(f"no answer within {PATIENCE:g} s")
        finally:
            with self._lock:
                del self._open[number]
        return asked

    # -- hearing -----------------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Read what is answered, until the supervisor is gone."""
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        while True:
            poll.poll()
            while message := self._link.receive():
                self._hear(message)
            if message is None:
                return

    def _hear(self, message: dict[str, Any]) -> None:
        fd = message.pop("fd", -1)
        value: Any = None
        if fd >= 0:
            with contextlib.suppress(ValueError):
                value = taken(fd)
        worker = message.get("worker", 0)
        if "past" in message:
            with self._lock:
                self._last.pop(worker, None)
                if value is not None and worker not in self._gone:
                    self.past.add(value)
                self._gone.add(worker)
            return
        with self._lock:
            asked = self._open.get(message.get("ask", message.get("answer", 0)))
        if asked is None:
            return  # it came too late
        if "asked" in message:
            asked.asked = message["asked"]
        elif "problem" in message:
            asked.problems.append(message["problem"])
        else:
            asked.answers[worker] = value
            asked.asked = [worker] if asked.asked is None and "answer" not in message else asked.asked
        asked.look()


def serve(link: Link, start: Callable[[Through], Any]) -> None:
    """In the clerk's process: ``start(inquiry)`` starts a server that asks it, until the supervisor is gone."""
    through = Through(link)
    server = start(through)
    try:
        through.attend()
    finally:
        server.stop()
        server.wait_stopped(2.0)
        with contextlib.suppress(OSError):
            link.close()


