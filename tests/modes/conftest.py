"""Each test leaves no thread that waits for work: such a one is in no list that the tests of the whole look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from modes_support import until

from jackfield.modes import threads as module


@pytest.fixture(autouse=True)
def leaves_no_thread_that_waits() -> Iterator[None]:
    """Fails a test whose threads still wait when it has ended."""
    yield
    for threads in list(module._every):
        until(lambda threads=threads: not threads._spares.staff)
