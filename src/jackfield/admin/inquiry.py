"""Whom the admin endpoint asks: the desk of its own process, or, in another module, those of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..errors import JackfieldError
from .desk import BadQuestion, Desk
from .totals import Past

__all__ = ["Here", "Inquiry", "Unanswered"]


class Unanswered(JackfieldError, OSError):
    """Nobody has answered in time, or nobody is there to."""


class Inquiry(Protocol):
    """Asks desks, and whoever keeps the processes at them. From any thread; it may wait a few seconds."""

    def ask(self, what: str, worker: int | None = None, **arguments: Any) -> Mapping[int, Any]:
        """The answers by the number of the worker: of all, or of that one alone. BadQuestion as from a desk;
        Unanswered if none of them has."""
        ...

    def workers(self) -> list[dict[str, Any]]:
        """One row for each worker; none where this is the only process."""
        ...

    @property
    def past(self) -> Past:
        """What workers have counted that are no more."""
        ...

    def do(self, what: str, **arguments: Any) -> Any:
        """``reload``, ``stop`` or ``scale``. BadQuestion where that cannot be."""
        ...


class Here:
    """Asks the one desk of this process.

    :param actions: what :meth:`do` can do, by name.
    """

    def __init__(self, desk: Desk, actions: Mapping[str, Callable[..., Any]]) -> None:
        self.past = Past()
        self._desk = desk
        self._actions = actions

    def ask(self, what: str, worker: int | None = None, **arguments: Any) -> Mapping[int, Any]:
        if worker not in (None, self._desk.worker):
            raise BadQuestion(f"there is no worker {worker}: this process serves alone")
        return {self._desk.worker: self._desk.answer(what, **arguments)}

    def workers(self) -> list[dict[str, Any]]:
        return []

    def do(self, what: str, **arguments: Any) -> Any:
        if what not in self._actions:
            raise BadQuestion(f"{what} is for servers with workers: start this one with --workers 2, for example")
        return self._actions[what](**arguments)
