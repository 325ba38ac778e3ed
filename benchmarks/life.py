"""Nothing lost: workers that come and go under a steady load, beside clients that are to notice nothing of it.

    python benchmarks/life.py                        every mode: 200 connections, 20 reloads, 5 upgrades, 10 kills
    python benchmarks/life.py --modes green          some modes
    python benchmarks/life.py --quick                3 reloads, an upgrade and 2 kills, 50 connections
    python benchmarks/life.py --reuse-port           each worker with a listening socket of its own
    python benchmarks/life.py --json docs/life.json  the figures, to a file as well
    python benchmarks/life.py --broken closes        a server that does lose some: does it find that?

The table goes to standard output, what is going on to standard error. Exit status 1 if a connection was lost that no
kill explains, or if a connect was refused; 2 if nothing can be measured here; 0 otherwise. The processors are shared by
the servers and the load: how much they do is no figure of this page.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from processes import SOON, Unable, child, python
from run import commit, machine

Document = dict[str, Any]

HERE = Path(__file__).parent

MODES = ("thread", "process", "green", "async")

#: Servers that lose connections, each in its own way, and what is another on their command line: the workers that are
#: replaced cut instead of draining; the supervisor stops listening before new workers are ready (life_broken.py).
BROKEN = {"cuts": ["--retire-timeout", "0", "--graceful-timeout", "0"], "closes": []}

#: Seconds that a connection lives; each is a fork in mode process, of which two processors do some hundred a second.
ANEW = {"process": 5.0}

#: Seconds between two things that are done to a server.
STEP = 0.5

#: Seconds around a kill in which a connection that had no answer yet may have been the killed worker's.
AROUND = 2.0


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def sockets(pid: int) -> int:
    """How many a process has, in mode process those of its children among them."""
    found = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def is_gone(pid: int) -> bool:
    return is_zombie(pid) or not Path(f"/proc/{pid}").exists()


def wait(condition: Callable[[], Any], what: str, seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unable(f"not so after {seconds:g} s: {what}")
        time.sleep(0.001)


class Server:
    """``jackfield serve -w``, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log
        self._reloads = self._upgrades = 0
        wait(lambda: "Ready in" in self.log or process.poll() is not None, "it is ready")
        found = re.search(r"tcp://127\.0\.0\.1:\d+", self.log)
        if found is None:
            raise Unable(f"the server did not start: {self.log.strip()}")
        self.address = found[0]

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def workers(self) -> list[int]:
        return [pid for pid in children(self.pid) if not is_zombie(pid)]

    def reload(self) -> None:
        """Ask for it, and wait until all are new."""
        self._reloads += 1
        os.kill(self.pid, signal.SIGHUP)
        wait(lambda: self.log.count("the reload is done") >= self._reloads, "the reload is done", 60.0)

    def upgrade(self) -> None:
        """Have a new supervisor take over; it is the one that is spoken to from then on."""
        self._upgrades += 1
        os.kill(self.pid, signal.SIGUSR2)
        wait(lambda: len(self._successors) >= self._upgrades, "a new process serves", 60.0)
        self.pid = int(self._successors[-1])

    @property
    def _successors(self) -> list[str]:
        return re.findall(r"process (\d+) serves; this one ends", self.log)

    def end(self) -> None:
        """Stop the one that serves, and wait for the first, which has ended by itself if it was succeeded."""
        os.kill(self.pid, signal.SIGTERM)
        if self.process.wait(SOON * 2) != 0:
            raise Unable(f"the server ended by exit code {self.process.returncode}")
        wait(lambda: is_gone(self.pid), "the server is gone", SOON * 2)

    def kill_one(self, connections: int) -> tuple[int, float]:
        """Kill the worker that has the most connections, once it has so many; its pid, and the seconds until another
        was forked."""
        wait(lambda: max(map(sockets, self.workers[-4:])) >= connections, "a worker has clients")
        before = set(children(self.pid))
        victim = max(self.workers[-4:], key=sockets)  # those before them retire, and are not replaced
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        wait(lambda: set(children(self.pid)) - before, "another is forked")
        return victim, time.monotonic() - began

    def scale(self, number: int) -> None:
        os.kill(self.pid, number)


@contextlib.contextmanager
def serving(mode: str, workers: int, *words: str, broken: str = "") -> Iterator[Server]:
    target = "life_handlers:AsyncHandler" if mode == "async" else "life_handlers:Handler"
    descriptor, path = tempfile.mkstemp(prefix="jackfield-life-", suffix=".log")
    os.close(descriptor)
    log = Path(path)
    program = [str(HERE / "life_broken.py")] if broken == "closes" else ["-m", "jackfield"]
    command = [
        sys.executable, "-c",
        # Its standard error is the log, which is read while it is written.
        f"import os, sys; os.dup2(os.open({path!r}, os.O_WRONLY | os.O_APPEND), 2);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        *program, "serve", target, "--app-dir", str(HERE), "-k", mode, "-w", str(workers), "-b", "127.0.0.1:0", "-v",
        *(["--max-children", "1000"] if mode == "process" else []), *BROKEN.get(broken, []), *words,
    ]  # fmt: skip
    try:
        with child(*command) as process:
            server = Server(process, log)
            try:
                yield server
                server.end()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    if server.pid != process.pid:
                        os.kill(server.pid, signal.SIGTERM)
    finally:
        log.unlink(missing_ok=True)


def _zombies_of(pid: int) -> int:
    time.sleep(0.05)
    return sum(map(is_zombie, children(pid)))


def trial(
    mode: str, connections: int, reloads: int, upgrades: int, kills: int, every: float, *words: str, broken: str = ""
) -> Document:
    """One mode: everything that is done, spread over the time, and what the clients have noticed.

    :param words: of the command line, besides.
    :param broken: one of :data:`BROKEN`; "" for a server as it is.
    """
    killed: dict[int, float] = {}
    pauses: list[float] = []
    with serving(mode, 1, *words, broken=broken) as server:
        load_command = python(
            "steady_load.py", server.address, "--connections", connections, "--every", every,
            "--anew", ANEW.get(mode, 1.0),
        )  # fmt: skip
        with child(*load_command, stdin=subprocess.PIPE) as load:
            began = time.monotonic()
            # 1 to 4; reloads, upgrades and kills with four, and a new process has four again; and 4 to 1.
            for _ in range(3):
                server.scale(signal.SIGTTIN)
                time.sleep(STEP)
            wait(lambda: len(server.workers) >= 4, "there are four")
            for number in range(max(reloads, kills)):
                if number < reloads:
                    server.reload()
                if number < kills:
                    time.sleep(STEP)
                    at = time.monotonic()
                    victim, pause = server.kill_one(connections // 8)
                    killed[victim] = at
                    pauses.append(pause)
                    wait(lambda: len(server.workers) >= 4, "there are four again")
                if server._upgrades < upgrades and number % max(1, reloads // upgrades) == 1:
                    server.upgrade()
                    for _ in range(3):
                        server.scale(signal.SIGTTIN)
                        time.sleep(STEP)
                    wait(lambda: len(server.workers) >= 4, "there are four after an upgrade")
                time.sleep(STEP)
            for _ in range(3):
                server.scale(signal.SIGTTOU)
                time.sleep(STEP)
            seconds = time.monotonic() - began
            # One that has just ended is reaped within moments.
            zombies = min(_zombies_of(server.pid) for _ in range(20))
            out, _ = load.communicate(timeout=SOON)
        found: Document = json.loads(out)
    lost = [one for one in found["broken"] if one["pid"] not in killed]
    unexplained = [
        one for one in found["unanswered"] if not any(-0.1 < one["at"] - at < AROUND for at in killed.values())
    ]
    return {
        "mode": mode, "seconds": seconds, "reloads": reloads, "upgrades": server._upgrades,
        "kills": kills, "connects": found["connects"],
        "exchanges": found["exchanges"], "refused": len(found["refused"]), "wrong": len(found["wrong"]),
        "lost": len(lost) + len(unexplained), "of_killed": len(found["broken"]) + len(found["unanswered"]) - len(lost),
        "longest_connect": found["longest_connect"], "longest_exchange": found["longest_exchange"],
        "replaced": statistics.median(pauses) if pauses else None, "slowest_replaced": max(pauses, default=None),
        "zombies": zombies,
    }  # fmt: skip


def markdown(document: Document) -> str:
    """The document as a table."""
    where = document["machine"]
    heads = (
        "mode", "reloads", "upgrades", "kills", "exchanges", "connects", "refused", "wrong", "lost", "of the killed",
        "connect, longest", "replaced, median (longest)",
    )  # fmt: skip
    apart = "; each worker with a listening socket of its own" if document["reuse_port"] else ""
    quick = "A quick run, with few of everything. " if document["quick"] else ""
    lines = [
        f"{quick}jackfield {document['jackfield']} ({document['commit'] or 'no commit'}), Python {document['python']},"
        f" {document['date']}. {where['processor']}, {where['processors']} processors, {where['system']}; load"
        f" average {where['load_average']:.1f} at the start. {document['connections']} connections, a message every"
        f" {document['every'] * 1000:g} ms, each connection anew after a second, or five in mode process{apart}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
    ]
    for row in document["rows"]:
        replaced = ""
        if row["replaced"] is not None:
            replaced = f"{row['replaced'] * 1000:.1f} ({row['slowest_replaced'] * 1000:.1f}) ms"
        lines.append(
            f"| {row['mode']} | {row['reloads']} | {row['upgrades']} | {row['kills']}"
            f" | {row['exchanges']:,} | {row['connects']:,} | {row['refused']} | {row['wrong']} | {row['lost']}"
            f" | {row['of_killed']}"
            f" | {row['longest_connect'] * 1000:.0f} ms | {replaced} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--every", type=float, default=0.005, metavar="SECONDS")
    parser.add_argument("--reuse-port", action="store_true")
    parser.add_argument("--broken", choices=BROKEN, default="")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    modes = options.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    connections, reloads, upgrades, kills = (50, 3, 1, 2) if options.quick else (200, 20, 5, 10)
    document: Document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").replace("+00:00", " UTC"),
        "jackfield": importlib.metadata.version("jackfield"), "commit": commit(),
        "python": sys.version.split()[0], "machine": machine(), "connections": connections, "every": options.every,
        "quick": options.quick, "reuse_port": options.reuse_port, "broken": options.broken, "rows": [],
    }  # fmt: skip
    try:
        for mode in modes:
            print(f"{mode} …", file=sys.stderr, flush=True)
            words = ["--reuse-port"] if options.reuse_port else []
            document["rows"].append(
                trial(mode, connections, reloads, upgrades, kills, options.every, *words, broken=options.broken)
            )
    except Unable as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown(document))
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    return int(any(map(is_bad, document["rows"])))


def is_bad(row: Document) -> bool:
    """Whether somebody has noticed something that no kill explains, or something was left behind."""
    return bool(row["lost"] or row["refused"] or row["wrong"] or row["zombies"])


if __name__ == "__main__":
    sys.exit(main())
