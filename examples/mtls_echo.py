"""An echo for those who have a certificate: both sides of the TLS handshake prove who they are.

    python examples/mtls_echo.py CERT KEY CLIENT_CA [ADDRESS]       9443 unless given; 0 takes any free port
    openssl s_client -connect 127.0.0.1:9443 -CAfile ca.pem -cert client.pem -key client.key -quiet

An empty line ends it. ``jackfield serve --app-dir examples mtls_echo:Echo --tls-cert CERT --tls-key KEY --tls-client-ca
CLIENT_CA`` is the same. CERT and KEY are the server's, CLIENT_CA is the authority whose clients may come in: who shows
no certificate of it is refused in the handshake, and no handler ever sees them. Mode thread, which is the default for a
handler that blocks: 256 clients at once.

An authority, and a client's certificate of it, for a try (the server's is made like the client's)::

    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ours -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ann -keyout client.key -out client.csr
    openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import jackfield
from jackfield.tls import TLS

LONGEST_LINE = 1000


def common_name(certificate: dict[str, Any]) -> str:
    """The name of whom a certificate is for, of its subject's parts the one that is called so."""
    parts = (part for names in certificate["subject"] for part in names)
    return next((value for name, value in parts if name == "commonName"), "nameless")


class Echo(jackfield.StreamRequestHandler):
    """One client, whose certificate has been verified."""

    def handle(self) -> None:
        agreed = self.request.tls
        if agreed is None or agreed.peer_certificate is None:
            self.wfile.write(b"this server was started without --tls-client-ca\n")
            return
        name = common_name(agreed.peer_certificate)
        self.wfile.write(f"hello {name}, by {agreed.version}\n".encode())
        while (line := self.rfile.readline(LONGEST_LINE)).strip():
            self.wfile.write(line)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("write: mtls_echo.py CERT KEY CLIENT_CA [ADDRESS]")
    cert, key, client_ca, *addresses = sys.argv[1:]
    tls = TLS(cert, key, client_ca=client_ca, client_auth="required")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Echo, *(addresses or ["9443"]), tls=tls, graceful_timeout=1)
