"""The loop against servers whose behaviour is known, in C and in Python: every figure follows from what the server did.

No time is taken for granted. Where a time is checked, the server has measured what it did itself, and that bounds what
the load test may say from both sides.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import socket
import threading
import time
from pathlib import Path

import pytest
from bench_support import SECOND, Peer, attack, datagrams, echo

from jackfield.bench.histogram import ERROR
from jackfield.bench.loop import FAULTS
from ports import closed_port

pytestmark = pytest.mark.usefixtures("twin")

NONE = dict.fromkeys(FAULTS, 0)


# -- what is asked is what comes -----------------------------------------------------------------------------------


def test_every_request_is_counted_once() -> None:
    came = []

    def count(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            came.append(data)
            sock.sendall(data.upper())

    with Peer(count) as peer:
        result = attack(peer.address, requests=500, connections=7)
    assert result.latencies.count == result.counts["replied"] == result.counts["asked"] == len(came) == 500
    assert (result.counts["sent"], result.counts["received"]) == (500 * 64, 500 * 64)
    assert result.errors == NONE
    assert result.counts["opened"] == peer.served == 7


def test_a_time_is_kept() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, duration=0.2, connections=3)
    assert result.latencies.count == result.counts["replied"] > 0
    assert result.errors == NONE


def test_the_warm_up_does_not_count() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, requests=20, connections=2, warmup=0.1)
    assert result.latencies.count == 20
    assert result.counts["replied"] > 20


@pytest.mark.parametrize("pipeline", [1, 2, 7])
def test_so_many_are_on_their_way_and_not_one_more(pipeline: int) -> None:
    most = []

    def collect(sock: socket.socket) -> None:
        # Nothing is answered before all that may be on their way have come, and then each by itself.
        while data := sock.recv(10 * pipeline, socket.MSG_WAITALL):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                most.append(len(sock.recv(1)))
            sock.setblocking(True)
            for at in range(0, len(data), 10):
                sock.sendall(data[at : at + 10].upper())

    with Peer(collect) as peer:
        result = attack(peer.address, requests=pipeline * 10, connections=1, pipeline=pipeline, payload=b"abcdefghij")
    assert result.latencies.count == pipeline * 10
    assert most == []
    assert result.errors == NONE


def test_replies_may_come_in_any_pieces() -> None:
    def piecemeal(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := sock.recv(6):
            for byte in data.upper():
                sock.sendall(bytes([byte]))

    with Peer(piecemeal) as peer:
        result = attack(peer.address, requests=30, connections=2, payload=b"abcdef", pipeline=3)
    assert result.latencies.count == 30
    assert result.errors == NONE


def test_a_request_larger_than_the_kernel_takes_at_once() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, requests=4, connections=2, payload=b"x" * 3_000_000, pipeline=2)
    assert result.latencies.count == 4
    assert result.counts["sent"] == result.counts["received"] == 12_000_000
    assert result.errors == NONE


def test_a_connection_for_each_request() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, requests=40, connections=4, connect_per_request=True)
        assert result.counts["opened"] == 40
    assert peer.served == 40
    assert result.latencies.count == 40
    assert result.errors == NONE


@pytest.mark.parametrize("framing", ["line", "netstring", "u32"])
@pytest.mark.parametrize("expect", ["any", "same"])
def test_framed_replies(framing: str, expect: str) -> None:
    def same(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            sock.sendall(data)

    with Peer(same) as peer:
        result = attack(
            peer.address, requests=60, connections=2, pipeline=3, framing=framing, expect=expect, payload=b"hello"
        )
    assert result.latencies.count == 60
    assert result.errors == NONE


def test_any_reply_without_a_framing_is_whatever_comes() -> None:
    def greet(sock: socket.socket) -> None:
        while sock.recv(65536):
            sock.sendall(b"whatever")

    with Peer(greet) as peer:
        result = attack(peer.address, requests=10, connections=1, expect="any")
    assert (result.latencies.count, result.errors) == (10, NONE)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_unix_sockets(kind: int, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    scheme = "unix" if kind == socket.SOCK_STREAM else "unixpacket"
    with Peer(echo, listener):
        result = attack(f"{scheme}:{tmp_path}/s", requests=50, connections=3, pipeline=2)
    assert (result.latencies.count, result.errors) == (50, NONE)


def test_unix_datagrams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s"))

        def serve() -> None:
            while (received := server.recvfrom(100))[0] != b"over":
                server.sendto(received[0].upper(), received[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            result = attack(f"unixgram:{tmp_path}/s", requests=50, connections=3, pipeline=2)
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"over", str(tmp_path / "s"))
            thread.join()
    assert (result.latencies.count, result.errors) == (50, NONE)


def test_ipv6() -> None:
    with Peer(echo, socket.create_server(("::1", 0), family=socket.AF_INET6)) as peer:
        port = peer.address.rsplit(":", 1)[1]
        result = attack(f"tcp://[::1]:{port}", requests=10, connections=1)
    assert (result.latencies.count, result.errors) == (10, NONE)


# -- how long it took ----------------------------------------------------------------------------------------------


def test_percentiles_of_a_server_with_a_fixed_delay() -> None:
    """Between what the server held each request for, and what there was time for around it."""
    came: list[int] = []
    went: list[int] = []

    def hold(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            came.append(time.monotonic_ns())
            time.sleep(0.005)
            went.append(time.monotonic_ns())
            sock.sendall(data.upper())

    with Peer(hold) as peer:
        before = time.monotonic_ns()
        result = attack(peer.address, requests=60, connections=1)
        after = time.monotonic_ns()
    assert len(came) == 60
    shortest = sorted(end - begin for begin, end in zip(came, went, strict=True))
    # Each is sent once the reply before it is there, and its own is there before the next comes in.
    longest = sorted(end - begin for begin, end in zip([before, *went], [*came[1:], after], strict=False))
    assert shortest[0] >= 5_000_000
    for percent in (1, 50, 75, 90, 95, 99, 100):
        rank = math.ceil(60 * percent / 100) - 1
        assert shortest[rank] <= result.latencies.quantile(percent / 100) <= longest[rank] * (1 + ERROR), percent
    assert sum(shortest) / 60 <= result.latencies.mean() <= sum(longest) / 60


class Staller:
    """Serves its requests one after the other, and once, at the request of that number, stands still for a second."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._turn = threading.Lock()
        self._number = itertools.count(1)
        self.stalled = 0

    def __call__(self, sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            with self._turn:
                if next(self._number) == self._at:
                    began = time.monotonic_ns()
                    time.sleep(1)
                    self.stalled = time.monotonic_ns() - began
            sock.sendall(data.upper())


@pytest.mark.slow
def test_an_open_loop_sees_a_stall_in_its_99th_percentile() -> None:
    stall = Staller(at=40)
    with Peer(stall) as peer:
        result = attack(peer.address, duration=1.6, rate=200, connections=4)
    # On a machine that is busy the last ones may not be sent any more.
    assert result.counts["asked"] + result.overdue == 320
    assert 100 <= result.latencies.count == result.counts["asked"]
    assert result.errors == NONE
    # A fifth of a second after its beginning 40 more are due, each of which waits for all the rest of it.
    assert result.latencies.quantile(0.87) >= stall.stalled - 0.25 * SECOND
    assert result.latencies.quantile(0.99) >= stall.stalled - 0.1 * SECOND


@pytest.mark.slow
def test_a_closed_loop_does_not() -> None:
    stall = Staller(at=40)
    with Peer(stall) as peer:
        result = attack(peer.address, requests=600, connections=1)
    assert result.latencies.count == 600
    assert result.latencies.most >= stall.stalled  # one of 600
    assert result.latencies.quantile(0.99) < stall.stalled / 2


def test_a_rate_is_kept_on_average_and_requests_are_due_evenly() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, duration=0.5, rate=400, connections=4)
    # A machine that is busy may be late with the last ones, never early with any.
    assert result.counts["asked"] + result.overdue == 200
    assert result.latencies.count == result.counts["asked"]


def test_a_rate_that_is_ramped_up_has_half_of_the_requests() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, duration=0.2, ramp=0.4, rate=200, connections=2)
    assert result.counts["asked"] + result.overdue == 80  # 40 while it grows, and 40 at its height
    assert result.latencies.count <= 40


def test_a_rate_above_what_the_server_takes_is_a_backlog() -> None:
    def slow(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            time.sleep(0.02)
            sock.sendall(data.upper())

    with Peer(slow) as peer:
        result = attack(peer.address, duration=0.4, rate=1000, connections=2)
    # Two connections of 50 replies a second at most.
    assert result.counts["asked"] <= 44
    assert result.counts["asked"] + result.overdue == 400
    assert result.backlogged


def test_connections_for_each_request_at_a_rate() -> None:
    with Peer(echo) as peer:
        result = attack(peer.address, requests=30, rate=300, connections=3, connect_per_request=True)
    assert (result.latencies.count, result.errors, result.counts["opened"]) == (30, NONE, 30)


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_wrong_reply_is_one_error_and_its_connection_is_opened_anew() -> None:
    wrong = iter([True])

    def lie(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            sock.sendall(b"nonsense" + data[8:].upper() if next(wrong, False) else data.upper())

    with Peer(lie) as peer:
        result = attack(peer.address, requests=20, connections=1)
    assert result.errors == NONE | {"wrong": 1}
    assert result.latencies.count == 19
    assert result.reasons["wrong"].startswith("nonsense")
    assert result.counts["opened"] == 2


@pytest.mark.parametrize(
    ("framing", "reply"), [("netstring", b"x:"), ("u32", b"\xff\xff\xff\xff"), ("netstring", b"3:abc;")]
)
def test_what_is_no_frame_is_wrong(framing: str, reply: bytes) -> None:
    def lie(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(reply)
        sock.recv(1)

    with Peer(lie) as peer:
        result = attack(peer.address, requests=2, connections=1, framing=framing, expect="any")
    assert result.errors == NONE | {"wrong": 2}


def test_more_than_was_asked_for_is_wrong() -> None:
    def babble(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            sock.sendall(data.upper() + b"and more")

    with Peer(babble) as peer:
        result = attack(peer.address, requests=3, connections=1)
    assert result.errors["wrong"] > 0


def test_a_server_that_closes_in_the_middle() -> None:
    def half(sock: socket.socket) -> None:
        sock.sendall(sock.recv(64, socket.MSG_WAITALL)[:32].upper())

    with Peer(half) as peer:
        result = attack(peer.address, requests=4, connections=2)
    assert result.errors == NONE | {"closed": 4}
    assert result.latencies.count == 0


def test_a_server_that_closes_while_nothing_is_asked_is_no_error() -> None:
    def once(sock: socket.socket) -> None:
        # The reply is held back until the end of the connection, and goes out with it.
        sock.send(sock.recv(64, socket.MSG_WAITALL).upper(), socket.MSG_MORE)

    with Peer(once) as peer:
        result = attack(peer.address, requests=2, rate=1, connections=1)
    assert result.errors == NONE
    assert result.counts["opened"] == 2


def test_a_server_that_never_answers() -> None:
    def silent(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    with Peer(silent) as peer:
        result = attack(peer.address, requests=6, connections=2, timeout=0.05, pipeline=3)
    assert result.errors == NONE | {"timeout": 6}
    assert result.latencies.count == 0


def test_a_server_that_refuses() -> None:
    with closed_port() as port:
        result = attack(f"127.0.0.1:{port}", requests=5, connections=2)
    assert result.errors == NONE | {"connect": 5}
    assert result.reasons["connect"] == errno.ECONNREFUSED


def test_a_server_that_refuses_each_request() -> None:
    with closed_port() as port:
        result = attack(f"127.0.0.1:{port}", requests=5, connections=2, connect_per_request=True)
    assert result.errors == NONE | {"connect": 5}


def test_what_is_on_its_way_at_the_end_is_waited_for() -> None:
    def slow(sock: socket.socket) -> None:
        while data := sock.recv(64, socket.MSG_WAITALL):
            time.sleep(0.25)
            sock.sendall(data.upper())

    with Peer(slow) as peer:
        result = attack(peer.address, duration=0.1, connections=2)
    assert (result.latencies.count, result.errors) == (2, NONE)
    assert result.latencies.least >= 0.25 * SECOND


# -- datagrams -----------------------------------------------------------------------------------------------------


def test_datagrams_that_are_lost_are_counted_and_no_other_is() -> None:
    with datagrams(lambda number, data: None if number % 10 == 3 else data.upper()) as address:
        result = attack(address, requests=50, connections=2, timeout=0.3)
    assert result.errors == NONE | {"lost": 5}
    assert result.latencies.count == 45


def test_a_reply_that_is_late_is_not_taken_for_the_next_one() -> None:
    held: list[bytes] = []

    def late(number: int, data: bytes) -> bytes | None:
        if number == 0:
            held.append(data)
            return None
        return data.upper()

    with datagrams(late) as address:
        result = attack(address, requests=10, connections=1, timeout=0.3)
    assert (result.errors, result.latencies.count) == (NONE | {"lost": 1}, 9)
    assert result.counts["opened"] == 2  # another socket, to which the late one would not come


def test_a_wrong_datagram() -> None:
    with datagrams(lambda number, data: b"short" if number == 1 else data.upper()) as address:
        result = attack(address, requests=10, connections=1)
    assert (result.errors, result.latencies.count) == (NONE | {"wrong": 1}, 9)


def test_so_many_datagrams_are_on_their_way_each_from_a_socket_of_its_own() -> None:
    with datagrams(lambda _number, data: data.upper()) as address:
        result = attack(address, requests=60, connections=2, pipeline=3)
    assert (result.latencies.count, result.errors, result.counts["opened"]) == (60, NONE, 6)


def test_empty_datagrams() -> None:
    with datagrams(lambda _number, data: data) as address:
        result = attack(address, requests=20, connections=2, payload=b"")
    assert (result.latencies.count, result.errors) == (20, NONE)


def test_a_port_of_datagrams_where_nobody_is() -> None:
    with closed_port(socket.SOCK_DGRAM) as port:
        result = attack(f"udp://127.0.0.1:{port}", requests=3, connections=1, timeout=0.2)
    assert result.failed == 3
    assert result.latencies.count == 0
