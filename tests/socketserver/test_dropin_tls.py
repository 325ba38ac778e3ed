"""TLS by the idioms of programs for socketserver, unchanged; and STARTTLS of a handler, under the drop-in servers."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver as stdlib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from dropin_support import HERE, MODES, SOON, Told, connect, handler_base, server_class, serving, until

from jackfield.errors import MisuseError
from jackfield.limits import Limits
from jackfield.tls import AsyncTLSSocket, ServerTLS, TLSSocket, self_signed

SHORT = 0.4

#: Modes in which a connection waits for nobody else's.
BESIDE = ["threading", "forking", "green", "async"]

BLOCKING = [mode for mode in MODES if mode != "async"]

either = pytest.mark.parametrize("module", [None, stdlib], ids=["ours", "stdlib"])


@pytest.fixture(scope="module")
def certificate() -> Any:
    return self_signed()


@pytest.fixture(scope="module")
def context(certificate: Any) -> ssl.SSLContext:
    """The server's."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate.cert)
    return made


@pytest.fixture(scope="module")
def trusting(certificate: Any) -> ssl.SSLContext:
    """The client's."""
    return ssl.create_default_context(cafile=str(certificate.cert))


def echo(mode: str, module: Any = None) -> Any:
    """Says by what it was reached, and then echoes."""
    if mode == "async":

        class AsyncEcho(handler_base("async")):  # type: ignore[misc]
            async def handle(self) -> None:
                await self.request.sendall(self.request.version().encode() + b"\n")
                while data := await self.request.recv(1000):
                    await self.request.sendall(data.upper())

        return AsyncEcho

    class Echo(handler_base(mode, **({"module": module} if module else {}))):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.sendall(self.request.version().encode() + b"\n")
            while data := self.request.recv(1000):
                self.request.sendall(data.upper())

    return Echo


@contextlib.contextmanager
def wrapped_listener(
    mode: str, context: ssl.SSLContext, handler: Any, module: Any = None, base: Any = None, **how: Any
) -> Iterator[Any]:
    """The idiom: the listening socket is replaced by a wrapped one."""
    server = (base or server_class(mode, **({"module": module} if module else {})))(("127.0.0.1", 0), handler)
    for name in [name for name in how if name in ("limits", "daemon_threads")]:
        setattr(server, name, how.pop(name))
    server.socket = context.wrap_socket(server.socket, server_side=True, **how)
    with serving(server, poll_interval=0.5 if module else 1000.0):
        yield server


def wrapping(mode: str, context: ssl.SSLContext, module: Any = None, **how: Any) -> Any:
    """The other one: a class whose get_request() wraps what it accepts."""

    class Wrapping(server_class(mode, **({"module": module} if module else {}))):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            sock, address = self.socket.accept()
            return context.wrap_socket(sock, server_side=True, **how), address

    return Wrapping


def line(client: Any) -> bytes:
    got = b""
    while not got.endswith(b"\n"):
        part = client.recv(1)
        assert part, got
        got += part
    return got


def leave(client: Any) -> None:
    """Children hold copies of this end."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()


@contextlib.contextmanager
def client_of(server: Any) -> Iterator[socket.socket]:
    client = connect(server)
    try:
        yield client
    finally:
        leave(client)


@contextlib.contextmanager
def spoken(server: Any, trusting: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with client_of(server) as plain, trusting.wrap_socket(plain, server_hostname="localhost") as client:
        yield client
        leave(client)


def converse(server: Any, trusting: ssl.SSLContext) -> None:
    with spoken(server, trusting) as client:
        assert line(client) == b"TLSv1.3\n"
        for text in (b"hello", b"x" * 1000):
            client.sendall(text)
            got = b""
            while len(got) < len(text):
                got += client.recv(1000)
            assert got == text.upper()


# -- both idioms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_listener(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with wrapped_listener(mode, context, echo(mode)) as server:
        for _ in range(3):
            converse(server, trusting)


@pytest.mark.parametrize("mode", ["serial", "threading", "forking"])
def test_a_wrapped_listener_of_the_standard_library(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """The other side, for the same program."""
    with wrapped_listener(mode, context, echo(mode, stdlib), stdlib) as server:
        converse(server, trusting)


@either
@pytest.mark.parametrize("mode", ["serial", "threading", "forking"])
def test_a_get_request_that_wraps(mode: str, module: Any, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    server = wrapping(mode, context, module)(("127.0.0.1", 0), echo(mode, module))
    with serving(server, poll_interval=0.5 if module else 1000.0):
        for _ in range(2):
            converse(server, trusting)


def test_a_get_request_that_wraps_under_green_threads(context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """Its socket is still the ssl module's; but one whose client is silent holds up its own green thread alone."""
    with serving(wrapping("green", context)(("127.0.0.1", 0), echo("green"))) as server:
        with spoken(server, trusting) as idle:
            assert line(idle) == b"TLSv1.3\n"
            for _ in range(2):
                converse(server, trusting)
            idle.sendall(b"and now")
            assert idle.recv(10) == b"AND NOW"
            [connection] = server.connections
            assert isinstance(connection.socket, ssl.SSLSocket)
            connection.close()
            assert idle.recv(10) == b""
        assert server._failures.count == 0


def test_the_ssl_modules_socket_keeps_its_manners_in_a_green_thread(
    context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """Timeouts, buffers, more than the kernel takes at once, and the end."""
    much = bytes(range(256)) * 16384
    told: list[Any] = []

    class Handler(handler_base("green")):  # type: ignore[misc]
        def handle(self) -> None:
            request = self.request
            assert request.gettimeout() is None and request.getblocking() and request.timeout is None
            request.settimeout(0.01)
            with pytest.raises(TimeoutError):
                request.recv(1)
            with pytest.raises(ValueError, match="out of range"):
                request.settimeout(-1)
            request.setblocking(False)
            for step in (lambda: request.recv(1), lambda: [request.send(much) for _ in range(100)]):
                with pytest.raises((ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                    step()
            request.setblocking(True)
            told.append(request.getpeername())

    class Sender(handler_base("green")):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.do_handshake()
            self.request.sendall(much)
            buffer = bytearray(10)
            assert self.request.recv_into(buffer) == 3 and buffer[:3] == b"got"
            with self.request.makefile("rwb") as file:
                file.write(file.readline().upper())
            assert self.request.write(b"bye") == 3
            told.append(type(self.request.unwrap()))

    with serving(wrapping("green", context)(("127.0.0.1", 0), Handler)) as server:
        with spoken(server, trusting):
            until(lambda: told)
    told.clear()
    with serving(wrapping("green", context)(("127.0.0.1", 0), Sender)) as server:
        with spoken(server, trusting) as client:
            with client.makefile("rb") as file:
                assert file.read(len(much)) == much
                client.sendall(b"got")
                client.sendall(b"a line\n")
                assert file.readline() == b"A LINE\n"
                assert file.read(3) == b"bye"
            client.unwrap()
            until(lambda: told)


def test_a_coroutine_cannot_await_the_ssl_modules_socket(
    context: ssl.SSLContext, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(wrapping("async", context)(("127.0.0.1", 0), echo("async"))) as server:
        with spoken(server, trusting) as client:
            assert client.recv(10) == b""
    assert "wrap the listening socket, not what get_request() gives" in caplog.text


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_get_request_that_leaves_the_handshake_is_as_good_as_a_wrapped_listener(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    server = wrapping(mode, context, do_handshake_on_connect=False)(("127.0.0.1", 0), echo(mode))
    with serving(server), silent_clients(server, 5):
        converse(server, trusting)


def kinds(mode: str, told: Told) -> Any:
    """A handler that tells what its request is."""

    def tell(request: Any) -> None:
        kind = type(request).__name__
        told.tell(f"{kind} {getattr(request, 'tls', None) and request.tls.version}")

    if mode == "async":

        class AsyncKind(handler_base("async")):  # type: ignore[misc]
            async def handle(self) -> None:
                tell(self.request)

        return AsyncKind

    class Kind(handler_base(mode)):  # type: ignore[misc]
        def handle(self) -> None:
            tell(self.request)

    return Kind


KINDS = {
    "serial": "SSLSocket None", "threading": "SSLSocket None", "forking": "SSLSocket None",
    "green": f"{TLSSocket.__name__} TLSv1.3", "async": f"{AsyncTLSSocket.__name__} TLSv1.3",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_what_a_handler_is_given(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """Threads and processes have the ssl module's socket, as there; what waits in a green thread has to be ours."""
    with Told() as told, wrapped_listener(mode, context, kinds(mode, told)) as server:
        with spoken(server, trusting) as client:
            assert client.recv(10) == b""
        assert told.lines() == [KINDS[mode]]


# -- silent clients ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_clients(server: Any, number: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many clients that say no more than ``said``, and are there before anybody else."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(server)) for _ in range(number)]
        for client in clients:
            client.sendall(said)
        yield clients


@pytest.mark.parametrize("mode", BESIDE)
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a part of it"])
def test_twenty_silent_clients_keep_nobody_waiting(
    mode: str, said: bytes, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with wrapped_listener(mode, context, echo(mode)) as server, silent_clients(server, 20, said):
        for _ in range(2):
            converse(server, trusting)


def test_one_silent_client_keeps_all_waiting_in_the_standard_library(
    context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """The broken case, which shows what the gate above is for: the next client is served when the silent one goes."""
    with wrapped_listener("threading", context, echo("threading", stdlib), stdlib) as server:
        with client_of(server) as silent, client_of(server) as plain:
            plain.settimeout(SHORT)
            with pytest.raises(TimeoutError):
                trusting.wrap_socket(plain, server_hostname="localhost")
            leave(silent)
        converse(server, trusting)


@pytest.mark.parametrize("mode", MODES)
def test_a_silent_client_is_given_up(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """After Limits.handshake_timeout, or 5 s where there are no limits; its reason is told, and no error of a handler
    is logged."""
    limits = Limits(handshake_timeout=SHORT)
    with wrapped_listener(mode, context, echo(mode), limits=limits) as server:
        with silent_clients(server, 1, b"\x16\x03\x01") as [silent]:
            assert silent.recv(10) == b""
        until(lambda: server._gate.guard.ends == {"handshake_timeout": 1})
        converse(server, trusting)
        assert server._failures.count == 0


def test_without_limits_there_is_a_time_for_it_too(
    context: ssl.SSLContext, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jackfield.tls import idioms

    assert idioms.HANDSHAKE_SECONDS == Limits().handshake_timeout == 5.0
    monkeypatch.setattr(idioms, "HANDSHAKE_SECONDS", SHORT)
    with wrapped_listener("threading", context, echo("threading")) as server, silent_clients(server, 1) as [silent]:
        assert silent.recv(10) == b""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05junk!"])
def test_a_handshake_that_fails_is_no_error_of_the_handlers(
    mode: str, said: bytes, context: ssl.SSLContext, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """As there, handle_error() hears nothing of it. The reason is told, and it is in the log for who debugs."""
    errors: list[Any] = []

    class Server(server_class(mode)):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(client_address)

    caplog.set_level(logging.DEBUG, "jackfield")
    with wrapped_listener(mode, context, echo(mode), base=Server, limits=Limits()) as server:
        with silent_clients(server, 1, said) as [client], contextlib.suppress(ConnectionResetError):
            while client.recv(100):
                pass
        until(lambda: server._gate.guard.ends == {"tls_error": 1})
        converse(server, trusting)
    assert errors == []
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_is_gone_before_it_is_accepted(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    made = server_class(mode)(("127.0.0.1", 0), echo(mode))
    made.socket = context.wrap_socket(made.socket, server_side=True)
    for said in (b"", b"\x16"):
        with connect(made) as client:
            client.sendall(said)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with serving(made) as server:
        converse(server, trusting)


@pytest.mark.parametrize("mode", HERE)
def test_a_connection_that_is_ended_before_its_handshake(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with wrapped_listener(mode, context, echo(mode)) as server, silent_clients(server, 1) as [silent]:
        until(lambda: server.connections)
        server.connections[0].close()
        assert silent.recv(10) == b""
        until(lambda: not server.connections)
        assert server._failures.count == 0


# -- the hooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_verify_request_sees_what_was_agreed(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """It may look at the certificate of the client. What it notes is not lost, where processes are forked either."""
    seen: list[str] = []

    class Server(server_class(mode)):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            assert request.getpeercert() == {} or request.getpeercert() is None
            seen.append(request.version())
            return len(seen) > 1

    with wrapped_listener(mode, context, echo(mode), base=Server) as server:
        with spoken(server, trusting) as refused, contextlib.suppress(ConnectionResetError):
            assert refused.recv(10) == b""
        converse(server, trusting)
        assert seen == ["TLSv1.3", "TLSv1.3"]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == (mode == "forking") and all("leave verify_request() alone" in text for text in warned)


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
def test_a_verify_request_of_ones_own_does_not_bring_the_wait_back(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    class Server(server_class(mode)):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return bool(client_address[0] == "127.0.0.1")

    with wrapped_listener(mode, context, echo(mode), base=Server) as server, silent_clients(server, 20):
        converse(server, trusting)


def test_a_handshake_on_the_thread_that_accepts_is_told_once(
    context: ssl.SSLContext, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(wrapping("threading", context)(("127.0.0.1", 0), echo("threading"))) as server:
        for _ in range(3):
            converse(server, trusting)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1 and "\n" not in warned[0]
    assert "a silent one keeps all others waiting: wrap the listening socket, and not what it accepts" in warned[0]


def test_a_handler_that_shakes_hands_itself(context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    class Handler(handler_base("threading")):  # type: ignore[misc]
        def handle(self) -> None:
            assert self.request.version() is None
            self.request.do_handshake()
            self.request.sendall(b"done\n")

    with wrapped_listener("threading", context, Handler, do_handshake_on_connect=False) as server:
        with spoken(server, trusting) as client:
            assert line(client) == b"done\n"


@pytest.mark.parametrize("mode", HERE)
def test_the_patience_of_a_handler_is_what_it_was(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    class Handler(handler_base(mode)):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.sendall(f"{self.request.gettimeout()}\n".encode())

    with wrapped_listener(mode, context, Handler) as server, spoken(server, trusting) as client:
        assert line(client) == b"None\n"


@pytest.mark.parametrize("mode", ["threading", "green"])
def test_the_first_byte_counts_from_the_handshake(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    limits = Limits(first_byte_timeout=SHORT, idle_timeout=None)
    with wrapped_listener(mode, context, echo(mode), limits=limits) as server, spoken(server, trusting) as client:
        assert line(client) == b"TLSv1.3\n"
        assert client.recv(10) == b""
        until(lambda: server._gate.guard.ends == {"idle": 1})


@pytest.mark.parametrize("mode", BESIDE)
def test_who_is_turned_away_is_told_nothing_in_plaintext(
    mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    limits = Limits(max_connections=1, full_patience=0.0, refusal=b"busy\n")
    with wrapped_listener(mode, context, echo(mode), limits=limits) as server, spoken(server, trusting) as client:
        assert line(client) == b"TLSv1.3\n"
        with client_of(server) as refused, contextlib.suppress(ConnectionResetError):
            assert refused.recv(100) == b""


# -- STARTTLS ----------------------------------------------------------------------------------------------------------


def starting(mode: str, tls: Any) -> Any:
    if mode == "async":

        class AsyncLines(handler_base("async", "Stream")):  # type: ignore[misc]
            async def handle(self) -> None:
                async for command in self.rfile:
                    await self.wfile.write(f"{self.request.tls and self.request.tls.version}\n".encode())
                    if command == b"STARTTLS\n":
                        await self.start_tls(tls)
                    elif command == b"FAIL\n":
                        raise ValueError("as it was told")

        return AsyncLines

    class Lines(handler_base(mode, "Stream")):  # type: ignore[misc]
        def handle(self) -> None:
            for command in self.rfile:
                self.wfile.write(f"{self.request.tls and self.request.tls.version}\n".encode())
                if command == b"STARTTLS\n":
                    self.start_tls(tls)
                elif command == b"FAIL\n":
                    raise ValueError("as it was told")

    return Lines


@contextlib.contextmanager
def upgradable(mode: str, tls: Any, limits: Limits | None = None) -> Iterator[Any]:
    server = server_class(mode)(("127.0.0.1", 0), starting(mode, tls))
    server.limits = limits
    with serving(server):
        yield server


@contextlib.contextmanager
def gone_over(server: Any, trusting: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with client_of(server) as plain:
        plain.sendall(b"STARTTLS\n")
        assert line(plain) == b"None\n"
        wrapped = trusting.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
        with wrapped as client:
            yield client
            leave(client)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limits", [None, Limits()], ids=["without limits", "with limits"])
def test_starttls(mode: str, limits: Limits | None, certificate: Any, trusting: ssl.SSLContext) -> None:
    with upgradable(mode, ServerTLS(certificate), limits) as server:
        for _ in range(2):
            with gone_over(server, trusting) as client:
                client.sendall(b"hello\n")
                assert line(client) == b"TLSv1.3\n"
                if mode != "forking":
                    # The one before may be on its way out still.
                    until(lambda: [type(one.socket) for one in server.connections] == [TLSSocket])
                socket.socket.shutdown(client, socket.SHUT_WR)
                assert client.recv(10) == b""  # and its goodbye before it
        if mode != "forking":
            until(lambda: not server.connections)
        if limits is not None:
            until(lambda: server._gate.guard.ends == {"peer_closed": 2})
        assert server._failures.count == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_that_raises_after_it_says_goodbye(mode: str, certificate: Any, trusting: ssl.SSLContext) -> None:
    with upgradable(mode, ServerTLS(certificate), Limits()) as server:
        with gone_over(server, trusting) as client:
            client.sendall(b"FAIL\n")
            assert line(client) == b"TLSv1.3\n"
            assert client.recv(10) == b""
        until(lambda: server._gate.guard.ends == {"handler_error": 1})


@pytest.mark.parametrize("mode", MODES)
def test_plaintext_behind_starttls_is_refused(mode: str, certificate: Any) -> None:
    with upgradable(mode, ServerTLS(certificate), Limits()) as server, client_of(server) as client:
        client.sendall(b"STARTTLS\nEVIL\n")
        assert line(client) == b"None\n"
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
        until(lambda: server._gate.guard.ends == {"tls_error": 1})


@pytest.mark.parametrize("mode", HERE)
def test_a_server_that_ends_connections_in_its_own_way_loses_count_of_none(
    mode: str, certificate: Any, trusting: ssl.SSLContext
) -> None:
    class Server(server_class(mode)):  # type: ignore[misc]
        def shutdown_request(self, request: Any) -> None:
            self.ended = request  # and nothing more: not even the base class is told

    server = Server(("127.0.0.1", 0), starting(mode, ServerTLS(certificate)))
    server.limits = Limits(max_connections=1)
    with serving(server):
        for _ in range(3):
            with gone_over(server, trusting) as client:
                client.sendall(b"hello\n")
                assert line(client) == b"TLSv1.3\n"
            until(lambda: hasattr(server, "ended"))
            server.ended._gone_over.close()  # which the collector does as well, with a warning
            del server.ended
            until(lambda: server._gate.guard.admission.total == 0)


@pytest.mark.parametrize("mode", BLOCKING)
def test_starttls_over_tls_is_a_mistake(mode: str, context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    class Handler(handler_base(mode)):  # type: ignore[misc]
        def handle(self) -> None:
            with pytest.raises(MisuseError, match="speaks TLS already"):
                self.start_tls(context)
            self.request.sendall(b"refused\n")

    with wrapped_listener(mode, context, Handler) as server, spoken(server, trusting) as client:
        client.settimeout(SOON)
        assert line(client) == b"refused\n"
