"""What the server says while it runs: text or JSON, one record a line, on stderr or in a file that may be rotated."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import sys
import time
from collections.abc import Iterator
from typing import Any

from jackfield.cli.text import escape, paint, wants_color
from jackfield.errors import StartError

__all__ = ["FORMATS", "LEVELS", "JsonFormatter", "TextFormatter", "quiet_below_warning", "set_up_logging"]

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
            handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StartError(f"cannot write the log to {file}: {error.strerror}; choose another --log-file") from error
    colored = file is None and wants_color(sys.stderr, color)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter(colored))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler
