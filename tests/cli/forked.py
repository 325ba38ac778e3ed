"""The command in processes forked from one that has everything imported, for the tests that run it to its end.

To start an interpreter and to import what it needs is nearly all that such a run costs, and these tests have some two
hundred. A fork is given the arguments, the folder and the standard descriptors of its run, and ends as an interpreter
ends: what was not closed is told on stderr. Only the interpreter's start is left out; a test holds the two to be alike.

Run as a program, this is the process that is forked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

# Bytes of the longest order: one packet.
LONGEST = 1 << 18
# What importing everything, or ending a process that was killed, may take on a busy machine.
READY_SECONDS = 30.0


class Forked:
    """The test runner's side: starts the process that is forked, has it run the command, ends it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._orders, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )

    def close(self) -> None:
        self._orders.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(
        self, arguments: list[str], data: bytes, seconds: float, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """What subprocess.run() of the command with these arguments, and `data` as its input, returns or raises."""
        order = json.dumps([os.fspath(cwd or os.getcwd()), *arguments]).encode()
        with self._lock, contextlib.ExitStack() as ends:
            read, write = [], []
            for _ in range(3):
                for fd, mode, kept in zip(os.pipe(), ("rb", "wb"), (read, write), strict=True):
                    kept.append(ends.enter_context(open(fd, mode, buffering=0)))
            theirs, to, out, err = [read[0], write[1], write[2]], write[0], read[1], read[2]
            socket.send_fds(self._orders, [order], [end.fileno() for end in theirs])
            for end in theirs:
                end.close()
            self._orders.settimeout(READY_SECONDS)
            pid = int(self._orders.recv(100))
            try:
                deadline = time.monotonic() + seconds
                came = _converse(to, data, [out, err], deadline)
                self._orders.settimeout(max(0.001, deadline - time.monotonic()))
                status = int(self._orders.recv(100))
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._orders.settimeout(READY_SECONDS)
                self._orders.recv(100)
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(arguments, seconds) from None
                raise
        return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), *came)


def _converse(to: io.FileIO, data: bytes, sources: list[io.FileIO], deadline: float) -> list[bytes]:
    """Write `data` and close, and meanwhile read each of `sources` to its end. TimeoutError after the deadline."""
    came = {source: bytearray() for source in sources}
    rest = memoryview(data)
    os.set_blocking(to.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(to, selectors.EVENT_WRITE)
        for source in sources:
            waiting.register(source, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is not to:
                    part = os.read(key.fd, 65536)
                    came[key.fileobj] += part
                    done = not part
                else:
                    try:
                        rest = rest[os.write(key.fd, rest) if rest else 0 :]
                    except BrokenPipeError:  # nobody wants the rest
                        rest = rest[:0]
                    done = not rest
                if done:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()
    return [bytes(part) for part in came.values()]


def obey(orders: socket.socket) -> list[str] | None:
    """Fork for each order until the test runner goes: None. Returns in each fork as well, with its arguments."""
    while True:
        order, fds, _, _ = socket.recv_fds(orders, LONGEST, 3)
        if not order:
            return None
        pid = os.fork()
        if pid == 0:
            orders.close()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            folder, *arguments = json.loads(order)
            os.chdir(folder)
            sys.path[0] = folder  # as python -m has it
            return arguments
        for fd in fds:
            os.close(fd)
        orders.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        orders.send(b"%d" % status)


def main() -> None:
    import jackfield.bench.plot
    import jackfield.bench.report
    import jackfield.bench.target
    import jackfield.cli.banner
    import jackfield.cli.bench
    import jackfield.cli.benchplan
    import jackfield.cli.building
    import jackfield.cli.check
    import jackfield.cli.configuration
    import jackfield.cli.connect
    import jackfield.cli.conversation
    import jackfield.cli.dial
    import jackfield.cli.logs
    import jackfield.cli.pipe
    import jackfield.cli.progress
    import jackfield.cli.script
    import jackfield.cli.serve
    import jackfield.cli.stopping
    import jackfield.cli.target
    import jackfield.cli.upper
    import jackfield.server
    import jackfield.socketserver

    with socket.socket(fileno=int(sys.argv[1])) as orders:
        arguments = obey(orders)
    if arguments is not None:
        sys.argv = [str(Path(jackfield.__file__).with_name("__main__.py")), *arguments]
        sys.exit(jackfield.cli.main())


if __name__ == "__main__":
    main()
