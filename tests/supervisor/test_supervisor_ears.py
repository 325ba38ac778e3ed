"""A server that nobody can come to any more notices: sockets that somebody shut down, paths that are another's."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import SECONDS, Client, Supervised, session, until

from jackfield.door import Listener, open_listeners
from jackfield.supervisor.ears import Ears

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def listening(address: str) -> Iterator[Listener]:
    (listener,) = open_listeners(address)
    try:
        yield listener
    finally:
        listener.close()


def reach(listener: Listener) -> None:
    """Connect, and be let into the queue."""
    with socket.socket(listener.socket.family) as client:
        client.settimeout(SECONDS)
        client.connect(listener.address.path or listener.socket.getsockname())


def test_those_that_hear_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as stack:
        addresses = ["tcp://127.0.0.1:0", f"unix:{tmp_path}/a"]
        listeners = [stack.enter_context(listening(address)) for address in addresses]
        ears = Ears(listeners)
        for listener in listeners:
            reach(listener)  # somebody who waits is no shutdown
        assert not ears.look() and not ears.deaf and not ears.all_deaf
        abstract = Ears([stack.enter_context(listening(f"unix:@jackfield-ears-{os.getpid()}"))])
        assert not abstract.look() and not abstract.deaf
    assert not ears.look() and not ears.deaf  # closed here: no affair of ours any more
    assert not caplog.records


def test_a_tcp_socket_that_was_shut_down_listens_again(caplog: pytest.LogCaptureFixture) -> None:
    with listening("tcp://127.0.0.1:0") as listener:
        ears = Ears([listener])
        name = listener.socket.getsockname()
        for _ in range(2):
            with socket.socket(fileno=os.dup(listener.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionRefusedError):
                reach(listener)
            assert ears.look()
            assert listener.socket.getsockname() == name
            reach(listener)
        assert not ears.look() and not ears.deaf
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "somebody had shut it down; it listens again"
    ] * 2


@pytest.mark.parametrize("how", ["shut", "removed", "replaced"])
def test_a_unix_socket_that_cannot_be_mended_is_told_once(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a"
    with listening(f"unix:{path}") as listener, listening("tcp://127.0.0.1:0") as other:
        ears = Ears([listener, other])
        if how == "shut":
            listener.socket.shutdown(socket.SHUT_RDWR)
        else:
            path.unlink()
        with contextlib.ExitStack() as stack:
            if how == "replaced":
                stack.enter_context(listening(f"unix:{path}"))
            for _ in range(3):
                assert not ears.look()
        assert list(ears.deaf) == [listener] and not ears.all_deaf
        alone = Ears([other])
        assert not alone.all_deaf
    why = {"shut": "somebody has shut it down", "removed": "the file is gone", "replaced": "another server's"}[how]
    (record,) = caplog.records
    assert record.getMessage().endswith(why) and str(path) in record.getMessage()


def test_datagrams_are_not_heard_this_way() -> None:
    with listening("udp://127.0.0.1:0") as listener:
        ears = Ears([listener])
        assert not ears.look() and not ears.all_deaf


def test_a_server_whose_path_is_gone_ends_so_that_another_can_begin(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        Supervised(tmp_path, "thread", workers=2, addresses=[f"unix:{path}"]) as program,
        Client(f"unix:{path}") as client,
    ):
        assert client.ask("work 6") == "begun"
        path.unlink()
        began = time.monotonic()
        program.logged("nobody can come by it any more: the file is gone")
        assert time.monotonic() - began < 5.5 + SECONDS / 10
        assert (client.hear() or "").startswith("done")  # who is there may finish
        assert program.wait() == 1
        assert session(program.pid) == []


def test_a_server_that_was_shut_down_serves_again(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2) as program:
        assert program.ask("break") is not None

        def serves() -> bool:
            with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
                return program.ask("say on") == "on"
            return False

        until(serves, "it listens again", 8)
        program.logged("somebody had shut it down; it listens again")
        until(lambda: len(program.workers) >= 2, "there are two")
        assert program.end() == 0


def test_one_of_several_that_was_shut_down_is_missed_by_nobody(tmp_path: Path) -> None:
    """The other server of the same workers would go on without it; a worker is what it is to be, or it is replaced."""
    two = ["tcp://127.0.0.1:0"] * 2
    with (
        Supervised(tmp_path, "thread", workers=2, addresses=two) as program,
        Client(program.addresses[1]) as client,
    ):
        assert client.ask("work 1") == "begun"
        assert program.ask("break") is not None
        program.logged("has ended, and with it the others stop")
        program.logged("somebody had shut it down; it listens again")
        assert (client.hear() or "").startswith("done")

        def serves() -> bool:
            with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
                for address in program.addresses:
                    with Client(address) as other:
                        if other.ask("say on") != "on":
                            return False
                return True
            return False

        until(serves, "both listen")
        assert program.end() == 0
