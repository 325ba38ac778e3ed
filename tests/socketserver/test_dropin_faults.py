"""What fails in the middle: no thread, process, descriptor, port. Nothing is left open, and serving goes on."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import socketserver as std
import threading
from collections.abc import Callable
from typing import Any

import pytest
from dropin_support import MODES, SOON, ask, connect, server_class, serving, until

from jackfield import socketserver as ours
from jackfield.door import AcceptPolicy


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(1024).upper())


class AsyncEcho(ours.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request.sendall((await self.request.recv(1024)).upper())


def echo(mode: str) -> Any:
    return AsyncEcho if mode == "async" else Echo


# -- no unit to run it -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_unit(mode: str, monkeypatch: pytest.MonkeyPatch, failures: int) -> Any:
    """The first ``failures`` handlers get no thread, process or green thread: the system has none left."""
    left = [failures]

    def failing(original: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            if left[0] > 0 and applies(args):
                left[0] -= 1
                if mode == "async":
                    args[0].close()  # the coroutine, which nobody will run
                raise error
            return original(*args, **kwargs)

        return start

    def applies(args: tuple[Any, ...]) -> bool:
        # Not the test's own threads.
        return mode != "threading" or type(args[0]).__module__.startswith("jackfield.")

    with monkeypatch.context() as patch:
        if mode == "threading":
            error: BaseException = RuntimeError("can't start new thread")
            patch.setattr(threading.Thread, "start", failing(threading.Thread.start, error))
        elif mode == "forking":
            error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            patch.setattr(os, "fork", failing(os.fork, error))
        elif mode == "green":
            patch.setattr("jackfield.modes.greens.spawn_on", failing(_spawn_on(), MemoryError("no stack")))
        else:
            patch.setattr("jackfield.modes.tasks.drive", failing(_drive(), MemoryError("no task")))
        yield left


def _spawn_on() -> Any:
    from jackfield.reactor import spawn_on

    return spawn_on


def _drive() -> Any:
    from jackfield.reactor import drive

    return drive


@pytest.mark.parametrize("mode", ["threading", "forking", "green", "async"])
def test_no_unit_for_a_client_is_that_clients_end_only(
    mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with no_unit(mode, monkeypatch, 2) as left, caplog.at_level(logging.ERROR, "jackfield.server"):
        server = server_class(mode)(("127.0.0.1", 0), echo(mode))
        with serving(server):
            assert [ask(server) for _ in range(4)] == [b"", b"", b"HELLO", b"HELLO"]
            assert left == [0]
            until(lambda: not server.connections)
        # server_close() has come through: nothing waits for what never began.
    errors = [record.incident.error for record in caplog.records if record.exc_text]
    assert len(errors) == 2, "each is told, by handle_error()"


def test_no_thread_for_a_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    class EchoDatagram(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request[1].sendto(self.request[0].upper(), self.client_address)

    errors: list[Any] = []

    class Tells(ours.ThreadingUDPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(request[0])

    with no_unit("threading", monkeypatch, 1), Tells(("127.0.0.1", 0), EchoDatagram) as server:
        with serving(server, close=False), connect(server) as client:
            client.send(b"lost")
            until(lambda: errors)
            client.send(b"found")
            assert client.recv(100) == b"FOUND", "what was told as lost is not answered later"
            until(lambda: not server._threads)
    assert errors == [b"lost"]


# -- accept fails ------------------------------------------------------------------------------------------------------


class Scripted:
    """In the place of a listener's accept: fails as it is told, and otherwise calls on."""

    def __init__(self, server: Any, number: int, times: int) -> None:
        self.calls = 0
        self.left = times
        self.error = OSError(number, os.strerror(number))
        self._accept = server.socket.accept

    def __call__(self) -> Any:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return self._accept()


class Failing:
    """The listener with another accept; in everything else it is the listener."""

    def __init__(self, listener: Any, accept: Any) -> None:
        self._listener = listener
        self.accept = accept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_out_of_descriptors_it_pauses_and_says_so_once(
    mode: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection stays in the queue and the listener stays readable, so an accept loop that goes on would spin."""
    with caplog.at_level(logging.WARNING), server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        accept = Scripted(server, number, times=5)
        server.get_request = accept
        server._BaseServer__policy = AcceptPolicy(name="test", pause=0.001)
        with serving(server, close=False):
            assert ask(server) == b"HELLO", "the client waited in the queue, and was served when it was over"
            assert ask(server) == b"HELLO"
    assert accept.left == 0
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert errno.errorcode[number] in lines[0]
    # Five failures, two clients, and at most one look that found nothing after each.
    assert accept.calls <= 5 + 2 * 2


@pytest.mark.parametrize("mode", MODES)
def test_while_it_pauses_it_does_not_ask(mode: str) -> None:
    """For as long as the pause lasts there is one attempt, however long the client waits."""
    with server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        accept = Scripted(server, errno.EMFILE, times=10**9)
        server.get_request = accept
        server._BaseServer__policy = AcceptPolicy(name="test", pause=3600)
        with serving(server, close=False), connect(server):
            until(lambda: accept.calls)
            for _ in range(20):
                server._wake()  # whatever else gives the loop a turn
                threading.Event().wait(0.001)
            assert accept.calls == 1
            server.stop()


def test_handle_request_does_not_spin_either() -> None:
    """One client, no descriptor, 50 ms of patience: the attempts are few."""
    with ours.TCPServer(("127.0.0.1", 0), Echo) as server:
        accept = Scripted(server, errno.EMFILE, times=10**9)
        server.get_request = accept  # type: ignore[method-assign,assignment]
        server.timeout = 0.05
        timeouts: list[int] = []
        server.handle_timeout = lambda: timeouts.append(1)  # type: ignore[method-assign,assignment]
        with connect(server):
            server.handle_request()
        assert 1 <= accept.calls <= 5


def test_a_loop_that_spins_would_be_found_out() -> None:
    """The broken case: the standard library's, which asks as fast as it can."""
    with std.TCPServer(("127.0.0.1", 0), Echo) as server:
        accept = Scripted(server, errno.EMFILE, times=1000)
        server.get_request = accept  # type: ignore[method-assign]
        with serving(server, close=False):
            assert ask(server) == b"HELLO"
    assert accept.calls > 1000


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.EPERM])
def test_a_fault_of_one_connection_is_passed_over_at_once(
    mode: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        server.get_request = Scripted(server, number, times=10)
        with serving(server, close=False):
            assert ask(server) == b"HELLO"
    assert caplog.text == ""


def test_really_out_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """The limit itself, and not only its error: the server comes through it, and the waiting client is served."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING), ours.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        with serving(server, close=False), contextlib.ExitStack() as stack:
            assert ask(server) == b"HELLO"  # it has all that it needs to serve
            client = stack.enter_context(socket.socket())
            client.settimeout(SOON)
            highest = client.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            try:
                # The holes below are filled, so that the next descriptor is one too many.
                with contextlib.suppress(OSError):
                    while True:
                        stack.callback(os.close, os.dup(client.fileno()))
                client.connect(server.server_address)
                client.sendall(b"hello")
                until(lambda: "EMFILE" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert client.recv(100) == b"HELLO"
    assert caplog.text.count("EMFILE") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_listener_that_is_gone_ends_the_serving_and_says_so(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Shut down by somebody else: it reports readable for ever, and accept says EINVAL."""
    with caplog.at_level(logging.ERROR), server_class(mode)(("127.0.0.1", 0), echo(mode)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert ask(server) == b"HELLO"
        socket.socket.shutdown(server.socket, socket.SHUT_RDWR)
        thread.join(SOON)
        assert not thread.is_alive()
    assert "the listening socket is gone" in caplog.text


# -- it cannot begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_constructor_that_fails_leaves_nothing_open(mode: str) -> None:
    with ours.TCPServer(("127.0.0.1", 0), Echo) as taken:
        with pytest.raises(OSError, match="in use"):
            server_class(mode)(taken.server_address, echo(mode))
    with pytest.raises(OSError):
        server_class(mode)(("no.such.host.invalid", 0), echo(mode))
    with pytest.raises(OverflowError):
        server_class(mode)(("127.0.0.1", 65536), echo(mode))
    # The suite itself fails where a descriptor is left.


@pytest.mark.parametrize("where", ["server_bind", "server_activate", "__init__"])
def test_a_subclass_that_fails_leaves_nothing_open(where: str) -> None:
    closed: list[str] = []

    class Fails(ours.ThreadingTCPServer):
        def __init__(self, *args: Any) -> None:
            if where == "__init__":
                raise KeyError(where)
            super().__init__(*args)

        def server_bind(self) -> None:
            super().server_bind()
            if where == "server_bind":
                raise KeyError(where)

        def server_activate(self) -> None:
            super().server_activate()
            if where == "server_activate":
                raise KeyError(where)

        def server_close(self) -> None:
            closed.append(where)
            super().server_close()

    with pytest.raises(KeyError):
        Fails(("127.0.0.1", 0), Echo)
    assert closed == ([] if where == "__init__" else [where])


def test_a_handler_that_is_partly_set_up_is_finished() -> None:
    """What setup() had opened is closed; and the error that is told is that of setup(), not what came of it."""
    opened: list[Any] = []
    errors: list[BaseException | None] = []

    class HalfWay(ours.StreamRequestHandler[Any]):
        def setup(self) -> None:
            super().setup()
            opened.append(self)
            raise KeyError("setup")

        def finish(self) -> None:
            super().finish()
            opened.append("finished")
            raise ValueError("finish")

    class Tells(ours.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            import sys

            errors.append(sys.exc_info()[1])

    with Tells(("127.0.0.1", 0), HalfWay) as server, serving(server, close=False):
        assert ask(server) == b""
        until(lambda: errors)
    handler, finished = opened
    assert finished == "finished"
    assert handler.rfile.closed
    assert handler.wfile.closed
    assert repr(errors) == "[KeyError('setup')]"


def test_a_stream_handler_that_never_set_up_is_finished() -> None:
    class Forgetful(ours.StreamRequestHandler[Any]):
        def setup(self) -> None:
            """Without the base class's."""

        def handle(self) -> None:
            self.request.sendall(b"answered")

    errors: list[int] = []

    class Tells(ours.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(1)

    with Tells(("127.0.0.1", 0), Forgetful) as server, serving(server, close=False):
        assert ask(server) == b"answered"
        assert ask(server) == b"answered"
    assert errors == []


@pytest.mark.parametrize("mode", ["threading", "green", "async"])
@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, KeyError, SystemExit])
def test_what_handlers_raise_is_told_in_the_log(
    mode: str, error: type[BaseException], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that left is no fault: debug, and one line. Everything else is an error with its traceback."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))

    class Fails(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            raise error("of the handler")

    class AsyncFails(ours.AsyncRequestHandler[Any]):
        async def handle(self) -> None:
            raise error("of the handler")

    with caplog.at_level(logging.DEBUG, "jackfield.server"):
        with server_class(mode)(("127.0.0.1", 0), AsyncFails if mode == "async" else Fails) as server:
            with serving(server, close=False):
                assert ask(server) == b""
                with connect(server) as client:
                    peer = client.getsockname()
                    assert client.recv(1) == b""
    told += [type(record.incident.error) for record in caplog.records if record.exc_text]
    if issubclass(error, ConnectionError):
        assert [(record.levelname, record.exc_text) for record in caplog.records] == [("DEBUG", None)] * 2
        assert str(peer[1]) in caplog.text
    else:
        assert told == [error] * 2
