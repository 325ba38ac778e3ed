"""A port that was free when it was looked at, and is taken when it is bound: one line, and nothing stays open."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from cli_support import only_line, run, start_and_run

from jackfield import Server
from jackfield.door import open_listeners
from jackfield.errors import StartError
from jackfield.handlers import BaseRequestHandler
from ports import port_to_bind

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("words", [[], ["-w", "2"], ["-w", "2", "--reuse-port"]], ids=" ".join)
def test_taken_between_check_and_serve(words: list[str], tmp_path: Path) -> None:
    path, pid_file = tmp_path / "s", tmp_path / "pid"
    with port_to_bind() as port, port_to_bind() as other:
        where = ["-b", f"unix:{path}", "-b", f"127.0.0.1:{other}", "-b", f"127.0.0.1:{port}", *words]
        checked = run("check", *where)
        assert (checked.returncode, checked.stderr) == (0, b""), checked
        assert not path.exists()
        with socket.create_server(("127.0.0.1", port)):  # without SO_REUSEPORT, and by somebody else
            done = start_and_run("serve", *where, "--pid", str(pid_file))
            assert done.returncode == 3 and done.stdout == b""
            line = only_line(done.stderr)
            assert f"cannot listen on tcp://127.0.0.1:{port}" in line and "in use" in line, line
            assert not path.exists() and not pid_file.exists()
            with socket.create_server(("127.0.0.1", other)):
                pass  # nobody has it


class Late(socket.socket):
    """As the kernel has it where somebody is faster: bound by two, as neither listens, and then one does."""

    rival: socket.socket

    def listen(self, backlog: int = 128, /) -> None:
        Late.rival.listen()
        super().listen(backlog)


def test_taken_between_bind_and_listen() -> None:
    """Two sockets with SO_REUSEADDR can both be bound to a port (socket(7)); whoever listens first has it."""
    with socket.socket() as Late.rival:
        Late.rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        Late.rival.bind(("127.0.0.1", 0))
        port = Late.rival.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StartError) as told:
            open_listeners(f"127.0.0.1:{port}", socket_class=Late)
        assert f"cannot listen on tcp://127.0.0.1:{port}" in str(told.value) and "\n" not in str(told.value)
        assert len(os.listdir("/proc/self/fd")) == before


def test_of_several_addresses_of_a_server_none_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with port_to_bind() as port, socket.create_server(("127.0.0.1", 0)) as taken:
        before = sorted(os.listdir("/proc/self/fd"))
        server = Server(BaseRequestHandler, f"127.0.0.1:{port}", f"unix:{path}", taken.getsockname()[1])
        with pytest.raises(StartError):
            server.bind()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert not path.exists() and server.state == "failed"
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_one_that_stays_open_would_be_found(tmp_path: Path) -> None:
    """The broken case of the test before."""
    with port_to_bind() as port, contextlib.closing(open_listeners(f"127.0.0.1:{port}")[0]):
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
