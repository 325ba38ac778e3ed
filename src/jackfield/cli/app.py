"""The program: its tree of arguments, and the one place that turns what went wrong into a line and an exit code.

``jackfield --help`` and ``--version`` answer in about the time that argparse takes to import: a subcommand's module is
imported when its name is on the command line, and what it serves with only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

from jackfield.cli import exits
from jackfield.cli.arguments import Parser, UsageError, add_globals
from jackfield.cli.text import AUTO, complain
from jackfield.errors import AddressError, JackfieldError, StartError

# By itself, not from typing: that module takes longer to import than argparse does, and type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    class Command(Protocol):
        """What the module of a subcommand offers."""

        EXAMPLES: str
        ANSWERS: dict[str, str]

        def configure(self, parser: argparse.ArgumentParser) -> None:
            """Add the arguments of the subcommand."""

        def run(self, options: argparse.Namespace) -> int:
            """Do it; the exit code."""


__all__ = ["build_parser", "main"]

COMMANDS = {
    "serve": "serve a handler class, or the upper-case echo",
    "connect": "talk to a server: a client on a terminal, a byte pipe elsewhere",
    "ctl": "ask a running server how it is, and tell it what to do",
    "bench": "put load on a server, check every reply and measure how long each took",
    "check": "look at a configuration as serve would, without serving",
    "init": "write a file for what stands around a server, such as a packet filter",
}
"""Each subcommand and its line in the help; it lives in the module of its name beside this one."""

EXAMPLES = """\
examples:
  jackfield serve                         the upper-case echo on tcp://127.0.0.1:9999
  jackfield serve chat:Handler -b :9999   class Handler of chat.py, on every interface
  jackfield connect :9999                 talk to it
"""


def load(name: str) -> Command:
    """The module of a subcommand."""
    module: Any = importlib.import_module(f"jackfield.cli.{name}")
    command: Command = module
    return command


def build_parser(words: Sequence[str] = tuple(COMMANDS)) -> tuple[Parser, dict[str, Parser]]:
    """The program's parser and that of each subcommand, which has its arguments only if its name is among `words`."""
    parser = Parser(
        prog="jackfield",
        description="Socket servers in the way of socketserver, in every execution mode.",
        epilog=EXAMPLES,
    )
    parser.add_argument("-V", "--version", action="store_true", help="print the version and stop")
    parser.add_argument("--json", action="store_true", help="with --version: what it runs on, as JSON")
    add_globals(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    named: dict[str, Parser] = {}
    for name, summary in COMMANDS.items():
        if name not in words:
            commands.add_parser(name, help=summary)
            continue
        module = load(name)
        named[name] = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=module.EXAMPLES
        )
        named[name].answers = module.ANSWERS
        module.configure(named[name])
        add_globals(named[name])
    return parser, named


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, that of the process by default; the exit code (:mod:`jackfield.cli.exits`)."""
    started = time.perf_counter()
    arguments = sys.argv[1:] if argv is None else list(argv)
    program, options = "jackfield", argparse.Namespace(verbose=0, color=AUTO)
    try:
        parser, named = build_parser(arguments)
        program = next((f"jackfield {word}" for word in arguments if word in named), program)
        parsed, extras = parser.parse_known_args(arguments)
        parsed.spoken = frozenset(vars(parsed))
        parsed.verbose = getattr(parsed, "verbose", 0)
        parsed.quiet = getattr(parsed, "quiet", False)
        parsed.color = getattr(parsed, "color", AUTO)
        parsed.started = started
        options = parsed
        command: str | None = options.command
        if extras:
            named.get(command or "", parser).reject(extras)
        if options.version:
            return _print_version(options.json)
        if options.json and (command is None or "--json" not in named[command].flags()):
            raise UsageError("--json goes with --version")
        if command is None:
            parser.print_help(sys.stderr)
            return exits.USAGE
        return load(command).run(options)
    except (UsageError, AddressError) as error:
        return _fail(program, error, exits.USAGE, options)
    except StartError as error:
        return _fail(program, error, exits.NOT_STARTED, options)
    except (JackfieldError, OSError) as error:
        return _fail(program, error, exits.FAILED, options)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:
        return _fail(program, error, exits.FAILED, options, known=False)


def _fail(program: str, error: Exception, code: int, options: argparse.Namespace, known: bool = True) -> int:
    """One line on stderr, with ``-v`` after the traceback; the exit code given."""
    if options.verbose:
        import traceback

        traceback.print_exception(error)
    if known:
        complain(program, str(error), options.color)
    else:
        hint = "" if options.verbose else " (-v shows where)"
        complain(program, f"failed: {type(error).__name__}: {error}{hint}", options.color)
    return code


def _twin() -> str:
    """Which twin of the inner loop serves here: what ``jackfield.reactor.twin`` says, without importing it."""
    from importlib.machinery import PathFinder

    if os.environ.get("JACKFIELD_PURE", "") not in ("", "0"):
        return "pure"
    reactor = os.path.join(os.path.dirname(os.path.dirname(__file__)), "reactor")
    return "native" if PathFinder.find_spec("_native", [reactor]) else "pure"


def _print_version(as_json: bool) -> int:
    from jackfield import __version__

    if not as_json:
        print(f"jackfield {__version__} ({_twin()}, Python {sys.version.split()[0]})")
        return exits.OK

    import json
    import platform
    import ssl
    from importlib import metadata

    from jackfield.reactor.twin import native

    def installed(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    facts = {
        "jackfield": __version__,
        "reactor": "native" if native else "pure",
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "greenlet": installed("greenlet"),
        "uvloop": installed("uvloop"),
        "openssl": ssl.OPENSSL_VERSION,
        "platform": platform.platform(),
    }
    print(json.dumps(facts))
    return exits.OK
