"""The beginning and the end of an accepted socket: what the native twin makes is what the pure one makes."""

from __future__ import annotations

import errno
import os
import select
import socket as standard
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twin_support import SOON, natively, pair

import jackfield
from jackfield import socket
from jackfield.reactor import current_reactor

#: A listener's timeout, and so by which twin it accepts where both are there: the native one takes those that never
#: wait. Without it both are the pure one.
BY_EITHER = [0.0, SOON]

FAMILIES = {"IPv4": ("127.0.0.1", standard.AF_INET), "IPv6": ("::1", standard.AF_INET6)}


@contextmanager
def accepted(timeout: float, kind: str = "IPv4") -> Iterator[tuple[socket.socket, Any, standard.socket]]:
    """The accepted socket, what accept told of its peer, and the peer."""
    host, family = FAMILIES[kind]
    with (
        socket.create_server((host, 0), family=family) as listener,
        standard.create_connection(listener.getsockname()[:2], SOON) as peer,
    ):
        listener.settimeout(timeout)
        assert select.select([listener], [], [], SOON)[0]
        sock, address = listener.accept()
        with sock:
            yield sock, address, peer


def state_of(sock: socket.socket) -> dict[str, Any]:
    """All that its classes keep in it, by name."""
    names = [name for kind in type(sock).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__weakref__"]
    return {name: getattr(sock, name, "not there") for name in names}


def differences(one: socket.socket, other: socket.socket) -> set[str]:
    first, second = state_of(one), state_of(other)
    return {name for name in first | second if first.get(name) is not second.get(name)}


def test_both_twins_begin_a_socket_alike() -> None:
    with accepted(0.0) as (one, _, _), accepted(SOON) as (other, _, _):
        assert differences(one, other) == set()
        assert len(state_of(one)) > 10
        for sock in (one, other):
            assert (sock.family, sock.type, sock.proto) == (standard.AF_INET, standard.SOCK_STREAM, 0)
            assert sock.gettimeout() is None and os.get_blocking(sock.fileno())
            assert not os.get_inheritable(sock.fileno())


def test_a_difference_would_be_seen() -> None:
    with accepted(0.0) as (one, _, _), accepted(SOON) as (other, _, _):
        one.asked, one.received = 7, 1
        assert differences(one, other) == {"asked", "received"}


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("timeout", BY_EITHER)
def test_the_address_is_the_peers(timeout: float, kind: str) -> None:
    with accepted(timeout, kind) as (sock, address, peer):
        assert address == peer.getsockname() == sock.getpeername()
        assert list(map(type, address)) == list(map(type, peer.getsockname()))


@pytest.mark.parametrize("timeout", BY_EITHER)
def test_the_default_timeout_holds(timeout: float) -> None:
    for seconds in (1.5, 0.0, None):
        standard.setdefaulttimeout(seconds)
        try:
            with accepted(timeout) as (sock, _, _):
                assert sock.gettimeout() == seconds
                assert os.get_blocking(sock.fileno()) is (seconds is None)
        finally:
            standard.setdefaulttimeout(None)


def test_errors_are_the_standard_librarys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    with pytest.raises(OSError) as caught:
        listener.accept()
    assert caught.value.errno == errno.EBADF
    with socket.socket() as unbound:
        unbound.settimeout(0.0)
        with pytest.raises(OSError) as caught:
            unbound.accept()
    assert caught.value.errno == errno.EINVAL


AUDITED = """
import os, select, socket as standard, sys
from jackfield import socket

events, refusing = [], []

def hook(name, arguments):
    if name == "socket.__new__":
        events.append(arguments[1:])
        if refusing:
            raise PermissionError("the hook says no")

with socket.create_server(("127.0.0.1", 0)) as listener:
    listener.settimeout(float(sys.argv[1]))
    peers = [standard.create_connection(listener.getsockname()) for _ in range(4)]
    first = listener.accept()[0]
    sys.addaudithook(hook)
    second = listener.accept()[0]
    assert events == [(standard.AF_INET, standard.SOCK_STREAM, 0)], events
    before = os.listdir("/proc/self/fd")
    refusing.append(True)
    for _ in range(2):
        select.select([listener], [], [], 10)
        try:
            listener.accept()
        except PermissionError:
            continue
        raise SystemExit("it was not asked")
    assert os.listdir("/proc/self/fd") == before
    for sock in (first, second, *peers):
        sock.close()
print("audited")
"""


@pytest.mark.parametrize("timeout", BY_EITHER)
def test_audit_hooks_are_asked_and_what_they_refuse_is_closed(timeout: float) -> None:
    said = subprocess.run(
        [sys.executable, "-X", "dev", "-c", AUDITED, str(timeout)], capture_output=True, text=True, timeout=30
    )
    assert (said.stdout, said.stderr) == ("audited\n", "")


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", BY_EITHER)
def test_at_the_end_the_peer_reads_all_and_then_the_end(timeout: float) -> None:
    with accepted(timeout) as (sock, _, peer):
        sock.sendall(b"the last")
        sock._end()
        assert sock.fileno() == -1 and sock.sent == 8
        assert peer.recv(100) + peer.recv(100) == b"the last"
        sock._end()  # any number of times


def test_it_ends_for_the_peer_whoever_else_has_it() -> None:
    with accepted(0.0) as (sock, _, peer), sock.dup() as twin:
        sock._end()
        assert sock.fileno() == -1
        assert peer.recv(1) == b""
        assert twin.fileno() >= 0


def test_a_file_of_it_is_closed_by_whoever_has_it() -> None:
    with accepted(0.0) as (sock, _, peer), sock.makefile("rb") as file:
        peer.sendall(b"a line\n")
        sock._end()
        assert peer.recv(1) == b""
        assert file.readline() == b"a line\n"
        assert sock.fileno() >= 0
    assert sock.fileno() == -1


def test_a_peer_that_was_faster_is_no_error() -> None:
    with accepted(0.0) as (sock, _, peer):
        peer.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        assert poll.poll(SOON * 1000)
        sock._end()
        assert sock.fileno() == -1


def test_a_class_with_an_end_of_its_own_has_it() -> None:
    calls = []

    class Own(socket.socket):
        __slots__ = ()

        def shutdown(self, how: int, /) -> None:
            calls.append(("shutdown", how))

        def close(self) -> None:
            calls.append(("close",))
            super().close()

    Own()._end()
    assert calls == [("shutdown", standard.SHUT_WR), ("close",)]


# -- its place among what is polled ------------------------------------------------------------------------------------


def test_it_joins_and_leaves() -> None:
    def serve() -> None:
        poller = current_reactor().poller
        with accepted(0.0) as (sock, _, peer):
            sock._join_accepted(poller)
            channel = sock._channel
            assert channel is not None and channel is sock._registered and channel is poller.find(sock.fileno())
            assert (channel.poller, channel.fd) == (poller, sock.fileno())
            assert channel.writable and channel.short_is_empty and not channel.readable and not channel.hangup
            peer.sendall(b"hello")
            assert sock.recv(100) == b"hello"
            fd = sock.fileno()
            sock._end()
            assert poller.find(fd) is None and channel.poller is None and channel.readable and channel.writable
            assert (sock._channel, sock._registered, sock.received) == (None, None, 5)

    jackfield.run(serve)


def test_two_objects_of_one_descriptor_share_a_channel() -> None:
    def serve() -> None:
        poller = current_reactor().poller
        with accepted(0.0) as (sock, _, _):
            sock._join_accepted(poller)
            other = socket.socket(fileno=sock.fileno())
            other._short_is_empty = True
            other._join_accepted(poller)
            assert other._channel is sock._channel is poller.find(sock.fileno())
            other.detach()

    jackfield.run(serve)


def test_one_that_is_closed_cannot_join() -> None:
    def serve() -> None:
        with accepted(0.0) as (sock, _, _):
            sock.close()
            with pytest.raises(ValueError, match="negative"):
                sock._join_accepted(current_reactor().poller)
            assert sock._channel is None

    jackfield.run(serve)


def test_whoever_waits_is_told_of_the_end() -> None:
    def serve() -> None:
        with accepted(0.0) as (sock, _, _):
            sock._join_accepted(current_reactor().poller)
            reader = jackfield.spawn(sock.recv, 10)
            jackfield.sleep(0)
            sock._end()
            with pytest.raises(OSError) as caught:
                reader.result(SOON)
            assert caught.value.errno == errno.EBADF

    jackfield.run(serve)


# -- the end of the peer's ---------------------------------------------------------------------------------------------


@natively
def test_the_end_of_a_stream_is_remembered() -> None:
    def read() -> None:
        with accepted(0.0) as (sock, _, peer):
            peer.sendall(b"x")
            assert sock.recv(10) == b"x" and not sock._at_end
            peer.shutdown(standard.SHUT_WR)
            assert sock.recv(10) == b"" and sock._at_end

    read()
    jackfield.run(read)


def test_a_record_of_no_bytes_is_no_end() -> None:
    def read() -> None:
        left, right = socket.socketpair(standard.AF_UNIX, standard.SOCK_SEQPACKET)
        with left, right:
            right.send(b"")
            assert left.recv(10) == b"" and not left._at_end
            right.send(b"more")
            assert left.recv(10) == b"more"

    read()
    jackfield.run(read)


def test_a_pair_is_ended_by_the_same_means() -> None:
    with pair() as (left, right):
        left._end()
        assert right.recv(1) == b""
