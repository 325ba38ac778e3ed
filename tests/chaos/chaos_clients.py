"""Real clients that do what clients do, in any order, and the book that says what has to become of each."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 20.0

#: Clients that there are at once at most, and what the servers let in at once at most.
MOST_CLIENTS = 9
MOST_LET_IN = 6

#: The longest line that servers take by default.
MAX_LINE = 65_536

#: Where clients come from; the second address is denied now and then.
SOURCES = ("127.0.0.1", "127.0.0.2")

_RESET = struct.pack("ii", 1, 0)


def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 0.0) -> None:
    """Wait until ``condition()`` holds; an AssertionError with ``what()`` after so many seconds, by default SOON."""
    deadline = time.monotonic() + (seconds or SOON)
    while not condition():
        assert time.monotonic() < deadline, what()
        select.select([], [], [], 0.0005)


class Client:
    """One connection, as its peer has it."""

    def __init__(self, port: int, source: str) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(SOON)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.name: tuple[str, int] = self.socket.getsockname()
        #: The process that serves it; 0 until it has said so.
        self.pid = 0
        #: What it has begun to say, and the answers that have to come.
        self.half = b""
        self.due: list[bytes] = [b"pid"]
        #: Whether it is told of an end as soon as it has nothing under way.
        self.called = False
        self._unread = b""
        self.socket.sendall(b"pid\n")

    def __repr__(self) -> str:
        return f"<client {self.name[0]}:{self.name[1]} of {self.pid}>"

    def tell(self, text: bytes) -> None:
        """Say that, which may end messages and begin another."""
        *whole, self.half = (self.half + text).split(b"\n")
        self.due += [line.upper() + b"\n" for line in whole]
        self.socket.sendall(text)

    def hear(self) -> None:
        """All answers that are due, and nothing else."""
        while self.due:
            wanted = self.due.pop(0)
            line = self._line()
            if wanted == b"pid":
                self.pid = int(line)
            else:
                assert line == wanted, f"{self} has {line!r} and not {wanted!r}"
        assert not self._unread, f"{self} has {self._unread!r}, which nobody has asked for"

    def _line(self) -> bytes:
        while b"\n" not in self._unread:
            part = self.socket.recv(65536)
            assert part, f"{self} is at its end, and has to have {self.due}"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line + b"\n"

    def hear_the_end(self, last: bytes = b"") -> None:
        """Nothing more comes but ``last`` and the end, or a reset."""
        with contextlib.suppress(ConnectionResetError), contextlib.closing(self.socket):
            while part := self.socket.recv(65536):
                self._unread += part
        assert self._unread == last, f"{self} ends by {self._unread!r} and not {last!r}"

    def leave(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """socket(7): SO_LINGER of zero has close(2) send a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()


texts = st.text("abcd ", min_size=1, max_size=20).map(str.encode)
numbers = st.integers(0, MOST_CLIENTS - 1)


class Clients(RuleBasedStateMachine):
    """What clients do. A server's machine says how it is started, told and looked at; each rule ends by
    :meth:`settle`, when everything has come to what it has to."""

    port: int

    def __init__(self) -> None:
        super().__init__()
        #: Those that the server has let in, and those that wait in the kernel's queue, in their order.
        self.let_in: list[Client] = []
        self.waiting: list[Client] = []
        self.denied: frozenset[str] = frozenset()
        self.cap = MOST_LET_IN
        self.suspended = False
        #: Connections by how they have ended, and clients that were turned away.
        self.ended: Counter[str] = Counter()
        self.refused = 0
        #: Whether all has come to what it has to, at the last look.
        self.is_right = True

    # -- the book ----------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Those have come in, or were turned away, for whom there was room."""
        while self.waiting and not self.suspended and len(self.let_in) < self.cap:
            client = self.waiting.pop(0)
            if client.name[0] in self.denied:
                self.refused += 1
                client.hear_the_end()
            else:
                self.let_in.append(client)

    def over(self, client: Client, reason: str) -> None:
        self.let_in.remove(client)
        self.ended[reason] += 1

    def settle(self) -> None:
        self.is_right = False
        while True:
            self.enter()
            for client in self.let_in:
                client.hear()
            done = [client for client in self.let_in if client.called and not client.half]
            if not done:
                break
            for client in done:
                client.hear_the_end()
                self.over(client, "drained")
        self.check()
        self.is_right = True

    def check(self) -> None:
        """That the server has what the book has."""
        raise NotImplementedError

    def one(self, number: int) -> Client:
        return self.let_in[number % len(self.let_in)]

    def anyone(self, number: int) -> Client:
        everyone = [*self.let_in, *self.waiting]
        return everyone[number % len(everyone)]

    def be_told_of_a_stop(self) -> None:
        """Everybody who has connected is let in, has all answers, finishes what was begun, and is told."""
        for client in [*self.let_in, *self.waiting]:
            if client.half:
                client.tell(b"\n")
            client.called = True
        while self.waiting or self.let_in:
            self.enter()
            for client in list(self.let_in):
                client.hear()
                client.hear_the_end()
                self.over(client, "drained")

    # -- what they do ------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.let_in) + len(self.waiting) < MOST_CLIENTS)
    @rule(source=st.sampled_from(SOURCES))
    def connect(self, source: str) -> None:
        self.waiting.append(Client(self.port, source))
        self.settle()

    @precondition(lambda self: self.let_in or self.waiting)
    @rule(number=numbers, lines=st.lists(texts, min_size=1, max_size=4))
    def say(self, number: int, lines: list[bytes]) -> None:
        self.anyone(number).tell(b"".join(line + b"\n" for line in lines))
        self.settle()

    @precondition(lambda self: self.let_in or self.waiting)
    @rule(number=numbers, text=texts)
    def begin_a_message(self, number: int, text: bytes) -> None:
        self.anyone(number).tell(text)
        self.settle()

    @precondition(lambda self: self.let_in)
    @rule(number=numbers)
    def close_its_half(self, number: int) -> None:
        client = self.one(number)
        client.socket.shutdown(socket.SHUT_WR)
        client.hear_the_end(client.half.upper())
        self.over(client, "peer_closed")
        self.settle()

    @precondition(lambda self: self.let_in)
    @rule(number=numbers)
    def leave(self, number: int) -> None:
        client = self.one(number)
        if client.half:
            client.tell(b"\n")
            client.hear()
            if client.called:  # and it has its own end
                return self.settle()
        client.leave()
        self.over(client, "peer_closed")
        return self.settle()

    @precondition(lambda self: self.let_in)
    @rule(number=numbers)
    def reset(self, number: int) -> None:
        client = self.one(number)
        client.reset()
        self.over(client, "peer_reset")
        self.settle()

    @precondition(lambda self: self.let_in)
    @rule(number=numbers)
    def say_too_much(self, number: int) -> None:
        client = self.one(number)
        with contextlib.suppress(ConnectionError):
            client.socket.sendall(b"d" * (MAX_LINE + 1))
        client.hear_the_end()
        self.over(client, "limit_line")
        self.settle()

    @precondition(lambda self: any(not client.half for client in self.let_in))
    @rule(number=numbers)
    def have_the_handler_fail(self, number: int) -> None:
        those = [client for client in self.let_in if not client.half]
        client = those[number % len(those)]
        client.socket.sendall(b"raise\n")
        client.hear_the_end()
        self.over(client, "handler_error")
        self.settle()

    @rule()
    def be_idle(self) -> None:
        self.settle()

    def teardown(self) -> None:
        for client in [*self.let_in, *self.waiting]:
            client.leave()
