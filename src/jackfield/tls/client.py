"""What a client is told about TLS: one frozen value, checked when it is made, and the context it stands for."""

from __future__ import annotations

import functools
import os
import ssl
from dataclasses import dataclass
from typing import Literal

from jackfield.errors import StartError

from .config import Path, check_protocols
from .contexts import VERSIONS, load_pair, text_of


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """TLS for a client. With nothing said, the server's certificate has to be for the host that was asked for, and by
    an authority that this machine trusts (``ssl.create_default_context()``).

    ``ca`` is a file in PEM with the authorities to trust in place of the machine's. ``server_name`` is whom the
    certificate has to be for, and who the server is told is wanted (SNI), where that is not the host of the address.
    ``cert``, ``key`` and ``password_file`` are a certificate of one's own, for a server that asks for one, as in
    :class:`~jackfield.tls.TLS`. ``alpn`` are the protocols spoken here, the dearest first; ``min_version`` is ``"1.2"``
    (default) or ``"1.3"``. With ``verify=False`` nobody checks to whom one speaks: anybody on the way can be it.

    :raises ValueError: the values do not go together; one line that says what to write.
    """

    ca: Path | None = None
    server_name: str | None = None
    cert: Path | None = None
    key: Path | None = None
    password_file: Path | None = None
    alpn: tuple[str, ...] = ()
    min_version: Literal["1.2", "1.3"] = "1.2"
    verify: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpn", check_protocols(self.alpn))
        if self.min_version not in VERSIONS:
            raise ValueError(f"no TLS version that is safe: {self.min_version!r}: write min_version='1.2' or '1.3'")
        if self.ca is not None and not self.verify:
            raise ValueError("ca is for checking the server's certificate: leave it out, or verify=False")
        for name in ("key", "password_file"):
            if getattr(self, name) is not None and self.cert is None:
                raise ValueError(f"{name} goes with a certificate: add cert='client.pem'")

    def context(self) -> ssl.SSLContext:
        """A context of these files as they are now.

        :raises StartError: a file is missing, unreadable or not what it should be; one line that says what to do.
        """
        if self.ca is not None:
            text_of(self.ca, "CERTIFICATE")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise StartError(f"{os.fspath(self.ca or '')} has a certificate that cannot be read: renew it") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.minimum_version = VERSIONS[self.min_version]
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.cert is not None:
            load_pair(context, self.cert, self.key, self.password_file)
        return context


#: Reading a machine's authorities takes milliseconds, so what connects again and again reads its files once.  Who has
#: renewed a certificate gives ``ClientTLS.context()`` itself.
context_of = functools.lru_cache(maxsize=64)(ClientTLS.context)
