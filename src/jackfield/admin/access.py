"""Who may ask, and who may change something.

Everybody on this machine can reach a loopback address, and so can every page that is open in a browser here. Three
gates against that: a page of another site that has its own name lead here (DNS rebinding) has that name in ``Host``; a
page of another site that only sends a form has its own name in ``Origin``; and where a token is set, nobody without it
sees more than whether the server lives. A Unix socket is guarded by its file's mode instead.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Access", "Denied"]

#: What a program that is no browser sends with what changes something: a page of another site cannot, without asking
#: first, by a request that is not granted here (Fetch, "CORS-preflight").
HEADER = "X-Jackfield"


class Denied(Exception):
    """``status`` of HTTP, and one line that says what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Access:
    """``token``: what everybody has to show who sees more than whether it lives; None: whoever can reach it may look.
    """

    token: str | None = None

    def check(self, headers: Mapping[str, str], *, trusted: bool, is_open: bool, changes: bool) -> None:
        """Denied if it may not be.

        :param trusted: the request came by a socket that only its owner can open.
        :param is_open: what is asked for is for everybody: probes that know no token.
        :param changes: it is no mere look.
        """
        if trusted:
            return
        host = headers.get("Host")
        if host is None or not _is_here(host):
            raise Denied(421, "no such host here: ask by the address itself, such as http://127.0.0.1:9998/")
        if is_open and not changes:
            return
        has_token = self._has_token(headers)
        if self.token is not None and not has_token:
            raise Denied(401, "a token is needed: send 'Authorization: Bearer TOKEN', TOKEN as in --admin-token-file")
        if changes and not has_token and not self._is_ours(headers, host):
            raise Denied(403, f"who asks? send the header '{HEADER}: 1'")

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        kind, _, given = headers.get("Authorization", "").partition(" ")
        return (
            self.token is not None
            and kind.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode(), self.token.encode())
        )

    def _is_ours(self, headers: Mapping[str, str], host: str) -> bool:
        origin = headers.get("Origin")
        if origin is not None:
            return origin == f"http://{host}"
        return HEADER in headers


def _is_here(host: str) -> bool:
    """Whether ``Host`` is an address, or a name that no other site can have (RFC 6761 6.3)."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    name = (name if port.isdigit() else host).lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
