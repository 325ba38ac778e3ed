"""A program with workers: ``python supervised_program.py MODE OPTIONS``; its tests talk to it and send it signals.

OPTIONS is JSON: what a Supervisor takes, and ``plan``, the path of a file that says what becomes of the workers that
begin from then on: ``serve``, ``raise``, ``hang`` while it loads, ``die`` right after it is ready, ``late``: only once
the file says something else; a number after it is the server's ``graceful_timeout``. ``addresses`` are where it
listens, each with a server of its own. ``leak`` is how many KiB a process keeps of each client.

It prints its addresses when it is ready, and what came of it at the end. A client sends a line and gets an answer:

=================  ====================================================================================
``pid``            the process that serves this client
``say TEXT``       TEXT
``work SECONDS``   ``begun`` and, so much later, ``done PID``
``hang``           ``begun``, and no more
``spin``           ``begun``, and the handler never waits again
``block``          ``begun``, and the handler's thread holds the interpreter's lock no more, but does not return either
``kill NUMBER``    its process gets that signal
``leak MIB``       ``kept``, and its process has so much more memory
``fds``            its process's descriptors, as JSON
``break``          the first listener is shut down, as from outside
=================  ====================================================================================
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jackfield
from jackfield import AsyncRequestHandler, Server, draining
from jackfield.door import Listener, open_listeners
from jackfield.socketserver import StreamRequestHandler
from jackfield.supervisor import Asked, Recycling, Supervisor, Worker
from jackfield.supervisor.places import open_places

# Who waits for an answer is waited for, however long it is quiet meanwhile.
draining.QUIET = 1000.0

kept: list[bytearray] = []
listening: list[Listener] = []


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed them
    return found


def at_once(word: str, rest: str) -> str:
    """The answer where none is waited for."""
    if word == "pid":
        return str(os.getpid())
    if word == "say":
        return rest
    if word == "kill":
        os.kill(os.getpid(), int(rest))
    if word == "leak":
        kept.append(bytearray(os.urandom(1) * (int(rest) << 20)))
        return "kept"
    if word == "fds":
        return json.dumps(descriptors())
    if word == "break":
        listening[0].socket.shutdown(2)
        return "broken"
    return "?"


def spin_without_end() -> None:
    while True:
        pass


def leak(kib: int) -> None:
    if kib:
        kept.append(bytearray(os.urandom(1) * (kib << 10)))


class Handler(StreamRequestHandler):
    leaks = 0

    def handle(self) -> None:
        leak(self.leaks)
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            if word in ("work", "hang", "spin", "block"):
                self.wfile.write(b"begun\n")
            if word == "work":
                jackfield.sleep(float(rest))
                answer = f"done {os.getpid()}"
            elif word == "hang":
                jackfield.sleep(1e6)
            elif word == "spin":
                spin_without_end()
            elif word == "block":
                time.sleep(1e6)
            else:
                answer = at_once(word, rest)
            self.wfile.write(answer.encode() + b"\n")


class AsyncHandler(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        import asyncio

        data = b""
        while part := await self.request.recv(1000):
            data += part
            while b"\n" in data:
                line, _, data = data.partition(b"\n")
                word, _, rest = line.decode().strip().partition(" ")
                if word in ("work", "hang", "spin", "block"):
                    await self.request.sendall(b"begun\n")
                if word == "work":
                    await asyncio.sleep(float(rest))
                    answer = f"done {os.getpid()}"
                elif word == "hang":
                    await asyncio.sleep(1e6)
                elif word == "spin":
                    spin_without_end()
                elif word == "block":
                    time.sleep(1e6)
                else:
                    answer = at_once(word, rest)
                await self.request.sendall(answer.encode() + b"\n")


def make_servers(mode: str, plan: Path, worker: Worker, graceful_timeout: float) -> list[Server]:
    word, _, seconds = plan.read_text().strip().partition(" ")
    if word == "raise":
        raise RuntimeError("it is not well\nat all")
    if word == "hang":
        time.sleep(1e6)
    if word == "late":
        while plan.read_text().startswith("late"):
            time.sleep(0.01)
    servers = [
        Server(
            AsyncHandler if mode == "async" else Handler, *worker.its_own([listener]), mode=mode,
            graceful_timeout=float(seconds or graceful_timeout),
        )
        for listener in listening
    ]  # fmt: skip
    if word == "die":
        def die() -> None:
            while servers[0].state != "serving":
                time.sleep(0.01)
            time.sleep(0.05)
            os._exit(7)

        threading.Thread(target=die, daemon=True).start()
    return servers


def main() -> int:
    mode, given = sys.argv[1], json.loads(sys.argv[2])
    level = given.pop("level", "INFO")
    logging.basicConfig(level=level, format="%(process)d %(levelname)s %(name)s: %(message)s")
    plan = Path(given.pop("plan"))
    graceful_timeout = given.get("graceful_timeout", 30.0)
    Handler.leaks = given.pop("leak", 0)
    for address in given.pop("addresses", ["tcp://127.0.0.1:0"]):
        listening.extend(open_listeners(address))
    recycling = Recycling(**given.pop("recycling", {}))
    supervisor = Supervisor(
        lambda worker: make_servers(mode, plan, worker, graceful_timeout),
        [*listening, *open_places(listening, given["workers"])], servers=len(listening), recycling=recycling, **given,
    )  # fmt: skip
    supervisor.on_ready = lambda: print(*[listener.location for listener in listening], flush=True)
    supervisor.on_reloaded = lambda worked: print(f"reloaded {worked}", flush=True)
    supervisor.on_stop = lambda: print("stopping", flush=True)
    with Asked(supervisor) as asked:
        try:
            code = supervisor.run()
        except jackfield.StartError as error:
            print("not started:", error, flush=True)
            return 3
        finally:
            for listener in supervisor.listeners:
                listener.close()
        print("ended", len(supervisor.members), flush=True)
        return 130 if asked.interrupted else code


if __name__ == "__main__":
    sys.exit(main())
