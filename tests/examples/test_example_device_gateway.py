"""examples/device_gateway.py with the device in the same file, and with devices that are slow, doubled or wrong."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator

import pytest
from example_support import SECONDS, Program, both_ways, port_of, run, served

HELLO, READING, PING, ACK, PONG, ERROR = range(1, 7)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Program]:
    with served("python", "device_gateway:Gateway", "0") as it:
        yield it


class Device:
    """One that says what the test wants."""

    def __init__(self, it: Program) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port_of(it)), SECONDS)
        self._file = self.socket.makefile("rb")

    def say(self, kind: int, number: int, payload: bytes = b"", length: int | None = None) -> None:
        self.socket.sendall(struct.pack("!HBI", len(payload) if length is None else length, kind, number) + payload)

    def hear(self) -> tuple[int, int, bytes] | None:
        """The next frame; None at the end."""
        head = self._file.read(7)
        if not head:
            return None
        length, kind, number = struct.unpack("!HBI", head)
        return kind, number, self._file.read(length)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()


@both_ways
def test_readings_are_numbered_on_from_one_connection_to_the_next(how: str) -> None:
    with served(how, "device_gateway:Gateway", "127.0.0.1:0") as it:
        where = f"127.0.0.1:{port_of(it)}"
        for numbers in ([1, 2], [3]):
            texts = [f"{number} °C" for number in numbers]
            code, output, errors = run("device_gateway.py", "send", where, "cellar", *texts)
            assert (code, errors) == (0, "")
            assert output == "".join(f"reading {number} is there\n" for number in numbers)
            for number in numbers:
                assert it.record() == {"device": "cellar", "number": number, "text": f"{number} °C"}


def test_what_was_not_acknowledged_is_sent_again_and_counted_once(gateway: Program) -> None:
    with Device(gateway) as device:
        device.say(HELLO, 60, b"lossy")
        assert device.hear() == (ACK, 0, b"")
        for _ in range(3):  # as if two acknowledgements had been lost
            device.say(READING, 1, b"once")
            assert device.hear() == (ACK, 1, b"")
        device.say(READING, 2, b"next")
        assert device.hear() == (ACK, 2, b"")
    assert [gateway.record()["text"] for _ in range(2)] == ["once", "next"]


def test_a_slow_device_is_understood_and_holds_up_nobody(gateway: Program) -> None:
    whole = struct.pack("!HBI", 4, HELLO, 60) + b"slow" + struct.pack("!HBI", 0, PING, 7)
    with Device(gateway) as slow:
        for index in range(len(whole)):
            slow.socket.sendall(whole[index : index + 1])
            with Device(gateway) as other:  # a whole conversation between two of its bytes
                other.say(HELLO, 60, b"other")
                assert other.hear() == (ACK, 0, b"")
                other.say(PING, index)
                assert other.hear() == (PONG, index, b"")
        assert slow.hear() == (ACK, 0, b"")
        assert slow.hear() == (PONG, 7, b"")


def test_one_that_is_silent_is_taken_for_gone(gateway: Program) -> None:
    with Device(gateway) as device, Device(gateway) as alive:
        device.say(HELLO, 1, b"silent")
        alive.say(HELLO, 60, b"patient")
        assert device.hear() == (ACK, 0, b"") == alive.hear()
        assert device.hear() == (ERROR, 0, b"nothing came in time")
        assert device.hear() is None
        alive.say(PING, 1)
        assert alive.hear() == (PONG, 1, b"")


def test_one_that_comes_anew_takes_its_own_place(gateway: Program) -> None:
    with Device(gateway) as old:
        old.say(HELLO, 60, b"moved")
        assert old.hear() == (ACK, 0, b"")
        with Device(gateway) as new:
            new.say(HELLO, 60, b"moved")
            assert new.hear() == (ACK, 0, b"")
            assert old.hear() is None
            new.say(PING, 1)
            assert new.hear() == (PONG, 1, b"")


NAMES = itertools.count()


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ((PING, 1, b""), b"begin with HELLO"),
        ((HELLO, 60, b"no name!"), b"begin with HELLO"),
        ((HELLO, 60, b"x" * 33), b"begin with HELLO"),
        ((HELLO, 60, b"\xff"), b"begin with HELLO"),
        ((HELLO, 0, b"x"), b"a keepalive is"),
        ((HELLO, 100_000, b"x"), b"a keepalive is"),
        ((HELLO, 60, b"", 60_000), b"a payload has up to 1024 bytes"),
    ],
)
def test_what_is_no_hello_is_refused(gateway: Program, frame: tuple[int, int, bytes], told: bytes) -> None:
    with Device(gateway) as device:
        device.say(*frame)
        heard = device.hear()
        assert heard is not None and heard[:2] == (ERROR, 0) and heard[2].startswith(told)
        with contextlib.suppress(ConnectionResetError):
            assert device.hear() is None


@pytest.mark.parametrize(
    ("frame", "told"),
    [((READING, 2, b"x"), b"reading 1 is missing"), ((ACK, 1, b""), b"frames of the"), ((0, 0, b""), b"frames of")],
)
def test_what_is_out_of_order_is_refused(gateway: Program, frame: tuple[int, int, bytes], told: bytes) -> None:
    with Device(gateway) as device:
        device.say(HELLO, 60, b"wrong%d" % next(NAMES))
        assert device.hear() == (ACK, 0, b"")
        device.say(*frame)
        heard = device.hear()
        assert heard is not None and heard[0] == ERROR and heard[2].startswith(told)


def test_a_device_that_leaves_in_the_middle_of_a_frame_is_no_error(gateway: Program) -> None:
    with Device(gateway) as device:
        device.say(HELLO, 60, b"short", length=500)
        device.socket.shutdown(socket.SHUT_WR)
        assert device.hear() is None
