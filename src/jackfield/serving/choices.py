"""What a server settles before it serves: the mode that fits its handler, the room for connections, who is a proxy."""

from __future__ import annotations

import inspect
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..admission import PeerList
from ..errors import MisuseError
from ..limits import LOOPBACK

if TYPE_CHECKING:
    from ..tls import TLS, ServerTLS

MODES = ("auto", "serial", "thread", "process", "green", "async")

#: Descriptors left for everything that is not a connection (HAProxy and others keep a like reserve); a quarter of them
#: where there are few in all.
RESERVED_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class ProxyRule:
    """Connections begin with a PROXY header, and come from the proxies in ``allow_from`` only (this machine, unless
    said otherwise): from elsewhere anybody could claim any address. ``versions`` are those that are taken, 1 and 2.

    With ``required=False`` also others are served, under their own address: who comes from ``allow_from`` and does not
    begin with a header, and everybody from elsewhere, where none is looked for and one that is sent is data.

    HAProxy's specification forbids a receiver to guess whether there is a header (section 2), for a client that may
    reach it directly could write one. Here it is only ever a machine in ``allow_from`` that could, and that is believed
    anyway; so name the proxies alone, and none that lets clients speak in its own name without a header: theirs would
    be taken. A client from there has to speak first, and to send its first byte within ``handshake_timeout``, as a
    header could still come: where the server speaks first, a header is required or there is none.
    """

    allow_from: PeerList = LOOPBACK
    versions: frozenset[int] = frozenset({1, 2})
    required: bool = True

    def __post_init__(self) -> None:
        if not self.versions or not self.versions <= {1, 2}:
            raise MisuseError(f"no versions of the PROXY protocol: {set(self.versions)}: write 1, 2 or both")


def mode_for(handler: Any, mode: str) -> str:
    """The mode that ``handler`` is run in where ``mode`` is asked for; MisuseError if they do not go together."""
    if mode not in MODES:
        raise MisuseError(f"no mode {mode!r}: write one of {', '.join(MODES)}")
    if not callable(handler):
        raise MisuseError(f"{handler!r} is no handler class: derive one from jackfield.BaseRequestHandler")
    if inspect.iscoroutinefunction(handler):
        raise MisuseError(f"{handler!r} is a coroutine function: make it handle() of an AsyncRequestHandler")
    is_async = inspect.iscoroutinefunction(getattr(handler, "handle", None))
    if mode == "auto":
        return "async" if is_async else "thread"
    if is_async and mode != "async":
        raise MisuseError(f"{handler!r} is a coroutine handler: serve it with mode='async'")
    if mode == "async" and not is_async:
        raise MisuseError(
            f"{handler!r} is no coroutine handler: derive it from AsyncRequestHandler, or serve it with mode='green'"
        )
    return mode


def descriptor_room() -> int:
    """Connections that the soft limit of descriptors leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, soft - min(RESERVED_DESCRIPTORS, soft // 4))


def server_tls(tls: TLS | ServerTLS) -> ServerTLS:
    """``tls``, read: a bad certificate is told here."""
    from ..tls import TLS, ServerTLS  # late: ssl and what stands on it cost a server without TLS a third of its start

    return ServerTLS(tls) if isinstance(tls, TLS) else tls
