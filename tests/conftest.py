"""What holds for every test: it is bounded in time, it can be repeated, and it leaves nothing behind.

- The bound is ``timeout`` in ``pyproject.toml``; ``@pytest.mark.timeout(seconds)`` changes it for one test.
- After each test the process has the descriptors and the threads it had before, and no more objects of the native twin,
  or the test fails.  A test that cannot keep that says so and why:
  ``@pytest.mark.leaks("the thread of ... outlives its server")``.
- Programs that a test needs from outside are asked for by fixture (``curl``, ``redis_server``), and where one is absent
  the test is skipped with a reason.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import greenlet
import pytest
from hypothesis import HealthCheck, settings

from jackfield.reactor import await_
from jackfield.reactor.twin import native

# How long threads that were told to end may take to do so, in seconds.
GRACE = 5.0

# Threads that the library starts once for the whole process, at their first use, and keeps: blocking calls that were
# offloaded, and the loop that runs coroutines for plain threads.
KEPT_BY_THE_LIBRARY = ("jackfield-offload", "jackfield-loop")

# Derandomized: the same examples on each run, so that a failed run is a bug and never the weather.
# HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    """Registers the opt-out, and refuses to run without the bound."""
    config.addinivalue_line("markers", "leaks(reason): this test may leave descriptors or threads behind, and why")
    config.addinivalue_line("markers", "slow: takes seconds; .ci/run has it on one Python only, make test on each")
    if not config.pluginmanager.hasplugin("timeout"):
        raise pytest.UsageError("the tests are bounded by pytest-timeout: pip install pytest-timeout")


#: Folders whose tests one Python is enough for in .ci/run: those of whole programs, which are slow, and those of what
#: asks nothing of the interpreter that differs from one version to the next.
SLOW_FOLDERS = {
    "admin", "admission", "bench", "benchmarks", "chaos", "docs", "door", "examples", "proxyproto", "real",
    "supervisor",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks them, so that one Python is enough for them in .ci/run."""
    for item in items:
        if SLOW_FOLDERS & set(item.path.relative_to(Path(__file__).parent).parts[:1]):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: collections between tests need not look at it, and are quick."""
    gc.collect()
    gc.freeze()


class Held(NamedTuple):
    """What the process holds at one moment."""

    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]


def held() -> Held:
    """The open descriptors, each with what it refers to, and the threads that Python started."""
    threads = (
        thread
        for thread in threading.enumerate()
        if not isinstance(thread, threading._DummyThread) and not thread.name.startswith(KEPT_BY_THE_LIBRARY)
    )
    return Held(_descriptors(), frozenset(threads))


def _descriptors() -> dict[int, str]:
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for name in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{name}") if directory.startswith("/proc") else ""
        except FileNotFoundError:
            continue  # the descriptor that listed the directory, closed since
        found[int(name)] = target.removesuffix(" (deleted)")
    return found


def what_differs(before: Held) -> list[str]:
    """One line for each descriptor or thread too many or too few, after giving what is ending the time to end."""
    deadline = time.monotonic() + GRACE
    for thread in held().threads - before.threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if held().descriptors != before.descriptors:
        gc.collect()  # only then: a collection after each test would double the time of the quick ones
    after = held()
    lines = [f"a thread goes on: {thread!r}" for thread in after.threads - before.threads]
    for number in sorted(before.descriptors.keys() | after.descriptors.keys()):
        old, new = before.descriptors.get(number), after.descriptors.get(number)
        if old is None:
            lines.append(f"descriptor {number} was left open: {new}")
        elif new is None:
            lines.append(f"descriptor {number} was closed, which is not the test's: {old}")
        elif old != new:
            lines.append(f"descriptor {number} was {old} and now is {new}")
    return lines


def alive() -> dict[str, int]:
    """How many objects of each native type live: a reference counted wrong shows in it.  Empty on the pure twin."""
    return native.alive() if native else {}


def native_more_than(before: dict[str, int]) -> list[str]:
    """One line for each native type of which more objects live, after giving what is ending the time to end."""
    deadline = time.monotonic() + GRACE
    while alive() != before:
        # A greenlet that another thread has let go of last is freed when its own thread comes to greenlet again.
        greenlet.getcurrent()
        gc.collect()
        after = alive()
        # Fewer is what an earlier test left to the collector.
        lines = [f"{after[name] - count} {name} live on" for name, count in before.items() if after[name] > count]
        if not lines or time.monotonic() > deadline or threading.active_count() == 1:
            return lines
        time.sleep(0.01)  # the thread of a server of a wider fixture lets go in its own time
    return []


# Not held to it: here errors of handlers are kept, in lists and in groups, with the frames and loops they went through.
ERRORS_ARE_KEPT = {"server", "test_testing.py"}

NATIVE = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fails a test that leaves native objects behind; outermost, when the records of the log are gone too."""
    yield
    before = item.stash.get(NATIVE, None)
    if not before or not ERRORS_ARE_KEPT.isdisjoint((item.path.name, item.path.parent.name)):
        return
    # What pytest itself still holds of the test: its fixtures' values, and exceptions that are parameters, with the
    # frames they went through.
    getattr(item, "funcargs", {}).clear()
    callspec = getattr(item, "callspec", None)
    for value in callspec.params.values() if callspec is not None else ():
        if isinstance(value, BaseException):
            value.__traceback__ = value.__context__ = None
    if lines := native_more_than(before):
        pytest.fail("this test leaves native objects behind: " + ", ".join(lines), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def library_has_what_it_keeps() -> None:
    """Starts the loop for plain threads, so that no test is taken to leave its descriptors behind."""
    await_(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a descriptor or a thread behind.

    Set up before every other fixture of the test's own scope, so torn down after them; what fixtures of a wider scope
    hold was there before.
    """
    marker = request.node.get_closest_marker("leaks")
    if marker is not None:
        if not (marker.args and isinstance(marker.args[0], str) and marker.args[0].strip()):
            pytest.fail('say what may stay and why: @pytest.mark.leaks("the thread of ...")')
        yield
        return
    before = held()
    request.node.stash[NATIVE] = alive()
    yield
    if lines := what_differs(before):
        pytest.fail("this test leaves something behind:\n  " + "\n  ".join(lines), pytrace=False)


def _program(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine: install Debian's package {package}")
    return path


@pytest.fixture(scope="session")
def curl() -> str:
    """The path of curl."""
    return _program("curl", "curl")


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The path of redis-server; the test starts and ends its own."""
    return _program("redis-server", "redis-server")
