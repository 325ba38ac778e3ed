"""The desk: answers what is asked of the servers of one process, and does what is asked for there.

Questions and answers are values that JSON has, so that they may come from another process.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..admission import Rate, parse_peer
from ..errors import JackfieldError, MisuseError
from ..events import ConnectionEnded
from ..server import Server
from .meter import Meter
from .records import Records
from .runtime import Lags, runtime
from .stacks import stacks
from .texts import peer_text
from .visible import MOST, ORDERS, certificates, limit_values, listener_row, peers, rows_of

__all__ = ["BadQuestion", "Desk"]

LEVELS = ("debug", "info", "warning", "error", "critical")


class BadQuestion(JackfieldError, ValueError):
    """What was asked cannot be answered; one line that says what to ask."""


class Desk:
    """At the desk of ``servers``; ``worker`` is the number of this process among several.

    It counts from the moment it is made until :meth:`close`. From any thread.
    """

    def __init__(self, servers: Sequence[Server], worker: int = 0) -> None:
        self.worker = worker
        self._servers = servers
        self._meters = [Meter() for _ in servers]
        self._lags = [Lags(server) for server in servers]
        self._records = Records()
        self._ends = [
            server.subscribe(meter, ConnectionEnded) for server, meter in zip(servers, self._meters, strict=True)
        ]
        logging.getLogger().addHandler(self._records)
        self._answers: dict[str, Callable[..., Any]] = {
            "stats": self.stats,
            "connections": self.connections,
            "records": self._records.read,
            "stacks": stacks,
            "limits": self.limits,
            "bans": self.bans,
            "close": self.close_connection,
            "ban": self.ban,
            "unban": self.unban,
            "suspend": self.suspend,
            "resume": self.resume,
            "log-level": self.log_level,
            "set-limits": self.set_limits,
        }

    def answer(self, what: str, **arguments: Any) -> Any:
        """What is asked for, by its name. BadQuestion if there is no such thing, or not with these arguments."""
        try:
            answer = self._answers[what]
        except KeyError:
            raise BadQuestion(f"nothing is known of {what!r}: ask for one of {', '.join(self._answers)}") from None
        return answer(**arguments)

    def close(self) -> None:
        """It listens no more; any number of times."""
        logging.getLogger().removeHandler(self._records)
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    # -- what there is -----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """All figures of this process."""
        return {
            "worker": self.worker,
            "runtime": runtime(),
            "servers": [
                self._stats_of(server, meter, lags)
                for server, meter, lags in zip(self._servers, self._meters, self._lags, strict=True)
            ],
        }

    def _stats_of(self, server: Server, meter: Meter, lags: Lags) -> dict[str, Any]:
        lags.ask()
        live = server.connections
        moved = meter.read()
        return {
            **dataclasses.asdict(server.info()),
            **moved,
            # What the connections that there are have moved so far, and those that have ended.
            "received": moved["received"] + sum(one.received for one in live),
            "sent": moved["sent"] + sum(one.sent for one in live),
            "most": server.limits.max_connections,
            "entering": sum(not one.established for one in live),
            "listeners": [listener_row(listener) for listener in list(server._service.listeners)],
            "certificates": certificates(server),
            "peers": peers(server),
            "lag": lags.read(),
        }

    def connections(self, order: str = "age", text: str = "", most: int = MOST) -> dict[str, Any]:
        """Those that come first in an order, and how many there are."""
        if order not in ORDERS:
            raise BadQuestion(f"connections have no {order!r} to be sorted by: write one of {', '.join(ORDERS)}")
        return rows_of(self._servers, order=order, text=text, most=max(0, min(most, MOST)))

    def limits(self) -> list[dict[str, Any]]:
        """The limits in force, of each server."""
        return [limit_values(server.limits) for server in self._servers]

    def bans(self) -> list[dict[str, Any]]:
        """The addresses that are banned, of all servers."""
        return [
            {"server": number, **ban._asdict()}
            for number, server in enumerate(self._servers)
            for ban in server._service.guard.admission.bans()
        ]

    # -- what is done ------------------------------------------------------------------------------------------------

    def _server(self, number: int) -> Server:
        if not 0 <= number < len(self._servers):
            raise BadQuestion(f"there is no server {number}: they are counted from 0 to {len(self._servers) - 1}")
        return self._servers[number]

    def close_connection(self, server: int, id: int) -> dict[str, Any]:
        """End that connection, as its peer and its handler see it at once; ``closed`` is None if there is none."""
        connection = self._server(server).connection(id)
        if connection is None:
            return {"closed": None}
        peer = peer_text(connection.peer)
        connection.close()
        return {"closed": peer}

    def ban(self, peer: str, seconds: float = 600.0) -> dict[str, Any]:
        """Let nobody in from that address for so long."""
        try:
            who = parse_peer(peer)
            for server in self._servers:
                server._service.guard.admission.ban(who, seconds)
        except (ValueError, MisuseError) as error:
            raise BadQuestion(str(error)) from error
        return {"banned": peer, "seconds": seconds}

    def unban(self, peer: str) -> dict[str, Any]:
        """Let them in again; whether they were banned."""
        try:
            who = parse_peer(peer)
        except ValueError as error:
            raise BadQuestion(str(error)) from error
        lifted = [server._service.guard.admission.unban(who) for server in self._servers]
        return {"unbanned": any(lifted)}

    def suspend(self) -> dict[str, Any]:
        """Accept nobody until :meth:`resume`: those who connect wait."""
        for server in self._servers:
            server.suspend()
        return {"states": [server.state for server in self._servers]}

    def resume(self) -> dict[str, Any]:
        for server in self._servers:
            server.resume()
        return {"states": [server.state for server in self._servers]}

    def log_level(self, level: str) -> dict[str, Any]:
        """What is logged from now on."""
        if level not in LEVELS:
            raise BadQuestion(f"there is no level {level!r}: write one of {', '.join(LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        return {"level": level}

    def set_limits(self, values: dict[str, Any], server: int = 0) -> dict[str, Any]:
        """Other limits from now on, by their names; what is written as a rate is one (``100/s,200``). None is off."""
        one = self._server(server)
        known = {field.name: field for field in dataclasses.fields(one.limits)}
        for name in values:
            if name not in known:
                raise BadQuestion(f"there is no limit {name!r}: they are {', '.join(known)}")
        try:
            one.limits = one.limits.replace(**{name: _meant(name, value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise BadQuestion(str(error)) from error
        return limit_values(one.limits)


#: Limits that are rates, and those that no plain value can say: they stand in files.
_RATES = {
    "accept_rate", "accept_rate_per_address", "datagram_rate", "datagram_rate_per_address", "reply_rate_per_address",
}  # fmt: skip
_ELSEWHERE = {"allow", "deny", "exempt", "penalties"}


def _meant(name: str, value: Any) -> Any:
    if name in _ELSEWHERE:
        raise ValueError(f"{name} is changed in its file, and read again at a reload")
    if name in _RATES and isinstance(value, str):
        return Rate.parse(value)
    return value.encode() if name == "refusal" and isinstance(value, str) else value
