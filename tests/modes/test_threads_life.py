"""Idle threads and the ends of their process: the program's end, and a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from modes_support import SOON, crew, name_of_thread, settled, until, waiting

from jackfield.modes import Threads

PROGRAM = """
import sys, threading, time
from jackfield import socketserver
import socket

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(10))

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = {daemon}
    idle_thread_seconds = 3600

server = Server(("127.0.0.1", 0), Echo)
for _ in range(2):
    client = socket.create_connection(server.server_address)
    client.sendall(b"hello")
    server.handle_request()
    assert client.recv(10) == b"hello"
    client.close()
while len(server._mode._spares._waiting) != len(server._mode._spares.staff):
    time.sleep(0.001)
assert server._mode._spares.staff
{more}
print("the end", flush=True)
"""


def run(more: str = "", *, daemon: bool = False, timeout: float = 60) -> str:
    program = PROGRAM.format(more=textwrap.dedent(more), daemon=daemon)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("daemon", [False, True])
def test_idle_threads_do_not_keep_a_program_alive(daemon: bool) -> None:
    assert run(daemon=daemon) == "the end\n"


def test_a_program_that_nobody_tells_them_of_the_end_of_would_stay() -> None:
    """The gate can fail: without the word that the end has come, the interpreter waits for them."""
    with pytest.raises(subprocess.TimeoutExpired):
        run("threading._threading_atexits.clear()", timeout=2)


def test_handlers_that_run_at_the_end_of_a_program_are_waited_for_and_wait_for_nothing() -> None:
    program_goes_on = """
    class Late(Echo):
        def handle(self):
            self.request.recv(1)
            while threading.main_thread().is_alive():
                time.sleep(0.001)
            print("was waited for", flush=True)
    server.RequestHandlerClass = Late
    client = socket.create_connection(server.server_address)
    server.handle_request()
    client.close()
    """
    assert sorted(run(program_goes_on).splitlines()) == ["the end", "was waited for"]


# -- forks -------------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], Any]) -> int:
    """Fork, and run ``work`` in the child; its exit code: 0 if that returned something true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(int(SOON))  # a child that hangs is ended
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_child_does_not_believe_in_its_parents_idle_threads() -> None:
    with crew() as threads:
        name = name_of_thread(threads)

        def child() -> bool:
            assert waiting(threads) == 0
            fresh = name_of_thread(threads)
            return fresh != name and name_of_thread(threads) == fresh and threads.join(SOON)

        assert in_child(child) == 0
        assert waiting(threads) == 1
        assert name_of_thread(threads) == name


def test_a_child_does_not_wait_for_its_parents_handlers() -> None:
    with crew() as threads:
        begun, go = threading.Event(), threading.Event()

        def unit() -> None:
            begun.set()
            assert go.wait(SOON)

        threads.start(unit)
        assert begun.wait(SOON)

        def child() -> bool:
            return threads.live == 0 and threads.join(SOON)

        assert in_child(child) == 0
        go.set()
        until(lambda: settled(threads))


def test_a_child_of_a_handler_goes_on_alone() -> None:
    with crew() as threads:
        codes: list[int] = []

        def child() -> bool:
            # The unit that forked still runs, here; nobody waits, and who is started is a thread of the child's own.
            alone = list(threads) == [threading.current_thread()]
            ran = threading.Event()
            threads.start(ran.set)
            return alone and ran.wait(SOON)

        other = threading.Event()
        threads.start(lambda: other.wait(SOON))
        threads.start(lambda: codes.append(in_child(child)))
        until(lambda: codes)
        other.set()
        until(lambda: settled(threads))
        assert codes == [0]


FORKS = """
import os, signal
from jackfield.modes import Threads
from jackfield.reactor import blocking_wait

threads, told, pids = Threads(), blocking_wait(), []

def unit():
    pid = os.fork()
    if pid:
        pids.append(pid)
        told.wake()
    else:
        signal.alarm(20)

threads.start(unit)
told.wait()
print(os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]))
threads.close()
"""


def test_a_child_that_returns_from_the_unit_ends_with_it() -> None:
    """Its only thread does not wait for work: nobody would be there to give it any.

    In a process of its own: the end of such a child runs what libraries have left for the end (atexit(3)), and libuv,
    which other tests load, then waits for threads that the child has not (pthread_join(3) on them crashes).
    """
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=SOON, check=True)
    assert done.stdout == "0\n"


def test_a_fork_while_a_lock_is_held_leaves_the_child_with_a_free_one() -> None:
    with crew() as threads:
        name_of_thread(threads)
        locked, go = threading.Event(), threading.Event()

        def hold() -> None:
            with threads._lock, threads._spares._lock:
                locked.set()
                assert go.wait(SOON)

        holder = threading.Thread(target=hold)
        holder.start()
        assert locked.wait(SOON)

        def child() -> bool:
            threads.offer(None)
            name_of_thread(threads)
            return threads.join(SOON)

        try:
            assert in_child(child) == 0
        finally:
            go.set()
            holder.join(SOON)


def test_threads_of_a_child_may_be_collected() -> None:
    with crew() as threads:
        name_of_thread(threads)

        def child() -> bool:
            fresh = Threads(idle_seconds=0.001)
            name_of_thread(fresh)
            until(lambda: not fresh._spares.staff)
            return True

        assert in_child(child) == 0
