"""Keys: each flag of ``serve`` by the name that it has in a file and in the environment, and whom it is about."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jackfield.cli.arguments import Parser, Switch, add_globals
from jackfield.cli.flags import add_flags

__all__ = ["PREFIX", "Key", "keys_of", "keys_of_serve", "spellings"]

PREFIX = "JACKFIELD_"
"""What the names of the environment begin with (granian has GRANIAN_*, gunicorn and uvicorn theirs)."""

#: The groups of flags that are about one server; all others, those that are yet to come among them, are about the
#: process: it has one log, one user and one process id, however many servers it runs.
_GROUPS_OF_A_SERVER = ("where", "how", "limits", "TLS", "PROXY protocol")
_LOOSE_OF_A_SERVER = ("handler", "factory", "name")

#: Names that a file would use up for something else, or that make no sense in it.
_NOT_IN_FILES = ("config",)


@dataclass(frozen=True, eq=False)
class Key:
    """One flag, or the TARGET, by its name.

    :param name: the long flag with ``_`` for ``-``; TARGET is ``handler``.
    :param action: how argparse has it: its type and choices hold for a value from anywhere.
    :param of_server: it may be another for each server of a file; else it is about the whole process.
    :param group: the title of its group in the help.
    """

    name: str
    action: argparse.Action
    of_server: bool
    group: str = ""

    @property
    def dest(self) -> str:
        """Its name in a namespace."""
        return self.action.dest

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        longs = [flag for flag in self.action.option_strings if flag.startswith("--")]
        return longs[0] if longs else str(self.action.metavar)

    @property
    def in_files(self) -> bool:
        """Whether a file may say it."""
        return self.name not in _NOT_IN_FILES

    @property
    def repeats(self) -> bool:
        """Whether it has a list of values."""
        return isinstance(self.action, argparse._AppendAction)  # of which _ExtendAction is one

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.action, argparse._StoreTrueAction | argparse.BooleanOptionalAction | Switch)

    @property
    def default(self) -> Any:
        """What holds where nobody says anything; None where that is the library's to know."""
        return None if self.action.default is argparse.SUPPRESS else self.action.default


def keys_of(parser: argparse.ArgumentParser) -> list[Key]:
    """The keys of a parser's arguments, in the order of its help."""
    groups = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        longs = [flag for flag in action.option_strings if flag.startswith("--")]
        name = longs[0][2:].replace("-", "_") if longs else "handler"
        of_server = name in _LOOSE_OF_A_SERVER or groups.get(id(action)) in _GROUPS_OF_A_SERVER
        found.append(Key(name, action, of_server, groups.get(id(action)) or ""))
    return found


def keys_of_serve() -> tuple[Parser, list[Key]]:
    """A parser with all that ``serve`` takes, its defaults in place, and its keys."""
    parser = Parser(prog="jackfield serve", add_help=False)
    add_flags(parser)
    add_globals(parser)
    return parser, keys_of(parser)


def spellings(path: tuple[str, ...], known: Iterable[str]) -> Iterator[str]:
    """The names that a key of a file may mean: a table's name goes before those of the keys in it, ``[tls] cert`` is
    ``tls_cert``.

    A table that is called as a flag has that one as its ``mode``, and also takes those that share its first word:
    ``[proxy_protocol] allow_from`` is ``proxy_allow_from``.
    """
    yield "_".join(path)
    table, key = "_".join(path[:-1]), path[-1]
    if table and table in known:
        if key == "mode":
            yield table
        yield f"{table.partition('_')[0]}_{key}"
