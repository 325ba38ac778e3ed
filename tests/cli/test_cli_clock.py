"""The machine's clock is set forward and back by an hour, under way: deadlines are of another clock, and do not care.

What a process reads as the time of day comes from a library that is loaded before the C library (ld.so(8), LD_PRELOAD),
and adds to it what stands in a file. What counts seconds (CLOCK_MONOTONIC), it leaves alone, as setting the clock does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS

pytestmark = pytest.mark.slow

HOUR = 3600.0

SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *shift;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_SHIFT");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *memory = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED)
        shift = memory;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += (time_t)*shift;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}
"""

APP = """
import asyncio, time
import jackfield

class Handler(jackfield.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "now":
                self.wfile.write(f"{time.time()}\\n".encode())
                continue
            end = time.time() + float(rest or 0)
            self.wfile.write(b"begun\\n")
            if word == "work":
                jackfield.sleep(float(rest))
            elif word == "wall":                    # as nobody should wait
                while time.time() < end:
                    jackfield.sleep(0.01)
            elif word == "hang":
                jackfield.sleep(1e6)
            self.wfile.write(b"done\\n")

class AsyncHandler(jackfield.AsyncStreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "now":
                await self.wfile.write(f"{time.time()}\\n".encode())
                continue
            end = time.time() + float(rest or 0)
            await self.wfile.write(b"begun\\n")
            if word == "work":
                await asyncio.sleep(float(rest))
            elif word == "wall":
                while time.time() < end:
                    await asyncio.sleep(0.01)
            elif word == "hang":
                await asyncio.sleep(1e6)
            await self.wfile.write(b"done\\n")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine: install Debian's packages gcc and libc6-dev")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", folder / "clock.so", folder / "clock.c"], check=True)
    return folder / "clock.so"


class Shifted:
    """A server with a clock that can be set."""

    def __init__(self, shim: Path, folder: Path, mode: str, *words: str) -> None:
        self._shift = folder / "shift"
        self.set(0.0)
        (folder / "chat.py").write_text(APP)
        self.log = folder / "log"
        target = "chat:AsyncHandler" if mode == "async" else "chat:Handler"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", target, "-k", mode, "-b", "127.0.0.1:0", *words], stdin=subprocess.DEVNULL,
                stderr=log, cwd=folder,
                env={**ENVIRONMENT, "LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(self._shift)},
            )  # fmt: skip
        try:
            self._wait_for(r'Ready in|"event": "ready"')
        except BaseException:
            self.end()
            raise
        found = re.search(r"tcp://127\.0\.0\.1:(\d+)", self.log.read_text())
        assert found
        self._port = int(found[1])

    def _wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.log.read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def set(self, seconds: float) -> None:
        """So much later than it is."""
        with open(self._shift, "r+b" if self._shift.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    def client(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), SECONDS)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture(params=["thread", "process", "green", "async"])
def shifted(request: pytest.FixtureRequest, shim: Path, tmp_path: Path) -> Iterator[Shifted]:
    server = Shifted(shim, tmp_path, request.param, "-w", "1", "--worker-timeout", "1s", "--idle-timeout", "2s",
                     "--graceful-timeout", "1s", "--log-format", "json")  # fmt: skip
    try:
        yield server
    finally:
        server.end()


def ask(client: socket.socket, line: str) -> bytes:
    client.sendall(line.encode() + b"\n")
    return client.recv(100)


def test_the_time_of_day_is_what_is_set(shim: Path, tmp_path: Path) -> None:
    """The seam works: whoever waits by the time of day does wait too long, or not at all."""
    server = Shifted(shim, tmp_path, "green", "-w", "1")
    try:
        with server.client() as client:
            for shift in (0.0, HOUR, -HOUR):
                server.set(shift)
                assert abs(float(ask(client, "now")) - time.time() - shift) < 60
            assert ask(client, "wall 1800") == b"begun\n"
            server.set(0.0)
            assert client.recv(100) == b"done\n", "half an hour has gone by in no time"
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
    finally:
        server.end()


def test_deadlines_do_not_care(shifted: Shifted) -> None:
    with shifted.client() as working, shifted.client() as idle:
        assert ask(working, "now")
        began = time.monotonic()
        assert ask(working, "work 1.5") == b"begun\n"
        since_idle = time.monotonic()
        assert ask(idle, "now")
        shifted.set(HOUR)
        assert working.recv(100) == b"done\n"
        assert 1.4 < time.monotonic() - began
        shifted.set(-HOUR)  # two hours back, in the midst of the idle time
        assert idle.recv(100) == b""
        assert 1.9 < time.monotonic() - since_idle < 10
    with shifted.client() as stuck:
        assert ask(stuck, "hang") == b"begun\n"
        began = time.monotonic()
        shifted.process.send_signal(signal.SIGTERM)
        shifted.set(HOUR)
        try:
            rest = stuck.recv(100)
        except ConnectionResetError:
            rest = b""
        assert rest == b"" and 0.9 < time.monotonic() - began < 10
    assert shifted.process.wait(SECONDS) == 0
    log = shifted.log.read_text()
    assert "sign of life" not in log and "Traceback" not in log, log
    # Stamps of the log are of the time of day, whatever it is.
    stamps = re.findall(r'"time": "\d+-\d+-\d+T(\d+):', log)
    assert len(set(stamps)) > 1, log


def test_a_reload_and_a_killed_worker_do_not_care(shim: Path, tmp_path: Path) -> None:
    server = Shifted(shim, tmp_path, "thread", "-w", "2", "--worker-timeout", "1s", "-v")
    try:
        for shift in (HOUR, -HOUR, 0.0):
            server.set(shift)
            count = server.log.read_text().count("the reload is done")
            os.kill(server.process.pid, signal.SIGHUP)
            deadline = time.monotonic() + SECONDS
            while server.log.read_text().count("the reload is done") == count:
                assert time.monotonic() < deadline, server.log.read_text()
                time.sleep(0.01)
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            with server.client() as client:
                assert ask(client, "now")
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
        assert "sign of life" not in server.log.read_text()
    finally:
        server.end()


def test_python_itself_has_the_other_clock(shim: Path, tmp_path: Path) -> None:
    """Monotonic seconds are left alone by the library, as by the kernel."""
    (tmp_path / "shift").write_bytes(struct.pack("d", HOUR))
    code = "import time; print(time.monotonic(), time.time())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS,
        env={**ENVIRONMENT, "LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(tmp_path / "shift")},
    )  # fmt: skip
    monotonic, wall = map(float, done.stdout.split())
    assert abs(monotonic - time.monotonic()) < 60 and abs(wall - HOUR - time.time()) < 60
