"""An authority that signs certificates, for whoever tests TLS."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            self._begin(self.name, self.key, NOW - DAY, NOW + 300 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _begin(self, name: Any, key: Any, starts: Any, ends: Any) -> Any:
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if name != self.name:
            builder = builder.add_extension(identifier, critical=False)
        return builder.not_valid_before(starts).not_valid_after(ends)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def private(self) -> bytes:
        """Its own key, in PEM."""
        return _private(self.key, None)

    def issue(
        self, *names: str, starts: Any = NOW - DAY, ends: Any = NOW + 90 * DAY, password: bytes | None = None,
        common: str | None = None,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Certificate and key, in PEM, for these names; ``common`` for the old way of naming."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common or names[0])])
        builder = self._begin(subject, key, starts, ends)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(one) for one in names]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return certificate, _private(key, password)


def _private(key: Any, password: bytes | None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    return pem


def _name(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)
