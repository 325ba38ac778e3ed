"""One server measured once, in each of the ways that the table has: start it, load it, check every reply, end it.

The server has one processor for itself and the load another. The figure for work is the server's own processor time,
which a busy machine disturbs least. A reply that is wrong or lost makes the run void: there is no figure then.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket as _socket_std
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import file_transfer
from build import program
from processes import Unable, Void, child, cpu_seconds, descriptors, has_native_part, memory, python, raise_limit

#: What a trial has found, by name.
Found = dict[str, float]

#: Seconds for a load to connect, and to end when its time is over.
SOON = 60.0

#: Descriptors that a process needs beside its connections.
SPARE = 100

#: Half of what the receive buffer has room for by default: net.core.rmem_default counts 832 bytes for each of these
#: datagrams, and room that was read empty is given back late, in quarters. So what gets lost, the server has lost.
UDP_SOCKETS, UDP_WINDOW = 8, 16

UDP_LOOK = 0.2
MESSAGE = 64
LARGE_MESSAGE = 65536


@dataclass(frozen=True)
class Setting:
    """What holds for a whole run of the command. ``most`` cuts the number of connections in every row."""

    seconds: float
    server_processor: int
    load_processor: int
    most: int = 1_000_000
    mib: float = 1024
    folder: str | None = None
    broken: str | None = None
    #: Of our own servers: those they have by default, or ``none``.
    limits: str = "default"
    _exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def few(self, connections: int) -> int:
        return min(connections, self.most)

    @cached_property
    def file(self) -> tuple[Path, str]:
        """The file that is transferred, and its digest; made when it is first needed."""
        size = int(self.mib * file_transfer.MIB)
        folder = self._exits.enter_context(
            tempfile.TemporaryDirectory(prefix="jackfield-", dir=self.folder or _roomy_folder(size))
        )
        path = Path(folder, "source")
        file_transfer.make_file(path, size)
        return path, file_transfer.digest(path)

    def close(self) -> None:
        self._exits.close()


def _roomy_folder(size: int) -> str | None:
    """Memory if it has room for the file and its copy, so that no disk is measured; None for the usual folder."""
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if os.access("/dev/shm", os.W_OK) and min(room.f_bavail * room.f_frsize, free) > 3 * size:
            return "/dev/shm"
    return None


# -- a server ----------------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    pid: int
    port: int


@contextlib.contextmanager
def _running(
    setting: Setting, name: str, *, connections: int, size: int = 1024, as_is: bool = False, datagrams: bool = False
) -> Iterator[Running]:
    """A server that has answered once."""
    command: list[object]
    if name in ("c", "c-batch"):
        if datagrams:
            command = [program("udp_limit"), *(["batch"] if name == "c-batch" else [])]
        else:
            command = [program("echo_limit"), size, "same" if as_is else "upper"]
    else:
        command = [*python("servers.py", name), "--connections", connections, "--size", size]
        command += ["--as-is"] if as_is else []
        command += ["--datagrams"] if datagrams else []
        command += ["--limits", setting.limits]
        command += ["--broken", setting.broken] if setting.broken and name == "async" else []
    pure = name.endswith("-pure")
    environment = {"JACKFIELD_PURE": "1"} if pure else {}
    with child(*command, processor=setting.server_processor, environment=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Void(f"{name} did not start; it says why above")
        running = Running(process.pid, int(line))
        (_first_datagram if datagrams else _first_exchange)(running.port)
        if pure and has_native_part(process.pid):
            raise Void("JACKFIELD_PURE=1 has not turned the native part off")
        yield running


def _first_exchange(port: int) -> None:
    """One exchange, so that the server has begun to serve before it is measured."""
    try:
        with _socket_std.create_connection(("127.0.0.1", port), SOON) as sock:
            sock.sendall(b"hello")
            answer = sock.recv(64)
    except OSError as error:
        raise Void(f"the first message was not answered: {error}") from None
    if answer.upper() != b"HELLO":
        raise Void(f"the first message was answered by {answer!r}")


def _first_datagram(port: int) -> None:
    with _socket_std.socket(_socket_std.AF_INET, _socket_std.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(UDP_LOOK)
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                sock.send(b"hello")
                if sock.recv(64) == b"HELLO":
                    return
    raise Void("the first datagram was not answered")


# -- a load ------------------------------------------------------------------------------------------------------------


def _checked(process: subprocess.Popen[str], text: str) -> dict[str, Any]:
    """The line of JSON that a load has ended with; Void if anything was wrong or lost."""
    if process.returncode or not text:
        raise Void("the load failed; it says why above")
    found: dict[str, Any] = json.loads(text)
    if found["wrong"] or found["lost"]:
        raise Void(f"{found['wrong']} wrong and {found['lost']} lost replies")
    return found


def _load(setting: Setting, name: str, *arguments: object) -> dict[str, Any]:
    """One of the C loads to its end."""
    with child(program(name), *arguments, processor=setting.load_processor) as process:
        text, _ = process.communicate(timeout=setting.seconds + SOON)
    found = _checked(process, text)
    if not found["requests"]:
        raise Void("no request was answered in time")
    return found


def _work(setting: Setting, server: Running, name: str, *arguments: object) -> Found:
    """A load, and the processor time that each of its requests has cost the server."""
    before = cpu_seconds(server.pid)
    found = _load(setting, name, server.port, *arguments)
    spent = cpu_seconds(server.pid) - before
    return {**found, "cpu_us": spent * 1e6 / found["requests"], "native": has_native_part(server.pid)}


@contextlib.contextmanager
def _held(setting: Setting, server: Running, connections: int) -> Iterator[None]:
    """So many connections that are open and do nothing. Void if one of them was answered wrongly or lost."""
    command = (program("hold"), server.port, connections)
    with child(*command, processor=setting.load_processor, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        if not process.stdout.readline():
            raise Void("the connections could not be made; it says why above")
        yield
        process.stdin.close()
        text = process.stdout.read()
        process.wait(SOON)
        _checked(process, text)


def _needs_descriptors(connections: int) -> None:
    if (limit := raise_limit()) < connections + SPARE:
        raise Unable(f"{connections + SPARE:,} descriptors are needed, and the hard limit is {limit:,} (ulimit -Hn)")


# -- the trials --------------------------------------------------------------------------------------------------------


def echo(setting: Setting, name: str, *, connections: int) -> Found:
    """Messages of 64 bytes, one on its way on each connection."""
    _needs_descriptors(connections)
    with _running(setting, name, connections=connections) as server:
        return _work(setting, server, "echo_load", connections, setting.seconds, MESSAGE, "upper")


def large(setting: Setting, name: str, *, connections: int) -> Found:
    """Messages of 64 KiB that are sent back as they came: changing the case of each byte would cost more than moving
    it, and be all that is measured."""
    with _running(setting, name, connections=connections, size=LARGE_MESSAGE, as_is=True) as server:
        found = _work(setting, server, "echo_load", connections, setting.seconds, LARGE_MESSAGE, "same")
        return {**found, "mib_per_second": found["per_second"] * LARGE_MESSAGE / file_transfer.MIB}


def churn(setting: Setting, name: str, *, connections: int) -> Found:
    """Connect, one exchange, close."""
    with _running(setting, name, connections=connections) as server:
        return _work(setting, server, "churn_load", connections, setting.seconds)


def udp(setting: Setting, name: str) -> Found:
    """Datagrams of 64 bytes, several on their way from each socket."""
    sockets = setting.few(UDP_SOCKETS)
    with _running(setting, name, connections=0, datagrams=True) as server:
        return _work(setting, server, "udp_load", sockets, setting.seconds, MESSAGE, UDP_WINDOW)


def idle_memory(setting: Setting, name: str, *, connections: int) -> Found:
    """What a server's memory grows by for each connection that had one exchange and waits for the next."""
    _needs_descriptors(connections)
    with _running(setting, name, connections=connections) as server:
        with _held(setting, server, setting.few(16)):
            pass  # what a server has only once, it has now
        before = memory(server.pid)
        with _held(setting, server, connections):
            grown = memory(server.pid) - before
        return {"kib": grown / 1024 / connections, "native": has_native_part(server.pid)}


def beside_idle(setting: Setting, name: str, *, busy: int, idle: int) -> Found:
    """What a request costs beside many connections that do nothing, as a ratio to the same server without them."""
    _needs_descriptors(busy + idle)
    with _running(setting, name, connections=busy + idle) as server:
        arguments = ("echo_load", busy, setting.seconds, MESSAGE, "upper")
        alone = _work(setting, server, *arguments)
        with _held(setting, server, idle):
            held = descriptors(server.pid)
            beside = _work(setting, server, *arguments)
        if held < idle:
            raise Void(f"only {held} of {idle} idle connections were open")
        return {**beside, "alone_cpu_us": alone["cpu_us"], "ratio": beside["cpu_us"] / alone["cpu_us"]}


def fairness(setting: Setting, name: str, *, askers: int) -> Found:
    """How long those wait who ask seldom beside one connection that always has data, as a ratio to without it."""
    with _running(setting, name, connections=askers + 1) as server:
        alone = _load(setting, "fair_load", server.port, askers, setting.seconds, "alone")
        beside = _load(setting, "fair_load", server.port, askers, setting.seconds, "flood")
        return {
            "alone_p99_us": alone["p99_us"],
            "p99_us": beside["p99_us"],
            "ratio": beside["p99_us"] / alone["p99_us"],
            "flood_mib_per_second": beside["flood_bytes"] / file_transfer.MIB / setting.seconds,
            "native": has_native_part(server.pid),
        }


def file(setting: Setting, name: str) -> Found:
    """A large file from one process to another, compared with what it was."""
    path, expected = setting.file
    placed = (setting.server_processor, setting.load_processor)
    found = file_transfer.transfer(name, path, expected, path.with_name("target"), processors=placed)
    if not found["same"]:
        raise Void("the file did not arrive as it was")
    return {"seconds": found["seconds"], "mib_per_second": setting.mib / found["seconds"]}
