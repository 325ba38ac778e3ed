"""Ping: ICMP echo requests by a raw socket, all hosts at the same time, a green thread for each.

    python examples/ping.py [-c COUNT] [HOST ...]     127.0.0.1, 3 times, unless told otherwise

A raw socket takes the capability CAP_NET_RAW (raw(7)): run it as root. Without it a socket for echo requests alone will
do, where the system lets this group have one (ping_group_range in icmp(7)). The exit code is 0 if every request was
answered, 1 if not, 2 without the privilege. It is a client, so ``jackfield serve`` has nothing to do with it.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time

import jackfield
from jackfield import socket

ECHO_REPLY, ECHO_REQUEST = 0, 8  # RFC 792
HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
SECONDS = 2.0
PAYLOAD = bytes(range(56))


def checksum(packet: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum of its 16-bit words."""
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def request(identifier: int, sequence: int) -> bytes:
    """An echo request."""
    blank = HEADER.pack(ECHO_REQUEST, 0, 0, identifier, sequence) + PAYLOAD
    return HEADER.pack(ECHO_REQUEST, 0, checksum(blank), identifier, sequence) + PAYLOAD


def wait_reply(sock: socket.socket, identifier: int, sequence: int) -> bytes:
    """The ICMP message that answers; TimeoutError if none comes in time.

    A raw socket receives every ICMP packet of the machine, each behind its IP header: on loopback our own requests too.
    The other kind receives its own replies, without a header.
    """
    deadline = time.monotonic() + SECONDS
    while True:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        packet = sock.recv(65535)
        # The header's length is counted in words (RFC 791).
        message = packet[(packet[0] & 0x0F) * 4 :] if sock.type == socket.SOCK_RAW else packet
        if len(message) < HEADER.size:
            continue
        kind, _, _, whose, which = HEADER.unpack_from(message)
        if (kind, whose, which) == (ECHO_REPLY, identifier, sequence):
            return message


def open_socket() -> socket.socket:
    """A socket for ICMP; the PermissionError of the raw one, which says what is missing, if there is none."""
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError as error:
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        except PermissionError:
            raise error from None


def ping(host: str, count: int) -> int:
    """Ping one host; returns how many requests were answered."""
    answered = 0
    identifier = int.from_bytes(os.urandom(2), "big")
    with open_socket() as sock:
        sock.connect((host, 0))  # from now on only packets of this host are received
        if sock.type == socket.SOCK_DGRAM:
            identifier = sock.getsockname()[1]  # which the kernel puts in, whatever we write
        for sequence in range(1, count + 1):
            began = time.monotonic()
            sock.sendall(request(identifier, sequence))
            try:
                message = wait_reply(sock, identifier, sequence)
            except TimeoutError:
                print(f"{host}: nothing within {SECONDS:g} s, sequence {sequence}", flush=True)
                continue
            answered += 1
            milliseconds = (time.monotonic() - began) * 1000
            print(f"{host}: {len(message)} bytes, sequence {sequence}, {milliseconds:.3f} ms", flush=True)
    return answered


def main(hosts: list[str], count: int) -> int:
    """Ping all hosts at once; the exit code."""
    pings = [jackfield.spawn(ping, host, count) for host in hosts]
    complete = True
    for host, green in zip(hosts, pings, strict=True):
        try:
            complete = green.result() == count and complete
        except PermissionError as error:
            print(f"ping: {error.strerror}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"ping: {host}: {error.strerror}", file=sys.stderr)
            complete = False
    return 0 if complete else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="ICMP echo requests, all hosts at the same time.")
    parser.add_argument("hosts", nargs="*", metavar="HOST", default=["127.0.0.1"])
    parser.add_argument("-c", "--count", type=int, default=3)
    options = parser.parse_args()
    sys.exit(jackfield.run(main, options.hosts, options.count))
