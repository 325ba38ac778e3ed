"""The suite that `check_socket` runs. The checks themselves are in the modules named socket_…."""

from __future__ import annotations

from .sockets import SocketFactory
from .suite import Suite

__all__ = ["SOCKET"]

SOCKET: Suite[SocketFactory] = Suite("socket")

BULK = 64 << 20
"""Bytes of the large transfers: far above what any kernel buffer holds, so that sends are partial."""
