"""TLS over any socket of ours: one engine without I/O, and two faces, for blocking-style code and for coroutines."""

from jackfield.errors import TLSError, TLSHandshakeError

from .awaiting import AsyncTLSSocket
from .blocking import TLSSocket
from .certificate import CertificateFacts, certificate_facts
from .client import ClientTLS
from .config import TLS
from .contexts import ServerTLS
from .info import TLSInfo
from .selfsigned import self_signed
from .serving import astart_client, astart_server, aupgrade, start_client, start_server, tls_info, upgrade

__all__ = [
    "TLS",
    "AsyncTLSSocket",
    "CertificateFacts",
    "ClientTLS",
    "ServerTLS",
    "TLSError",
    "TLSHandshakeError",
    "TLSInfo",
    "TLSSocket",
    "astart_client",
    "astart_server",
    "aupgrade",
    "certificate_facts",
    "self_signed",
    "start_client",
    "start_server",
    "tls_info",
    "upgrade",
]
