"""What can be asked of the admin endpoint: one table, from which requests are served and OpenAPI is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .desk import BadQuestion

__all__ = ["Parameter", "Route", "find", "openapi"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value of a query or of a JSON body. ``kind`` is ``text``, ``whole``, ``number`` or ``object``; it is needed
    unless it has a ``default``. ``choices``: the only ones, if there are any; ``least`` and ``most`` bound numbers."""

    name: str
    kind: str
    help: str
    default: Any = ...
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def read(self, value: Any) -> Any:
        """What ``value``, of JSON or as text, means. BadQuestion if it means nothing."""
        try:
            meant = _READERS[self.kind](value)
        except (TypeError, ValueError, OverflowError):
            raise BadQuestion(f"{self.name} is no {_WORDS[self.kind]}: {self.help}") from None
        if self.choices and meant not in self.choices:
            raise BadQuestion(f"{self.name} is one of {', '.join(self.choices)}")
        if (self.least is not None and meant < self.least) or (self.most is not None and meant > self.most):
            raise BadQuestion(f"{self.name} is from {self.least:g} to {self.most:g}")
        return meant

    def schema(self) -> dict[str, Any]:
        described: dict[str, Any] = {"type": _TYPES[self.kind], "description": self.help}
        if self.choices:
            described["enum"] = list(self.choices)
        if self.least is not None:
            described["minimum"] = self.least
        if self.most is not None:
            described["maximum"] = self.most
        if self.default is not ... and self.default is not None:
            described["default"] = self.default
        return described


_WHOLE, _NUMBER = re.compile(r"-?[0-9]{1,18}"), re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError  # int() takes more than digits: underscores, blanks, other scripts' numbers
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        raise ValueError
    number = float(value)
    if number - number != 0:
        raise ValueError  # infinite, or no number at all
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    return value


_READERS: dict[str, Callable[[Any], Any]] = {"text": _text, "whole": _whole, "number": _number, "object": _object}
_WORDS = {"text": "text", "whole": "whole number", "number": "number", "object": "object of JSON"}
_TYPES = {"text": "string", "whole": "integer", "number": "number", "object": "object"}


@dataclass(frozen=True, slots=True)
class Route:
    """``serve(admin, **parameters)`` gives the answer: a value of JSON, or an ``Answer``. ``is_open``: for everybody
    who can reach it, token or not."""

    method: str
    path: str
    help: str
    serve: Callable[..., Any]
    parameters: tuple[Parameter, ...] = ()
    is_open: bool = False
    kind: str = "application/json"

    @property
    def changes(self) -> bool:
        return self.method == "POST"

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters out of what came. BadQuestion for what is missing, wrong or not known."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in values:
            if name not in known:
                those = ", ".join(known) or "none"
                raise BadQuestion(f"{self.path} knows no {name[:100]!r}; it takes {those}")
        read = {}
        for name, parameter in known.items():
            if name in values:
                read[name] = parameter.read(values[name])
            elif parameter.default is ...:
                raise BadQuestion(f"{self.path} needs {name}: {parameter.help}")
            else:
                read[name] = parameter.default
        return read


def find(routes: tuple[Route, ...], method: str, path: str) -> Route | tuple[str, ...]:
    """The route; or the methods that there are for ``path``, none if there is no such path."""
    there = [route for route in routes if route.path == path]
    for route in there:
        if route.method == method or (method == "HEAD" and route.method == "GET"):
            return route
    return tuple(route.method for route in there)


def openapi(routes: tuple[Route, ...], version: str) -> dict[str, Any]:
    """The table as an OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for route in routes:
        described: dict[str, Any] = {"summary": route.help, "responses": _responses(route)}
        if route.changes and route.parameters:
            needed = [one.name for one in route.parameters if one.default is ...]
            schema: dict[str, Any] = {
                "type": "object",
                "properties": {one.name: one.schema() for one in route.parameters},
                "additionalProperties": False,
            }
            if needed:
                schema["required"] = needed
            described["requestBody"] = {"required": bool(needed), "content": {"application/json": {"schema": schema}}}
        elif route.parameters:
            described["parameters"] = [
                {"name": one.name, "in": "query", "required": one.default is ..., "schema": one.schema()}
                for one in route.parameters
            ]
        paths.setdefault(route.path, {})[route.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "jackfield admin", "version": version},
        "paths": paths,
    }


def _responses(route: Route) -> dict[str, Any]:
    problem = {"content": {"application/json": {"schema": {"type": "object"}}}}
    answers: dict[str, Any] = {"200": {"description": "the answer", "content": {route.kind: {}}}}
    if route.parameters:
        answers["400"] = {"description": "a parameter is wrong; the text says what to write", **problem}
    if not route.is_open:
        answers["401"] = {"description": "a token is needed", **problem}
    if route.changes:
        answers["403"] = {"description": "no token, and not from the page itself", **problem}
    answers["421"] = {"description": "asked by a name that is not this machine's", **problem}
    answers["503"] = {"description": "nobody answers, or it is not ready", **problem}
    return answers
