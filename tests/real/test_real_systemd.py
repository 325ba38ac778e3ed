"""systemd's own programs: what they say of the units of ``jackfield init systemd``, and how they start a server.

``systemd-analyze`` reads the units as the manager would; ``systemd-socket-activate`` binds sockets and starts a server
when somebody comes.  Neither needs systemd to run on this machine.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_support import SECONDS

from jackfield.cli.systemd import units_of
from ports import port_to_bind

#: systemd-analyze counts from 0, nothing can be done, to 10, everything; up to 2.0 it says OK.
MOST_EXPOSED = 2.0

JACKFIELD = [sys.executable, "-m", "jackfield"]


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine: install Debian's package systemd")
    return path


@pytest.fixture
def analyze() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs systemd-analyze."""
    path = program("systemd-analyze")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([path, *words], capture_output=True, text=True, timeout=SECONDS, check=False)

    return run


KINDS = {
    "the default": [],
    "everything": ["chat:Handler", "-k", "green", "-b", ":9999", "-b", "udp://127.0.0.1:53", "-b",
                   "unix:/run/chat.sock", "--graceful-timeout", "90s", "--max-connections", "50000"],
    "options": ["-b", "unix:/run/x?mode=600&owner=root&group=root&backlog=9", "-b", "unixgram:@x", "-b",
                "127.0.0.1:9?reuse_port=1&defer_accept=5&sndbuf=64k"],
    "families": ["-b", "tcp4://:9", "-b", "tcp6://:9", "-b", "tcp6://[fe80::1%25eth0]:9"],
    "awkward words": ["--app-dir", "a b%c", "--name", 'quote " back \\ $HOME ;', "--deny", "uid:5"],
}  # fmt: skip


@pytest.fixture(params=KINDS)
def units(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The paths of two units."""
    return written(tmp_path, units_of(KINDS[request.param], name="chat"))


def written(folder: Path, units: dict[str, str]) -> list[str]:
    for name, text in units.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in units]


def complaints(done: subprocess.CompletedProcess[str], folder: Path) -> list[str]:
    """What is said of our units; the machine may have others."""
    return [line for line in (done.stdout + done.stderr).splitlines() if str(folder) in line or "chat" in line]


def test_systemd_has_nothing_to_say_against_the_units(analyze: Any, units: list[str], tmp_path: Path) -> None:
    done = analyze("verify", *units)
    assert done.returncode == 0 and complaints(done, tmp_path) == [], done


def test_nor_against_one_that_binds_by_itself(analyze: Any, tmp_path: Path) -> None:
    for words in (["-b", ":80"], ["-b", "unix:/run/chat/s", "-b", "tls://:443?cert=a.pem"]):
        units = written(tmp_path, units_of(words, name="chat", user="root", sockets=False))
        done = analyze("verify", *units)
        assert done.returncode == 0 and complaints(done, tmp_path) == [], done


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NotifyAccess=main", "NotifyAccess=nobody"),
        ("ProtectSystem=strict", "ProtectSytem=strict"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@no-such-group"),
        ("BindIPv6Only=both", "BindIPv6Only=neither"),
        ("ListenStream=9999", "ListenStream=localhost:http"),
        ("/bin/kill", "/bin/no-such-program"),
    ],
)
def test_a_unit_that_is_wrong_would_be_found(old: str, new: str, analyze: Any, tmp_path: Path) -> None:
    units = units_of(["-b", ":9999"], name="chat")
    assert sum(old in text for text in units.values()) == 1
    paths = written(tmp_path, {name: text.replace(old, new) for name, text in units.items()})
    assert complaints(analyze("verify", *paths), tmp_path) != []


def exposure(analyze: Any, path: str) -> float:
    done = analyze("security", "--offline=yes", "--no-pager", path)
    found = re.search(r"Overall exposure level for chat\.service: ([0-9.]+)", done.stdout)
    assert found, done
    return float(found[1])


def test_little_is_exposed(analyze: Any, tmp_path: Path) -> None:
    service = next(path for path in written(tmp_path, units_of(["-b", ":9999"], name="chat")) if ".service" in path)
    assert exposure(analyze, service) <= MOST_EXPOSED
    text = Path(service).read_text()
    Path(service).write_text(re.sub(r"(?m)^(Protect|Restrict|Private|System|Capab|NoNew|Dynamic|Memory).*\n", "", text))
    assert exposure(analyze, service) > 6  # it does look


# --- started by a client ----------------------------------------------------------------------------------------------


class Activated:
    """A server that systemd-socket-activate starts when the first client comes."""

    def __init__(self, words: list[str], *serve: str) -> None:
        path = program("systemd-socket-activate")
        self.process = subprocess.Popen(
            [path, *words, *JACKFIELD, "serve", *serve],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._unread = b""
        self.said: list[str] = []

    def read_until(self, wanted: str) -> str:
        """Read stderr up to the line that begins so."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + SECONDS
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                self.said.append(line.decode())
                if self.said[-1].startswith(wanted):
                    return self.said[-1]
                continue
            assert select.select([self.process.stderr], [], [], max(0.0, deadline - time.monotonic()))[0], self.said
            data = os.read(self.process.stderr.fileno(), 65536)
            assert data, self.said
            self._unread += data

    def end(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode

    def __enter__(self) -> Activated:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def address() -> Iterator[str]:
    """HOST:PORT that no other test gets while this one runs."""
    with port_to_bind() as port:
        yield f"127.0.0.1:{port}"


def connected(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), SECONDS)


def test_the_client_that_wakes_a_server_is_answered(address: str) -> None:
    with Activated(["-l", address], "-k", "green") as server:
        server.read_until("Listening on")
        with connected(address) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO"
            server.read_until("  listening")
            assert server.said[-1].split() == ["listening", f"tcp://{address}"]
            with connected(address) as another:
                another.sendall(b"there\n")
                assert another.recv(100) == b"THERE"
        assert server.end() == 0


@pytest.mark.parametrize("mode", ["serial", "thread", "process", "green", "async"])
def test_it_is_so_in_every_mode_and_with_names(mode: str, address: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    words = ["-l", address, "-l", path, "--fdname=web:local"]
    with Activated(words, "-k", mode, "-b", "systemd:web", "-b", "systemd:local") as server:
        server.read_until("Listening on")
        server.read_until("Listening on")
        with connected(address) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO"
        with socket.socket(socket.AF_UNIX) as local:
            local.settimeout(SECONDS)
            local.connect(path)
            local.sendall(b"local\n")
            assert local.recv(100) == b"LOCAL"
        assert server.end() == 0
    assert Path(path).is_socket()  # it was not the server's to remove


def test_only_those_of_the_name_are_served(address: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Activated(["-l", address, "-l", path, "--fdname=a:b"], "-b", "systemd:c") as server:
        server.read_until("Listening on")
        server.read_until("Listening on")
        with connected(address):
            line = server.read_until("jackfield serve:")
        assert line.endswith("no socket of that name was passed; there is systemd:a, systemd:b")
        server.process.communicate(timeout=SECONDS)
        assert server.process.returncode == 3


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_the_datagram_that_wakes_a_server_is_answered(mode: str, address: str) -> None:
    with Activated(["-d", "-l", address], "-k", mode) as server:
        server.read_until("Listening on")
        host, port = address.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(SECONDS)
            client.connect((host, int(port)))
            client.send(b"hello")
            assert client.recv(100) == b"HELLO"
            server.read_until("  listening")
            assert server.said[-1].split() == ["listening", f"udp://{address}"]
        assert server.end() == 0


def test_workers_share_what_was_passed(address: str) -> None:
    with Activated(["-l", address], "-w", "2") as server:
        server.read_until("Listening on")
        for _ in range(4):
            with connected(address) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO"
        assert server.end() == 0


def test_the_manager_is_told_by_a_server_that_was_activated(address: str, tmp_path: Path) -> None:
    """As in the units: the socket and the notification together."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(SECONDS)
        with Activated(["-l", address, "-E", f"NOTIFY_SOCKET={path}"]) as server:
            server.read_until("Listening on")
            with connected(address) as client:
                assert manager.recv(4096) == f"READY=1\nSTATUS=listening on tcp://{address}".encode()
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO"
            assert server.end() == 0
            assert manager.recv(4096).startswith(b"STOPPING=1\n")


# --- what the units forbid --------------------------------------------------------------------------------------------

_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # linux/prctl.h, since 6.3

# Forbids memory that is written and run, for itself and what it becomes; tries that it is; becomes the program.
FORBID = f"""
import ctypes, mmap, os, sys
if ctypes.CDLL(None).prctl({_PR_SET_MDWE}, {_PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) != 0:
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    os.execv(sys.argv[1], sys.argv[1:])
sys.exit("memory can be written and run all the same")
"""


@pytest.mark.parametrize("twin", ["native", "pure"])
@pytest.mark.parametrize("mode", ["thread", "process", "green", "async"])
def test_the_server_does_without_memory_that_is_written_and_run(mode: str, twin: str) -> None:
    """MemoryDenyWriteExecute=, by the kernel's own switch for it: greenlet and the native twin change stacks, and make
    no code."""
    environment = {**os.environ, "JACKFIELD_PURE": "1" if twin == "pure" else "0"}
    words = ["serve", "-b", "127.0.0.1:0", "-k", mode, "--log-format", "json"]
    process = subprocess.Popen(
        [sys.executable, "-c", FORBID, *JACKFIELD, *words], env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            if process.poll() == 77 or (not said and process.wait(SECONDS) == 77):
                pytest.skip("this kernel has no PR_SET_MDWE: 6.3 has it")
            found = re.search(r"tcp://(127\.0\.0\.1:\d+)", said)
            assert found, said + process.stderr.read()
            with connected(found[1]) as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO"
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


def test_that_switch_does_forbid(tmp_path: Path) -> None:
    library = ctypes.CDLL(None)
    assert library.prctl is not None
    tries = "import mmap; mmap.mmap(-1, 4096, prot=7)"
    plain = subprocess.run([sys.executable, "-c", tries], capture_output=True, timeout=SECONDS, check=False)
    assert plain.returncode == 0
    held = subprocess.run(
        [sys.executable, "-c", FORBID, sys.executable, "-c", tries], capture_output=True, timeout=SECONDS, check=False
    )
    if held.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE: 6.3 has it")
    assert b"PermissionError" in held.stderr
