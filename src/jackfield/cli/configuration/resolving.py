"""One value for each key, from the layers that may say it: built-in < class attributes < file < environment < flags.

The attributes of the handler class come last in time (:mod:`jackfield.cli.configuration.classes`), as it is loaded when
all is bound.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from jackfield.cli.arguments import Parser, UsageError, nearest
from jackfield.cli.configuration.files import Document, find_document
from jackfield.cli.configuration.keys import PREFIX, Key, keys_of_serve, spellings
from jackfield.cli.configuration.origins import DEFAULT, Origin
from jackfield.cli.configuration.values import refuse_secret, value_of_file, value_of_variable

__all__ = ["Configured", "resolve"]

#: Each server has its own; what is said of all of them would be wrong for all but one.
_ONE_EACH = ("bind", "name")

#: What Kubernetes puts into the environment of every container, for a service of the name "jackfield".
_KUBERNETES = ("SERVICE_", "PORT")

#: How near a variable has to come to one of ours to be one that was misspelt.
_LIKENESS = 0.8

Layer = dict[str, tuple[Any, Origin]]


@dataclass(frozen=True)
class Configured:
    """What is to be served, and where each word of it came from.

    :param servers: the resolved options of each server: all keys, and ``origins``, an :class:`Origin` for each.
    :param process: the same for what is about the process; of the keys of a server it has what holds for all.
    :param document: the file, if there is one.
    :param given: what the command line said, to resolve it again.
    """

    servers: list[argparse.Namespace]
    process: argparse.Namespace
    document: Document | None
    given: argparse.Namespace


def _refuse(problem: str) -> NoReturn:
    raise UsageError(problem)


def resolve(
    given: argparse.Namespace,
    tell: Callable[[str], object] = _refuse,
    environment: Mapping[str, str] | None = None,
    directory: str = ".",
) -> Configured:
    """Work out all values.

    :param given: what was parsed; ``given.spoken`` are the names that the command line itself said, all if missing.
    :param tell: called with each problem, one line; it may raise, as it does unless told otherwise, or note it, and
        then the value is left out.
    :param environment: that of the process by default.
    :param directory: where a file is looked for.
    """
    return _Resolver(given, tell, os.environ if environment is None else environment).resolve(directory)


class _Resolver:
    def __init__(
        self, given: argparse.Namespace, tell: Callable[[str], object], environment: Mapping[str, str]
    ) -> None:
        self._given = given
        self._tell = tell
        self._environment = environment
        self._parser: Parser
        self._parser, self._keys = keys_of_serve()
        self._by_name = {key.name: key for key in self._keys}

    def resolve(self, directory: str) -> Configured:
        flags, variables = self._flags(), self._variables()
        named = {**variables, **flags}.get("config", (None, DEFAULT))[0]
        document: Document | None = None
        try:
            document = find_document(named, directory)
        except UsageError as error:
            self._tell(str(error))
        shared, own = self._of_document(document) if document is not None else ({}, [])
        if len(own) > 1:
            self._refuse_for_all(shared, {**variables, **flags}, len(own))
        process = self._merged(shared, variables, flags)
        servers = [self._merged(shared, one, variables, flags) for one in own or [{}]]
        self._check_names(servers)
        return Configured(servers, process, document, self._given)

    def _merged(self, *layers: Layer) -> argparse.Namespace:
        """All keys, each from the last of the layers that has it, over what else the command line knows."""
        options = argparse.Namespace(**vars(self._given))
        origins = {}
        merged = {name: pair for layer in layers for name, pair in layer.items()}
        for key in self._keys:
            value, origin = merged.get(key.name, (key.default, DEFAULT))
            if origin is DEFAULT and key.name in ("verbose", "quiet", "color"):
                value = getattr(self._given, key.dest, value)  # the program's own defaults
            setattr(options, key.dest, value)
            origins[key.dest] = origin
        options.origins = origins
        return options

    # -- the layers --------------------------------------------------------------------------------------------------

    def _flags(self) -> Layer:
        said = vars(self._given)
        spoken = said.get("spoken", said.keys())
        return {
            key.name: (said[key.dest], Origin("flag", key.flag))
            for key in self._keys if key.dest in spoken and key.dest in said
        }  # fmt: skip

    def _variables(self) -> Layer:
        found: Layer = {}
        for key in self._keys:
            text = self._environment.get(key.variable, "")
            if not text.strip():
                continue  # set to nothing, as compose files do with what they have no value for
            try:
                found[key.name] = value_of_variable(self._parser, key, text), Origin("environment", key.variable)
            except UsageError as error:
                self._tell(f"{key.variable}: {error}")
        known = {key.variable for key in self._keys}
        for variable in sorted(self._environment):
            if variable.startswith(PREFIX) and variable not in known and self._environment[variable]:
                self._check_unknown(variable)
        return found

    def _check_unknown(self, variable: str) -> None:
        """A variable that is nearly one of ours was meant to be it; others may be anybody's."""
        name = variable.removeprefix(PREFIX)
        if name.startswith(_KUBERNETES):
            return
        try:
            refuse_secret(name.lower())
        except UsageError as error:
            self._tell(f"{variable}: {error}")
            return
        near = nearest(name, (key.name.upper() for key in self._keys), _LIKENESS)
        if near is not None:
            self._tell(f"{variable}: there is no such key; did you mean {PREFIX}{near}?")

    # -- the file ----------------------------------------------------------------------------------------------------

    def _of_document(self, document: Document) -> tuple[Layer, list[Layer]]:
        """What a file says for all servers, and for each of its own."""
        table = dict(document.table)
        tables = table.pop("server", None)
        shared = self._layer(document, table)
        if tables is None:
            return shared, []
        if isinstance(tables, dict):
            return shared, [self._layer(document, tables, "server", whose="[server]")]
        if not isinstance(tables, list) or not tables or not all(isinstance(one, dict) for one in tables):
            self._tell(f"{document.place(('server',))}: server is no table: write [[server]] and the keys below it")
            return shared, []
        return shared, [
            self._layer(document, one, "server", number, whose="[[server]]") for number, one in enumerate(tables)
        ]

    def _layer(self, document: Document, table: dict[str, Any], *under: str | int, whose: str = "") -> Layer:
        found: Layer = {}
        for path, value in document.keys(table, *under):
            place = document.place(path)
            names = tuple(str(part) for part in path[len(under) :])
            if value == {} and any(name.startswith("_".join(names)) for name in self._by_name):
                continue  # a table that groups keys, all of which are commented out
            key = self._key_of(names, value, place)
            if key is None:
                continue
            if whose and not key.of_server:
                self._tell(f"{place}: {key.name} is about the whole process: write it above the first {whose}")
            elif not key.in_files:
                self._tell(f"{place}: {key.name}: a file cannot name another: leave it out, or use {key.flag}")
            elif key.name in found:
                self._tell(f"{place}: {key.name} is there already, at {found[key.name][1]}: leave one of them out")
            else:
                try:
                    found[key.name] = value_of_file(self._parser, key, value), Origin("file", place)
                except UsageError as error:
                    self._tell(f"{place}: {key.name}: {error}")
        return found

    def _key_of(self, names: tuple[str, ...], value: Any, place: str) -> Key | None:
        for name in spellings(names, self._by_name):
            if name in self._by_name:
                return self._by_name[name]
        written = ".".join(names)
        try:
            refuse_secret("_".join(names), value)
        except UsageError as error:
            self._tell(f"{place}: {written}: {error}")
            return None
        joined = "_".join(names)
        if joined == "target":
            near: str | None = "handler"
        else:
            near = nearest(joined, [*self._by_name, "server"])
        guess = f"did you mean {near}?" if near else "'jackfield check --print' lists them all"
        self._tell(f"{place}: there is no key {written}; {guess}")
        return None

    # -- several servers ---------------------------------------------------------------------------------------------

    def _refuse_for_all(self, shared: Layer, said: Layer, count: int) -> None:
        for name in _ONE_EACH:
            if name in shared:
                place = shared[name][1]
                self._tell(f"{place}: {name} is another for each of the {count} servers: write it below [[server]]")
        for name in ("handler", *_ONE_EACH):
            if name in said:
                place = said[name][1]
                self._tell(f"{place} goes with one server, and the file has {count}: name another file with --config")

    def _check_names(self, servers: list[argparse.Namespace]) -> None:
        if len(servers) < 2:
            return
        seen: dict[str, Origin] = {}
        for number, options in enumerate(servers, 1):
            where: Origin = options.origins["name"]
            if where.kind == "file" and options.name in seen:
                self._tell(f"{where}: two servers are called {options.name}, the other at {seen[options.name]}")
            seen[options.name] = where
            if not options.bind:
                self._tell(f"server {options.name or number} has no bind: each of several has to say where it listens")
