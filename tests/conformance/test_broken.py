"""Each suite can fail: sockets and servers that are broken on purpose, and the check that finds each of them out.

What is broken is always a standard-library socket or server, so nothing here depends on ours.
"""

from __future__ import annotations

import contextlib
import os
import socket as _socket_std
import socketserver as _socketserver_std
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jackfield.testing import (
    DATAGRAM_SERVER,
    SOCKET,
    STREAM_SERVER,
    ClassServers,
    ConformanceError,
    NotPromised,
    SocketFactory,
    ThreadUnits,
    check_server,
    check_socket,
    stdlib_servers,
    stdlib_sockets,
)
from jackfield.testing.suite import Suite

Socket = _socket_std.socket


class WrappedSockets(SocketFactory):
    """Pairs of the standard library's, with both ends made into another class."""

    def __init__(self, kind: type[Socket], transport: str = "unix") -> None:
        super().__init__(kind.__name__, _socket_std, ThreadUnits(), transport)
        self.kind = kind

    def wrap(self, end: Socket, server: bool) -> Socket:
        return self.kind(end.family, end.type, end.proto, end.detach())


class LosesTheLastByte(Socket):
    def sendall(self, data: Any, flags: int = 0) -> None:
        super().sendall(data[:-1] if len(data) > 1000 else data, flags)


class SendsAPartTwice(Socket):
    def send(self, data: Any, flags: int = 0) -> int:
        taken = super().send(data, flags)
        return max(1, taken - 1) if taken > 1 else taken


class EndsOnReset(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        try:
            return super().recv(bufsize, flags)
        except ConnectionResetError:
            return b""


class HidesBrokenPipes(Socket):
    def sendall(self, data: Any, flags: int = 0) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().sendall(data, flags)


class GivesUpEarly(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        patience = self.gettimeout()
        if patience and patience > 0.01:
            self.settimeout(patience / 4)
        try:
            return super().recv(bufsize, flags)
        finally:
            self.settimeout(patience)


class ForgetsItsTimeout(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        try:
            return super().recv(bufsize, flags)
        except TimeoutError:
            self.settimeout(None)
            raise


class DropsWhatCameLate(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        try:
            return super().recv(bufsize, flags)
        except TimeoutError:
            with contextlib.suppress(OSError):
                super().recv(1, _socket_std.MSG_DONTWAIT)
            raise


class TakesThePeek(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        return super().recv(bufsize, flags & ~_socket_std.MSG_PEEK)


class WaitsForNothing(Socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        return super().recv(bufsize, flags & ~_socket_std.MSG_WAITALL)


class FillsTooMuch(Socket):
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return super().recv_into(buffer, 0, flags)


class StaysOpen(Socket):
    """Closes only when it is closed by the end of a with block."""

    def close(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        super().close()


class MovesTheFileWrongly(Socket):
    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        sent = super().sendfile(file, offset, count)
        file.seek(0)
        return sent


class ClosesWholly(Socket):
    def shutdown(self, how: int) -> None:
        super().shutdown(_socket_std.SHUT_RDWR)


HANGS = "still runs after"


@pytest.mark.parametrize(
    ("broken", "name", "why"),
    [
        (LosesTheLastByte, "flows_both_ways", HANGS),
        (SendsAPartTwice, "sends_in_parts", "hash of what was sent in parts"),
        (EndsOnReset, "sees_a_reset_while_reading", "recv when the peer resets: returned b''"),
        (HidesBrokenPipes, "sees_a_reset_in_mid_send", "sendall to a peer that resets: returned None"),
        (HidesBrokenPipes, "sees_a_peer_vanish_in_mid_send", "process was killed: returned None"),
        (GivesUpEarly, "timeouts_future_reading", r"recv gave up after 0\.0"),
        (ForgetsItsTimeout, "timeouts_present", HANGS),
        (DropsWhatCameLate, "timeouts_lose_nothing", HANGS),
        (TakesThePeek, "peeks", "the second look: got b'kaboo'"),
        (WaitsForNothing, "waits_for_all", "recv with MSG_WAITALL: got b'in '"),
        (FillsTooMuch, "receives_into_buffers", "recv_into of at most 4: got 10"),
        (StaysOpen, "refuses_calls_after_close", "fileno after close"),
        (MovesTheFileWrongly, "carries_files", "position"),
        (ClosesWholly, "half_closes", "the answer after the half-close: got b''|Broken pipe"),
    ],
)
def test_a_broken_socket_is_found_out(broken: type[Socket], name: str, why: str) -> None:
    fails(SOCKET, name, WrappedSockets(broken), why)


def test_a_close_that_wakes_nobody_is_found_out() -> None:
    """The standard library's own, held to what it does not promise."""
    factory = stdlib_sockets("unix")
    del factory.missing["close_wakes"]
    fails(SOCKET, "close_wakes", factory, HANGS)


def test_a_sound_socket_is_not_found_out() -> None:
    """The test of the tests above: what is not broken does not pass for broken."""
    with pytest.raises(AssertionError, match="the check passed"):
        fails(SOCKET, "peeks", WrappedSockets(Socket), HANGS)


def test_check_socket_names_every_check_that_failed() -> None:
    with pytest.raises(ConformanceError, match="peeks: AssertionError: the second look") as raised:
        check_socket(WrappedSockets(TakesThePeek), only=["peeks", "ping_pong", "receives_files"])
    report = raised.value.report
    assert (list(report.failed), list(report.passed)) == (["peeks"], ["ping_pong"])
    assert report.skipped == {"receives_files": "socket.socket has no recvfile"}
    assert not report.ok


def fails(suite: Suite[Any], name: str, factory: Any, why: str) -> None:
    """The check has to fail on `factory`, for that reason; what hangs is given little time.

    In a process of its own, which takes the threads and descriptors of a check that hangs with it.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises((AssertionError, OSError), match=why):
                suite.run_one(name, factory, timeout=0.5 if why is HANGS else 15)
            status = 0
        except BaseException:  # told by the status and on stderr; no test of the parent's may run here
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the check passed, or failed for another reason: see stderr"


# -- servers -----------------------------------------------------------------------------------------------------------


class BrokenServers(ClassServers):
    """The standard library's threading server, with something in it made wrong."""

    def __init__(self, address: str = "tcp://127.0.0.1:0", prefix: str = "Threading", **attributes: Any) -> None:
        sound = stdlib_servers(prefix, address)
        super().__init__(_socketserver_std, prefix, address, {}, {**sound.attributes, **attributes})
        self.concurrent = True


def dies_of_an_error(self: Any, request: Any, client_address: Any) -> None:
    self._BaseServer__shutdown_request = True


def hides_what_was_sent(self: Any, request: Any) -> None:
    with contextlib.suppress(OSError):
        request.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    self.close_request(request)


def leaks_a_descriptor(self: Any, request: Any) -> None:
    os.open(os.devnull, os.O_RDONLY)
    _socketserver_std.TCPServer.shutdown_request(self, request)


def loses_every_tenth(self: Any, request: Any, client_address: Any) -> bool:
    self.count = getattr(self, "count", 0) + 1
    return bool(self.count % 10)


def refuses_the_empty(self: Any, request: Any, client_address: Any) -> bool:
    return bool(request[0])


@pytest.mark.parametrize(
    ("name", "why", "attributes"),
    [
        ("outlives_a_failing_handler", HANGS, {"handle_error": dies_of_an_error}),
        ("serves_a_slow_reader", "reset|ended", {"shutdown_request": hides_what_was_sent}),
        ("serves_many_quick_connects", "ended|reset|Broken pipe", {"verify_request": loses_every_tenth}),
        ("echoes_to_many_clients", "ended|reset|Broken pipe", {"verify_request": loses_every_tenth}),
        ("leaves_nothing_open", "descriptors are open", {"shutdown_request": leaks_a_descriptor}),
    ],
)
def test_a_broken_stream_server_is_found_out(name: str, why: str, attributes: dict[str, Any]) -> None:
    fails(STREAM_SERVER, name, BrokenServers(**attributes), why)


def test_a_server_that_serves_one_after_the_other_is_found_out() -> None:
    """It says that it serves many at once, and a slow reader stops all the others."""
    fails(STREAM_SERVER, "serves_a_slow_reader", BrokenServers(prefix=""), HANGS)


def test_a_server_that_waits_for_idle_peers_is_found_out() -> None:
    """The standard library's way: server_close() waits for the thread of each, without end."""
    fails(STREAM_SERVER, "stops_with_idle_peers", BrokenServers(block_on_close=True, daemon_threads=False), HANGS)


def test_a_server_that_goes_on_listening_is_found_out() -> None:
    class GoesOn(BrokenServers):
        @contextmanager
        def serve(self, kind: str, address: str) -> Iterator[str]:
            with super().serve(kind, address) as real:
                port = int(real.rpartition(":")[2])
                yield real
            self.listener = _socket_std.create_server(("127.0.0.1", port))

    factory = GoesOn(allow_reuse_address=True)
    fails(STREAM_SERVER, "refuses_after_stop", factory, "connect after the server stopped: returned None")


@pytest.mark.parametrize(
    ("name", "why", "attributes"),
    [
        ("takes_a_large_datagram_whole", "got 8196 bytes", {"max_packet_size": 8192}),
        ("takes_an_empty_datagram", HANGS, {"verify_request": refuses_the_empty}),
        ("keeps_datagrams_in_a_burst", HANGS, {"verify_request": loses_every_tenth}),
        ("outlives_a_failing_datagram_handler", HANGS, {"handle_error": dies_of_an_error}),
    ],
)
def test_a_broken_datagram_server_is_found_out(name: str, why: str, attributes: dict[str, Any]) -> None:
    fails(DATAGRAM_SERVER, name, BrokenServers("udp://127.0.0.1:0", **attributes), why)


def test_check_server_names_the_check_that_failed() -> None:
    factory = BrokenServers("udp://127.0.0.1:0", max_packet_size=8192)
    only = ["answers_datagrams", "takes_a_large_datagram_whole"]
    with pytest.raises(ConformanceError, match="takes_a_large_datagram_whole: AssertionError: the answer") as raised:
        check_server(factory, only=only)
    assert raised.value.report.passed == ("answers_datagrams",)
    report = check_server(stdlib_servers("Threading", "unixgram:"), only=only)
    assert report.ok and report.passed == tuple(only)


# -- the suites themselves ---------------------------------------------------------------------------------------------


def test_a_check_that_hangs_says_where_it_stands() -> None:
    from threading import Event

    suite: Suite[Any] = Suite("hanging")
    release = Event()

    @suite.check
    def hangs(factory: Any) -> None:
        """Waits for what never comes."""
        release.wait(30)

    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"hangs still runs after 0\.1 s(.|\n)*release\.wait"):
        suite.run_one("hangs", None, timeout=0.1)
    assert time.monotonic() - start < 10
    release.set()


def test_a_suite_tells_a_misspelt_check() -> None:
    with pytest.raises(ValueError, match=r"no check 'echos'; it has .*echoes"):
        check_socket(stdlib_sockets(), only=["echos"])


def test_what_is_not_promised_is_not_run() -> None:
    with pytest.raises(NotPromised, match="because"):
        SOCKET.run_one("echoes", SocketFactory("x", _socket_std, ThreadUnits(), missing={"echoes": "because"}))


def test_together_raises_what_a_body_raises_and_names_what_hangs() -> None:
    from threading import Event

    units, release = ThreadUnits(), Event()

    def hangs() -> None:
        release.wait(30)

    def fails_at_once() -> None:
        raise KeyError("this one")

    with pytest.raises(KeyError, match="this one"):
        units.together(hangs, fails_at_once)
    with pytest.raises(AssertionError, match=r"still running: .*hangs"):
        units.together(hangs, lambda: None, timeout=0.05)
    release.set()
    assert units.together(lambda: 1, lambda: 2) == [1, 2]
    assert units.together() == []
