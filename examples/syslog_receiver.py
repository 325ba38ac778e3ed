"""A receiver of syslog by UDP, TCP and TLS, which prints each message as a line of JSON.

    python examples/syslog_receiver.py [ADDRESS ...]    udp://127.0.0.1:9514 and tcp://127.0.0.1:9514 unless given
    logger -n 127.0.0.1 -P 9514 -T --octet-count -p user.warning "the disk is full"

``jackfield serve --app-dir examples syslog_receiver:Syslog -k green --idle-timeout 0 -b udp://:514 -b tcp://:514`` is
the same, on every interface; TLS is ``-b 'tls://:6514?cert=fullchain.pem'``. Mode green, since senders keep their
connections for days; mode thread will do for a few hundred.

Messages are of RFC 5424, or the older kind that RFC 3164 tells of; whatever is neither is kept as it is. On a stream
each stands behind its length or ends with its line, and senders of both kinds are understood (RFC 6587, RFC 5425).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import jackfield
from jackfield.limits import Limits

LONGEST = 8192  # bytes of a message: RFC 5424, 6.1 bids to take 2048; what is longer is cut
DEFAULT = "<13>"  # user.notice: what stands for a priority that is not told (RFC 3164, 4.3.3)

FACILITIES = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock".split()
FACILITIES += [f"local{number}" for number in range(8)]
SEVERITIES = "emerg alert crit err warning notice info debug".split()

PRIORITY = re.compile(r"<(\d|[1-9]\d|1[0-8]\d|19[01])>", re.ASCII)
STRUCTURED = r'-|(?:\[[^ =\]"]{1,32}(?: [^ =\]"]{1,32}="(?:[^"\\\]]|\\.)*")*\])+'
RFC5424 = re.compile(rf"1 (\S+) (\S+) (\S+) (\S+) (\S+) ({STRUCTURED})(?: (.*))?", re.ASCII | re.DOTALL)
RFC3164 = re.compile(
    r"([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (\S+) ([^\s:\[]{1,48})(?:\[([^\]]*)\])?: ?(.*)", re.ASCII | re.DOTALL
)


def parse(message: bytes) -> dict[str, Any]:
    """What a message says. Nothing is refused: a log that is written badly is worth more than none."""
    text = message.decode("utf-8", "backslashreplace").rstrip("\r\n\0").removeprefix("\ufeff")
    found = PRIORITY.match(text)
    priority = int(found[1]) if found else int(DEFAULT[1:-1])
    rest = text[found.end() :] if found else text
    told: dict[str, Any] = {"facility": FACILITIES[priority >> 3], "severity": SEVERITIES[priority & 7]}
    if found and (new := RFC5424.fullmatch(rest)):
        names = ("time", "host", "program", "pid", "id", "data")
        told |= {name: value for name, value in zip(names, new.groups(), strict=False) if value != "-"}
        told["text"] = (new[7] or "").removeprefix("\ufeff")  # RFC 5424, 6.4: a BOM says that it is UTF-8
    elif found and (old := RFC3164.fullmatch(rest)):
        names = ("time", "host", "program", "pid", "text")
        told |= {name: value for name, value in zip(names, old.groups(), strict=True) if value is not None}
    else:
        told["text"] = rest
    return told


def messages(stream: BinaryIO) -> Iterator[bytes]:
    """The messages of a stream; a sender counts bytes if it begins with a digit, else it ends lines (RFC 6587, 3.4)."""
    while first := stream.read(1):
        if first in b"123456789":
            length = first
            while (digit := stream.read(1)).isdigit() and len(length) < 7:
                length += digit
            if digit != b" ":
                return  # that is no length, so nobody knows where the next message begins
            left = int(length)
            message = stream.read(min(left, LONGEST))
            left -= len(message)
            while left and (cut := stream.read(min(left, LONGEST))):
                left -= len(cut)
            if left:
                return  # the sender has gone in the middle of it
        else:
            message = first + (b"" if first == b"\n" else stream.readline(LONGEST))
            cut = message
            while cut and not cut.endswith(b"\n"):
                cut = stream.readline(LONGEST)
        if message.strip():
            yield message


class Syslog(jackfield.BaseRequestHandler):
    """One sender's connection, or one message."""

    def handle(self) -> None:
        if isinstance(self.request, tuple):
            self.print("udp", self.request[0])
            return
        with self.request.makefile("rb") as stream:
            for message in messages(stream):
                self.print("tls" if self.request.tls else "tcp", message)

    def print(self, way: str, message: bytes) -> None:
        told = {"from": self.client_address[0], "by": way} | parse(message)
        sys.stdout.write(json.dumps(told) + "\n")  # in one piece, whoever else writes
        sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    addresses = sys.argv[1:] or ["udp://127.0.0.1:9514", "tcp://127.0.0.1:9514"]
    # A sender that has nothing to tell is silent for hours.
    jackfield.serve(Syslog, *addresses, mode="green", limits=Limits(idle_timeout=None), graceful_timeout=1)
