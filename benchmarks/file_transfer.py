"""A large file from one process to another by ``sendfile`` and ``recvfile``: the same bytes, flat memory, how fast.

    python benchmarks/file_transfer.py                     256 MiB: threads, green threads, coroutines, a plain loop
    python benchmarks/file_transfer.py --mib 8

Sender and receiver are processes of their own on a TCP connection over loopback. ``loop`` is what one writes without
these calls, a loop of ``recv`` and ``write`` on the standard library's sockets; the other speeds are given as a ratio
to it, of the same run; ``run.py`` compares with a C program instead. Prints one line of JSON; exit status 1 if a file
did not arrive as it was, or if a process grew by more than the bound while it moved it. The memory of a process is what
proc(5) calls its resident set: at most, while it ran, less what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import platform
import socket as _socket_std
import socketserver as _socketserver_std
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from build import program
from processes import Void, child, python

import jackfield
from jackfield import socket, socketserver
from jackfield.connecting import async_connect
from jackfield.streams import AsyncSocket

MIB = 1 << 20

#: Bytes of one step of the plain loop.
CHUNK = 65536

#: Seconds that one transfer may take, and a process to start or end.
SOON = 60.0

WAYS = ("thread", "green", "async", "loop")


# -- memory ------------------------------------------------------------------------------------------------------------


class Growth:
    """How much this process has grown at most, in KiB, since this was made."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # refused in some containers: then the peak of before counts as well
            Path("/proc/self/clear_refs").write_text("5")  # the peak is the present again (proc(5))
        self._before = _status("VmRSS")

    def kib(self) -> int:
        return max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(f"/proc/self/status has no {name}")


# -- the receiver ------------------------------------------------------------------------------------------------------


def by_recvfile(sock: Any, file: IO[bytes]) -> None:
    sock.recvfile(file)


def by_loop(sock: Any, file: IO[bytes]) -> None:
    while data := sock.recv(CHUNK):
        file.write(data)


def by_memory(sock: Any, file: IO[bytes]) -> None:
    """Broken: all of it in memory first."""
    parts = []
    while data := sock.recv(CHUNK):
        parts.append(data)
    file.write(b"".join(parts))


def by_recvfile_and_a_slip(sock: Any, file: IO[bytes]) -> None:
    """Broken: one byte is another."""
    sock.recvfile(file)
    file.seek(12345)
    file.write(b"?")


BROKEN = {"memory": by_memory, "byte": by_recvfile_and_a_slip}


class Receiver(socketserver.StreamRequestHandler[Any]):
    """Receives into the server's file until the peer ends its side, and says how much its process has grown."""

    receive: Callable[[Any, IO[bytes]], None]
    path: str

    def handle(self) -> None:
        growth = Growth()
        with open(self.path, "wb") as file:
            type(self).receive(self.connection, file)
        self.wfile.write(b"%d\n" % growth.kib())


class AsyncReceiver(socketserver.AsyncStreamRequestHandler[Any]):
    """The same as a coroutine."""

    path: str

    async def handle(self) -> None:
        growth = Growth()
        with open(self.path, "wb") as file:
            await self.request.recvfile(file)
        await self.wfile.write(b"%d\n" % growth.kib())


SERVERS: dict[str, Any] = {
    "thread": socketserver.ThreadingTCPServer,
    "green": socketserver.GreenTCPServer,
    "async": socketserver.AsyncTCPServer,
    "loop": _socketserver_std.ThreadingTCPServer,
}


def serve(way: str, path: str, broken: str) -> None:
    """Receive one file; the port goes to standard output."""
    AsyncReceiver.path = Receiver.path = path
    Receiver.receive = BROKEN[broken] if broken else by_loop if way == "loop" else by_recvfile
    handler: Any = Receiver
    if way == "async":
        way, handler = ("green", Receiver) if broken else ("async", AsyncReceiver)
    with SERVERS[way](("127.0.0.1", 0), handler) as server:
        print(server.server_address[1], flush=True)
        server.handle_request()


# -- the sender --------------------------------------------------------------------------------------------------------


def send(way: str, path: str, port: int) -> None:
    """Send one file, wait until the other side has it; seconds, and what either side has grown, to standard output."""
    connect: Any = _socket_std.create_connection if way == "loop" else socket.create_connection
    with connect(("127.0.0.1", port)) as sock, open(path, "rb") as file:
        growth = Growth()
        started = time.monotonic()
        if way == "loop":
            while data := file.read(CHUNK):
                sock.sendall(data)
        else:
            sock.sendfile(file)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as answer:
            receiver = answer.readline()
        tell(time.monotonic() - started, growth, receiver)


async def send_async(path: str, port: int) -> None:
    """The same as a coroutine."""
    sock = AsyncSocket(await async_connect(("127.0.0.1", port)))
    with contextlib.closing(sock), open(path, "rb") as file:
        growth = Growth()
        started = time.monotonic()
        await sock.sendfile(file)
        sock.shutdown(socket.SHUT_WR)
        receiver = await sock.recv(100)
        tell(time.monotonic() - started, growth, receiver)


def tell(seconds: float, growth: Growth, receiver: bytes) -> None:
    """What ``transfer`` reads."""
    grown = {"sender_growth_kib": growth.kib(), "receiver_growth_kib": int(receiver)}
    print(json.dumps({"seconds": seconds, **grown}))


# -- the run -----------------------------------------------------------------------------------------------------------


def make_file(path: Path, size: int) -> None:
    """A file in which no two blocks are alike."""
    with path.open("wb") as file:
        for index in range(-(-size // MIB)):
            block = hashlib.shake_128(b"%d" % index).digest(MIB)
            file.write(block[: min(MIB, size - index * MIB)])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def transfer(
    way: str,
    source: Path,
    expected: str,
    target: Path,
    *,
    broken: str | None = None,
    processors: tuple[int | None, int | None] = (None, None),
) -> dict[str, Any]:
    """The file once, by one of WAYS or ``c``; what came of it. ``processors``: the receiver's and the sender's."""
    at_receiver, at_sender = processors
    if way == "c":
        receive = [program("file_limit"), "receive", target]
        deliver = [program("file_limit"), "send", source]
    else:
        receive = [*python("file_transfer.py", "serve", way, target, broken or "")]
        deliver = [*python("file_transfer.py", "send", way, source)]
    with child(*receive, processor=at_receiver) as receiver:
        assert receiver.stdout is not None
        line = receiver.stdout.readline()
        if not line:
            raise Void(f"the receiver ({way}) did not start; it says why above")
        with child(*deliver, int(line), processor=at_sender) as sender:
            output, _ = sender.communicate(timeout=SOON)
        receiver.wait(SOON)
    if sender.returncode or receiver.returncode:
        raise Void(f"the transfer ({way}) failed; it says why above")
    found: dict[str, Any] = {"way": way, **json.loads(output), "same": digest(target) == expected}
    target.unlink()
    return found


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each way a number of times, in turns; of each the best time and the worst growth."""
    size = int(options.mib * MIB)
    with tempfile.TemporaryDirectory(prefix="jackfield-", dir=options.folder) as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        make_file(source, size)
        expected = digest(source)
        runs = [
            transfer(way, source, expected, target, broken=options.broken if way != "loop" else None)
            for _ in range(options.rounds)
            for way in WAYS
        ]
    best: dict[str, float] = {way: min(run["seconds"] for run in runs if run["way"] == way) for way in WAYS}
    results = []
    for way in WAYS:
        mine = [run for run in runs if run["way"] == way]
        grown = [max(run[f"{side}_growth_kib"] for run in mine) for side in ("sender", "receiver")]
        results.append(
            {
                "way": way,
                "same": all(run["same"] for run in mine),
                "seconds": round(best[way], 3),
                "mib_per_second": round(size / MIB / best[way]),
                "ratio_to_loop": round(best["loop"] / best[way], 2),
                "sender_growth_kib": grown[0],
                "receiver_growth_kib": grown[1],
                "flat": max(grown) < options.growth_mib * 1024,
            }
        )
    return results


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:5])
        return 0
    if sys.argv[1:2] == ["send"]:
        way, path, port = sys.argv[2], sys.argv[3], int(sys.argv[4])
        if way == "green":
            jackfield.run(send, way, path, port)
        elif way == "async":
            asyncio.run(send_async(path, port))
        else:
            send(way, path, port)
        return 0
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=float, default=256, help="the size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, in turns; the best time counts")
    parser.add_argument("--growth-mib", type=float, default=16, help="what a process may grow at most")
    parser.add_argument("--folder", help="where the file and its copy lie; the folder for temporary files by default")
    parser.add_argument("--broken", choices=BROKEN, help="a receiver that does it wrong: shows that it is found")
    options = parser.parse_args()
    try:
        results = measure(options)
    except Void as error:
        raise SystemExit(str(error)) from None
    ok = all(result["same"] and result["flat"] for result in results)
    print(
        json.dumps(
            {
                "benchmark": "file_transfer",
                "python": platform.python_version(),
                "bytes": int(options.mib * MIB),
                "ways": results,
                "ok": ok,
            }
        )
    )
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
