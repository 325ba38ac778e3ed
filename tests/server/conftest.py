"""Each test leaves no process behind; descriptors and threads are looked after for all tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from native_support import children

from jackfield.reactor import run
from jackfield.serving.bystanders import Bystanders


@pytest.fixture(autouse=True)
def leaves_no_process_behind() -> Iterator[None]:
    """Fails a test that leaves a child, running or not reaped, and ends it."""
    before = children()
    yield
    left = children() - before
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    assert not left, f"processes were left: {sorted(left)}"


@pytest.fixture(autouse=True)
def forks_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs tests has threads that a server's own has not, and process mode would say so in the log."""
    if request.path.name != "test_server_bystanders.py":
        monkeypatch.setattr(Bystanders, "look", lambda self: [])


@pytest.fixture(scope="session", autouse=True)
def libuv_has_what_it_keeps() -> None:
    """libuv opens a pipe for signals with its first loop and keeps it: no test is taken to have left it behind."""
    with contextlib.suppress(ImportError):
        import uvloop

        run(lambda: None, loop_factory=uvloop.new_event_loop)
