"""What the tests of the journal share: a log to read, errors that were raised, and the gate: what is wrong in a log."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator

from jackfield.journal import Journal, journal
from jackfield.testing import ManualClock

#: What a record begins with; no peer knows it.
MARGIN = "8c1f ERROR "
FORMAT = "8c1f %(levelname)s %(name)s: %(message)s"

#: Bytes of log in all that 300 evil connections may bring about.
MOST_LOG = 16 * 1024


class Lines(logging.Handler):
    """A log in memory; and its records, while ``keeps``."""

    def __init__(self, *, keeps: bool = False) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))
        self.texts: list[str] = []
        self.records: list[logging.LogRecord] = []
        self._keeps = keeps

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))
        if self._keeps:
            self.records.append(record)

    @property
    def log(self) -> str:
        return "".join(f"{text}\n" for text in self.texts)


@contextlib.contextmanager
def logged_by(handler: logging.Handler, name: str = "jackfield.server") -> Iterator[logging.Logger]:
    """Everything that the logger says goes to ``handler``, and nowhere else."""
    logger = logging.getLogger(name)
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.DEBUG)
    try:
        yield logger
    finally:
        logger.handlers[:], logger.propagate = before[:2]
        logger.setLevel(before[2])


@contextlib.contextmanager
def journal_to(handler: logging.Handler) -> Iterator[tuple[Journal, ManualClock]]:
    clock = ManualClock(100.0)
    with logged_by(handler, "journal under test") as logger:
        yield Journal(logger, clock=clock), clock


def raised(error: BaseException, through: Callable[[], object] = lambda: None) -> BaseException:
    """``error`` with a traceback."""
    try:
        through()
        raise error
    except BaseException as caught:
        return caught


def wrong_in(log: str, margin: str = MARGIN[:5], most: int = MOST_LOG) -> list[str]:
    """The gate: what a peer has brought into a log that should not be there."""
    wrong = [f"{char!a} is in it" for char in sorted(set(log)) if not (char.isprintable() or char == "\n")]
    lines = log.removesuffix("\n").split("\n")
    wrong += [f"forged: {line!a:.60}" for line in lines if not line.startswith((margin, "  "))]
    if len(log.encode("utf-8", "replace")) > most:
        wrong.append(f"{len(log)} characters, more than {most} bytes")
    return wrong


def records_in(log: str) -> int:
    return len(re.findall(rf"^{MARGIN[:5]}", log, re.MULTILINE))


#: Bytes a record may have when nothing was written before it.
MOST = journal.MOST
