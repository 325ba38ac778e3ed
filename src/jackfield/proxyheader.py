"""What a PROXY header says, as a value; and writing it.

A proxy that opens a connection on behalf of a client begins it with this header, so that the server learns the
client's address.  The format is HAProxy's, ``proxy-protocol.txt`` of 2020/03/05: version 1 is a line of text, version 2
is binary and may carry further values, each with its type and length (TLV).  :mod:`jackfield.proxyproto` reads it.
"""

from __future__ import annotations

import functools
import socket as _socket_std
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

__all__ = ["LONGEST_PAYLOAD", "ProxyAddress", "ProxyHeader", "ProxyTLS", "checksum", "encode", "own_header"]

Command = Literal["PROXY", "LOCAL"]
Protocol = Literal["TCP4", "TCP6", "UDP4", "UDP6", "UNIX", "UNIX-DGRAM", "UNKNOWN"]
ProxyAddress = tuple[str, int] | tuple[str, int, int, int] | str
"""An address as the socket module writes it: ``(host, port)`` of IPv4, ``(host, port, 0, 0)`` of IPv6, the path of a
Unix socket (``""`` where it has none)."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_PAYLOAD = 4096
"""The most bytes after the first 16 of version 2.  The field would hold 65,535; the specification has its senders stay
within 536 in all (section 2), so that one segment holds them."""

# Family in the high four bits, transport in the low four (section 2.2): these seven are the ones it defines.
PROTOCOL_BYTES: dict[int, Protocol] = {
    0x00: "UNKNOWN", 0x11: "TCP4", 0x12: "UDP4", 0x21: "TCP6", 0x22: "UDP6", 0x31: "UNIX", 0x32: "UNIX-DGRAM",
}  # fmt: skip
_BYTE_OF = {protocol: byte for byte, protocol in PROTOCOL_BYTES.items()}
_INET = struct.Struct("!4s4sHH")
_INET6 = struct.Struct("!16s16sHH")
_UNIX = struct.Struct("!108s108s")  # sun_path of Linux (unix(7)); fewer bytes are followed by NUL
_BLOCKS: dict[Protocol, struct.Struct] = {
    "UNKNOWN": struct.Struct(""), "TCP4": _INET, "UDP4": _INET, "TCP6": _INET6, "UDP6": _INET6, "UNIX": _UNIX,
    "UNIX-DGRAM": _UNIX,
}  # fmt: skip
BLOCK_SIZES = {protocol: block.size for protocol, block in _BLOCKS.items()}

ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
_TLS_TEXTS = {0x21: "version", 0x22: "cn", 0x23: "cipher", 0x24: "sig_alg", 0x25: "key_alg"}
TLS_FIXED = struct.Struct("!BI")

# Sizes that the specification fixes, in bytes of the value.  That of SSL holds TLVs of its own, each of at least three.
SizeRule = Callable[[int], bool]
TLV_SIZES: dict[int, SizeRule] = {
    CRC32C: lambda size: size == 4,
    UNIQUE_ID: lambda size: size <= 128,
    SSL: lambda size: size == TLS_FIXED.size or size >= TLS_FIXED.size + 3,
}


@dataclass(frozen=True, slots=True, repr=False)
class ProxyTLS:
    """What the proxy tells of the client's TLS (section 2.2.6).

    :param client: the sum of 1 (the client came over TLS), 2 (with a certificate, on this connection) and 4 (with one,
        at some time in this TLS session).
    :param verify: 0 if the client's certificate was verified; it says nothing where there was none: ask ``verified``.
    :param version: of TLS, e.g. ``"TLSv1.3"``; None, like those that follow, where the proxy did not tell.
    :param cn: the common name in the client's certificate.
    :param cipher: e.g. ``"ECDHE-RSA-AES128-GCM-SHA256"``.
    :param sig_alg: how the proxy's own certificate is signed, e.g. ``"SHA256"``.
    :param key_alg: the key of the proxy's own certificate, e.g. ``"RSA2048"``.
    :raises ValueError: ``client`` does not fit in 8 bits, or ``verify`` in 32.

    Bytes that are no UTF-8 stand as lone surrogates in the texts (PEP 383).
    """

    client: int = 1
    verify: int = 0
    version: str | None = None
    cn: str | None = None
    cipher: str | None = None
    sig_alg: str | None = None
    key_alg: str | None = None

    def __post_init__(self) -> None:
        _check_number("client", self.client, 0xFF)
        _check_number("verify", self.verify, 0xFFFFFFFF)

    @property
    def verified(self) -> bool:
        """True where the client has shown a certificate, and the proxy has verified it."""
        return bool(self.client & 0x06) and self.verify == 0

    def pack(self) -> bytes:
        """The value of the TLV, of type 0x20."""
        texts = [(kind, getattr(self, name)) for kind, name in _TLS_TEXTS.items()]
        return TLS_FIXED.pack(self.client, self.verify) + _pack_tlvs(
            tuple((kind, _bytes(text)) for kind, text in texts if text is not None)
        )

    @classmethod
    def unpack(cls, value: bytes) -> ProxyTLS:
        """What a value of :meth:`pack`, or of another's, says; of two texts of one kind the first counts.

        :raises ValueError: it is cut short.
        """
        if len(value) < TLS_FIXED.size:
            raise ValueError(f"a PROXY header's TLS value has at least {TLS_FIXED.size} bytes, not {len(value)}")
        texts: dict[str, str] = {}
        for kind, text in _split_tlvs(value[TLS_FIXED.size :]):
            if kind in _TLS_TEXTS:
                texts.setdefault(_TLS_TEXTS[kind], _text(text))
        client, verify = TLS_FIXED.unpack_from(value)
        return cls(client, verify, *(texts.get(name) for name in _TLS_TEXTS.values()))

    def __repr__(self) -> str:
        texts = (f", {name}={_show(getattr(self, name))}" for name in _TLS_TEXTS.values() if getattr(self, name))
        return f"ProxyTLS(client={self.client}, verify={self.verify}{''.join(texts)})"


@dataclass(frozen=True, slots=True, repr=False)
class ProxyHeader:
    """One PROXY header, of either version; what cannot be one is refused when it is made.

    :param version: 1 or 2.
    :param command: ``"PROXY"``: the connection is another's, whose addresses these are.  ``"LOCAL"`` (version 2): it is
        the proxy's own, e.g. to see whether the server lives, and has no addresses but its real ones.
    :param protocol: what the client speaks to the proxy; ``"UNKNOWN"`` has no addresses, and is all that LOCAL has.
        Version 1 knows ``"TCP4"``, ``"TCP6"`` and ``"UNKNOWN"``.
    :param source: the client's address; None where there is none.  It is the proxy's word and a text: nothing here
        hands it to the operating system.
    :param destination: the address that the client has connected to, likewise.
    :param tlvs: what version 2 carries beside, as (type, value), in order.
    :raises ValueError: there is no such header; one line that says what it can be.
    """

    version: int
    command: Command = "PROXY"
    protocol: Protocol = "UNKNOWN"
    source: ProxyAddress | None = None
    destination: ProxyAddress | None = None
    tlvs: tuple[tuple[int, bytes], ...] = ()

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"a PROXY header has version 1 or 2, not {self.version!r}")
        if self.command not in get_args(Command):
            raise ValueError(f"a PROXY header's command is PROXY or LOCAL, not {self.command!r}")
        if self.protocol not in _BYTE_OF:
            raise ValueError(f"a PROXY header's protocol is one of {', '.join(_BYTE_OF)}, not {self.protocol!r}")
        if self.version == 1:
            if self.command != "PROXY" or self.protocol not in ("TCP4", "TCP6", "UNKNOWN"):
                raise ValueError(f"version 1 has no {self.command} {self.protocol}: use version 2, or protocol UNKNOWN")
            if self.tlvs:
                raise ValueError("version 1 carries addresses alone: use version 2 for TLVs")
        if self.command == "LOCAL" and self.protocol != "UNKNOWN":
            raise ValueError("a LOCAL header has the protocol UNKNOWN: leave out protocol and addresses")
        for address in (self.source, self.destination):
            _check_address(self.protocol, address)
        _check_tlvs(self.tlvs, BLOCK_SIZES[self.protocol])

    @classmethod
    def of(
        cls,
        source: ProxyAddress | None,
        destination: ProxyAddress | None,
        *,
        version: int = 2,
        stream: bool = True,
        tlvs: tuple[tuple[int, bytes], ...] = (),
    ) -> ProxyHeader:
        """The header for a connection between two addresses, as ``getpeername`` and ``getsockname`` give them.

        Two times None is a connection whose addresses are not known; one of the proxy's own is
        ``ProxyHeader(2, "LOCAL")``.

        :param stream: False for UDP and Unix datagrams.
        :raises ValueError: the version cannot express it, or the two are of different families; one line that says
            what to do.
        """
        protocols = {_protocol_of(address, stream) for address in (source, destination)}
        if len(protocols) > 1:
            raise ValueError(
                f"a PROXY header has two addresses of one family, not {_show(source)} and {_show(destination)}: "
                "give both as they are on one socket"
            )
        return cls(version, "PROXY", protocols.pop(), _canonical(source), _canonical(destination), tlvs)

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of a type, or None.  0xE0 to 0xEF are for applications (section 2.2.8)."""
        return next((value for number, value in self.tlvs if number == kind), None)

    @property
    def alpn(self) -> bytes | None:
        """The protocol that the client chose by ALPN (RFC 7301), e.g. ``b"h2"``."""
        return self.tlv(ALPN)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for, in TLS its SNI.  Its word: any text at all."""
        return _text_or_none(self.tlv(AUTHORITY))

    @property
    def crc32c(self) -> int | None:
        """The checksum that the header carried; it was right."""
        value = self.tlv(CRC32C)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def unique_id(self) -> bytes | None:
        """What the proxy calls the connection: at most 128 bytes."""
        return self.tlv(UNIQUE_ID)

    @property
    def ssl(self) -> ProxyTLS | None:
        """What the proxy tells of the client's TLS."""
        value = self.tlv(SSL)
        return None if value is None else ProxyTLS.unpack(value)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace that the client came in by."""
        return _text_or_none(self.tlv(NETNS))

    def __repr__(self) -> str:
        # For logs: whatever a peer has sent stands here in ASCII, escaped, and cut.
        text = f"ProxyHeader({self.version}, {self.command!r}, {self.protocol!r}"
        if self.source is not None:
            text += f", {self.source!a}, {self.destination!a}"
        shown = [f"(0x{kind:02x}, {_show(value)})" for kind, value in self.tlvs[:8]]
        if len(self.tlvs) > len(shown):
            shown.append(f"{len(self.tlvs) - len(shown)} more")
        return text + (f", tlvs=[{', '.join(shown)}])" if shown else ")")


# --- writing --------------------------------------------------------------------------------------------------------


def encode(header: ProxyHeader, *, crc32c: bool = False) -> bytes:
    """The bytes to send first on a connection, all at once.

    :param crc32c: adds the checksum (section 2.2.3), last.  Where the header has one already it is computed anew in its
        place, so that none that is wrong is ever sent.
    :raises ValueError: version 1 has no checksum; or with it the header is too long.
    """
    if header.version == 1:
        if crc32c:
            raise ValueError("version 1 has no checksum: use version 2, or leave out crc32c")
        return _encode_line(header)
    tlvs = header.tlvs
    if crc32c and header.crc32c is None:
        tlvs += ((CRC32C, bytes(4)),)
        _check_tlvs(tlvs, BLOCK_SIZES[header.protocol])
    payload = _pack_block(header) + _pack_tlvs(
        tuple((kind, bytes(4) if kind == CRC32C else value) for kind, value in tlvs)
    )
    command = 0x20 | (header.command == "PROXY")
    whole = SIGNATURE + struct.pack("!BBH", command, _BYTE_OF[header.protocol], len(payload)) + payload
    kinds = [kind for kind, _ in tlvs]
    if CRC32C not in kinds:
        return whole
    after = _pack_tlvs(tlvs[kinds.index(CRC32C) + 1 :])
    at = len(whole) - len(after) - 4
    return whole[:at] + checksum(whole).to_bytes(4, "big") + after


def _encode_line(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    if isinstance(source, tuple) and isinstance(destination, tuple):
        addresses = f" {source[0]} {destination[0]} {source[1]} {destination[1]}"
    else:
        addresses = ""
    return f"PROXY {header.protocol}{addresses}\r\n".encode("ascii")


def _pack_block(header: ProxyHeader) -> bytes:
    source, destination = header.source, header.destination
    if source is None or destination is None:
        return b""
    block = _BLOCKS[header.protocol]
    if isinstance(source, tuple) and isinstance(destination, tuple):
        return block.pack(_pack_host(source[0]), _pack_host(destination[0]), source[1], destination[1])
    return block.pack(_bytes(str(source)), _bytes(str(destination)))


def _pack_tlvs(tlvs: tuple[tuple[int, bytes], ...]) -> bytes:
    return b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)


# --- reading what is whole ------------------------------------------------------------------------------------------


def unpack_block(protocol: Protocol, block: bytes) -> tuple[ProxyAddress | None, ProxyAddress | None]:
    """Source and destination in the address block of version 2, which has the size of the protocol's."""
    if not block:
        return None, None
    fields = _BLOCKS[protocol].unpack(block)
    if len(fields) == 2:
        # What follows the first NUL was never part of the path (unix(7)); a name in Linux's abstract namespace begins
        # with one, and is none that a header can carry.
        source, destination = (_text(path.partition(b"\0")[0]) for path in fields)
        return source, destination
    return sockaddr(fields[0], fields[2]), sockaddr(fields[1], fields[3])


def sockaddr(packed: bytes, port: int) -> ProxyAddress:
    """``(host, port)`` of 4 bytes, ``(host, port, 0, 0)`` of 16; an IPv4-mapped address stays one."""
    # A function of the C library over text and no system call: it works where the kernel has no IPv6.
    if len(packed) == 4:
        return _socket_std.inet_ntop(_socket_std.AF_INET, packed), port
    return _socket_std.inet_ntop(_socket_std.AF_INET6, packed), port, 0, 0


def _split_tlvs(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        if at + 3 + size > len(data):
            raise ValueError("a PROXY header's TLV ends after the value that it is in: give its true length")
        found.append((data[at], data[at + 3 : at + 3 + size]))
        at += 3 + size
    return found


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


def checksum(data: bytes | bytearray) -> int:
    """CRC32c: Castagnoli's polynomial, reflected (RFC 4960, appendix B; RFC 3720, 12.1)."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


# --- checking -------------------------------------------------------------------------------------------------------


def _check_number(name: str, number: object, highest: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= highest:
        raise ValueError(f"{name} in a PROXY header is a whole number from 0 to {highest}, not {_show(number)}")


def _check_address(protocol: Protocol, address: ProxyAddress | None) -> None:
    if protocol == "UNKNOWN":
        if address is not None:
            raise ValueError("a PROXY header with the protocol UNKNOWN has no addresses: leave them out")
    elif protocol.startswith("UNIX"):
        if not isinstance(address, str) or "\0" in address or len(_bytes(address)) > 108:
            raise ValueError(f"in a PROXY header a Unix path is a text of at most 108 bytes, not {_show(address)}")
    else:
        family = 4 if protocol.endswith("4") else 6
        example = ("192.0.2.1", 9999) if family == 4 else ("2001:db8::1", 9999, 0, 0)
        if not isinstance(address, tuple) or len(address) != len(example) or address[2:] != example[2:]:
            raise ValueError(f"an address of {protocol} is written {example}, not {_show(address)}")
        _check_number("a port", address[1], 65535)
        if (":" in str(address[0])) != (family == 6) or _canonical_host(address[0]) != address[0]:
            raise ValueError(f"an address of {protocol} is written {example}, not {_show(address)}: ProxyHeader.of()")


def _check_tlvs(tlvs: tuple[tuple[int, bytes], ...], size: int) -> None:
    for kind, value in tlvs:
        _check_number("the type of a TLV", kind, 0xFF)
        if not isinstance(value, bytes) or (kind in TLV_SIZES and not TLV_SIZES[kind](len(value))):
            raise ValueError(f"the TLV 0x{kind:02x} of a PROXY header cannot be {_show(value)}: see section 2.2 for it")
        if kind == SSL:
            ProxyTLS.unpack(value)
        size += 3 + len(value)
    if size > LONGEST_PAYLOAD:
        raise ValueError(f"a PROXY header of {size} bytes and 16: {LONGEST_PAYLOAD} is the most, send fewer TLVs")
    if sum(kind == CRC32C for kind, _ in tlvs) > 1:
        raise ValueError("a PROXY header has one checksum: leave out the others")


def _protocol_of(address: ProxyAddress | None, stream: bool) -> Protocol:
    if address is None:
        return "UNKNOWN"
    if isinstance(address, str):
        return "UNIX" if stream else "UNIX-DGRAM"
    if isinstance(address, tuple) and address:
        if ":" in str(address[0]):
            return "TCP6" if stream else "UDP6"
        return "TCP4" if stream else "UDP4"
    raise ValueError(f"no address for a PROXY header: {_show(address)}: give it as getpeername() does")


def _canonical(address: ProxyAddress | None) -> ProxyAddress | None:
    if not isinstance(address, tuple):
        return address
    # The zone of a link-local address means something on one machine alone, and has no place in the header.
    host = str(address[0]).partition("%")[0]
    port: int = address[1] if len(address) > 1 else -1
    return (_canonical_host(host), port, 0, 0) if ":" in host else (_canonical_host(host), port)


def _canonical_host(host: str) -> str:
    packed = _pack_host(host)
    return _socket_std.inet_ntop(_socket_std.AF_INET if len(packed) == 4 else _socket_std.AF_INET6, packed)


def _pack_host(host: str) -> bytes:
    try:
        return _socket_std.inet_pton(_socket_std.AF_INET6 if ":" in host else _socket_std.AF_INET, host)
    except (OSError, TypeError, ValueError):
        raise ValueError(f"a PROXY header carries IP addresses and no names, not {_show(host)}: resolve it") from None


def _text(value: bytes) -> str:
    # One text for each value: bytes that are no UTF-8 stay apart from one another, as lone surrogates (PEP 383).
    return value.decode("utf-8", "surrogateescape")


def _text_or_none(value: bytes | None) -> str | None:
    return None if value is None else _text(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _show(value: object) -> str:
    if isinstance(value, bytes | str) and len(value) > 40:
        return f"{value[:40]!a}..."
    text = ascii(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def own_header(sock: _socket_std.socket, version: int, source: ProxyAddress | None = None) -> ProxyHeader:
    """The PROXY header of a connected socket: what it connects from and to, or ``source`` in the place of the former.
    IPv4 beside IPv6 is written as IPv6 (RFC 4291, 2.5.5.2). A Unix socket has nothing to tell of itself: UNKNOWN, or in
    version 2 LOCAL, as HAProxy writes it; nor does it know where a client ``source`` has connected to."""
    if sock.family == _socket_std.AF_UNIX:
        if source is None:
            return ProxyHeader(1) if version == 1 else ProxyHeader(2, "LOCAL")
        names: list[Any] = [source, "" if isinstance(source, str) else ("::" if ":" in source[0] else "0.0.0.0", 0)]
    else:
        names = [source or sock.getsockname(), sock.getpeername()]
    if len({":" in name[0] for name in names if isinstance(name, tuple)}) > 1:
        names = [name if ":" in name[0] else (f"::ffff:{name[0]}", name[1]) for name in names]
    return ProxyHeader.of(*names, version=version)
