"""A server under test in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from .servers import STOP_SECONDS, ServerFactory

__all__ = ["OwnProcess"]

READY_SECONDS = 20.0
ENDS_SECONDS = STOP_SECONDS + 15.0


class OwnProcess(ServerFactory):
    """Wraps a `ServerFactory`: each server runs in a forked process instead of in the process of its clients.

    Servers that fork need it. A child inherits every descriptor of its parent (fork(2)), so where clients live in the
    parent too, a child holds copies of *their* ends, and a server never sees the end of a stream that a client closed.
    """

    def __init__(self, inner: ServerFactory) -> None:
        super().__init__(inner.address, inner.missing)
        self.inner = inner
        self.name = f"{inner.name} in its own process"
        self.concurrent = inner.concurrent
        elsewhere = "the server's descriptors are in another process"
        self.missing |= {"leaves_nothing_open": elsewhere, "leaves_no_descriptor": elsewhere}

    @contextmanager
    def serve(self, kind: str, address: str) -> Iterator[str]:
        told_read, told_write = os.pipe()  # the child tells its address, or what failed
        stop_read, stop_write = os.pipe()  # closed by the parent to say: stop
        pid = os.fork()
        if pid == 0:
            os.close(told_read)
            os.close(stop_write)
            run_in_the_child(self.inner, kind, address, told_write, stop_read)
        os.close(told_write)
        os.close(stop_read)
        try:
            try:
                yield read_line(told_read)
            finally:
                os.close(stop_write)
                status = _wait(pid)
            if status:
                raise AssertionError(f"the process of {self.inner.name} ended with status {status}: see its stderr")
        finally:
            os.close(told_read)


def run_in_the_child(inner: ServerFactory, kind: str, address: str, tell: int, stop: int) -> NoReturn:
    """Serve in this process, a fork; write the real address to `tell`, stop when `stop` ends, write "stopped"; exit."""
    status = 1
    try:
        with inner.serve(kind, address) as real:
            os.write(tell, real.encode() + b"\n")
            os.read(stop, 1)
        os.write(tell, b"stopped\n")
        status = 0
    except BaseException:  # reported on stderr and by the status; nothing of the parent's program may run here
        traceback.print_exc()
    finally:
        os._exit(status)


def read_line(fd: int) -> str:
    """The next line that the server's process tells. AssertionError when it has ended or is silent for too long."""
    line = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poller.poll(READY_SECONDS * 1000):
            raise AssertionError(f"the server's process has said nothing for {READY_SECONDS:g} s")
        part = os.read(fd, 1)
        if not part:
            raise AssertionError("the server's process has ended by an error: see its stderr")
        line += part
    return line.decode().strip()


def _wait(pid: int) -> int:
    """The exit status of the child; it is killed, with an AssertionError, when it does not end in time."""
    deadline = time.monotonic() + ENDS_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the server's process still ran {ENDS_SECONDS:g} s after it was told to stop")
