"""SIGUSR2: a new process, of what is installed now, takes the sockets over; ``--reload``: new workers by themselves."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_support import SECONDS, Server

pytestmark = pytest.mark.slow

TEXT = """
import os
from jackfield import StreamRequestHandler
class Handler(StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"one %d\\n" % os.getppid())
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "chat.py").write_text(TEXT)
    return tmp_path


@contextlib.contextmanager
def client_of(address: str) -> Iterator[socket.socket]:
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address.removeprefix("unix:"))
    else:
        client = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    with client:
        client.settimeout(SECONDS)
        yield client


def ask(client: socket.socket) -> tuple[str, int]:
    """What the handler's code says, and which process keeps the worker."""
    client.sendall(b"?\n")
    word, number = client.recv(100).split()
    return word.decode(), int(number)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        select.select([], [], [], 0.02)


def asked_anew(address: str) -> tuple[str, int]:
    with client_of(address) as client:
        return ask(client)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_new_process_takes_over_and_nobody_is_lost(app: Path) -> None:
    path, pid_file = app / "s", app / "pid"
    arguments = ["chat:Handler", "-w", "2", "-b", "127.0.0.1:0", "-b", f"unix:{path}", "--pid", str(pid_file)]
    with Server(*arguments, "--graceful-timeout", "5s", cwd=app) as server:
        tcp, unix = server.addresses
        old = server.process.pid
        with client_of(tcp) as staying:
            assert ask(staying) == ("one", old)
            assert pid_file.read_text() == f"{old}\n"
            (app / "chat.py").write_text(TEXT.replace("one", "two"))
            server.process.send_signal(signal.SIGUSR2)
            until(lambda: asked_anew(tcp)[0] == "two")
            new = asked_anew(tcp)[1]
            assert new != old
            until(lambda: asked_anew(unix) == ("two", new))  # until the old one has handed over, both take clients
            assert ask(staying) == ("one", old), "its connection goes on"
            until(lambda: pid_file.read_text() == f"{new}\n")
        # Not server.wait(), which reads to the end of what both write to.
        assert server.process.wait(SECONDS) == 0, "and with the last connection the old process is gone"
        try:
            assert path.exists(), "what it has handed over is not its own any more"
            assert asked_anew(unix) == ("two", new)
        finally:
            os.kill(new, signal.SIGTERM)
            until(lambda: is_gone(new))
        server.wait()
        assert not path.exists() and not pid_file.exists()


def listening(address: str) -> set[str]:
    """The sockets that listen on its port (proc(5), /proc/net/tcp; 0A is TCP_LISTEN)."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}


def test_sockets_of_workers_of_their_own_are_taken_over_too(app: Path) -> None:
    """``--reuse-port``: each worker has one, which the supervisor hands on, however many workers the new one has."""
    (app / "jackfield.toml").write_text("workers = 3")
    with Server("chat:Handler", "--reuse-port", "-b", "127.0.0.1:0", cwd=app) as server:
        (address,) = server.addresses
        sockets = listening(address)
        assert len(sockets) == 3
        (app / "jackfield.toml").write_text("workers = 2")
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: asked_anew(address)[1] != server.process.pid)
        assert server.process.wait(SECONDS) == 0
        new = asked_anew(address)[1]
        try:
            assert listening(address) == sockets, "none was closed, none was opened"
            assert {asked_anew(address) for _ in range(60)} == {("one", new)}
        finally:
            os.kill(new, signal.SIGTERM)
            until(lambda: is_gone(new))
        server.wait()
        assert not listening(address)
        assert [line for line in server.said if "listening" in line] == [f"  listening  {address}"] * 2, server.said


def test_an_upgrade_that_fails_leaves_the_old_one_serving(app: Path) -> None:
    with Server("chat:Handler", "-w", "2", "-b", "127.0.0.1:0", cwd=app) as server:
        (app / "chat.py").write_text("not Python at all")
        server.process.send_signal(signal.SIGUSR2)
        said = server.read_until(lambda line: "the upgrade failed, and what serves goes on" in line)
        assert said.endswith("exit code 3")
        assert asked_anew(server.address) == ("one", server.process.pid)
        (app / "chat.py").write_text(TEXT)
        assert server.end() == 0


def test_without_an_inheritance_the_port_would_be_taken(app: Path) -> None:
    """The broken case: the same command, started by hand beside the old one."""
    with Server("chat:Handler", "-w", "2", "-b", "127.0.0.1:0", cwd=app) as server:
        port = server.address.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "jackfield", "serve", "chat:Handler", "-w", "2", "-b", f"127.0.0.1:{port}"],
            cwd=app, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 3 and port in done.stderr
        assert server.end() == 0


def test_a_stop_during_an_upgrade_ends_the_old_one_only(app: Path) -> None:
    with Server("chat:Handler", "-w", "1", "-b", "127.0.0.1:0", cwd=app) as server:
        address, old = server.address, server.process.pid
        server.process.send_signal(signal.SIGUSR2)
        until(lambda: asked_anew(address)[1] != old)
        new = asked_anew(address)[1]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        try:
            assert asked_anew(address) == ("one", new)
        finally:
            os.kill(new, signal.SIGTERM)
            until(lambda: is_gone(new))
        server.wait()


def test_a_changed_file_is_served(app: Path) -> None:
    with Server("chat:Handler", "--reload", "--reload-delay", "50ms", "-b", "127.0.0.1:0", cwd=app) as server:
        with client_of(server.address) as idle:
            assert ask(idle)[0] == "one"
            (app / "chat.py").write_text(TEXT.replace("one", "another"))
            assert idle.recv(10) == b"", "while it is written, old connections are not kept"
            until(lambda: asked_anew(server.address)[0] == "another")
        (app / "chat.py").write_text("not Python at all")
        server.read_until(lambda line: "the reload failed, and those that serve go on" in line)
        assert asked_anew(server.address)[0] == "another"
        (app / "notes.txt").write_text("nobody serves this")
        (app / "chat.py").write_text(TEXT)
        until(lambda: asked_anew(server.address)[0] == "one")
        assert server.end() == 0
    assert not any("notes.txt" in line for line in server.said)


def test_the_same_in_a_program(app: Path) -> None:
    """``jackfield.serve(workers=…)``: reload, upgrade, stop; it returns in one process only."""
    program = app / "program.py"
    program.write_text(
        "import jackfield, chat\n"
        "jackfield.serve(chat.Handler, 'unix:s', workers=2, mode='thread', graceful_timeout=5)\n"
        "print('over', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, str(program)], cwd=app, stdout=subprocess.PIPE, text=True) as process:
        address = f"unix:{app / 's'}"
        until((app / "s").exists)
        try:
            with client_of(address) as client:
                assert ask(client) == ("one", process.pid)
                process.send_signal(signal.SIGUSR2)
                until(lambda: asked_anew(address)[1] != process.pid)
                new = asked_anew(address)[1]
                assert ask(client) == ("one", process.pid)
            assert process.wait(SECONDS) == 0
            assert asked_anew(address) == ("one", new)
            os.kill(new, signal.SIGTERM)
            until(lambda: is_gone(new))
        finally:
            process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == "over\nover\n"
    assert not (app / "s").exists()


def test_usr1_opens_the_log_again_with_and_without_workers(app: Path) -> None:
    for workers in ([], ["-w", "1"]):
        log = app / "log"
        with Server("chat:Handler", *workers, "-b", "127.0.0.1:0", "--log-file", str(log), cwd=app) as server:
            log.rename(app / "old")
            server.process.send_signal(signal.SIGUSR1)
            until(log.exists)
            assert asked_anew(server.address)[0] == "one"
            assert server.end() == 0
        log.unlink()
