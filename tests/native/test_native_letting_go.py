"""A call that may wait lets the other threads run, also where one that does not wait keeps the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

SOON = 30.0

#: Another thread makes the call; this one has to run for it to end.
BEGINNING = """
import os, socket as standard, struct, sys, threading
from jackfield import socket

begun = threading.Event()

def other(work):
    def run():
        print("begun", flush=True)
        begun.set()
        work()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait()
    return thread
"""

LISTENING = """
listener = socket.create_server(("127.0.0.1", 0))
listener.settimeout(0.0)
# The mode belongs to the open file, which another process may have too.
os.set_blocking(os.dup(listener.fileno()), True)
"""

AN_ACCEPT = LISTENING + """
taken = []
thread = other(lambda: taken.append(listener.accept()))
with standard.create_connection(listener.getsockname()) as client:
    thread.join()
    assert taken[0][1] == client.getsockname()
"""

#: The same with the interpreter held throughout.
A_HELD_ACCEPT = LISTENING + """
import ctypes
thread = other(lambda: ctypes.PyDLL(None).accept(listener.fileno(), None, None))
with standard.create_connection(listener.getsockname()):
    thread.join()
"""

CONNECTED = """
with socket.create_server(("127.0.0.1", 0)) as listener:
    client = standard.create_connection(listener.getsockname())
    listener.settimeout(0.0)
    sock, _ = listener.accept()
"""

A_FIRST_RECV = CONNECTED + """
said = []
thread = other(lambda: said.append(sock.recv(100)))
client.sendall(b"hello")
thread.join()
assert said == [b"hello"] and sock.received == 5
"""

A_RECV_OF_WHAT_IS_THERE = CONNECTED + """
client.sendall(b"hello")
assert sock.recv(2) == b"he" and sock.recv(100) == b"llo" and sock.received == 5
client.close()
assert sock.recv(100) == b""
"""

A_SEND = CONNECTED + """
sock.settimeout(0.0)
total = 0
try:
    while True:
        total += sock.send(bytes(4096))
except BlockingIOError:
    sock.settimeout(None)
thread = other(lambda: sock.sendall(b"x" * 4096))
total += 4096
while total:
    total -= len(client.recv(1 << 20))
thread.join()
"""

A_LINGERING_END = CONNECTED + """
sock.setsockopt(standard.SOL_SOCKET, standard.SO_LINGER, struct.pack("ii", 1, 3600))
sock.settimeout(0.0)
try:
    while True:
        sock.send(bytes(4096))
except BlockingIOError:
    sock.settimeout(None)
thread = other(sock._end)
while client.recv(1 << 20):
    pass
thread.join()
"""


def run(code: str, seconds: float = SOON) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", BEGINNING + code], capture_output=True, timeout=seconds, check=False)


@pytest.mark.parametrize(
    "code", [AN_ACCEPT, A_FIRST_RECV, A_RECV_OF_WHAT_IS_THERE, A_SEND, A_LINGERING_END],
    ids=["accept", "the first recv", "recv of what is there", "send", "a lingering end"],
)  # fmt: skip
def test_the_others_run_meanwhile(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr.decode()


def test_one_that_holds_the_interpreter_would_be_seen() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(A_HELD_ACCEPT, 3.0)
    assert caught.value.stderr is None or b"Error" not in caught.value.stderr
