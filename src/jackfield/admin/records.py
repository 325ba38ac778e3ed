"""The last records of the log, and the errors among them, grouped by where they were raised."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, deque
from typing import Any

from ..journal.escaping import one_line, said
from ..journal.tracebacks import traceback_lines

__all__ = ["Records"]

#: Records that are kept, groups of errors, and characters of the text of one.
MOST_RECORDS, MOST_GROUPS, LONGEST = 200, 50, 4096


class Records(logging.Handler):
    """A handler for the root logger that keeps the last records as they would be read: on one line, escaped.

    ``blocked`` are those of the watchdog alone: the samples of handlers that held the loop.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__(level)
        self._records: deque[dict[str, Any]] = deque(maxlen=MOST_RECORDS)
        self._blocked: deque[dict[str, Any]] = deque(maxlen=MOST_GROUPS)
        self._groups: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = {
                "time": record.created,
                "level": record.levelname.lower(),
                "logger": record.name,
                "text": one_line(record.getMessage())[:LONGEST],
            }
            self._records.append(entry)
            if record.name == "jackfield.watchdog":
                self._blocked.append(entry)
            error = record.exc_info[1] if record.exc_info else getattr(getattr(record, "incident", None), "error", None)
            if error is not None:
                self._group(record, error)
        except Exception:
            self.handleError(record)

    def _group(self, record: logging.LogRecord, error: BaseException) -> None:
        """Errors of one type that were raised in one place are one, whatever their texts say of it."""
        lines = traceback_lines(error)
        places = [line for line in lines if line.lstrip().startswith("File ")]
        key = hashlib.sha256("\n".join([type(error).__qualname__, *places]).encode()).hexdigest()[:12]
        group = self._groups.pop(key, None) or {"id": key, "type": type(error).__qualname__, "count": 0}
        group["count"] += 1
        group["last"] = record.created
        group["text"] = one_line(said(error))[:LONGEST]
        group["traceback"] = "\n".join(lines)[:LONGEST]
        self._groups[key] = group
        while len(self._groups) > MOST_GROUPS:
            self._groups.popitem(last=False)

    def read(self) -> dict[str, Any]:
        """All three, the latest last."""
        self.acquire()
        try:
            return {
                "records": list(self._records),
                "errors": [dict(group) for group in self._groups.values()],
                "blocked": list(self._blocked),
            }
        finally:
            self.release()
