"""argparse as the command uses it: an error is one line, and a wrong word is answered with the nearest right one."""

from __future__ import annotations

import argparse
import os

from jackfield.cli.text import ALWAYS, AUTO, NEVER
from jackfield.errors import JackfieldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, NoReturn

__all__ = ["DEFAULT_ADDRESS", "Parser", "Switch", "UsageError", "add_globals", "address", "count", "duration",
           "leave_defaults_out", "nearest", "size", "typed"]  # fmt: skip

DEFAULT_ADDRESS = "tcp://127.0.0.1:9999"
"""Where a server listens that was not told where: this machine alone can reach it."""


class UsageError(JackfieldError):
    """The command line cannot be meant as written; the message, one line, says what to write instead."""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known word that `word` was probably meant to be, or None; `likeness` is from 0, anything, to 1, the same."""
    import difflib  # only a mistake pays for it

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)), None)


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` where argparse prints its usage and exits.

    :param answers: for a flag that does not exist but that users of other servers will type: what to use instead.
    :ivar behind: the name of an attribute that takes the words behind ``--``, as they are; None where they are read as
        arguments.
    """

    behind: str | None = None

    def __init__(self, *args: Any, answers: Mapping[str, str] | None = None, **options: Any) -> None:
        # Abbreviated flags would change their meaning with each flag that a later release adds.
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", _formatter)
        super().__init__(*args, **options)
        self.answers: Mapping[str, str] = answers or {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """argparse's, which would take words behind ``--`` for arguments without a dash, and those before them, too."""
        words = None if args is None else list(args)
        if self.behind is None or words is None:
            return super().parse_known_args(words, namespace)
        at = words.index("--") if "--" in words else len(words)
        options, extras = super().parse_known_args(words[:at], namespace)
        setattr(options, self.behind, words[at + 1 :])
        return options, extras

    def flags(self) -> list[str]:
        """Every flag this parser knows, short and long."""
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def reject(self, extras: list[str]) -> NoReturn:
        """Raise the error for arguments that nobody took; `extras` is what ``parse_known_args`` left over."""
        flag = next((extra for extra in extras if extra.startswith("-")), None)
        if flag is None:
            raise UsageError(f"one argument too many: {extras[0]!r}")
        flag = flag.partition("=")[0]
        if answer := self.answers.get(flag):
            raise UsageError(f"there is no {flag}: {answer}")
        if near := nearest(flag, self.flags()):
            raise UsageError(f"unknown flag {flag}; did you mean {near}?")
        raise UsageError(f"unknown flag {flag}; '{self.prog} --help' lists them all")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse lists the choices; it never names the nearest (3.11-3.13).
        if action.choices is not None and value not in action.choices:
            near = nearest(str(value), action.choices)
            guess = f"did you mean {near}? " if near else ""
            listed = ", ".join(map(str, action.choices))
            if action.dest == "command":
                raise UsageError(f"no command {value!r}; {guess}There is: {listed}")
            raise argparse.ArgumentError(action, f"no {value!r}; {guess}There is: {listed}")


class Switch(argparse.Action):
    """``--x`` and ``--no-x``; not said, it is None.

    argparse's BooleanOptionalAction takes every flag that begins with ``--no-`` for the negative one, also
    ``--no-new-privs`` itself (3.11 to 3.13; 3.14 refuses such a name).
    """

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        negative = [f"--no-{flag[2:]}" for flag in option_strings if flag.startswith("--")]
        super().__init__([*option_strings, *negative], dest, nargs=0, **options)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        setattr(namespace, self.dest, f"--no-{(flag or '')[2:]}" in self.option_strings)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # Left to find the width by itself, argparse imports shutil for it, and that all the compression modules.
    try:
        columns = int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        try:
            columns = os.get_terminal_size(1).columns or 80
        except OSError:
            columns = 80
    return argparse.RawDescriptionHelpFormatter(prog, width=max(columns - 2, 20))


def add_globals(parser: argparse.ArgumentParser) -> None:
    """The flags that may stand before or after the name of the subcommand."""
    group = parser.add_argument_group("everywhere")
    # SUPPRESS: a subcommand's defaults would overwrite what was given before its name.
    quiet = argparse.SUPPRESS
    group.add_argument("-v", "--verbose", action="count", default=quiet, help="say more; a failure shows its traceback")
    group.add_argument("-q", "--quiet", action="store_true", default=quiet, help="say only what is wrong")
    group.add_argument(
        "--color", choices=(AUTO, ALWAYS, NEVER), default=quiet, metavar="WHEN", help="auto (default), always, never"
    )


def leave_defaults_out(parser: argparse.ArgumentParser) -> None:
    """From now on only what is on the command line comes into a namespace: a default would look as if it had been said
    there, and go before what files and the environment say."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS


def typed(parse: Callable[[str], Any], text: str) -> Any:
    """Call a parser of the library; its ValueError says what to write, and argparse would drop that text."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration(text: str) -> float:
    """A flag's duration, ``500ms 5s 2m 1h`` or seconds, as seconds."""
    from jackfield.config import parse_duration

    seconds: float = typed(parse_duration, text)
    return seconds


def size(text: str) -> int:
    """A flag's size, ``64k 1M`` or bytes, as bytes."""
    from jackfield.config import parse_size

    size: int = typed(parse_size, text)
    return size


def address(text: str) -> Any:
    """A flag's address, as :class:`jackfield.address.Address`."""
    from jackfield.address import parse_address

    return typed(parse_address, text)


def count(least: int, most: int | None = None) -> Callable[[str], int]:
    """A flag's whole number of at least `least`, and at most `most`."""
    span = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) < 20
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {span}")
        return int(text)

    return parse
