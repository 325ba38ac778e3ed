"""A process for each request: only its own children are waited for, and they hold nothing that is the parent's."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dropin_support import SOON, Told, ask, children, connect, living_children, serving, until

from jackfield import socketserver as ours


class Echo(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class TellsPid(ours.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request.sendall(b"%d" % os.getpid())
        self.request.recv(1)


@contextlib.contextmanager
def forking(handler: Any = Echo, **attributes: Any) -> Iterator[Any]:
    with ours.ForkingTCPServer(("127.0.0.1", 0), handler) as server:
        for name, value in attributes.items():
            setattr(server, name, value)
        with serving(server, close=False):
            yield server
    assert not children(), "a child was left"


def leave(client: socket.socket) -> None:
    """End the connection. The children have copies of the client as well, being forked here: closing is not enough."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    client.close()


def talking(server: Any, stack: contextlib.ExitStack) -> socket.socket:
    """A client whose child is at work."""
    client = connect(server)
    stack.callback(lambda: client.fileno() >= 0 and leave(client))
    client.sendall(b"x")
    assert client.recv(10) == b"X"
    return client


def test_each_request_has_a_process_of_its_own() -> None:
    with forking(TellsPid) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(3)]
        for client in clients:
            stack.callback(client.shutdown, socket.SHUT_RDWR)
        pids = {int(client.recv(20)) for client in clients}
        assert len(pids) == 3
        assert os.getpid() not in pids
        until(lambda: server.active_children == pids)  # a child may answer before its parent has noted it


def test_active_children_is_none_before_the_first_as_there() -> None:
    with ours.ForkingTCPServer(("127.0.0.1", 0), Echo) as server:
        assert server.active_children is None


def test_children_are_reaped_as_soon_as_they_end() -> None:
    """No zombie waits for the next request or tick; by readiness of their pidfds, while nobody else comes."""
    with forking() as server:
        for _ in range(3):
            assert ask(server) == b"HELLO"
        until(lambda: not children())
        until(lambda: not server.active_children)


def test_without_pidfds_they_are_reaped_with_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with forking() as server:
        assert ask(server) == b"HELLO"
        until(lambda: not living_children())
        assert ask(server) == b"HELLO"
        until(lambda: len(children()) <= 1)


def test_without_a_descriptor_to_watch_it_by_the_only_child_is_reaped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    with forking(max_children=1) as server:
        for _ in range(3):
            assert ask(server) == b"HELLO"
        until(lambda: not children())


def test_a_child_that_the_application_started_is_not_taken() -> None:
    """waitpid(-1) would take its exit code; the application then gets ChildProcessError."""
    ready, go = os.pipe()
    own = os.fork()
    if own == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(42)
    os.close(ready)
    try:
        with forking(max_children=1) as server:
            os.close(go)  # it ends now, while the server waits for children of its own
            go = -1
            until(lambda: own not in living_children())
            for _ in range(3):
                assert ask(server) == b"HELLO"
            until(lambda: children() == {own})
            server.collect_children()
            server.handle_timeout()
            _, status = os.waitpid(own, 0)
        assert os.waitstatus_to_exitcode(status) == 42
    finally:
        if go >= 0:
            os.close(go)


def test_somebody_else_may_have_waited_for_a_child() -> None:
    """SIGCHLD ignored: the kernel reaps (wait(2)), and there is no exit code to be had."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with forking() as server:
            for _ in range(3):
                assert ask(server) == b"HELLO"
            until(lambda: not server.active_children)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_child_does_not_hold_the_listener() -> None:
    """While a child lives, the port can be bound again, and nobody can connect to where nobody accepts."""
    with contextlib.ExitStack() as stack:
        server = ours.ForkingTCPServer(("127.0.0.1", 0), Echo)
        server.block_on_close = False
        with serving(server, close=False):
            client = talking(server, stack)
        address = server.server_address
        server.server_close()
        assert living_children(), "the child lives"
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address):
            pass
        with ours.TCPServer(address, Echo):
            pass
        client.sendall(b"still served")
        assert client.recv(100) == b"STILL SERVED"
        leave(client)
        server.collect_children(blocking=True)
    assert not children()


def test_a_child_that_held_the_listener_would_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a child that keeps what it got."""
    monkeypatch.setattr(ours.ForkingTCPServer, "_in_child", lambda self, request, address: Echo(request, address, self))
    with contextlib.ExitStack() as stack:
        server = ours.ForkingTCPServer(("127.0.0.1", 0), Echo)
        server.block_on_close = False
        with serving(server, close=False):
            client = talking(server, stack)
        address = server.server_address
        server.server_close()
        with socket.create_connection(address):
            pass
        leave(client)
        server.collect_children(blocking=True)


def test_the_parent_does_not_hold_the_connections() -> None:
    """The client sees the end as soon as the child closes, because nobody else has the socket."""
    with forking() as server, connect(server) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"X"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""


def test_children_hold_no_connection_of_each_other() -> None:
    """A sibling forked meanwhile must not keep a connection open that its own child has ended."""
    with forking() as server, contextlib.ExitStack() as stack:
        first = talking(server, stack)
        second = talking(server, stack)
        first.shutdown(socket.SHUT_WR)
        assert first.recv(10) == b""
        second.sendall(b"y")
        assert second.recv(10) == b"Y"


def test_at_the_limit_it_waits_and_then_goes_on() -> None:
    """Clients above max_children wait in the kernel's queue; the loop is not held, and stops when it is told."""
    with forking(max_children=2) as server, contextlib.ExitStack() as stack:
        first, second = talking(server, stack), talking(server, stack)
        waiting = stack.enter_context(connect(server))
        stack.callback(waiting.shutdown, socket.SHUT_RDWR)
        waiting.sendall(b"z")
        assert len(living_children()) == 2
        readable, _, _ = select.select([waiting], [], [], 0.02)
        assert not readable
        leave(first)
        assert waiting.recv(10) == b"Z"
        assert len(living_children()) <= 2
        leave(second)


def test_at_the_limit_it_can_be_stopped() -> None:
    with forking(max_children=1) as server, contextlib.ExitStack() as stack:
        client = talking(server, stack)
        stopping = threading.Thread(target=server.shutdown)
        stopping.start()
        stopping.join(SOON)
        assert not stopping.is_alive(), "the loop waited for a child, and not for us"
        leave(client)


def test_server_close_waits_for_the_children() -> None:
    server = ours.ForkingTCPServer(("127.0.0.1", 0), Echo)
    with contextlib.ExitStack() as stack, serving(server, close=False):
        client = talking(server, stack)
        stack.pop_all()
    closing = threading.Thread(target=server.server_close)
    closing.start()
    closing.join(0.02)
    assert closing.is_alive()
    leave(client)
    closing.join(SOON)
    assert not closing.is_alive()
    assert not children()


def test_children_that_die_are_reaped_like_others() -> None:
    class Dies(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with forking(Dies) as server:
        for _ in range(3):
            assert ask(server) == b""
        until(lambda: not children())


@pytest.mark.parametrize(
    ("handle", "code"),
    [
        (lambda handler: None, 0),
        (lambda handler: handler.no_such_attribute, 1),
        (lambda handler: (_ for _ in ()).throw(SystemExit(7)), 7),
        (lambda handler: (_ for _ in ()).throw(KeyboardInterrupt()), 1),
        (lambda handler: os._exit(9), 9),
    ],
    ids=["fine", "error", "SystemExit", "KeyboardInterrupt", "_exit"],
)
def test_a_child_ends_with_a_code(handle: Callable[[Any], Any], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """0, 1 for an error that handle_error() was told of, or what the handler asked for; and it never runs on into
    what the parent was doing."""
    statuses: list[int] = []
    waitpid = os.waitpid

    def noting(pid: int, options: int) -> tuple[int, int]:
        reaped, status = waitpid(pid, options)
        if reaped:
            statuses.append(os.waitstatus_to_exitcode(status))
        return reaped, status

    monkeypatch.setattr(os, "waitpid", noting)
    with Told() as told:

        class Handler(ours.BaseRequestHandler[Any]):
            def handle(self) -> None:
                handle(self)

        class Tells(ours.ForkingTCPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                told.tell(f"error in {'the child' if os.getpid() != parent else 'the parent'}")

        parent = os.getpid()
        with Tells(("127.0.0.1", 0), Handler) as server, serving(server, close=False):
            assert ask(server) == b""
            until(lambda: statuses)
        assert statuses == [code]
        assert told.lines() == (["error in the child"] if handle.__code__.co_names == ("no_such_attribute",) else [])


def test_what_is_buffered_is_written_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Output that waits in a buffer at the fork would come twice."""
    import sys

    class Prints(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            print("of the child")

    with ours.ForkingTCPServer(("127.0.0.1", 0), Prints) as server, serving(server, close=False):
        print("of the parent", end=" ")
        ask(server)
    sys.stdout.flush()
    out = capfd.readouterr().out
    assert out.count("of the parent") == 1
    assert out.count("of the child") == 1


def test_datagrams_in_processes() -> None:
    class Answers(ours.BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request[1].sendto(b"%d %s" % (os.getpid(), self.request[0]), self.client_address)

    with ours.ForkingUDPServer(("127.0.0.1", 0), Answers) as server, serving(server, close=False):
        pids = set()
        for number in range(5):
            with connect(server) as client:
                client.send(b"%d" % number)
                pid, answer = client.recv(100).split()
                assert answer == b"%d" % number
                pids.add(pid)
        assert len(pids) == 5
        assert b"%d" % os.getpid() not in pids
        until(lambda: not children())
    assert not children()
