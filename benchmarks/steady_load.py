"""A steady load, in one process: connections that each exchange a message every few milliseconds, and begin anew each
second.

    python benchmarks/steady_load.py tcp://127.0.0.1:9999 --connections 200 --every 0.005 --anew 1

It asks ``pid`` first on each connection, whose answer is the process that serves it, and then ``say NUMBER``, whose
answer is the number. It ends at the end of its input, and prints what it has found, as JSON: how many connects and
exchanges there were, the longest waits in seconds, and each that went wrong, with its time in monotonic seconds.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import json
import random
import resource
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

#: Seconds without an answer after which a connection counts as lost.
PATIENCE = 10.0


@dataclass
class Found:
    """What it has come to."""

    connects: int = 0
    exchanges: int = 0
    longest_connect: float = 0.0
    longest_exchange: float = 0.0
    #: Connects that were refused or reset, or that nobody has answered.
    refused: list[dict[str, Any]] = field(default_factory=list)
    #: Connections that ended before the first answer told whose they are.
    unanswered: list[dict[str, Any]] = field(default_factory=list)
    #: Connections that ended later: ``pid`` is whose they were.
    broken: list[dict[str, Any]] = field(default_factory=list)
    #: Answers that were not to what was asked.
    wrong: list[dict[str, Any]] = field(default_factory=list)


class Line:
    """One connection after the other."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.socket: socket.socket | None = None
        self.pid = 0
        self.asked = ""
        self.at = 0.0
        self.until = 0.0
        self.data = b""
        self.is_connected = False
        #: Which of its dues counts: the last that was asked for.
        self.turn = 0

    def begin(self, now: float) -> None:
        self.socket = socket.socket(self.load.family)
        self.socket.setblocking(False)
        self.pid, self.data, self.is_connected, self.at = 0, b"", False, now
        # The first of all end at different moments.
        self.until = now + self.load.anew * (random.random() if not self.load.found.exchanges else 1.0)
        code = self.socket.connect_ex(self.load.address)
        if code not in (0, errno.EINPROGRESS):
            self.lose(self.load.found.refused, now, errno.errorcode.get(code, str(code)))
            return
        self.load.add(self)

    def can_write(self, now: float) -> None:
        assert self.socket is not None
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.lose(self.load.found.refused, now, errno.errorcode.get(code, str(code)))
            return
        self.is_connected = True
        self.load.found.connects += 1
        self.load.found.longest_connect = max(self.load.found.longest_connect, now - self.at)
        self.load.listen(self)
        self.ask("pid", now)

    def ask(self, what: str, now: float) -> None:
        assert self.socket is not None
        self.asked, self.at = what, now
        try:
            self.socket.send(what.encode() + b"\n")
        except OSError as error:
            self.ended(now, type(error).__name__)

    def can_read(self, now: float) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self.ended(now, type(error).__name__)
            return
        if not data:
            self.ended(now, "end")
            return
        self.data += data
        if not self.data.endswith(b"\n"):
            return
        answer, self.data = self.data[:-1].decode(errors="replace"), b""
        found = self.load.found
        found.exchanges += 1
        found.longest_exchange = max(found.longest_exchange, now - self.at)
        if self.asked == "pid":
            self.pid = int(answer) if answer.isdigit() else -1
        elif "say " + answer != self.asked:
            found.wrong.append({"asked": self.asked, "answer": answer, "pid": self.pid, "at": now})
        self.asked = ""
        if now >= self.until:
            self.close()
            if not self.load.is_over:
                self.begin(now)
        else:
            self.load.later(now + self.load.every, self)

    def due(self, now: float) -> None:
        if self.load.is_over:
            self.close()
        elif self.socket is None:
            self.begin(now)
        elif self.pid and not self.asked:  # after a loss one more is due, which may find the next one on its way
            self.load.numbers += 1
            self.ask(f"say {self.load.numbers}", now)

    def ended(self, now: float, how: str) -> None:
        self.lose(self.load.found.broken if self.pid else self.load.found.unanswered, now, how)

    def lose(self, where: list[dict[str, Any]], now: float, how: str) -> None:
        where.append({"pid": self.pid, "how": how, "at": now})
        self.close()
        self.load.later(now + self.load.every, self)

    def close(self) -> None:
        if self.socket is not None:
            self.load.remove(self)
            self.socket.close()
            self.socket = None
            self.asked = ""


class Load:
    def __init__(self, address: str, connections: int, every: float, anew: float) -> None:
        self.address: Any = address.removeprefix("unix:")
        self.family = socket.AF_UNIX
        if not address.startswith("unix:"):
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            self.family, self.address = socket.AF_INET, (host, int(port))
        self.every, self.anew = every, anew
        self.found = Found()
        self.is_over = False
        self.numbers = 0
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._all = [Line(self, number) for number in range(connections)]
        self._dues: list[tuple[float, int, Line]] = []
        self._order = 0

    def add(self, line: Line) -> None:
        assert line.socket is not None
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLOUT)

    def listen(self, line: Line) -> None:
        assert line.socket is not None
        self._poll.modify(line.socket, select.EPOLLIN)

    def remove(self, line: Line) -> None:
        assert line.socket is not None
        if self._lines.pop(line.socket.fileno(), None) is not None:
            self._poll.unregister(line.socket)

    def later(self, at: float, line: Line) -> None:
        self._order += 1
        line.turn = self._order
        heapq.heappush(self._dues, (at, self._order, line))

    def run(self) -> None:
        """Until the end of the input, and then until each has its answer."""
        now = time.monotonic()
        for line in self._all:
            self.later(now + random.random() * self.every, line)
        self._poll.register(0, select.EPOLLIN)
        ends_at = now + 1e9
        while not (self.is_over and not self._lines) and now < ends_at:
            left = min((self._dues[0][0] if self._dues else now + 1), ends_at) - now
            for fd, _ in self._poll.poll(max(0.0, min(left, 1.0))):
                if fd == 0:
                    self._poll.unregister(0)
                    self.is_over, ends_at = True, time.monotonic() + PATIENCE
                    continue
                if (line := self._lines.get(fd)) is not None:
                    (line.can_read if line.is_connected else line.can_write)(time.monotonic())
            now = time.monotonic()
            while self._dues and self._dues[0][0] <= now:
                _, turn, line = heapq.heappop(self._dues)
                if turn == line.turn:  # not one of a connection that has ended meanwhile
                    line.due(now)
        for line in list(self._lines.values()):
            found = self.found
            where = found.broken if line.pid else found.unanswered if line.is_connected else found.refused
            where.append({"pid": line.pid, "how": "no answer", "at": line.at})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--every", type=float, default=0.005, help="seconds from an answer to the next question")
    parser.add_argument("--anew", type=float, default=1.0, help="seconds that a connection lives")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = Load(options.address, options.connections, options.every, options.anew)
    load.run()
    json.dump(load.found.__dict__, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
