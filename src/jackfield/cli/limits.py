"""The flags of ``serve`` that say who may come in, how, and for how long."""

from __future__ import annotations

import argparse
import re

from jackfield.cli.arguments import Switch, UsageError, count, duration, size, typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from jackfield.limits import Limits
    from jackfield.serving import ProxyRule
    from jackfield.tls import TLS

__all__ = ["configure", "encrypted_of", "limits_of", "proxy_of", "tls_of"]

_OFF = "0"


def _patience(text: str) -> float | None:
    """A duration; 0 switches the deadline off."""
    return duration(text) or None


def _rate(text: str) -> Any:
    from jackfield.admission import Rate

    return None if text == _OFF else typed(Rate.parse, text)


def _times(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of times: write e.g. 3 or 1.5, or 0 (off)")
    return float(text)


def _peers(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


#: Flag, metavar, type, the limit that it sets, help.
_LIMITS: tuple[tuple[str, str, Any, str, str], ...] = (
    ("--max-connections", "N", count(1), "max_connections", "at once (default 10000, or what descriptors allow)"),
    ("--max-connections-per-ip", "N", count(0), "max_connections_per_address",
     "at once from one address, IPv6 by /64; 0: off (default a quarter of all, at least 16; not this machine's own)"),
    ("--accept-rate", "N/s[,BURST]", _rate, "accept_rate", "new connections, e.g. 100/s, 10/m or 100/s,200; 0: off"),
    ("--accept-rate-per-ip", "N/s[,BURST]", _rate, "accept_rate_per_address", "the same for each address"),
    ("--idle-timeout", "TIME", _patience, "idle_timeout",
     "while nothing comes that is waited for (default 60s; 0: off)"),
    ("--first-byte-timeout", "TIME", _patience, "first_byte_timeout", "until the first byte (default 30s; 0: off)"),
    ("--write-timeout", "TIME", _patience, "send_timeout",
     "while the peer takes nothing of an answer (default 30s; 0: off)"),
    ("--message-timeout", "TIME", _patience, "message_timeout",
     "for one line or block, plus its bytes / 500 s (default 30s; 0: off)"),
    ("--max-lifetime", "TIME", _patience, "connection_lifetime", "of any connection (default off)"),
    ("--handshake-timeout", "TIME", _patience, "handshake_timeout", "for PROXY header and TLS (default 5s; 0: off)"),
    ("--max-datagram", "SIZE", size, "max_datagram", "longer datagrams are dropped, e.g. 1400, 8k (default 65535)"),
    ("--datagram-rate", "N/s[,BURST]", _rate, "datagram_rate", "datagrams that come (default off)"),
    ("--datagram-rate-per-ip", "N/s[,BURST]", _rate, "datagram_rate_per_address", "the same for each address"),
    ("--amplification", "N", _times, "amplification",
     "bytes sent to an address for each that came, until it has answered twice (default 3; 0: off)"),
    ("--reply-rate-per-ip", "N/s[,BURST]", _rate, "reply_rate_per_address",
     "datagrams sent to one address (default 100/s,25; 0: off)"),
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("limits")
    for flag, metavar, kind, _, text in _LIMITS:
        group.add_argument(flag, metavar=metavar, type=kind, default=_UNSET, help=text)
    group.add_argument(
        "--when-full", choices=("wait", "reject"), metavar="wait|reject",
        help="clients above the limit stay in the queue, or are turned away after a second there (default reject)",
    )  # fmt: skip
    for name, who in (("allow", "only these may come in"), ("deny", "these may not")):
        group.add_argument(
            f"--{name}", metavar="CIDR,…", type=_peers, action="extend", help=f"{who}: addresses, networks, uid:N"
        )
        group.add_argument(
            f"--{name}-file", metavar="FILE", help="the same from a file, an entry a line; read again at SIGHUP"
        )

    tls = parser.add_argument_group("TLS")
    tls.add_argument(
        "--tls-cert", metavar="FILE",
        help="certificate and those above it, PEM; every stream speaks TLS, or with -b tls:// those that say so",
    )  # fmt: skip
    tls.add_argument("--tls-key", metavar="FILE", help="its key, if that is not in the same file")
    tls.add_argument("--tls-password-file", metavar="FILE", help="the key's password, in the first line")
    tls.add_argument("--tls-client-ca", metavar="FILE", help="who may sign the clients' certificates")
    tls.add_argument("--tls-client-auth", choices=("none", "optional", "required"), metavar="WHEN",
                     help="none (default), optional, required (default with --tls-client-ca)")  # fmt: skip
    tls.add_argument("--tls-min", choices=("1.2", "1.3"), metavar="VERSION", help="1.2 (default) or 1.3")
    tls.add_argument("--tls-alpn", metavar="LIST", type=_peers, help="protocols, the dearest first")
    tls.add_argument("--tls-self-signed", action=Switch,
                     help="a certificate for development, made now")  # fmt: skip

    proxy = parser.add_argument_group("PROXY protocol")
    proxy.add_argument(
        "--proxy-protocol", nargs="?", const="auto", default="off", choices=("off", "auto", "v1", "v2", "optional"),
        metavar="off|auto|v1|v2|optional",
        help="connections begin with the header of a proxy (default off); optional: those that do not are served, too",
    )  # fmt: skip
    proxy.add_argument(
        "--proxy-allow-from", metavar="CIDR,…", type=_peers, action="extend",
        help="the proxies that may connect (default 127.0.0.0/8,::1,unix)",
    )  # fmt: skip


_UNSET = object()


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits that the flags mean; UsageError for what cannot be meant."""
    from jackfield.limits import Limits

    changes: dict[str, Any] = {}
    for flag, _, _, name, _ in _LIMITS:
        value = getattr(options, flag[2:].replace("-", "_"))
        if value is not _UNSET:
            changes[name] = None if value == 0 else value
    if options.when_full is not None:
        changes["when_full"] = "wait" if options.when_full == "wait" else "refuse"
    for name in ("allow", "deny"):
        entries = _entries(name, getattr(options, name), getattr(options, f"{name}_file"))
        if entries is not None:
            changes[name] = entries
    try:
        return Limits(**changes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _entries(name: str, listed: list[str] | None, file: str | None) -> Any:
    from jackfield.admission import PeerList

    if listed is None and file is None:
        return None
    try:
        return PeerList(listed or []) if file is None else PeerList.from_file(file, also=listed or [])
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from None
    except OSError as error:
        raise UsageError(f"--{name}-file: cannot read {file}: {error.strerror}") from None


def wants_tls(options: argparse.Namespace) -> bool:
    """Whether the flags switch TLS on."""
    return options.tls_cert is not None or options.tls_self_signed


def encrypted_of(options: argparse.Namespace, locations: Iterable[str]) -> set[str]:
    """Those of the real addresses of the listeners that speak TLS: such of the scheme tls, or where there are none, and
    the flags say so, every stream."""
    from jackfield.address import parse_address

    addresses = {location: parse_address(location) for location in locations}
    found = {location for location, address in addresses.items() if address.is_tls}
    if not found and wants_tls(options):
        found = {location for location, address in addresses.items() if not address.is_datagram}
    return found


def tls_of(options: argparse.Namespace) -> TLS | None:
    """What the flags say of TLS; None where nothing is said."""
    given = [
        flag
        for flag in ("key", "password_file", "client_ca", "client_auth", "min", "alpn")
        if getattr(options, f"tls_{flag}") is not None
    ]
    if not wants_tls(options):
        if given:
            raise UsageError(f"--tls-{given[0].replace('_', '-')} goes with --tls-cert FILE, or --tls-self-signed")
        return None
    if options.tls_cert is not None and options.tls_self_signed:
        raise UsageError("--tls-self-signed makes a certificate, and --tls-cert names one: leave one of them out")
    from jackfield.tls import TLS, self_signed

    auth = options.tls_client_auth or ("required" if options.tls_client_ca else "none")
    more = {"client_ca": options.tls_client_ca, "client_auth": auth, "min_version": options.tls_min or "1.2",
            "alpn": tuple(options.tls_alpn or ())}  # fmt: skip
    try:
        if options.tls_self_signed:
            import dataclasses

            return dataclasses.replace(self_signed(), **more)
        return TLS(options.tls_cert, options.tls_key, options.tls_password_file, **more)
    except ValueError as error:
        raise UsageError(str(error)) from None


def proxy_of(options: argparse.Namespace) -> ProxyRule | None:
    """What the flags say of the PROXY protocol; None where it is off."""
    if options.proxy_protocol == "off":
        if options.proxy_allow_from:
            raise UsageError("--proxy-allow-from goes with --proxy-protocol")
        return None
    from jackfield.admission import PeerList
    from jackfield.serving import ProxyRule

    versions = {"v1": {1}, "v2": {2}}.get(options.proxy_protocol, {1, 2})
    more: dict[str, Any] = {"required": options.proxy_protocol != "optional"}
    if options.proxy_allow_from:
        try:
            more["allow_from"] = PeerList(options.proxy_allow_from)
        except ValueError as error:
            raise UsageError(f"--proxy-allow-from: {error}") from None
    return ProxyRule(versions=frozenset(versions), **more)
