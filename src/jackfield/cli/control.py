"""A client of the admin endpoint: over the control socket of a server on this machine, or at its admin address."""

from __future__ import annotations

import http.client
import json
import os
import socket as _socket_std
import stat
from typing import Any
from urllib.parse import urlencode

from jackfield.cli.arguments import UsageError
from jackfield.cli.overview import control_folder
from jackfield.errors import JackfieldError

__all__ = ["Control", "ControlError", "find"]

SECONDS = 10.0


class ControlError(JackfieldError):
    """The server does not answer, or says no; one line that says why."""


class _Connection(http.client.HTTPConnection):
    """To a Unix socket where there is a path."""

    def __init__(self, where: str) -> None:
        self.path = where.removeprefix("unix:") if where.startswith(("unix:", "/", ".")) else None
        super().__init__("localhost" if self.path else where, timeout=SECONDS)

    def connect(self) -> None:
        if self.path is None:
            super().connect()
            return
        self.sock = _socket_std.socket(_socket_std.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Control:
    """Asks one server. ``where`` is the path of a control socket, or ``host:port`` of an admin endpoint.

    :raises ControlError: nobody answers there, or what was asked for is refused.
    """

    def __init__(self, where: str, token: str | None = None) -> None:
        self.where = where
        self._headers = {"X-Jackfield": "1"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        try:
            self._connection = _Connection(where)
        except http.client.InvalidURL:
            raise UsageError(f"no server can be at {where!r}: write a path, or HOST:PORT of --admin") from None

    def get(self, path: str, **query: Any) -> Any:
        """What is there, as JSON tells it."""
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, **values: Any) -> Any:
        """Have something done; what came of it."""
        return self._ask("POST", path, json.dumps(values))

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        try:
            self._connection.request(method, path, body, self._headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ControlError(f"{self.where}: {reason}: is the server still there?") from None
        if answer.status != 200:
            raise ControlError(_reason(data) or f"{path}: {answer.status} {answer.reason}")
        if not answer.headers.get("Content-Type", "").startswith("application/json"):
            return data.decode("utf-8", "replace")
        try:
            return json.loads(data)
        except ValueError:
            raise ControlError(f"{self.where}: that is no server of ours: what it answers is no JSON") from None

    def close(self) -> None:
        self._connection.close()


def _reason(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])
    except (KeyError, TypeError, ValueError):
        return data.decode("utf-8", "replace").strip()


def find(given: str | None) -> str:
    """The control socket that was named, or the only one there is.

    :raises UsageError: there is none, or there are several.
    """
    if given is not None:
        return given
    folder = control_folder()
    found = _live(folder) if folder is not None else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"which server? -s {' or -s '.join(found)}")
    where = f"in {folder}" if folder is not None else "as there is no $XDG_RUNTIME_DIR"
    raise UsageError(f"no control socket {where}: write -s PATH, as in serve --control-socket PATH, or -s HOST:PORT")


def _live(folder: str) -> list[str]:
    """Those at which somebody listens: a server that was killed leaves its file."""
    found = []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        path = os.path.join(folder, name)
        try:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                continue
            with _socket_std.socket(_socket_std.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(path)
        except OSError:
            continue
        found.append(path)
    return found
