"""The link between a supervisor and one worker: a pair of sockets, and short messages of JSON.

Its end is a message, too: the kernel closes it when the process at the other end is gone, however that came about.

What is too long for a message goes with one as a file that is in memory only (memfd_create(2)): whoever passes it on
copies nothing and waits for nobody.
"""

from __future__ import annotations

import json
import os
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

    def send(self, *, fd: int = -1, **message: Any) -> bool:
        """False if nobody is there, the other side has not read for long (it is not waited for), or it is too long.
        ``fd`` goes with it, and stays open here."""
        short = {name: value[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in message.items()}
        data = json.dumps(short).encode()
        if len(data) > LARGEST:
            return False
        try:
            if fd < 0:
                self._sock.send(data)
            else:
                _socket_std.send_fds(self._sock, [data], [fd])
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next message; an empty one if there is none, or one that is no message of ours; None at the end. What
        came with it is a descriptor at ``fd``, for whoever reads it to close."""
        try:
            data, fds, _, _ = _socket_std.recv_fds(self._sock, LARGEST, 1, _socket_std.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return {}
        except OSError:
            return None
        if not data:
            return None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            for fd in fds:
                os.close(fd)
            return {}
        return message | {"fd": fds[0]} if fds else message

    def close(self) -> None:
        self._sock.close()


def written(value: Any) -> int:
    """A file in memory with ``value`` as JSON; its descriptor. OSError if there is none left."""
    fd = os.memfd_create("jackfield", os.MFD_CLOEXEC)
    try:
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            json.dump(value, file, allow_nan=False)
    except BaseException:
        os.close(fd)
        raise
    return fd


def taken(fd: int) -> Any:
    """What is in it; it is closed. ValueError if that is no JSON."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return json.load(file)
