"""``serve -w N``: the process that keeps the workers, and what each of them is to serve."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from dataclasses import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from jackfield.cli.building import Bound
    from jackfield.cli.configuration import Configured
    from jackfield.cli.overview import Overview
    from jackfield.cli.readiness import Readiness
    from jackfield.server import Server
    from jackfield.supervisor import Supervisor, Worker

__all__ = ["open_places_of", "serve_with_workers", "workers_of"]


def workers_of(options: argparse.Namespace) -> int:
    """How many there are to be."""
    from jackfield.supervisor import workers_for

    return workers_for(options.workers or 1)


def open_places_of(options: argparse.Namespace, bound: Sequence[Bound], stack: contextlib.ExitStack) -> None:
    """With ``--reuse-port``, open a socket for each worker; before rights are given up, as all sockets of a port have
    to be one user's (socket(7)). `stack` closes them."""
    if not any(one.options.reuse_port or "reuse_port" in str(one.options.bind) for one in bound):
        return
    from jackfield.supervisor.places import open_places

    for one in bound:
        for listener in open_places(one.listeners, workers_of(options)):
            stack.callback(listener.close)
            one.listeners.append(listener)


def _reload_on_change(supervisor: Supervisor, options: argparse.Namespace, bound: Sequence[Bound]) -> None:
    """Look for changed files, and have the connections of replaced workers end at once."""
    from jackfield.supervisor.files import Files

    directories = options.reload_dir or sorted({one.options.app_dir for one in bound})
    files = Files(directories, options.reload_include or ["*.py"], options.reload_exclude or [])

    def look() -> None:
        if changed := files.changed():
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            logging.getLogger("jackfield.supervisor").info("%s%s has changed: reloading", changed[0], more)
            supervisor.reload()

    supervisor.every(max(options.reload_delay, 0.01), look)


def serve_with_workers(
    configured: Configured,
    bound: Sequence[Bound],
    waiting: Readiness,
    overview: Overview,
    announce: Callable[[Sequence[dict[str, Any]], int], None],
    hold: Callable[[], object],
) -> int:
    """Keep workers until told to stop; the exit code. What a target imports is loaded in the workers only.

    :param bound: the servers, listening; rights have been given up.
    :param overview: where the endpoint is to be.
    :param announce: is given what the first worker told of its servers, and how many workers there are.
    :param hold: called when signals are heard here: one that comes on the way out no longer has the program's end for
        its effect, nor its exit code.
    :raises StartError: the first workers cannot begin.
    """
    from jackfield.cli.building import make_servers, parts_of
    from jackfield.cli.configuration import reread
    from jackfield.cli.configuration.printing import rows_of
    from jackfield.cli.logs import reopen_logs
    from jackfield.supervisor import Asked, Recycling, Supervisor, Upgrade

    options = configured.process
    locations = list(dict.fromkeys(listener.location for one in bound for listener in one.listeners))

    def make(worker: Worker) -> Sequence[Server]:
        worker.on_reopen = reopen_logs
        overview.leave_in_worker()
        worker.is_watched = bool(overview.at_once)
        logging.getLogger("jackfield.server").addFilter(_is_no_start)
        try:
            return make_servers(replace(one, listeners=list(worker.its_own(one.listeners))) for one in bound)
        except Exception as error:
            if trace := getattr(error, "trace", ""):
                sys.stderr.write(trace)
            raise

    def prepare() -> None:
        nonlocal configured, bound
        configured = reread(configured, [])
        bound = [
            replace(one, options=options, parts=parts_of(options))
            for one, options in zip(bound, configured.servers, strict=True)
        ]

    supervisor = Supervisor(
        make,
        [listener for one in bound for listener in one.listeners],
        workers=workers_of(options),
        servers=len(bound),
        graceful_timeout=max(one.options.graceful_timeout for one in bound),
        worker_timeout=options.worker_timeout,
        retire_timeout=0.0 if options.reload else options.retire_timeout,
        recycling=Recycling(options.worker_lifetime, options.worker_max_rss, options.worker_max_accepts),
    )
    supervisor.on_reload = prepare
    if options.reload:
        _reload_on_change(supervisor, options, bound)
    waiting.supervise(supervisor, locations, lambda: announce(supervisor.facts, supervisor.workers))
    with Asked(supervisor) as asked, overview.supervise(supervisor, lambda: rows_of(configured)) as leave:
        hold()
        asked.on_reopen = reopen_logs
        upgrade = Upgrade(supervisor, waiting.environment, lambda: waiting.pid_file, overview.listeners)

        def taken_over(pid: int) -> None:
            waiting.taken_over(pid)
            leave()

        upgrade.on_taken_over = taken_over
        asked.on_upgrade = upgrade.begin
        code = supervisor.run()
        return 130 if asked.interrupted else code


def _is_no_start(record: logging.LogRecord) -> bool:
    """Each worker would say what the supervisor says for all."""
    return record.levelno >= logging.WARNING
