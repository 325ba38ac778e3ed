"""``jackfield check [TARGET]``: look at everything that ``serve`` would look at, with the same flags, and do not serve.

Where ``serve`` ends with the first thing that is wrong, all of them are told here, a line each (``haproxy -c``, ``caddy
validate``).
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

from jackfield.cli import exits, privileges, serve
from jackfield.cli.arguments import UsageError, leave_defaults_out
from jackfield.cli.text import complain, count_of
from jackfield.errors import JackfieldError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jackfield.cli.configuration import Configured

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield check                       what ./jackfield.toml says
  jackfield check chat:Handler -b :80   the same flags as serve
  jackfield check --print               each value, and where it came from
"""

ANSWERS = serve.ANSWERS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    serve.add_flags(parser)
    group = parser.add_argument_group("check")
    group.add_argument("--no-bind", action="store_true", help="leave the addresses alone: a server may be using them")
    group.add_argument("--print", action="store_true", help="print each value, and where it came from, as TOML")
    group.add_argument("--json", action="store_true", help="with --print: as JSON")
    leave_defaults_out(parser)


def run(options: argparse.Namespace) -> int:
    """Check; the exit code: 0 all is well, 2 something is not."""
    from jackfield.cli.configuration import resolve

    no_bind, shows, as_json = (getattr(options, name, False) for name in ("no_bind", "print", "json"))
    if as_json and not shows:
        raise UsageError("--json goes with --print")
    problems: list[str] = []
    configured = resolve(options, problems.append)
    checks = _Checks(configured, problems)
    checks.process()
    for number in range(len(configured.servers)):
        checks.server(number, not no_bind)
    for problem in dict.fromkeys(problems):
        complain("jackfield check", problem, options.color)
    if problems:
        return exits.USAGE
    if shows:
        from jackfield.cli.configuration.printing import as_json as to_json
        from jackfield.cli.configuration.printing import as_toml

        print((to_json if as_json else as_toml)(checks.configured))
    elif not options.quiet:
        where = configured.document.path if configured.document is not None else "no file"
        print(f"jackfield check: all is well: {count_of(len(configured.servers), 'server')}, {where}")
    sys.stdout.flush()  # here an error is still told as one line
    return exits.OK


class _Checks:
    """What there is to look at; each problem is noted, and the rest looked at all the same.

    :param configured: what was resolved; afterwards with what the classes say.
    :param problems: where a line for each problem goes.
    """

    def __init__(self, configured: Configured, problems: list[str]) -> None:
        self.configured = configured
        self._problems = problems

    def _look(self, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except (JackfieldError, OSError, ValueError) as error:
            self._problems.append(str(error))
            return None

    def process(self) -> None:
        """What is about the whole process: whose rights, and where the log goes."""
        from jackfield.cli.configuration import naming_origins

        options = self.configured.process

        def rights() -> None:
            with naming_origins(options):
                plan = privileges.Plan(options)
            for server in self.configured.servers:
                with naming_origins(server):
                    plan.refuse_root(server.bind or ())

        # Its umask is that of a server that is to come, not of what is left to do here.
        umask = os.umask(0o077)
        os.umask(umask)
        try:
            self._look(rights)
        finally:
            os.umask(umask)
        for name, file in (("log_file", options.log_file), ("pid", options.pid)):
            if file is not None and (why := _cannot_write(file)):
                self._problems.append(f"{options.origins[name]}: cannot write to {file}: {why}")

    def server(self, number: int, binds: bool) -> None:
        """One server: the parts that its flags mean, its addresses, its target, and all of it together."""
        from jackfield.cli.building import PARTS, check_targets, room_problem

        options = self.configured.servers[number]
        parts = {name: self._look(partial(meant, options)) for name, meant in PARTS.items()}
        self._look(partial(check_targets, [options]))
        if (problem := room_problem(options)) is not None:
            self._problems.append(problem)
        self._look(partial(self._make, number, parts))
        self._addresses(options, parts, binds)

    def _make(self, number: int, parts: dict[str, Any]) -> None:
        """Load the target, and make a server that has nothing open."""
        from jackfield.cli.building import Bound, make_server
        from jackfield.cli.target import TargetError

        try:
            _, self.configured.servers[number] = make_server(Bound(self.configured.servers[number], [], parts))
        except TargetError as error:
            sys.stderr.write(error.trace)
            raise

    def _addresses(self, options: argparse.Namespace, parts: dict[str, Any], binds: bool) -> None:
        """Each address by itself; what could be had is closed again at the end, as two of them may be one."""
        import contextlib
        import socket as _socket_std

        from jackfield.cli.building import Bound, addresses_of, bind, read_certificates_of
        from jackfield.door import Listener

        with contextlib.ExitStack() as stack:
            for address in addresses_of(options):
                # One that is bound to nothing stands for the address where only its certificate is to be read.
                unbound = Listener(stack.enter_context(_socket_std.socket()), address, str(address), False)
                self._look(partial(read_certificates_of, Bound(options, [unbound], parts)))
                if binds:
                    self._look(partial(bind, options, [address], stack))


def _cannot_write(path: str) -> str | None:
    """Why a file could not be written, without making it; None if it could."""
    if os.path.isdir(path):
        return "it is a directory"
    place = path if os.path.exists(path) else os.path.dirname(path) or "."
    if not os.path.exists(place):
        return f"there is no {place}"
    return None if os.access(place, os.W_OK) else "permission denied"
