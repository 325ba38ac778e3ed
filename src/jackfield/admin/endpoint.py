"""The admin endpoint as a server: on loopback addresses, or Unix sockets that only their owner can open."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from ..address import Address, parse_address
from ..door import Listener
from ..errors import StartError
from ..limits import Limits
from ..server import Server
from .access import Access
from .api import Admin
from .desk import Desk
from .http import Endpoint
from .inquiry import Here

__all__ = ["AdminEndpoint", "admin_server", "check_admin_address"]

#: Who watches holds a connection and a thread for as long as he does.
LIMITS = Limits(max_connections=64, idle_timeout=75.0, message_timeout=30.0, connection_lifetime=None)


def check_admin_address(address: Address, token: str | None) -> None:
    """StartError unless only this machine can reach it, or a token is asked for. Nothing is encrypted there."""
    if address.scheme.startswith("unix") or address.scheme in ("fd", "systemd") or token is not None:
        return
    host = address.host
    try:
        is_here = host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        is_here = False
    if not is_here:
        raise StartError(
            f"{address} can be reached from other machines: write --admin 127.0.0.1:9998, or a token into a file and"
            " --admin-token-file FILE"
        )


def admin_server(admin: Admin, *targets: str | Address | Listener, token: str | None = None) -> Server:
    """A server for the endpoint; it does not listen yet. StartError for an address that others can reach, where no
    ``token`` is asked for; AddressError for what is none."""
    for target in targets:
        address = target.address if isinstance(target, Listener) else target
        check_admin_address(parse_address(address) if isinstance(address, str) else address, token)
    handler: Any = type("Endpoint", (Endpoint,), {"admin": admin, "access": Access(token)})
    return Server(handler, *targets, mode="thread", max_threads=64, limits=LIMITS, graceful_timeout=1.0, name="admin")


class AdminEndpoint:
    """The endpoint of servers in this process, for as long as its block lasts: ``with AdminEndpoint([server],
    "127.0.0.1:9998"):``. The servers serve already.

    :param reload: what ``/reload`` does; by default ``reload()`` of each server.
    :param stop: what ``/stop`` does; by default ``stop()`` of each.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *targets: str | Address | Listener,
        token: str | None = None,
        name: str = "jackfield",
        version: str = "",
        config: Callable[[], list[dict[str, Any]]] = list,
        reload: Callable[[], object] | None = None,
        stop: Callable[[], object] | None = None,
    ) -> None:
        self._desk = Desk(servers)

        def reload_all() -> dict[str, Any]:
            return {"reload": "; ".join(str(server.reload()) for server in servers) if reload is None else reload()}

        def stop_all() -> dict[str, Any]:
            for server in servers if stop is None else ():
                server.stop()
            return {"stopping": True if stop is None else stop()}

        inquiry = Here(self._desk, {"reload": reload_all, "stop": stop_all})
        try:
            admin = Admin(inquiry, name, version, config)
            self.server = admin_server(admin, *targets or ("tcp://127.0.0.1:9998",), token=token)
            self.server.start()
        except BaseException:
            self._desk.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with real ports."""
        return self.server.addresses

    def close(self) -> None:
        """It listens and counts no more; any number of times."""
        self.server.stop()
        self.server.wait_stopped()
        self._desk.close()

    def __enter__(self) -> AdminEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
