"""Many clients at once, on one thread: the attackers."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

#: Connections that are being made at the same time, and seconds from one to the next, unless the attack is about just
#: that: the queue of ``socketserver`` holds five, and a client that finds it full tries again after a whole second.
AT_ONCE = 4
PACE = 0.0005

#: Linux: the port is chosen when connecting, so that one address has them all for every peer (ip(7)).
IP_BIND_ADDRESS_NO_PORT = 24


class Member:
    """One of a crowd."""

    __slots__ = ("answered", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.answered = False


class Crowd:
    """Clients that connect to ``address``, in turn from each of ``sources`` where those are given.

    Those that the server ends leave the crowd when they are looked at; ``refused`` could not connect. With ``reads``
    false they never read, so that what is sent to them fills the kernel's buffers. With ``stays`` false they leave with
    their answer.
    """

    def __init__(
        self, address: Any, sources: Sequence[str] = (), *, reads: bool = True, stays: bool = True
    ) -> None:
        self._address = address
        self._sources = sources
        self._stays = stays
        self._events = select.EPOLLIN | select.EPOLLRDHUP if reads else select.EPOLLRDHUP
        self._poll = select.epoll()
        self.members: dict[int, Member] = {}
        self.made = self.refused = self.ended = self.answered = 0
        #: By time.monotonic(): when the last of them had its first answer.
        self.last_answer: float | None = None

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.sock.close()
        self.members.clear()
        self._poll.close()

    def __len__(self) -> int:
        return len(self.members)

    def _begin(self, receive_buffer: int | None) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self._sources:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._sources[self.made % len(self._sources)], 0))
        self.made += 1
        sock.connect_ex(self._address)
        return sock

    def connect(
        self, count: int, seconds: float, say: bytes = b"", at_once: int = AT_ONCE, receive_buffer: int | None = None
    ) -> int:
        """Add so many, each of which says ``say`` when it is connected; how many could, within the time."""
        before, end = len(self.members), time.monotonic() + seconds
        connecting: dict[int, socket.socket] = {}
        poll = select.epoll()
        left = count
        while (left or connecting) and time.monotonic() < end:
            while left and len(connecting) < at_once:
                sock = self._begin(receive_buffer)
                connecting[sock.fileno()] = sock
                poll.register(sock, select.EPOLLOUT)
                left -= 1
                if at_once == AT_ONCE:
                    time.sleep(PACE)
                    break
            for number, _ in poll.poll(0.05 if len(connecting) == at_once or not left else 0):
                sock = connecting.pop(number)
                poll.unregister(number)
                try:
                    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if error:
                        raise OSError(error, "connect")
                    if say:
                        sock.send(say)
                except OSError:
                    self.refused += 1
                    sock.close()
                else:
                    self.members[number] = Member(sock)
                    self._poll.register(number, self._events)
        for sock in connecting.values():
            sock.close()
        self.refused += len(connecting)
        poll.close()
        return len(self.members) - before

    def look(self, seconds: float = 0.0) -> int:
        """Drop those that the server has ended, and read what it says to the others; how many are left. Waits until
        something happens, but not longer than so many seconds."""
        for number, _ in self._poll.poll(seconds, max(1, len(self.members))):
            member = self.members[number]
            try:
                data = member.sock.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._drop(number)
                self.ended += 1
                continue
            if not member.answered:
                member.answered = True
                self.answered += 1
                self.last_answer = time.monotonic()
            if not self._stays:
                self._drop(number)
        return len(self.members)

    def _drop(self, number: int) -> None:
        member = self.members.pop(number)
        with contextlib.suppress(OSError):
            self._poll.unregister(number)
        member.sock.close()

    def say(self, data: bytes) -> None:
        """Each sends ``data``, if there is room for it."""
        for number, member in list(self.members.items()):
            try:
                member.sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._drop(number)
                self.ended += 1

    def wait_gone(self, seconds: float) -> float | None:
        """Seconds until the server has ended all of them; None if it has not within that time."""
        began = time.monotonic()
        while self.members and (left := began + seconds - time.monotonic()) > 0:
            self.look(min(0.05, left))
        return None if self.members else time.monotonic() - began

    def wait_answers(self, count: int, seconds: float) -> float | None:
        """Seconds until so many have been answered; None if not within that time."""
        began = time.monotonic()
        while self.answered < count and self.members and (left := began + seconds - time.monotonic()) > 0:
            self.look(min(0.05, left))
        return None if self.answered < count else time.monotonic() - began
