"""How a connection comes in and is over: the native twin counts, judges and remembers as the pure one does.

The native one does the common case where the guard has an :class:`Admission` itself, so a guard that has one of another
class, which does the same, is all pure: both are driven through the same comings and goings here, side by side.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jackfield.admission import Admission, Credentials, PeerList, Rate
from jackfield.connections import Connection, Connections
from jackfield.events import Event, Publisher, Reason
from jackfield.guard import Guard
from jackfield.limits import Limits
from jackfield.testing import ManualClock

STEPS = 400

PEERS: list[Any] = [
    *((f"192.0.2.{number}", 1000 + number) for number in range(5)),
    ("127.0.0.1", 7),  # exempt
    ("::ffff:192.0.2.1", 7, 0, 0),
    ("2001:db8::1", 7, 0, 0),
    ("2001:db8::2", 7, 0, 0),
    ("192.0.2.1\0", 7),
    ("192.0.2.01", 7),
    ("no address", 7),
    ("\ud800", 7),
    (7, 7),
    Credentials(1, 1000, 1000),
    "",
    None,
]

LIMITS = {
    "the defaults": Limits(),
    "few": Limits(max_connections=6, max_connections_per_address=2),
    "none": Limits.none(),
    "lists": Limits(deny=PeerList(["192.0.2.3"])),
    "rates": Limits(accept_rate_per_address=Rate(1, burst=2)),
    "prefixes": Limits(ipv4_prefix=31, max_connections_per_address=3),
    "a life": Limits.none(connection_lifetime=2.0),
}


class PureAdmission(Admission):
    """Of no class that the native twin knows."""

    __slots__ = ()


class Request:
    """What a connection is entered with."""

    closed = False

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True


class Side:
    """A guard, who is in, and what was told."""

    def __init__(self, admission: type[Admission], limits: Limits) -> None:
        self.clock = ManualClock()
        self.events = Publisher()
        self.guard = Guard(Connections(self.clock), limits, self.events)
        self.guard.admission = admission(limits, self.clock)
        self.guard.deadlines.on_earlier = lambda: self.told.append("earlier")
        self.inside: list[tuple[Request, Connection]] = []
        self.told: list[Any] = []

    def come(self, peer: Any) -> Any:
        request = Request()
        connection = self.guard.let_in(request, peer, "tcp://192.0.2.9:7")
        if connection is None:
            return request.closed
        assert connection._socket() is request and self.guard.connections.of(request) is connection
        self.inside.append((request, connection))
        return {name: getattr(connection, name) for name in ("id", "peer", "listener", "reason", "established", "since",
                                                             "due", "_pace")}  # fmt: skip

    def go(self, which: int, reason: Reason) -> None:
        request, connection = self.inside.pop(which % len(self.inside))
        connection.reason = reason
        self.guard.account(connection, None)
        self.guard.connections.remove(connection)
        assert self.guard.connections.of(request) is None

    def remembered(self) -> dict[str, Any]:
        guard, admission, deadlines = self.guard, self.guard.admission, self.guard.deadlines
        return {
            "total": (admission.total, guard.connections.total, guard.connections.entered),
            "counts": (dict(admission._counts), dict(admission._spread), admission.refusals, admission.bans()),
            "ends": (dict(guard.ends), dict(guard.refusals), guard._full_since),
            "slots": {number: list(slot) for number, slot in deadlines._slots.items() if slot},
            "earliest": deadlines._earliest,
            "told": self.told,
        }


def drive(side: Side, seed: int) -> list[Any]:
    """The same comings and goings for each side, and what came of each step."""
    chance, seen = random.Random(seed), []
    for _ in range(STEPS):
        what = chance.random()
        if what < 0.55:
            seen.append(side.come(chance.choice(PEERS)))
        elif what < 0.9 and side.inside:
            reasons = [Reason.PEER_CLOSED, Reason.PEER_CLOSED, Reason.HANDLER_RETURNED, Reason.TLS_ERROR]
            side.go(chance.randrange(1000), chance.choice(reasons))
        elif what < 0.95:
            side.clock.advance(chance.choice([0.01, 0.3, 5.0]))
        elif what < 0.97:
            side.guard.deadlines.look()
        elif what < 0.98:
            seen.append(side.guard.admission.bans())
            side.guard.admission.ban(("192.0.2.4", 1), 3.0)
        elif what < 0.99:
            side.guard.limits = LIMITS[chance.choice(list(LIMITS))]
        else:
            stop = side.events.subscribe(lambda event: side.told.append(as_text(event)))
            seen.append(side.come(("192.0.2.1", 1)))
            stop()
        seen.append(side.remembered())
    return seen


def as_text(event: Event) -> str:
    return repr(event)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(4))
def test_both_twins_do_the_same(limits: str, seed: int) -> None:
    one, other = Side(Admission, LIMITS[limits]), Side(PureAdmission, LIMITS[limits])
    for first, second in zip(drive(one, seed), drive(other, seed), strict=True):
        assert first == second


def skips_a_deadline(side: Side) -> None:
    _, connection = side.inside[0]
    side.guard.deadlines.leave(connection)


def counts_one_more(side: Side) -> None:
    side.guard.admission._total += 1


@pytest.mark.parametrize("fault", [skips_a_deadline, counts_one_more])
def test_a_difference_would_be_seen(fault: Callable[[Side], None]) -> None:
    one, other = Side(Admission, Limits()), Side(PureAdmission, Limits())
    for side in (one, other):
        side.come(PEERS[0])
    assert one.remembered() == other.remembered()
    fault(one)
    assert one.remembered() != other.remembered()


def test_who_is_not_in_cannot_leave() -> None:
    side = Side(Admission, Limits())
    side.come(PEERS[0])
    side.go(0, Reason.PEER_CLOSED)
    stranger = Connection(side.guard.connections, 1, PEERS[1], "")
    stranger.reason = Reason.CLOSED
    with pytest.raises(Exception, match="is not in: call leave"):
        side.guard.account(stranger)
    assert side.guard.ends == {Reason.PEER_CLOSED: 1} and side.guard.admission.total == 0


@pytest.mark.parametrize("arguments", [(), (None,), (None,) * 3, (None,) * 12])
def test_arguments_are_counted(arguments: tuple[Any, ...]) -> None:
    guard: Any = Side(Admission, Limits()).guard
    for method in (guard.let_in, guard.note):
        if len(arguments) != 3 or method == guard.note:
            with pytest.raises(TypeError):
                method(*arguments)
