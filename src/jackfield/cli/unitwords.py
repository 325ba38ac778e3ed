"""What systemd's unit files have words for: addresses to listen on, and a command line with its quotes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from jackfield.address import Address
from jackfield.addressoptions import whole
from jackfield.admission import parse_ip
from jackfield.cli.arguments import UsageError

__all__ = ["command_line", "escaped", "needs_port_rights", "socket_lines"]

_KINDS = {
    "tcp": "Stream", "udp": "Datagram", "unix": "Stream", "unixgram": "Datagram", "unixpacket": "SequentialPacket",
}  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9_@:,./=+-]+")

#: Options of an address that a .socket unit knows, and its word for them.  The server sets the others itself on what it
#: binds, and for what it is passed they would be lost.
_OPTIONS = {
    "mode": "SocketMode", "owner": "SocketUser", "group": "SocketGroup", "backlog": "Backlog",
    "rcvbuf": "ReceiveBuffer", "sndbuf": "SendBuffer", "reuse_port": "ReusePort", "defer_accept": "DeferAcceptSec",
}  # fmt: skip
_BUFFERS = ("rcvbuf", "sndbuf")

# Below it, unless an administrator moved it, a port takes a right (ip(7), ip_unprivileged_port_start).
_FIRST_FREE_PORT = 1024

#: What the server gives a datagram socket that it binds itself: the default is full after a few hundred datagrams.
_DATAGRAM_BUFFER = 1 << 20


def escaped(text: str) -> str:
    """The text where systemd expands specifiers: ``%`` is written twice (systemd.unit(5), "Specifiers").

    :raises UsageError: it has a control character, which would end the line.
    """
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot stand in a unit file: leave out what cannot be printed")
    return text.replace("%", "%%")


def command_line(words: Iterable[str]) -> str:
    """The words as ``ExecStart=`` takes them apart again (systemd.service(5), "Command lines"): it knows quotes,
    backslashes, variables after ``$``, and specifiers after ``%``.

    :raises UsageError: one of them has a control character.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    inside = escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{inside}"'


def socket_lines(addresses: Sequence[Address]) -> list[str]:
    """The lines of a ``[Socket]`` section by which systemd binds the addresses as the server would.

    :raises UsageError: one of them is not for systemd to bind, or two of them cannot be in one unit; one line that says
        what to write.
    """
    listens = [f"Listen{_KINDS[_kind(address)]}={escaped(_place(address))}" for address in addresses]
    return listens + _families(addresses) + _options(addresses)


def needs_port_rights(addresses: Iterable[Address]) -> bool:
    """Whether binding one of them takes the right to low ports, CAP_NET_BIND_SERVICE (capabilities(7))."""
    return any(not address.is_unix and 0 < address.port < _FIRST_FREE_PORT for address in addresses)


def _kind(address: Address) -> str:
    if address.is_tls:
        plain = f"tcp{str(address)[3:].partition('?')[0]}"
        raise UsageError(f"a passed socket cannot say that it speaks TLS: write {plain} and --tls-cert FILE for"
                         f" {address}, or --no-socket")  # fmt: skip
    if address.scheme in ("fd", "systemd"):
        raise UsageError(f"{address} is opened by somebody else: write what it is bound to, e.g. tcp://:9999")
    return address.scheme if address.is_unix else address.scheme[:3]


def _place(address: Address) -> str:
    if address.is_unix:
        return address.path if address.path.startswith("@") else os.path.abspath(address.path)
    if not address.port:
        raise UsageError(f"{address} has its port only when it is bound: write one, e.g. :9999")
    host, percent, zone = address.host.partition("%")
    if not host:
        return {"": f"{address.port}", "4": f"0.0.0.0:{address.port}", "6": f"[::]:{address.port}"}[address.scheme[3:]]
    packed = parse_ip(host)
    if packed is None:
        fix = "127.0.0.1" if host == "localhost" else "its address"
        raise UsageError(f"systemd looks up no names: write {fix} in place of {host} in {address}")
    return f"[{host}]:{address.port}{percent}{zone}" if ":" in host else f"{host}:{address.port}"


def _families(addresses: Iterable[Address]) -> list[str]:
    """Whether IPv6 sockets take IPv4 clients as well, which is one setting of the whole unit."""
    everywhere = [address for address in addresses if not address.is_unix and address.host in ("", "::")]
    only = {address.scheme.endswith("6") for address in everywhere if not address.scheme.endswith("4")}
    if len(only) > 1:
        raise UsageError("one .socket unit cannot have an address for IPv6 alone and one for both: write tcp4:// and"
                         " tcp6:// for all of them, or --no-socket")  # fmt: skip
    return [f"BindIPv6Only={'ipv6-only' if True in only else 'both'}"] if only else []


def _options(addresses: Sequence[Address]) -> list[str]:
    asked: dict[str, str] = {}
    for address in addresses:
        for name, value in address.options:
            if name not in _OPTIONS:
                instead = "--proxy-protocol" if name == "proxy" else "--no-socket"
                raise UsageError(f"a passed socket has no {name}=: leave it out of {address}, or write {instead}")
            if asked.setdefault(name, value) != value:
                raise UsageError(f"one .socket unit has one {name}= for all its addresses, not {asked[name]} and"
                                 f" {value}: write one of them, or --no-socket")  # fmt: skip
    if any(address.is_unix and not address.path.startswith("@") for address in addresses):
        asked.setdefault("mode", "660")  # as the server has it; systemd's own default lets everybody in
    if all(address.is_datagram for address in addresses):  # a stream's is best left to the kernel, which enlarges it
        asked.setdefault("rcvbuf", str(_DATAGRAM_BUFFER))
    return [
        f"{word}={escaped(str(whole(asked[name])) if name in _BUFFERS else asked[name])}"
        for name, word in _OPTIONS.items()
        if name in asked
    ]
