"""Peers and durations as people read them."""

from __future__ import annotations

from typing import Any

from ..admission.addresses import Credentials
from ..journal.escaping import one_line

__all__ = ["host_of", "peer_text"]


def peer_text(peer: Any) -> str:
    """``192.0.2.1:4711``, ``[2001:db8::1]:4711``, ``pid 12, uid 1000``; what a peer chose itself is escaped."""
    if isinstance(peer, Credentials):
        return f"pid {peer.pid}, uid {peer.uid}"
    host = host_of(peer)
    if isinstance(peer, tuple) and len(peer) >= 2 and peer[1]:
        return f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"
    return host


def host_of(peer: Any) -> str:
    """The same without what differs from one connection of a peer to the next."""
    if isinstance(peer, Credentials):
        return f"uid {peer.uid}"
    if isinstance(peer, tuple) and peer:
        return one_line(str(peer[0]))
    text = peer.decode("utf-8", "backslashreplace") if isinstance(peer, bytes) else str(peer or "")
    return one_line(text) or "unnamed"
