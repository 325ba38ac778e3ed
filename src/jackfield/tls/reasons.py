"""Why TLS failed, in a person's words: from OpenSSL's name of the reason, never from a byte that the peer has sent."""

from __future__ import annotations

import re
import ssl

from jackfield.errors import TLSError, TLSHandshakeError

_WORDS = {
    "HTTP_REQUEST": "the client speaks plain HTTP on a TLS port",
    "HTTPS_PROXY_REQUEST": "the client speaks plain HTTP on a TLS port",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS, or no version of it that is known",
    "UNEXPECTED_MESSAGE": "the peer sent what has no place in a handshake",
    "UNSUPPORTED_PROTOCOL": "the peer has no TLS version in common with this side",
    "VERSION_TOO_LOW": "the peer has no TLS version in common with this side",
    "NO_PROTOCOLS_AVAILABLE": "the peer has no TLS version in common with this side",
    "NO_SHARED_CIPHER": "the peer has no cipher in common with this side",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the peer takes no signature that this side's certificate allows",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate, and one is required",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "a record was changed on its way",
    "NO_RENEGOTIATION": "the peer wants to renegotiate, which is not allowed",
}

# OpenSSL names an alert of the peer's by its number: SSLV3_ALERT_BAD_CERTIFICATE, TLSV1_ALERT_UNKNOWN_CA and so on.
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_([A-Z_]+)")


class PeerError(TLSError, ssl.SSLError):
    """A :class:`TLSError` that ``except ssl.SSLError`` catches too; ``reason`` and ``library`` are OpenSSL's."""

    def __str__(self) -> str:
        return str(self.args[-1])


class PeerHandshakeError(TLSHandshakeError, PeerError):
    """A :class:`TLSHandshakeError` that ``except ssl.SSLError`` catches too."""


def in_words(error: ssl.SSLError) -> str:
    """One line about a failure that OpenSSL has found."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    if reason in _WORDS:
        return _WORDS[reason]
    alert = _ALERT.fullmatch(reason)
    if alert is not None:
        return f"the peer refuses: {alert[1].replace('_', ' ').lower()}"
    return f"TLS failed: {reason.replace('_', ' ').lower() or 'for a reason that OpenSSL does not name'}"


def translated(error: ssl.SSLError, *, in_handshake: bool) -> TLSError:
    """Our error for one of OpenSSL's, which is to be its cause."""
    kind = PeerHandshakeError if in_handshake else PeerError
    ours = kind(ssl.SSL_ERROR_SSL, in_words(error))
    ours.reason, ours.library = error.reason, error.library
    return ours
