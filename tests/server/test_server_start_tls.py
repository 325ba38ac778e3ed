"""STARTTLS: a connection goes over to TLS in the middle, in every mode, and nothing in plaintext gets across."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from native_support import HERE, MODES, SOON, TCP, by, client_of, dial, ended, is_over, leave, read_line, until

from jackfield import AsyncRequestHandler, AsyncStreamRequestHandler, BaseRequestHandler, Server, StreamRequestHandler
from jackfield.errors import MisuseError, TLSError
from jackfield.events import ConnectionEnded
from jackfield.limits import Limits
from jackfield.tls import TLS, ServerTLS, TLSInfo, TLSSocket, self_signed

SHORT = 0.4


@pytest.fixture(scope="module")
def certificate() -> TLS:
    return self_signed()


@pytest.fixture(scope="module")
def context(certificate: TLS) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.cert))


def lines(mode: str, tls: Any, **attributes: Any) -> Any:
    """A protocol of lines: STARTTLS begins TLS, FAIL fails, and everything else is answered with what it was, and by
    what it came."""

    class Lines(StreamRequestHandler[Any]):
        def handle(self) -> None:
            for line in self.rfile:
                command = line.strip()
                if command == b"STARTTLS":
                    self.wfile.write(b"go on\n")
                    self.start_tls(tls)
                elif command == b"FAIL":
                    raise ValueError("as it was told")
                else:
                    info = self.request.tls
                    assert self.connection is self.request
                    self.wfile.write(command + b" by " + (info.version.encode() if info else b"nothing") + b"\n")
                    self.wfile.flush()

    class AsyncLines(AsyncStreamRequestHandler[Any]):
        async def handle(self) -> None:
            async for line in self.rfile:
                command = line.strip()
                if command == b"STARTTLS":
                    await self.wfile.write(b"go on\n")
                    await self.start_tls(tls)
                elif command == b"FAIL":
                    raise ValueError("as it was told")
                else:
                    info = self.request.tls
                    assert self.connection is self.request
                    await self.wfile.write(command + b" by " + (info.version.encode() if info else b"nothing") + b"\n")

    chosen = by(mode, Lines, AsyncLines)
    return type(chosen.__name__, (chosen,), attributes)


@contextlib.contextmanager
def gone_over(server: Server, context: ssl.SSLContext, **how: Any) -> Iterator[ssl.SSLSocket]:
    """A client that has said something in plaintext, and speaks TLS now."""
    with client_of(server) as plain:
        plain.sendall(b"hello\n")
        assert read_line(plain) == b"hello by nothing\n"
        plain.sendall(b"STARTTLS\n")
        assert read_line(plain) == b"go on\n"
        with context.wrap_socket(plain, server_hostname="localhost", **how) as client:
            yield client
            leave(client)


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_goes_over(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    """The end is said (close_notify), which a client that forbids ragged ends insists on; and all bytes are counted."""
    told: list[Any] = []
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server:
        server.subscribe(told.append, ConnectionEnded)
        with gone_over(server, context, suppress_ragged_eofs=False) as client:
            client.sendall(b"secret\n")
            assert read_line(client) == b"secret by TLSv1.3\n"
            if mode != "process":
                [connection] = server.connections
                assert isinstance(connection.socket, TLSSocket)
            socket.socket.shutdown(client, socket.SHUT_WR)
            assert client.recv(10) == b""  # SSLEOFError if it were a mere end of the stream
        until(lambda: told)
        assert ended(server) == {"peer_closed": 1}
        assert told[0].received > 200 and told[0].sent > 200 and told[0].error is None
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_is_agreed_is_told(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    """By request.tls: None before, and a TLSInfo after it."""

    def words(info: TLSInfo | None) -> bytes:
        if info is None:
            return b"None\n"
        assert isinstance(info, TLSInfo) and info.peer_certificate is None and not info.resumed
        return f"{info.version} {info.sni} {info.alpn} {info.cipher.startswith('TLS_')}\n".encode()

    served = ServerTLS(TLS(certificate.cert, alpn=("ours",)))

    class Told(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(words(self.request.tls))
            self.start_tls(served)
            self.request.sendall(words(self.request.tls))

    class AsyncTold(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            await self.request.sendall(words(self.request.tls))
            await self.start_tls(served)
            await self.request.sendall(words(self.request.tls))

    offering = ssl.create_default_context(cafile=str(certificate.cert))
    offering.set_alpn_protocols(["theirs", "ours"])
    with Server(by(mode, Told, AsyncTold), TCP, mode=mode) as server, client_of(server) as plain:
        assert read_line(plain) == b"None\n"
        with offering.wrap_socket(plain, server_hostname="localhost") as client:
            assert read_line(client) == b"TLSv1.3 localhost ours True\n"
            leave(client)
    with Server(by(mode, Told, AsyncTold), TCP, mode=mode, tls=served) as server:
        with client_of(server) as plain, offering.wrap_socket(plain, server_hostname="localhost") as client:
            assert read_line(client) == b"TLSv1.3 localhost ours True\n"
            assert is_over(client)  # of start_tls() on a connection that speaks TLS already
            leave(client)
        assert ended(server) == {"handler_error": 1}


# -- plaintext behind the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("apart", [False, True])
def test_plaintext_behind_the_command_is_never_executed(
    mode: str, apart: bool, certificate: TLS, context: ssl.SSLContext
) -> None:
    """In one segment with it, so that it is buffered, or behind it, so that it waits in the kernel (CVE-2011-0411)."""
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\n" if apart else b"STARTTLS\nEVIL\n")
        assert read_line(client) == b"go on\n"
        if apart:
            client.sendall(b"EVIL\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        assert ended(server) == {"tls_error": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", HERE)
def test_the_refusal_says_what_to_do(mode: str, certificate: TLS) -> None:
    told: list[Any] = []
    with Server(lines(mode, certificate), TCP, mode=mode) as server, client_of(server) as client:
        server.subscribe(told.append, ConnectionEnded)
        client.sendall(b"STARTTLS\nEVIL\n")
        assert is_over(client)
        until(lambda: told)
    assert isinstance(told[0].error, TLSError)
    assert str(told[0].error) == (
        "5 bytes of plaintext came behind the command that starts TLS: close the connection, and process none of it"
    )


@pytest.mark.parametrize("mode", HERE)
def test_plaintext_that_the_handler_itself_has(mode: str, certificate: TLS) -> None:
    """A handler that reads by recv() says what it has beyond the command; and may tell the client why it goes."""

    class Careful(BaseRequestHandler[Any]):
        def handle(self) -> None:
            _, _, more = self.request.recv(100).partition(b"\n")
            try:
                self.start_tls(certificate, buffered=more)
            except TLSError:
                self.request.sendall(b"no\n")

    class AsyncCareful(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            _, _, more = (await self.request.recv(100)).partition(b"\n")
            try:
                await self.start_tls(certificate, buffered=more)
            except TLSError:
                await self.request.sendall(b"no\n")

    with Server(by(mode, Careful, AsyncCareful), TCP, mode=mode) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\nEVIL\n")
        assert read_line(client) == b"no\n"
        assert is_over(client)


@pytest.mark.parametrize("mode", HERE)
def test_a_handshake_behind_the_command_is_one(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    """A client that does not wait for the answer: its ClientHello is in rfile already, and is the handshake's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\n" + outgoing.read())
        assert read_line(client) == b"go on\n"
        while True:
            try:
                shaking.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(client.recv(65536))
        shaking.write(b"secret\n")
        client.sendall(outgoing.read())
        text = b""
        while not text:
            incoming.write(client.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                text = shaking.read(100)
        assert text == b"secret by TLSv1.3\n"


def test_a_server_that_would_execute_it_is_found_out(certificate: TLS, context: ssl.SSLContext) -> None:
    """The broken case: who goes over without looking has the injected command in hand, as if it were said under TLS."""
    from jackfield.tls import start_server

    class Broken(StreamRequestHandler[Any]):
        def handle(self) -> None:
            assert self.rfile.readline() == b"STARTTLS\n"
            self.wfile.write(b"go on\n")
            kept = self.rfile
            with start_server(self.request, ServerTLS(certificate)) as secure:
                secure.sendall(kept.readline())  # what such a server does next: it reads on

    with Server(Broken, TCP, mode="thread") as server, client_of(server) as plain:
        plain.sendall(b"STARTTLS\nEVIL\n")
        assert read_line(plain) == b"go on\n"
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            assert read_line(client) == b"EVIL\n"


# -- handshakes that come to nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a part of it"])
def test_a_handshake_that_never_comes(mode: str, said: bytes, certificate: TLS) -> None:
    limits = Limits(handshake_timeout=SHORT)
    handler = lines(mode, ServerTLS(certificate))
    with Server(handler, TCP, mode=mode, limits=limits) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\n")
        assert read_line(client) == b"go on\n"
        client.sendall(said)
        assert is_over(client)
        assert ended(server) == {"handshake_timeout": 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("said", "reason"), [(b"", "peer_reset"), (b"\x16\x03\x01", "tls_error"), (b"\x16 junk" * 30, "tls_error")]
)
def test_a_client_that_goes_or_speaks_no_tls(mode: str, said: bytes, reason: str, certificate: TLS) -> None:
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\n")
        assert read_line(client) == b"go on\n"
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        assert is_over(client)
        assert ended(server) == {reason: 1}
        assert server.info().handler_errors == 0


@pytest.mark.parametrize("mode", HERE)
def test_no_more_handshakes_than_may_be(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    handler = lines(mode, ServerTLS(certificate))
    with Server(handler, TCP, mode=mode, limits=Limits(max_handshakes=1)) as server, client_of(server) as first:
        entering = server._service.streams.entering
        first.sendall(b"STARTTLS\n")
        assert read_line(first) == b"go on\n"
        until(lambda: entering)
        with client_of(server) as second:
            second.sendall(b"STARTTLS\n")
            assert is_over(second)
        until(lambda: server.info().ends == {"limit_handshakes": 1})
        with context.wrap_socket(first, server_hostname="localhost") as client:
            client.sendall(b"hello\n")
            assert read_line(client).startswith(b"hello by TLS")
            assert not entering
            with gone_over(server, context) as third:  # there is room again
                third.sendall(b"hello\n")
                assert read_line(third).startswith(b"hello by TLS")
        assert server.info().handler_errors == 0


def test_handshakes_that_nobody_counts_are_found_out(
    certificate: TLS, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken case."""
    monkeypatch.setattr("jackfield.serving.streams.Streams.begin_handshake", lambda *_: True)
    handler = lines("thread", ServerTLS(certificate))
    with Server(handler, TCP, limits=Limits(max_handshakes=1)) as server, client_of(server) as first:
        first.sendall(b"STARTTLS\n")
        assert read_line(first) == b"go on\n"
        with gone_over(server, context) as second:
            second.sendall(b"hello\n")
            assert read_line(second).startswith(b"hello by TLS")


@pytest.mark.parametrize("mode", HERE)
def test_a_handshake_that_failed_counts_no_longer(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    handler = lines(mode, ServerTLS(certificate))
    with Server(handler, TCP, mode=mode, limits=Limits(max_handshakes=1)) as server:
        for _ in range(3):
            with client_of(server) as client:
                client.sendall(b"STARTTLS\n")
                assert read_line(client) == b"go on\n"
                client.sendall(b"\x16 junk" * 30)
                assert is_over(client)
            until(lambda: not server._service.streams.entering)
        until(lambda: server.info().ends == {"tls_error": 3})


# -- the life of the connection afterwards -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_that_raises_says_goodbye(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server:
        with gone_over(server, context, suppress_ragged_eofs=False) as client:
            client.sendall(b"FAIL\n")
            assert client.recv(10) == b""
        assert ended(server) == {"handler_error": 1}
        assert server.info().handler_errors == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_deadlines_go_on(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    limits = Limits(idle_timeout=SHORT)
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode, limits=limits) as server:
        with gone_over(server, context) as client:
            client.sendall(b"secret\n")
            assert read_line(client) == b"secret by TLSv1.3\n"
            assert is_over(client)
        assert ended(server) == {"idle": 1}


@pytest.mark.parametrize("mode", MODES)
def test_the_limits_of_lines_go_on(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode, limits=Limits(max_line=100)) as server:
        with gone_over(server, context) as client:
            client.sendall(b"x" * 200)
            assert is_over(client)
        assert ended(server) == {"limit_line": 1}


@pytest.mark.parametrize("mode", HERE)
def test_a_stop_cuts_it(mode: str, certificate: TLS, context: ssl.SSLContext) -> None:
    with Server(lines(mode, ServerTLS(certificate)), TCP, mode=mode) as server:
        with gone_over(server, context) as client:
            server.stop(0)
            assert is_over(client)
        assert server.wait_stopped(SOON)
        assert server.info().ends == {"drained": 1}


@pytest.mark.parametrize("sizes", [{"rbufsize": 0}, {"wbufsize": -1}, {"timeout": SOON}])
@pytest.mark.parametrize("mode", ["thread", "green"])
def test_the_files_are_made_as_before(
    mode: str, sizes: dict[str, Any], certificate: TLS, context: ssl.SSLContext
) -> None:
    """And a buffered wfile is sent in plaintext before the handshake."""
    with Server(lines(mode, ServerTLS(certificate), **sizes), TCP, mode=mode) as server:
        with gone_over(server, context) as client:
            client.sendall(b"secret\n")
            assert read_line(client) == b"secret by TLSv1.3\n"


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", HERE)
def test_a_datagram_cannot_go_over(mode: str, certificate: TLS) -> None:
    told: list[str] = []

    class Datagram(BaseRequestHandler[Any]):
        def handle(self) -> None:
            with pytest.raises(MisuseError) as refused:
                self.start_tls(certificate)
            told.append(str(refused.value))

    class AsyncDatagram(AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            with pytest.raises(MisuseError) as refused:
                await self.start_tls(certificate)
            told.append(str(refused.value))

    with Server(by(mode, Datagram, AsyncDatagram), "udp://127.0.0.1:0", mode=mode) as server, dial(server) as client:
        client.send(b"hello")
        until(lambda: told)
    assert told == ["TLS needs a connection: call it where the request is a stream socket, of tcp:// or unix:"]


def test_a_tls_that_is_named_again_and_again_is_read_once(
    certificate: TLS, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[TLS] = []
    from jackfield.tls import contexts

    def load(tls: TLS) -> Any:
        read.append(tls)
        return loaded(tls)

    loaded = contexts._load
    monkeypatch.setattr(contexts, "_load", load)
    with Server(lines("thread", TLS(certificate.cert, alpn=("once",))), TCP, mode="thread") as server:
        for _ in range(3):
            with gone_over(server, context):
                pass
    assert len(read) == 1


def test_a_server_of_the_standard_library(certificate: TLS, context: ssl.SSLContext) -> None:
    """It knows nothing of the socket over TLS: the handler ends that itself, with a goodbye."""
    import socketserver

    class Theirs(socketserver.TCPServer):
        timeout = SOON

    with Theirs(("127.0.0.1", 0), lines("thread", ServerTLS(certificate))) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(server.server_address, SOON) as plain:
            plain.sendall(b"STARTTLS\n")
            assert read_line(plain) == b"go on\n"
            with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
                client.sendall(b"secret\n")
                with pytest.raises(AttributeError):
                    _ = plain.tls  # type: ignore[attr-defined]
                assert read_line(client) == b"secret by TLSv1.3\n"
                socket.socket.shutdown(client, socket.SHUT_WR)
                assert client.recv(10) == b""
        thread.join(SOON)
        assert not thread.is_alive()


def test_what_is_unread_of_another_file_is_nobodys() -> None:
    from jackfield.tls.midway import unread

    assert unread(io.BytesIO(b"of the handler's own making"), None) == b""
