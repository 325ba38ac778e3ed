"""The inner loop: edges are neither lost nor believed blindly, and nobody is left waiting on what is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket as _socket_std
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reactor_support import breaks_the_pure_twin, drain, fill, pair, turns, until

from jackfield import socket as jackfield_socket
from jackfield.errors import ClosedSocketError, MisuseError
from jackfield.reactor import current_reactor, run, spawn, wait_readable, wait_writable
from jackfield.reactor.poller import Channel, Poller
from jackfield.reactor.pure import ROUNDS


class Waiting:
    """A waiter that notes its turns."""

    def __init__(self, name: str = "waiter", then: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self.then = then
        self.turns = 0

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def switch(self) -> None:
        self.turns += 1
        self.then()


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller(lambda waiter: made.runnable.append(waiter))
    yield made
    if not made.closed:
        made.close()


@pytest.fixture
def ends() -> Iterator[Callable[[], tuple[_socket_std.socket, _socket_std.socket]]]:
    """Makes connected pairs of the standard library's sockets, the first of them non-blocking."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[_socket_std.socket, _socket_std.socket]:
            left, right = _socket_std.socketpair()
            left.setblocking(False)
            stack.callback(left.close)
            stack.callback(right.close)
            return left, right

        yield make


def at_rest(poller: Poller, sock: _socket_std.socket) -> Channel:
    """The socket's channel, with the first edges taken and nothing known to be readable."""
    channel = poller.register(sock.fileno())
    poller.dispatch()
    channel.readable = False
    return channel


# -- edges -------------------------------------------------------------------------------------------------------------


def test_a_descriptor_is_registered_once_for_both_directions(poller: Poller, ends: Any) -> None:
    left, right = ends()
    channel = at_rest(poller, left)
    reader, writer = Waiting(), Waiting()
    channel.claim_reader(reader)
    right.send(b"x")
    poller.dispatch()
    assert reader.turns == 1
    fill(left)
    channel.writable = False
    channel.claim_writer(writer)
    poller.dispatch()
    assert writer.turns == 0
    drain(right)
    poller.dispatch()
    assert (reader.turns, writer.turns) == (1, 1)
    assert poller.register(left.fileno()) is channel


def test_an_edge_is_told_once_and_a_new_one_again(poller: Poller, ends: Any) -> None:
    left, right = ends()
    channel = at_rest(poller, left)
    right.send(b"x")
    poller.dispatch()
    assert channel.readable
    channel.readable = False
    poller.dispatch()
    assert not channel.readable, "nothing came since: a level, not an edge"
    right.send(b"y")
    poller.dispatch()
    assert channel.readable


@pytest.mark.parametrize("how", ["shutdown", "close"])
def test_the_end_of_a_stream_is_sticky(poller: Poller, ends: Any, how: str) -> None:
    """epoll announces it once; a reader that clears its hint after a short read would wait for ever."""
    left, right = ends()
    channel = at_rest(poller, left)
    right.send(b"last words")
    right.shutdown(_socket_std.SHUT_WR) if how == "shutdown" else right.close()
    poller.dispatch()
    assert channel.hangup
    assert channel.readable
    poller.dispatch()
    assert channel.hangup


@pytest.mark.parametrize("together", [True, False])
def test_a_short_read_and_then_the_end(together: bool) -> None:
    """The data and the end of the stream in one edge, or in two: either way the reader meets both."""

    def main() -> list[bytes]:
        with pair(tcp=True) as (left, right):
            reader = spawn(lambda: [left.recv(100), left.recv(100), left.recv(100)])
            turns()
            right.sendall(b"short")
            if not together:
                turns()
            right.shutdown(_socket_std.SHUT_WR)
            return reader.result()  # type: ignore[no-any-return]

    assert run(main) == [b"short", b"", b""]


def test_a_reset_wakes_the_reader_and_the_writer() -> None:
    import struct

    def main() -> tuple[str, str]:
        with pair(tcp=True) as (left, right):
            fill(left)

            def read() -> str:
                try:
                    return repr(left.recv(10))
                except OSError as error:
                    return type(error).__name__

            def write() -> str:
                try:
                    return repr(left.sendall(b"x" * 100_000))
                except OSError as error:
                    return type(error).__name__

            reader, writer = spawn(read), spawn(write)
            turns()
            right.setsockopt(_socket_std.SOL_SOCKET, _socket_std.SO_LINGER, struct.pack("ii", 1, 0))
            right.close()
            return reader.result(), writer.result()

    # Whoever comes first takes the error off the socket (so_error, tcp(7)); the other sees what is left of it.
    first, second = run(main)
    assert "ConnectionResetError" in (first, second)
    assert first in ("ConnectionResetError", "b''")
    assert second in ("ConnectionResetError", "BrokenPipeError")


def test_a_waiter_that_always_runs_again_does_not_keep_the_others_out(poller: Poller, ends: Any) -> None:
    left, right = ends()
    channel = at_rest(poller, left)
    reader = Waiting("reader")
    channel.claim_reader(reader)
    right.send(b"x")
    greedy = Waiting("greedy", then=lambda: poller.runnable.append(greedy))
    poller.runnable.append(greedy)
    assert poller.dispatch() is True, "it says that somebody is left to run"
    assert greedy.turns == ROUNDS
    assert reader.turns == 1


def test_an_exception_out_of_a_turn_loses_no_edges_of_the_others(poller: Poller, ends: Any) -> None:
    """A signal handler raises in whatever frame is on top: this one's, while it hands a batch of events out."""
    sockets = [ends() for _ in range(5)]

    def raises() -> None:
        raise KeyboardInterrupt

    waiters = [Waiting(str(i), then=raises if i == 1 else lambda: None) for i in range(5)]
    for (left, _), waiter in zip(sockets, waiters, strict=True):
        at_rest(poller, left).claim_reader(waiter)
    for _, right in sockets:
        right.send(b"x")
    with pytest.raises(KeyboardInterrupt):
        poller.dispatch()
    poller.dispatch()
    assert [waiter.turns for waiter in waiters] == [1] * 5


# -- descriptors that come and go --------------------------------------------------------------------------------------


def test_an_event_for_a_number_that_another_descriptor_has_by_now() -> None:
    """Both sockets are ready in one batch; whoever runs first closes the other and gets its number for a new one."""

    def main() -> tuple[bytes, int | None]:
        with pair() as (first, first_peer), pair() as (second, second_peer):
            refused: list[int | None] = []

            def victim() -> None:
                try:
                    second.recv(10)
                except OSError as error:
                    refused.append(error.errno)

            def reuses() -> bytes:
                first.recv(10)
                number = second.fileno()
                second.close()
                new, new_peer = jackfield_socket.socketpair()
                with new, new_peer:
                    assert number in (new.fileno(), new_peer.fileno()), "the kernel gives the lowest free number"
                    mine, other = (new, new_peer) if new.fileno() == number else (new_peer, new)
                    spawn(lambda: (turns(20), other.sendall(b"meant for it")))
                    return mine.recv(100)  # the stale event of the batch resumes this, and it waits again

            spawn(victim)
            reader = spawn(reuses)
            turns()
            first_peer.send(b"x")
            second_peer.send(b"stale")
            answer = reader.result()
            until(lambda: refused)
            return answer, refused[0]

    assert run(main) == (b"meant for it", errno.EBADF)


def test_forgetting_wakes_both_who_wait(poller: Poller, ends: Any) -> None:
    left, _ = ends()
    channel = at_rest(poller, left)
    reader, writer = Waiting(), Waiting()
    channel.writable = False
    channel.claim_reader(reader)
    channel.claim_writer(writer)
    poller.forget(channel)
    poller.dispatch()
    assert (reader.turns, writer.turns) == (1, 1)
    assert channel.poller is None
    assert left.fileno() not in poller.channels
    poller.forget(channel)  # any number of times
    poller.dispatch()
    assert (reader.turns, writer.turns) == (1, 1)


def test_a_descriptor_closed_behind_our_back_is_registered_afresh(poller: Poller, ends: Any) -> None:
    left, _ = ends()
    number = left.fileno()
    stale = at_rest(poller, left)
    os.close(left.detach())
    reused, peer = _socket_std.socketpair()
    with reused, peer:
        if reused.fileno() != number:
            os.dup2(reused.fileno(), number)
        channel = poller.register(number)
        assert channel is not stale
        assert channel.readable, "nothing is known of it, so it may be tried"
        reader = Waiting()
        poller.dispatch()
        channel.readable = False
        channel.claim_reader(reader)
        peer.send(b"x")
        poller.dispatch()
        assert reader.turns == 1
        poller.forget(stale)  # whoever still has the old one cannot take the new one away
        assert poller.channels[number] is channel
        if reused.fileno() != number:
            os.close(number)


def test_a_descriptor_in_the_set_but_not_in_the_table(poller: Poller, ends: Any) -> None:
    """EEXIST without a channel: the set is told again, so that what is there already makes an edge."""
    left, right = ends()
    at_first = poller.register(left.fileno())
    poller.dispatch()
    right.send(b"x")
    poller.leave(at_first)
    channel = poller.register(left.fileno())
    channel.readable = False
    poller.dispatch()
    assert channel.readable


def test_what_cannot_be_polled_says_so(poller: Poller, tmp_path: Any) -> None:
    with open(tmp_path / "file", "wb") as file, pytest.raises(PermissionError):
        poller.register(file.fileno())
    assert not poller.channels


def test_one_direction_has_one_waiter(poller: Poller, ends: Any) -> None:
    left, _ = ends()
    channel = poller.register(left.fileno())
    for claim, verb in ((channel.claim_reader, "read"), (channel.claim_writer, "write")):
        claim(Waiting("the first"))
        with pytest.raises(MisuseError, match=f"<the second> would {verb} descriptor .* while <the first> waits"):
            claim(Waiting("the second"))


def test_a_closed_poller_holds_nobody(poller: Poller, ends: Any) -> None:
    left, _ = ends()
    channel = poller.register(left.fileno())
    poller.close()
    assert poller.closed
    assert channel.poller is None
    assert not poller.channels


def test_the_set_itself_can_be_polled(poller: Poller, ends: Any) -> None:
    """One registration with the host loop stands for them all."""
    left, right = ends()
    at_rest(poller, left)
    host = select.poll()
    host.register(poller.fileno(), select.POLLIN)
    assert host.poll(0) == []
    right.send(b"x")
    assert host.poll(0) == [(poller.fileno(), select.POLLIN)]


# -- two who share a descriptor ----------------------------------------------------------------------------------------


def test_a_second_object_for_a_descriptor_leaves_the_writer_of_the_first_its_edge() -> None:
    def main() -> None:
        with pair() as (left, right):
            fill(left)
            writer = spawn(left.sendall, b"through the first")
            turns()
            twin = jackfield_socket.socket(fileno=left.fileno())
            try:
                reader = spawn(twin.recv, 10)
                turns()
                drain(right)
                assert writer.join(5), "its edge was lost"
                right.sendall(b"answer")
                assert reader.result(5) == b"answer"
            finally:
                twin.detach()

    run(main)


def test_a_second_object_for_a_descriptor_leaves_the_reader_of_the_first_its_edge() -> None:
    def main() -> None:
        with pair() as (left, right):
            reader = spawn(left.recv, 10)
            turns()
            twin = jackfield_socket.socket(fileno=left.fileno())
            try:
                fill(left)
                writer = spawn(twin.sendall, b"through the second")
                turns()
                right.sendall(b"question")
                assert reader.result(5) == b"question"
                drain(right)
                assert writer.join(5)
            finally:
                twin.detach()

    run(main)


@pytest.mark.parametrize("wait", [wait_readable, wait_writable])
def test_waiting_for_a_bare_descriptor(wait: Callable[..., None]) -> None:
    def main() -> None:
        left, right = _socket_std.socketpair()
        with left, right:
            fill(left)
            waiter = spawn(wait, left.fileno(), 10)
            turns()
            assert not waiter.done
            drain(right)
            right.send(b"x")
            waiter.result()
            assert left.fileno() not in current_reactor().poller.channels, "it is not ours to remember"
            drain(left)
            with pytest.raises(TimeoutError):
                wait_readable(left, 0.001)

    run(main)


def test_two_wait_for_a_bare_descriptor_in_either_direction() -> None:
    """Whoever is served first must not take the descriptor away from the other."""

    def main() -> None:
        left, right = _socket_std.socketpair()
        with left, right:
            for first in ("reader", "writer"):
                fill(left)
                reader, writer = spawn(wait_readable, left, 10), spawn(wait_writable, left, 10)
                turns()
                right.send(b"x") if first == "reader" else drain(right)
                (reader if first == "reader" else writer).result()
                turns()
                drain(right) if first == "reader" else right.send(b"x")
                (writer if first == "reader" else reader).result()
                drain(left)
            assert left.fileno() not in current_reactor().poller.channels

    run(main)


def test_waiting_for_what_is_closed() -> None:
    left, right = _socket_std.socketpair()
    left.close()
    right.close()
    with pytest.raises(ClosedSocketError):
        wait_readable(left)
    with pytest.raises(ClosedSocketError):
        run(wait_writable, left)


@breaks_the_pure_twin
def test_a_poller_that_loses_the_hang_up_is_found_out() -> None:
    """The broken case: were the end of the stream not sticky, the short read would be the reader's last."""
    import jackfield.reactor.pure as module

    def main() -> bool:
        with pair(tcp=True) as (left, right):
            reader = spawn(lambda: [left.recv(100), left.recv(100)])
            turns()
            right.sendall(b"short")
            right.shutdown(_socket_std.SHUT_WR)
            until(lambda: left.received == 5)
            turns(20)
            try:
                return reader.done
            finally:
                reader.kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STICKY", 0)
        assert run(main) is False
    assert run(main) is True
