"""The two suites that `check_server` chooses between by the address: streams and datagrams."""

from __future__ import annotations

from .servers import ServerFactory
from .suite import Suite

__all__ = ["DATAGRAM_SERVER", "STREAM_SERVER"]

STREAM_SERVER: Suite[ServerFactory] = Suite("stream server")
DATAGRAM_SERVER: Suite[ServerFactory] = Suite("datagram server")

BULK = 64 << 20
"""Bytes of the large transfer."""
CLIENTS = 20
"""Clients at once."""
