"""A soak: a steady load for a long time on workers that are reloaded and killed, and what it costs in memory.

    python benchmarks/soak.py                              ten minutes, mode green, two workers
    python benchmarks/soak.py --seconds 60 --mode thread
    python benchmarks/soak.py --json found.json

Some clients come anew every second, some stay for the whole time. In the first two fifths a worker is killed or all are
reloaded every few seconds; then they are left alone, as a leak shows in one that lives. From then on, after a sixth of
that time, a straight line is laid through the memory of each worker (resident set size, proc(5)), with one slope for
all; through that of the supervisor over the whole time but its first fifth. ± is two standard errors of the slope.

One line of verdict goes to standard output, what is going on to standard error. Exit status 1 if an exchange was lost
that no kill explains, a connect was refused, an answer was wrong, or memory has grown by more than ``--slope`` MiB an
hour and that is more than its error; 2 if nothing can be measured here; 0 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from life import AROUND, HERE, MODES, Document, Server, wait
from processes import SOON, Unable, child, python

#: The part of the time in which something befalls the workers, and the part of the rest for them to have all they need.
DISTURBED, WARM = 0.4, 1 / 6

#: The part of the time for the supervisor to have all it needs: half of that in which something befalls its workers.
#: With 30 reloads it has come to a height from which 60 kills or more take it no further.
SUPERVISOR_WARM = DISTURBED / 2

#: Seconds between two things that befall them, and between two looks at memory.
EVERY, LOOK = 3.0, 1.0

BROKEN = {"leak": "LeakingHandler", "lose": "LosingHandler"}

_PAGE = os.sysconf("SC_PAGE_SIZE")

#: Seconds and MiB.
Point = tuple[float, float]


def resident(pid: int) -> float | None:
    """MiB in memory; None once it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
    return None


def slope(lines: Sequence[Sequence[Point]]) -> tuple[float, float]:
    """MiB an hour, the same for all of ``lines``, each of which has a height of its own; and two standard errors of
    that. (0, inf) where there are not enough points."""
    around: list[Point] = []
    for line in lines:
        if len(line) > 2:
            t = sum(time for time, _ in line) / len(line)
            m = sum(memory for _, memory in line) / len(line)
            around += [(time - t, memory - m) for time, memory in line]
    free = len(around) - len([line for line in lines if len(line) > 2]) - 1
    spread = sum(t * t for t, _ in around)
    if free < 1 or not spread:
        return 0.0, math.inf
    steep = sum(t * m for t, m in around) / spread
    left = sum((m - steep * t) ** 2 for t, m in around)
    return steep * 3600, 2 * math.sqrt(left / free / spread) * 3600


@contextlib.contextmanager
def serving(mode: str, workers: int, handler: str) -> Iterator[Server]:
    """``jackfield serve -w``, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="jackfield-soak-") as folder:
        log = Path(folder, "log")
        log.touch()
        command = [
            "sh", "-c", 'exec "$@" 2>>"$0"', log, sys.executable, "-m", "jackfield", "serve",
            f"soak_handlers:{handler}", "--app-dir", HERE, "-k", mode, "-w", workers, "-b", "127.0.0.1:0", "-v",
            *(["--max-children", "1000"] if mode == "process" else []),
        ]  # fmt: skip
        with child(*command) as process:
            server = Server(process, log)
            yield server
            server.end()


class Soak:
    """One run, and what it has found."""

    def __init__(self, server: Server, seconds: float, workers: int) -> None:
        self.server = server
        self.workers = workers
        self.began = time.monotonic()
        self.quiet_from = self.began + DISTURBED * seconds
        self.until = self.began + seconds
        self.killed: dict[int, float] = {}
        self.reloads = 0
        self.supervisor: list[Point] = []
        self.members: dict[int, list[Point]] = {}

    def run(self) -> None:
        now, every = self.began, min(EVERY, (self.quiet_from - self.began) / 4)
        next_disturbance, warm_from = now + every, self.quiet_from + WARM * (self.until - self.quiet_from)
        while now < self.until:
            if next_disturbance <= now < self.quiet_from:
                self.disturb()
                next_disturbance = time.monotonic() + every
            self.look(warm_from)
            now = time.monotonic()
            time.sleep(max(0.0, min(LOOK, self.until - now)))
            now = time.monotonic()

    def disturb(self) -> None:
        """A kill, then a reload, by turns."""
        if len(self.killed) <= self.reloads:
            at = time.monotonic()
            victim, _ = self.server.kill_one(1)
            self.killed[victim] = at
            wait(lambda: len(self.server.workers) >= self.workers, "there are as many as before")
        else:
            self.server.reload()
            self.reloads += 1

    def look(self, warm_from: float) -> None:
        now = time.monotonic()
        if now - self.began > SUPERVISOR_WARM * (self.until - self.began):
            if (memory := resident(self.server.pid)) is not None:
                self.supervisor.append((now, memory))
        if now > warm_from:
            for pid in self.server.workers:
                if (memory := resident(pid)) is not None:
                    self.members.setdefault(pid, []).append((now, memory))


def judged(soak: Soak, loads: list[Document], bar: float) -> Document:
    """What is to be said, ``missed`` among it."""
    killed = soak.killed
    refused = [one for load in loads for one in load["refused"]]
    wrong = [one for load in loads for one in load["wrong"]]
    lost = [one for load in loads for one in load["broken"] if one["pid"] not in killed]
    lost += [
        one for load in loads for one in load["unanswered"]
        if not any(-0.1 < one["at"] - at < AROUND for at in killed.values())
    ]  # fmt: skip
    examples = {"lost": lost[:5], "refused": refused[:5], "wrong": wrong[:5]}
    slopes = {"supervisor": slope([soak.supervisor]), "workers": slope(list(soak.members.values()))}
    counts = {"lost": len(lost), "refused": len(refused), "wrong": len(wrong)}
    missed = [f"{count} {name}" for name, count in counts.items() if count]
    missed += [f"memory of the {name}" for name, (steep, error) in slopes.items() if steep - error > bar]
    return {
        "reloads": soak.reloads, "kills": len(killed), "exchanges": sum(load["exchanges"] for load in loads),
        "connects": sum(load["connects"] for load in loads), **counts, "slopes": slopes, "missed": missed,
        "examples": examples,
        "of_killed": sum(len(load["broken"]) + len(load["unanswered"]) for load in loads) - len(lost),
    }  # fmt: skip


def verdict(found: Document) -> str:
    """The one line."""
    slopes = ", ".join(f"{name} {steep:+.2f} ± {error:.2f}" for name, (steep, error) in found["slopes"].items())
    return (
        f"soak of {found['seconds']:.0f} s, {found['mode']}, {found['workers']} workers: {found['reloads']} reloads,"
        f" {found['kills']} kills; {found['exchanges']:,} exchanges, {found['connects']:,} connects; lost outside kills"
        f" {found['lost']}, refused {found['refused']}, wrong {found['wrong']}, of the killed {found['of_killed']};"
        f" MiB/h {slopes}: {'missed: ' + ', '.join(found['missed']) if found['missed'] else 'held'}"
    )


def soak(options: argparse.Namespace) -> Document:
    handler = BROKEN.get(options.broken, "AsyncHandler" if options.mode == "async" else "Handler")
    with serving(options.mode, options.workers, handler) as server, contextlib.ExitStack() as stack:
        some = max(2, options.connections // 4)
        loads: list[subprocess.Popen[str]] = [
            stack.enter_context(
                child(
                    *python("steady_load.py", server.address, "--connections", number, "--every", options.every,
                            "--anew", anew),
                    stdin=subprocess.PIPE,
                )
            )
            for number, anew in ((options.connections - some, 1.0), (some, 1e9))
        ]  # fmt: skip
        run = Soak(server, options.seconds, options.workers)
        run.run()
        found: list[Document] = [json.loads(load.communicate(timeout=SOON)[0]) for load in loads]
    return {
        "seconds": options.seconds, "mode": options.mode, "workers": options.workers,
        **judged(run, found, options.slope),
    }  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--mode", choices=MODES, default="green")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--every", type=float, default=0.02, help="seconds from an answer to the next question")
    parser.add_argument("--slope", type=float, default=1.0, help="MiB an hour that memory may grow by (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument("--broken", choices=BROKEN, help="serve wrongly on purpose, in threads")
    options = parser.parse_args(arguments)
    if options.seconds < 1 or options.connections < 4 or options.workers < 1:
        parser.error("at least 1 second, 4 connections and 1 worker are needed")
    if options.broken and options.mode == "async":
        parser.error("--broken is for the other modes")
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this
    try:
        found: dict[str, Any] = soak(options)
    except Unable as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 2
    print(verdict(found), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
