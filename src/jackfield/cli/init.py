"""``jackfield init KIND``: write a file for something that stands around a server, from the flags of that server.

Each kind is a function of the options that returns texts, by the names of their files.  The flags that say what the
server is are those of ``serve``, defined there: its command line can be written behind ``init nftables``, and behind
``init systemd --`` with the target.
"""

from __future__ import annotations

import argparse
import os
import sys

from jackfield.cli import exits, limits, serve
from jackfield.cli.arguments import DEFAULT_ADDRESS, Parser, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield init nftables -b :9999 --accept-rate-per-ip 10/s        limits in the kernel, on stdout
  jackfield init nftables -b :9999 --deny-file bad.txt -o echo.nft  into a file, for nft -f echo.nft
  jackfield init systemd --name echo -o . -- -k green -b :9999      echo.service and echo.socket
"""

ANSWERS = {
    **{flag: serve.ANSWERS[flag] for flag in ("--port", "-p", "--host", "-H")},
    "-k": "what is written is the same in every mode",
    "--mode": "what is written is the same in every mode",
    "--max-threads": "use --max-connections N",
    "--max-children": "use --max-connections N",
}


def configure(parser: Parser) -> None:
    """Add the arguments of ``init``."""
    parser.add_argument("kind", metavar="KIND", choices=tuple(_KINDS),
                        help="nftables: rules for the packet filter; systemd: a .service and a .socket file for the"
                        " command line of serve behind --")  # fmt: skip
    parser.behind = "words"
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help="where to, with systemd a folder (default: stdout); a file that exists is kept",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over FILE")
    parser.add_argument(
        "--name", metavar="NAME",
        help="of the server; its table is jackfield_NAME (default jackfield), its units NAME (default TARGET's module)",
    )  # fmt: skip
    units = parser.add_argument_group("systemd")
    units.add_argument("--user", metavar="NAME", help="whose rights the service has (default: a user made for it)")
    units.add_argument("--no-socket", action="store_true", help="no .socket file: the server binds by itself")
    _add_flags_of_serve(parser)


def _add_flags_of_serve(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    for action in _flags_of_serve("--bind"):
        where._add_action(action)
    limits.configure(parser)


def _flags_of_serve(*wanted: str) -> list[argparse.Action]:
    """Flags as ``serve`` defines them; what argparse does for ``parents=``, which takes all or nothing."""
    shared = Parser(add_help=False)
    serve.add_flags(shared)
    return [action for action in shared._actions if set(wanted) & set(action.option_strings)]


def run(options: argparse.Namespace) -> int:
    """Write it; the exit code: 0 it is written, 2 the call was wrong."""
    if options.force and options.output is None:
        raise UsageError("--force goes with -o FILE")
    texts = _KINDS[options.kind](options)
    if options.output is None:
        sys.stdout.write("\n".join(texts.values()))
        sys.stdout.flush()  # here an error is still told as one line
    else:
        folder = options.output
        _write_all({os.path.join(folder, name) if name else folder: texts[name] for name in texts}, options.force)
    return exits.OK


def _write_all(texts: Mapping[str, str], force: bool) -> None:
    """All of them or, where one exists already or cannot be written, none."""
    written: list[str] = []
    try:
        for path, text in texts.items():
            existed = os.path.lexists(path)
            _write(path, text, force)
            if not existed:
                written.append(path)
    except UsageError:
        for path in written:
            os.unlink(path)
        raise


def _write(path: str, text: str, force: bool) -> None:
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"-o {path}: it exists; choose another name, or write over it with --force") from None
    except OSError as error:
        raise UsageError(f"-o {path}: cannot write it: {error.strerror}") from None


def _nftables(options: argparse.Namespace) -> dict[str, str]:
    from jackfield.address import parse_address
    from jackfield.cli.nftables import rule_set

    for flag, given in (("--user", options.user is not None), ("--no-socket", options.no_socket),
                        ("--", bool(options.words))):  # fmt: skip
        if given:
            raise UsageError(f"{flag} goes with systemd")
    proxy = limits.proxy_of(options)
    if proxy is not None and not proxy.required:
        raise UsageError("clients and proxies are told apart by what they send, which rules in the kernel do not see: "
                         "leave out --proxy-protocol optional, or write --proxy-protocol")  # fmt: skip
    text = rule_set(
        options.bind or [parse_address(DEFAULT_ADDRESS)],
        limits.limits_of(options),
        name=options.name or "",
        proxies=None if proxy is None else proxy.allow_from,
        # The default of 10,000 is there to spare descriptors, of which a half-open connection has none.
        count_all=isinstance(options.max_connections, int),
    )
    return {"": text}


def _systemd(options: argparse.Namespace) -> dict[str, str]:
    from jackfield.cli.systemd import units_of

    shared = Parser(add_help=False)
    _add_flags_of_serve(shared)
    for action in shared._actions:
        if getattr(options, action.dest) != action.default:
            flag = action.option_strings[-1]
            raise UsageError(f"{flag} is the server's: write it behind --, jackfield init systemd -- {flag} …")
    return units_of(options.words, name=options.name or "", user=options.user or "", sockets=not options.no_socket)


#: Each kind, and the texts that it is, by the names of their files; "" is the name that ``-o`` says.
_KINDS: dict[str, Callable[[argparse.Namespace], dict[str, str]]] = {"nftables": _nftables, "systemd": _systemd}
