"""Each test that asks for ``host`` runs on every kind of loop that can host the reactor."""

from __future__ import annotations

import contextlib

import pytest
from reactor_support import HOSTS, Host


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    """Stock asyncio, uvloop, and an application's loop of either kind that runs already."""
    if "uvloop" in request.param:
        pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed")
    return Host(request.param)


@pytest.fixture(scope="session", autouse=True)
def libuv_has_what_it_keeps() -> None:
    """libuv opens a pipe for signals with its first loop and keeps it: no test is taken to have left it behind."""
    with contextlib.suppress(ImportError):
        Host("uvloop").run(lambda: None)
