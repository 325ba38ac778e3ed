"""What a connection holds while its handler waits: as few frames as its handler has itself."""

from __future__ import annotations

import contextvars
import sys
from functools import partial
from typing import Any

import pytest
from greenlet import getcurrent
from native_support import TCP, dial, until

from jackfield import BaseRequestHandler, Server, StreamRequestHandler, socket
from jackfield.handlers import is_made_quietly
from jackfield.reactor.twin import native


class Waits(BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.server.seen.append(getcurrent())
        while data := self.request.recv(64):
            self.request.sendall(data)


class Prepared(Waits):
    """Making one runs code of the program's, which may wait: so not on the green thread that accepts."""

    def __init__(self, *args: Any) -> None:
        self.made_on = getcurrent()
        super().__init__(*args)

    def handle(self) -> None:
        assert self.made_on is getcurrent()
        super().handle()


class SetUp(Waits):
    def setup(self) -> None:
        self.server.seen_setup = True


class Meta(type):
    """A class of classes may do anything when one of its classes is called."""


class Special(Waits, metaclass=Meta):
    pass


def frames_of_a_waiting(handler: Any) -> list[str]:
    """The functions in which a green handler waits for its peer, from the innermost on."""
    with Server(handler, TCP, mode="green") as server:
        seen: list[Any] = []
        server.seen = seen  # type: ignore[attr-defined]
        with dial(server) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            until(lambda: seen[0].gr_frame is not None)
            frames, frame = [], seen.pop().gr_frame
            while frame is not None:
                frames.append(frame.f_code.co_name)
                frame = frame.f_back
            return [name for name in frames if not name.startswith("_recv")]  # of the pure twin


needs_frames = pytest.mark.skipif(sys.version_info < (3, 12), reason="greenlet shows no frames of Python 3.11")


@needs_frames
def test_a_handler_waits_in_its_own_frame_and_one_more() -> None:
    assert frames_of_a_waiting(Waits)[-2:] == ["handle", "_live"]


@needs_frames
@pytest.mark.parametrize(
    ("handler", "frames"),
    [
        (Prepared, ["handle", "handle", "_serve", "_live"]),
        (Special, ["handle", "_serve", "_live"]),
        (SetUp, ["handle", "_run", "run_handler", "_live"]),
        (partial(Waits), ["handle", "_run", "run_handler", "__init__", "prepared", "_serve", "_live"]),
    ],
)
def test_one_that_does_more_has_the_frames_of_that(handler: Any, frames: list[str]) -> None:
    assert frames_of_a_waiting(handler)[-len(frames) :] == frames


def test_which_handlers_are_made_without_code_of_the_programs() -> None:
    class Quiet(StreamRequestHandler[Any]):
        pass

    class New(Waits):
        def __new__(cls, *args: Any) -> Any:
            return super().__new__(cls)

    class Watching(Waits):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)

    assert is_made_quietly(Quiet) and is_made_quietly(SetUp)
    assert not any(map(is_made_quietly, (Prepared, Special, New, Watching, partial(Waits), frames_of_a_waiting)))


@pytest.mark.skipif(native is None, reason="about methods in C")
def test_calls_in_c_belong_to_the_very_class_that_sockets_are_of() -> None:
    """Else the interpreter goes round by two more functions of C for each, and a green thread keeps their frames."""

    class Below(socket.socket):
        """A class below it has them still, in that way."""

    for name in ("recv", "sendall"):
        method = getattr(socket.socket, name)
        assert method.__objclass__ is socket.socket
        assert vars(socket.socket.__base__)[name].__objclass__ is socket.socket.__base__
        assert getattr(Below, name) is method
    left, right = socket.socketpair()
    with left, Below(fileno=right.detach()) as below:
        below.sendall(b"as ever")
        assert left.recv(64) == b"as ever"


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_what_a_handler_sets_in_its_context_is_gone_with_it() -> None:
    """Where there is nothing to start with, no context is copied, and a green thread may have had another life."""

    class Sets(BaseRequestHandler[Any]):
        def handle(self) -> None:
            self.request.sendall(VARIABLE.get().encode())
            VARIABLE.set("set")
            self.request.recv(1)
            assert VARIABLE.get() == "set"
            self.request.sendall(VARIABLE.get().encode())

    with Server(Sets, TCP, mode="green") as server:
        for _ in range(3):
            with dial(server) as client, dial(server) as other:
                for peer in (client, other):
                    assert peer.recv(64) == b"unset"
                    peer.sendall(b"x")
                    assert peer.recv(64) == b"set"
