"""What the tests of the twins share: connected sockets, and how to run a coroutine in each way that there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from jackfield import socket as jackfield_socket
from jackfield.reactor import drive
from jackfield.reactor.twin import native
from jackfield.streams import AsyncSocket

#: What only the native twin can answer.
natively = pytest.mark.skipif(native is None, reason="the native twin is not in use")

#: Seconds that nothing here takes, and after which a wait is called hung.
SOON = 10.0


@contextlib.contextmanager
def pair() -> Iterator[tuple[jackfield_socket.socket, jackfield_socket.socket]]:
    """Two of our sockets connected over loopback TCP, where a short read proves the kernel's buffer empty."""
    left, right = jackfield_socket._fallback_socketpair()
    try:
        yield left, right
    finally:
        left.close()
        right.close()


@contextlib.asynccontextmanager
async def stream() -> Any:
    """An AsyncSocket that has received already, so that its next calls take the quick way; and its peer."""
    with pair() as (left, right):
        sock = AsyncSocket(left)
        right.sendall(b"-")
        assert await sock.recv(1 << 16) == b"-"
        yield sock, right


def as_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


def as_eager_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg]


async def _outer(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.get_running_loop().create_task(coroutine)


def as_task_in_a_driven_one(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return drive(_outer(coroutine))


async def _inner(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await drive(coroutine)


def as_driven_one_in_a_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return as_task(_inner(coroutine))


#: Everyone that may drive a coroutine which waits for a socket.
DRIVERS: list[Any] = [
    drive,
    as_task,
    pytest.param(as_eager_task, marks=pytest.mark.skipif("sys.version_info < (3, 12)", reason="no eager tasks there")),
    as_task_in_a_driven_one,
    as_driven_one_in_a_task,
]


async def parked(condition: Callable[[], object]) -> None:
    """The loop has its turns until ``condition()`` holds."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """An interpreter of its own, as this one is."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=SOON * 3,
        env={**os.environ, **environment},
        check=False,
    )
