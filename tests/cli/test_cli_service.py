"""``serve`` under a service manager, and ``init systemd``: real servers, and a socket that is the manager's.

What systemd itself says of the units, and how it starts a server, is in tests/real/test_real_systemd.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import stat
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli_support
import pytest
from cli_support import SECONDS, Server, only_line, run, start_and_run

from jackfield.address import parse_address
from jackfield.cli.arguments import UsageError
from jackfield.cli.systemd import AFTER_GRACE, units_of
from jackfield.cli.unitwords import command_line, socket_lines

pytestmark = pytest.mark.slow

LOOPBACK = ["-b", "127.0.0.1:0"]

#: Tells a client what of the manager is left in the environment that handlers, and their children, have.
TELLER = """
import os, threading
import jackfield

class Teller(jackfield.BaseRequestHandler):
    def handle(self):
        asked = self.request.recv(100)
        if asked == b"hold":
            self.request.sendall(b"held")
            threading.Event().wait(5)          # holds the loop of all, in a green thread
        names = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"
        self.request.sendall(repr([name for name in names if name in os.environ]).encode())
"""


class Manager:
    """The socket of a service manager, which starts servers."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(SECONDS)
        self._monkeypatch = monkeypatch
        self.tell("NOTIFY_SOCKET", str(path))

    def tell(self, name: str, value: str) -> None:
        """Put a variable into the environment of the servers."""
        self._monkeypatch.setitem(cli_support.ENVIRONMENT, name, value)

    def heard(self, *, of_life: bool = False) -> dict[str, str]:
        """The next message; signs of life are passed over unless they are asked for."""
        while True:
            lines = self.socket.recv(4096).decode().split("\n")
            if of_life or lines != ["WATCHDOG=1"]:
                return dict(line.split("=", 1) for line in lines)

    def is_quiet_for(self, seconds: float) -> bool:
        return not select.select([self.socket], [], [], seconds)[0]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify", monkeypatch)
    with made.socket:
        yield made


@contextlib.contextmanager
def client_of(address: str) -> Iterator[socket.socket]:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), SECONDS) as client:
        yield client


def teller(folder: Path) -> list[str]:
    (folder / "teller.py").write_text(TELLER)
    return ["teller:Teller", "--app-dir", str(folder), *LOOPBACK]


# --- what the manager is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["-w", "2"]], ids=["one process", "workers"])
def test_ready_reloading_stopping(words: list[str], manager: Manager) -> None:
    with Server(*LOOPBACK, *words) as server:
        # The banner came first: when the manager is told, everything is said and listening.
        assert manager.heard() == {"READY": "1", "STATUS": f"listening on {server.address}"}
        with client_of(server.address) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO"
        before = time.monotonic_ns() // 1000
        server.process.send_signal(signal.SIGHUP)
        began = manager.heard()
        assert began["RELOADING"] == "1" and int(began["MONOTONIC_USEC"]) >= before
        done = manager.heard()
        assert done["READY"] == "1" and done["STATUS"].startswith(f"listening on {server.address}")
        server.process.send_signal(signal.SIGTERM)
        stopping = manager.heard()
        assert stopping["STOPPING"] == "1" and stopping["STATUS"].startswith("stopping")
        assert server.wait() == 0


def test_the_status_says_what_came_of_a_reload_and_a_stop(manager: Manager, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("192.0.2.1\n")
    with Server(*teller(tmp_path), "-k", "thread", "--deny-file", str(bad)) as server:
        manager.heard()
        bad.write_text("rubbish\n")
        server.process.send_signal(signal.SIGHUP)
        manager.heard()
        assert "still as it was" in manager.heard()["STATUS"]
        with client_of(server.address) as client:
            client.sendall(b"hold")
            assert client.recv(100) == b"held"
            server.process.send_signal(signal.SIGTERM)
            assert manager.heard()["STATUS"] == "stopping: 1 connection may finish within 30s"
            server.process.send_signal(signal.SIGQUIT)
            assert manager.heard() == {"STATUS": "stopping at once"}
            assert server.wait() == 0


def test_a_server_that_cannot_start_is_not_ready(manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start_and_run("serve", "-b", f"127.0.0.1:{port}")
    assert done.returncode == 3
    assert manager.is_quiet_for(0)


def test_a_manager_that_is_not_there_does_not_matter(manager: Manager) -> None:
    with Server(*LOOPBACK) as server:
        manager.heard()
        manager.socket.close()
        server.process.send_signal(signal.SIGHUP)
        server.read_until(lambda line: "read again" in line or "nothing to read" in line)
        assert server.end() == 0
    assert sum("the service manager is not told" in line for line in server.said) == 1


@pytest.mark.parametrize("mode", ["thread", "process", "green"])
def test_handlers_and_their_children_inherit_nothing_of_it(mode: str, manager: Manager, tmp_path: Path) -> None:
    manager.tell("WATCHDOG_USEC", "60000000")
    manager.tell("LISTEN_FDS", "1")
    manager.tell("LISTEN_PID", "1")
    with Server(*teller(tmp_path), "-k", mode) as server:
        manager.heard()
        with client_of(server.address) as client:
            client.sendall(b"?")
            left = client.recv(1000)
        assert server.end() == 0
    assert left == b"[]"


# --- the watchdog -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-k", "green"], ["-k", "thread"], ["-k", "process"], ["-k", "async"], ["-w", "2"]])
def test_signs_of_life_come_at_half_of_the_time(words: list[str], manager: Manager) -> None:
    manager.tell("WATCHDOG_USEC", "400000")
    with Server(*LOOPBACK, *words) as server:
        manager.heard()
        assert manager.heard(of_life=True) == {"WATCHDOG": "1"}
        while not manager.is_quiet_for(0):
            manager.socket.recv(4096)
        began = time.monotonic()
        for _ in range(8):
            assert manager.heard(of_life=True) == {"WATCHDOG": "1"}
        # Seven times 0.2 s lie between them; a busy machine may put the first off, by less than a second.
        assert time.monotonic() - began > 0.4
        server.process.send_signal(signal.SIGTERM)
        assert "STOPPING" in manager.heard()
        assert server.wait() == 0


def test_a_loop_that_hangs_gives_none(manager: Manager, tmp_path: Path) -> None:
    manager.tell("WATCHDOG_USEC", "200000")
    with Server(*teller(tmp_path), "-k", "green") as server:
        manager.heard()
        assert manager.heard(of_life=True) == {"WATCHDOG": "1"}
        with client_of(server.address) as client:
            client.sendall(b"hold")
            assert client.recv(100) == b"held"
            while not manager.is_quiet_for(0.05):  # those that were under way
                manager.socket.recv(4096)
            assert manager.is_quiet_for(1.0)  # ten times as long as one may take
            client.recv(100)  # the handler returns
            assert manager.heard(of_life=True) == {"WATCHDOG": "1"}
        assert server.end() == 0


def test_the_watchdog_of_another_process_is_not_fed(manager: Manager) -> None:
    manager.tell("WATCHDOG_USEC", "20000")
    manager.tell("WATCHDOG_PID", "1")
    with Server(*LOOPBACK) as server:
        manager.heard()
        assert manager.is_quiet_for(0.5)
        assert server.end() == 0


def test_a_serial_server_cannot_be_watched(manager: Manager) -> None:
    manager.tell("WATCHDOG_USEC", "30000000")
    done = start_and_run("serve", *LOOPBACK, "-k", "serial")
    assert done.returncode == 3
    assert "leave out WatchdogSec=, or use another mode" in only_line(done.stderr)


# --- pid file and ready descriptor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["-w", "2"]], ids=["one process", "workers"])
def test_the_pid_file_is_that_of_the_process_to_signal(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with Server(*LOOPBACK, "--pid", str(path), *words) as server:
        assert path.read_text() == f"{server.process.pid}\n"
        done = start_and_run("serve", *LOOPBACK, "--pid", str(path))
        assert done.returncode == 3
        assert f"process {server.process.pid} has it and is running; stop that one" in only_line(done.stderr)
        os.kill(int(path.read_text()), signal.SIGTERM)
        assert server.wait() == 0
    assert not path.exists()


def test_the_pid_file_of_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    with Server(*LOOPBACK, "--pid", str(path)) as server:
        server.process.kill()
        server.wait()
        assert path.read_text() == f"{server.process.pid}\n"
    with Server(*LOOPBACK, "--pid", str(path)) as server:
        assert path.read_text() == f"{server.process.pid}\n"
        assert server.end() == 0
    assert not path.exists()


def test_a_pid_file_that_cannot_be_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("somebody's\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # or else it would be told of this
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for path, said in ((tmp_path / "other", "something else in it"), (tmp_path / "no" / "x", "No such file")):
            done = start_and_run("serve", "-b", address, "--pid", str(path))
            assert done.returncode == 3 and said in only_line(done.stderr)
        done = start_and_run("serve", "-b", address, "--pid", str(tmp_path / "mine"))
        assert done.returncode == 3 and "in use" in only_line(done.stderr)
    assert sorted(os.listdir(tmp_path)) == ["other"]


@pytest.mark.parametrize("words", [[], ["-w", "2"]], ids=["one process", "workers"])
def test_a_newline_on_the_ready_descriptor_and_then_its_end(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with Server(*LOOPBACK, "--ready-fd", str(writing), *words, pass_fds=[writing]) as server:
        os.close(writing)
        for wanted in (b"\n", b""):
            assert select.select([reading], [], [], SECONDS)[0]
            assert os.read(reading, 100) == wanted
        assert server.end() == 0
    os.close(reading)


def test_a_ready_descriptor_of_a_server_that_does_not_start_ends_without_a_word() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    done = cli_support.subprocess.run(
        [*cli_support.PROGRAM, "serve", "nowhere:Handler", *LOOPBACK, "--ready-fd", str(writing)],
        pass_fds=[writing], capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 3 and os.read(reading, 100) == b""
    os.close(reading)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--ready-fd 77", 3, "--ready-fd 77: no such descriptor is open; pass it on, e.g. --ready-fd 77 77>ready"),
        ("--ready-fd 1", 2, "'1' is not a whole number of at least 3"),
        ("--ready-fd x", 2, "'x' is not a whole number of at least 3"),
        ("-b systemd:", 3, "cannot listen on systemd:: no sockets were passed to this process"),
        ("-b systemd:a:b", 2, "no name of a passed socket: 'a:b' in 'systemd:a:b': write e.g. systemd:a"),
    ],
)
def test_bad_input_is_one_line(words: str, code: int, said: str) -> None:
    done = run("serve", *words.split())
    assert done.returncode == code
    assert said in only_line(done.stderr)


def test_sockets_for_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli_support.ENVIRONMENT, "LISTEN_FDS", "1")
    monkeypatch.setitem(cli_support.ENVIRONMENT, "LISTEN_PID", "1")
    done = start_and_run("serve", "-b", "systemd:")
    assert done.returncode == 3 and "the sockets are for process 1 (LISTEN_PID)" in only_line(done.stderr)
    done = start_and_run("serve", "nowhere:Handler")  # as sd_listen_fds(3) has it: there are none, and it says why
    assert "not listening on systemd:: the sockets are for process 1" in done.stderr.decode()


def test_a_client_that_connects_to_such_an_address_is_told() -> None:
    done = run("connect", "systemd:echo")
    assert done.returncode == 2
    assert "is for a server to listen on: write where to connect" in only_line(done.stderr)


# --- init systemd -----------------------------------------------------------------------------------------------------


def written(*words: str, cwd: Path | None = None) -> str:
    done = run("init", "systemd", *words, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def lines_of(unit: str, name: str) -> list[str]:
    """The values of a directive."""
    return re.findall(rf"(?m)^{name}=(.*)$", unit)


def test_two_units_for_a_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    folder.mkdir()
    words = "--name chat -o units -- chat:Handler -k green -b :9999 -b udp://127.0.0.1:53 --graceful-timeout 1m -v"
    assert written(*words.split(), cwd=tmp_path) == ""
    assert sorted(os.listdir(folder)) == ["chat.service", "chat.socket"]
    service, sockets = ((folder / f"chat.{kind}").read_text() for kind in ("service", "socket"))
    assert lines_of(sockets, "ListenStream") == ["9999"] and lines_of(sockets, "ListenDatagram") == ["127.0.0.1:53"]
    (command,) = lines_of(service, "ExecStart")
    assert command.endswith(" serve chat:Handler -k green --graceful-timeout 1m -v -b systemd:")
    assert os.access(command.split()[0], os.X_OK)
    for name, value in {
        "Type": "notify", "NotifyAccess": "main", "Restart": "on-failure", "RestartPreventExitStatus": "2 3",
        "KillMode": "mixed", "ExecReload": "/bin/kill -HUP $MAINPID", "WatchdogSec": "30", "CapabilityBoundingSet": "",
        "TimeoutStopSec": str(60 + AFTER_GRACE), "WorkingDirectory": str(tmp_path), "Requires": "chat.socket",
        "DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "MemoryDenyWriteExecute": "yes",
        "SystemCallFilter": "@system-service", "LimitNOFILE": "12048",
    }.items():  # fmt: skip
        assert lines_of(service, name) == [value], name
    for unit in ("chat.service", "chat.socket"):
        assert stat.S_IMODE((folder / unit).stat().st_mode) & 0o133 == 0
    done = run("init", "systemd", *words.split(), cwd=tmp_path)
    assert done.returncode == 2 and "it exists; choose another name, or write over it with --force" in only_line(
        done.stderr
    )
    (folder / "chat.socket").unlink()
    done = run("init", "systemd", *words.split(), cwd=tmp_path)
    assert done.returncode == 2 and os.listdir(folder) == ["chat.service"]  # all or none
    written("--force", *words.split(), cwd=tmp_path)
    assert (folder / "chat.socket").read_text() == sockets


def test_on_stdout_each_begins_with_its_name() -> None:
    text = written()
    assert re.findall(r"(?m)^# (\S+\.(?:service|socket)):", text) == ["jackfield.socket", "jackfield.service"]
    assert lines_of(text, "ListenStream") == ["127.0.0.1:9999"]


def test_what_the_words_say_is_in_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def service(*words: str, **options: Any) -> str:
        units = units_of(words, **options)
        return units[next(name for name in units if name.endswith(".service"))]

    assert set(units_of(["pkg.chat:Handler"])) == {"chat.service", "chat.socket"}
    assert set(units_of(["pkg.chat:Handler"], sockets=False)) == {"chat.service"}
    assert lines_of(service("--max-connections", "50000"), "LimitNOFILE") == ["52048"]
    assert lines_of(service("-k", "serial"), "WatchdogSec") == []
    text = service(user="www-data")
    assert (lines_of(text, "User"), lines_of(text, "DynamicUser")) == (["www-data"], [])
    text = service("-b", "127.0.0.1:80", sockets=False)
    assert lines_of(text, "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    assert lines_of(text, "ExecStart")[0].endswith("serve -b 127.0.0.1:80") and lines_of(text, "Requires") == []
    assert lines_of(service("-b", "127.0.0.1:8080", sockets=False), "CapabilityBoundingSet") == [""]
    text = service("-b", "unix:/run/echo/s", sockets=False, name="echo")
    assert lines_of(text, "RuntimeDirectory") == ["echo"]
    # A file of the directory is that of the service, too; the environment is not.
    monkeypatch.setenv("JACKFIELD_GRACEFUL_TIMEOUT", "7s")
    (tmp_path / "jackfield.toml").write_text('bind = "127.0.0.1:7777"\ngraceful_timeout = "5s"\n')
    units = units_of([])
    assert lines_of(units["jackfield.socket"], "ListenStream") == ["127.0.0.1:7777"]
    assert lines_of(units["jackfield.service"], "TimeoutStopSec") == [str(5 + AFTER_GRACE)]


def test_a_directory_that_would_be_hidden_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackfield.cli.systemd._program", lambda: ["/usr/bin/jackfield"])
    monkeypatch.setattr("sys.base_prefix", "/usr")

    def service(folder: str) -> str:
        monkeypatch.setattr("os.getcwd", lambda: folder)
        return units_of([])["jackfield.service"]

    assert lines_of(service("/srv/chat"), "BindReadOnlyPaths") == []
    assert lines_of(service("/srv/chat"), "ProtectHome") == ["yes"]
    assert lines_of(service("/home" + "/me/chat"), "ProtectHome") == ["read-only"]
    assert lines_of(service("/homestead"), "ProtectHome") == ["yes"]
    assert lines_of(service("/tmp/a b"), "BindReadOnlyPaths") == ['"/tmp/a b"']
    # The interpreter that a virtual environment leads to may be at somebody's home, too.
    monkeypatch.setattr("sys.base_prefix", "/root" + "/python/3.13")
    assert lines_of(service("/srv/chat"), "ProtectHome") == ["read-only"]


def sockets_of(*addresses: str) -> list[str]:
    return socket_lines([parse_address(address) for address in addresses])


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        ([":9999"], ["ListenStream=9999", "BindIPv6Only=both"]),
        (["tcp4://:9"], ["ListenStream=0.0.0.0:9"]),
        (["tcp6://:9"], ["ListenStream=[::]:9", "BindIPv6Only=ipv6-only"]),
        (["tcp://[::]:9"], ["ListenStream=[::]:9", "BindIPv6Only=both"]),
        (["[::1]:9"], ["ListenStream=[::1]:9"]),
        (["tcp://[fe80::1%eth0]:9"], ["ListenStream=[fe80::1]:9%%eth0"]),
        (["udp://127.0.0.1:53"], ["ListenDatagram=127.0.0.1:53", "ReceiveBuffer=1048576"]),
        (["udp://127.0.0.1:53?rcvbuf=64k"], ["ListenDatagram=127.0.0.1:53", "ReceiveBuffer=65536"]),
        (["unix:/run/x.sock"], ["ListenStream=/run/x.sock", "SocketMode=660"]),
        (["unix:@x%25y"], ["ListenStream=@x%%y"]),
        (["unixgram:/run/x?mode=600&owner=me&group=us"],
         ["ListenDatagram=/run/x", "SocketMode=600", "SocketUser=me", "SocketGroup=us", "ReceiveBuffer=1048576"]),
        (["unixpacket:/run/x?backlog=5"], ["ListenSequentialPacket=/run/x", "SocketMode=660", "Backlog=5"]),
        (["127.0.0.1:9?reuse_port=1&defer_accept=5", "udp://127.0.0.1:9"],
         ["ListenStream=127.0.0.1:9", "ListenDatagram=127.0.0.1:9", "ReusePort=1", "DeferAcceptSec=5"]),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_addresses_as_systemd_writes_them(addresses: list[str], wanted: list[str]) -> None:
    assert sockets_of(*addresses) == wanted


def test_a_relative_path_is_that_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sockets_of("unix:x.sock")[0] == f"ListenStream={tmp_path}/x.sock"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["/usr/bin/jackfield", "serve", "-b", "systemd:"], "/usr/bin/jackfield serve -b systemd:"),
        (["a b", ""], '"a b" ""'),
        (['a"b', "a\\b", "a'b"], '"a\\"b" "a\\\\b" "a\'b"'),
        (["100%", "$HOME", ";", "*"], '"100%%" "$$HOME" ";" "*"'),
        (["ü"], '"ü"'),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(words: list[str], wanted: str) -> None:
    assert command_line(words) == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("-- -b tls://:9", "a passed socket cannot say that it speaks TLS: write tcp://:9 and --tls-cert FILE"),
        ("-- -b fd://3", "fd://3 is opened by somebody else: write what it is bound to"),
        ("-- -b systemd:", "systemd: is opened by somebody else"),
        ("-- -b :0", "has its port only when it is bound: write one, e.g. :9999"),
        ("-- -b localhost:9", "write 127.0.0.1 in place of localhost"),
        ("-- -b example.com:9", "systemd looks up no names: write its address"),
        ("-- -b :9?proxy=v1", "a passed socket has no proxy=: leave it out of tcp://:9?proxy=v1, or write"),
        ("-- -b :9?nodelay=0", "or write --no-socket"),
        ("-- -b unix:/run/a?mode=600 -b unix:/run/b?mode=660", "one mode= for all its addresses, not 600 and 660"),
        ("-- -b tcp6://:9 -b tcp://:8", "cannot have an address for IPv6 alone and one for both"),
        ("-- --bnd :9", "unknown flag --bnd; did you mean --bind?"),
        ("-- chat.py", "chat.py is a file; a target is module:Class"),
        ("-- chat:Handler more", "one argument too many: 'more'"),
        ("-- --user www-data", "--user: give it to init: jackfield init systemd --user NAME -- …"),
        ("-- --pid /run/x", "--pid: leave it out: systemd knows the process"),
        ("-- --ready-fd 5", "--ready-fd: leave it out"),
        ("-- --log-file x", "--log-file: leave it out: the journal has what it says"),
        ("-- -qb :9", "write -b ADDR by itself"),
        ("--name a/b", "no name for a unit: 'a/b': write letters"),
        ("--user 0day", "no name of a user: '0day'"),
        ("-b :9", "--bind is the server's: write it behind --, jackfield init systemd -- --bind …"),
        ("--allow ::1", "--allow is the server's: write it behind --"),
        ("-o nowhere", "-o nowhere/jackfield.socket: cannot write it: No such file or directory"),
        ("--force", "--force goes with -o FILE"),
        ("--no-socket -- -b unix:/run/x.sock", "write unix:/run/jackfield/x.sock in place of unix:/run/x.sock"),
    ],
)
def test_what_cannot_be_a_unit_is_one_line(words: str, wanted: str, tmp_path: Path) -> None:
    done = run("init", "systemd", *words.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b""), done
    line = only_line(done.stderr)
    assert line.startswith("jackfield init: ") and wanted in line
    assert list(tmp_path.iterdir()) == []


def test_a_control_character_cannot_stand_in_a_unit() -> None:
    with pytest.raises(UsageError, match="cannot stand in a unit file"):
        command_line(["a\nExecStart=/bin/evil"])


def test_several_servers_of_a_file_bind_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jackfield.toml").write_text(
        textwrap.dedent("""
            graceful_timeout = 7
            [[server]]
            name = "a"
            bind = "127.0.0.1:7001"
            [[server]]
            name = "b"
            bind = "127.0.0.1:7002"
            max_connections = 100
        """)
    )
    with pytest.raises(UsageError, match="the configuration has 2 servers"):
        units_of([])
    (service,) = units_of([], sockets=False).values()
    assert lines_of(service, "ExecStart")[0].endswith(" serve")
    assert lines_of(service, "TimeoutStopSec") == [str(7 + AFTER_GRACE)]
    assert lines_of(service, "LimitNOFILE") == [str(10_000 + 100 + 2048)]


@pytest.mark.parametrize(("words", "flag"), [("--user x", "--user"), ("--no-socket", "--no-socket"), ("-- x:Y", "--")])
def test_flags_of_systemd_go_with_it(words: str, flag: str) -> None:
    done = run("init", "nftables", "-b", ":80", *words.split())
    assert done.returncode == 2 and f"{flag} goes with systemd" in only_line(done.stderr)


def test_the_program_of_the_unit_is_the_one_that_wrote_it() -> None:
    from jackfield.cli.systemd import _program

    script, *rest = _program()
    assert Path(script).parent == Path(sys.executable).parent and rest in ([], ["-m", "jackfield"])
