"""What a service manager is told, to a socket that is one: every message, and that nothing of it can hold a server."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jackfield import BaseRequestHandler, Server
from jackfield.errors import StartError
from jackfield.supervisor import notify
from jackfield.supervisor.notify import PATIENCE, Notifier, ReadyDescriptor
from jackfield.supervisor.pulse import Pulse

SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""


class Manager:
    """The socket of a service manager."""

    def __init__(self, path: str) -> None:
        self.address = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path.replace("@", "\0", 1) if path.startswith("@") else path)
        self.socket.settimeout(SECONDS)

    def heard(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(4096).decode().split("\n")

    @property
    def is_quiet(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@jackfield-test-{os.getpid()}")
    with made.socket:
        yield made


def test_each_message_is_what_the_manual_says(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    assert notifier
    told: list[tuple[Callable[[], bool], list[str]]] = [
        (notifier.ready, ["READY=1"]),
        (lambda: notifier.ready("listening on tcp://[::1]:9"), ["READY=1", "STATUS=listening on tcp://[::1]:9"]),
        (notifier.stopping, ["STOPPING=1"]),
        (lambda: notifier.stopping("stopping: ü"), ["STOPPING=1", "STATUS=stopping: ü"]),
        (lambda: notifier.status("well"), ["STATUS=well"]),
        (lambda: notifier.main_pid(77), ["MAINPID=77"]),
        (notifier.alive, ["WATCHDOG=1"]),
    ]
    for tell, lines in told:
        assert tell()
        assert manager.heard() == lines
    before = time.monotonic_ns() // 1000
    assert notifier.reloading("reloading")
    first, clock, status = manager.heard()
    assert (first, status) == ("RELOADING=1", "STATUS=reloading")
    assert before <= int(clock.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_status_is_one_line_and_not_too_long(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.status("a\nMAINPID=1\x00\x1b[2J\u2028b")
    assert manager.heard() == ["STATUS=a MAINPID=1  [2J b"]
    notifier.status("x" * 10_000)
    (line,) = manager.heard()
    assert line == "STATUS=" + "x" * 1000
    assert not notifier.status("") and manager.is_quiet


def test_the_environment_is_read_and_taken_out(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    environment["PATH"] = "/bin"
    notifier = Notifier.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.ready() and manager.heard() == ["READY=1"]
    assert notifier.watchdog == 3.0


def test_the_environment_of_the_process_is_the_default(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    assert Notifier.from_environment()
    assert "NOTIFY_SOCKET" not in os.environ


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("500000", None, 0.5),
        ("1", "ours", 0.000001),
        ("500000", "1", None),  # another process's
        ("500000", "x", None),
        (None, "ours", None),
        (str(2**64 - 2), None, (2**64 - 2) / 1e6),
    ],
)
def test_whose_watchdog_it_is(usec: str | None, pid: str | None, seconds: float | None) -> None:
    environment = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid()) if pid == "ours" else pid}
    given = {name: value for name, value in environment.items() if value is not None}
    assert Notifier.from_environment(given).watchdog == seconds
    assert given == {}


@pytest.mark.parametrize("usec", ["0", "-1", "", "1.5", "1e3", "\u0661", str(2**64 - 1), "9" * 5000])
def test_a_watchdog_that_cannot_be_meant_is_none(usec: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Notifier.from_environment({"WATCHDOG_USEC": usec}).watchdog is None
    (record,) = caplog.records
    assert record.getMessage().startswith("WATCHDOG_USEC=") and "not fed" in record.getMessage()


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative", "@", "/a\0b"])
def test_an_address_that_cannot_be_reached_is_told_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(address)
    assert not notifier and not notifier.ready() and not notifier.ready()
    assert len(caplog.records) == 1 and "is not told" in caplog.text


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_manager_nothing_is_opened(
    address: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(notify._socket_std, "socket", refuse)
    notifier = Notifier(address)
    assert not notifier and not notifier.ready("x") and not notifier.alive() and not notifier.stopping()
    assert not caplog.records
    with pytest.raises(AssertionError, match="a socket was opened"):  # so it would have been seen
        Notifier("/somewhere").ready()


def test_a_manager_that_has_gone_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "notify")
    notifier = Notifier(path)
    with Manager(path).socket:
        assert notifier.ready()
    for _ in range(3):
        assert not notifier.alive()
    os.unlink(path)
    assert not notifier.alive()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and path in record.getMessage() and "\n" not in record.getMessage()
    back = Manager(path)
    with back.socket:
        assert notifier.alive() and back.heard() == ["WATCHDOG=1"]
    os.unlink(path)
    assert not notifier.alive() and len(caplog.records) == 2  # it went well in between


def test_a_manager_that_does_not_read_holds_nobody(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    sent = 0
    while notifier.alive():
        sent += 1
        assert sent < 100_000, "the queue has no end"
    began = time.monotonic()
    assert not notifier.alive()
    assert time.monotonic() - began < PATIENCE / 2
    assert not notifier.stopping()
    assert time.monotonic() - began < PATIENCE * 10
    # What must not be lost waits a moment for room.
    reader = threading.Thread(target=manager.heard)
    reader.start()
    assert notifier.ready()
    reader.join(SECONDS)


# --- readiness on a descriptor ----------------------------------------------------------------------------------------


def inheritable_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.set_inheritable(reading, True)
    return reading, writing


def test_a_newline_and_then_the_end() -> None:
    reading, writing = inheritable_pipe()
    descriptor = ReadyDescriptor(writing)
    assert not os.get_inheritable(writing)
    assert not select.select([reading], [], [], 0)[0]
    descriptor.ready()
    descriptor.ready()
    assert os.read(reading, 100) == b"\n" and os.read(reading, 100) == b""
    os.close(reading)


def test_who_was_never_ready_says_nothing() -> None:
    reading, writing = inheritable_pipe()
    descriptor = ReadyDescriptor(writing)
    descriptor.close()
    descriptor.close()
    descriptor.ready()
    assert os.read(reading, 100) == b""
    os.close(reading)


def test_a_reader_that_has_gone_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = inheritable_pipe()
    descriptor = ReadyDescriptor(writing)
    os.close(reading)
    descriptor.ready()
    assert not caplog.records
    with socket.socket(socket.AF_UNIX) as unconnected:
        unconnected.set_inheritable(True)
        descriptor = ReadyDescriptor(unconnected.fileno())
        unconnected.detach()
        descriptor.ready()
    assert "cannot write to it" in caplog.text


def test_descriptors_that_are_refused() -> None:
    ReadyDescriptor().ready()  # none
    reading, writing = inheritable_pipe()
    own = os.dup(writing)  # close-on-exec: nobody can have passed it
    closed = os.dup(writing)
    os.close(closed)
    for number, said in (
        (0, "0, 1 and 2 are input, output and errors"),
        (closed, f"no such descriptor is open; pass it on, e.g. --ready-fd {closed} {closed}>ready"),
        (2**31, "no such descriptor is open"),
        (own, "no such descriptor is open"),
        (reading, "open for reading only"),
    ):
        with pytest.raises(StartError, match=re.escape(said)) as caught:
            ReadyDescriptor(number)
        assert str(caught.value).startswith(f"--ready-fd {number}: ") and "\n" not in str(caught.value)
    for number in (reading, writing, own):
        os.close(number)


# --- the watchdog -----------------------------------------------------------------------------------------------------


class Turning:
    """A server whose loop turns when it is told to."""

    def __init__(self) -> None:
        self.state = "serving"
        self.fd = -1

    def also_watch(self, fd: int, then: Callable[[], object]) -> None:
        self.fd, self.then = fd, then

    def turn(self) -> None:
        """Wait for a question, and answer it."""
        assert select.select([self.fd], [], [], SECONDS)[0], "nobody asks"
        os.read(self.fd, 100)
        self.then()


class Beats:
    """Counts, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.count = 0
        self._came = threading.Condition()

    def __call__(self) -> None:
        with self._came:
            self.count += 1
            self._came.notify_all()

    def wait_for_more(self, seconds: float = SECONDS) -> bool:
        with self._came:
            before = self.count
            return self._came.wait_for(lambda: self.count > before, seconds)


def test_it_beats_when_all_have_turned_and_not_before() -> None:
    one, other, beats = Turning(), Turning(), Beats()
    pulse = Pulse([one, other], 0.01, beats)
    pulse.start()
    one.turn()
    one.turn()
    assert beats.count == 0  # the other has not
    other.turn()
    assert beats.count == 1
    other.turn()
    assert beats.count == 1
    one.turn()
    assert beats.count == 2
    other.state = "stopped"  # it is not asked for any more
    one.turn()
    one.turn()
    assert beats.count == 4
    pulse.close()
    pulse.close()


def test_a_loop_that_does_not_turn_fills_no_memory_and_ends_with_the_rest() -> None:
    hung, beats = Turning(), Beats()
    pulse = Pulse([hung], 0.00001, beats)
    room = fcntl.fcntl(hung.fd, fcntl.F_SETPIPE_SZ, 4096)
    pulse.start()
    deadline = time.monotonic() + SECONDS
    while int.from_bytes(fcntl.ioctl(hung.fd, termios.FIONREAD, b"\0" * 4), sys.byteorder) < room:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)  # nothing tells of a pipe that is full
    hung.turn()  # it still asks, and hears
    assert beats.count == 1
    hung.turn()
    assert beats.count == 2
    pulse.close()


class Holding(BaseRequestHandler[Any]):
    """Holds its thread until it is let go."""

    let_go: threading.Event
    holds: threading.Event

    def handle(self) -> None:
        self.holds.set()
        self.let_go.wait(SECONDS)


@pytest.mark.parametrize("mode", ["green", "thread"])
def test_a_real_server_beats_while_its_loop_turns(mode: str) -> None:
    Holding.let_go, Holding.holds, beats = threading.Event(), threading.Event(), Beats()
    server = Server(Holding, "tcp://127.0.0.1:0", mode=mode)
    pulse = Pulse([server], 0.02, beats)
    with server:
        pulse.start()
        assert beats.wait_for_more() and beats.wait_for_more()
        with socket.create_connection(server.server_address, SECONDS):
            assert Holding.holds.wait(SECONDS)
            if mode == "thread":
                assert beats.wait_for_more() and beats.wait_for_more()
            else:
                # The handler holds the loop of all: a thread of its own would have gone on beating.
                while beats.wait_for_more(0.001):  # one that was under way
                    pass
                assert not beats.wait_for_more(0.3)
            Holding.let_go.set()
            assert beats.wait_for_more()
    pulse.close()
