"""``jackfield.serve``: serve until told by a signal, in this process or in workers."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

from .. import signals
from ..door import Listener, open_listeners
from ..door.inheritance import inheritance
from ..errors import MisuseError
from ..modes.arenas import share_arenas
from ..server import Server
from .asked import Asked, workers_for
from .places import open_places
from .policy import Recycling
from .supervisor import Supervisor
from .upgrade import Upgrade
from .worker import Worker

#: What is said of workers; everything else is a server's.
_OF_WORKERS = ("worker_timeout", "retire_timeout", "start_timeout")


def serve(
    handler: Any,
    *addresses: Any,
    workers: int | str | None = None,
    recycling: Recycling | None = None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM: ``Server(handler, *addresses, **options).serve_forever()`` with these signals
    meaning a graceful stop, and a second one now. SIGHUP is ``Server.reload()``, on a thread of its own and at most
    once a second, unless the program has a handler of its own for it. In other threads than the main one no signals are
    taken.

    With ``workers``, a number or ``"auto"`` (one for each processor), this process opens the addresses and keeps that
    many others, forked from it, which serve. For ``worker_timeout`` (30 s), ``retire_timeout`` (1 h), ``start_timeout``
    (60 s) and ``recycling`` see :class:`~jackfield.supervisor.Supervisor`. With ``reuse_port`` each of them has a
    listening socket of its own. SIGHUP replaces all of them, SIGTTIN and
    SIGTTOU make it one more or one less, and SIGUSR2 has the program started anew, which takes over. It returns in this
    process only; before it is called no threads are to run, as forks do not have them.

    StartError, AddressError and MisuseError as of :class:`~jackfield.Server`; SystemExit with the exit code 1 if the
    workers do not live.
    """
    if workers is None:
        signals.serve(handler, *addresses, **options)
        return
    if threading.current_thread() is not threading.main_thread():
        raise MisuseError("workers are kept by the main thread, which hears signals: call serve(workers=…) there")
    of_workers = {name: options.pop(name) for name in _OF_WORKERS if name in options}
    binding: dict[str, Any] = {name: options[name] for name in ("backlog", "reuse_port") if name in options}
    with contextlib.ExitStack() as stack:
        wanted: list[Any] = list(addresses) or ["tcp://127.0.0.1:9999"]
        listeners = _open(wanted, binding, stack)
        count = workers_for(workers)
        more = open_places(listeners, count)
        for listener in more:
            stack.callback(listener.close)

        def make(worker: Worker) -> Sequence[Server]:
            return [Server(handler, *worker.its_own(listeners), **options)]

        if Server(handler, *listeners, **options).mode == "thread":  # what is wrong with the options is told here, once
            share_arenas()  # for the workers too, which are forked
        supervisor = Supervisor(
            make, [*listeners, *more], workers=count, recycling=recycling,
            graceful_timeout=options.get("graceful_timeout", 30.0), **of_workers,
        )  # fmt: skip
        supervisor.on_ready = inheritance().ready
        with Asked(supervisor) as asked:
            asked.on_upgrade = Upgrade(supervisor).begin
            code = supervisor.run()
    if code:
        sys.exit(code)


def _open(addresses: Sequence[Any], binding: dict[str, Any], stack: contextlib.ExitStack) -> list[Listener]:
    listeners: list[Listener] = []
    for wanted in addresses:
        opened = [wanted] if isinstance(wanted, Listener) else inheritance().take(wanted)
        for listener in opened or open_listeners(wanted, **binding):
            stack.callback(listener.close)
            listeners.append(listener)
    return listeners
