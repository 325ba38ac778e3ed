"""Giving another module our ``socket``, so that a blocking client library cooperates in green threads.

Nothing of the standard library is touched, and no module that was not named: what changes is what the named module
finds under its own global names.
"""

from __future__ import annotations

import select as _select_std
import socket as _socket_std
import sys
import threading
import time as _time_std
from collections.abc import Iterable, Iterator
from types import ModuleType, TracebackType
from typing import Any

from . import socket as _socket_ours
from .errors import MisuseError
from .reactor import in_green, sleep, wait_readable

__all__ = ["Adoption", "adopt"]


def adopt(*modules: ModuleType) -> Adoption:
    """Give ``modules`` our ``socket`` in place of the standard library's; of a package, also its imported submodules.

    In such a module each global name that is

    - the module ``socket``, or a name of it that ours replaces (the class ``socket``, ``create_connection``,
      ``getaddrinfo`` ...),
    - the module ``time`` or its function ``sleep``,
    - the module ``select`` or its function ``select``

    becomes ours, whatever the name is there (``from time import sleep as pause``). In a green thread these then give
    the loop its turn instead of blocking; in a plain thread and in a coroutine they do what they always did.

    Undone by ``undo()`` or at the end of a ``with``. A module may be adopted more than once; it gets its own back when
    the last adoption is undone. MisuseError if a module has none of these names (it may wait in C code, or in
    submodules that are yet to be imported), and for modules that are not to be changed: the standard library's
    ``socket``, ``select`` and ``time`` themselves, ``asyncio``, and ours.

    What it does not reach:

    - *TLS.* ``ssl.SSLSocket`` is a class of the standard library's whatever it wraps: a handshake, read or write over
      TLS holds the loop while it waits. Give such a client to :func:`jackfield.offload`.
    - Submodules imported later, sockets and connections that exist already, and what was stored before: a default
      argument, a class attribute or base class, a name of *another* module.
    - ``threading`` and ``queue``: a library that holds a lock while it waits for its peer, or hands connections out of
      a blocking pool, stops the loop when a second green thread comes. Give each green thread a client of its own, or
      the client a pool that is large enough.
    - ``threading.local``: green threads of one thread share it.
    - ``select.poll``, ``select.epoll`` and :mod:`selectors`.
    """
    chosen = [_checked(module) for module in modules]
    if not chosen:
        raise MisuseError("adopt() which module? write e.g. adopt(http.client)")
    with _lock:
        found: list[tuple[ModuleType, str, Any]] = []
        for module in chosen:
            here = [entry for each in _family(module) for entry in _names(each)]
            if not here:
                raise MisuseError(
                    f"{module.__name__} has no name of socket, time or select to replace: it waits elsewhere. Import "
                    "the submodule that does and adopt that, or give its blocking calls to jackfield.offload()"
                )
            found += [entry for entry in here if entry not in found]
        for module, name, ours in found:
            held = _held.setdefault((module, name), _Name(vars(module)[name], ours))
            held.count += 1
            setattr(module, name, ours)
    return Adoption((module, name) for module, name, _ in found)


class Adoption:
    """What :func:`adopt` has changed. As a context manager it undoes that at the end."""

    def __init__(self, names: Iterable[tuple[ModuleType, str]]) -> None:
        self._names = tuple(names)
        self._active = True

    def __repr__(self) -> str:
        return f"<Adoption of {', '.join(self.names)}{'' if self._active else ', undone'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it gave something of ours: ``("http.client.socket",)``."""
        return tuple(f"{module.__name__}.{name}" for module, name in self._names)

    def undo(self) -> None:
        """Give back what was there, except where something else has been put since. A second call does nothing."""
        with _lock:
            if not self._active:
                return
            self._active = False
            for module, name in self._names:
                held = _held[module, name]
                held.count -= 1
                if not held.count:
                    del _held[module, name]
                    if vars(module).get(name) is held.ours:
                        setattr(module, name, held.theirs)

    def __enter__(self) -> Adoption:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


# -- what is replaced by what -----------------------------------------------------------------------------------------


def _sleep(seconds: float, /) -> None:
    """``time.sleep``: a coroutine that calls it expects to be blocked, unlike one that calls ours."""
    if seconds >= 0 and in_green():
        sleep(seconds)
    else:
        _time_std.sleep(seconds)


def _select(
    rlist: Iterable[Any], wlist: Iterable[Any], xlist: Iterable[Any], timeout: float | None = None, /
) -> tuple[list[Any], list[Any], list[Any]]:
    """``select.select``: a green thread waits for an epoll set that holds all of them, itself a thing to wait for."""
    lists = list(rlist), list(wlist), list(xlist)
    if not in_green() or (timeout is not None and timeout <= 0):
        return _select_std.select(*lists, timeout)
    ready = _select_std.select(*lists, 0)  # and the errors for what cannot be waited for
    if any(ready):
        return ready
    interest: dict[int, int] = {}
    for files, mask in zip(lists, (_select_std.EPOLLIN, _select_std.EPOLLOUT, _select_std.EPOLLPRI), strict=True):
        for file in files:
            fd = file if isinstance(file, int) else file.fileno()
            interest[fd] = interest.get(fd, 0) | mask
    deadline = None if timeout is None else _time_std.monotonic() + timeout
    with _select_std.epoll() as every:
        for fd, mask in interest.items():
            # By edges, as a hang-up is reported to those too who asked for something else (epoll_ctl(2)), for ever.
            every.register(fd, mask | _select_std.EPOLLET)
        while not any(ready):
            try:
                wait_readable(every.fileno(), None if deadline is None else deadline - _time_std.monotonic())
            except TimeoutError:
                break
            every.poll(0)
            ready = _select_std.select(*lists, 0)
    return ready


class _StandIn(ModuleType):
    """A module of the standard library with one function of ours, and otherwise as it is at any time."""

    def __init__(self, real: ModuleType, **ours: Any) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(ours)
        self.__real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__real, name)

    def __dir__(self) -> list[str]:
        return dir(self.__real)

    def __repr__(self) -> str:
        return f"<{self.__real!r} with names of jackfield's: {', '.join(n for n in vars(self) if n[0] != '_')}>"


def _replacements() -> Iterator[tuple[Any, Any]]:
    yield _socket_std, _socket_ours
    for name, theirs in vars(_socket_std).items():
        ours = vars(_socket_ours).get(name)
        if callable(theirs) and callable(ours) and ours is not theirs:
            yield theirs, ours
    yield _time_std, _StandIn(_time_std, sleep=_sleep)
    yield _time_std.sleep, _sleep
    yield _select_std, _StandIn(_select_std, select=_select)
    yield _select_std.select, _select


# By identity: the values of a stranger's module need be neither hashable nor comparable.
_OURS = {id(theirs): (theirs, ours) for theirs, ours in _replacements()}
_UNTOUCHABLE = ("jackfield", "asyncio", "socket", "select", "time", "_socket", "ssl", "threading", "selectors")


class _Name:
    """One global name of one module that is adopted."""

    __slots__ = ("count", "ours", "theirs")

    def __init__(self, theirs: Any, ours: Any) -> None:
        self.theirs = theirs
        self.ours = ours
        #: Adoptions that are not undone.
        self.count = 0


_lock = threading.Lock()
_held: dict[tuple[ModuleType, str], _Name] = {}


def _checked(module: ModuleType) -> ModuleType:
    if not isinstance(module, ModuleType):
        raise TypeError(f"adopt() takes modules, not {module!r}: write e.g. adopt(http.client)")
    if module.__name__.partition(".")[0] in _UNTOUCHABLE:
        raise MisuseError(
            f"{module.__name__} is not to be adopted: everything else in the process shares it; adopt the module of "
            "the client library that uses it"
        )
    return module


def _family(module: ModuleType) -> list[ModuleType]:
    """The module, and of a package all submodules that are imported."""
    family = [module]
    if hasattr(module, "__path__"):
        prefix = f"{module.__name__}."
        family += [m for name, m in list(sys.modules.items()) if name.startswith(prefix) and isinstance(m, ModuleType)]
    return family


def _names(module: ModuleType) -> Iterator[tuple[ModuleType, str, Any]]:
    """The names of a module that are to be ours, or are by an earlier adoption."""
    for name, value in list(vars(module).items()):
        held = _held.get((module, name))
        if held is not None and value is held.ours:
            yield module, name, value
        elif id(value) in _OURS:
            yield module, name, _OURS[id(value)][1]


class _CallableModule(ModuleType):
    """``jackfield.adopt`` is this function, but importing this module puts the module there: so both do the same."""

    def __call__(self, *modules: ModuleType) -> Adoption:
        return adopt(*modules)


sys.modules[__name__].__class__ = _CallableModule
