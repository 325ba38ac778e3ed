"""A blocking Redis client, from PyPI and knowing nothing of us, cooperates in green threads once it is adopted.

The proof needs no clock: the server itself says how many clients wait in it *at once*.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jackfield.adopt import adopt
from jackfield.reactor import run, sleep, spawn

redis = pytest.importorskip("redis", reason="no Redis client here: pip install redis")

HANDLERS = 50
SOON = 20.0  # seconds that nothing here takes


@pytest.fixture(scope="module")
def port(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The TCP port, on loopback, of a server that keeps nothing on disk."""
    home = tmp_path_factory.mktemp("redis")
    path, log = home / "redis.sock", home / "log"
    options = {
        "port": "0", "unixsocket": str(path), "bind": "127.0.0.1", "save": "", "appendonly": "no",
        "dir": str(home), "logfile": str(log),
    }  # fmt: skip
    command = [redis_server, *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        with contextlib.closing(redis.Redis(unix_socket_path=str(path))) as client:
            _until_it_answers(client, process, log)
            yield _open_a_port(client)
    finally:
        process.terminate()
        try:
            process.wait(SOON)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_it_answers(client: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            client.ping()
            return
        except redis.exceptions.ConnectionError:
            if process.poll() is not None:
                pytest.fail(f"redis-server ended: {log.read_text()}")
            sleep(0.01)


def _open_a_port(client: Any) -> int:
    # Port 0 means none to redis-server. So it is told of one that is free, and of another if that was taken meanwhile.
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            number = int(free.getsockname()[1])
        try:
            client.config_set("port", number)
            return number
        except redis.exceptions.ResponseError as error:
            assert "listen" in str(error).lower()


def open_client(port: int) -> contextlib.closing[Any]:
    return contextlib.closing(redis.Redis("127.0.0.1", port, socket_timeout=None))


def blocked(watcher: Any) -> int:
    """Clients that wait in a blocking command now."""
    return int(watcher.info("clients")["blocked_clients"])


@contextlib.contextmanager
def green_handlers(number: int, work: Callable[[int], Any]) -> Iterator[list[Any]]:
    """``number`` green threads on one OS thread of its own; their results are complete when the block ends."""
    results: list[Any] = []

    def main() -> None:
        started = [spawn(work, each) for each in range(number)]
        results.extend(each.result() for each in started)

    thread = threading.Thread(target=run, args=(main,), daemon=True)
    thread.start()
    yield results
    thread.join(SOON)
    assert not thread.is_alive()


def test_as_many_slow_commands_at_once_as_there_are_green_threads(port: int) -> None:
    with adopt(redis), open_client(port) as client, open_client(port) as watcher:

        def handler(number: int) -> bytes:
            _, value = client.blpop(f"key {number}", 0)
            client.set(f"answer {number}", value)
            return client.get(f"answer {number}")  # type: ignore[no-any-return]

        with green_handlers(HANDLERS, handler) as results:
            while blocked(watcher) < HANDLERS:
                sleep(0.005)
            assert not results
            # The last one first, and each once.
            for number in reversed(range(HANDLERS)):
                watcher.rpush(f"key {number}", f"value {number}")
        assert results == [f"value {number}".encode() for number in range(HANDLERS)]
        assert blocked(watcher) == 0


def test_without_adoption_one_at_a_time_and_the_proof_fails(port: int) -> None:
    with open_client(port) as client, open_client(port) as watcher:

        def handler(number: int) -> bytes:
            return client.blpop([f"other key {each}" for each in range(3)], 0)[1]  # type: ignore[no-any-return]

        with green_handlers(3, handler) as results:
            for number in range(3):
                while not blocked(watcher):
                    sleep(0.005)
                assert {blocked(watcher) for _ in range(50)} == {1}
                watcher.rpush(f"other key {number}", f"value {number}")
        assert results == [b"value 0", b"value 1", b"value 2"]


def test_a_timeout_of_the_client_is_one_in_a_green_thread(port: int) -> None:
    with adopt(redis), contextlib.closing(redis.Redis("127.0.0.1", port, socket_timeout=0.05, retry=None)) as client:

        def impatient(number: int) -> str:
            try:
                client.blpop(f"nothing comes here {number}", 0)
            except redis.exceptions.TimeoutError:
                return "timed out"
            return "answered"

        with green_handlers(5, impatient) as results:
            pass
        assert results == ["timed out"] * 5
