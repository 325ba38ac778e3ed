"""A server as units of systemd: the texts of a ``.service`` file, and of a ``.socket`` file that binds its addresses.

systemd binds, so the server needs no right at all; clients that come while it starts or restarts wait in the kernel's
queue.  What is shut off is what no server of this kind needs; a handler that needs more of it finds the line to change.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterable, Sequence

from jackfield.address import Address, parse_address
from jackfield.addressoptions import show
from jackfield.cli import serve
from jackfield.cli.arguments import DEFAULT_ADDRESS, Parser, UsageError, add_globals
from jackfield.cli.configuration import resolve
from jackfield.cli.target import check_target
from jackfield.cli.unitwords import command_line, escaped, needs_port_rights, socket_lines

__all__ = ["units_of"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

WATCHDOG = 30
"""Seconds; the loop answers every half of it, and a handler that holds it for so long holds everybody."""

AFTER_GRACE = 10
"""Seconds that systemd waits beyond ``--graceful-timeout``: the server gives up by itself within three."""

# Beside connections there are listeners, logs, what the handlers open, and threads of libraries.
_SPARE_DESCRIPTORS = 2048
_DEFAULT_CONNECTIONS = 10_000

#: Flags of ``serve`` that a unit has its own way for.
_INSTEAD = {
    "user": "give it to init: jackfield init systemd --user NAME -- …",
    "group": "leave it out: it is the group of --user",
    "umask": "leave it out, and change UMask= in the unit",
    "allow_root": "leave it out: the unit has a user",
    "pid": "leave it out: systemd knows the process",
    "ready_fd": "leave it out: systemd is told by NOTIFY_SOCKET",
    "log_file": "leave it out: the journal has what it says",
}

_HARDENING = """\
# What it may do. A handler that needs more finds the line here; systemd-analyze security shows them all.
{user}
NoNewPrivileges=yes
{capabilities}
ProtectSystem=strict
{folders}
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Off for libraries that make code as they run (numba, callbacks of cffi).
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
"""


def units_of(words: Sequence[str], *, name: str = "", user: str = "", sockets: bool = True) -> dict[str, str]:
    """The units, by the names of their files, for ``jackfield serve`` with these words.

    :param words: target and flags; the relative names in them are those of the directory that this is called in.
    :param name: of the units; default the target's module, or ``jackfield``.
    :param user: whose rights it has; default one that systemd makes for it (``DynamicUser=``).
    :param sockets: whether systemd binds the addresses; the server does it itself where not.
    :raises UsageError: the words are no command line of ``serve``, or say what a unit cannot; one line that says what
        to write.
    """
    servers = _resolved(words)
    target = servers[0].target
    name = name or (target.partition(":")[0].rpartition(".")[2] if target else "jackfield")
    if not _NAME.fullmatch(name):
        raise UsageError(f"no name for a unit: {show(name)}: write letters, digits, '_', '-', '.', e.g. --name chat")
    if user and not _USER.fullmatch(user):
        raise UsageError(f"no name of a user: {show(user)}: write e.g. --user www-data")
    addresses = [one for each in servers for one in each.bind or [parse_address(DEFAULT_ADDRESS)]]
    if sockets and len(servers) > 1:
        raise UsageError(f"the configuration has {len(servers)} servers, and which socket is whose is not known: write"
                         " --no-socket")  # fmt: skip
    if not sockets:
        return {f"{name}.service": _service(name, servers, list(words), addresses, user, False)}
    bound = socket_lines(addresses)
    words = [*_without_bind(words), "-b", "systemd:"]
    return {
        f"{name}.socket": _socket(name, bound),
        f"{name}.service": _service(name, servers, words, addresses, user, True),
    }


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="jackfield serve", answers=serve.ANSWERS)
    serve.configure(parser)
    add_globals(parser)
    options, extras = parser.parse_known_args(list(words))
    if extras:
        parser.reject(extras)
    given: argparse.Namespace = options
    return given


def _resolved(words: Sequence[str]) -> list[argparse.Namespace]:
    """The options of each server that the words start, a file in the service's directory, which is this one, included;
    the environment is not that of the service."""
    configured = resolve(_parsed(words), environment={})
    for flag, instead in _INSTEAD.items():
        if getattr(configured.process, flag) not in (None, False):
            raise UsageError(f"--{flag.replace('_', '-')}: {instead}")
    for options in configured.servers:
        if options.target is not None:
            check_target(options.target)
    return configured.servers


def _without_bind(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("-b", "--bind"):
            skip = True
        elif not word.startswith("--bind=") and not re.match(r"-b.", word):
            kept.append(word)
    if "bind" in _parsed(kept):
        raise UsageError("write -b ADDR by itself, not together with other flags of one letter")
    return kept


def _socket(name: str, bound: Iterable[str]) -> str:
    return "\n".join(
        [
            f"# {name}.socket: systemd binds the addresses, and starts {name}.service when somebody comes.",
            "",
            "[Unit]",
            f"Description=Addresses of {name}",
            "",
            "[Socket]",
            *bound,
            "",
            "[Install]",
            "WantedBy=sockets.target",
            "",
        ]
    )


def _service(
    name: str, servers: Sequence[argparse.Namespace], words: Sequence[str], addresses: Sequence[Address], user: str,
    passed: bool,
) -> str:  # fmt: skip
    program, here = _program(), os.getcwd()
    limits = [options.max_connections for options in servers]
    most = sum(limit if isinstance(limit, int) else _DEFAULT_CONNECTIONS for limit in limits)
    graceful = servers[0].graceful_timeout  # of the whole process
    what = ", ".join(options.target or "upper-case echo" for options in servers)
    after = f"After=network.target {name}.socket" if passed else "After=network.target"
    watched = f"WatchdogSec={WATCHDOG}"
    if any(options.mode == "serial" for options in servers):
        watched = "# No WatchdogSec=: with -k serial the loop waits while a client is served."
    lines = [
        f"# {name}.service: jackfield serve{', on what ' + name + '.socket binds' if passed else ''}.",
        "",
        "[Unit]",
        f"Description={escaped(what)}, by jackfield",
        *([f"Requires={name}.socket"] if passed else []),
        after,
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={command_line([*program, 'serve', *words])}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        f"WorkingDirectory={escaped(here)}",
        watched,
        "Restart=on-failure",
        "# A wrong command line, and what could not start, will not be better a moment later.",
        "RestartPreventExitStatus=2 3",
        "KillMode=mixed",
        f"TimeoutStopSec={math.ceil(graceful) + AFTER_GRACE}",
        f"LimitNOFILE={most + _SPARE_DESCRIPTORS}",
        "",
        # A virtual environment is links to an interpreter, which may be somebody's own.
        _hardening(name, [os.path.dirname(program[0]), sys.base_prefix, here], addresses, user, passed),
        "[Install]",
        "WantedBy=multi-user.target",
        *([f"Also={name}.socket"] if passed else []),
        "",
    ]
    return "\n".join(lines)


def _hardening(name: str, places: Sequence[str], addresses: Sequence[Address], user: str, passed: bool) -> str:
    low = not passed and needs_port_rights(addresses)
    port = "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE"
    whose = f"User={user}" if user else "DynamicUser=yes"
    at_home = any(_is_below(place, "/home", "/root", "/run/user") for place in places)
    # A directory for temporary files of its own hides what lies in the one of all.
    shown = [place for place in places if _is_below(place, "/tmp", "/var/tmp")]
    folders = [f"ProtectHome={'read-only' if at_home else 'yes'}", "PrivateTmp=yes"]
    folders += [f"BindReadOnlyPaths={command_line([place])}" for place in shown]
    return _HARDENING.format(
        user="\n".join([whose, *([] if passed else _run_folder(name, addresses))]),
        capabilities=port if low else "CapabilityBoundingSet=",
        folders="\n".join(folders),
    )


def _run_folder(name: str, addresses: Iterable[Address]) -> list[str]:
    """The one directory that a service which makes files in /run is given by systemd."""
    paths = [os.path.abspath(a.path) for a in addresses if a.is_unix and not a.path.startswith("@")]
    for path in paths:
        if os.path.dirname(path) != f"/run/{name}":
            raise UsageError(f"the service may write to /run/{name} alone: write unix:/run/{name}/"
                             f"{os.path.basename(path)} in place of unix:{path}")  # fmt: skip
    return [f"RuntimeDirectory={name}"] if paths else []


def _program() -> list[str]:
    script = os.path.join(os.path.dirname(sys.executable), "jackfield")
    return [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "jackfield"]


def _is_below(place: str, *folders: str) -> bool:
    return any(os.path.commonpath([os.path.abspath(place), folder]) == folder for folder in folders)
