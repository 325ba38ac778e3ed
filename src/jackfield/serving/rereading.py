"""Rereading: what a server has from files, its lists of peers and its certificates, read again while it serves."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from ..admission import PeerList
from ..errors import StartError
from ..limits import Limits
from .choices import ProxyRule

if TYPE_CHECKING:
    from ..tls import ServerTLS
    from .entry import Entry

_log = logging.getLogger("jackfield.server")

#: One reading at a time: of two at once the earlier might end last, and bring the older list back.
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of reading a server's files again, in words: what was ``read``, and what ``failed`` and is in force as
    it was read before."""

    read: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"read again: {', '.join(self.read)}"] if self.read else []
        said += [f"still as it was: {problem}" for problem in self.failed]
        return "; ".join(said) or "nothing to read again: no list of peers and no certificate is from a file"


class Rereading:
    """Reads again what a server has from files, all of it once. A context manager: at its end it says in one line of
    the log, in the server's ``name``, what came of it; ``result`` is the same."""

    def __init__(self, name: str) -> None:
        self.result = Reload()
        self._name = name
        #: Each list that is from a file and what it is now, by the identity of the old one.
        self._lists: dict[int, tuple[PeerList, PeerList]] = {}

    def __enter__(self) -> Rereading:
        _reading.acquire()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        _reading.release()
        if kind is None:
            _log.log(logging.ERROR if self.result.failed else logging.INFO, "%s: %s", self._name, self.result)

    def peers(self, old: PeerList) -> PeerList:
        """The list in the place of ``old``; ``old`` where there is nothing to read, or nothing that is right."""
        if old.path is None:
            return old
        if id(old) not in self._lists:
            new = old
            try:
                new = old.reread()
                self._add(read=f"{old.path} ({len(new)} {'entry' if len(new) == 1 else 'entries'})")
            except ValueError as error:
                self._add(failed=str(error))
            except OSError as error:
                who = f" as user {os.geteuid()}" if isinstance(error, PermissionError) else ""
                self._add(failed=f"cannot read {old.path}: {error.strerror}{who}")
            self._lists[id(old)] = old, new
        return self._lists[id(old)][1]

    def limits(self, old: Limits) -> dict[str, PeerList]:
        """The limits that are other lists now, by name."""
        lists = {one.name: getattr(old, one.name) for one in fields(old)}
        return {
            name: new for name, peers in lists.items()
            if isinstance(peers, PeerList) and (new := self.peers(peers)) is not peers
        }  # fmt: skip

    def rule(self, old: ProxyRule | None) -> ProxyRule | None:
        """The rule in the place of ``old``."""
        return old and replace(old, allow_from=self.peers(old.allow_from))

    def entries(self, entries: Iterable[Entry | None], tls: ServerTLS | None) -> None:
        """Renew what the entries of a server, and all of it, let clients in by."""
        served = dict.fromkeys([tls])
        for entry in entries:
            if entry is not None:
                entry.proxy = self.rule(entry.proxy)
                served[entry.tls] = None
        for one in served:
            if one is not None:
                self._certificates(one)

    def _certificates(self, tls: ServerTLS) -> None:
        try:
            tls.reload()
        except StartError as error:
            self._add(failed=str(error))
        else:
            self._add(read=f"{os.fspath(tls.tls.cert)} (valid until {tls.expires:%Y-%m-%d})")

    def _add(self, *, read: str | None = None, failed: str | None = None) -> None:
        more_read, more_failed = (() if text is None else (text,) for text in (read, failed))
        self.result = Reload(self.result.read + more_read, self.result.failed + more_failed)
