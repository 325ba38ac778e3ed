"""The file of a configuration: found, read, and flattened into keys with the line that each stands in."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jackfield.cli.arguments import UsageError

__all__ = ["Document", "find_document", "read_document"]

NAMES = ("jackfield.toml", "pyproject.toml")
"""What is looked for in the working directory, in this order; the second only counts with a [tool.jackfield]."""

LARGEST = 1 << 20
"""Bytes of the largest file that is taken for a configuration."""

_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


@dataclass(frozen=True)
class Document:
    """A file that was read.

    :param path: as the user would name it.
    :param table: what it says, as tomllib gives it; of a pyproject.toml that is what stands in ``[tool.jackfield]``.
    :param lines: the line of each key by its path; a number in a path is the index in an array of tables.
    """

    path: str
    table: dict[str, Any]
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict, repr=False, compare=False)

    def place(self, path: tuple[str | int, ...]) -> str:
        """``jackfield.toml:3`` for a key, or as near to it as is known."""
        while path:
            if path in self.lines:
                return f"{self.path}:{self.lines[path]}"
            path = path[:-1]
        return self.path

    def keys(self, table: dict[str, Any], *under: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
        """Each key of a table and of the tables in it, with its path and value; an empty table is a value itself."""
        for name, value in table.items():
            if isinstance(value, dict) and value:
                yield from self.keys(value, *under, name)
            else:
                yield (*under, name), value


def find_document(named: str | None, directory: str = ".") -> Document | None:
    """The file that holds: the one that is `named`, or ``jackfield.toml`` of the directory, or its ``pyproject.toml``
    where that has a ``[tool.jackfield]``; None where there is none of them.

    :raises UsageError: it cannot be read, or is no TOML; one line with the place.
    """
    if named is not None:
        return read_document(named)
    for name in NAMES:
        path = os.path.join(directory, name) if directory != "." else name
        if os.path.exists(path) and (document := read_document(path, must_be_ours=name == NAMES[0])) is not None:
            return document
    return None


def read_document(path: str, must_be_ours: bool = True) -> Document | None:
    """The file of that path.

    :param must_be_ours: None is returned otherwise for a pyproject.toml that says nothing of Jackfield.
    :raises UsageError: it cannot be read, or is no TOML; one line with the place.
    """
    text = _text(path)
    in_pyproject = os.path.basename(path) == NAMES[1]
    if in_pyproject and "jackfield" not in text and not must_be_ours:
        return None  # and whatever is wrong with it is not ours to say
    import tomllib  # late: it costs a start without a file nothing

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: no TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: no configuration: it is nested too deep") from None
    except ValueError as error:  # int() refuses thousands of digits (sys.set_int_max_str_digits)
        raise UsageError(f"{path}: {error}") from None
    prefix: tuple[str, ...] = ()
    if in_pyproject:
        prefix = ("tool", "jackfield")
        for name in prefix:
            inner = table.get(name)
            if inner is None:
                if must_be_ours:
                    raise UsageError(f"{path} has no [tool.jackfield]: write one, or name a file of its own")
                return None
            if not isinstance(inner, dict):
                raise UsageError(f"{path}: tool.jackfield is no table: write [tool.jackfield] and the keys below it")
            table = inner
    lines = {
        where[len(prefix) :]: number for where, number in _lines(text).items() if where[: len(prefix)] == prefix
    }  # fmt: skip
    return Document(path, table, lines)


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError(21, "Is a directory")
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise UsageError(f"{path} is no configuration: it is larger than {LARGEST >> 20} MiB")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: no TOML: a byte that is no UTF-8") from None


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The line of each key of a text that is TOML. tomllib does not tell; here each is where a line begins with it.

    Where several lines could be meant, as in a text of several lines that looks like TOML, the first is taken: only
    the number in a message can be wrong.
    """
    found: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    under: tuple[str | int, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.fullmatch(line):
            parts = _parts(header[1])
            under = ()
            for index, part in enumerate(parts):
                under += (part,)
                last = index == len(parts) - 1
                if line.lstrip().startswith("[[") and last:
                    counts[under] = counts.get(under, -1) + 1
                if under in counts:
                    under += (counts[under],)
            found.setdefault(under, number)
        elif key := _KEY.match(line):
            found.setdefault(under + _parts(key[1]), number)
    return found


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
