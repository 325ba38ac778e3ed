"""Reports: what the children of process mode have sent, told to the parent, whose guard judges who is to be answered.

Without them each child would know of its own replies alone, and no limit of them would hold for longer than one.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import Any

from ..admission import DatagramGuard

__all__ = ["Reports"]

#: Whether it was sent, its bytes, and the address it was for; as short as it is, the kernel writes it as a whole
#: (pipe(7), PIPE_BUF), so that the lines of several children do not mix and a pipe holds whole ones only.
_REPORT = struct.Struct("=?I46s")
_MANY = 1000


class Reports:
    """A pipe from the children to the parent.

    A child judges a reply by what the parent knew when it forked, and reports it before it sends it: so it has arrived
    when the peer's answer does. What that means for the counts:

    - Children that run at the same time do not know of each other: a limit may be passed by as much as it allows to
      one, for each of the others.
    - A pipe holds about a thousand reports. What a child says beyond that before the parent reads, which it does at
      each datagram that comes and when it is asked, is not counted.
    """

    def __init__(self, guard: DatagramGuard) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        self._reading, self._writing = os.pipe()  # close-on-exec (PEP 446)
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._open = True

    def may_reply(self, peer: Any, size: int) -> bool:
        """In a child: whether a datagram of ``size`` bytes may be sent to ``peer``; it then counts as sent."""
        verdict = self._guard.may_reply(peer, size)
        if self._open and isinstance(peer, tuple) and peer and isinstance(peer[0], str) and peer[0].isascii():
            try:
                os.write(self._writing, _REPORT.pack(verdict, min(size, 0xFFFFFFFF), peer[0].encode()[:46]))
            except OSError:
                pass  # it is full, or the parent has gone
        return verdict

    def read(self) -> None:
        """In the parent: count what has been reported since."""
        with self._lock:
            while self._open:
                try:
                    reports = os.read(self._reading, _MANY * _REPORT.size)
                except OSError:
                    return  # none, for now
                for sent, size, host in _REPORT.iter_unpack(reports):
                    self._guard.count_reply((host.rstrip(b"\0").decode(), 0), size, sent=sent)
                if len(reports) < _MANY * _REPORT.size:
                    return

    def close(self) -> None:
        """The last are counted, and no more are taken."""
        self.read()
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._reading)
                os.close(self._writing)
