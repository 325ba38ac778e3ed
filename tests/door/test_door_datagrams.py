"""Datagrams: whole or marked, never waiting, and answered from the address that they were sent to."""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from jackfield.door import Datagram, PacketInfo, kernel_drops, open_listeners, receive_batch, reply_socket
from jackfield.door.datagrams import ReplySocket
from jackfield.door.packetinfo import is_wildcard, packet_info

linux = pytest.mark.skipif(not os.path.exists("/proc/sys/net"), reason="what Linux's kernel does")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(stack: ExitStack, address: str) -> tuple[socket.socket, int]:
    (listener,) = open_listeners(address, socket_class=socket.socket)
    stack.callback(listener.close)
    return listener.socket, listener.socket.getsockname()[1]


def client(stack: ExitStack, family: int = socket.AF_INET) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(5)
    return sock


def arrived(sock: socket.socket, **options: int) -> list[Datagram]:
    """One batch, once there is one: on loopback, whatever was sent is there by then."""
    assert select.select([sock], [], [], 5)[0]
    return list(receive_batch(sock, **options))


def scripted(*steps: object, family: int = socket.AF_INET) -> socket.socket:
    """What has the part of a socket that receive_batch uses, and fails on cue."""
    remaining = iter(steps)

    class Scripted:
        def recvmsg(self, *_: Any) -> object:
            step = next(remaining, BlockingIOError(errno.EAGAIN, "nothing"))
            if isinstance(step, BaseException):
                raise step
            return step

    fake = Scripted()
    fake.family = family  # type: ignore[attr-defined]
    return cast(socket.socket, fake)


def test_an_empty_queue_is_an_empty_batch(stack: ExitStack) -> None:
    sock, _ = bound(stack, "udp://127.0.0.1:0")
    assert list(receive_batch(sock)) == []
    sock.setblocking(True)  # as the drop-in classes have it: it still does not wait
    assert list(receive_batch(sock)) == []


def test_a_batch_has_all_in_order_and_empty_ones_too(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp://127.0.0.1:0")
    sender = client(stack)
    sender.bind(("127.0.0.1", 0))
    messages = [b"one", b"", b"x" * 60_000, b"four"]
    for message in messages:
        sender.sendto(message, ("127.0.0.1", port))
    batch = arrived(sock)
    assert [datagram.data for datagram in batch] == messages
    assert {datagram.peer for datagram in batch} == {sender.getsockname()}
    assert not any(datagram.truncated or datagram.local for datagram in batch)


def test_a_batch_ends_with_its_budget(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp://127.0.0.1:0")
    sender = client(stack)
    for number in range(10):
        sender.sendto(bytes([number]), ("127.0.0.1", port))
    assert [len(arrived(sock, budget=4)), len(arrived(sock, budget=4)), len(arrived(sock, budget=4))] == [4, 4, 2]


def test_the_longest_datagram_is_whole_and_a_cut_one_says_so(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp://127.0.0.1:0")
    sender = client(stack)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sender.sendto(b"u" * 65507, ("127.0.0.1", port))
    (whole,) = arrived(sock)
    assert (len(whole.data), whole.truncated) == (65507, False)
    sender.sendto(b"u" * 8193, ("127.0.0.1", port))
    (cut,) = arrived(sock, size=8192)
    assert (len(cut.data), cut.truncated) == (8192, True)
    sender.sendto(b"u" * 8192, ("127.0.0.1", port))
    (exact,) = arrived(sock, size=8192)
    assert (len(exact.data), exact.truncated) == (8192, False)


def test_errors_that_icmp_brings_are_passed_over() -> None:
    message = (b"m", [], 0, ("127.0.0.1", 9))
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    unreachable = OSError(errno.EHOSTUNREACH, "no route")
    sock = scripted(refused, message, unreachable, refused, message)
    assert [datagram.data for datagram in receive_batch(sock)] == [b"m", b"m"]


def test_other_errors_are_raised_and_none_repeats_for_ever() -> None:
    message = (b"m", [], 0, ("127.0.0.1", 9))
    batch = receive_batch(scripted(message, OSError(errno.ENOBUFS, "no buffers")))
    assert next(batch).data == b"m"
    with pytest.raises(OSError, match="no buffers"):
        next(batch)
    with pytest.raises(ConnectionRefusedError):
        list(receive_batch(scripted(*[ConnectionRefusedError(errno.ECONNREFUSED, "refused")] * 1000), budget=10))


@linux
def test_a_real_icmp_error_does_not_end_the_batch(stack: ExitStack) -> None:
    sock = client(stack)
    sock.bind(("127.0.0.1", 0))
    nobody = client(stack)
    nobody.bind(("127.0.0.1", 0))
    closed = nobody.getsockname()
    nobody.close()
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: report errors on an unconnected socket too (ip(7))
    sock.sendto(b"is anybody there", closed)
    sender = client(stack)
    sender.sendto(b"yes", sock.getsockname())
    sock.setblocking(True)
    assert [datagram.data for datagram in arrived(sock)] == [b"yes"]


def test_a_closed_socket_is_an_error_and_not_an_empty_queue() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    with pytest.raises(OSError) as caught:
        list(receive_batch(sock))
    assert caught.value.errno == errno.EBADF


@linux
def test_descriptors_that_a_unix_peer_sends_do_not_come_in(stack: ExitStack, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "s")
    (listener,) = open_listeners(f"unixgram:{path}", socket_class=socket.socket)
    stack.callback(listener.close)
    sender = client(stack, socket.AF_UNIX)
    gift = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    before = len(os.listdir("/proc/self/fd"))
    sender.sendmsg([b"have these"], gift, 0, path)
    (datagram,) = arrived(listener.socket)
    assert (datagram.data, datagram.truncated, datagram.local) == (b"have these", False, None)
    assert len(os.listdir("/proc/self/fd")) == before


@linux
def test_the_kernel_tells_what_it_dropped(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp://127.0.0.1:0")
    assert kernel_drops(sock) == 0
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sender = client(stack)
    for _ in range(200):
        sender.sendto(b"x" * 500, ("127.0.0.1", port))
    kept = len(arrived(sock, budget=1000))
    assert 0 < kept < 200 and kernel_drops(sock) == 200 - kept


def test_a_closed_socket_tells_no_drops() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    assert kernel_drops(sock) is None


# --- from which address the answer leaves ---------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("server", ["udp4://:0", "udp://:0"])
def test_a_socket_of_all_interfaces_answers_from_the_addressed_one(stack: ExitStack, server: str) -> None:
    sock, port = bound(stack, server)
    asker = client(stack)
    asker.bind(("127.0.0.1", 0))
    asker.sendto(b"who", ("127.0.0.2", port))
    (datagram,) = arrived(sock)
    assert datagram.local is not None and datagram.local.address == "127.0.0.2"
    answerer = reply_socket(sock, datagram)
    assert answerer.sendto(b"me", datagram.peer) == 2
    assert asker.recvfrom(9) == (b"me", ("127.0.0.2", port))
    assert answerer.sendto(b"me too", 0, datagram.peer) == 6
    assert asker.recvfrom(9) == (b"me too", ("127.0.0.2", port))
    assert answerer.sendmsg(iter([b"all ", b"three"]), [], 0, datagram.peer) == 9
    assert asker.recvfrom(9) == (b"all three", ("127.0.0.2", port))


@linux
def test_without_it_the_answer_comes_from_elsewhere(stack: ExitStack) -> None:
    """The broken case: it is what makes the tests above mean something."""
    sock, port = bound(stack, "udp4://:0")
    asker = client(stack)
    asker.sendto(b"who", ("127.0.0.2", port))
    (datagram,) = arrived(sock)
    sock.sendto(b"me", datagram.peer)
    assert asker.recvfrom(9)[1] == ("127.0.0.1", port)


@linux
@pytest.mark.parametrize("server", ["udp6://:0", "udp://:0"])
def test_the_same_over_ipv6(stack: ExitStack, server: str) -> None:
    sock, port = bound(stack, server)
    asker = client(stack, socket.AF_INET6)
    asker.sendto(b"who", ("::1", port))
    (datagram,) = arrived(sock)
    assert datagram.local is not None and datagram.local.address == "::1"
    reply_socket(sock, datagram).sendto(b"me", datagram.peer)
    assert asker.recvfrom(9)[1][:2] == ("::1", port)


def test_a_socket_of_one_address_is_its_own_reply_socket(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp://127.0.0.1:0")
    asker = client(stack)
    asker.sendto(b"who", ("127.0.0.1", port))
    (datagram,) = arrived(sock)
    assert datagram.local is None and reply_socket(sock, datagram) is sock


@linux
def test_a_reply_socket_is_the_socket_in_all_else(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp4://:0")
    asker, other = client(stack), client(stack)
    other.bind(("127.0.0.3", 0))
    asker.sendto(b"who", ("127.0.0.2", port))
    (datagram,) = arrived(sock)
    answerer = reply_socket(sock, datagram)
    assert type(answerer) is ReplySocket and isinstance(answerer, socket.socket)
    assert answerer.fileno() == sock.fileno() and answerer.getsockname() == sock.getsockname()
    assert select.select([], [answerer], [], 5)[1]
    assert "127.0.0.2" in repr(answerer)
    # To somebody else the kernel chooses: for 127.0.0.3 that is 127.0.0.1.
    answerer.sendto(b"hello", other.getsockname())
    assert other.recvfrom(9)[1] == ("127.0.0.1", port)
    answerer.sendmsg([b"hello"], [], 0, other.getsockname())
    assert other.recvfrom(9)[1] == ("127.0.0.1", port)
    for wrong in [(), (b"no address",), (b"x", "no tuple"), ("text", datagram.peer), (b"x", 0, datagram.peer, 1)]:
        with pytest.raises(TypeError):
            answerer.sendto(*wrong)  # type: ignore[arg-type,call-arg]
    with pytest.raises(OSError):
        answerer.sendmsg([b"nowhere"])


@linux
def test_an_address_that_is_no_longer_ours_does_not_stop_the_answer(stack: ExitStack) -> None:
    sock, port = bound(stack, "udp4://:0")
    asker = client(stack)
    asker.bind(("127.0.0.1", 0))
    gone = Datagram(b"who", asker.getsockname(), False, PacketInfo(socket.inet_aton("203.0.113.9"), 1))
    answerer = reply_socket(sock, gone)
    assert answerer.sendto(b"me", gone.peer) == 2
    assert asker.recvfrom(9) == (b"me", ("127.0.0.1", port))
    assert answerer.sendmsg(iter([b"me", b"!"]), (), 0, gone.peer) == 3
    assert asker.recvfrom(9) == (b"me!", ("127.0.0.1", port))


def test_packet_info_reads_and_writes_what_the_kernel_speaks() -> None:
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1") + (7).to_bytes(4, sys.byteorder)
    assert packet_info([]) is None and packet_info([(1, 2, b"other")]) is None
    info = packet_info([(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, mapped)])
    assert info is not None and (info.address, info.interface) == ("192.0.2.1", 7)
    for text, source, interface in [
        ("2001:db8::1", "2001:db8::1", 0),
        ("fe80::1", "fe80::1", 7),  # means nothing without its interface
        ("ff02::1", "::", 7),  # a group cannot be a sender
    ]:
        level, kind, data = PacketInfo(socket.inet_pton(socket.AF_INET6, text), 7).control()
        assert (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
        assert data == socket.inet_pton(socket.AF_INET6, source) + interface.to_bytes(4, sys.byteorder)


def test_only_all_interfaces_is_a_wildcard() -> None:
    assert is_wildcard(socket.AF_INET, ("0.0.0.0", 1)) and is_wildcard(socket.AF_INET6, ("::", 1, 0, 0))
    assert not is_wildcard(socket.AF_INET, ("127.0.0.1", 1)) and not is_wildcard(socket.AF_UNIX, "/p")
