"""A real HAProxy for the tests: where it is, and one that runs for a while."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_support import SECONDS


def haproxy_program() -> str:
    """Its path; skips the test where there is none."""
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/local/sbin:/usr/sbin")
    if path is None:
        pytest.skip("no haproxy on this machine: install Debian's package haproxy")
    return path


@contextlib.contextmanager
def haproxy_running(
    program: str, folder: Path, front: socket.socket, backend: str, *, bind: str = "", frontend: str = "",
    connections: int = 50,
) -> Iterator[None]:
    """One that serves ``front``. ``backend``, ``bind`` and ``frontend`` are words of its configuration.

    It inherits the listening socket, so nobody waits for it to open one, and no port is chosen twice.
    """
    config, log = folder / "haproxy.cfg", folder / "log"
    config.write_text(
        f"""
global
    maxconn {connections}
defaults
    mode tcp
    timeout connect {SECONDS:.0f}s
    timeout client {SECONDS:.0f}s
    timeout server {SECONDS:.0f}s
frontend front
    bind fd@{front.fileno()} {bind}
    {frontend}
    default_backend back
backend back
    {backend}
"""
    )
    with log.open("wb") as told:
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            pass_fds=[front.fileno()],
        )  # fmt: skip
    try:
        yield
        assert process.poll() is None, log.read_text()
    except TimeoutError:
        pytest.fail(f"nothing came: haproxy ended with {process.poll()}, {log.read_text()}")
    finally:
        process.kill()
        process.wait()
