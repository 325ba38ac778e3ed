"""The link between a supervisor and one worker: a pair of sockets, and short messages of JSON.

Its end is a message, too: the kernel closes it when the process at the other end is gone, however that came about.
"""

from __future__ import annotations

import json
import socket as _socket_std
from typing import Any

#: Bytes of one message at most: SOCK_SEQPACKET keeps messages apart (unix(7)), and cuts what is longer than asked for.
LARGEST = 65536

#: Characters of a text in a message at most; what is longer stands in the log.
LONGEST_TEXT = 4096


class Link:
    """One end. Non-blocking, and closed on exec."""

    def __init__(self, sock: _socket_std.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Both ends: the supervisor's and the worker's. OSError if there are no descriptors left."""
        ours, theirs = _socket_std.socketpair(_socket_std.AF_UNIX, _socket_std.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, **message: Any) -> bool:
        """False if nobody is there, the other side has not read for long (it is not waited for), or it is too long."""
        short = {name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in message.items()}
        data = json.dumps(short).encode()
        if len(data) > LARGEST:
            return False
        try:
            self._sock.send(data)
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next message; an empty one if there is none, or one that is no message of ours; None at the end."""
        try:
            data = self._sock.recv(LARGEST)
        except BlockingIOError:
            return {}
        except OSError:
            return None
        if not data:
            return None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return {}
        return message if isinstance(message, dict) else {}

    def close(self) -> None:
        self._sock.close()
