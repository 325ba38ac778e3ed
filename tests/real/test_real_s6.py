"""s6 that is real: s6-svscan keeps the server as docs/running.md says, and hears from it when it is ready."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_support import SECONDS

from ports import port_to_bind

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "running.md"

#: What s6's commands may wait, in milliseconds.
PATIENCE = str(int(SECONDS * 900))

TARGET = """
import os, time
import jackfield

while os.path.exists("slow"):    # a target that takes its time to load
    time.sleep(0.01)

class Handler(jackfield.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
"""


class Scan:
    """s6-svscan over one service."""

    def __init__(self, folder: Path, run: str) -> None:
        self.service = folder / "scan" / "chat"
        self.service.mkdir(parents=True)
        (self.service / "chat.py").write_text(TARGET)
        (self.service / "notification-fd").write_text("3\n")
        (self.service / "run").write_text(run)
        (self.service / "run").chmod(0o755)
        self._log = open(folder / "log", "wb")
        # The command that the docs name is that of the environment that the tests run in.
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._process = subprocess.Popen(
            ["s6-svscan", folder / "scan"], env=environment, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=self._log,
        )  # fmt: skip

    def told(self, *words: str) -> int:
        """The exit code of one of s6's commands for the service."""
        command, *options = words
        return subprocess.run([command, *options, self.service], timeout=SECONDS, capture_output=True).returncode

    def wait_until_supervised(self) -> None:
        """Commands need a supervisor of the service."""
        deadline = time.monotonic() + SECONDS
        while self.told("s6-svok"):
            assert time.monotonic() < deadline and self._process.poll() is None
            select.select([], [], [], 0.02)

    @property
    def pid(self) -> int:
        shown = subprocess.run(
            ["s6-svstat", "-o", "pid", self.service], timeout=SECONDS, capture_output=True, text=True, check=True
        )
        return int(shown.stdout)

    def close(self) -> None:
        subprocess.run(["s6-svscanctl", "-t", self.service.parent], timeout=SECONDS, check=False)
        try:
            self._process.wait(SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._log.close()


@pytest.fixture
def scan(tmp_path: Path) -> Iterator[tuple[Scan, int]]:
    """The service of the docs, on a port of this test's."""
    for program in ("s6-svscan", "s6-svwait", "execlineb"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine: install Debian's packages s6 and execline")
    found = re.search(r"```text\n(#!/bin/execlineb -P\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert found, "the docs have a run script"
    run = found[1].replace("#!/bin/execlineb", f"#!{shutil.which('execlineb')}")
    with port_to_bind() as port:
        assert "-b :9999" in run
        with contextlib.closing(Scan(tmp_path, run.replace("-b :9999", f"-b 127.0.0.1:{port}"))) as service:
            service.wait_until_supervised()
            yield service, port


def is_served(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        client.sendall(b"hello\n")
        return client.recv(100) == b"HELLO\n"


def test_it_is_ready_when_it_says_so_and_no_earlier(scan: tuple[Scan, int]) -> None:
    service, port = scan
    assert service.told("s6-svwait", "-U", "-t", PATIENCE) == 0
    assert is_served(port)
    slow = service.service / "slow"
    slow.touch()
    assert service.told("s6-svc", "-wD", "-T", PATIENCE, "-d") == 0
    assert service.told("s6-svc", "-u") == 0
    assert service.told("s6-svwait", "-u", "-t", PATIENCE) == 0, "it is up"
    assert service.told("s6-svwait", "-U", "-t", "500") != 0, "and not ready while its target loads"
    slow.unlink()
    assert service.told("s6-svwait", "-U", "-t", PATIENCE) == 0
    assert is_served(port)


def test_one_that_was_killed_is_there_again(scan: tuple[Scan, int]) -> None:
    service, port = scan
    assert service.told("s6-svwait", "-U", "-t", PATIENCE) == 0
    pid = service.pid
    assert service.told("s6-svc", "-k") == 0
    deadline = time.monotonic() + SECONDS
    while service.pid in (pid, -1):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
    assert service.told("s6-svwait", "-U", "-t", PATIENCE) == 0
    assert is_served(port)


def test_it_stops_in_order_when_it_is_told_to(scan: tuple[Scan, int]) -> None:
    service, port = scan
    assert service.told("s6-svwait", "-U", "-t", PATIENCE) == 0
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        client.sendall(b"half a ")
        assert service.told("s6-svc", "-d") == 0
        client.sendall(b"line\n")
        assert client.recv(100) == b"HALF A LINE\n", "what is under way is finished"
    assert service.told("s6-svwait", "-D", "-t", PATIENCE) == 0
    shown = subprocess.run(["s6-svstat", "-o", "exitcode,signal", service.service], capture_output=True, text=True,
                           check=True, timeout=SECONDS)  # fmt: skip
    assert shown.stdout.split() == ["0", "NA"]
