"""What a server tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and has done so far: ``limit`` units at once at most, ``uptime`` in seconds of listening;
    ``ends`` are its connections by the reason that they ended for, ``refusals`` the clients and datagrams that were
    turned away (``jackfield.events.Reason``); of the ``datagrams`` received ``dropped`` were not handled, the kernel
    dropped ``kernel_dropped`` more, and ``withheld`` replies were not sent."""

    name: str
    mode: str
    state: str
    addresses: tuple[str, ...]
    limit: int
    connections: int
    accepted: int
    refused: int
    handler_errors: int
    datagrams: int
    dropped: int
    kernel_dropped: int
    withheld: int
    ends: dict[str, int]
    refusals: dict[str, int]
    uptime: float
