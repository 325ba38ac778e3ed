"""Datagrams: a batch read from a listener, and each that may come in handed to the handler in the server's mode."""

from __future__ import annotations

import socket as _socket_std
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter, length_hint
from typing import TYPE_CHECKING, Any

from ..admission import DatagramGuard
from ..admission.datagrams import NO_CLIENTS
from ..clock import MONOTONIC, Clock
from ..door import Datagram, Listener, readable_peer, receive_batch, reply_socket
from ..door.datagrams import LARGEST, sends_plainly
from ..door.outgoing import Outgoing
from ..draining import says_goodbye
from ..events import Reason
from ..gathering import GatheringAsyncSocket, GatheringSocket
from ..handlers import AsyncRequestHandler, BaseRequestHandler, life_of, run_handler, serve_with
from ..limits import Limits
from ..modes import AsyncBatchCrew, Batch, Crew, GreenCrew
from ..replies import GuardedAsyncSocket, GuardedSocket, MayReply
from ..streams import AsyncSocket
from .drops import Drops
from .home import Home
from .reports import Reports

if TYPE_CHECKING:
    from ..admission.ledger import Seat

#: Datagrams in work at once; what comes above waits in a queue of 1000.
DATAGRAM_UNITS = {"thread": 64, "green": 1000, "async": 1000}

_CREWS = {"thread": Crew, "green": GreenCrew, "async": AsyncBatchCrew}

#: Modes in which the handlers of one batch come one after another.
_GATHERING = ("serial", "green", "async")

_INTERNET = (_socket_std.AF_INET, _socket_std.AF_INET6)

_is_truncated = itemgetter(Datagram._fields.index("truncated"))


class Datagrams:
    """Serves the datagrams of ``listeners``, which are those of a server, as units of ``mode``, as ``limits`` say.

    ``failed(peer, error)`` is told what a handler let out, ``fork(work, socket)`` runs ``work()`` in a child process.

    Every datagram that was received is handled, or is among ``dropped``: those that ``refusals`` tell the reason of,
    and those that too many others waited before. In process mode the parent says who comes in, and each child whom it
    may answer: see :class:`~jackfield.serving.reports.Reports` for what that means while several of them run.
    """

    def __init__(
        self, handler: Any, mode: str, owner: Any, failed: Callable[[Any, BaseException], object],
        fork: Callable[[Callable[[], None], Any], object], limits: Limits, listeners: Iterable[Listener] = (),
        seat: Seat | None = None, clock: Clock = MONOTONIC,
    ) -> None:  # fmt: skip
        self.handler = handler
        self.mode = mode
        self.owner = owner
        self.received = self._dropped = 0
        self.crew: Crew | None = None
        self._failed_unit = failed
        self._fork = fork
        self._drops = Drops(clock)
        self._overflows = 0
        self._guard = _guard_of(limits, seat, clock)
        self._home = Home(listeners)
        #: What gathers the replies of a batch, of each socket that has had one.
        self._outgoing: dict[Listener, Outgoing] = {}
        #: What the children of process mode tell of their replies, once there is a limit of those.
        self._reports: Reports | None = None
        self._heed(limits)

    def open_units(self, units: Any) -> None:
        """Handlers run as ``units`` from now on."""
        kind = _CREWS.get(self.mode)
        if kind is not None:
            self.crew = kind(units, DATAGRAM_UNITS[self.mode])

    def close(self, listener: Listener) -> None:
        """``listener`` is about to be closed; any number of times."""
        outgoing = self._outgoing.pop(listener, None)
        if outgoing is not None:
            outgoing.shut()
        self._home.leave(listener)
        if not self._home.listeners and self._reports is not None:
            self._reports.close()

    # -- what is set and seen ----------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """What holds; setting it holds from the next batch on."""
        return self._guard.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._guard.limits = limits
        self._heed(limits)

    def _heed(self, limits: Limits) -> None:
        """Work out what a batch needs to know at once."""
        self._most = limits.max_datagram or LARGEST
        self._guards_replies = limits.amplification is not None or limits.reply_rate_per_address is not None
        self._stops_loops = limits.reply_rate_per_address is not None
        others = (limits.allow, limits.deny, limits.datagram_rate, limits.datagram_rate_per_address)
        self._judges = self._guards_replies or any(limit is not None for limit in others)

    @property
    def refusals(self) -> Counter[Reason]:
        """Datagrams that were dropped because of a limit, or for want of a unit, by reason."""
        return self._drops.refusals.copy()  # a whole one: the thread that receives goes on

    @property
    def dropped(self) -> int:
        """Datagrams dropped: refused, too many waited, or Ctrl-C came before their turn."""
        return self._dropped + self._drops.refusals.total() + (self.crew.dropped if self.crew is not None else 0)

    @property
    def withheld(self) -> int:
        """Replies that the limits did not let out."""
        if self._reports is not None:
            self._reports.read()
        return self._guard.withheld

    @property
    def kernel_dropped(self) -> int:
        """Datagrams that the kernel dropped, mostly because the receive buffer was full; nobody else has seen them."""
        return self._home.kernel_dropped

    # -- the way of a batch ------------------------------------------------------------------------------------------

    def take(self, listener: Listener, budget: int) -> OSError | None:
        """Serve what has come to ``listener``, ``budget`` datagrams at most; what the receiving failed with, if it
        did: for want of a descriptor or memory, or because it is no socket any more."""
        batch: list[Datagram] = []
        failed = None
        most = self._most  # the limits may change meanwhile
        if most > LARGEST and listener.socket.family in _INTERNET:
            most = LARGEST
        try:
            batch += receive_batch(listener.socket, most, budget=budget)  # an error leaves what came before it
        except OSError as error:
            failed = error
        if batch:
            self.received += len(batch)
            batch = self._whole(listener, batch, most)
            if self._judges:
                batch = self._admitted(listener, batch)
            if batch:
                self._serve_batch(listener, batch)
            if self.crew is not None and self.crew.dropped != self._overflows:
                self._overflows = self.crew.dropped
                self._drops.tell(listener.location, "overflow", "dropped a datagram: too many wait for their handlers")
        return failed

    def _whole(self, listener: Listener, batch: list[Datagram], most: int) -> list[Datagram]:
        """Half of a message is worse than none."""
        if not any(map(_is_truncated, batch)):
            return batch
        whole = [datagram for datagram in batch if not datagram.truncated]
        text = f"dropped a datagram larger than {most} bytes"
        self._drops.refuse(listener.location, Reason.LIMIT_MESSAGE, len(batch) - len(whole), text)
        return whole

    def _admitted(self, listener: Listener, batch: list[Datagram]) -> list[Datagram]:
        """Those that the guard lets in."""
        if self.mode == "process" and self._guards_replies:
            if self._reports is None:
                self._reports = Reports(self._guard)
            self._reports.read()  # a child may have answered those who come now
        admit = self._guard.admit
        free = self._guard.free
        ports = self._home.ports if self._stops_loops else frozenset()
        odd = NO_CLIENTS.union(ports)
        taken = []
        refused: dict[Reason, list[Datagram]] = {}
        for datagram in batch:
            data, peer, _, local = datagram
            if type(peer) is tuple and peer[0] in free and peer[1] not in odd:
                taken.append(datagram)  # what admit() says, in the midst of many
            elif ports and type(peer) is tuple and peer[1] in ports and self._home.holds(peer, local):
                refused.setdefault(Reason.DENIED, []).append(datagram)
            elif (refusal := admit(peer, len(data))) is None:
                taken.append(datagram)
            else:
                refused.setdefault(Reason(refusal.value), []).append(datagram)
        for reason, those in refused.items():
            text = f"dropped a datagram of {readable_peer(those[0].peer)!a}: {reason}"
            self._drops.refuse(listener.location, reason, len(those), text)
        return taken

    def _serve_batch(self, listener: Listener, batch: list[Datagram]) -> None:
        def lost(_: Datagram, error: BaseException) -> None:
            self._drops.refuse(listener.location, Reason.NO_UNIT, 1, f"dropped a datagram: {error}")

        if self.mode == "serial":
            self._serve_in_turn(listener, batch)
        elif self.mode == "thread":
            assert self.crew is not None
            for datagram in batch:
                try:
                    self.crew.submit(datagram.peer, self._serve_in_turn, listener, [datagram])
                except (OSError, RuntimeError) as error:
                    lost(datagram, error)
        elif self.mode == "process":
            for datagram in batch:
                try:
                    work = partial(self._serve_in_turn, listener, [datagram])
                    self._fork(work, listener.socket)
                except (OSError, RuntimeError) as error:
                    lost(datagram, error)
        elif isinstance(self.crew, GreenCrew | AsyncBatchCrew):
            channel = getattr(listener.socket, "_channel", None)
            if channel is not None:
                channel.streak = 0  # the others had their turn since the last batch
            outgoing = self._gathering(listener, batch)
            handle = self._datagram_work(listener, outgoing)
            free = set() if outgoing is None else self._free_of_limits(batch)
            self.crew.take(Batch(batch, handle, self._datagram_failed, lost, outgoing, free))

    def _gathering(self, listener: Listener, batch: list[Datagram]) -> Outgoing | None:
        """What gathers the replies of ``batch``; None for one alone, and by a socket that has a way of its own."""
        if len(batch) < 2 or self.mode not in _GATHERING:
            return None
        outgoing = self._outgoing.get(listener)
        if outgoing is None or outgoing.socket is not listener.socket:
            if not sends_plainly(listener.socket):
                return None
            outgoing = self._outgoing[listener] = Outgoing(listener.socket, self._reply_failed)
        return outgoing

    def _free_of_limits(self, batch: list[Datagram]) -> set[Any]:
        """Hosts whose replies nobody has to be asked about."""
        return self._guard.free if self._guards_replies else {datagram[1][0] for datagram in batch}

    def _serve_in_turn(self, listener: Listener, batch: list[Datagram]) -> None:
        outgoing = self._gathering(listener, batch)
        work = self._datagram_work(listener, outgoing)
        items = iter(batch)
        try:
            gathers = outgoing is not None and outgoing.open(self._free_of_limits(batch))
            for datagram in items:
                if gathers:
                    outgoing.peer = datagram[1]  # type: ignore[union-attr]
                try:
                    work(datagram)
                except BaseException as error:
                    self._datagram_failed(datagram, error)
        finally:
            self._dropped += length_hint(items)  # Ctrl-C: those that were read and that nobody serves now
            if outgoing is not None:
                outgoing.close()
                outgoing.finish()

    def _reply_failed(self, peer: Any, error: BaseException) -> None:
        self._failed_unit(readable_peer(peer), error)

    def _datagram_failed(self, datagram: Datagram, error: BaseException) -> None:
        self._failed_unit(readable_peer(datagram.peer), error)

    def _datagram_work(self, listener: Listener, outgoing: Outgoing | None) -> Callable[[Datagram], Any]:
        """What runs the handler for one datagram of ``listener``; the coroutine that does, for async."""
        sock, handler, owner = listener.socket, self.handler, self.owner
        is_async = self.mode == "async"
        dress = self._dress(is_async, outgoing)
        shared = sock if dress is None else dress(sock)
        base = AsyncRequestHandler if is_async else BaseRequestHandler
        plain = _is_plain(handler, base)
        only_handle = plain and handler.setup is base.setup and handler.finish is base.finish
        only_handle = only_handle and not says_goodbye(handler)
        new = object.__new__

        def work(datagram: Datagram) -> Any:
            data, peer, _, local = datagram
            if type(peer) is not tuple or len(peer) != 2:  # no IPv4 address
                peer = readable_peer(peer)
            if local is None:
                answering: Any = shared
            else:
                answering = reply_socket(sock, datagram)
                if dress is not None:
                    answering = dress(answering)
            if not plain:
                if not is_async:
                    return serve_with(handler, (data, answering), peer, owner)
                return life_of(handler((data, answering), peer, owner))
            # What the base class's __init__ does, written out.
            made = new(handler)
            made.request = (data, answering)
            made.client_address = peer
            made.server = owner
            if only_handle:
                return made.handle()
            return life_of(made) if is_async else run_handler(made)

        return work

    def _dress(self, is_async: bool, outgoing: Outgoing | None) -> Callable[[Any], Any] | None:
        """What makes of a socket the one that the handler gets; None where it is that itself."""
        may_reply: MayReply = _always
        if self._guards_replies:
            may_reply = self._guard.may_reply if self._reports is None else self._reports.may_reply
        elif outgoing is None:
            return AsyncSocket if is_async else None
        if outgoing is not None:
            gathering = GatheringAsyncSocket if is_async else GatheringSocket
            return lambda sock: gathering(sock, may_reply, outgoing)
        kind = GuardedAsyncSocket if is_async else GuardedSocket
        return lambda sock: kind(sock, may_reply)


def _always(peer: Any, size: int) -> bool:
    return True


def _is_plain(handler: Any, base: type) -> bool:
    """Whether making one, and running it, is what ``base`` does, and nothing else."""
    return (
        isinstance(handler, type)
        and issubclass(handler, base)
        and handler.__new__ is object.__new__
        and handler.__init__ is base.__init__  # type: ignore[misc]
        and getattr(handler, "run", None) is getattr(base, "run", None)
    )


def _guard_of(limits: Limits, seat: Seat | None, clock: Clock) -> DatagramGuard:
    if seat is None:
        return DatagramGuard(limits, clock)
    from ..admission.shareddatagrams import SharedDatagramGuard  # late: one process counts for itself

    return SharedDatagramGuard(limits, seat, clock)
