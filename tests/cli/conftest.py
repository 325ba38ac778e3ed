"""The process from which the command is forked, for each module of tests that runs it so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cli_support import forking


@pytest.fixture(scope="module", autouse=True)
def command_is_imported(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not longer than the module: tests elsewhere count the children of this process."""
    if not hasattr(request.module, "run"):
        yield
        return
    with forking():
        yield
