"""``serve`` and SIGHUP: files are read again, at most once a second, and a terminal that goes away is a stop."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Server

from jackfield.tls import self_signed

pytestmark = pytest.mark.slow

MODES = ["serial", "thread", "process", "green", "async"]
LOOPBACK = ["-b", "127.0.0.1:0"]
EVERYBODY = "127.0.0.0/8\n"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.txt"
    file.write_text("# nobody\n")
    return file


@contextlib.contextmanager
def client_of(address: str) -> Iterator[socket.socket]:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), SECONDS) as client:
        yield client


def answers(client: socket.socket) -> bool:
    """Whether it is served; who is turned away is closed, or reset."""
    with contextlib.suppress(ConnectionError):
        client.sendall(b"hello\n")
        return client.recv(100) == b"HELLO"
    return False


def is_served(address: str) -> bool:
    with client_of(address) as client:
        return answers(client)


def reloaded(server: Server) -> str:
    """The line that a reload leaves in the log, once it is asked for."""
    server.process.send_signal(signal.SIGHUP)
    return server.read_until(lambda line: "read again" in line or "still as it was" in line)


@pytest.mark.parametrize("mode", MODES)
def test_a_list_is_read_again_and_nobody_is_lost(mode: str, bad: Path) -> None:
    with Server("-k", mode, *LOOPBACK, "--deny-file", str(bad), "--deny", "192.0.2.1") as server:
        with client_of(server.address) as client:
            assert answers(client)
            bad.write_text(EVERYBODY)
            if mode == "serial":
                client.close()  # one at a time
            assert reloaded(server).endswith(f": read again: {bad} (2 entries)")
            assert not is_served(server.address)
            assert mode == "serial" or answers(client)
        assert server.end() == 0
    assert "Traceback" not in "\n".join(server.said)


def test_a_list_that_is_wrong_is_not_taken(bad: Path) -> None:
    bad.write_text(EVERYBODY)
    with Server(*LOOPBACK, "--deny-file", str(bad)) as server:
        bad.write_text("10.0.0.0/8\n127.0.0.1/8\n")
        wanted = r" error jackfield\.server: .*: still as it was: .*bad\.txt:2: a host where .*: write 127\.0\.0\.0/8$"
        assert re.search(wanted, reloaded(server))
        assert not is_served(server.address)
        assert server.end() == 0


def test_a_certificate_is_read_again_and_a_wrong_one_is_not_taken(tmp_path: Path) -> None:
    # Of different names in the first place: of two issuers of one name OpenSSL 3.0 tries the first alone.
    old, new = (Path(self_signed(names).cert) for names in (["localhost"], ["another", "localhost"]))
    served, both = tmp_path / "served.pem", tmp_path / "both.pem"
    shutil.copy(old, served)
    both.write_text(old.read_text() + new.read_text())
    context = ssl.create_default_context(cafile=str(both))

    @contextlib.contextmanager
    def spoken(server: Server) -> Iterator[ssl.SSLSocket]:
        with client_of(server.address) as plain, context.wrap_socket(plain, server_hostname="localhost") as client:
            yield client

    def serial(client: ssl.SSLSocket) -> object:
        certificate = client.getpeercert()
        assert certificate
        return certificate["serialNumber"]

    with Server(*LOOPBACK, "--tls-cert", str(served)) as server:
        with spoken(server) as first:
            before = serial(first)
            shutil.copy(new, served)
            assert re.search(r"read again: .*served\.pem \(valid until \d{4}-\d\d-\d\d\)$", reloaded(server))
            with spoken(server) as second:
                assert serial(second) != before
            served.write_text("rubbish")
            assert "still as it was" in reloaded(server)
            with spoken(server) as third:
                assert serial(third) != before
            assert answers(first)
        assert server.end() == 0


def test_two_hundred_signals_are_a_few_reloads_and_nobody_is_lost(bad: Path) -> None:
    with Server(*LOOPBACK, "--deny-file", str(bad)) as server:
        with client_of(server.address) as client:
            began = time.monotonic()
            assert reloaded(server).endswith("(0 entries)")
            for number in range(199):
                server.process.send_signal(signal.SIGHUP)
                if number % 20 == 0:
                    assert is_served(server.address)
            # The last of them is heard, however soon after another it came: this list is in force in the end.
            bad.write_text(EVERYBODY)
            server.process.send_signal(signal.SIGHUP)
            server.read_until(lambda line: line.endswith("(1 entry)"))
            took = time.monotonic() - began
            assert answers(client)
            assert not is_served(server.address)
        assert server.end() == 0
    count = sum("read again" in line for line in server.said)
    # One at once, and from then on one for each second at most that all of this took.
    assert 2 <= count <= 2 + took


def test_the_processes_of_connections_leave_it_to_their_parent(bad: Path) -> None:
    """A signal to the whole group, as of a terminal that goes away, or of ``kill -HUP -- -PID``."""
    with Server("-k", "process", *LOOPBACK, "--deny-file", str(bad), start_new_session=True) as server:
        with client_of(server.address) as client:
            assert answers(client)
            bad.write_text(EVERYBODY)
            os.killpg(server.process.pid, signal.SIGHUP)
            server.read_until(lambda line: line.endswith("(1 entry)"))
            assert answers(client)
            assert not is_served(server.address)
        assert server.end() == 0


def test_a_stop_goes_on_and_that_there_are_no_files_is_said() -> None:
    with Server("patient:Lines", "--app-dir", str(Path(__file__).parent), *LOOPBACK) as server:
        with client_of(server.address) as client:
            client.sendall(b"one\nhalf")
            assert client.recv(100) == b"ONE\n"
            server.process.send_signal(signal.SIGHUP)
            server.read_until(lambda line: "nothing to read again" in line)
            server.process.send_signal(signal.SIGTERM)
            server.read_until(lambda line: "may finish" in line)
            server.process.send_signal(signal.SIGHUP)
            client.sendall(b"way\n")
            assert client.recv(100) == b"HALFWAY\n"
        assert server.wait() == 0


# --- terminals ------------------------------------------------------------------------------------------------------


class OnTerminal:
    """``serve``, started by a shell that leads the session of a terminal of its own."""

    def __init__(self, *arguments: str, shell: str = "exec {}") -> None:
        self.program, terminal = pty.openpty()
        # To lead a session, and to open a terminal, is to have it as the controlling one (tty_ioctl(4)).
        script = (
            "import os, sys; os.setsid(); fd = os.open(sys.argv[1], os.O_RDWR);"
            "[os.dup2(fd, one) for one in (0, 1, 2)]; os.execvp('bash', ['bash', '-c', sys.argv[2]])"
        )
        command = shell.format(shlex.join([*PROGRAM, "serve", "--color", "never", *LOOPBACK, *arguments]))
        words = [PROGRAM[0], "-c", script, os.ttyname(terminal), command]
        self.leader = subprocess.Popen(words, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        said = self.read_until("Ready in")
        os.close(terminal)
        self.address = re.findall(r"listening\s+(\S+)", said)[0]
        self.pid = int(re.findall(r"pid (\d+)", said)[0])

    def read_until(self, wanted: str) -> str:
        """What it says up to what is wanted, and what came with it."""
        said = ""
        while wanted not in said:
            assert select.select([self.program], [], [], SECONDS)[0], said
            said += os.read(self.program, 65536).decode()
        return said

    def hang_up(self) -> None:
        os.close(self.program)
        self.program = -1

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.program >= 0:
            self.hang_up()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.leader.kill()
        self.leader.wait()


def wait_until_gone(address: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with client_of(address):
                pass
        except OSError:
            return
    raise AssertionError(f"{address} still listens")


def test_who_is_in_the_foreground_of_a_terminal_ends_with_it() -> None:
    with OnTerminal() as server:
        assert is_served(server.address)
        os.kill(server.pid, signal.SIGHUP)  # as long as it is there, this is a reload
        server.read_until("nothing to read again")
        assert is_served(server.address)
        server.hang_up()
        assert server.leader.wait(SECONDS) == 0
        wait_until_gone(server.address)


@pytest.mark.parametrize("shell", ["set -m; {} & wait", "trap '' HUP; exec {}"], ids=["in the background", "nohup"])
def test_who_is_not_stays(shell: str, bad: Path) -> None:
    """The broken case of the test above: it serves on, and SIGHUP means what it does elsewhere."""
    with OnTerminal("--deny-file", str(bad), shell=shell) as server:
        assert is_served(server.address)
        server.hang_up()
        bad.write_text(EVERYBODY)
        os.kill(server.pid, signal.SIGHUP)
        deadline = time.monotonic() + SECONDS
        while is_served(server.address):
            assert time.monotonic() < deadline, "the list is not in force"
        os.kill(server.pid, signal.SIGTERM)
        wait_until_gone(server.address)
