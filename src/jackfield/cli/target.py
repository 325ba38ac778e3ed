"""``module:attr``: from the words on the command line to a handler class."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType, TracebackType
from typing import Any

from jackfield.cli.arguments import UsageError, nearest
from jackfield.errors import StartError

__all__ = ["TargetError", "check_target", "is_coroutine_handler", "load_target"]


class TargetError(StartError):
    """The user's own code failed while it was loaded; `trace` is its traceback, from the user's first line on."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def check_target(text: str) -> tuple[str, str]:
    """The module's name and the path of attributes; nothing is imported.

    :raises UsageError: the text has another form.
    """
    module, colon, attribute = text.partition(":")
    if module.endswith(".py"):
        name = module.removeprefix("./").removesuffix(".py").replace(os.sep, ".")
        raise UsageError(f"{module} is a file; a target is module:Class, here {name}:{attribute or 'Handler'}")
    if not colon or not attribute:
        raise UsageError(f"the target {text!r} names no class: write {module or 'module'}:Handler")
    if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise UsageError(f"the target {text!r} is not of the form module:Class, e.g. chat:Handler")
    return module, attribute


def load_target(text: str, app_dir: str = ".", factory: bool = False) -> type[Any]:
    """Import the handler class that `text` names.

    :param app_dir: the directory that is searched for modules first.
    :param factory: the attribute is a function that returns the class.
    :raises UsageError: the text has another form, or there is no such directory.
    :raises StartError: there is no such module, attribute or class.
    :raises TargetError: the user's code raised.
    """
    module_name, path = check_target(text)
    directory = os.path.abspath(app_dir)
    if not os.path.isdir(directory):
        raise UsageError(f"--app-dir {app_dir} is no directory")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    found = _walk(_import(module_name, directory), path)
    if factory:
        found = _call(found, text)
    return _check_handler(found, text, factory)


def _import(name: str, directory: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The one that was asked for, or a package on the way to it; any other is an import inside the user's code.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _user_error(error, f"importing {name}") from error
        near = nearest(name, _modules_in(directory))
        guess = f"did you mean {near}?" if near else "--app-dir names the directory that it is in"
        raise StartError(f"there is no module {error.name!r} in {directory} or on sys.path; {guess}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a module that ends the program when imported is no module
        raise _user_error(error, f"importing {name}") from error


def _modules_in(directory: str) -> Iterable[str]:
    for entry in os.scandir(directory):
        name, dot, ending = entry.name.partition(".")
        if name.isidentifier() and (ending == "py" or (not dot and entry.is_dir())):
            yield name


def _walk(module: ModuleType, path: str) -> Any:
    found: Any = module
    walked = module.__name__
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            near = nearest(part, (name for name in dir(found) if not name.startswith("_")))
            handlers = [name for name, value in vars(module).items() if _is_handler(value)]
            guess = f"; did you mean {near}?" if near else f"; it has: {', '.join(handlers)}" if handlers else ""
            where = f"{walked} ({module.__file__})" if found is module and module.__file__ else walked
            raise StartError(f"there is no {part!r} in {where}{guess}") from error
        walked += f".{part}"
    return found


def _call(factory: Any, text: str) -> Any:
    if not callable(factory):
        raise StartError(f"{text} is {_describe(factory)}; --factory wants a function that returns the handler class")
    if _is_handler(factory):
        raise StartError(f"{text} is a handler class already; leave --factory out")
    try:
        return factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _user_error(error, f"calling {text}") from error


def _check_handler(found: Any, text: str, factory: bool) -> type[Any]:
    if _is_handler(found):
        handler: type[Any] = found
        return handler
    what = f"what {text} returned" if factory else text
    if isinstance(found, type):
        fix = "give it a method handle(), or derive it from jackfield.socketserver.BaseRequestHandler"
    elif callable(found) and not factory:
        fix = "if it makes the handler class, add --factory"
    else:
        fix = "a handler class is a class with a method handle()"
    raise StartError(f"{what} is {_describe(found)}, not a handler class; {fix}")


def _is_handler(value: Any) -> bool:
    # By what it can do: one derived from the standard library's BaseRequestHandler is as good as one of ours.
    return isinstance(value, type) and callable(getattr(value, "handle", None))


def is_coroutine_handler(handler: type[Any]) -> bool:
    """Whether its ``handle`` is written with ``async def``."""
    return inspect.iscoroutinefunction(getattr(handler, "handle", None))


def _describe(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, ModuleType):
        return "a module"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _user_error(error: BaseException, doing: str) -> TargetError:
    last = traceback.format_exception_only(error)[-1].strip()
    shown = traceback.format_exception(type(error), error, _from_user(error.__traceback__))
    return TargetError(f"{doing} failed: {last}", "".join(shown))


def _from_user(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without its first frames, which are ours and the import system's."""
    rest = trace
    while rest is not None:
        filename = rest.tb_frame.f_code.co_filename
        if filename not in (__file__, importlib.__file__) and not filename.startswith("<frozen importlib"):
            return rest
        rest = rest.tb_next
    # A syntax error has no frame of its own; its message shows the line.
    return None
