"""From files to contexts, and from the old ones to new ones while connections are open."""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from jackfield.errors import StartError

from .certificate import CertificateFacts, certificate_facts
from .config import TLS, Path
from .engine import Refused
from .hello import ClientHello

_log = logging.getLogger("jackfield.tls")

#: Alert "no_application_protocol" (RFC 7301 3.2).
_NO_APPLICATION_PROTOCOL = 120

#: Every context that was ever used: CPython's ssl module has let go of one that a connection still needed
#: (CVE-2026-19445). A reload is rare, and a context is some 20 KiB.
_kept: list[ssl.SSLContext] = []

#: What ``min_version`` means to the ssl module.
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class ServerTLS:
    """The contexts that a :class:`TLS` stands for; read from its files once, and again by :meth:`reload`.

    Connections keep the context they began with. From any thread.

    :raises StartError: a file is missing, unreadable or not what it should be; one line that says what to do.
    """

    def __init__(self, tls: TLS) -> None:
        self.tls = tls
        # One reference, so that whoever comes in the middle of a reload finds all old or all new.
        self._served = _load(tls)

    def __repr__(self) -> str:
        return f"<ServerTLS of {', '.join(self.names) or os.fspath(self.tls.cert)} until {self.expires:%Y-%m-%d}>"

    @property
    def context(self) -> ssl.SSLContext:
        """The context for everybody who asks for no other name. Change nothing in it."""
        return self._served[0][0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names and addresses in the certificates."""
        return tuple(dict.fromkeys(name for _, facts in self._served for name in facts.names))

    @property
    def expires(self) -> datetime:
        """When the first of the certificates runs out, in UTC."""
        return min(facts.expires for _, facts in self._served)

    def reload(self) -> None:
        """Read all files again, for the connections that are yet to come.

        :raises StartError: something is wrong with them; what was served before goes on being served.
        """
        self._served = _load(self.tls)

    def context_for(self, name: str | None) -> ssl.SSLContext:
        """The context whose certificate is for ``name``; the first one if none is."""
        served = self._served
        if name is not None and len(served) > 1:
            for context, facts in served:
                if facts.covers(name):
                    return context
        return served[0][0]

    def choose(self, hello: ClientHello) -> ssl.SSLContext:
        """The context for a client, by what it said first."""
        if self.tls.alpn_required:
            ours = {name.encode() for name in self.tls.alpn}
            if not ours.intersection(hello.protocols):
                said = "offers none of the protocols spoken here" if hello.protocols else "does not say its protocol"
                raise Refused(_NO_APPLICATION_PROTOCOL, f"the client {said} (ALPN: {', '.join(self.tls.alpn)})")
        return self.context_for(hello.server_name)


def _load(tls: TLS) -> tuple[tuple[ssl.SSLContext, CertificateFacts], ...]:
    served = tuple(_served(tls, cert, key) for cert, key in tls.pairs)
    _kept.extend(context for context, _ in served)
    now = datetime.now(UTC)
    for (_, facts), (cert, _) in zip(served, tls.pairs, strict=True):
        if facts.expires <= now:
            _log.warning("%s expired on %s: clients will refuse it", os.fspath(cert), facts.expires.date())
        elif facts.starts > now:
            _log.warning("%s is not valid before %s: clients will refuse it", os.fspath(cert), facts.starts.date())
    return served


def _served(tls: TLS, cert: Path, key: Path | None) -> tuple[ssl.SSLContext, CertificateFacts]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # All ciphers offered are good: the client knows which of them its processor is fast at (RFC 9325 4.2.1 leaves it).
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.set_ciphers(tls.ciphers)
    except ssl.SSLError:
        raise StartError(f"no cipher that OpenSSL knows in {tls.ciphers!r}: see openssl ciphers -v") from None
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    keylog = os.environ.get("SSLKEYLOGFILE")
    if keylog and not sys.flags.ignore_environment:
        context.keylog_filename = keylog  # as ssl.create_default_context() does
    facts = load_pair(context, cert, key, tls.password_file)
    if tls.client_ca is not None:
        text_of(tls.client_ca, "CERTIFICATE")
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError:
            raise StartError(f"{os.fspath(tls.client_ca)} has a certificate that cannot be read: renew it") from None
    context.verify_mode = _VERIFY[tls.client_auth]
    return context, facts


class _NoPassword(Exception):
    pass


def load_pair(context: ssl.SSLContext, cert: Path, key: Path | None, password_file: Path | None) -> CertificateFacts:
    """Give a context its certificate and key; what the certificate says. StartError says what is wrong with them."""
    pem = text_of(cert, "CERTIFICATE")
    holder = os.fspath(cert if key is None else key)
    text_of(holder, "PRIVATE KEY")
    try:
        # Without a function OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(cert, key, _password_in(password_file))
        return certificate_facts(pem)
    except _NoPassword:
        raise StartError(f"the key in {holder} is encrypted: say where its password is (password_file)") from None
    except ssl.SSLError as error:
        _explain(error, os.fspath(cert), holder, password_file)
    except (ValueError, IndexError):
        raise StartError(f"{os.fspath(cert)} has a certificate that cannot be read: renew it") from None


def _password_in(file: Path | None) -> Callable[[], str]:
    def password() -> str:
        if file is None:
            raise _NoPassword
        return text_of(file, None).split("\n")[0].rstrip("\r")

    return password


def _explain(error: ssl.SSLError, cert: str, holder: str, password_file: Path | None) -> NoReturn:
    reason: Any = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        message = f"the key in {holder} is not the one of {cert}: name the two that belong together"
    elif reason == "EE_KEY_TOO_SMALL" or reason == "CA_MD_TOO_WEAK" or reason == "CA_KEY_TOO_SMALL":
        words = reason.replace("_", " ").lower()
        message = f"{cert} is too weak for OpenSSL ({words}): make one with an EC or 2048-bit RSA key and SHA-256"
    elif password_file is not None:
        message = f"the key in {holder} cannot be decrypted: is it the right password in {os.fspath(password_file)}?"
    else:
        words = str(reason).replace("_", " ").lower() or "no reason given"
        message = f"OpenSSL cannot read {cert} with the key in {holder} ({words}): see openssl x509 -in {cert}"
    raise StartError(message) from None


def text_of(file: Path, kind: str | None) -> str:
    """The text of a file, in which there must be a PEM block of this kind."""
    name = os.fspath(file)
    try:
        with open(name, encoding="latin-1") as opened:
            text = opened.read()
    except FileNotFoundError:
        raise StartError(f"no such file: {name}: name the right one, or make one (openssl req -x509 …)") from None
    except PermissionError:
        # Who gave root up reads as the new user from then on, also what root had read at the start.
        raise StartError(
            f"{name} may not be read by this user: chgrp it to the server's group and chmod 640 (permission denied as"
            f" user {os.geteuid() if hasattr(os, 'geteuid') else 'this one'})"
        ) from None
    except OSError as error:
        raise StartError(f"{name} cannot be read: {error.strerror}") from None
    if kind is not None and f"{kind}-----" not in text:
        other = {"CERTIFICATE": "a certificate", "PRIVATE KEY": "a private key"}[kind]
        raise StartError(f"{name} has not {other} in PEM (-----BEGIN {kind}-----): name the file that has it")
    return text
