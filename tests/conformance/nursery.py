"""Servers that fork, each in a process of its own that comes from one small process kept for that.

They could be forked from the test runner itself (`OwnProcess` does that), but a fork costs what its process has in
memory, and a test runner has a lot: these checks fork some two thousand times.

Run as a program, this is that small process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from conformance_kinds import KINDS

from jackfield.testing import OwnProcess
from jackfield.testing.own_process import read_line, run_in_the_child


class Nursery:
    """The test runner's side: starts the process, asks it for servers, ends it."""

    def __init__(self) -> None:
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen([sys.executable, __file__, str(far.fileno())], pass_fds=[far.fileno()])

    def close(self) -> None:
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, *order: str) -> tuple[int, int]:
        """Order a server; returns the pipe on which it tells and the one whose end stops it."""
        told, tell = os.pipe()
        stop, stopping = os.pipe()
        socket.send_fds(self._socket, [json.dumps(order).encode()], [tell, stop])
        os.close(tell)
        os.close(stop)
        return told, stopping


class Nursed(OwnProcess):
    """A kind of server, each in a process from the nursery."""

    def __init__(self, nursery: Nursery, kind: str, address: str) -> None:
        super().__init__(KINDS[kind](address))
        self._nursery, self._kind = nursery, kind

    @contextmanager
    def serve(self, kind: str, address: str) -> Iterator[str]:
        told, stopping = self._nursery.ask(self._kind, kind, address)
        try:
            try:
                pid = int(read_line(told))
                yield read_line(told)
            finally:
                os.close(stopping)
            try:
                ended = read_line(told)
            except AssertionError:
                os.kill(pid, signal.SIGKILL)
                raise
            assert ended == "stopped", ended
        finally:
            os.close(told)


def main(orders: socket.socket) -> None:
    """The small process: fork a server for each order until the test runner goes."""
    while True:
        # Nobody asks for the exit codes: what has to be said is said by the pipe.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        message, (*fds,), _, _ = socket.recv_fds(orders, 4096, 2)
        if not message:
            return
        tell, stop = fds
        mode, kind, address = json.loads(message)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if os.fork() == 0:
            orders.close()
            os.write(tell, f"{os.getpid()}\n".encode())
            run_in_the_child(KINDS[mode](address), kind, address, tell, stop)
        os.close(tell)
        os.close(stop)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        main(orders)
