"""A store of keys and values for Redis' clients: strings that may expire, and channels to publish to.

    python examples/resp_store.py [ADDRESS]         9379 unless given; 0 takes any free port
    redis-cli -p 9379 SET greeting hello EX 60

``jackfield serve --app-dir examples resp_store:Store --idle-timeout 0`` is the same. Mode async: a client rests most of
the time, and costs a coroutine then; and as they all run on one thread, and no command waits in its midst, none needs a
lock.

The protocol is RESP2 (redis.io, "Redis serialization protocol specification"). What is stored is gone with the process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import jackfield
from jackfield import sync
from jackfield.limits import Limits

MOST_KEYS = 100_000
MOST_BYTES = 256 << 20  # of all keys and values
MOST_WORDS = 1024  # of one command
LONGEST_WORD = 64 * 1024

#: Answers that may wait for one client. Who reads more slowly is not read from; a slow subscriber is put out.
PATIENCE = 100


class Refused(Exception):
    """What a client is told of a command that cannot be done."""


class Values:
    """The values, and until when each is there."""

    def __init__(self) -> None:
        self._values: dict[bytes, tuple[bytes, float | None]] = {}
        self._bytes = 0

    def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        found = self._values.get(key)
        if found is not None and found[1] is not None and found[1] <= time.monotonic():
            self.delete(key)  # nobody sees it after its time; until then it takes memory, which is bounded
            return None
        return found

    def put(self, key: bytes, value: bytes, until: float | None) -> None:
        if not self._has_room(key, value):
            for other in list(self._values):
                self.get(other)  # forgets what has expired
            if not self._has_room(key, value):
                raise Refused("OOM there is no room for that")
        self.delete(key)
        self._values[key] = value, until
        self._bytes += len(key) + len(value)

    def _has_room(self, key: bytes, value: bytes) -> bool:
        return (key in self._values or len(self._values) < MOST_KEYS) and self._bytes + len(value) < MOST_BYTES

    def delete(self, key: bytes) -> None:
        value, _ = self._values.pop(key, (None, None))
        if value is not None:
            self._bytes -= len(key) + len(value)

    def __len__(self) -> int:
        return sum(self.get(key) is not None for key in list(self._values))


class Store(jackfield.AsyncStreamRequestHandler):
    """One client."""

    values = Values()
    channels: dict[bytes, set[Store]] = {}

    async def handle(self) -> None:
        self.mine: set[bytes] = set()
        self.messages: sync.Queue[bytes] = sync.Queue(PATIENCE)
        async with asyncio.TaskGroup() as tasks:
            # Answers and messages leave by one task, in their order and never within one another.
            tasks.create_task(self.write())
            try:
                while (words := await self.read_command()) is not None:
                    await self.messages.aput(self.answer(words))
                    if words[0].upper() == b"QUIT":
                        break
            except (Refused, ValueError, asyncio.IncompleteReadError) as error:
                await self.messages.aput(error_line(f"ERR Protocol error: {error}"))
            finally:
                self.unsubscribe(list(self.mine))
                self.messages.shutdown()

    async def write(self) -> None:
        try:
            while True:
                await self.wfile.write(await self.messages.aget())
        except sync.ShutDown:
            pass  # the client has left, and has got every answer
        except OSError:
            self.messages.shutdown(immediate=True)  # nobody is there to be answered

    async def read_command(self) -> list[bytes] | None:
        """The words of a command; None at the end. A line of words is a command too (telnet)."""
        while line := await self.rfile.readline():
            if not line.startswith(b"*"):
                if words := line.split():
                    return words
                continue
            words = []
            for _ in range(number(line[1:], MOST_WORDS)):
                head = await self.rfile.readline()
                if not head.startswith(b"$"):
                    raise Refused("a word begins with $ and its length")
                words.append((await self.rfile.readexactly(number(head[1:], LONGEST_WORD) + 2))[:-2])
            if words:
                return words
        return None

    # -- commands ----------------------------------------------------------------------------------------------------

    def answer(self, words: list[bytes]) -> bytes:
        """Do a command; what it is answered with."""
        name, arguments = words[0].upper().decode("ascii", "replace"), words[1:]
        command: Callable[..., Any] | None = getattr(self, f"do_{name.lower()}", None)
        if command is None:
            return error_line(f"ERR unknown command '{name[:64]}'")
        if self.mine and name not in ("SUBSCRIBE", "UNSUBSCRIBE", "PING", "QUIT"):
            return error_line(f"ERR {name} is not to be had while subscribed")
        try:
            inspect.signature(command).bind(*arguments)
        except TypeError:
            return error_line(f"ERR wrong number of arguments for '{name.lower()}' command")
        try:
            return encode(command(*arguments))
        except Refused as error:
            return error_line(str(error))
        except ValueError:
            return error_line("ERR value is not an integer or out of range")

    def do_ping(self, text: bytes | None = None) -> Any:
        if self.mine:
            return [b"pong", text or b""]
        return text if text is not None else "PONG"

    def do_echo(self, text: bytes) -> bytes:
        return text

    def do_quit(self) -> str:
        return "OK"

    def do_get(self, key: bytes) -> bytes | None:
        found = self.values.get(key)
        return found and found[0]

    def do_set(self, key: bytes, value: bytes, *options: bytes) -> str | None:
        rest, until, there = list(options), None, self.values.get(key) is not None
        while rest:
            match rest.pop(0).upper():
                case b"EX" if rest:
                    until = after(int(rest.pop(0)))
                case b"PX" if rest:
                    until = after(int(rest.pop(0)) / 1000)
                case b"NX" if there:
                    return None
                case b"XX" if not there:
                    return None
                case b"NX" | b"XX":
                    pass
                case _:
                    raise Refused("ERR syntax error")
        self.values.put(key, value, until)
        return "OK"

    def do_del(self, key: bytes, *more: bytes) -> int:
        there = {one for one in (key, *more) if self.values.get(one) is not None}
        for one in there:
            self.values.delete(one)
        return len(there)

    def do_exists(self, key: bytes, *more: bytes) -> int:
        return sum(self.values.get(one) is not None for one in (key, *more))

    def do_incr(self, key: bytes) -> int:
        value, until = self.values.get(key) or (b"0", None)
        value = b"%d" % (int(value) + 1)
        self.values.put(key, value, until)
        return int(value)

    def do_expire(self, key: bytes, seconds: bytes) -> int:
        return self._keep(key, after(int(seconds), least=None))

    def do_pexpire(self, key: bytes, milliseconds: bytes) -> int:
        return self._keep(key, after(int(milliseconds) / 1000, least=None))

    def do_persist(self, key: bytes) -> int:
        found = self.values.get(key)
        return self._keep(key, None) if found and found[1] is not None else 0

    def do_ttl(self, key: bytes) -> int:
        left = self.do_pttl(key)
        return left if left < 0 else (left + 500) // 1000

    def do_pttl(self, key: bytes) -> int:
        found = self.values.get(key)
        if found is None:
            return -2
        return -1 if found[1] is None else round((found[1] - time.monotonic()) * 1000)

    def do_dbsize(self) -> int:
        return len(self.values)

    def _keep(self, key: bytes, until: float | None) -> int:
        found = self.values.get(key)
        if found is None:
            return 0
        self.values.put(key, found[0], until)
        return 1

    # -- channels ----------------------------------------------------------------------------------------------------

    def do_publish(self, channel: bytes, text: bytes) -> int:
        told = 0
        for member in list(self.channels.get(channel, ())):
            try:
                member.messages.put_nowait(encode([b"message", channel, text]))
                told += 1
            except sync.Full:
                member.request.close()  # its handler finds the connection gone
            except sync.ShutDown:
                pass
        return told

    def do_subscribe(self, channel: bytes, *more: bytes) -> Several:
        answers = []
        for one in (channel, *more):
            self.mine.add(one)
            self.channels.setdefault(one, set()).add(self)
            answers.append([b"subscribe", one, len(self.mine)])
        return Several(answers)

    def do_unsubscribe(self, *channels: bytes) -> Several:
        return Several(self.unsubscribe(list(channels or self.mine)) or [[b"unsubscribe", None, 0]])

    def unsubscribe(self, channels: list[bytes]) -> list[Any]:
        answers = []
        for one in channels:
            self.mine.discard(one)
            members = self.channels.get(one, set())
            members.discard(self)
            if not members:
                self.channels.pop(one, None)
            answers.append([b"unsubscribe", one, len(self.mine)])
        return answers


# -- the protocol ------------------------------------------------------------------------------------------------------


class Several(list[Any]):
    """Answers that are each one of their own."""


def number(text: bytes, most: int) -> int:
    """A length or a count; Refused above ``most`` or below 0."""
    if not text.strip().isdigit() or (value := int(text)) > most:
        raise Refused(f"a length is a number up to {most}")
    return value


def after(seconds: float, least: float | None = 0.001) -> float:
    """The moment in so many seconds, on the clock that nobody sets."""
    if abs(seconds) > 10**10 or (least is not None and seconds < least):
        raise Refused("ERR invalid expire time")
    return time.monotonic() + seconds


def error_line(text: str) -> bytes:
    return f"-{' '.join(text.split())}\r\n".encode()


def encode(value: Any) -> bytes:
    """An answer as it is sent: a text that is a status, bytes that are a value, a number, several of them, or None."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case str():
            return f"+{value}\r\n".encode()
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case Several():
            return b"".join(map(encode, value))
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(encode, value))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    limits = Limits(idle_timeout=None)  # who has subscribed waits, for hours if need be
    jackfield.serve(Store, *(sys.argv[1:] or ["9379"]), limits=limits, graceful_timeout=1)
