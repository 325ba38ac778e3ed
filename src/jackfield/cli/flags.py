"""The flags of ``serve``: all that a server, and the process that it is in, can be told."""

from __future__ import annotations

import argparse

from jackfield.cli import limits, overview, privileges, readiness, workers
from jackfield.cli.arguments import DEFAULT_ADDRESS, Switch, address, count, duration

__all__ = ["add_flags"]

MODES = ("auto", "serial", "thread", "process", "green", "async")
LOOPS = ("auto", "asyncio", "uvloop")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``, each with its built-in default."""
    parser.add_argument(
        "target", metavar="TARGET", nargs="?",
        help="module:Class of the handler; without one, what the configuration says, or else the upper-case echo",
    )  # fmt: skip
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="TOML (default ./jackfield.toml, or [tool.jackfield] in ./pyproject.toml)",
    )
    parser.add_argument(
        "--factory",
        action=Switch,
        help="TARGET is a function that returns the handler class",
    )
    parser.add_argument("--app-dir", metavar="DIR", default=".", help="where TARGET's module is (default: here)")
    parser.add_argument("--name", metavar="NAME", help="what the server is called in logs")

    where = parser.add_argument_group("where")
    where.add_argument(
        "-b",
        "--bind",
        metavar="ADDR",
        action="append",
        type=address,
        help="9999 (this machine), :9999 (every interface), tcp:// tls:// udp:// (4, 6) unix: unixgram: unixpacket: fd://N"
        " systemd:; options follow as ?name=value; may be repeated (default: the sockets that a service manager passed,"
        f" else {DEFAULT_ADDRESS})",
    )
    where.add_argument(
        "--backlog", metavar="N", type=count(1), help="connections that may wait to be accepted (default 65535)"
    )
    where.add_argument(
        "--reuse-port",
        action=Switch,
        help="let other processes listen on the same port; with -w each worker has a socket of its own",
    )

    how = parser.add_argument_group("how")
    how.add_argument(
        "-k",
        "--mode",
        choices=MODES,
        default="auto",
        metavar="MODE",
        help="serial, thread, process, green or async; auto (default): async where handle is a coroutine function, "
        "else thread; the upper-case echo: green",
    )
    how.add_argument("--max-threads", metavar="N", type=count(1), help="with -k thread (default 256)")
    how.add_argument("--max-children", metavar="N", type=count(1), help="with -k process (default 40)")
    how.add_argument(
        "--loop",
        choices=LOOPS,
        default="auto",
        metavar="LOOP",
        help="with -k green and async: asyncio or uvloop; auto (default) is asyncio, which Jackfield leaves idle",
    )
    parser.add_argument(
        "--graceful-timeout",
        metavar="TIME",
        type=duration,
        default=30.0,
        help="how long connections may take to finish when the server stops (default 30s)",
    )

    limits.configure(parser)
    workers.configure(parser)
    workers.configure_reload(parser)
    privileges.configure(parser)
    readiness.configure(parser)
    overview.configure(parser)

    logs = parser.add_argument_group("logs")
    logs.add_argument(
        "--log-level", choices=LOG_LEVELS, metavar="LEVEL", help="debug, info (default), warning, error, critical"
    )
    logs.add_argument("--log-format", choices=LOG_FORMATS, default="text", metavar="FORMAT", help="text or json")
    logs.add_argument("--log-file", metavar="FILE", help="instead of stderr; may be rotated away")
