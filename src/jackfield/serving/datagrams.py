"""Datagrams: a batch read from a listener, and each handed to the handler in the server's mode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from operator import itemgetter, length_hint
from typing import Any

from ..door import Datagram, Listener, readable_peer, receive_batch, reply_socket
from ..handlers import AsyncRequestHandler, BaseRequestHandler, run_handler, serve_with
from ..modes import AsyncBatchCrew, Batch, Crew, GreenCrew
from ..streams import AsyncSocket

_log = logging.getLogger("jackfield.server")

#: Datagrams in work at once; what comes above waits in a queue of 1000.
DATAGRAM_UNITS = {"thread": 64, "green": 1000, "async": 1000}

_CREWS = {"thread": Crew, "green": GreenCrew, "async": AsyncBatchCrew}

_is_truncated = itemgetter(Datagram._fields.index("truncated"))


class Datagrams:
    """Serves the datagrams of a server's listeners as units of ``mode``.

    ``failed(peer, error)`` is told what a handler let out, ``fork(work, socket)`` runs ``work()`` in a child process.
    """

    def __init__(
        self, handler: Any, mode: str, owner: Any, failed: Callable[[Any, BaseException], object],
        fork: Callable[[Callable[[], None], Any], object],
    ) -> None:  # fmt: skip
        self.handler = handler
        self.mode = mode
        self.owner = owner
        self.received = self._dropped = 0
        self.crew: Crew | None = None
        self._failed_unit = failed
        self._fork = fork

    def open_units(self, units: Any) -> None:
        """Handlers run as ``units`` from now on."""
        kind = _CREWS.get(self.mode)
        if kind is not None:
            self.crew = kind(units, DATAGRAM_UNITS[self.mode])

    @property
    def dropped(self) -> int:
        """Datagrams dropped: because too many waited, were too large, or could not be given to a unit."""
        return self._dropped + (self.crew.dropped if self.crew is not None else 0)

    def take(self, listener: Listener, budget: int) -> OSError | None:
        """Serve what has come to ``listener``, ``budget`` datagrams at most; what the receiving failed with, if it
        did: for want of a descriptor or memory, or because it is no socket any more."""
        batch: list[Datagram] = []
        failed = None
        try:
            batch += receive_batch(listener.socket, budget=budget)  # an error leaves what came before it
        except OSError as error:
            failed = error
        if batch:
            self.received += len(batch)
            self._serve_batch(listener, self._whole(listener, batch))
        return failed

    def _whole(self, listener: Listener, batch: list[Datagram]) -> list[Datagram]:
        """Half of a message is worse than none."""
        if not any(map(_is_truncated, batch)):
            return batch
        for datagram in batch:
            if datagram.truncated:
                self._dropped += 1
                _log.warning("%s: dropped a datagram larger than %d bytes", listener.location, len(datagram.data))
        return [datagram for datagram in batch if not datagram.truncated]

    def _serve_batch(self, listener: Listener, batch: list[Datagram]) -> None:
        def lost(_: Datagram, error: BaseException) -> None:
            self._dropped += 1
            _log.warning("%s: dropped a datagram: %s", listener.location, error)

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
            self.crew.take(Batch(batch, self._datagram_work(listener), self._datagram_failed, lost))

    def _serve_in_turn(self, listener: Listener, batch: list[Datagram]) -> None:
        work = self._datagram_work(listener)
        items = iter(batch)
        try:
            for datagram in items:
                try:
                    work(datagram)
                except BaseException as error:
                    self._datagram_failed(datagram, error)
        finally:
            self._dropped += length_hint(items)  # Ctrl-C: those that were read and that nobody serves now

    def _datagram_failed(self, datagram: Datagram, error: BaseException) -> None:
        self._failed_unit(readable_peer(datagram.peer), error)

    def _datagram_work(self, listener: Listener) -> Callable[[Datagram], Any]:
        """What runs the handler for one datagram of ``listener``; the coroutine that does, for async."""
        sock, handler, owner = listener.socket, self.handler, self.owner
        shared = AsyncSocket(sock) if self.mode == "async" else None  # type: ignore[arg-type]
        base = BaseRequestHandler if shared is None else AsyncRequestHandler
        plain = _is_plain(handler, base)
        only_handle = plain and handler.setup is base.setup and handler.finish is base.finish
        new = object.__new__

        def work(datagram: Datagram) -> Any:
            data, peer, _, local = datagram
            if type(peer) is not tuple or len(peer) != 2:  # no IPv4 address
                peer = readable_peer(peer)
            if local is None:
                answering: Any = sock if shared is None else shared
            else:
                answering = reply_socket(sock, datagram)
                if shared is not None:
                    answering = AsyncSocket(answering)
            if not plain:
                if shared is None:
                    return serve_with(handler, (data, answering), peer, owner)
                return handler((data, answering), peer, owner).run()
            # What the base class's __init__ does, written out.
            made = new(handler)
            made.request = (data, answering)
            made.client_address = peer
            made.server = owner
            if only_handle:
                return made.handle()
            return run_handler(made) if shared is None else made.run()

        return work


def _is_plain(handler: Any, base: type) -> bool:
    """Whether making one, and running it, is what ``base`` does, and nothing else."""
    return (
        isinstance(handler, type)
        and issubclass(handler, base)
        and handler.__new__ is object.__new__
        and handler.__init__ is base.__init__  # type: ignore[misc]
        and getattr(handler, "run", None) is getattr(base, "run", None)
    )
