"""``jackfield serve [TARGET]``: serve a handler class, or the upper-case echo, until told to stop."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

from jackfield.cli import exits, limits
from jackfield.cli.arguments import UsageError, address, count, duration
from jackfield.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jackfield.door import Listener
    from jackfield.server import Server

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

DEFAULT_ADDRESS = "tcp://127.0.0.1:9999"
MODES = ("auto", "serial", "thread", "process", "green", "async")
LOOPS = ("auto", "asyncio", "uvloop")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")

EXAMPLES = """\
examples:
  jackfield serve                                    the upper-case echo, on green threads
  jackfield serve -k thread -b :9999 -b udp://:9999  the same on threads, TCP and UDP, every interface
  jackfield serve -b 'tls://:8443?cert=a.pem'        the same with TLS, key and certificate in a.pem
  jackfield serve chat:Handler -b unix:chat.sock     class Handler of ./chat.py
"""

ANSWERS = {
    "--port": "use --bind :PORT",
    "-p": "use --bind :PORT",
    "--host": "use --bind HOST:PORT",
    "-H": "use --bind HOST:PORT",
    "--uds": "use --bind unix:PATH",
    "--fd": "use --bind fd://N",
    "--threads": "use --max-threads N",
    "--worker-class": "use --mode",
    "--pythonpath": "use --app-dir",
    "--daemon": "a service manager such as systemd does that better",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve``."""
    parser.add_argument(
        "target", metavar="TARGET", nargs="?", help="module:Class of the handler; without one, the upper-case echo"
    )
    parser.add_argument("--factory", action="store_true", help="TARGET is a function that returns the handler class")
    parser.add_argument("--app-dir", metavar="DIR", default=".", help="where TARGET's module is (default: here)")
    parser.add_argument("--name", metavar="NAME", help="what the server is called in logs")

    where = parser.add_argument_group("where")
    where.add_argument(
        "-b",
        "--bind",
        metavar="ADDR",
        action="append",
        type=address,
        help="9999 (this machine), :9999 (every interface), tcp:// tls:// udp:// (4, 6) unix: unixgram: unixpacket: fd://N;"
        f" options follow as ?name=value; may be repeated (default {DEFAULT_ADDRESS})",
    )
    where.add_argument(
        "--backlog", metavar="N", type=count(1), help="connections that may wait to be accepted (default 65535)"
    )
    where.add_argument("--reuse-port", action="store_true", help="let other processes listen on the same port")

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
    how.add_argument(
        "--graceful-timeout",
        metavar="TIME",
        type=duration,
        default=30.0,
        help="how long connections may take to finish when the server stops (default 30s)",
    )

    limits.configure(parser)

    logs = parser.add_argument_group("logs")
    logs.add_argument(
        "--log-level", choices=LOG_LEVELS, metavar="LEVEL", help="debug, info (default), warning, error, critical"
    )
    logs.add_argument("--log-format", choices=LOG_FORMATS, default="text", metavar="FORMAT", help="text or json")
    logs.add_argument("--log-file", metavar="FILE", help="instead of stderr; may be rotated away")


def run(options: argparse.Namespace) -> int:
    """Serve; the exit code: 0 asked to stop and stopped, 2 the call was wrong, 3 it could not start, 130 cut short."""
    # Imported late: `serve --help` needs none of it.
    import logging

    from jackfield.cli.logs import set_up_logging
    from jackfield.cli.stopping import StuckError
    from jackfield.cli.target import check_target

    if options.target is not None:
        check_target(options.target)
    elif options.factory:
        raise UsageError("--factory goes with a TARGET")
    level = options.log_level or ("debug" if options.verbose else "warning" if options.quiet else "info")
    set_up_logging(level, options.log_format, options.log_file, options.color)
    try:
        return _run(options)
    except StuckError as error:
        logging.getLogger("jackfield.serve").error("%s", error)
        logging.shutdown()
        # Python would wait at its end for threads that hold on, such as those of concurrent.futures.
        os._exit(error.code)


def _run(options: argparse.Namespace) -> int:
    from jackfield.cli.logs import quiet_below_warning
    from jackfield.cli.stopping import AskedToStop, StopSignals
    from jackfield.cli.target import TargetError

    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        try:
            server = _prepare(options, stack)
            signals.hold()
        except AskedToStop:
            return exits.OK
        except TargetError as error:
            sys.stderr.write(error.trace)
            raise
        with quiet_below_warning("jackfield.server"):  # what it would say now, the announcement says better
            server.start()
        _announce(options, server)
        return signals.serve_until_stopped(server, options.graceful_timeout)


def _prepare(options: argparse.Namespace, stack: contextlib.ExitStack) -> Server:
    """Bind, then load the target: a port in use is told before a slow application has started."""
    from jackfield.address import parse_address
    from jackfield.door import open_listeners
    from jackfield.server import Server

    who, proxy, tls = limits.limits_of(options), limits.proxy_of(options), limits.tls_of(options)
    binding: dict[str, Any] = {"reuse_port": options.reuse_port}
    if options.backlog is not None:
        binding["backlog"] = options.backlog
    listeners: list[Listener] = []
    for wanted in options.bind or [parse_address(DEFAULT_ADDRESS)]:
        for listener in open_listeners(wanted, **binding):
            stack.callback(listener.close)
            listeners.append(listener)
    handler, mode = _choose(options)
    bounds = {"max_threads": options.max_threads, "max_children": options.max_children}
    server = Server(
        handler,
        *listeners,
        mode=mode,
        graceful_timeout=options.graceful_timeout,
        loop_factory=_loop_factory(options.loop),
        name=options.name,
        limits=who,
        tls=tls,
        proxy_protocol=proxy or False,
        **{name: value for name, value in bounds.items() if value is not None},
    )
    _refuse_idle_flags(options, server.mode)
    return server


def _choose(options: argparse.Namespace) -> tuple[type[Any], str]:
    """The handler class and the mode."""
    mode: str = options.mode
    if options.target is None:
        from jackfield.cli.upper import AsyncUpper, Upper

        mode = "green" if mode == "auto" else mode
        return (AsyncUpper if mode == "async" else Upper), mode
    from jackfield.cli.target import is_coroutine_handler, load_target

    handler = load_target(options.target, options.app_dir, options.factory)
    if mode != "auto" and is_coroutine_handler(handler) != (mode == "async"):
        written, fix = ("async def", "-k async") if mode != "async" else ("def", "-k green")
        raise UsageError(f"-k {mode} cannot run {options.target}, whose handle is written with `{written}`: use {fix}")
    return handler, mode


def _loop_factory(loop: str) -> Callable[[], Any] | None:
    if loop != "uvloop":
        return None
    try:
        import uvloop
    except ImportError as error:
        raise StartError("--loop uvloop needs the extra: pip install 'jackfield[uvloop]'") from error
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


def _refuse_idle_flags(options: argparse.Namespace, mode: str) -> None:
    """A limit that would not hold is worse than none: whoever wrote it relies on it."""
    for flag, given, modes in (
        ("--max-threads", options.max_threads is not None, ("thread",)),
        ("--max-children", options.max_children is not None, ("process",)),
        ("--loop", options.loop != "auto", ("green", "async")),
    ):
        if given and mode not in modes:
            raise UsageError(f"{flag} goes with -k {' and -k '.join(modes)}, and this is -k {mode}")


def _announce(options: argparse.Namespace, server: Server) -> None:
    import logging

    from jackfield.cli.banner import Facts, is_open_to_all
    from jackfield.cli.text import count_of, wants_color

    log = logging.getLogger("jackfield.serve")
    info = server.info()
    locations = server.addresses
    unit = {"serial": "connection", "thread": "thread", "process": "process"}.get(info.mode, "connection")
    most = 1 if info.mode == "serial" else info.limit
    bounds = [f"{count_of(most, unit)} at once", f"graceful {options.graceful_timeout:g}s"]
    encrypted = limits.encrypted_of(options, locations)
    facts = Facts(
        options.target or "upper-case echo",
        info.mode,
        locations,
        bounds,
        time.perf_counter() - options.started,
        options.name,
        encrypted,
    )
    for location in filter(is_open_to_all, locations):
        plain = "" if location in encrypted else ", and nothing is encrypted"
        log.warning(
            "%s is open to every machine that can reach this one%s; --bind 127.0.0.1:PORT keeps it here",
            location,
            plain,
        )
    if options.log_format == "json" or options.log_file:
        log.info("ready", extra={"fields": facts.fields()})
    if options.log_format == "text" and not options.quiet:
        print(facts.banner(wants_color(sys.stderr, options.color)), file=sys.stderr, flush=True)
