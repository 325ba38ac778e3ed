"""A certificate for development, made on the spot: for this machine, for a few days, trusted by nobody."""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from jackfield.errors import StartError

from .config import TLS

#: Days that it is valid for.
DAYS = 30


def self_signed(names: Sequence[str] = ("localhost", "127.0.0.1", "::1")) -> TLS:
    """Certificate and key for these host names and addresses, in a file that only this user can read and that is
    removed when the process ends. Made by the library ``cryptography``, or by the command ``openssl``.

    :raises StartError: there is neither; the message says what to install.
    """
    pem = _by_library(names) or _by_command(names)
    if pem is None:
        raise StartError("a certificate needs the library cryptography (pip install 'jackfield[tls]') or openssl")
    # mkdtemp() makes a directory for this user alone, and mkstemp() a file of mode 0600.
    directory = tempfile.mkdtemp(prefix="jackfield-tls-")
    atexit.register(_remove, directory, os.getpid())
    number, path = tempfile.mkstemp(".pem", "self-signed-", directory)
    with open(number, "wb") as file:
        file.write(pem)
    return TLS(cert=path)


def _remove(directory: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that ends has not made it
        shutil.rmtree(directory, ignore_errors=True)


def _by_library(names: Sequence[str]) -> bytes | None:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        return None
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    alternatives = [x509.IPAddress(address) if (address := _address(name)) else x509.DNSName(name) for name in names]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a clock that is a little late
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _by_command(names: Sequence[str]) -> bytes | None:
    command = shutil.which("openssl")
    if command is None:
        return None
    alternatives = ",".join(f"{'IP' if _address(name) else 'DNS'}:{name}" for name in names)
    arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(DAYS)]
    arguments += ["-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}"]
    arguments += ["-addext", "extendedKeyUsage=serverAuth", "-keyout", "-", "-out", "-"]
    done = subprocess.run([command, *arguments], capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise StartError(f"openssl makes no certificate for {', '.join(names)}: see openssl req -x509 -help")
    return done.stdout


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
