"""Why a server could not start, in one line that says what to do: errors of bind(2) and its kin become StartError."""

from __future__ import annotations

import errno
import os
import socket as _socket_std
from pathlib import Path
from typing import Any

from jackfield.address import Address
from jackfield.errors import StartError

__all__ = ["explain_inet", "explain_lookup", "explain_unix"]

_PRIVILEGED_BELOW = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def explain_lookup(error: Exception, address: Address) -> StartError:
    """A host name that ``getaddrinfo`` (getaddrinfo(3)) could not turn into an address."""
    host, number = address.host, getattr(error, "errno", None)
    only = {"4": "IPv4 ", "6": "IPv6 "}.get(address.scheme[3:], "")
    interface = host.partition("%")[2]
    if interface:
        advice = f"this machine has no interface {interface!r}; see `ip link`"
    elif number == _socket_std.EAI_AGAIN:
        advice = f"the name server gave no answer for {host!r}; try again, or write the address in numbers"
    elif number == _socket_std.EAI_NONAME or isinstance(error, UnicodeError):
        advice = f"there is no host {host!r}; check the spelling, or write an address of this machine in numbers"
    elif only:
        advice = f"{host!r} has no {only}address; write {address.scheme[:3]}:// to take either family"
    else:
        advice = f"{host!r} could not be looked up ({getattr(error, 'strerror', None) or error}); write it in numbers"
    return StartError(f"cannot listen on {address}: {advice}")


def explain_inet(error: OSError, address: Address, sockaddr: tuple[Any, ...] | None) -> StartError:
    """A refusal by socket(2), bind(2) or listen(2) for TCP or UDP.

    :param sockaddr: which of the addresses it was, where that adds something to ``address``.
    """
    port, scheme = address.port, address.scheme[:3]
    host = sockaddr[0] if sockaddr else address.host
    if error.errno == errno.EADDRINUSE:
        if port == 0:
            advice = "no free port is left; see net.ipv4.ip_local_port_range"
        else:
            show = f"ss -{'u' if address.is_datagram else 't'}lnp 'sport = :{port}'"
            advice = f"port {port} is in use; stop the program that has it (`{show}`) or choose another port, 0 for any"
    elif error.errno in (errno.EACCES, errno.EPERM) and port and port < _first_free_port():
        advice = (
            f"port {port} is privileged; choose one from {_first_free_port()} on, give the program the capability"
            f" CAP_NET_BIND_SERVICE, or set `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        every = f"{scheme}://:{port}"
        advice = f"{host!r} is no address of this machine; see `ip address`, or write {every} for all interfaces"
    elif error.errno == errno.ENODEV and "%" in address.host:
        advice = f"this machine has no interface {address.host.partition('%')[2]!r}; see `ip link`"
    elif error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        family, other = ("IPv6", "4") if ":" in str(host) else ("IPv4", "6")
        advice = f"this system has no {family}; write {scheme}{other}://:{port}"
    elif error.errno == errno.EINVAL and str(host).lower().startswith("fe80:") and "%" not in address.host:
        advice = f"a link-local address needs its interface; write {scheme}://[{host}%25eth0]:{port}"
    else:
        advice = _in_general(error)
    return StartError(f"cannot listen on {address}: {advice}")


def explain_unix(error: OSError, address: Address) -> StartError:
    """A refusal by the file system or bind(2) for a Unix socket."""
    path = address.path
    directory = os.path.dirname(path) or "."
    if error.errno == errno.EADDRINUSE:
        advice = "a server has this name already; stop it or choose another name"
    elif error.errno == errno.ENOENT:
        advice = f"there is no directory {directory!r}; make it with `mkdir -p`"
    elif error.errno == errno.ENOTDIR:
        advice = f"{directory!r} is no directory; choose a path inside one"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = (
            f"user {_user()} may not make files in {directory!r}; choose another directory or change its permissions"
        )
    elif error.errno == errno.EROFS:
        advice = f"the file system of {directory!r} is read-only; choose another directory, e.g. below /run or /tmp"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"there is no space left for a file in {directory!r}; make room or choose another directory"
    elif error.errno == errno.ELOOP:
        advice = f"the symbolic links on the way to {directory!r} go round in a circle; choose another path"
    elif error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
        advice = f"this system has no {address.scheme} sockets; write tcp://127.0.0.1:9999"
    else:
        advice = _in_general(error)
    return StartError(f"cannot listen on {address}: {advice}")


def _in_general(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptor is left; raise the limit with `ulimit -n`, or LimitNOFILE= in a systemd unit"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"user {_user()} is not permitted to; look at a firewall, sandbox or security module"
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{error.strerror or error}{f' ({name})' if name else ''}"


def _user() -> str:
    return str(os.geteuid()) if hasattr(os, "geteuid") else "this one"


def _first_free_port() -> int:
    """The lowest port that needs no privilege: 1024 unless the administrator said otherwise (ip(7))."""
    try:
        return int(_PRIVILEGED_BELOW.read_bytes())
    except (OSError, ValueError):
        return 1024
