"""The rows of docs/differences.md on TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import pytest
from difference_support import LOOPBACK, SECONDS, Either, both, client_of, handler_in, serving

import jackfield.socket
from jackfield import socketserver as ours
from jackfield.tls import TLS, self_signed, tls_info

#: What the standard library's server needs to be stuck, as seen by the client that waits behind the silent one.
SHORT = 0.3


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


@pytest.fixture(scope="module")
def context(certificate: TLS) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate.cert)
    return made


@pytest.fixture(scope="module")
def trusting(certificate: TLS) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.cert))


def tell_version(self: Any) -> None:
    self.request.sendall(self.request.version().encode())


@both
def test_wrapped_listeners(module: Either, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    server = module.ThreadingTCPServer(LOOPBACK, handler_in(module, tell_version))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server), contextlib.ExitStack() as stack:
        silent, plain = stack.enter_context(client_of(server)), stack.enter_context(client_of(server))
        if module is ours:
            with trusting.wrap_socket(plain, server_hostname="localhost") as client:
                assert client.recv(100) == b"TLSv1.3"
        else:
            plain.settimeout(SHORT)
            with pytest.raises(TimeoutError):
                trusting.wrap_socket(plain, server_hostname="localhost")
        silent.close()


def test_start_tls(certificate: TLS, trusting: ssl.SSLContext) -> None:
    class Handler(ours.StreamRequestHandler[Any]):
        def handle(self) -> None:
            for command in self.rfile:
                self.wfile.write(b"in plaintext" if self.request.tls is None else b"under TLS")
                if command == b"STARTTLS\n":
                    self.start_tls(certificate)

    with serving(ours.ThreadingTCPServer(LOOPBACK, Handler)) as server:
        with client_of(server) as plain:
            plain.sendall(b"STARTTLS\n")
            assert plain.recv(100) == b"in plaintext"
            with trusting.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"under TLS"
                socket.socket.shutdown(client, socket.SHUT_WR)
                assert client.recv(100) == b""  # an error if there were no goodbye
        with client_of(server) as plain, contextlib.suppress(ConnectionResetError):
            plain.sendall(b"STARTTLS\nhello\n")
            assert plain.recv(100) == b"in plaintext"
            assert plain.recv(100) == b""


def test_tls_of_a_socket(certificate: TLS, trusting: ssl.SSLContext) -> None:
    assert not hasattr(socket.socket, "tls")
    first, second = jackfield.socket.socketpair()
    with first, second:
        assert first.tls is None and tls_info(first) is None

    class Handler(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.start_tls(certificate)
            info = self.request.tls
            assert info == tls_info(self.request)
            self.request.sendall(f"{info.version} {info.cipher} {info.sni}".encode())

    with serving(ours.TCPServer(LOOPBACK, Handler)) as server:
        with client_of(server) as plain, trusting.wrap_socket(plain, server_hostname="localhost") as client:
            client.settimeout(SECONDS)
            assert client.recv(100).decode() == f"TLSv1.3 {client.cipher()[0]} localhost"  # type: ignore[index]
