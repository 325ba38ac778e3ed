"""The heaps that the threads of a server share, counted in the process's own map."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")

#: Thirty threads that allocate beside one another, each more than Python's own allocator takes (512 bytes); then the
#: heaps of glibc: mappings that begin at a multiple of 64 MiB (HEAP_MAX_SIZE of malloc/arena.c) and are not empty.
PROGRAM = """
import sys, threading
from jackfield.modes.arenas import share_arenas
shared = share_arenas() if sys.argv[1] == "shared" else None
at_once = threading.Barrier(30)
def work():
    at_once.wait(20)
    kept = [bytes(2000) for _ in range(20)]
    at_once.wait(20)
threads = [threading.Thread(target=work) for _ in range(30)]
for thread in threads: thread.start()
for thread in threads: thread.join()
heaps = 0
for line in open("/proc/self/maps"):
    where, rights, *_, inode = line.split()[:5]
    if inode == "0" and rights == "rw-p" and int(where.split("-")[0], 16) % (64 << 20) == 0:
        heaps += 1
print(shared, heaps)
"""


def heaps(how: str, **environment: str) -> tuple[str, int]:
    told = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env={**told, **environment}, capture_output=True, text=True, timeout=40,
        check=True,
    )  # fmt: skip
    said, number = done.stdout.split()
    return said, int(number)


def test_threads_share_two() -> None:
    """One of them is the program's own heap, by brk(2), and no such mapping."""
    said, number = heaps("shared")
    assert said == "True" and number <= 1


def test_left_alone_there_are_more() -> None:
    """The broken case."""
    assert heaps("alone")[1] > 2


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_said_holds(name: str) -> None:
    value = {"MALLOC_ARENA_MAX": "8", "GLIBC_TUNABLES": "glibc.malloc.arena_max=8"}[name]
    said, number = heaps("shared", **{name: value})
    assert said == "False" and 2 < number <= 8
