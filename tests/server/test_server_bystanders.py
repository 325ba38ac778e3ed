"""Process mode says so, once, where it forks beside threads that a child will not have; and where it does not, nothing.

Each case is a process of its own, as the one of the tests has threads of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from native_support import SOON

from jackfield.serving.bystanders import Bystanders

PROGRAM = """
import logging, socket, sys, threading
logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
import jackfield

class Echo(jackfield.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)

def ask(server):
    host, port = server.server_address
    with socket.create_connection((host, port), 20) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"

over = threading.Event()
server = jackfield.Server(Echo, "tcp://127.0.0.1:0", mode="process")
"""

ALONE = "server.start()"
BESIDE = "threading.Thread(target=over.wait, name='user\\n 1').start(); server.start()"
WATCHED = """
server.start()
server.close_spread(0.1)
import jackfield.supervisor.pulse as pulse
beats = pulse.Pulse([], 0.01, lambda: None); beats.start()
"""
OF_C = """
import ctypes
libc = ctypes.CDLL(None)
number = ctypes.c_ulong()
assert libc.pthread_create(ctypes.byref(number), None, ctypes.cast(libc.pause, ctypes.c_void_p), None) == 0
server.start()
"""
OTHER_SERVER = "other = jackfield.Server(Echo, 'tcp://127.0.0.1:0', mode='thread').start(); server.start()"
OTHER_LOOP = "other = jackfield.Server(Echo, 'tcp://127.0.0.1:0', mode='green', name='G').start(); server.start()"
HERE = """
def clients():
    while not server._since: pass
    for _ in range(4): ask(server)
    server.stop()
threading.Thread(target=clients, name="clients").start()
server.serve_forever()
over.set()
sys.exit()
"""

END = """
for _ in range(4):
    ask(server)
server.stop()
server.wait_stopped()
over.set()
"""


def said(begin: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM + begin + END], capture_output=True, text=True, timeout=SOON,
        check=True,
    )  # fmt: skip
    return done.stderr.splitlines()


@pytest.mark.parametrize("begin", [ALONE, WATCHED, OTHER_SERVER], ids=["alone", "watched", "beside a server"])
def test_nothing_is_said_where_all_threads_are_ours(begin: str) -> None:
    assert said(begin) == []


@pytest.mark.parametrize(
    ("begin", "name"),
    [(BESIDE, r"user\n 1"), (OTHER_LOOP, "jackfield-G"), (HERE, "clients")],
    ids=["a thread of the user's", "a loop that runs handlers", "serving on the main thread"],
)
def test_threads_that_a_child_will_not_have_are_named_once(begin: str, name: str) -> None:
    """Four forks, and one line."""
    (line,) = said(begin)
    assert line.startswith(f"WARNING jackfield.process: this process has other threads ({name}) and forks: "), line


def test_the_main_thread_of_a_process_that_was_forked_is_known() -> None:
    """CPython's number of it may be that of the process before (a worker's main thread, seen by its server's)."""
    forked = """
if (pid := os.fork()) == 0:
    server.start()
    for _ in range(4): ask(server)
    server.stop(); server.wait_stopped()
    sys.exit()
os.waitpid(pid, 0)
server.start()
"""
    assert said("import os" + forked) == []


def test_a_thread_that_python_knows_nothing_of_counts_at_second_sight() -> None:
    (line,) = said(OF_C)
    assert "other threads (number " in line and "not Python's)" in line


def test_one_that_begins_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python knows it, and not its number yet, for as long as the machine is too busy to have it run."""
    monkeypatch.setattr("jackfield.serving.bystanders._tasks", lambda: {1})
    begins = threading.Thread(name="jackfield-pulse")
    known = threading.enumerate()
    monkeypatch.setattr("threading.enumerate", lambda: [*known, begins])
    seen = Bystanders()
    assert not any("number 1," in name for _ in range(3) for name in seen.look())
    monkeypatch.setattr("threading.enumerate", lambda: known)
    assert any("number 1," in name for _ in range(2) for name in seen.look())


def test_one_that_is_seen_once_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had ended for Python, and was still on its way out for the kernel."""
    seen = Bystanders()
    seen.look()
    monkeypatch.setattr("jackfield.serving.bystanders._tasks", lambda: {1})
    assert not any("number 1," in name for name in seen.look())
    assert any(name == "number 1, not Python's" for name in seen.look())
    monkeypatch.setattr("jackfield.serving.bystanders._tasks", set)
    assert not any("number" in name for name in seen.look())
