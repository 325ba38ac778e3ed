"""Places: a listening socket for each worker where the port may be several sockets' (``SO_REUSEPORT``, socket(7)).

The kernel gives each client to one of the sockets of a port, by a hash of both addresses, and there the client waits.
It resets whoever waits at a socket when the last descriptor of that is closed (tcp_migrate_req, since Linux 5.14, would
move them, and is off by default). So where workers open their own, each that ends loses some. Here it is the supervisor
that has all of them, from before the first fork until the stop, and workers inherit: one that dies, or is replaced,
leaves its socket, with its queue, to the next one of its place. Where there are fewer workers than sockets, some have
several; none is closed before the stop.
"""

from __future__ import annotations

import dataclasses
import logging
import socket as _socket_std
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from ..door import Listener, open_listeners
from ..errors import StartError
from .member import Member

_log = logging.getLogger("jackfield.supervisor")


def ports_of(listeners: Iterable[Listener]) -> list[list[Listener]]:
    """Those that may share their ports, by port; the first of each is the one that was asked for."""
    option = getattr(_socket_std, "SO_REUSEPORT", None)
    found: dict[object, list[Listener]] = {}
    for listener in listeners:
        sock = listener.socket
        if option is None or listener.shared or sock.family not in (_socket_std.AF_INET, _socket_std.AF_INET6):
            continue
        if sock.getsockopt(_socket_std.SOL_SOCKET, option):
            found.setdefault((sock.family, listener.is_datagram, sock.getsockname()), []).append(listener)
    return list(found.values())


def open_places(listeners: Iterable[Listener], workers: int) -> list[Listener]:
    """As many more as are missing for so many workers; with a line in the log, fewer, where the kernel has no more: all
    sockets of a port have to be one user's."""
    opened: list[Listener] = []
    for port in ports_of(listeners):
        for _ in range(workers - len(port)):
            try:
                opened.append(_another(port[0]))
            except StartError as error:
                _log.warning("%s: some workers have no socket of their own: %s", port[0].location, error)
                break
    return opened


def _another(first: Listener) -> Listener:
    """One more socket of its port, with the same options."""
    address, sockaddr = first.address, first.socket.getsockname()
    # All interfaces are one address of ours; a name may mean several, of which this is one.
    host = address.host if address.host in ("", "::") else sockaddr[0]
    if len(sockaddr) == 4 and sockaddr[3]:
        host = f"{host.partition('%')[0]}%{sockaddr[3]}"
    (listener,) = open_listeners(dataclasses.replace(address, host=host, port=sockaddr[1]), reuse_port=True)
    listener.address, listener.tls = address, first.tls  # an upgrade asks for what was asked for
    return listener


class Places:
    """Who has which of ``listeners``. Those that are not for one worker alone are everybody's."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._ports = ports_of(listeners)

    def __bool__(self) -> bool:
        """Whether workers have sockets of their own."""
        return bool(self._ports)

    def grow(self, workers: int) -> list[Listener]:
        """Open what is missing for so many; those that were opened."""
        opened = [one for port in self._ports for one in open_places(port, workers)]
        self._ports = ports_of([*(one for port in self._ports for one in port), *opened])
        return opened

    def free(self, members: Iterable[Member]) -> int:
        """The first place that none of ``members`` has."""
        taken = {member.place for member in members}
        return next(number for number in count() if number not in taken)

    def of(self, place: int, workers: int, others: Iterable[Member] = ()) -> frozenset[Listener]:
        """What a new worker is to have, as one of so many: each so-many-th socket; and what was to be that of one of
        the ``others`` who take clients, but none of them has, as there were more or fewer places when they came."""
        others = list(others)
        theirs = {one for member in others for one in member.listeners}
        served = {member.place for member in others}
        mine: set[Listener] = set()
        for port in self._ports:
            own = {one for number, one in enumerate(port) if number % workers == place % workers}
            mine |= own or {port[place % len(port)]}
            mine |= {one for number, one in enumerate(port) if number % workers in served and one not in theirs}
        return frozenset(mine)

    def for_worker(self, mine: frozenset[Listener]) -> Callable[[Sequence[Listener]], list[Listener]]:
        """In a worker that has those: close the others', which nobody would serve if they stayed open here; returns
        what gives, of listeners that were asked for, those that it is to serve."""
        ports = {port[0]: port for port in self._ports}
        siblings = {one for port in self._ports for one in port}
        for listener in siblings - mine:
            listener.socket.close()

        def choose(listeners: Sequence[Listener]) -> list[Listener]:
            chosen: list[Listener] = []
            for listener in listeners:
                if listener in ports:
                    chosen += [one for one in ports[listener] if one in mine]
                elif listener not in siblings:
                    chosen.append(listener)
            return chosen

        return choose
