"""Home: the datagram sockets of a server, as what they are bound to, and what the kernel dropped for them."""

from __future__ import annotations

import socket as _socket_std
from collections.abc import Iterable
from typing import Any

from ..admission.addresses import source_of
from ..door import Listener, PacketInfo, is_wildcard, kernel_drops
from ..limits import LOOPBACK

__all__ = ["Home"]


class Home:
    """Knows its own: a server that gets a datagram in its own name would answer itself, for ever.

    Its own are the addresses that its sockets are bound to; for one that is bound to all, with the same port, the
    address that the datagram came to, and this machine's loopback. Other addresses of this machine are not known here,
    and need not be: the limits of replies hold for them.
    """

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self.listeners = [listener for listener in listeners if listener.is_datagram]
        #: Of all that are IP.
        self.ports: set[int] = set()
        self._bound: set[tuple[Any, int]] = set()
        self._everywhere: set[int] = set()
        #: What to add to the kernel's own counts: less what it had dropped before a socket was this server's, and more
        #: what it had when one was closed.
        self._base = 0
        for listener in self.listeners:
            self._enter(listener.socket)

    def _enter(self, sock: _socket_std.socket) -> None:
        self._base -= kernel_drops(sock) or 0
        if sock.family in (_socket_std.AF_INET, _socket_std.AF_INET6):
            try:
                name = sock.getsockname()
            except OSError:
                return  # it is closed already, which whoever watches it will find
            self.ports.add(name[1])
            if is_wildcard(sock.family, name):
                self._everywhere.add(name[1])
            else:
                self._bound.add((source_of(name), name[1]))

    def holds(self, peer: Any, local: PacketInfo | None) -> bool:
        """Whether ``peer``, whose datagram came to ``local``, is one of these sockets."""
        source, port = source_of(peer), peer[1]
        if (source, port) in self._bound:
            return True
        if port not in self._everywhere:
            return False
        return LOOPBACK.holds(source) or (local is not None and local.source == source)

    @property
    def kernel_dropped(self) -> int:
        """Datagrams that the kernel dropped while these sockets were the server's."""
        return self._base + sum(kernel_drops(listener.socket) or 0 for listener in list(self.listeners))

    def leave(self, listener: Listener) -> None:
        """``listener`` is about to be closed; any number of times."""
        if listener in self.listeners:
            dropped = kernel_drops(listener.socket) or 0
            self.listeners.remove(listener)
            self._base += dropped
