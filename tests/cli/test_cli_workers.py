"""``jackfield serve -w``: a supervisor and its workers, started, told and stopped as one program."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from cli_support import SECONDS, Server, answer, only_line, run

pytestmark = pytest.mark.slow


def workers_of(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("mode", ["serial", "thread", "process", "green", "async"])
def test_it_serves_and_stops(mode: str) -> None:
    with Server("-w", "2", "-k", mode, "-b", "127.0.0.1:0") as server:
        assert f"{mode} × 2 workers" in "\n".join(server.said)
        assert len(workers_of(server)) == 2
        assert answer(server.address, data=b"hello\n") == b"HELLO"
        assert server.end() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))


@pytest.mark.parametrize("words", [[], ["-w", "2"]])
def test_the_command_itself_has_no_threads_that_a_fork_would_lose(words: list[str]) -> None:
    """So nothing is said of them: see tests/server/test_server_bystanders.py."""
    with Server("-k", "process", *words, "-b", "127.0.0.1:0") as server:
        for _ in range(4):
            assert answer(server.address, data=b"hello\n") == b"HELLO"
        assert server.end() == 0
    assert not [line for line in server.said if "threads" in line], server.said


def test_each_flag_has_its_bounds(tmp_path: Path) -> None:
    for flag, value in (("-w", "0"), ("-w", "some"), ("--worker-timeout", "soon"), ("--worker-max-accepts", "0")):
        done = run("serve", flag, value)
        assert done.returncode == 2 and done.stdout == b"", done
        assert value in only_line(done.stderr.splitlines(keepends=True)[-1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Handler:\n    pass\n", "there is no 'Missing' in chat"),
        (None, "there is no module 'chat'"),
    ],
)
def test_what_cannot_be_served_is_told_once(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "chat.py").write_text(text)
    done = run("serve", "chat:Missing", "-w", "3", "-b", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 3, done
    assert says in only_line(done.stderr)


def test_a_port_in_use_is_told_before_anything_is_forked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "-w", "2", "-b", f"127.0.0.1:{port}")
    assert done.returncode == 3 and f"{port}" in only_line(done.stderr)


def test_ctrl_c_twice_is_130() -> None:
    with Server("-w", "2", "-b", "127.0.0.1:0") as server:
        host, _, port = server.address.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), SECONDS) as client:
            client.sendall(b"half a line")
            assert server.insist(signal.SIGINT) in (0, 130)  # 0: it was faster than the second


def test_a_reload_reads_the_code_again(tmp_path: Path) -> None:
    module = tmp_path / "chat.py"
    text = (
        "from jackfield.socketserver import StreamRequestHandler\n"
        "class Handler(StreamRequestHandler):\n    def handle(self):\n        self.wfile.write(b'one\\n')\n"
    )
    module.write_text(text)
    with Server("chat:Handler", "-w", "2", "-k", "thread", "-b", "127.0.0.1:0", cwd=tmp_path) as server:
        assert answer(server.address, data=b"") == b"one\n"
        before = workers_of(server)
        module.write_text(text.replace("one", "another"))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + SECONDS
        while set(before) & set(workers_of(server)) and time.monotonic() < deadline:
            os.sched_yield()
        assert answer(server.address, data=b"") == b"another\n"
        assert server.end() == 0
