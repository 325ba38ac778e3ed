"""What two sides have agreed upon: one frozen record, for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """What two sides have agreed upon. ``version`` is ``"TLSv1.3"`` or ``"TLSv1.2"``; ``cipher`` OpenSSL's name;
    ``sni`` the name the client asked for; ``alpn`` the protocol; ``peer_certificate`` as ``getpeercert()`` tells it,
    None if there is none; ``resumed`` whether an earlier session was taken up."""

    version: str
    cipher: str
    sni: str | None
    alpn: str | None
    peer_certificate: dict[str, Any] | None
    resumed: bool


def agreed(sock: Any) -> TLSInfo | None:
    """What was agreed on a TLS socket of ours or of the ssl module's; None before its handshake."""
    version, cipher = sock.version(), sock.cipher()
    if version is None or cipher is None:
        return None
    return TLSInfo(
        version=version,
        cipher=cipher[0],
        sni=sock.server_hostname,
        alpn=sock.selected_alpn_protocol(),
        peer_certificate=sock.getpeercert() or None,
        resumed=bool(sock.session_reused),
    )
