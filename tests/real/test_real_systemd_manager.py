"""The units of ``jackfield init systemd``, run by a systemd that is real: a user's manager, in namespaces of its own.

It has all of the sandbox but the user that systemd would make (DynamicUser= is for the system's manager, and in
test_real_systemd_dynamic.py), and it binds, starts on the first client, hears readiness, watches, reloads, restarts and
stops.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_support import SECONDS

from jackfield.cli.systemd import units_of
from ports import port_to_bind

pytestmark = pytest.mark.slow

SYSTEMD = "/lib/systemd/systemd"

#: What the first process of the namespaces does: an empty /run with what a booted system has in it, and the manager.
#: The shell stays, as a systemd that is process 1 is the system's.
FIRST = f"""
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir
touch /run/systemd/inaccessible/reg
mkfifo /run/systemd/inaccessible/fifo
mknod /run/systemd/inaccessible/chr c 0 0
mknod /run/systemd/inaccessible/blk b 0 0
{SYSTEMD} --user --unit=chat.socket
true
"""

TARGET = """
import threading
import jackfield

class Chat(jackfield.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line == b"hang\\n":
                threading.Event().wait()       # holds the loop of all, for ever
            if line == b"work\\n":
                self.wfile.write(b"at it\\n")
                jackfield.sleep(3)             # what a stop lets finish
            self.wfile.write(line.upper())
"""


class Manager:
    """systemd for one server, and what it thinks of it."""

    #: What starts it, whose it is, what it gets besides, and where units are looked for after ours.
    first = FIRST
    scope: tuple[str, ...] = ("--user",)
    environment: dict[str, str] = {}
    more_units = ":"  # those of the machine

    def __init__(self, folder: Path, address: str, units: dict[str, str]) -> None:
        self.address = address
        self._folder = folder
        run, unit_folder = folder / "run", folder / "units"
        run.mkdir(0o700)
        unit_folder.mkdir()
        for name, text in units.items():
            (unit_folder / name).write_text(text)
        self._environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(run),
            "SYSTEMD_UNIT_PATH": f"{unit_folder}{self.more_units}", **self.environment,
        }  # fmt: skip
        self._group = make_group()
        self._inside: list[str] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as booted:
            booted.bind(str(folder / "booted"))
            booted.settimeout(SECONDS)
            enter = f"echo $$ > {self._group}/cgroup.procs && exec unshare -m -p -C -f --kill-child --mount-proc sh -c"
            self._process = subprocess.Popen(
                ["sh", "-c", f"{enter} '{self.first}'"],
                env={**self._environment, "NOTIFY_SOCKET": str(folder / "booted")}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                while b"READY=1" not in booted.recv(4096).split(b"\n"):
                    pass
            except TimeoutError:
                self.close()
                pytest.skip("a user's systemd does not start here")
        # Its bus asks for the process of whoever calls (SO_PEERCRED), and one of other namespaces has no number there.
        child = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().strip()
        self._inside = ["nsenter", "-t", child, "-m", "-p"]

    def control(self, *words: str, check: bool = True) -> str:
        """What systemctl says."""
        done = subprocess.run(
            [*self._inside, "systemctl", *self.scope, "--no-pager", *words], env=self._environment, capture_output=True,
            text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done
        return done.stdout.strip()

    def shown(self, name: str) -> str:
        """One property of the service."""
        return self.control("show", "chat.service", "-P", name)

    def wait_for(self, name: str, wanted: str) -> None:
        """Until a property of the service is `wanted`."""
        deadline = time.monotonic() + SECONDS
        while (value := self.shown(name)) != wanted:
            assert time.monotonic() < deadline, f"{name} is {value}, not {wanted}"
            select.select([], [], [], 0.05)  # no event tells of it without D-Bus

    def connect(self) -> socket.socket:
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), SECONDS)

    def is_served(self) -> bool:
        with self.connect() as client:
            client.sendall(b"hello\n")
            return client.recv(100) == b"HELLO\n"

    def close(self) -> None:
        try:
            if self._inside:
                self.control("exit", check=False)
            self._process.wait(SECONDS / 4)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and with it all that runs in its namespaces
            self._process.wait(SECONDS)
        remove_group(self._group)


def make_group() -> Path:
    """A control group of version 2, which will be the root of the manager's own namespace of them."""
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (top / "cgroup.controllers").exists():
            path = top / f"jackfield-test-{os.getpid()}"
            path.mkdir()
            return path
    raise OSError(errno.ENOENT, "there is no cgroup2")


def remove_group(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    for folder in sorted((Path(name) for name, _, _ in os.walk(path)), reverse=True):
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:  # somebody is still on their way out
                assert time.monotonic() < deadline, f"{folder} is not empty: {(folder / 'cgroup.procs').read_text()}"
                select.select([], [], [], 0.02)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="jackfield-") as name:
        yield Path(name)


def skip_unless_possible() -> None:
    """Skips where no such manager can be started, and says why."""
    for program in (SYSTEMD, "systemctl", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine: install Debian's packages systemd and util-linux")
    if os.geteuid() != 0:
        pytest.skip("only root may make the namespaces and the control group for it")
    if Path(__file__).is_relative_to("/tmp"):
        pytest.skip("this checkout is below /tmp, which the units' PrivateTmp= hides")
    try:
        remove_group(make_group())
    except OSError as error:
        pytest.skip(f"no control group may be made here: {error.strerror}")


def in_systemd(folder: Path, *words: str, **changes: str) -> contextlib.AbstractContextManager[Manager]:
    """A manager of a server with these words on its command line, its units changed so."""
    skip_unless_possible()
    return _in_systemd(folder, words, changes)


@contextlib.contextmanager
def _in_systemd(folder: Path, words: tuple[str, ...], changes: dict[str, str]) -> Iterator[Manager]:
    (folder / "chat.py").write_text(TARGET)
    before = os.getcwd()
    os.chdir(folder)
    try:
        with port_to_bind() as port:
            units = units_of([*words, "-b", f"127.0.0.1:{port}"], name="chat")
            service = units["chat.service"]
            for line, instead in {"DynamicUser=yes": "", **changes}.items():
                assert service.count(f"{line}\n") == 1
                service = service.replace(line, instead)
            manager = Manager(folder, f"127.0.0.1:{port}", {**units, "chat.service": service})
            try:
                yield manager
            finally:
                manager.close()
    finally:
        os.chdir(before)


@pytest.mark.parametrize("mode", ["green", "thread", "process"])
def test_from_the_first_client_to_the_stop(mode: str, folder: Path) -> None:
    with in_systemd(folder, "chat:Chat", "-k", mode) as systemd:
        assert systemd.shown("ActiveState") == "inactive"
        assert systemd.is_served()
        systemd.wait_for("ActiveState", "active")
        assert systemd.shown("StatusText") == f"listening on tcp://{systemd.address}"
        pid = systemd.shown("MainPID")
        systemd.control("reload", "chat.service")
        systemd.wait_for("StatusText", f"listening on tcp://{systemd.address}; nothing to read again: no list of peers"
                                       " and no certificate is from a file")  # fmt: skip
        assert (systemd.shown("ActiveState"), systemd.shown("MainPID")) == ("active", pid)
        with systemd.connect() as client:
            client.sendall(b"work\n")
            assert client.recv(100) == b"at it\n"
            systemd.control("stop", "--no-block", "chat.service")
            systemd.wait_for("StatusText", "stopping: 1 connection may finish within 30s")
            assert systemd.shown("ActiveState") == "deactivating"
            assert client.recv(100) == b"WORK\n"
        systemd.wait_for("ActiveState", "inactive")
        assert (systemd.shown("Result"), systemd.shown("ExecMainStatus")) == ("success", "0")
        assert systemd.is_served()  # the socket is systemd's, and wakes it again
        assert systemd.shown("MainPID") != pid


def test_workers_live_there_as_well(folder: Path) -> None:
    with in_systemd(folder, "chat:Chat", "-k", "thread", "-w", "2", **{"WatchdogSec=30": "WatchdogSec=2"}) as systemd:
        assert systemd.is_served()
        systemd.wait_for("ActiveState", "active")
        pid = systemd.shown("MainPID")
        program = folder / "chat.py"
        program.write_text(program.read_text().replace("line.upper()", "line.lower()"))
        systemd.control("reload", "chat.service")
        deadline = time.monotonic() + SECONDS
        while systemd.is_served():  # until new workers, with the new program, have taken over
            assert time.monotonic() < deadline
        assert (systemd.shown("ActiveState"), systemd.shown("MainPID")) == ("active", pid)
        assert systemd.shown("NRestarts") == "0"
        systemd.control("stop", "chat.service")
        assert (systemd.shown("Result"), systemd.shown("ExecMainStatus")) == ("success", "0")


def test_nobody_is_lost_by_a_restart(folder: Path) -> None:
    with in_systemd(folder, "chat:Chat", "-k", "green") as systemd:
        assert systemd.is_served()
        for _ in range(3):
            pid = systemd.shown("MainPID")
            systemd.control("restart", "--no-block", "chat.service")
            deadline = time.monotonic() + SECONDS
            while systemd.shown("MainPID") in (pid, "0"):
                assert systemd.is_served()  # by the old one, or by the new one once it is there
                assert time.monotonic() < deadline
        systemd.wait_for("ActiveState", "active")


def test_one_that_was_killed_is_replaced_and_its_queue_served(folder: Path) -> None:
    with in_systemd(folder, "chat:Chat", "-k", "green") as systemd:
        assert systemd.is_served()
        pid = systemd.shown("MainPID")
        systemd.control("kill", "--kill-whom=main", "-s", "KILL", "chat.service")
        assert systemd.is_served()
        systemd.wait_for("NRestarts", "1")
        systemd.wait_for("ActiveState", "active")
        assert systemd.shown("MainPID") not in (pid, "0")


def test_one_that_hangs_is_found_by_the_watchdog(folder: Path) -> None:
    with in_systemd(folder, "chat:Chat", "-k", "green", **{"WatchdogSec=30": "WatchdogSec=1"}) as systemd:
        assert systemd.is_served()
        pid = systemd.shown("MainPID")
        started = systemd.shown("WatchdogTimestampMonotonic")
        systemd.wait_for("ActiveState", "active")
        deadline = time.monotonic() + SECONDS
        while systemd.shown("WatchdogTimestampMonotonic") == started:  # it is fed
            assert time.monotonic() < deadline
        with systemd.connect() as client:
            client.sendall(b"hang\n")
            assert client.recv(100) == b""  # killed
        systemd.wait_for("NRestarts", "1")
        assert systemd.is_served()
        assert systemd.shown("MainPID") != pid


def test_what_cannot_start_is_not_tried_again(folder: Path) -> None:
    for words, code in ((("no_such_module:Chat",), "3"), (("chat:Chat", "-k", "async"), "2")):
        place = folder / code
        place.mkdir()
        with in_systemd(place, *words) as systemd:
            systemd.control("start", "chat.service", check=False)
            systemd.wait_for("ActiveState", "failed")
            assert (systemd.shown("ExecMainStatus"), systemd.shown("NRestarts")) == (code, "0")


def test_the_sandbox_holds(folder: Path) -> None:
    """What the units say is really so, seen from inside the server."""
    with in_systemd(folder, "chat:Chat", "-k", "thread") as systemd:
        (folder / "chat.py").write_text(
            """
import jackfield, os, socket

def attempt(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)

class Chat(jackfield.BaseRequestHandler):
    def handle(self):
        status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        found = [
            status["NoNewPrivs"], status["CapEff"].strip("0"), status["CapBnd"].strip("0"), status["Seccomp"],
            attempt(lambda: open("/usr/x", "w")),
            attempt(lambda: socket.socket(socket.AF_NETLINK)),
            attempt(lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else os.chroot("/")),
            attempt(lambda: open(os.path.join(os.getcwd(), "x"), "w")),
            os.stat("/dev").st_dev == int(self.request.recv(100)),
        ]
        self.request.sendall(repr(found).encode())
"""
        )
        with systemd.connect() as client:
            client.sendall(b"%d" % os.stat("/dev").st_dev)
            said = client.recv(1000).decode()
        assert said == "['1', '', '', '2', 'OSError 30', 'OSError 97', 'PermissionError 1', 'OSError 30', False]"
