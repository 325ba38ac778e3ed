"""The limits of a server: one frozen object, with every default in one place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from jackfield.admission.networks import PeerList
from jackfield.admission.penalties import Penalties
from jackfield.admission.rates import Rate
from jackfield.admission.texts import show

__all__ = ["LOOPBACK", "Limits"]

#: This machine, by IP and by Unix sockets.
LOOPBACK = PeerList(["127.0.0.0/8", "::1", "unix"])

# Values, which never change, so that all limits may share them.
_PENALTIES = Penalties()
_REPLIES = Rate(100, burst=25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of a server its peers may have; the defaults are for an open network.

    Times are in seconds, sizes in bytes; None switches a limit off.  Each limit is a total for the whole server, or its
    name says otherwise.  :meth:`none` is the other end: everything off, as under the names of the standard library.

    *Connections*

    :param max_connections: at once, 1 or more; default 10,000.  A connection costs a descriptor, so a server keeps
        below what the system gives it (HAProxy takes its maxconn from there; ranch has 1,024 for each supervisor).
    :param when_full: ``"refuse"`` (default) or ``"wait"``.  Clients above ``max_connections`` wait in the kernel's
        queue: with ``"wait"`` until there is room (tcpserver, Go's LimitListener), with ``"refuse"`` for
        ``full_patience``, and are then accepted, sent ``refusal`` and closed, so that they know (Envoy, xinetd).
    :param full_patience: default 1.0 (Thousand Island tries five times at 1 s).
    :param refusal: bytes for those turned away for want of room; default ``b""``, none (xinetd: ``banner_fail``).
    :param max_connections_per_address: at once; default ``"auto"``, which is a quarter of ``max_connections`` but at
        least 16, so that it takes four addresses to keep everybody out (Postfix 50; s6-tcpserver 40; systemd none).
    :param ipv4_prefix: bits of an IPv4 address, 1 to 32, by which addresses count as one; default 32 (OpenSSH's
        PerSourceNetBlockSize).
    :param ipv6_prefix: the same for IPv6, 1 to 128; default 64, what one household has (RFC 6177; OpenSSH has 128).
    :param max_handshakes: connections at once whose PROXY header and TLS are not done; default ``"auto"``, a quarter
        of ``max_connections`` but at least 16 (OpenSSH's MaxStartups refuses some from 10 and all from 100).
    :param accept_rate: :class:`~jackfield.admission.Rate` of all new connections; default None (xinetd's ``cps`` has
        50/s).
    :param accept_rate_per_address: of each address; default None (Postfix's anvil counts the same, and has none
        either).

    *Peers*

    :param allow: :class:`~jackfield.admission.PeerList`: nobody else may come in; default None, everybody may.
    :param deny: who may not, also where ``allow`` has them (nginx stream and xinetd have such a pair); default None.
    :param exempt: for whom the limits per address, the rates and bans do not hold; ``allow``, ``deny`` and the totals
        do.  Default :data:`LOOPBACK`, 127.0.0.0/8, ::1 and every Unix socket: what comes from there is trusted, or
        forwarded for many. A proxy that is not on this machine belongs in here.
    :param penalties: what breaking the rules costs an address; default :class:`~jackfield.admission.Penalties` as it
        is (OpenSSH's PerSourcePenalties, on by default since 9.8).

    *Time*

    :param handshake_timeout: for PROXY header and TLS handshake together; default 5.0 (ranch and Thousand Island 5,
        Envoy 15, nginx 60).
    :param first_byte_timeout: from then to the first byte; default 30.0 (nginx's preread_timeout).
    :param idle_timeout: while nothing comes that is waited for; default 60.0 (Thousand Island's read_timeout).
    :param pressure: share of ``max_connections``, above 0 up to 1, above which there is pressure; default 0.8.
    :param pressure_idle_timeout: what ``idle_timeout`` and ``first_byte_timeout`` come down to under pressure, those
        idle longest first; default 5.0 (Postfix under stress: from 300 to 10).
    :param send_timeout: while the peer takes nothing of what is sent; default 30.0 (ranch).
    :param connection_lifetime: of any connection; default None.
    :param message_timeout: from the first byte of a message to its last, on top of its bytes / ``min_rate``; default
        30.0 (Postfix's request deadline under stress).
    :param min_rate: bytes a second: what a message adds to ``message_timeout`` by, and what a peer has to take of an
        answer over a minute; default 500.0 (Postfix's smtpd_min_data_rate).

    *Sizes*

    :param max_line: of a line that is read without a size; default 65,536 (asyncio's streams; Postfix 2,048, gunicorn
        4,094).
    :param max_message: of what is read at one go; default 1 MiB.
    :param write_buffer: waiting here for a peer to take it, for each connection; default 1 MiB (Envoy's
        per_connection_buffer_limit_bytes). It always holds: no ``wfile`` keeps anything back, and whoever writes waits
        until the kernel has taken it all (asyncio's transports collect, and pause whoever writes by ``drain()``).

    *Datagrams*

    ``allow`` and ``deny`` hold for them too, and ``exempt`` for their rates. What is dropped and what is withheld is
    counted in :class:`~jackfield.ServerInfo`; a handler is not told of a reply that was withheld.

    :param max_datagram: longer ones are dropped whole; default 65,535, more than any UDP datagram carries (RFC 768).
        Off is the same; a larger number matters for Unix sockets only.
    :param datagram_rate: :class:`~jackfield.admission.Rate` of all that come; default None.
    :param datagram_rate_per_address: of those from one address; default None.
    :param amplification: bytes sent to an address, at most so many times those that came from it, until it has
        answered twice; 1 or more, default 3.0 (QUIC, RFC 9000 8.1). One that nothing came from is sent nothing.
    :param reply_rate_per_address: of datagrams sent to one address; default 100/s and 25 at once, so that two
        servers made to answer each other (CVE-2024-2169) send no hundred datagrams, even if a round takes them 5 ms.
        While it is on, datagrams are dropped that come in the server's own name, or from a port of services that
        answer anything (7, 13, 17, 19, 37), also of who is exempt.
    :raises ValueError: a value that cannot be meant; one line that says what to write.
    """

    max_connections: int | None = 10_000
    when_full: Literal["refuse", "wait"] = "refuse"
    full_patience: float = 1.0
    refusal: bytes = b""
    max_connections_per_address: int | Literal["auto"] | None = "auto"
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    max_handshakes: int | Literal["auto"] | None = "auto"
    accept_rate: Rate | None = None
    accept_rate_per_address: Rate | None = None

    allow: PeerList | None = None
    deny: PeerList | None = None
    exempt: PeerList = LOOPBACK
    penalties: Penalties | None = _PENALTIES

    handshake_timeout: float | None = 5.0
    first_byte_timeout: float | None = 30.0
    idle_timeout: float | None = 60.0
    pressure: float = 0.8
    pressure_idle_timeout: float | None = 5.0
    send_timeout: float | None = 30.0
    connection_lifetime: float | None = None
    message_timeout: float | None = 30.0
    min_rate: float | None = 500.0

    max_line: int | None = 65_536
    max_message: int | None = 1 << 20
    write_buffer: int | None = 1 << 20

    max_datagram: int | None = 65_535
    datagram_rate: Rate | None = None
    datagram_rate_per_address: Rate | None = None
    amplification: float | None = 3.0
    reply_rate_per_address: Rate | None = _REPLIES

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_line", "max_message", "write_buffer", "max_datagram"):
            self._check(name, _is_whole(getattr(self, name), 1), "a whole number from 1, or None (off)")
        for name in ("max_connections_per_address", "max_handshakes"):
            value = getattr(self, name)
            self._check(name, value == "auto" or _is_whole(value, 1), "a whole number from 1, 'auto' or None (off)")
        for name in (
            "handshake_timeout", "first_byte_timeout", "idle_timeout", "pressure_idle_timeout", "send_timeout",
            "connection_lifetime", "message_timeout",
        ):  # fmt: skip
            self._check(name, _is_number(getattr(self, name)), "seconds above 0, or None (off)")
        self._check("min_rate", _is_number(self.min_rate), "bytes a second above 0, or None (off)")
        for name in ("accept_rate", "accept_rate_per_address", "datagram_rate", "datagram_rate_per_address",
                     "reply_rate_per_address"):  # fmt: skip
            self._check(name, _is(Rate, getattr(self, name)), "a rate, e.g. Rate.parse('100/s'), or None (off)")
        for name in ("allow", "deny"):
            self._check(name, _is(PeerList, getattr(self, name)), "e.g. PeerList(['10.0.0.0/8']), or None (off)")
        self._check("exempt", isinstance(self.exempt, PeerList), "e.g. PeerList(['127.0.0.0/8']), or PeerList() (none)")
        self._check("penalties", _is(Penalties, self.penalties), "e.g. Penalties({'tls_error': 5.0}), or None (off)")
        self._check("when_full", self.when_full in ("refuse", "wait"), "'refuse' or 'wait'")
        patient = self.full_patience == 0 or _is_number(self.full_patience, False)
        self._check("full_patience", patient, "0 or more seconds")
        self._check("refusal", isinstance(self.refusal, bytes), "bytes, e.g. b'busy\\r\\n', or b'' (none)")
        self._check("ipv4_prefix", _is_whole(self.ipv4_prefix, 1, 32, False), "a whole number from 1 to 32")
        self._check("ipv6_prefix", _is_whole(self.ipv6_prefix, 1, 128, False), "a whole number from 1 to 128")
        self._check("pressure", _is_number(self.pressure, False) and self.pressure <= 1, "above 0 up to 1, e.g. 0.8")
        self._check(
            "amplification",
            self.amplification is None or (_is_number(self.amplification) and self.amplification >= 1),
            "1 or more times the bytes received, or None (off)",
        )

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name} is {show(getattr(self, name))}: write {wanted}")

    @classmethod
    def none(cls, **changes: Any) -> Limits:
        """Everything off, but for ``changes``: what the drop-in names have."""
        off: dict[str, Any] = {
            one.name: None for one in dataclasses.fields(cls) if isinstance(one.type, str) and "None" in one.type
        }
        return cls(**{**off, "when_full": "wait", **changes})

    def replace(self, **changes: Any) -> Limits:
        """These limits with some of them changed.

        :raises ValueError: as when made.
        :raises TypeError: there is no limit of that name.
        """
        return dataclasses.replace(self, **changes)

    @property
    def connections_per_address(self) -> int | None:
        """``max_connections_per_address`` with ``"auto"`` worked out."""
        return self._quarter(self.max_connections_per_address)

    @property
    def handshakes(self) -> int | None:
        """``max_handshakes`` with ``"auto"`` worked out."""
        return self._quarter(self.max_handshakes)

    def _quarter(self, value: int | Literal["auto"] | None) -> int | None:
        if value != "auto":
            return value
        return None if self.max_connections is None else max(16, self.max_connections // 4)


def _is_whole(value: object, least: int, most: float = math.inf, or_none: bool = True) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, or_none: bool = True) -> bool:
    if value is None:
        return or_none
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is(kind: type, value: object) -> bool:
    return value is None or isinstance(value, kind)
