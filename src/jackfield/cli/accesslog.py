"""The access log: a line for each connection when it has ended."""

from __future__ import annotations

import logging
from typing import Any

from jackfield.admin.texts import peer_text
from jackfield.events import ConnectionEnded, ConnectionRefused, Event
from jackfield.server import Server

__all__ = ["log_access"]

_log = logging.getLogger("jackfield.access")


def log_access(server: Server) -> None:
    """Have it logged: who, where, how many bytes came and went, how long it took, and why it ended. One that was turned
    away has a reason only."""
    server.subscribe(_say, ConnectionEnded, ConnectionRefused)


def _say(event: Event) -> None:
    if not _log.isEnabledFor(logging.INFO):
        return
    fields: dict[str, Any] = {"event": "refused", "peer": peer_text(event.peer), "listener": event.listener}
    if isinstance(event, ConnectionEnded):
        fields |= {
            "event": "ended", "id": event.id, "reason": event.reason.value, "received": event.received,
            "sent": event.sent, "duration": round(event.duration, 6),
        }  # fmt: skip
        text = "%(peer)s %(listener)s #%(id)d %(reason)s, %(received)d in, %(sent)d out, %(duration).3f s"
    elif isinstance(event, ConnectionRefused):
        fields["reason"] = event.reason.value
        text = "%(peer)s %(listener)s turned away: %(reason)s"
    _log.info(text, fields, extra={"fields": fields})
