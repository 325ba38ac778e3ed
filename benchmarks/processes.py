"""What the benchmarks know of processes: starting one on a processor of its own and ending it, its time, its memory.

Needs Linux: the figures come from ``/proc`` (proc(5)) and from the kernel's clocks of processes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

#: Seconds that a process may take to start, and to end when it was asked to.
SOON = 20.0


class Unable(Exception):
    """This machine cannot do what a benchmark needs; the text is the one line that says why."""


class Void(Exception):
    """A run does not count; the text says why."""


# -- starting and ending -----------------------------------------------------------------------------------------------


def processors() -> tuple[int, int]:
    """The processor of the server and that of the load; Unable if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Unable(
            "two processors are needed, one for the server and one for the load, and this process may use only one"
        )
    return allowed[0], allowed[1]


@contextlib.contextmanager
def child(
    *command: object,
    processor: int | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[str]]:
    """A process whose standard output is read here; it and all that it started are gone at the end of the block.

    ``processor``: the only one it may use. ``environment``: what is added to ours.
    """
    allowed = os.sched_getaffinity(0)
    if processor is not None:
        os.sched_setaffinity(0, {processor})  # inherited through fork and execve (sched_setaffinity(2))
    try:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    finally:
        os.sched_setaffinity(0, allowed)
    try:
        yield process
    finally:
        if process.poll() is None:
            descendants = family(process.pid)[1:]
            process.terminate()
            try:
                process.wait(SOON)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pid in descendants:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for file in (process.stdin, process.stdout):
            if file is not None:
                file.close()


def python(script: str, *arguments: object) -> Sequence[object]:
    """The command that runs a script of this folder."""
    return (sys.executable, Path(__file__).with_name(script), *arguments)


# -- what is known of one ----------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and everything that descends from it and still runs."""
    found = [pid]
    for of in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{of}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, user and system, with that of its children, those that have ended included."""
    total = 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    for member in family(pid):
        with contextlib.suppress(OSError):
            # clock_getcpuclockid(3) for another process: in nanoseconds, where /proc/PID/stat counts in hundredths.
            total += time.clock_gettime(~member << 3 | 2)
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / ticks  # cutime, cstime: children it has waited for
    return total


def memory(pid: int) -> int:
    """Bytes that a process and its descendants have in memory; what several share is divided among them (PSS)."""
    return sum(_proportional(member) for member in family(pid))


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError):  # no such file in this kernel: what it shares counts in full
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def has_native_part(pid: int) -> bool:
    """Whether a process has loaded compiled code of jackfield's own."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return any("/jackfield/reactor/_native" in line for line in maps)


def raise_limit() -> int:
    """The soft limit of descriptors raised to the hard one; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize
