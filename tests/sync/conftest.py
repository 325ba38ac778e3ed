"""Each test of what is handed over, once for each thing that can be waited for."""

from __future__ import annotations

import contextlib

import pytest
from sync_support import SUBJECTS, Subject

from jackfield.reactor import run


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)


@pytest.fixture(scope="session", autouse=True)
def libuv_has_what_it_keeps() -> None:
    """libuv opens a pipe for signals with its first loop and keeps it: no test is taken to have left it behind."""
    with contextlib.suppress(ImportError):
        import uvloop

        run(lambda: None, loop_factory=uvloop.new_event_loop)
