"""The gate of a drop-in server of datagrams: its ``limits``, if it has any, at work on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .admission import DatagramGuard


class DatagramGate:
    """Says of each datagram whether it is handled, and of each reply whether it is sent.

    ``limits()`` is what the server holds its clients to just now: None, or anything but a :class:`~jackfield.Limits`,
    for nothing. In a server that forks, each child knows only of its own replies.
    """

    def __init__(self, limits: Callable[[], Any]) -> None:
        self._limits = limits
        self._seen: Any = None
        self._guard: DatagramGuard | None = None
        #: Datagrams that the limits dropped.
        self.dropped = 0

    def admit(self, request: Any, client_address: Any) -> Any | None:
        """``request``, ``(data, socket)``, as its handler gets it; None: it is dropped."""
        limits = self._limits()
        if limits is not self._seen:
            self._seen = limits
            self._guard = self._guard_by(limits)
        guard = self._guard
        if guard is None:
            return request
        data, sock = request
        most = guard.limits.max_datagram
        if (most is not None and len(data) > most) or guard.admit(client_address, len(data)) is not None:
            self.dropped += 1
            return None
        if guard.limits.amplification is None and guard.limits.reply_rate_per_address is None:
            return request
        from .replies import GuardedSocket

        return data, GuardedSocket(sock, guard.may_reply)

    def _guard_by(self, limits: Any) -> DatagramGuard | None:
        from .admission import DatagramGuard  # late: most programs of the old kind have no limits
        from .limits import Limits

        if not isinstance(limits, Limits):
            return None
        if self._guard is None:
            return DatagramGuard(limits)
        self._guard.limits = limits
        return self._guard
