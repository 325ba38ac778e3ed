"""Each test leaves no process behind; descriptors and threads are looked after for all tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from dropin_support import children, others


@pytest.fixture(autouse=True)
def leaves_no_process_behind() -> Iterator[None]:
    """Fails a test that leaves a child, running or not reaped, and ends it."""
    others.clear()
    others.update(children())
    yield
    left = children()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    assert not left, f"processes were left: {sorted(left)}"
