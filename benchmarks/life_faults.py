"""Faults of workers, each with its figure: killed, frozen, in a crash loop, spinning, stopped with a queue, reloaded.

    python benchmarks/life_faults.py                 two green workers
    python benchmarks/life_faults.py --mode thread

A table in Markdown goes to standard output: the row, what it has to hold to, and what was found. Exit status 1 if one
is missed; 2 if nothing can be measured here; 0 otherwise. Loads are clients that connect, ask once and leave, eight at
a time. Times hold on a quiet machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from life import HERE, MODES, Document, Server, is_zombie, wait
from processes import SOON, Unable, child, cpu_seconds, family, python

#: A module whose workers die soon after they have begun to serve, without having had a client.
DIES = """
import os, threading, time
from life_faults_handlers import Handler

def die():
    while not any(thread.name.startswith("jackfield-Handler") for thread in threading.enumerate()):
        time.sleep(0.01)
    time.sleep(0.2)
    os._exit(7)

threading.Thread(target=die, daemon=True).start()
"""

#: Seconds after which a worker that gives no sign of life is replaced.
WORKER_TIMEOUT = 2.0

#: What is found, and whether it holds.
Figure = tuple[str, bool]


@contextlib.contextmanager
def serving(mode: str, *options: object) -> Iterator[Server]:
    handler = "AsyncHandler" if mode == "async" else "Handler"
    with tempfile.TemporaryDirectory(prefix="jackfield-faults-") as folder:
        log = Path(folder, "log")
        log.touch()
        command = [
            "sh", "-c", 'exec "$@" 2>>"$0"', log, sys.executable, "-m", "jackfield", "serve",
            f"life_faults_handlers:{handler}", "--app-dir", HERE, "-k", mode, "-w", 2, "-b", "127.0.0.1:0", "-v",
            *(["--max-children", "1000"] if mode == "process" else []), *options,
        ]  # fmt: skip
        with child(*command) as process:
            server = Server(process, log)
            yield server
            if process.poll() is None:
                server.end()


@contextlib.contextmanager
def load(server: Server, found: Document) -> Iterator[None]:
    """For the length of the block; then ``found`` has what has come of it."""
    command = python("steady_load.py", server.address, "--connections", 8, "--every", 0.001, "--anew", 0)
    with child(*command, stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        yield
        found.update(json.loads(process.communicate(timeout=SOON)[0]))


def lost(found: Document) -> int:
    return sum(len(found[name]) for name in ("refused", "unanswered", "broken", "wrong"))


def connect(server: Server) -> socket.socket:
    host, _, port = server.address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), SOON)


def ask(sock: socket.socket, line: bytes) -> bytes:
    sock.sendall(line + b"\n")
    return sock.recv(1000)


def killed(mode: str) -> Figure:
    found: Document = {}
    pauses = []
    with serving(mode) as server, load(server, found):
        for _ in range(5):
            time.sleep(1.0)
            victim, pause = server.kill_one(1)
            pauses.append(pause)
            wait(lambda: len(server.workers) == 2 and victim not in server.workers, "there are two")  # noqa: B023
        time.sleep(0.5)
        zombies = min(sum(map(is_zombie, family(server.pid))) for _ in range(20))
    pause = statistics.median(pauses) * 1000
    said = f"{lost(found)} lost of {found['exchanges']:,}, another forked after {pause:.0f} ms (median)"
    return (
        f"{said}, {zombies} zombies",
        lost(found) <= 5 and pause <= 100 and not zombies,
    )


def frozen(mode: str) -> Figure:
    found: Document = {}
    with serving(mode, "--worker-timeout", f"{WORKER_TIMEOUT}s") as server, load(server, found):
        victim = server.workers[0]
        os.kill(victim, signal.SIGSTOP)
        began = time.monotonic()
        wait(lambda: victim not in server.workers and len(server.workers) == 2, "it is replaced")
        after = time.monotonic() - began
    # Those whom it had accepted when it froze are its own.
    return f"{lost(found)} lost of {found['exchanges']:,}, replaced after {after:.1f} s", (
        lost(found) <= 2 and after <= WORKER_TIMEOUT + 2.0
    )


def crash_loop(mode: str) -> Figure:
    with tempfile.TemporaryDirectory(prefix="jackfield-faults-") as folder:
        Path(folder, "dies.py").write_text(DIES)
        command = [sys.executable, "-m", "jackfield", "serve", "dies:Handler", "--app-dir", folder, "-k",
                   "thread" if mode == "async" else mode, "-w", 2, "-b", "127.0.0.1:0"]  # fmt: skip
        log = Path(folder, "log")
        log.touch()
        began = time.monotonic()
        with child("sh", "-c", 'exec "$@" 2>>"$0"', log, *command, environment={"PYTHONPATH": str(HERE)}) as process:
            wait(lambda: " died after " in log.read_text() or process.poll() is not None, "the first dies")
            before = cpu_seconds(process.pid)
            time.sleep(4.0)
            forks = len(set(re.findall(r"process (\d+)", log.read_text())))
            used = max(0.0, cpu_seconds(process.pid) - before)
            process.wait(SOON * 3)
        took = time.monotonic() - began
        return f"{forks} forks in 4 s, {used / 4:.0%} CPU, exit {process.returncode} after {took:.1f} s", (
            forks <= 10 and process.returncode == 1 and took <= 30
        )


def spinner(mode: str) -> Figure:
    taken = []
    with serving(mode) as server, connect(server) as one:
        ask(one, b"say x")
        one.sendall(b"spin 2\n")
        until = time.monotonic() + 1.8
        while time.monotonic() < until:
            began = time.perf_counter()
            with connect(server) as sock:
                ask(sock, b"say y")
            taken.append(time.perf_counter() - began)
            time.sleep(0.005)
        one.recv(100)
    p99 = sorted(taken)[int(len(taken) * 0.99)] * 1000
    return f"p99 {p99:.1f} ms of {len(taken)}", p99 <= 50


def queue(mode: str) -> Figure:
    with serving(mode) as server:
        workers = server.workers
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server)) for _ in range(200)]
            for client in clients:
                client.sendall(b"say here\n")
            os.kill(server.pid, signal.SIGTERM)
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            answers = []
            for client in clients:
                try:
                    answers.append(client.recv(100))
                except OSError:
                    answers.append(b"reset")
        code = server.process.wait(SOON)
    served, half = answers.count(b"here\n"), sum(one not in (b"here\n", b"", b"reset") for one in answers)
    return f"{served} served, {answers.count(b'reset')} reset, {half} half, exit {code}", served == 200 and code == 0


def reloads(mode: str) -> Figure:
    found: Document = {}
    with serving(mode) as server, connect(server) as long:
        ask(long, b"say x")
        with load(server, found):
            for _ in range(5):
                server.reload()
        kept = ask(long, b"say still") == b"still\n"
    return f"{lost(found)} lost of {found['exchanges']:,}, the long one {'kept' if kept else 'lost'}, longest" + (
        f" connect {found['longest_connect'] * 1000:.0f} ms"
    ), not lost(found) and kept


def storm(mode: str) -> Figure:
    found: Document = {}
    with serving(mode) as server:
        with load(server, found):
            for _ in range(200):
                os.kill(server.pid, signal.SIGHUP)
                time.sleep(0.005)
            time.sleep(3.0)
        count = server.log.count("the reload is done")
    return f"{count} reloads, {lost(found)} lost of {found['exchanges']:,}", 1 <= count <= 3 and not lost(found)


ROWS: list[tuple[str, str, str, Callable[[str], Figure]]] = [
    ("15", "a worker killed, 5 times under load", "≤ 5 lost of 20,000, respawn ≤ 100 ms, 0 zombies", killed),
    ("16", "a worker frozen", "≤ 2 lost, replaced ≤ timeout + 1 s", frozen),
    ("17", "a crash loop", "≤ 10 forks in 4 s, CPU ≤ 10 %, exit 1 in 30 s", crash_loop),
    ("19", "a handler that spins, in one of two workers", "p99 of the others ≤ 50 ms", spinner),
    ("23", "200 in the kernel's queue at SIGTERM", "200 served, 0 reset in silence", queue),
    ("24", "5 reloads under load", "0 lost, a long connection kept", reloads),
    ("25", "200 × SIGHUP in a second", "≤ 3 reloads, 0 lost", storm),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="green")
    parser.add_argument("--rows", default=",".join(number for number, *_ in ROWS))
    options = parser.parse_args()
    wanted = options.rows.split(",")
    if unknown := set(wanted) - {number for number, *_ in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(one[0] for one in ROWS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this
    print("| | fault | to hold to | found | |\n|---|---|---|---|---|")
    missed = 0
    try:
        for number, title, bar, measure in ROWS:
            if number in wanted:
                said, holds = measure(options.mode)
                missed += not holds
                print(f"| {number} | {title} | {bar} | {said} | {'held' if holds else '**missed**'} |", flush=True)
    except Unable as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 2
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
