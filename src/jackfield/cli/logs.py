"""What the server says while it runs: text or JSON, one record a line, on stderr or in a file that may be rotated."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from jackfield.cli.text import escape, paint, wants_color
from jackfield.errors import StartError

__all__ = ["FORMATS", "LEVELS", "JsonFormatter", "LogFile", "TextFormatter", "quiet_below_warning", "reopen_logs",
           "set_up_logging"]  # fmt: skip

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")

_STYLE = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}


class TextFormatter(logging.Formatter):
    """``2025-01-31 12:00:00.000 warning jackfield.door: text``; a text of several lines goes on indented, as does a
    traceback.

    Control characters are written out, so that nothing a peer sent can steer a terminal; and what it sent can be no
    line of its own, for only a record begins at the margin.
    """

    def __init__(self, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        if level in _STYLE:
            level = paint(level, _STYLE[level], self._color)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = "\n".join([record.getMessage(), *_trace(self, record)])
        shown = escape(text, keep="\n").replace("\n", "\n    ")
        return f"{when}.{int(record.msecs):03d} {level} {record.name}: {shown}"


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``; ``trace`` where there is one.

    A record's ``fields``, a dict given as ``extra={"fields": …}``, goes in beside them.
    """

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", {}))
        if trace := _trace(self, record):
            entry["trace"] = "\n".join(trace)
        # ASCII: the line then means the same to every reader, a lone surrogate of an undecodable name included.
        return json.dumps(entry, default=str)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:  # made for the log before (jackfield.journal)
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return parts


@contextlib.contextmanager
def quiet_below_warning(name: str) -> Iterator[None]:
    """Drop what the logger of that name itself says of less than a warning, for as long as the block lasts."""

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    logger = logging.getLogger(name)
    logger.addFilter(matters)
    try:
        yield
    finally:
        logger.removeFilter(matters)


class LogFile(logging.handlers.WatchedFileHandler):
    """A file that is opened anew when it has been moved away or removed, logrotate's way.

    Where it may not be, as in a directory of root's once root was given up, the file that was moved away is gone on
    with, and told so once. CPython's own handler closes that one first, and raises in whoever logs, each time.
    """

    _told = False

    def reopenIfNeeded(self) -> None:
        if self.stream is None:  # closed: whoever logs opens it
            return
        try:
            status = os.stat(self.baseFilename)
            if (status.st_dev, status.st_ino) == (self.dev, self.ino):
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell(error)
            return
        old = self.stream
        try:
            self.stream = self._open()
        except OSError as error:
            self._tell(error)
            return
        self._statstream()
        self._told = False
        old.close()

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            text = f"{self.baseFilename} cannot be opened anew ({error.strerror}): going on in the old file"
            record = logging.LogRecord("jackfield.serve", logging.ERROR, __file__, 0, text, None, None)
            logging.FileHandler.emit(self, record)


def set_up_logging(level: str, style: str, file: str | None, color: str) -> logging.Handler:
    """Send the records of the whole process to stderr, or to `file`; the handler.

    The file is opened for appending, and anew when it has been moved away or removed (logrotate's way).

    :raises StartError: the file cannot be opened.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = LogFile(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StartError(f"cannot write the log to {file}: {error.strerror}; choose another --log-file") from error
    colored = file is None and wants_color(sys.stderr, color)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter(colored))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def reopen_logs() -> None:
    """Open those files again that were moved away or removed, also where nothing is to be written now."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile):
            handler.reopenIfNeeded()
