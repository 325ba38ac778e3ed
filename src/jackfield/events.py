"""What happens, as frozen records; and the place where whoever wants to know is told.

Logs, metrics and pages are subscribers: the server itself only says what happened. An event that nobody listens to is
not even made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["ConnectionEnded", "ConnectionRefused", "ConnectionStarted", "Event", "Publisher", "Reason", "Subscriber"]

_log = logging.getLogger("jackfield.events")


class Reason(StrEnum):
    """Why a connection ended, or never began. The list is closed: every end has exactly one of these."""

    PEER_CLOSED = "peer_closed"  # the peer ended its side, and the handler returned
    PEER_RESET = "peer_reset"  # the peer broke the connection, or vanished
    HANDLER_RETURNED = "handler_returned"  # the handler had no more to say
    HANDLER_ERROR = "handler_error"  # the handler let an exception out
    VERIFY_REFUSED = "verify_refused"  # the server's verify_request() said no
    IDLE = "idle"  # nothing came or went for idle_timeout, or no first byte for first_byte_timeout
    LIFETIME = "lifetime"  # connection_lifetime was over
    TOO_SLOW = "too_slow"  # a message, or an answer, moved slower than message_timeout and min_rate allow
    SEND_STALLED = "send_stalled"  # the peer took nothing for send_timeout
    HANDSHAKE_TIMEOUT = "handshake_timeout"  # PROXY header and TLS were not done in handshake_timeout
    TLS_ERROR = "tls_error"  # the TLS handshake failed, or a record could not be right
    PROXY_ERROR = "proxy_error"  # no PROXY header where there must be one, or none that can be right
    LIMIT_LINE = "limit_line"  # a line longer than max_line
    LIMIT_MESSAGE = "limit_message"  # a message larger than max_message
    LIMIT_CONNECTIONS = "limit_connections"  # max_connections were there already
    LIMIT_HANDSHAKES = "limit_handshakes"  # max_handshakes were not yet established
    LIMIT_PER_ADDRESS = "limit_per_address"  # max_connections_per_address were there from its address
    LIMIT_RATE = "limit_rate"  # accept_rate
    LIMIT_RATE_PER_ADDRESS = "limit_rate_per_address"  # accept_rate_per_address
    DENIED = "denied"  # its address is in deny, or not in allow
    BANNED = "banned"  # its address has offended
    NO_UNIT = "no_unit"  # the system gave no thread or process for it
    NO_DESCRIPTOR = "no_descriptor"  # descriptors were exhausted, and the spare one was used to turn it away
    CLOSED = "closed"  # somebody called close() on it
    ABORTED = "aborted"  # somebody called abort() on it
    DRAINED = "drained"  # the server stopped, and its deadline passed

    # In C; the one of Enum is in Python, and every connection is counted by its reason.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at ``listener``, its address as text, with ``peer``: its address as the socket module gives
    it, or for a Unix socket the :class:`~jackfield.admission.Credentials` of the process there."""

    listener: str
    peer: Any


@dataclass(frozen=True, slots=True)
class ConnectionRefused(Event):
    """A client was turned away before it was a connection."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class ConnectionStarted(Event):
    """A connection was admitted; ``id`` is its number, and the PROXY header and TLS are still to come."""

    id: int


@dataclass(frozen=True, slots=True)
class ConnectionEnded(Event):
    """A connection is over: ``received`` and ``sent`` bytes on the wire, ``duration`` in seconds from accept to end,
    ``error`` what its handler let out, if that was it."""

    id: int
    reason: Reason
    received: int
    sent: int
    duration: float
    error: BaseException | None = None


Subscriber = Callable[[Event], object]


class Publisher:
    """Tells subscribers what happens, on the thread where it happens; safe from any thread.

    ``wanted`` is False while nobody listens: ask it before making an event. A subscriber that raises is dropped and
    reported, once; what it was told of goes on untouched.
    """

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        # A new tuple at each change, so that publishing goes over a whole one without a lock.
        self._subscribers: tuple[tuple[Subscriber, tuple[type[Event], ...]], ...] = ()

    @property
    def wanted(self) -> bool:
        return bool(self._subscribers)

    def subscribe(self, subscriber: Subscriber, *kinds: type[Event]) -> Callable[[], None]:
        """Call ``subscriber(event)`` for every event of ``kinds`` (all, if none is named) from now on; returns what
        ends that. It is called where the event happens and must not wait."""
        entry = (subscriber, kinds or (Event,))
        self._subscribers += (entry,)

        def unsubscribe() -> None:
            self._subscribers = tuple(one for one in self._subscribers if one is not entry)

        return unsubscribe

    def fall_silent(self) -> None:
        """Tell nobody any more: in a forked process, whose parent tells what happens there."""
        self._subscribers = ()

    def publish(self, event: Event) -> None:
        """Tell everybody who wants to know."""
        for entry in self._subscribers:
            subscriber, kinds = entry
            if isinstance(event, kinds):
                try:
                    subscriber(event)
                except Exception:
                    self._subscribers = tuple(one for one in self._subscribers if one is not entry)
                    _log.exception("a subscriber failed and is told nothing more: %r", subscriber)
