"""A SOCKS5 proxy: clients name where they want to go, by address or by name, and are let through where they may.

    python examples/socks5_proxy.py [ADDRESS]       9080 unless given; 0 takes any free port
    curl --socks5-hostname 127.0.0.1:9080 http://localhost:8000/

``jackfield serve --app-dir examples socks5_proxy:Socks5 -k green`` is the same. Mode green: each connection is two
loops that wait, one for each direction, and as green threads they are cheap.

The environment says who may come and where they may go: SOCKS5_ALLOW, addresses and networks with commas between them
(this machine alone unless given), and SOCKS5_USERS, ``name:password`` likewise (anybody unless given). What a name
stands for is judged by its addresses, and connected to by these, so that no name leads elsewhere. The protocol is that
of RFC 1928 with the passwords of RFC 1929; of its commands CONNECT.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import struct
import sys
from typing import Any

from tcp_proxy import pump

import jackfield
from jackfield import socket
from jackfield.admission import PeerList

SECONDS = 10.0  # for each step until the client is through

ALLOWED = PeerList(os.environ.get("SOCKS5_ALLOW", "127.0.0.0/8,::1").split(","))
USERS = dict(pair.split(":", 1) for pair in os.environ.get("SOCKS5_USERS", "").split(",") if pair)

NO_PASSWORD, PASSWORD, NO_METHOD = 0, 2, 0xFF
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4
FAILED, NOT_ALLOWED, NETWORK, HOST, REFUSED, NO_COMMAND, NO_KIND = 1, 2, 3, 4, 5, 7, 8
REPLIES = {
    errno.ENETUNREACH: NETWORK, errno.EHOSTUNREACH: HOST, errno.ETIMEDOUT: HOST, errno.ECONNREFUSED: REFUSED,
}  # fmt: skip


class Refused(Exception):
    """The reply to a client that is not let through."""


class Socks5(jackfield.BaseRequestHandler):
    """One client, and where it wants to go."""

    def handle(self) -> None:
        self.request.settimeout(SECONDS)
        try:
            if not self.greet():
                return
            upstream = self.connect()
        except Refused as refusal:
            self.reply(refusal.args[0], ("0.0.0.0", 0))
            return
        except EOFError:
            return  # the client has left
        with upstream:
            self.reply(0, upstream.getsockname())
            self.request.settimeout(None)  # from here on the server's limits hold, and no others
            back = jackfield.spawn(pump, upstream, self.request)
            pump(self.request, upstream)
            back.join()

    def greet(self) -> bool:
        """Agree on how the client shows who it is, and have it shown."""
        version, count = self.read(2)
        if version != 5:
            return False  # some other protocol: nothing that could be said would be understood
        wanted = PASSWORD if USERS else NO_PASSWORD
        offered = self.read(count)
        self.request.sendall(bytes([5, wanted if wanted in offered else NO_METHOD]))
        if wanted not in offered:
            return False
        if wanted == NO_PASSWORD:
            return True
        _, length = self.read(2)  # RFC 1929
        name = self.read(length).decode("utf-8", "replace")
        password = self.read(self.read(1)[0])
        right = hmac.compare_digest(USERS.get(name, "").encode(), password) and name in USERS
        self.request.sendall(bytes([1, not right]))
        return right

    def connect(self) -> socket.socket:
        """The connection that the client asks for; Refused with the reply if it is not to be had."""
        _, command, _, kind = self.read(4)
        if kind == IPV4:
            host = socket.inet_ntop(socket.AF_INET, self.read(4))
        elif kind == IPV6:
            host = socket.inet_ntop(socket.AF_INET6, self.read(16))
        elif kind == NAME:
            host = self.read(self.read(1)[0]).decode("ascii", "replace")
        else:
            raise Refused(NO_KIND)
        (port,) = struct.unpack("!H", self.read(2))
        if command != CONNECT:
            raise Refused(NO_COMMAND)
        try:
            # Judged by its addresses, and these are connected to: asked for again, a name might stand for others.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise Refused(HOST)
        reply = NOT_ALLOWED
        for *_, address in found:
            if address in ALLOWED:
                try:
                    return jackfield.connect((address[0], port), timeout=SECONDS)
                except (OSError, jackfield.AddressError) as error:
                    reply = REPLIES.get(getattr(error, "errno", None) or errno.ETIMEDOUT, FAILED)
        raise Refused(reply)

    def reply(self, code: int, bound: tuple[Any, ...]) -> None:
        kind, family = (IPV6, socket.AF_INET6) if ":" in bound[0] else (IPV4, socket.AF_INET)
        address = socket.inet_pton(family, bound[0].partition("%")[0])
        self.request.sendall(bytes([5, code, 0, kind]) + address + struct.pack("!H", bound[1]))

    def read(self, size: int) -> bytes:
        """``size`` bytes; EOFError if the client ends before."""
        data = b""
        while len(data) < size:
            more = self.request.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Socks5, *(sys.argv[1:] or ["9080"]), mode="green", graceful_timeout=1)
