"""serve() and signals, in a process of its own: the first is a graceful stop, the second is now."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_support import MODES, SOON, leave, until

PROGRAM = Path(__file__).with_name("signalled_program.py")


class Program:
    """The program, and clients of it."""

    def __init__(self, process: subprocess.Popen[str], path: str) -> None:
        self.process = process
        self.path = path

    def client(self) -> socket.socket:
        """A connection whose handler runs."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(SOON)
            sock.connect(self.path)
            assert sock.recv(10) == b"here"
            # Of a Unix socket that has received something nobody can tell whether that was answered.
            sock.sendall(b"x")
            assert sock.recv(10) == b"X"
        except BaseException:
            sock.close()
            raise
        return sock

    def refuses(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(self.path)
            except (ConnectionRefusedError, FileNotFoundError):
                return True
            return False

    def end(self) -> tuple[int, str, str]:
        """Its exit code and output, when it has ended by itself."""
        out, err = self.process.communicate(timeout=SOON)
        return self.process.returncode, out, err


def rest_of(sock: socket.socket, last_words: bytes) -> bytes:
    """All that comes until the end, which may have come already."""
    rest = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(last_words)
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(100):
            rest += part
    return rest


@contextlib.contextmanager
def program(directory: Path, mode: str, face: str = "serve") -> Iterator[Program]:
    path = str(directory / "s")
    if len(path) > 100:
        pytest.skip("the temporary directory's name is too long for a socket")
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), path, mode, face],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        running = Program(process, path)
        try:
            until(lambda: process.poll() is not None or not running.refuses())
            assert process.poll() is None, process.communicate()
            yield running
        finally:
            process.kill()  # what has ended by itself does not mind


ENDED = (0, "ended handlers as before\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("mode", MODES)
def test_an_idle_server_ends_at_once(mode: str, number: signal.Signals, tmp_path: Path) -> None:
    with program(tmp_path, mode) as running:
        with contextlib.closing(running.client()) as client:
            client.sendall(b"x")
            assert client.recv(10) == b"X"
            leave(client)
        running.process.send_signal(number)
        assert running.end() == ENDED
    assert list(tmp_path.iterdir()) == [], "its socket file is gone"


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_what_is_at_work_finishes(mode: str, tmp_path: Path) -> None:
    """The request that is in the works is answered; nobody new is let in meanwhile."""
    with program(tmp_path, mode) as running:
        slow, other = running.client(), running.client()
        slow.sendall(b"slow")
        running.process.send_signal(signal.SIGTERM)
        until(running.refuses)
        other.sendall(b"go")
        assert other.recv(10) == b"GO"
        assert slow.recv(10) == b"SLOW"
        assert running.process.poll() is None
        for client in (slow, other):
            leave(client)
        assert running.end() == ENDED


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
@pytest.mark.parametrize("mode", MODES)
def test_the_second_means_now(mode: str, numbers: tuple[signal.Signals, ...], tmp_path: Path) -> None:
    """With an idle client, which would otherwise be waited for (here: for 1000 s)."""
    with program(tmp_path, mode) as running:
        idle = running.client()
        running.process.send_signal(numbers[0])
        if mode == "serial":
            # There the handler's own recv waits. A signal that comes just before that call is noted and does not end
            # it; the data does, and the answer shows that the signal was heard.
            idle.sendall(b"x")
            assert idle.recv(10) == b"X"
        else:
            until(running.refuses)
        running.process.send_signal(numbers[1])
        assert rest_of(idle, b"y" if mode == "serial" else b"") in (b"", b"Y")
        idle.close()
        code, out, err = running.end()
        assert (code, out) == ENDED[:2], err
        assert "Traceback" not in err


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_of_the_programs_own_that_calls_stop(mode: str, tmp_path: Path) -> None:
    with program(tmp_path, mode, "own") as running:
        with contextlib.closing(running.client()) as idle:
            running.process.send_signal(signal.SIGTERM)
            assert rest_of(idle, b"y" if mode == "serial" else b"") in (b"", b"Y")
            leave(idle)
        code, out, _ = running.end()
        assert (code, out) == ENDED[:2]


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    """The program's own handler has it; the server in the other thread serves on."""
    with program(tmp_path, "green", "thread") as running:
        running.client().close()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == "heard\n"
        with contextlib.closing(running.client()) as client:
            client.sendall(b"x")
            assert client.recv(10) == b"X"


def test_a_program_that_does_not_hear_would_be_found_out(tmp_path: Path) -> None:
    """The broken case: a signal that nobody handles ends the process the hard way, and the file stays."""
    with program(tmp_path, "green") as running:
        running.client().close()
        running.process.send_signal(signal.SIGKILL)
        assert running.end() != ENDED
    assert list(tmp_path.iterdir()) != []
