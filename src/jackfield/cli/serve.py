"""``jackfield serve [TARGET]``: serve a handler class, or the upper-case echo, until told to stop."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from functools import partial

from jackfield.cli import exits, limits, privileges, readiness
from jackfield.cli.arguments import leave_defaults_out
from jackfield.cli.flags import add_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from jackfield.cli.banner import Facts
    from jackfield.cli.building import Bound
    from jackfield.cli.configuration import Configured

__all__ = ["ANSWERS", "EXAMPLES", "add_flags", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield serve                                    the upper-case echo, on green threads
  jackfield serve -k thread -b :9999 -b udp://:9999  the same on threads, TCP and UDP, every interface
  jackfield serve -b 'tls://:8443?cert=a.pem'        the same with TLS, key and certificate in a.pem
  jackfield serve chat:Handler -b unix:chat.sock     class Handler of ./chat.py
  jackfield serve -c chat.toml                       what chat.toml says, be it one server or several
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
    """Add the arguments of ``serve``, which leave out what is not on the command line: files and the environment may
    say it (:mod:`jackfield.cli.configuration`)."""
    add_flags(parser)
    leave_defaults_out(parser)


def run(options: argparse.Namespace) -> int:
    """Serve; the exit code: 0 asked to stop and stopped, 2 the call was wrong, 3 it could not start, 130 cut short."""
    # Imported late: `serve --help` needs none of it.
    import logging

    from jackfield.cli.building import check_targets
    from jackfield.cli.configuration import level_of, naming_origins, resolve
    from jackfield.cli.logs import set_up_logging
    from jackfield.cli.stopping import StuckError

    configured = resolve(options)
    process = configured.process
    options.verbose, options.color = process.verbose, process.color  # for what is said of a failure
    check_targets(configured.servers)
    with naming_origins(process):
        plan = privileges.Plan(process)
    for server in configured.servers:
        with naming_origins(server):
            plan.refuse_root(server.bind or ())  # the default is this machine's alone
    set_up_logging(level_of(process), process.log_format, process.log_file, process.color)
    try:
        return _run(configured, plan)
    except StuckError as error:
        logging.getLogger("jackfield.serve").error("%s", error)
        logging.shutdown()
        # Python would wait at its end for threads that hold on, such as those of concurrent.futures.
        os._exit(error.code)


def _run(configured: Configured, plan: privileges.Plan) -> int:
    from dataclasses import asdict

    from jackfield.cli.building import bind_all, make_servers, start_all
    from jackfield.cli.configuration import reread
    from jackfield.cli.logs import quiet_below_warning
    from jackfield.cli.overview import Overview
    from jackfield.cli.stopping import AskedToStop, StopSignals
    from jackfield.cli.supervising import open_places_of, serve_with_workers
    from jackfield.cli.target import TargetError
    from jackfield.cli.workers import wants_workers

    process = configured.process
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        try:
            waiting = stack.enter_context(readiness.Readiness(process.pid, process.ready_fd))
            bound = bind_all(configured.servers, stack)
            overview = Overview(process, stack, process.name or configured.servers[0].target or "echo")
            if wants_workers(process):
                open_places_of(process, bound, stack)
            plan.carry_out(bound)
            announce = partial(_announce, process, bound, admin=overview.locations)
            if wants_workers(process):
                return serve_with_workers(configured, bound, waiting, overview, announce, signals.hold)
            servers = make_servers(bound)
            waiting.watch(servers)
            signals.hold()
        except AskedToStop:
            return exits.OK
        except TargetError as error:
            sys.stderr.write(error.trace)
            raise
        with quiet_below_warning("jackfield.server"):  # what it would say now, the announcement says better
            start_all(servers)
        announce([asdict(server.info()) for server in servers])
        waiting.ready(servers)

        def reload() -> str:
            nonlocal configured
            configured = reread(configured, servers)
            return "; ".join(str(server.reload()) for server in servers)

        reload_all = waiting.reloading(reload)
        overview.attend(servers, stack, reload_all, _stop, lambda: _rows_of(configured))
        return signals.serve_until_stopped(servers, reload_all, waiting.stopping)


def _rows_of(configured: Configured) -> list[dict[str, Any]]:
    from jackfield.cli.configuration.printing import rows_of

    return rows_of(configured)


def _stop() -> None:
    """As a service manager would have it."""
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(
    options: argparse.Namespace, bound: Sequence[Bound], servers: Sequence[dict[str, Any]], workers: int = 0,
    admin: Sequence[str] = (),
) -> None:  # fmt: skip
    import logging

    from jackfield.cli.banner import banner, fields, is_open_to_all
    from jackfield.cli.text import wants_color

    log = logging.getLogger("jackfield.serve")
    seconds = time.perf_counter() - options.started
    all_facts: list[Facts] = []
    for one, server in zip(bound, servers, strict=True):
        facts = _facts(one.options, server, seconds, workers)
        all_facts.append(facts)
        for location in filter(is_open_to_all, facts.locations):
            plain = "" if location in facts.encrypted else ", and nothing is encrypted"
            log.warning(
                "%s is open to every machine that can reach this one%s; --bind 127.0.0.1:PORT keeps it here",
                location,
                plain,
            )
    if options.log_format == "json" or options.log_file:
        log.info("ready", extra={"fields": fields(all_facts, admin)})
    if options.log_format == "text" and not options.quiet:
        with contextlib.suppress(OSError):  # the terminal, or whoever read it, has gone away: that is no end of serving
            print(banner(all_facts, wants_color(sys.stderr, options.color), admin), file=sys.stderr, flush=True)


def _facts(options: argparse.Namespace, server: dict[str, Any], seconds: float, workers: int) -> Facts:
    from jackfield.cli.banner import Facts
    from jackfield.cli.text import count_of

    mode, addresses = server["mode"], server["addresses"]
    unit = {"serial": "connection", "thread": "thread", "process": "process"}.get(mode, "connection")
    most = 1 if mode == "serial" else server["limit"]
    each = " in each" if workers > 1 and mode in ("serial", "thread", "process") else ""
    return Facts(
        options.target or "upper-case echo",
        f"{mode} × {count_of(workers, 'worker')}" if workers else mode,
        addresses,
        [f"{count_of(most, unit)} at once{each}", f"graceful {options.graceful_timeout:g}s"],
        seconds,
        options.name,
        limits.encrypted_of(options, addresses),
    )
