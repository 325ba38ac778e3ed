"""examples/resp_store.py with redis-cli and with redis-py."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

redis = pytest.importorskip("redis", reason="no redis-py here: pip install redis")


@pytest.fixture(scope="module")
def store() -> Iterator[Program]:
    with served("python", "resp_store:Store", "0") as it:
        yield it


@pytest.fixture
def client(store: Program) -> Iterator[redis.Redis]:
    with client_of(store) as it:
        yield it


@contextlib.contextmanager
def client_of(store: Program) -> Iterator[redis.Redis]:
    it = redis.Redis(port=port_of(store), socket_timeout=SECONDS, protocol=2)
    try:
        yield it
    finally:
        it.close()
        it.connection_pool.disconnect()


@both_ways
def test_redis_cli(how: str) -> None:
    with served(how, "resp_store:Store", "127.0.0.1:0") as it:
        said = b"SET a 1\nINCR a\nGET a\nGET none\nset b x nx\nset b y nx\nEXISTS a b c\nDEL a b\nDBSIZE\nNONSENSE\n"
        words = [needs("redis-cli", "redis-tools"), "-p", str(port_of(it))]
        answers = command(*words, data=said).stdout.decode().splitlines()
        assert [line for line in answers if line] == [
            "OK", "2", "2", "OK", "2", "2", "0", "ERR unknown command 'NONSENSE'",
        ]  # fmt: skip
        assert command(*words, "PING").stdout == b"PONG\n"


def test_a_pipeline_is_answered_in_order(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for index in range(1000):
            pipeline.set(f"p{index}", index)
            pipeline.get(f"p{index}")
        assert pipeline.execute() == [answer for index in range(1000) for answer in (True, str(index).encode())]


def test_a_value_is_bytes_of_any_kind(client: redis.Redis) -> None:
    value = bytes(range(256)) * 200 + b"\r\n$3\r\n"
    client.set("bytes", value)
    assert client.get("bytes") == value


def test_a_key_expires(client: redis.Redis) -> None:
    client.set("short", 1, ex=100)
    assert 99 <= client.ttl("short") <= 100
    assert client.persist("short")
    assert (client.ttl("short"), client.ttl("nothing")) == (-1, -2)
    assert client.pexpire("short", 60_000) and 0 < client.pttl("short") <= 60_000
    assert client.expire("short", -1)
    assert client.get("short") is None
    assert not client.expire("short", 10)


def test_a_key_is_gone_by_itself(client: redis.Redis) -> None:
    client.set("moment", 1, px=1)
    for _ in range(10_000):
        if client.get("moment") is None:
            return
    pytest.fail("it is still there, ten thousand exchanges later")


def test_who_subscribed_gets_what_is_published(client: redis.Redis, store: Program) -> None:
    with client_of(store) as other, other.pubsub() as channel:
        channel.subscribe("news", "weather")
        for count, name in enumerate((b"news", b"weather"), 1):
            told = channel.get_message(timeout=SECONDS)
            assert (told["type"], told["channel"], told["data"]) == ("subscribe", name, count)
        assert client.publish("news", "hello") == 1
        assert client.publish("nobody", "hello") == 0
        told = channel.get_message(timeout=SECONDS)
        assert (told["type"], told["channel"], told["data"]) == ("message", b"news", b"hello")
        channel.unsubscribe()
        for _ in range(2):
            assert channel.get_message(timeout=SECONDS)["type"] == "unsubscribe"
        assert client.publish("news", "hello") == 0


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"*1\r\n$999999999\r\n", b"-ERR Protocol error"),
        (b"*99999999\r\n", b"-ERR Protocol error"),
        (b"*1\r\n+PING\r\n", b"-ERR Protocol error"),
        (b"*2\r\n$3\r\nGET\r\n$10\r\nshort", b"-ERR Protocol error"),
        (b"GET\r\n", b"-ERR wrong number of arguments for 'get' command\r\n"),
        (b"SET a b EX nine\r\n", b"-ERR value is not an integer or out of range\r\n"),
        (b"SET a b EX 0\r\n", b"-ERR invalid expire time\r\n"),
        (b"\r\nPING\r\n", b"+PONG\r\n"),
        (b"QUIT\r\nPING\r\n", b"+OK\r\n"),
    ],
)
def test_what_is_wrong_is_told(store: Program, said: bytes, answer: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(store)), SECONDS) as raw:
        raw.sendall(said)
        raw.shutdown(socket.SHUT_WR)
        told = raw.makefile("rb").read()
        assert told.startswith(answer) and told.count(b"\r\n") == 1


def test_a_line_without_end_ends_its_connection_alone(client: redis.Redis, store: Program) -> None:
    with socket.create_connection(("127.0.0.1", port_of(store)), SECONDS) as raw, raw.makefile("rb") as told:
        with contextlib.suppress(ConnectionError):  # what it has not read by then turns the end into a reset
            raw.sendall(b"x" * 1_000_000)
            assert told.read().startswith(b"-ERR Protocol error")
    assert client.ping()


def test_a_subscriber_that_does_not_read_is_put_out(client: redis.Redis, store: Program) -> None:
    with socket.create_connection(("127.0.0.1", port_of(store)), SECONDS) as slow, slow.makefile("rb") as told:
        slow.sendall(b"SUBSCRIBE flood\r\n")
        assert told.read(len(b"*3\r\n$9\r\nsubscribe\r\n$5\r\nflood\r\n:1\r\n")).endswith(b":1\r\n")
        for _ in range(5000):
            if not client.publish("flood", b"x" * 60_000):
                break
        else:
            pytest.fail("it was still waited for after 300 MB")
    assert client.ping()
