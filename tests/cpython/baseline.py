"""The outcomes on the standard library, made once in a run of the tests though several workers of pytest-xdist ask."""

import fcntl
import os
from pathlib import Path

import pytest

from . import runner
from .verdict import Run


def baseline_of(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run CPython's *suite* on the standard library, or read what another worker found; skips where it does not run."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the folder of the whole run, in which each worker has one
    try:
        return _read_or_run(suite, shared / f"stdlib-{suite}")
    except runner.UnavailableError as unavailable:
        pytest.skip(f"CPython's {suite} does not run here: {unavailable}")


def _read_or_run(suite: str, found: Path) -> Run:
    with found.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if found.exists():
            return runner.read(found)
        scratch = found.with_suffix(f".{os.getpid()}")
        run = runner.run(suite, "stdlib", scratch)
        scratch.rename(found)
        return run
