"""A configuration that is changed while it serves: SIGHUP brings what can change, and says what cannot."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from cli_support import SECONDS, Server

from jackfield.tls import self_signed

pytestmark = pytest.mark.slow

MODES = ["serial", "thread", "process", "green", "async"]
SAID = re.compile(r": (changed|still as it was|needs a restart|read again, and nothing)")


def write(folder: Path, text: str) -> None:
    (folder / "jackfield.toml").write_text('bind = "127.0.0.1:0"\n' + text)


def reloaded(server: Server) -> str:
    """What is said of the configuration, once it was read again."""
    server.process.send_signal(signal.SIGHUP)
    return server.read_until(lambda line: "jackfield.toml" in line and SAID.search(line) is not None)


def connected(address: str) -> socket.socket:
    host, port = address.split("//")[1].rsplit(":", 1)
    return socket.create_connection((host, int(port)), SECONDS)


def is_served(address: str) -> bool:
    with connected(address) as client:
        try:
            client.sendall(b"hello\n")
            return client.recv(100) == b"HELLO"
        except ConnectionError:
            return False


@pytest.mark.parametrize("mode", MODES)
def test_limits_and_lists_change_under_way_and_nobody_is_lost(mode: str, tmp_path: Path) -> None:
    write(tmp_path, f"mode = '{mode}'\n")
    with Server(cwd=tmp_path) as server, connected(server.address) as client:
        client.sendall(b"one\n")
        assert client.recv(100) == b"ONE"
        if mode == "serial":
            client.close()  # one at a time
        write(tmp_path, f"mode = '{mode}'\nmax_connections = 50\ndeny = ['127.0.0.0/8']\nidle_timeout = '7s'\n")
        said = reloaded(server)
        assert said.endswith("jackfield.toml: changed: max_connections, idle_timeout, deny")
        assert not is_served(server.address)
        if mode != "serial":
            client.sendall(b"two\n")
            assert client.recv(100) == b"TWO"
        client.close()
        write(tmp_path, f"mode = '{mode}'\n")
        assert "changed: max_connections, idle_timeout, deny" in reloaded(server)
        assert is_served(server.address)
        assert server.end() == 0
    assert "Traceback" not in "\n".join(server.said)


def test_a_deadline_that_was_changed_holds_for_who_is_there(tmp_path: Path) -> None:
    write(tmp_path, "idle_timeout = '1h'\nfirst_byte_timeout = '1h'\n")
    with Server("-k", "thread", cwd=tmp_path) as server, connected(server.address) as client:
        client.sendall(b"one\n")
        assert client.recv(100) == b"ONE"
        write(tmp_path, "idle_timeout = '300ms'\nfirst_byte_timeout = '1h'\n")
        reloaded(server)
        began = time.monotonic()
        assert client.recv(100) == b""
        assert time.monotonic() - began < SECONDS
        assert server.end() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_conections = 5\n", "jackfield.toml:2: there is no key max_conections"),
        ("max_connections = [\n", "no TOML"),
        ("max_connections = 0\n", "jackfield.toml:2: max_connections: '0' is not a whole number"),
        ("allow_file = 'nowhere'\n", "jackfield.toml:2: --allow-file: cannot read nowhere"),
        ("tls_key = 'a.pem'\n", "jackfield.toml:2: --tls-key goes with --tls-cert FILE"),
        ("[[server]]\nname = 'a'\n[[server]]\nname = 'b'\n", "still as it was"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, "")
    with Server(cwd=tmp_path) as server:
        write(tmp_path, text if "[[" in text else f"{text}deny = '127.0.0.0/8'\n")
        line = reloaded(server)
        assert " error jackfield.serve: " in line and "still as it was" in line and said in line
        assert is_served(server.address)
        assert server.end() == 0


def test_what_cannot_change_is_told_each_time_and_stays(tmp_path: Path) -> None:
    write(tmp_path, "mode = 'thread'\n")
    with Server(cwd=tmp_path) as server:
        text = "mode = 'green'\nname = 'other'\nbacklog = 5\nmax_connections = 9\n"
        write(tmp_path, text)
        line = reloaded(server)
        assert line.endswith("changed: max_connections; needs a restart: name, backlog, mode") and " warning " in line
        write(tmp_path, text + "idle_timeout = 5\n")
        assert reloaded(server).endswith("changed: idle_timeout; needs a restart: name, backlog, mode")
        write(tmp_path, "mode = 'thread'\nmax_connections = 9\nidle_timeout = 5\n# as it was\n")
        server.process.send_signal(signal.SIGHUP)
        server.read_until(
            lambda line: line.endswith("read again, and nothing is different") or "nothing to read" in line
        )
        assert is_served(server.address)
        assert server.end() == 0


def test_flags_go_before_what_the_file_says_now(tmp_path: Path) -> None:
    write(tmp_path, "")
    with Server("--max-connections", "7", cwd=tmp_path) as server:
        write(tmp_path, "max_connections = 50\ngraceful_timeout = '2s'\n")
        assert reloaded(server).endswith("changed: graceful_timeout")
        assert server.end() == 0


def test_the_level_of_the_log_and_the_patience_at_the_end_change(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import jackfield\n"
        "class Long(jackfield.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        self.request.sendall(bytes(1 << 30))\n"  # whoever sends so much waits for the peer to take it
    )
    write(tmp_path, "log_level = 'error'\nhandler = 'app:Long'\n")
    with Server(cwd=tmp_path) as server, connected(server.address) as client:
        assert client.recv(1) == b"\0"
        write(tmp_path, "log_level = 'info'\ngraceful_timeout = '300ms'\nhandler = 'app:Long'\n")
        assert reloaded(server).endswith("changed: graceful_timeout, log_level")  # said at a level that was not before
        server.process.send_signal(signal.SIGTERM)
        server.read_until(lambda line: "1 connection may finish within 0.3s" in line)
        assert server.wait() == 0
    assert any("cuts 1 of its handlers" in line for line in server.said)


def test_another_certificate_by_another_name(tmp_path: Path) -> None:
    old, new = (Path(self_signed(names).cert) for names in (["localhost"], ["another", "localhost"]))
    shutil.copy(old, tmp_path / "old.pem")
    shutil.copy(new, tmp_path / "new.pem")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def served(server: Server) -> bytes | None:
        with connected(server.address) as plain, context.wrap_socket(plain, server_hostname="localhost") as client:
            return client.getpeercert(binary_form=True)

    write(tmp_path, "[tls]\ncert = 'old.pem'\n")
    with Server(cwd=tmp_path) as server:
        before = served(server)
        write(tmp_path, "[tls]\ncert = 'nothing.pem'\n")
        assert "still as it was: jackfield.toml:3: no such file: nothing.pem" in reloaded(server)
        assert served(server) == before
        write(tmp_path, "[tls]\ncert = 'new.pem'\nmin = '1.3'\n")
        assert reloaded(server).endswith("changed: tls_cert, tls_min")
        assert served(server) != before
        write(tmp_path, "")
        assert reloaded(server).endswith("needs a restart: tls_cert, tls_min")
        assert served(server) is not None
        assert server.end() == 0


def test_each_of_several_servers_is_changed_by_its_own_table(tmp_path: Path) -> None:
    def text(deny: str) -> str:
        return (
            "[[server]]\nname = 'a'\nbind = '127.0.0.1:0'\n"
            f"[[server]]\nname = 'b'\nbind = '127.0.0.1:0'\ndeny = '{deny}'\n"
        )

    (tmp_path / "jackfield.toml").write_text(text("192.0.2.1"))
    with Server(cwd=tmp_path) as server:
        assert [is_served(address) for address in server.addresses] == [True, True]
        (tmp_path / "jackfield.toml").write_text(text("127.0.0.0/8"))
        assert reloaded(server).endswith("changed: deny")
        assert [is_served(address) for address in server.addresses] == [True, False]
        (tmp_path / "jackfield.toml").write_text(text("127.0.0.0/8") + "[[server]]\nname = 'c'\nbind = ':0'\n")
        assert "it had 2 [[server]] and now has 3: that needs a restart" in reloaded(server)
        assert server.end() == 0


def test_what_a_class_says_of_itself_stays(tmp_path: Path) -> None:
    """A class that waits for long is not cut short by a reload of something else."""
    (tmp_path / "app.py").write_text(
        "import jackfield\n"
        "class Patient(jackfield.BaseRequestHandler):\n"
        "    timeout = 7777\n"
        "    def handle(self):\n"
        "        self.request.recv(10)\n"
        "        self.request.sendall(b'%d' % self.server.limits.idle_timeout)\n"
    )
    write(tmp_path, "handler = 'app:Patient'\n")
    with Server(cwd=tmp_path) as server:
        for text in ("", "max_connections = 5\n"):
            if text:
                write(tmp_path, "handler = 'app:Patient'\n" + text)
                assert reloaded(server).endswith("changed: max_connections")
            with connected(server.address) as client:
                client.sendall(b"?")
                assert client.recv(10) == b"7777"
        assert server.end() == 0


def test_a_pipe_is_not_read_again() -> None:
    """As a shell makes one of <(…): it is empty, and nobody will write to it."""
    read_end, write_end = os.pipe()
    os.write(write_end, b'bind = "127.0.0.1:0"\nmax_connections = 5\n')
    os.close(write_end)
    try:
        with Server("-c", f"/dev/fd/{read_end}", "-k", "thread", pass_fds=[read_end]) as server:
            assert "5 threads at once" in "\n".join(server.said)
            server.process.send_signal(signal.SIGHUP)
            server.read_until(lambda line: f"/dev/fd/{read_end} is no regular file: it is not read again" in line)
            assert server.end() == 0
    finally:
        os.close(read_end)
