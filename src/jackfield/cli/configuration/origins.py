"""Where a value came from, and errors that say so."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jackfield.cli.arguments import UsageError
from jackfield.errors import StartError

__all__ = ["DEFAULT", "KINDS", "Origin", "level_of", "naming_origins"]


@dataclass(frozen=True)
class Origin:
    """Where a value came from.

    :param kind: the layers, each of which goes before those left of it.
    :param text: the place: ``jackfield.toml:3``, ``JACKFIELD_NAME``, ``--name``, ``chat:Handler.timeout``.
    """

    kind: Literal["default", "class", "file", "environment", "flag"]
    text: str

    def __str__(self) -> str:
        return self.text


DEFAULT = Origin("default", "default")

KINDS = ("default", "class", "file", "environment", "flag")
"""From the weakest to the strongest."""


def level_of(options: argparse.Namespace) -> str:
    """The level of the log: what ``log_level`` says, or ``verbose`` and ``quiet`` where they were said by a stronger
    origin: ``-v`` goes before the ``log_level`` of a file."""
    strength = {name: KINDS.index(options.origins[name].kind) for name in ("log_level", "verbose", "quiet")}
    spoken: str | None = options.log_level
    for name, said, level in (("verbose", options.verbose, "debug"), ("quiet", options.quiet, "warning")):
        if said and (spoken is None or strength[name] > strength["log_level"]):
            return level
    return spoken or "info"


#: The first flag that a message names.
_FLAG = re.compile(r"--([a-z][a-z0-9-]*)|(-k) ")


@contextlib.contextmanager
def naming_origins(options: argparse.Namespace, about: str | None = None) -> Iterator[None]:
    """What is raised in this block and names a flag says where its value came from, unless that was a flag.

    :param options: the resolved options of a server; those without ``origins`` are left alone.
    :param about: what the block is about where the message names no flag.
    """
    try:
        yield
    except (UsageError, StartError) as error:
        # The place goes before the line that is there; the error stays the one that it is, with its code and trace.
        if (place := _place_of(str(error), options, about)) and error.args:
            error.args = (f"{place}: {error.args[0]}", *error.args[1:])
        raise


def _place_of(message: str, options: argparse.Namespace, about: str | None) -> str | None:
    origins = getattr(options, "origins", {})
    named = ["mode" if match[2] else match[1].replace("-", "_") for match in _FLAG.finditer(message)]
    for dest in [*named, *([about] if about else [])]:
        origin = origins.get(dest)
        if origin is not None and origin.kind not in ("default", "flag"):
            return str(origin)
    return None
