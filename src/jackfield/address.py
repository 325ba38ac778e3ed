"""Addresses as people write them: ``scheme://host:port?option=value`` and its short forms.

========================================  =====================================================================
written                                   means
========================================  =====================================================================
``9999``                                  TCP, this machine only (127.0.0.1)
``:9999``                                 TCP, all interfaces, IPv4 and IPv6 on one port
``host:9999``, ``[::1]:9999``             TCP
``tcp://``, ``tcp4://``, ``tcp6://``      TCP; the digit forbids the other family
``tls://``, ``tls4://``, ``tls6://``      TLS over TCP, likewise; ``?cert=a.pem&key=a.key`` names its certificate
``udp://``, ``udp4://``, ``udp6://``      UDP, likewise
``unix:/p``, ``unix:///p``, ``/p``        Unix stream socket; ``unix:p`` is relative to the working directory
``unix:@name``                            Unix stream socket in Linux's abstract namespace (unix(7))
``unixgram:``, ``unixpacket:``            Unix datagrams; Unix packets in sequence (``SOCK_SEQPACKET``)
``fd://3``                                a descriptor inherited from whoever started the process
``systemd:``, ``systemd:echo``            the sockets that a service manager passed: all, or those of that name
========================================  =====================================================================

Port 0 lets the kernel choose.  What is to hold for one listener follows as options, ``&`` between them:
``unix:/p?mode=660&group=www-data``, ``tcp://:9999?keepalive=120``; :mod:`jackfield.addressoptions` has them all.  A
text holds no blanks and no control characters; ``%20`` and the like stand for them, as in any URL (RFC 3986), in paths
and in option values.  The zone of a link-local address is written ``[fe80::1%25eth0]`` (RFC 6874) or plain
``[fe80::1%eth0]``.

The grammar follows gunicorn's ``--bind`` and stays a URL, so that IPv6 needs no escapes of its own.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket as _socket_std
import sys
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args
from urllib.parse import unquote

from jackfield.addressoptions import TLS_SCHEMES, NoOptions, nearest, parse_options, show, unquoted
from jackfield.errors import AddressError

__all__ = ["Address", "Scheme", "describe_sockaddr", "parse_address"]

Scheme = Literal[
    "tcp", "tcp4", "tcp6", "tls", "tls4", "tls6", "udp", "udp4", "udp6", "unix", "unixgram", "unixpacket", "fd",
    "systemd",
]  # fmt: skip

_SCHEMES: tuple[str, ...] = get_args(Scheme)
_UNIX_SCHEMES = frozenset({"unix", "unixgram", "unixpacket"})
_DATAGRAM_SCHEMES = frozenset({"udp", "udp4", "udp6", "unixgram"})
_NOT_YET = frozenset({"vsock"})
_EXAMPLE = "tcp://127.0.0.1:9999"

# sun_path holds 108 bytes on Linux, 104 on the BSDs and macOS, the closing NUL among them.  An abstract name has a NUL
# in front instead, where the text has its "@", so one more byte of text fits (unix(7)).
_PATH_BYTES = 107 if sys.platform == "linux" else 103

# Digits are ASCII, by these patterns: int() would also take "1_0", "+1", " 1" and the digits of every other script.
_DIGITS = re.compile(r"[0-9]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_LABEL = re.compile(r"\w(?:[\w-]{0,61}\w)?")
_NUMERIC_HOST = re.compile(r"[0-9.]+")
_ZONE = re.compile(r"[A-Za-z0-9._~:@+-]{1,15}")  # IFNAMSIZ is 16, NUL included (netdevice(7))
_SOCKET_NAME = re.compile(r"[ -9;-~]{0,255}")  # ASCII without the colon (systemd.socket(5), FileDescriptorName=)
_LARGEST_DESCRIPTOR = 2**31 - 1  # a C int


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect, as data; nothing is resolved, opened or looked up.

    ``str(address)`` is the canonical text, and ``parse_address`` makes an equal ``Address`` of it.

    :param scheme: the kind of socket.
    :param host: a name, an IPv4 address or an IPv6 address without brackets; ``""`` is all interfaces.  Of
        ``systemd`` the name that a socket was passed by; ``""`` is all of them.
    :param port: 0 to 65535; 0 lets the kernel choose.
    :param path: of a Unix socket; ``"@name"`` is in the abstract namespace.
    :param fd: the number of an inherited descriptor, -1 where the scheme is not ``fd``.
    :param options: what stood after ``?``, in that order.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_datagram(self) -> bool:
        """True for UDP and ``unixgram``; an inherited descriptor has to be asked itself, a passed one, too."""
        return self.scheme in _DATAGRAM_SCHEMES

    @property
    def is_unix(self) -> bool:
        """True for the three Unix kinds."""
        return self.scheme in _UNIX_SCHEMES

    @property
    def is_tls(self) -> bool:
        """True for ``tls``, ``tls4`` and ``tls6``: every connection begins with a handshake of TLS."""
        return self.scheme in TLS_SCHEMES

    @property
    def asks_for_entry(self) -> bool:
        """Whether it says itself what comes before the handler: TLS, or whether there is a PROXY header."""
        return self.is_tls or any(name == "proxy" for name, _ in self.options)

    def __str__(self) -> str:
        if self.scheme == "fd":
            text = f"fd://{self.fd}"
        elif self.scheme == "systemd":
            text = f"systemd:{_quote(self.host)}"
        elif self.is_unix:
            # A path that begins with two slashes would read as "unix://" and a host.
            text = f"{self.scheme}:{'//' if self.path.startswith('//') else ''}{_quote(self.path)}"
        else:
            text = f"{self.scheme}://{_write_host(self.host)}:{self.port}"
        if self.options:
            text += "?" + "&".join(f"{name}={_quote(value)}" for name, value in self.options)
        return text


def parse_address(text: str | int) -> Address:
    """The :class:`Address` that a text, or a bare port number, means.

    :raises AddressError: it means none; the message is one line and ends in what to write instead.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if 0 <= text <= 65535:
            return Address("tcp", "127.0.0.1", text)
        raise AddressError("a port number is 0 to 65535: write e.g. 9999")
    if not isinstance(text, str):
        raise AddressError(f"an address is a text or a port number, not {type(text).__name__}: write e.g. {_EXAMPLE}")
    try:
        return _parse(text)
    except _NoAddress as no_address:
        raise AddressError(no_address.message(text)) from None


def describe_sockaddr(sock_family: int, sock_type: int, sockaddr: Any) -> str:
    """The text for an address as the operating system gives it, for people and logs: ``tcp://[::1]:9``, ``unix:/p``.

    For a bound TCP, UDP or Unix socket it is what :func:`parse_address` reads.  Never raises: an unnamed Unix peer is
    ``unix:``, and a family that Jackfield does not know is shown as Python shows it.

    :param sock_family: ``socket.family``, e.g. ``AF_INET6``.
    :param sock_type: ``socket.type``, e.g. ``SOCK_STREAM``.
    :param sockaddr: what ``getsockname``, ``getpeername``, ``accept`` or ``recvfrom`` returned.
    """
    family, kind = _name_of("AF_", sock_family), _name_of("SOCK_", sock_type)
    if family == "AF_UNIX":
        schemes = {"SOCK_STREAM": "unix", "SOCK_DGRAM": "unixgram", "SOCK_SEQPACKET": "unixpacket"}
        scheme = schemes.get(kind)
        if scheme and (sockaddr is None or isinstance(sockaddr, str | bytes)):
            return str(Address(cast(Scheme, scheme), path=_path_of_sockaddr(sockaddr or "")))
    elif family in ("AF_INET", "AF_INET6") and isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        host, port = str(sockaddr[0]), sockaddr[1]
        if len(sockaddr) > 3 and sockaddr[3] and "%" not in host:
            host = f"{host}%{_interface_name(sockaddr[3])}"
        scheme = {"SOCK_STREAM": "tcp", "SOCK_DGRAM": "udp"}.get(kind)
        if scheme:
            return str(Address(cast(Scheme, scheme), host, port))
        if kind == "SOCK_RAW":
            return f"raw://{_write_host(host)}"  # the "port" of a raw socket is its protocol or nothing (raw(7))
    return f"{family} {kind} {sockaddr!r}"


# --- reading --------------------------------------------------------------------------------------------------------


class _NoAddress(Exception):
    """Why a text is no address, and what might have been meant, the likeliest first."""

    def __init__(self, problem: str, *fixes: str) -> None:
        self.problem = problem
        self.fixes = fixes

    def message(self, text: str) -> str:
        """One line that ends in an address.  A fix is built from the user's own words, so it is tried before shown."""
        fix = next((fix for fix in self.fixes if _is_address(fix)), _EXAMPLE)
        return f"{self.problem} in {show(text)}: write e.g. {fix}"


def _refuse(problem: str, *fixes: str) -> NoReturn:
    raise _NoAddress(problem, *fixes)


def _is_address(text: str) -> bool:
    try:
        _parse(text)
    except _NoAddress:
        return False
    return True


def _parse(text: str) -> Address:
    if not text:
        _refuse("no address", "9999", _EXAMPLE)
    if not text.isprintable() or " " in text:
        _refuse_blanks(text)
    body, mark, options = text.partition("?")
    address = _parse_body(body)
    if not mark:
        return address
    return Address(
        address.scheme, address.host, address.port, address.path, address.fd, _parse_options(address, body, options)
    )


def _refuse_blanks(text: str) -> NoReturn:
    printable = "".join(character for character in text.strip() if character.isprintable())
    squeezed, escaped = printable.replace(" ", ""), printable.replace(" ", "%20")
    in_a_path = "/" in printable.replace("://", "", 1)
    _refuse("a blank or a control character", printable, *((escaped, squeezed) if in_a_path else (squeezed, escaped)))


def _parse_body(body: str) -> Address:
    if body.startswith("/"):
        return _parse_path("unix", body)
    if body.startswith("@"):
        _refuse("a name of the abstract namespace without its scheme", f"unix:{body}")
    match = _SCHEME.match(body)
    if match is None:
        return _parse_without_scheme(body)
    scheme, slashes, rest = match[1].lower(), bool(match[2]), body[match.end() :]
    if scheme in _NOT_YET:
        _refuse(f"{scheme}: is not supported yet", f"tcp://{rest}", _EXAMPLE)
    if scheme in _UNIX_SCHEMES:
        if slashes and not rest.startswith("/"):
            _refuse("a host where the path begins", f"{scheme}:/{rest}", f"{scheme}:{rest}", f"{scheme}:/run/x.sock")
        return _parse_path(cast(Scheme, scheme), rest)
    if scheme == "systemd":
        if slashes:
            _refuse("// where a name begins", f"systemd:{rest}")
        return Address("systemd", _parse_socket_name(rest))
    if not slashes:
        if scheme in _SCHEMES:
            _refuse(f"{scheme}: without //", f"{scheme}://{rest}", f"{scheme}://127.0.0.1:{rest}", f"{scheme}://:9999")
        return _parse_without_scheme(body)
    if scheme not in _SCHEMES:
        _refuse_scheme(scheme, rest)
    if scheme == "fd":
        return Address("fd", fd=_parse_descriptor(rest))
    return _parse_host_and_port(cast(Scheme, scheme), rest, f"{scheme}://")


def _parse_without_scheme(body: str) -> Address:
    if _DIGITS.fullmatch(body):
        return Address("tcp", "127.0.0.1", _parse_port(body, ""))
    if "/" in body:
        scheme, colon, rest = body.partition(":")
        near = nearest(scheme.lower(), _SCHEMES) if colon else None
        _refuse("a path without its scheme", *([f"{near}:{rest}"] if near else []), f"unix:{body}", f"unix:./{body}")
    return _parse_host_and_port("tcp", body, "")


def _refuse_scheme(scheme: str, rest: str) -> NoReturn:
    near = nearest(scheme, _SCHEMES)
    if near:
        _refuse(f"unknown scheme {show(scheme)}", f"{near}://{rest}", f"{near}:{rest}", f"{near}://127.0.0.1:9999")
    _refuse(f"unknown scheme {show(scheme)} (there are {', '.join(_SCHEMES)})", f"tcp://{rest}")


def _parse_host_and_port(scheme: Scheme, text: str, prefix: str) -> Address:
    """``text`` is what follows ``prefix``, which is the scheme as it was written or nothing."""
    if "/" in text:
        _refuse("a path after the port", prefix + text.partition("/")[0], f"{prefix}{text.partition('/')[0]}:9999")
    # Brackets come first: in tcp://::1:9999 there is no telling which colon begins the port.
    if text.startswith("["):
        host, port = _split_brackets(text, prefix)
    else:
        if text.count(":") > 1:
            _refuse_colons(text, prefix)
        host, colon, port = text.partition(":")
        if not colon or not port:
            fixes = [f"{prefix}127.0.0.1:{host}"] if _DIGITS.fullmatch(host) else []
            _refuse("no port", *fixes, f"{prefix}{host}:9999" if host else f"{prefix}127.0.0.1:9999")
        _check_host(host, prefix, port)
    _check_family(scheme, host, port)
    return Address(scheme, host, _parse_port(port, f"{prefix}{_write_host(host)}:"))


def _refuse_colons(text: str, prefix: str) -> NoReturn:
    host, _, port = text.rpartition(":")
    _refuse(
        "an IPv6 address without brackets" if _is_ipv6(text) or _is_ipv6(host) else "more than one colon",
        *([f"{prefix}[{host}]:{port}"] if _DIGITS.fullmatch(port) else []),
        f"{prefix}[{text}]:9999",
        f"{prefix}[{text.rstrip(':')}]:9999",
        prefix + text.rpartition("@")[2],
        f"{prefix}{text.partition(':')[0]}:{port}",
    )


def _split_brackets(text: str, prefix: str) -> tuple[str, str]:
    inside, closed, after = text[1:].partition("]")
    if not closed:
        host, _, port = inside.rpartition(":")
        _refuse("no closing bracket", f"{prefix}[{host}]:{port}", f"{prefix}[{inside}]:9999", f"{prefix}[::1]:9999")
    host, percent, zone = inside.partition("%")
    if not _is_ipv6(host):
        _refuse("no IPv6 address between the brackets", f"{prefix}{inside}{after}", f"{prefix}[::1]{after}")
    if percent:
        zone = unquote(zone[2:]) if zone.startswith("25") else zone
        if not _ZONE.fullmatch(zone):
            _refuse("no interface after the %", f"{prefix}[{host}%25eth0]{after}", f"{prefix}[{host}%25eth0]:9999")
        host = f"{host}%{zone}"
    if after in ("", ":"):
        _refuse("no port", f"{prefix}[{inside}]:9999")
    if not after.startswith(":"):
        _refuse("no colon after the bracket", f"{prefix}[{inside}]:{after}", f"{prefix}[{inside}]:9999")
    return host, after[1:]


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _check_host(host: str, prefix: str, port: str) -> None:
    if _NUMERIC_HOST.fullmatch(host) and not _is_ipv4(host):
        _refuse(f"no IPv4 address (four numbers, 0 to 255): {show(host)}", f"{prefix}127.0.0.1:{port}")
    if host == "*":
        _refuse("'*' for all interfaces", f"{prefix}:{port}")
    if host and not _is_host_name(host):
        after_user = host.rpartition("@")[2]
        _refuse(f"no host name: {show(host)}", f"{prefix}{after_user}:{port}", f"{prefix}localhost:{port}")


def _is_host_name(host: str) -> bool:
    """Letters, digits, ``-`` and ``_`` between dots, each part at most 63 long (RFC 1035 2.3.4) also after IDNA."""
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    try:
        host.encode("idna")  # what getaddrinfo will do with it
    except UnicodeError:
        return False
    return True


def _check_family(scheme: Scheme, host: str, port: str) -> None:
    if scheme.endswith("4") and ":" in host:
        _refuse(f"an IPv6 address after {scheme}:", f"{scheme[:-1]}6://{_write_host(host)}:{port}")
    if scheme.endswith("6") and _is_ipv4(host):
        _refuse(f"an IPv4 address after {scheme}:", f"{scheme[:-1]}4://{host}:{port}")


def _parse_port(digits: str, before: str) -> int:
    if not _DIGITS.fullmatch(digits):
        _refuse(f"no port number: {show(digits)}", f"{before}9999")
    # Python refuses to convert thousands of digits, so the length is looked at first.
    significant = digits.lstrip("0") or "0"
    if len(significant) > 5 or int(significant) > 65535:
        _refuse("a port outside 0 to 65535", f"{before}9999")
    return int(significant)


def _parse_descriptor(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    if not _DIGITS.fullmatch(digits) or len(significant) > 10 or int(significant) > _LARGEST_DESCRIPTOR:
        _refuse(f"no descriptor number: {show(digits)}", "fd://3")
    return int(significant)


def _parse_socket_name(quoted: str) -> str:
    name = unquoted(quoted)
    if not _SOCKET_NAME.fullmatch(name):
        _refuse(f"no name of a passed socket: {show(name)}", f"systemd:{name.partition(':')[0]}", "systemd:")
    return name


def _parse_path(scheme: Scheme, quoted: str) -> Address:
    path = unquoted(quoted)
    if path in ("", "@"):
        _refuse(f"no {'name' if path else 'path'}", f"{scheme}:{path}{'name' if path else '/run/x.sock'}")
    if "\0" in path and not path.startswith("@"):
        _refuse("a NUL in a path", f"{scheme}:{quoted.replace('%00', '')}", f"{scheme}:/run/x.sock")
    if path.endswith("/") and not path.startswith("@"):
        _refuse("a directory where a socket file is meant", f"{scheme}:{quoted}x.sock", f"{scheme}:/run/x.sock")
    length, limit = len(_path_bytes(path)), _PATH_BYTES + path.startswith("@")
    if length > limit:
        if path.startswith("@"):
            _refuse(f"a name of {length} bytes (the system takes {limit})", f"{scheme}:{_quote(path[:20])}")
        _refuse(
            f"a path of {length} bytes (the system takes {limit}, and a relative path counts as it is written)",
            f"{scheme}:/run/{_quote(os.path.basename(path)[-20:])}",
        )
    return Address(scheme, path=path)


def _parse_options(address: Address, body: str, text: str) -> tuple[tuple[str, str], ...]:
    try:
        return parse_options(address.scheme, text)
    except NoOptions as fault:
        fixes = [f"{body}?{fix}" if fix else body for fix in fault.fixes]
        if fault.for_tls:
            fixes.insert(0, f"tls{str(address)[3:]}?{text}")
        _refuse(fault.problem, *fixes, body)


# --- writing --------------------------------------------------------------------------------------------------------


def _write_host(host: str) -> str:
    if ":" not in host:
        return host
    address, percent, zone = host.partition("%")
    return f"[{address}%25{zone}]" if percent else f"[{host}]"


def _path_bytes(path: str) -> bytes:
    # A path is bytes; those that are no UTF-8 travel in a str as lone surrogates (PEP 383).
    return path.encode("utf-8", "surrogateescape")


def _quote(text: str) -> str:
    """Escapes what a text of ours cannot hold; letters of every script stay readable, unlike ``urllib``'s ``quote``."""
    return "".join(
        character if character.isprintable() and character not in " %?&#" else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    try:
        escaped = _path_bytes(character)
    except UnicodeEncodeError:  # a surrogate that stands for no byte: no system call ever gave or took it
        escaped = b"?"
    return "".join(f"%{byte:02X}" for byte in escaped)


def _path_of_sockaddr(path: str | bytes) -> str:
    text = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    return "@" + text[1:] if text.startswith("\0") else text


def _interface_name(index: int) -> str:
    try:
        return _socket_std.if_indextoname(index)
    except (OSError, OverflowError, TypeError, ValueError):  # gone since, or never this machine's
        return str(index)


def _name_of(prefix: str, number: int) -> str:
    """``AF_INET`` for 2, ``SOCK_STREAM`` for 1, whether or not it comes as the ``enum`` of Python's socket module."""
    enum = _socket_std.AddressFamily if prefix == "AF_" else _socket_std.SocketKind
    try:
        return enum(number).name
    except ValueError:
        return f"{prefix}{number}"
