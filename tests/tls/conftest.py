"""Certificates, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tls_support import Files

from authorities import Authority


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An authority, servers' certificates by it, a client's, and some that are wrong."""
    return Files(Path(tmp_path_factory.mktemp("tls")), Authority("an authority"))
