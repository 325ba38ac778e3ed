"""``connect`` over TLS: from its flags to a line that carries text, and what to do about each way in which it fails."""

from __future__ import annotations

import argparse
import contextlib
import socket as _socket_std
import ssl
import time
from typing import Any, NamedTuple

from jackfield.address import Address
from jackfield.beginning import name_of
from jackfield.cli.arguments import UsageError
from jackfield.cli.dial import LONGEST_WAIT, STREAM_CHUNK, Line, NetworkError, explain, writable
from jackfield.errors import StartError, TLSError, TLSHandshakeError
from jackfield.tls import ClientTLS, TLSSocket, start_client

__all__ = ["EncryptedLine", "Terms", "encrypt", "parse_tls"]

GOODBYE = 5.0
"""Seconds that the goodbye waits at most until there is room for it in the kernel."""

_BY_CODE = {
    # X509_V_ERR_… of openssl's x509_vfy.h, as OpenSSL has numbered them since 1.0
    10: "its certificate has expired: it needs a new one",
    9: "its certificate is not valid yet: is this machine's clock right?",
    62: "its certificate is not for {name}: --servername NAME says whom it has to be for",
    64: "its certificate is not for {name}: --servername NAME says whom it has to be for",
    18: "its certificate is signed by itself: --tls-ca FILE trusts it, where FILE is that certificate",
    19: "its certificate is by an authority that is not trusted here: --tls-ca FILE names it",
    20: "its certificate is by an authority that is not trusted here: --tls-ca FILE names it",
    21: "its certificate is by an authority that is not trusted here: --tls-ca FILE names it",
    23: "its certificate was revoked",
    26: "its certificate is not one for a server",
}
_UNCHECKED = "; -k talks to it unchecked"

_BY_ALERT = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate from its clients: --tls-cert FILE --tls-key FILE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "it finds nothing in common with this side, or wants a certificate from its clients: --tls-cert FILE"
    ),
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust who signed the certificate of --tls-cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take the certificate of --tls-cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the certificate of --tls-cert has expired",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "it speaks none of the protocols of --alpn",
    "TLSV1_UNRECOGNIZED_NAME": "it knows nobody of the name {name}: --servername NAME asks for another",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it has no version of TLS that is safe (1.2 or 1.3)",
    "WRONG_VERSION_NUMBER": "it does not speak TLS: leave TLS out, and write tcp:// in place of tls://",
}


class Terms(NamedTuple):
    """How TLS is to be spoken: a context, and whom the certificate has to be for."""

    context: ssl.SSLContext
    name: str | None


def parse_tls(options: argparse.Namespace, address: Address) -> Terms | None:
    """What the flags say of TLS; None for none of it.

    :raises UsageError: they do not go together, or not with the address; or a file is not what it should be.
    """
    flags = {
        "--tls-ca": options.tls_ca, "--tls-cert": options.tls_cert, "--tls-key": options.tls_key,
        "--tls-password-file": options.tls_password_file, "--servername": options.servername,
        "--alpn": options.alpn, "-k": options.insecure or None,
    }  # fmt: skip
    said = [flag for flag, value in flags.items() if value is not None]
    if not (address.is_tls or options.tls):
        if said:
            raise UsageError(f"{said[0]} is for TLS: write tls://HOST:PORT, or add --tls")
        return None
    if address.is_datagram or address.scheme in ("unixpacket", "systemd"):
        raise UsageError(f"TLS is for a stream, and {address} is none: leave it out")
    _refuse_options_of_listeners(address)
    if options.insecure and options.tls_ca is not None:
        raise UsageError("-k checks nothing, and --tls-ca is for checking: choose one")
    for flag in ("--tls-key", "--tls-password-file"):
        if flag in said and options.tls_cert is None:
            raise UsageError(f"{flag} goes with --tls-cert FILE")
    if name_of(address) is None and options.servername is None and not options.insecure:
        raise UsageError(f"whose certificate is to be there, at {address}? Add --servername NAME")
    try:
        tls = ClientTLS(
            ca=options.tls_ca,
            server_name=options.servername,
            cert=options.tls_cert,
            key=options.tls_key,
            password_file=options.tls_password_file,
            alpn=tuple(options.alpn.split(",")) if options.alpn is not None else (),
            verify=not options.insecure,
        )
        return Terms(tls.context(), tls.server_name or name_of(address))
    except ValueError as error:
        raise UsageError(f"--alpn: {error}") from None
    except StartError as error:
        raise UsageError(str(error)) from None


def _refuse_options_of_listeners(address: Address) -> None:
    flags = {"cert": "--tls-cert", "key": "--tls-key", "password_file": "--tls-password-file", "alpn": "--alpn"}
    for name, _ in address.options:
        if name in (*flags, "client_ca", "client_auth", "min"):
            instead = f"; {flags[name]} is this side's own" if name in flags else ""
            raise UsageError(f"{name}= is for who listens there: leave it out{instead}")


def encrypt(line: Line, terms: Terms, timeout: float) -> EncryptedLine:
    """The handshake on an open line, which is closed if it fails.

    :param timeout: seconds that it may take.
    :raises NetworkError: it failed; one line that says what to do.
    :raises UsageError: no certificate could be for such a name.
    """
    peer = line.address
    try:
        deadline = time.monotonic() + min(timeout, LONGEST_WAIT)
        return EncryptedLine(start_client(line.socket, terms.name, terms.context, deadline), peer, terms.name)
    except ValueError as error:  # of the ssl module
        line.close()
        raise UsageError(f"--servername {terms.name}: {error}") from None
    except OSError as error:
        line.close()
        raise NetworkError(_explain(error, peer, terms.name, timeout)) from error


class EncryptedLine(Line):
    """A :class:`Line` that speaks TLS.

    Bytes on the descriptor need not be text (a TLS 1.3 server sends tickets), so nothing here waits in the middle of
    receiving: the socket does not block, and who sends waits here.
    """

    def __init__(self, sock: TLSSocket, peer: Address, name: str | None = None) -> None:
        super().__init__(sock, peer)
        self._sock: TLSSocket = sock
        self._name = name
        sock.settimeout(0.0)
        protocol = sock.selected_alpn_protocol()
        self.terms = f"{sock.version()}, {(sock.cipher() or ('',))[0]}{f', {protocol}' if protocol else ''}"

    @property
    def ahead(self) -> bool:
        return self._sock.ahead

    def send(self, data: bytes) -> None:
        with self._translated(), memoryview(data) as view:
            taken = 0
            while taken < len(view):
                with view[taken:] as rest:
                    try:
                        taken += self._sock.send(rest)
                    except BlockingIOError:
                        writable(self.fileno())

    def receive(self) -> bytes | None:
        """As :meth:`Line.receive`, but ``b""`` where what has come is no text, or not all of a record."""
        with self._translated():
            try:
                data = self._sock.recv(STREAM_CHUNK)
            except BlockingIOError:
                return b""
        if data:
            return data
        if self._sock.truncated:
            raise NetworkError(f"{self.peer} ended without TLS's goodbye: what came may have been cut short on the way")
        return None

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            writable(self.fileno(), GOODBYE)
            self._sock.shutdown(_socket_std.SHUT_WR)

    def _explain(self, error: OSError) -> str:
        return _explain(error, self.address, self._name, 0.0)


def _explain(error: OSError, peer: Address, name: str | None, timeout: float) -> str:
    where = str(peer)
    if not isinstance(error, TLSError):
        if isinstance(error, TimeoutError):
            return f"{where} says nothing of TLS within {timeout:g}s: does it speak TLS? -w waits longer"
        if isinstance(error, ConnectionResetError):
            return f"{where} hung up: {error.strerror}"
        return explain(error, peer, timeout)
    cause: Any = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = _BY_CODE.get(cause.verify_code, f"its certificate is not accepted: {cause.verify_message}")
        return f"{where}: {said.format(name=name)}{_UNCHECKED}"
    said = _BY_ALERT.get(getattr(error, "reason", None) or "", "")
    if said:
        return f"{where}: {said.format(name=name)}"
    during = "no TLS with" if isinstance(error, TLSHandshakeError) else "lost"
    return f"{during} {where}: {error}"
