"""The flags by which a client says how it speaks TLS, for every command that is one."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jackfield.address import Address
    from jackfield.cli.encrypted import Terms

__all__ = ["configure", "terms_of"]

_NAMES = ("tls", "tls_ca", "tls_cert", "tls_key", "tls_password_file", "servername", "alpn", "insecure")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="speak TLS, as with tls://; also over unix:")
    tls.add_argument("--tls-ca", metavar="FILE", help="trust these authorities, in PEM, in place of the machine's")
    tls.add_argument("--tls-cert", metavar="FILE", help="this side's own certificate, for a server that asks for one")
    tls.add_argument("--tls-key", metavar="FILE", help="its key, where that is not in the same file")
    tls.add_argument("--tls-password-file", metavar="FILE", help="the password of the key, in the first line")
    tls.add_argument("--servername", metavar="NAME", help="whom the certificate has to be for (default: the host)")
    tls.add_argument("--alpn", metavar="LIST", help="protocols to offer, the dearest first, with commas between them")
    tls.add_argument("-k", "--insecure", action="store_true", help="do not check to whom it speaks")


def terms_of(options: argparse.Namespace, address: Address) -> Terms | None:
    """What they say; None where neither they nor the address ask for TLS.

    :raises UsageError: they contradict each other, or a file cannot be used.
    """
    if not address.is_tls and not any(getattr(options, name) for name in _NAMES):
        return None
    from jackfield.cli.encrypted import parse_tls  # brings the reactor along: only who needs it pays for it

    return parse_tls(options, address)
