"""What ``serve`` says once it listens: where, as what, how to stop it, and how to try it."""

from __future__ import annotations

import ipaddress
import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jackfield import __version__
from jackfield.address import parse_address
from jackfield.cli.text import escape, paint

__all__ = ["Facts", "banner", "connect_text", "fields", "is_open_to_all", "try_text"]

INDENT = "  "
WIDTH = 64


@dataclass(frozen=True)
class Facts:
    """What is known of a server when it is ready.

    :param target: the handler as the user named it.
    :param mode: how it is run.
    :param locations: the real addresses, with real ports.
    :param limits: each as a short text.
    :param seconds: how long the start took.
    :param name: what it is called, if it was given a name.
    :param encrypted: those of ``locations`` that speak TLS.
    """

    target: str
    mode: str
    locations: Sequence[str]
    limits: Sequence[str]
    seconds: float
    name: str | None = None
    encrypted: Collection[str] = ()

    @property
    def milliseconds(self) -> int:
        """How long the start took, rounded."""
        return round(self.seconds * 1000)

    def head(self) -> list[str]:
        """What is served, and how."""
        return [self.target, self.mode, *([self.name] if self.name else [])]

    def lines(self, color: bool) -> list[str]:
        """Where it listens, and what bounds it."""
        lines = []
        label = "listening"
        for location in self.locations:
            mark = "  TLS" if location in self.encrypted and not location.startswith("tls:") else ""
            lines.append(f"{INDENT}{label:<9}  {paint(escape(location), 'cyan', color)}{mark}")
            label = ""
        lines.append(f"{INDENT}{'limits':<9}  {' · '.join(self.limits)}")
        return lines

    def fields(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "target": self.target,
            "mode": self.mode,
            "name": self.name,
            "listeners": list(self.locations),
            "encrypted": [location for location in self.locations if location in self.encrypted],
            "limits": list(self.limits),
        }


def banner(servers: Sequence[Facts], color: bool = False, admin: Sequence[str] = ()) -> str:
    """The lines for a person, the last of which begins with "Ready"; ``admin`` is where the endpoint is."""
    title, python = paint(f"jackfield {__version__}", "bold", color), f"Python {platform.python_version()}"
    first, *more = servers
    target, mode, *name = first.head()
    lines = ["  ".join([title, *([target, mode] if not more else [f"{len(servers)} servers"]), python,
                        *(name if not more else [])])]  # fmt: skip
    for one in servers:
        if more:
            lines.append("  ".join(one.head()))
        lines += one.lines(color)
    at = len(lines) - 1  # above what bounds the last of them
    lines[at:at] = [f"{INDENT}{'admin':<9}  {paint(escape(_page(one)), 'cyan', color)}" for one in admin]
    lines[-1] = f"{lines[-1]:<{WIDTH - 1}}  pid {os.getpid()}"
    tries = try_text(first.locations[0], first.locations[0] in first.encrypted) if first.locations else ""
    tries = f"   Try: {escape(tries)}" if tries else ""
    ready = paint(f"Ready in {first.milliseconds} ms.", "green", color)
    lines.append(f"{ready} Ctrl-C to stop.{tries}")
    return "\n".join(lines)


def _page(location: str) -> str:
    """What a browser takes."""
    return f"http{location[3:]}/" if location.startswith("tcp://") else location


def fields(servers: Sequence[Facts], admin: Sequence[str] = ()) -> dict[str, Any]:
    """The same for a program: what one server is beside the rest, and where there are several, each in ``servers``;
    ``listeners`` are those of all."""
    first, *more = servers
    own = first.fields()
    if more:
        own = {"listeners": [location for one in servers for location in one.locations],
               "servers": [one.fields() for one in servers]}  # fmt: skip
    return {
        "event": "ready",
        "version": __version__,
        **own,
        **({"admin": [_page(one) for one in admin]} if admin else {}),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "ready_ms": first.milliseconds,
    }


def try_text(location: str, encrypted: bool) -> str:
    """The command with which to try a listener; ``jackfield connect`` speaks no TLS."""
    if not encrypted:
        return f"jackfield connect {connect_text(location)}"
    if location.startswith("unix"):
        return ""
    return f"openssl s_client -connect {connect_text(f'tcp{location[3:]}')}"


def connect_text(location: str) -> str:
    """What to give ``jackfield connect`` to reach a listener, in its shortest form."""
    address = parse_address(location)
    if address.scheme not in ("tcp", "udp"):
        return location
    # One cannot connect to all interfaces, but to the machine that has them.
    host = "localhost" if address.host in ("", "::", "0.0.0.0") else address.host
    place = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    return place if address.scheme == "tcp" else f"{address.scheme}://{place}"


def is_open_to_all(location: str) -> bool:
    """Whether machines of other people may reach a listener: all interfaces, or an address that is valid worldwide."""
    address = parse_address(location)
    if address.is_unix or address.scheme in ("fd", "systemd"):
        return False
    try:
        host = ipaddress.ip_address(address.host.partition("%")[0] or "::")
    except ValueError:
        return False
    return host.is_unspecified or host.is_global
