"""A gateway for devices: binary frames, each acknowledged, so that no reading is lost or counted twice.

    python examples/device_gateway.py [ADDRESS]     9883 unless given; 0 takes any free port
    python examples/device_gateway.py send :9883 cellar "12 °C" "13 °C"

The latter is a device. ``jackfield serve --app-dir examples device_gateway:Gateway --idle-timeout 0`` is the same as
the former. Mode async: a device is silent most of the time, and one that is costs a coroutine.

A frame is its length (2 bytes), kind (1), number (4) and payload, numbers with the high byte first; the length is that
of the payload. A device begins with HELLO, whose number is its keepalive in seconds and whose payload is its name; the
gateway answers with the number of the last reading that it has of it. READINGs are numbered from there by one, and each
is acknowledged with its number once it is printed; one that is there already, as its acknowledgement was lost, is
acknowledged again. A device with nothing to say sends PING; one that is silent for one and a half of its keepalive is
taken for gone (as in MQTT 3.1.1, 3.1.2.10), and one that comes anew takes the place of its old connection (3.1.4).
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from typing import NamedTuple

import jackfield
from jackfield.limits import Limits
from jackfield.streams import AsyncSocket

HEAD = struct.Struct("!HBI")  # length of the payload, kind, number
HELLO, READING, PING, ACK, PONG, ERROR = range(1, 7)

LONGEST = 1024  # bytes of a payload
LONGEST_NAME = 32
LONGEST_KEEPALIVE = 3600
MOST_DEVICES = 10_000
FRAME_SECONDS = 10.0  # for a frame, from its first byte to its last


class Frame(NamedTuple):
    kind: int
    number: int
    payload: bytes = b""

    def packed(self) -> bytes:
        return HEAD.pack(len(self.payload), self.kind, self.number) + self.payload


class Refused(Exception):
    """What the device is told before the end."""


class Device:
    """What is known of one device, whether it is connected or not."""

    def __init__(self) -> None:
        self.last = 0
        self.connection: AsyncSocket | None = None


class Gateway(jackfield.AsyncStreamRequestHandler):
    """One device's connection."""

    devices: dict[str, Device] = {}  # all on one thread, so there is no lock

    async def handle(self) -> None:
        try:
            name, keepalive = await self.greet()
            device = self.devices[name]
            if device.connection is not None:
                device.connection.close()  # its handler finds it gone
            device.connection = self.request
            try:
                await self.send(Frame(ACK, device.last))
                while frame := await self.read_frame(1.5 * keepalive):
                    await self.take(name, device, frame)
            finally:
                if device.connection is self.request:
                    device.connection = None
        except Refused as refusal:
            await self.send(Frame(ERROR, 0, str(refusal).encode()))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it has gone; what was not acknowledged it will send again

    async def greet(self) -> tuple[str, int]:
        """The name of the device, which is known from now on, and its keepalive."""
        frame = await self.read_frame(FRAME_SECONDS)
        if frame is None:
            raise ConnectionError("it has left without a word")
        name = frame.payload.decode("ascii", "replace")
        if frame.kind != HELLO or not name.isidentifier() or len(name) > LONGEST_NAME:
            raise Refused(f"begin with HELLO and a name of up to {LONGEST_NAME} letters, digits and underscores")
        if not 0 < frame.number <= LONGEST_KEEPALIVE:
            raise Refused(f"a keepalive is 1 to {LONGEST_KEEPALIVE} seconds")
        if name not in self.devices and len(self.devices) >= MOST_DEVICES:
            raise Refused("there is no room for another device")
        self.devices.setdefault(name, Device())
        return name, frame.number

    async def take(self, name: str, device: Device, frame: Frame) -> None:
        if frame.kind == PING:
            await self.send(Frame(PONG, frame.number))
        elif frame.kind != READING:
            raise Refused(f"frames of the kind {frame.kind} are not for the gateway")
        elif frame.number > device.last + 1:
            raise Refused(f"reading {device.last + 1} is missing")
        else:
            if frame.number == device.last + 1:
                text = frame.payload.decode("utf-8", "backslashreplace")
                told = {"device": name, "number": frame.number, "text": text}
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()
                device.last = frame.number
            await self.send(Frame(ACK, frame.number))

    async def read_frame(self, patience: float) -> Frame | None:
        """The next frame, for whose first byte there are ``patience`` seconds; None if the device has ended."""
        try:
            async with asyncio.timeout(patience):
                first = await self.rfile.read(1)
            if not first:
                return None
            async with asyncio.timeout(FRAME_SECONDS):
                length, kind, number = HEAD.unpack(first + await self.rfile.readexactly(HEAD.size - 1))
                if length > LONGEST:
                    raise Refused(f"a payload has up to {LONGEST} bytes")
                return Frame(kind, number, await self.rfile.readexactly(length))
        except TimeoutError:
            raise Refused("nothing came in time") from None

    async def send(self, frame: Frame) -> None:
        await self.wfile.write(frame.packed())


def send(address: str, name: str, texts: list[str]) -> None:
    """A device: sends readings, the next when the last is acknowledged."""

    def exchange(frame: Frame) -> int:
        sock.sendall(frame.packed())
        length, kind, number = HEAD.unpack(stream.read(HEAD.size))
        payload = stream.read(length)
        if kind != ACK:
            sys.exit(f"refused: {payload.decode()}")
        return number

    with jackfield.connect(address, timeout=FRAME_SECONDS) as sock, sock.makefile("rb") as stream:
        last = exchange(Frame(HELLO, 60, name.encode()))
        for number, text in enumerate(texts, last + 1):
            exchange(Frame(READING, number, text.encode()))
            print(f"reading {number} is there", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        if len(sys.argv) < 5:
            sys.exit("write: device_gateway.py send ADDRESS DEVICE TEXT ...")
        send(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
        limits = Limits(idle_timeout=None)  # each device says itself how long it may be silent
        jackfield.serve(Gateway, *(sys.argv[1:] or ["9883"]), limits=limits, graceful_timeout=1)
