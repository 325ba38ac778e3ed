"""Each test of what is handed over, once for each thing that can be waited for."""

from __future__ import annotations

import pytest
from sync_support import SUBJECTS, Subject


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(request.param)
