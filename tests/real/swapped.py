"""Runs a program with our ``socket`` and ``socketserver`` where the standard library's were: a process of its own.

``python swapped.py thread|green PROGRAM [ARGUMENT...]``; the program is a file or a module's name. What must not serve
it is taken away first, so that whatever is answered proves who answered: of the standard library's servers the
constructor, and of ours what runs handlers in the other mode. Two more faces show that it is gone: ``neither`` puts
nothing in the place of the standard library's, ``wrong`` puts our threads where only green threads are left.
"""

import os
import runpy
import socketserver as socketserver_std
import sys
from types import ModuleType

import jackfield.modes
import jackfield.server
import jackfield.socket
import jackfield.socketserver
import jackfield.sync


def refuse(*_: object, **__: object) -> None:
    # At once, so that no program goes on without it.
    print("served by what was taken away", file=sys.stderr, flush=True)
    os._exit(1)


def green_for_threads() -> ModuleType:
    """Our module, in which who asks for threads is given green threads."""
    ours = jackfield.socketserver
    module = ModuleType("socketserver")
    vars(module).update({name: getattr(ours, name) for name in ours.__all__})
    for name in ours.__all__:
        if name.startswith("Threading") and hasattr(ours, name.replace("Threading", "Green", 1)):
            setattr(module, name, getattr(ours, name.replace("Threading", "Green", 1)))
    return module


def main(face: str, program: str) -> None:
    socketserver_std.BaseServer.__init__ = refuse  # type: ignore[method-assign]
    # Whatever was imported so far keeps what it was given; the program and what it imports from now on is given ours.
    for name in [name for name in sys.modules if name.split(".")[0] in ("http", "xmlrpc", "wsgiref", "pydoc")]:
        del sys.modules[name]
    if face != "neither":
        sys.modules["socket"] = jackfield.socket
        sys.modules["socketserver"] = green_for_threads() if face == "green" else jackfield.socketserver
    taken_away = jackfield.modes.Greens if face == "thread" else jackfield.modes.Threads
    taken_away.start = refuse  # type: ignore[method-assign]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    face, program = sys.argv[1:3]
    del sys.argv[:2]
    main(face, program)
