"""Ports on loopback for one test alone, though others run beside it, in this process or in another.

What bind(2) to port 0 gave and was given back is anybody's: the kernel may hand it to the next who asks.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"
# Below the range from which Linux (ip_local_port_range in ip(7)) and IANA's rules hand out ports to those who ask for
# any; above the ports of most services.
LOWEST, ABOVE = 12_000, 32_000


@contextmanager
def closed_port(kind: int = socket.SOCK_STREAM) -> Iterator[int]:
    """A port at which nobody answers: who connects to it, or sends it a datagram, is refused."""
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind((LOOPBACK, 0))
        if kind == socket.SOCK_DGRAM:
            # A socket with a peer is only given what that peer sends (udp(7)): here, itself.
            holder.connect(holder.getsockname())
        yield holder.getsockname()[1]


@contextmanager
def port_to_bind() -> Iterator[int]:
    """A port, of TCP and of UDP, that is free on every address, for a program that is told it and binds it itself.

    The claim, which every test on this machine honours, is a name in Linux's abstract namespace (unix(7)).
    """
    # Not random.randrange(): hypothesis seeds that one, in each process alike.
    numbers = random.SystemRandom()
    while True:
        number = numbers.randrange(LOWEST, ABOVE)
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                if sys.platform == "linux":
                    claim.bind(f"\0jackfield-tests-port-{number}")
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as probe:
                        probe.bind(("", number))
            except OSError:
                continue
            yield number
            return
