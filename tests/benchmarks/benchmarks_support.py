"""Running a script of ``benchmarks/`` to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
SECONDS = 50.0


def run(
    script: str, *options: object, descriptors: int | None = None, processors: int | None = None, compiler: str = ""
) -> subprocess.CompletedProcess[str]:
    """A script to its end, with so many descriptors and processors at most, and with another C compiler."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, options)]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    allowed = os.sched_getaffinity(0)
    if processors is not None:
        os.sched_setaffinity(0, sorted(allowed)[:processors])  # what is started from here on inherits it
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "CC": compiler} if compiler else None,
        )
    finally:
        os.sched_setaffinity(0, allowed)
