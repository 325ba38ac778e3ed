"""What a program knows of ``ssl.SSLSocket``, beside sending and receiving: what it tells, and what it refuses."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NoReturn

from .info import TLSInfo, agreed

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .engine import TLSEngine


class SSLManners:
    """Methods and attributes of ``ssl.SSLSocket``, by those names and with those answers."""

    __slots__ = ()

    _engine: TLSEngine

    #: As that of ``ssl.SSLSocket``: whoever is to hand the socket on shakes hands first.
    do_handshake_on_connect = True

    if TYPE_CHECKING:

        def recv(self, bufsize: int, flags: int = 0, /) -> bytes: ...

        def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int: ...

        def send(self, data: Buffer, flags: int = 0, /) -> int: ...

    # -- reading and writing by other names ----------------------------------------------------------------------------

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """As ``ssl.SSLSocket.read``: bytes, or their number if there is a ``buffer``."""
        if buffer is None:
            return self.recv(len)
        return self.recv_into(buffer, min(len, memoryview(buffer).nbytes))

    def write(self, data: Buffer) -> int:
        """As ``ssl.SSLSocket.write``: :meth:`send`."""
        return self.send(data)

    def pending(self) -> int:
        """Bytes of text that :meth:`recv` has without asking the peer. There may be more, not yet decrypted."""
        return self._engine.pending()

    @property
    def ahead(self) -> bool:
        """Whether ``recv()`` may have something of which the descriptor does not tell, text or the end: who waits for
        the descriptor to be readable looks here first."""
        return self._engine.more

    # -- what was agreed -----------------------------------------------------------------------------------------------

    @property
    def tls(self) -> TLSInfo | None:
        """All of it in one record; None before the handshake."""
        return agreed(self)

    @property
    def truncated(self) -> bool:
        """True when the stream ended without the peer's goodbye: it crashed, or somebody on the way has cut it."""
        return self._engine.truncated

    @property
    def context(self) -> ssl.SSLContext | None:
        """The context in use; None on the server's side until the client has said whom it wants."""
        return self._engine.object.context if self._engine.object is not None else None

    @property
    def server_side(self) -> bool:
        """True on the side that has the certificate."""
        return self._engine.object is None or self._engine.object.server_side

    @property
    def server_hostname(self) -> str | None:
        """The name that the client asks for, also on the server's side, where the ssl module has None."""
        engine = self._engine
        if engine.hello is not None:
            return engine.hello.server_name
        return engine.object.server_hostname if engine.object is not None else None

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session, to be given to the next connection of a client."""
        return self._engine.object.session if self._engine.object is not None else None

    @property
    def session_reused(self) -> bool | None:
        """Whether an earlier session was taken up again; None before the handshake."""
        return self._engine.object.session_reused if self._engine.established else None  # type: ignore[union-attr]

    def version(self) -> str | None:
        """``"TLSv1.3"`` or ``"TLSv1.2"``; None before the handshake."""
        return self._engine.object.version() if self._engine.established else None  # type: ignore[union-attr]

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol and secret bits of the cipher; None before the handshake."""
        return self._engine.object.cipher() if self._engine.object is not None else None

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """The ciphers that both sides have; None before the handshake and on the client's side."""
        return self._engine.object.shared_ciphers() if self._engine.object is not None else None

    def compression(self) -> str | None:
        """None: compression is off."""
        return self._engine.object.compression() if self._engine.object is not None else None

    def selected_alpn_protocol(self) -> str | None:
        """The protocol that was agreed by ALPN (RFC 7301), if any was."""
        return self._engine.object.selected_alpn_protocol() if self._engine.object is not None else None

    def selected_npn_protocol(self) -> None:
        """None: NPN is what there was before ALPN."""

    def getpeercert(self, binary_form: bool = False) -> Any:
        """As ``ssl.SSLSocket.getpeercert``; ValueError before the handshake."""
        if not self._engine.established:
            raise ValueError("handshake not done yet")
        return self._engine.object.getpeercert(binary_form)  # type: ignore[union-attr]

    def verify_client_post_handshake(self) -> None:
        """As ``ssl.SSLSocket.verify_client_post_handshake``: the client is asked with the next data sent."""
        if not self._engine.established:
            raise ValueError("handshake not done yet")
        self._engine.object.verify_client_post_handshake()  # type: ignore[union-attr]

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """As ``ssl.SSLSocket.get_channel_binding``."""
        if cb_type not in ssl.CHANNEL_BINDING_TYPES:
            raise ValueError(f"{cb_type} channel binding type not implemented")
        return self._engine.object.get_channel_binding(cb_type) if self._engine.object is not None else None

    # -- what TLS has no place for -------------------------------------------------------------------------------------

    def _wants_text(self, bufsize: int, flags: int) -> bool:
        """Whether a ``recv()`` with these arguments has to look for text. ValueError for what cannot be meant."""
        self._refuse_flags(flags, "recv")
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        return bufsize > 0

    def _refuse_flags(self, flags: int, method: str) -> None:
        if flags:
            raise ValueError(f"non-zero flags not allowed in calls to {method}() on {self.__class__}")

    def recvfrom(self, *args: Any) -> NoReturn:
        raise ValueError(f"recvfrom not allowed on instances of {self.__class__}")

    def recvfrom_into(self, *args: Any) -> NoReturn:
        raise ValueError(f"recvfrom_into not allowed on instances of {self.__class__}")

    def sendto(self, *args: Any) -> NoReturn:
        raise ValueError(f"sendto not allowed on instances of {self.__class__}")

    def recvmsg(self, *args: Any) -> NoReturn:
        raise NotImplementedError(f"recvmsg not allowed on instances of {self.__class__}")

    def recvmsg_into(self, *args: Any) -> NoReturn:
        raise NotImplementedError(f"recvmsg_into not allowed on instances of {self.__class__}")

    def sendmsg(self, *args: Any) -> NoReturn:
        raise NotImplementedError(f"sendmsg not allowed on instances of {self.__class__}")

    def dup(self) -> NoReturn:
        raise NotImplementedError(f"Can't dup() {self.__class__.__name__} instances")
