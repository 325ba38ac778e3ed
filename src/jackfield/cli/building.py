"""From resolved options to servers, in two steps: first all is bound, and only then is a target, user code, loaded.

A port in use is told before a slow application has started, and whoever gives up rights does so between the two.  What
is in files is read in the first step, too: a certificate's key may be for root alone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jackfield.address import Address
from jackfield.cli import limits
from jackfield.cli.arguments import UsageError
from jackfield.cli.configuration import naming_origins, with_class_attributes
from jackfield.cli.readiness import default_addresses
from jackfield.cli.target import check_target, is_coroutine_handler, load_target
from jackfield.door import Listener, open_listeners
from jackfield.door.inheritance import inheritance
from jackfield.errors import StartError
from jackfield.modes.arenas import share_arenas
from jackfield.server import Server
from jackfield.serving import descriptor_room, in_background, mode_for

__all__ = [
    "PARTS",
    "Bound",
    "addresses_of",
    "bind",
    "bind_all",
    "check_targets",
    "make_server",
    "make_servers",
    "parts_of",
    "read_certificates_of",
    "room_problem",
    "start_all",
]


_log = logging.getLogger("jackfield.serve")


@dataclass(frozen=True)
class Bound:
    """One server before its target is loaded.

    :param options: its resolved options.
    :param listeners: what it is to listen on, open.
    :param parts: what its flags mean: arguments of :class:`~jackfield.Server`, such as ``limits`` and ``tls``.
    """

    options: argparse.Namespace
    listeners: list[Listener]
    parts: dict[str, Any] = field(default_factory=dict)


def check_targets(servers: Iterable[argparse.Namespace]) -> None:
    """Look at how the targets are written; nothing is opened or imported.

    :raises UsageError: one is none.
    """
    for options in servers:
        with naming_origins(options, "target"):
            if options.target is not None:
                check_target(options.target)
            elif options.factory:
                raise UsageError("--factory goes with a TARGET")


def bind_all(servers: Iterable[argparse.Namespace], stack: contextlib.ExitStack) -> list[Bound]:
    """Read the files and open the listeners of each server, in this order; nothing of the user's is imported.

    :param servers: the resolved options of each.
    :param stack: closes the listeners, those of a failed call among them. Closing one that its server has closed does
        nothing.
    :raises UsageError: flags do not go together, or a list of peers cannot be read.
    :raises StartError: an address cannot be had, or a certificate is none.
    """
    settled = [(options, parts_of(options)) for options in servers]
    bound = [Bound(options, bind(options, addresses_of(options), stack), parts) for options, parts in settled]
    for one in bound:
        read_certificates_of(one)
        if (problem := room_problem(one.options)) is not None:
            _log.warning("%s", problem)
    return bound


def room_problem(options: argparse.Namespace) -> str | None:
    """One line where more connections were asked for than there can be descriptors; else None."""
    asked, room = options.max_connections, descriptor_room()
    if not isinstance(asked, int) or asked <= room:
        return None
    origin = getattr(options, "origins", {}).get("max_connections", "--max-connections")
    return (
        f"{origin}: {asked} connections need more descriptors than this process may have, which are enough for {room}:"
        f" raise that (ulimit -n, LimitNOFILE=), or write at most {room}"
    )


def addresses_of(options: argparse.Namespace) -> list[Address]:
    """Where a server is to listen."""
    return options.bind or default_addresses()


def bind(options: argparse.Namespace, addresses: Iterable[Address], stack: contextlib.ExitStack) -> list[Listener]:
    """Open the listeners of some addresses of one server; `stack` closes them.

    :raises StartError: one of them cannot be had.
    """
    binding: dict[str, Any] = {"reuse_port": bool(options.reuse_port)}
    if options.backlog is not None:
        binding["backlog"] = options.backlog
    listeners: list[Listener] = []
    with naming_origins(options, "bind"):
        for wanted in addresses:
            for listener in inheritance().take(wanted) or open_listeners(wanted, **binding):
                stack.callback(listener.close)
                listeners.append(listener)
    return listeners


def read_certificates_of(bound: Bound) -> None:
    """Read those that addresses name themselves.

    :raises StartError: one of them is none.
    """
    if any(listener.address.is_tls for listener in bound.listeners):
        from jackfield.serving.entry import read_certificates  # late, as above

        with naming_origins(bound.options, "bind"):
            read_certificates(bound.listeners, bound.parts["tls"])


def parts_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags of one server mean that stands in files or that the library has a type for.

    :raises UsageError: they do not go together, or a list of peers cannot be read.
    :raises StartError: a certificate or key is none.
    """
    return {name: meant(options) for name, meant in PARTS.items()}


def _limits(options: argparse.Namespace) -> Any:
    with naming_origins(options):
        return limits.limits_of(options)


def _proxy(options: argparse.Namespace) -> Any:
    with naming_origins(options):
        return limits.proxy_of(options) or False


def _tls(options: argparse.Namespace) -> Any:
    with naming_origins(options, "tls_cert"):
        tls = limits.tls_of(options)
        if tls is None:
            return None
        from jackfield.tls import ServerTLS  # late: ssl costs a server without TLS a third of its start

        return ServerTLS(tls)


def _loop_factory(options: argparse.Namespace) -> Callable[[], Any] | None:
    if options.loop != "uvloop":
        return None
    try:
        import uvloop
    except ImportError as error:
        with naming_origins(options):
            raise StartError("--loop uvloop needs the extra: pip install 'jackfield[uvloop]'") from error
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "limits": _limits, "proxy_protocol": _proxy, "tls": _tls, "loop_factory": _loop_factory,
}  # fmt: skip
"""What :func:`parts_of` works out, each of them by itself."""


def make_servers(bound: Iterable[Bound]) -> list[Server]:
    """Load the target of each, and make the servers that have the listeners; none serves yet.

    :raises UsageError: target and flags do not go together.
    :raises StartError: there is no such target.
    :raises TargetError: the user's code raised.
    """
    bound = list(bound)
    servers = [make_server(one)[0] for one in bound]
    if len(servers) > 1 and any(server.mode == "process" for server in servers):
        _keep_apart(servers, bound)
    return servers


def _keep_apart(servers: Sequence[Server], bound: Sequence[Bound]) -> None:
    """A child that serves one connection closes the listeners of its own server. Those of the others it would hold
    open when they are closed here, and their clients would be let into a queue that nobody looks at any more."""

    def in_child() -> None:
        mine = in_background.get(threading.current_thread())  # the thread that forked is all that is left
        if mine in servers:
            for server, one in zip(servers, bound, strict=True):
                for listener in one.listeners if server is not mine else ():
                    listener.socket.close()

    os.register_at_fork(after_in_child=in_child)


def make_server(bound: Bound) -> tuple[Server, argparse.Namespace]:
    """The same for one of them, and its options with what its class says."""
    with naming_origins(bound.options, "target"):
        handler, mode = _choose(bound.options)
    options = with_class_attributes(bound.options, handler, mode_for(handler, mode))
    parts = bound.parts
    if options is not bound.options:
        parts = {**parts, "limits": _limits(options)}
        _listen_again(options, bound)
    bounds = {"max_threads": options.max_threads, "max_children": options.max_children}
    server = Server(
        handler,
        *bound.listeners,
        mode=mode,
        graceful_timeout=options.graceful_timeout,
        name=options.name,
        **parts,
        **{name: value for name, value in bounds.items() if value is not None},
    )
    with naming_origins(options):
        _refuse_idle_flags(options, server.mode)
    if getattr(options, "access_log", None):
        from jackfield.cli.accesslog import log_access  # late: few want one

        log_access(server)
    if server.mode == "thread":
        share_arenas()
    return server, options


def _listen_again(options: argparse.Namespace, bound: Bound) -> None:
    """A class may say how many connections may wait, and is loaded when they may already; listen(2) takes it again.
    Sockets of others, and addresses that say it themselves, are left as they are."""
    if options.backlog == bound.options.backlog:
        return
    for listener in bound.listeners:
        says_it = "backlog" in dict(listener.address.options)
        if not (listener.is_datagram or listener.address.scheme in ("fd", "systemd") or says_it):
            listener.socket.listen(options.backlog)


def start_all(servers: Sequence[Server]) -> None:
    """Start them; if one of them cannot, those that have are stopped at once."""
    with contextlib.ExitStack() as started:
        for server in servers:
            server.start()
            started.callback(server.wait_stopped, 1.0)
            started.callback(server.stop, 0)
        started.pop_all()


def _choose(options: argparse.Namespace) -> tuple[type[Any], str]:
    """The handler class and the mode."""
    mode: str = options.mode
    if options.target is None:
        from jackfield.cli.upper import AsyncUpper, Upper

        mode = "green" if mode == "auto" else mode
        return (AsyncUpper if mode == "async" else Upper), mode
    handler = load_target(options.target, options.app_dir, options.factory)
    if mode != "auto" and is_coroutine_handler(handler) != (mode == "async"):
        written, fix = ("async def", "-k async") if mode != "async" else ("def", "-k green")
        raise UsageError(f"-k {mode} cannot run {options.target}, whose handle is written with `{written}`: use {fix}")
    return handler, mode


def _refuse_idle_flags(options: argparse.Namespace, mode: str) -> None:
    """A limit that would not hold is worse than none: whoever wrote it relies on it."""
    for flag, given, modes in (
        ("--max-threads", options.max_threads is not None, ("thread",)),
        ("--max-children", options.max_children is not None, ("process",)),
        ("--loop", options.loop != "auto", ("green", "async")),
    ):
        if given and mode not in modes:
            raise UsageError(f"{flag} goes with -k {' and -k '.join(modes)}, and this is -k {mode}")
