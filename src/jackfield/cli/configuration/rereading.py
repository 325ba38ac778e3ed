"""A configuration read again while its servers serve: what can change does, and the rest is told."""

from __future__ import annotations

import argparse
import logging
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jackfield.cli import limits
from jackfield.cli.arguments import UsageError
from jackfield.cli.configuration.classes import with_class_attributes
from jackfield.cli.configuration.keys import Key, keys_of_serve
from jackfield.cli.configuration.origins import level_of, naming_origins
from jackfield.cli.configuration.resolving import Configured, resolve
from jackfield.errors import StartError

if TYPE_CHECKING:
    from jackfield.limits import Limits
    from jackfield.server import Server
    from jackfield.tls import TLS, ServerTLS

__all__ = ["reread"]

_log = logging.getLogger("jackfield.serve")

#: What can change while it runs, beside all flags of the group "limits" and, where there is TLS, those of "TLS".
_LIVE = ("graceful_timeout", "log_level", "verbose", "quiet")


def reread(configured: Configured, servers: Sequence[Server]) -> Configured:
    """Read the file again, and change in the running servers what can change: limits, lists, TLS, the graceful timeout
    and the level of the log. One line of the log says what changed and which keys wait for a restart; a file that is
    wrong changes nothing, and one line says why.

    To be called on a thread that may wait. What the servers have from other files is theirs to read again
    (:meth:`Server.reload <jackfield.Server.reload>`).

    :param servers: those of ``configured.servers``, in this order; none where they run in workers, which are to be made
        anew from what is returned.
    :return: what holds from now on; `configured` itself where nothing has changed.
    """
    try:
        if configured.document is not None and not _may_be_read_again(configured.document.path):
            _log.warning("%s is no regular file: it is not read again", configured.document.path)
            return configured
        new = resolve(configured.given)
        if new.document == configured.document:
            return configured
        if len(new.servers) != len(configured.servers):
            was, now = len(configured.servers), len(new.servers)
            raise UsageError(f"it had {was} [[server]] and now has {now}: that needs a restart")
        _, keys = keys_of_serve()
        here: Sequence[Server | None] = servers or [None] * len(new.servers)
        changes = [
            _Change(before, after, keys, server)
            for before, after, server in zip(configured.servers, new.servers, here, strict=True)
        ]
    except (UsageError, StartError) as error:
        path = configured.document.path if configured.document is not None else "the configuration"
        _log.error("%s: still as it was: %s", path, error)
        return configured
    for before, after, change in zip(configured.servers, new.servers, changes, strict=True):
        for one, other in ((before, after), (configured.process, new.process)):
            change.put_off(one, other, keys)
    _apply(new, changes)
    return new


def _may_be_read_again(path: str) -> bool:
    """A pipe is not: nobody would write to it again, and reading it would wait for ever."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # which reading it will tell


class _Change:
    """What a new file changes for one server; made before anything is changed, as all of it may still turn out wrong.

    :raises UsageError: the new values do not go together.
    :raises StartError: a certificate is none.
    """

    def __init__(
        self, before: argparse.Namespace, after: argparse.Namespace, keys: Sequence[Key], server: Server | None
    ) -> None:
        self.server = server
        self.names = [key.name for key in keys if getattr(before, key.dest) != getattr(after, key.dest)]
        if server is not None:
            after = with_class_attributes(after, server.handler, server.mode)
        with naming_origins(after):
            wanted = limits.limits_of(after)
            limits.proxy_of(after)
            tls = limits.tls_of(after)
        changed = {title: {key.name for key in keys if key.group == title and key.name in self.names}
                   for title in ("limits", "TLS", "where")}  # fmt: skip
        self.limits: Limits | None = wanted if changed["limits"] else None
        self._own: ServerTLS | None = getattr(server, "_tls", None)
        self.tls: TLS | None = None
        if tls is not None and changed["TLS"]:
            from jackfield.tls import ServerTLS

            with naming_origins(after, "tls_cert"):
                ServerTLS(tls)  # only to see whether it can be read
            self.tls = tls if self._own is not None else None
        self.live = {*_LIVE, *changed["limits"], *(changed["TLS"] if self.tls is not None else ())}
        if server is None:
            # New workers have everything that is about a server, but for the sockets, which they share.
            self.live |= {key.name for key in keys if key.of_server} - changed["where"]

    def put_off(self, before: argparse.Namespace, after: argparse.Namespace, keys: Sequence[Key]) -> None:
        """What cannot change is what it was, also for those who ask what holds."""
        for key in keys:
            if key.name in self.names and key.name not in self.live:
                setattr(after, key.dest, getattr(before, key.dest))
                after.origins[key.dest] = before.origins[key.dest]

    def apply(self, graceful_timeout: float) -> None:
        """Change it in the server."""
        if self.server is None:
            return
        self.server.graceful_timeout = graceful_timeout
        if self.limits is not None:
            self.server.limits = self.limits
        if self.tls is not None and self._own is not None:
            was, self._own.tls = self._own.tls, self.tls
            try:
                self._own.reload()
            except StartError as error:  # it could be read a moment ago
                self._own.tls = was
                _log.error("%s: still as it was: %s", self.server.name, error)


def _apply(new: Configured, changes: Sequence[_Change]) -> None:
    for change in changes:
        change.apply(new.process.graceful_timeout)
    logging.getLogger().setLevel(level_of(new.process).upper())
    changed = _listed([name for name in change.names if name in change.live] for change in changes)
    waiting = _listed([name for name in change.names if name not in change.live] for change in changes)
    said = [f"changed: {changed}"] if changed else []
    if waiting:
        said.append(f"needs a restart: {waiting}")
    path = new.document.path if new.document is not None else "the configuration is gone"
    level = logging.WARNING if waiting else logging.INFO
    _log.log(level, "%s: %s", path, "; ".join(said) or "read again, and nothing is different")


def _listed(names: Any) -> str:
    return ", ".join(dict.fromkeys(name for some in names for name in some))
