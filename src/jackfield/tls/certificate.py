"""What stands in a certificate: for whom it is and until when, read from its DER.

The ssl module tells this of a peer's certificate only, and of one that it has verified, which an expired one is not;
the library ``cryptography`` would tell it and is not required. What is needed is a dozen fields down a tree (RFC 5280
4.1), of a file that the administrator wrote and OpenSSL has loaded.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# Tags of DER (X.690 8.1.2) and, at the end, of GeneralName's choices (RFC 5280 4.2.1.6).
_SEQUENCE, _OBJECT, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x06, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87

_ALTERNATIVE_NAMES, _COMMON_NAME = bytes.fromhex("551d11"), bytes.fromhex("550403")  # 2.5.29.17, 2.5.4.3

_UTC = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})Z")
_GENERALIZED = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})Z")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """For whom a certificate is (DNS names in lower case, addresses as Python writes them) and from when until when."""

    names: tuple[str, ...]
    starts: datetime
    expires: datetime

    def covers(self, name: str) -> bool:
        """Whether it is for this host name; a ``*`` stands for the whole first label (RFC 9525 6.3)."""
        first, dot, rest = name.partition(".")
        return name in self.names or bool(first and dot and f"*.{rest}" in self.names)


def certificate_facts(pem: str) -> CertificateFacts:
    """The facts of the first certificate of a PEM text, which is the server's own (RFC 8446 4.4.2).

    :raises ValueError: there is none in it.
    """
    block = _PEM.search(pem)
    if block is None:
        raise ValueError("no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(block[0])
    (_, certificate), *_ = _items(der)
    (_, body), *_ = _items(certificate)
    fields = [field for field in _items(body) if field[0] != _VERSION]
    _serial, _algorithm, _issuer, (_, validity), (_, subject), *rest = fields
    starts, expires = (_time(tag, value) for tag, value in _items(validity))
    names = tuple(_alternative_names(rest)) or tuple(_common_names(subject))
    return CertificateFacts(names, starts, expires)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each item of what is a sequence of them."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("a certificate that is cut off")
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    match = (_UTC if tag == _UTC_TIME else _GENERALIZED).fullmatch(text)
    if match is None:
        raise ValueError("a certificate with no time where its validity stands")
    year, month, day, hour, minute, second = (int(digits) for digits in match.groups())
    if tag == _UTC_TIME:
        year += 1900 if year >= 50 else 2000  # RFC 5280 4.1.2.5.1
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _alternative_names(fields: list[tuple[int, bytes]]) -> Iterator[str]:
    for tag, value in fields:
        if tag != _EXTENSIONS:
            continue
        ((_, extensions),) = _items(value)
        for _, extension in _items(extensions):
            (_, kind), *_, (_, content) = _items(extension)
            if kind != _ALTERNATIVE_NAMES:
                continue
            ((_, names),) = _items(content)
            for choice, name in _items(names):
                if choice == _DNS_NAME:
                    yield name.decode("ascii", "replace").lower()
                elif choice == _IP_ADDRESS and len(name) in (4, 16):
                    yield str(ipaddress.ip_address(name))


def _common_names(subject: bytes) -> Iterator[str]:
    """What was looked at before there were alternative names."""
    for _, relative in _items(subject):
        for _, attribute in _items(relative):
            (_, kind), (_, value) = _items(attribute)
            if kind == _COMMON_NAME:
                yield value.decode("utf-8", "replace").lower()
