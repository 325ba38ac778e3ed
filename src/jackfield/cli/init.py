"""``jackfield init KIND``: write a file for something that stands around a server, from the flags of that server.

Each kind is a function of the options that returns the text.  The flags that say what the server is are those of
``serve``, defined there: its command line can be written behind ``init KIND``.
"""

from __future__ import annotations

import argparse
import sys

from jackfield.cli import exits, limits, serve
from jackfield.cli.arguments import Parser, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield init nftables -b :9999 --accept-rate-per-ip 10/s        limits in the kernel, on stdout
  jackfield init nftables -b :9999 --deny-file bad.txt -o echo.nft  into a file, for nft -f echo.nft
"""

ANSWERS = {
    **{flag: serve.ANSWERS[flag] for flag in ("--port", "-p", "--host", "-H")},
    "-k": "what is written is the same in every mode",
    "--mode": "what is written is the same in every mode",
    "--max-threads": "use --max-connections N",
    "--max-children": "use --max-connections N",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``init``."""
    parser.add_argument("kind", metavar="KIND", choices=tuple(_KINDS), help="nftables: rules for the packet filter")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: stdout); one that exists is kept")
    parser.add_argument("--force", action="store_true", help="write over FILE")
    parser.add_argument("--name", metavar="NAME", help="of the server; its table is jackfield_NAME (default jackfield)")
    where = parser.add_argument_group("where")
    for action in _flags_of_serve("--bind"):
        where._add_action(action)
    limits.configure(parser)


def _flags_of_serve(*wanted: str) -> list[argparse.Action]:
    """Flags as ``serve`` defines them; what argparse does for ``parents=``, which takes all or nothing."""
    shared = Parser(add_help=False)
    serve.configure(shared)
    return [action for action in shared._actions if set(wanted) & set(action.option_strings)]


def run(options: argparse.Namespace) -> int:
    """Write it; the exit code: 0 it is written, 2 the call was wrong."""
    if options.force and options.output is None:
        raise UsageError("--force goes with -o FILE")
    text = _KINDS[options.kind](options)
    if options.output is None:
        sys.stdout.write(text)
        sys.stdout.flush()  # here an error is still told as one line
    else:
        _write(options.output, text, options.force)
    return exits.OK


def _write(path: str, text: str, force: bool) -> None:
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"-o {path}: it exists; choose another name, or write over it with --force") from None
    except OSError as error:
        raise UsageError(f"-o {path}: cannot write it: {error.strerror}") from None


def _nftables(options: argparse.Namespace) -> str:
    from jackfield.address import parse_address
    from jackfield.cli.nftables import rule_set

    proxy = limits.proxy_of(options)
    if proxy is not None and not proxy.required:
        raise UsageError("clients and proxies are told apart by what they send, which rules in the kernel do not see: "
                         "leave out --proxy-protocol optional, or write --proxy-protocol")  # fmt: skip
    return rule_set(
        options.bind or [parse_address(serve.DEFAULT_ADDRESS)],
        limits.limits_of(options),
        name=options.name or "",
        proxies=None if proxy is None else proxy.allow_from,
        # The default of 10,000 is there to spare descriptors, of which a half-open connection has none.
        count_all=isinstance(options.max_connections, int),
    )


_KINDS: dict[str, Callable[[argparse.Namespace], str]] = {"nftables": _nftables}
