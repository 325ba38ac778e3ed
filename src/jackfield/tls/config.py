"""What a listener is told about TLS: one frozen value, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Path = str | os.PathLike[str]

#: For TLS 1.2: forward secrecy and authenticated encryption only, so no CBC suite (RFC 9325 4.2). TLS 1.3 has no other.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_VERSIONS = ("1.2", "1.3")
_CLIENT_AUTH = ("none", "optional", "required")


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS for a listener. Only ``cert`` is needed, if the key is in the same file.

    ``cert`` and ``key`` are files in PEM; the certificates that lead up to the authority's follow the server's own in
    the first. ``password_file`` holds the password of an encrypted key, in its first line. ``more`` are further pairs
    ``(cert, key)``, of which the one for the name that a client asks for is served; the first is for everybody else.

    ``client_auth`` is ``"none"`` (default), ``"optional"`` or ``"required"``; the authorities of the clients are in
    ``client_ca``. ``min_version`` is ``"1.2"`` (default) or ``"1.3"``. ``alpn`` are the protocols spoken here, the
    dearest first; with ``alpn_required`` a client that offers none of them is refused (RFC 7301 3.2), else it is served
    without. ``ciphers`` are for TLS 1.2, as ``openssl ciphers`` writes them; by default those with forward secrecy and
    authenticated encryption.

    :raises ValueError: the values do not go together; one line that says what to write.
    """

    cert: Path
    key: Path | None = None
    password_file: Path | None = None
    more: tuple[tuple[Path, Path | None], ...] = ()
    client_ca: Path | None = None
    client_auth: Literal["none", "optional", "required"] = "none"
    min_version: Literal["1.2", "1.3"] = "1.2"
    alpn: tuple[str, ...] = ()
    alpn_required: bool = False
    ciphers: str = CIPHERS

    def __post_init__(self) -> None:
        object.__setattr__(self, "more", tuple((cert, key) for cert, key in self.more))
        object.__setattr__(self, "alpn", check_protocols(self.alpn))
        if self.min_version not in _VERSIONS:
            raise ValueError(f"no TLS version that is safe: {self.min_version!r}: write min_version='1.2' or '1.3'")
        if self.client_auth not in _CLIENT_AUTH:
            raise ValueError(f"client_auth is 'none', 'optional' or 'required', not {self.client_auth!r}")
        if self.client_auth != "none" and self.client_ca is None:
            raise ValueError("who may sign the clients' certificates? add client_ca='authorities.pem'")
        if self.client_auth == "none" and self.client_ca is not None:
            raise ValueError("client_ca is for clients' certificates: add client_auth='required' or 'optional'")
        if self.alpn_required and not self.alpn:
            raise ValueError("alpn_required needs protocols: add e.g. alpn=('h2', 'http/1.1')")

    @property
    def pairs(self) -> tuple[tuple[Path, Path | None], ...]:
        """All pairs of certificate and key, the one for everybody first."""
        return ((self.cert, self.key), *self.more)


def check_protocols(alpn: Iterable[str]) -> tuple[str, ...]:
    """Names of protocols for ALPN, as a tuple. ValueError for what is none."""
    if isinstance(alpn, str):
        raise ValueError(f"alpn is several protocols: write alpn=({alpn!r},)")
    names = tuple(alpn)
    for name in names:
        if not 0 < len(name) < 256 or not name.isascii():
            raise ValueError(f"a protocol of ALPN has 1 to 255 letters of ASCII, not {name[:40]!a}")
    return names
