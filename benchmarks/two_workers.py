"""Two workers against one, on a machine with two processors.

    python benchmarks/two_workers.py                     green, async and thread, five rounds each
    python benchmarks/two_workers.py --modes green --rounds 9 --seconds 3
    python benchmarks/two_workers.py --json found.json

The load is a C program on the second processor, and nothing else has a place of its own. Servers of one and of two
workers run one after the other, round by round, and of their ratios the median counts. With one worker the generator
has a processor for itself; two workers share theirs with it. So the throughput here says at most that two do not lose:
what they would give where the generator has all it needs follows from the processor time of a message, which is printed
for the workers and for the generator, and is no measurement: 2 × one worker's time / two workers' time.

A table in Markdown goes to standard output. Exit status 1 if an answer was wrong or lost; 2 if this machine cannot
measure (one processor, no C compiler); 0 otherwise, whether two workers win or lose.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from build import program
from processes import SOON, Unable, Void, child, cpu_seconds, processors, raise_limit

import jackfield

Document = dict[str, Any]

HERE = Path(__file__).parent
MODES = ("green", "async", "thread")
CONNECTIONS, BYTES, SIZE = 64, 64, 1024


class Upper(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(SIZE).strip():
            self.request.sendall(data.upper())


class AsyncUpper(jackfield.AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        while data := (await self.request.recv(SIZE)).strip():
            await self.request.sendall(data.upper())


class Wrong(jackfield.BaseRequestHandler[Any]):
    """Answers what it was not asked: shows that it is found."""

    def handle(self) -> None:
        while data := self.request.recv(SIZE).strip():
            self.request.sendall(data.lower())


def ready(process: subprocess.Popen[bytes]) -> int:
    """The port of the command, once it serves."""
    assert process.stderr is not None
    said, port = "", 0
    deadline = time.monotonic() + 3 * SOON
    for line in process.stderr:
        said += line.decode()
        if found := re.search(r"tcp://127\.0\.0\.1:(\d+)", said):
            port = int(found[1])
        if said.splitlines()[-1].startswith("Ready in") and port:
            return port
        if time.monotonic() > deadline:
            break
    raise Void(f"the server did not start: {said.strip()}")


def trial(mode: str, workers: int, seconds: float, load_processor: int, *, broken: bool = False) -> Document:
    """Messages a second, and microseconds of processor time for each: the server's and the generator's."""
    handler = "Wrong" if broken else "AsyncUpper" if mode == "async" else "Upper"
    command = [sys.executable, "-m", "jackfield", "serve", f"two_workers:{handler}", "--app-dir", str(HERE), "-k", mode,
               "-w", str(workers), "-b", "127.0.0.1:0"]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        port = ready(process)
        load = (program("echo_load"), port, CONNECTIONS, seconds, BYTES, "upper")
        with child(*load, processor=load_processor) as generator:
            before = cpu_seconds(process.pid)
            assert generator.stdout is not None
            text = generator.stdout.read()
            spent = cpu_seconds(process.pid) - before
            generators = _cpu_of_ended(generator)
    finally:
        process.terminate()
        process.communicate(timeout=SOON)
    if generator.returncode or not text:
        raise Void(f"mode {mode}, {workers} workers: the load ended by exit status {generator.returncode}")
    found: Document = json.loads(text)
    if found["wrong"] or found["lost"] or not found["requests"]:
        raise Void(f"mode {mode}, {workers} workers: {found['wrong']} wrong, {found['lost']} lost")
    count = found["requests"]
    return {"a_second": count / seconds, "server_us": spent * 1e6 / count, "generator_us": generators * 1e6 / count}


def _cpu_of_ended(process: subprocess.Popen[str]) -> float:
    """Processor time of a child that is at its end, which is waited for: what waiting added to that of all children."""
    import resource

    def total() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = total()
    process.wait(SOON)
    return total() - before


def row(mode: str, rounds: list[tuple[Document, Document]]) -> Document:
    """What a mode's rounds come to."""
    ratios = sorted(two["a_second"] / one["a_second"] for one, two in rounds)

    def median(number: int, name: str) -> float:
        return statistics.median(pair[number][name] for pair in rounds)

    one, two = median(0, "server_us"), median(1, "server_us")
    return {
        "mode": mode, "one": median(0, "a_second"), "two": median(1, "a_second"),
        "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1], "one_us": one, "two_us": two,
        "generator_us": median(1, "generator_us"), "alone": 2 * one / two,
    }  # fmt: skip


def markdown(rows: list[Document]) -> str:
    lines = [
        "| mode | 1 worker, messages/s | 2 workers | ratio (lowest to highest) | CPU a message: 1 worker | 2 workers"
        " | generator | ratio if the generator had a processor more, computed |",
        "|---|" + "---:|" * 7,
    ]
    for one in rows:
        lines.append(
            f"| {one['mode']} | {one['one']:,.0f} | {one['two']:,.0f} | {one['ratio']:.2f} ({one['lowest']:.2f} to"
            f" {one['highest']:.2f}) | {one['one_us']:.1f} µs | {one['two_us']:.1f} µs | {one['generator_us']:.1f} µs"
            f" | {one['alone']:.2f} |"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--broken", action="store_true", help="answer wrongly on purpose; not in mode async")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    options = parser.parse_args(arguments)
    options.modes = options.modes.split(",")
    if unknown := set(options.modes) - set(MODES):
        parser.error(f"no such mode: {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("at least one round of some time is needed")
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this
    raise_limit()
    rows = []
    try:
        _, load_processor = processors()
        for mode in options.modes:
            print(f"{mode} …", file=sys.stderr, flush=True)
            rounds = []
            for _ in range(options.rounds):
                one, two = (
                    trial(mode, workers, options.seconds, load_processor, broken=options.broken) for workers in (1, 2)
                )
                rounds.append((one, two))
            rows.append(row(mode, rounds))
    except Unable as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 2
    except Void as error:
        print(f"void: {error}", file=sys.stderr)
        return 1
    print(markdown(rows), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
