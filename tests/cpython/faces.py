"""What stands where the standard library's ``socket`` and ``socketserver`` were while CPython's tests run.

All of this changes the process for good: only a child process may do it.
"""

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Literal, get_args

Face = Literal["stdlib", "ours", "green", "green-servers"]
FACES: tuple[str, ...] = get_args(Face)

_GREEN_FOR_THREADING = {
    "ThreadingMixIn": "GreenMixIn",
    "ThreadingTCPServer": "GreenTCPServer",
    "ThreadingUDPServer": "GreenUDPServer",
    "ThreadingUnixStreamServer": "GreenUnixStreamServer",
    "ThreadingUnixDatagramServer": "GreenUnixDatagramServer",
}


def put_in_place(face: Face) -> None:
    """Make ``import socket`` and ``import socketserver`` find what *face* says."""
    if face == "stdlib":
        return
    _import_all_of_jackfield()
    socket = importlib.import_module("jackfield.socket")
    socketserver = importlib.import_module("jackfield.socketserver")
    sys.modules["socket"] = socket
    if face == "green-servers":
        sys.modules["socketserver"] = _with_green_servers(socketserver)
    else:
        sys.modules["socketserver"] = socketserver
    _rename_as_the_original(socketserver)


def check(face: Face, test_module: ModuleType) -> None:
    """Raise AssertionError unless CPython's *test_module* found what *face* put in place."""
    ours = face != "stdlib"
    names = ("socket", "socketserver") if hasattr(test_module, "socketserver") else ("socket",)
    for name in names:
        found = getattr(test_module, name)
        if found.__name__.startswith("jackfield.") is not ours:
            raise AssertionError(f"{test_module.__name__} tests {found.__name__}, which is not what {face!r} means")
    if face == "green-servers":
        servers = vars(test_module)["socketserver"].__dict__
        for threading_name, green_name in _GREEN_FOR_THREADING.items():
            if servers[threading_name] is not servers[green_name]:
                raise AssertionError(f"{threading_name} is not {green_name}")


def _import_all_of_jackfield() -> None:
    # A module of ours imported later would ask for the standard library's socket and be given ours.
    import jackfield

    for info in pkgutil.walk_packages(jackfield.__path__, "jackfield."):
        if info.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(info.name)
        except ImportError as error:
            # An extra that is not installed.
            print(f"not imported: {info.name}: {error}", file=sys.stderr)


def _with_green_servers(original: ModuleType) -> ModuleType:
    stand_in = ModuleType(original.__name__, original.__doc__)
    stand_in.__dict__.update(original.__dict__)
    for threading_name, green_name in _GREEN_FOR_THREADING.items():
        if hasattr(original, threading_name):
            setattr(stand_in, threading_name, getattr(original, green_name))
    return stand_in


def _rename_as_the_original(module: ModuleType) -> None:
    # CPython's test of __all__ knows a module's own names by their __module__.  Ours stands in that place, so its own
    # say so: what it defines, and what it hands on deliberately.
    for name, value in list(vars(module).items()):
        own = getattr(value, "__module__", None) == module.__name__ or name in module.__all__
        if own and hasattr(value, "__module__"):
            value.__module__ = "socketserver"
