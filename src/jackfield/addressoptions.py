"""The options of an address: what may stand after ``?``, for which schemes, and what a value looks like.

One table says it all.  What an option does is the business of whoever opens the listener; here is only its grammar:
``name=value`` with ``&`` between them, ``%20`` and the like in values (RFC 3986).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

__all__ = ["OPTIONS", "TLS_SCHEMES", "NoOptions", "Option", "nearest", "parse_options", "show", "unquoted", "whole"]

_TCP = frozenset({"tcp", "tcp4", "tcp6"})
TLS_SCHEMES = frozenset({"tls", "tls4", "tls6"})
_UDP = frozenset({"udp", "udp4", "udp6"})
_FILES = frozenset({"unix", "unixgram", "unixpacket"})
_STREAMS = _TCP | TLS_SCHEMES
_NETWORK = _STREAMS | _UDP

# Digits are ASCII and few: int() would also take "1_0", "+1", " 1" and the digits of every other script, and Python
# refuses to convert thousands of them.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_COUNT = re.compile(r"[1-9][0-9]{0,9}")
_SIZE = re.compile(r"([1-9][0-9]{0,9})([kKmMgG]?)")
_SWITCH = re.compile(r"[01]")
_FILE_MODE = re.compile(r"0?[0-7]{3}")
# A name of passwd(5) has no colon, and one of digits alone is a number to every program that takes both (chown(1)).
_ACCOUNT = re.compile(r"0|[1-9][0-9]{0,9}|(?![0-9]+\Z)[^\x00-\x20\x7f:/]{1,256}")
_FILE = re.compile(r"[^\x00]{1,4095}")  # PATH_MAX is 4096, its NUL included (path_resolution(7))
_PROTOCOLS = re.compile(r"[!-+\--~]{1,255}(?:,[!-+\--~]{1,255})*")  # RFC 7301 3.1 has names of 1 to 255 bytes

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_C_INT = 2**31 - 1


class Option(NamedTuple):
    """One option.

    :param schemes: where it may stand.
    :param pattern: what a value looks like.
    :param what: what a value is, for an error that says that it is not.
    :param example: a value that can be used.
    :param most: the largest number; None where it is none.
    """

    schemes: frozenset[str]
    pattern: re.Pattern[str]
    what: str
    example: str
    most: int | None = None

    def takes(self, value: str) -> bool:
        """Whether ``value`` may stand there."""
        return self.pattern.fullmatch(value) is not None and (self.most is None or whole(value) <= self.most)


#: In the order in which people are told of them.
OPTIONS: dict[str, Option] = {
    "mode": Option(_FILES, _FILE_MODE, "file permissions (three octal digits)", "660"),
    "owner": Option(_FILES, _ACCOUNT, "name or number of a user", "www-data"),
    "group": Option(_FILES, _ACCOUNT, "name or number of a group", "www-data"),
    "cert": Option(TLS_SCHEMES, _FILE, "file with a certificate", "cert.pem"),
    "key": Option(TLS_SCHEMES, _FILE, "file with a key", "key.pem"),
    "password_file": Option(TLS_SCHEMES, _FILE, "file with the key's password", "password.txt"),
    "client_ca": Option(TLS_SCHEMES, _FILE, "file with the authorities of clients", "clients.pem"),
    "client_auth": Option(
        TLS_SCHEMES, re.compile("none|optional|required"), "choice of none, optional and required", "required"
    ),
    "min": Option(TLS_SCHEMES, re.compile(r"1\.[23]"), "version of TLS that is safe (1.2 or 1.3)", "1.3"),
    "alpn": Option(TLS_SCHEMES, _PROTOCOLS, "list of protocols (names with commas between them)", "h2,http/1.1"),
    "proxy": Option(
        _STREAMS | {"unix"},
        re.compile("auto|v1|v2|optional|off"),
        "way to have a PROXY header (auto, v1, v2, optional, off)",
        "auto",
    ),
    "backlog": Option(_STREAMS | {"unix", "unixpacket"}, _COUNT, "length of a queue (1 or more)", "1024", _C_INT),
    "nodelay": Option(_STREAMS, _SWITCH, "switch (0 or 1)", "0"),
    # MAX_TCP_KEEPIDLE of Linux is 32767, and so is what TCP_DEFER_ACCEPT can be told in 255 retransmissions or less.
    "keepalive": Option(_STREAMS, _NUMBER, "number of idle seconds (1 to 32767, 0 is off)", "60", 32767),
    "user_timeout": Option(_STREAMS, _NUMBER, "number of seconds (0 to 2147483)", "30", _C_INT // 1000),
    "defer_accept": Option(_STREAMS, _NUMBER, "number of seconds (1 to 29887, 0 is off)", "5", 29887),
    "fastopen": Option(_STREAMS, _NUMBER, "length of a queue (1 to 65535, 0 is off)", "256", 65535),
    # The kernel doubles what it is told, in a C int (socket(7)).
    "rcvbuf": Option(_NETWORK, _SIZE, "size of a buffer (1 to 1g)", "256k", 2**30),
    # A Unix stream has its buffers from connect(2), not from the listener.
    "sndbuf": Option(_NETWORK | {"unixgram"}, _SIZE, "size of a buffer (1 to 1g)", "256k", 2**30),
    "incoming_cpu": Option(_NETWORK, _NUMBER, "number of a processor (0 to 65535)", "0", 65535),
    "reuse_port": Option(_NETWORK, _SWITCH, "switch (0 or 1)", "1"),
}


class NoOptions(Exception):
    """Why a text is no options.

    :param fixes: what might have been meant, as it would follow the ``?``, the likeliest first; ``""`` is none at all.
    :param for_tls: there is nothing wrong with them but that the scheme is not that of TLS.
    """

    def __init__(self, problem: str, *fixes: str, for_tls: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fixes = fixes
        self.for_tls = for_tls


def parse_options(scheme: str, text: str) -> tuple[tuple[str, str], ...]:
    """What stands after ``?`` in an address of that scheme, as pairs in their order; values without their escapes.

    :raises NoOptions: one of them is none.
    """
    known = [name for name, option in OPTIONS.items() if scheme in option.schemes]
    if not known:
        raise NoOptions(f"an option after ? ({scheme}: has none)", "")
    if not text:
        raise NoOptions("no option after ?", "")
    options: dict[str, str] = {}
    parts = text.split("&")
    for number, part in enumerate(parts):
        name, equals, quoted = part.partition("=")
        before, after = parts[:number], parts[number + 1 :]
        if name not in known:
            _refuse_name(scheme, known, name, equals + quoted, before, after)
        option = OPTIONS[name]
        if name in options:
            raise NoOptions(f"option {show(name)} twice", "&".join(before + after), "&".join(before))
        value = unquoted(quoted)
        if not option.takes(value):
            example = f"{name}={option.example}"
            raise NoOptions(f"{name}: no {option.what}: {show(value)}", "&".join([*before, example, *after]), example)
        options[name] = value
    for name in ("key", "password_file"):
        if name in options and "cert" not in options:
            raise NoOptions(f"{name}= without cert=", f"cert=cert.pem&{text}", "cert=cert.pem&key=key.pem")
    return tuple(options.items())


def _refuse_name(scheme: str, known: list[str], name: str, value: str, before: list[str], after: list[str]) -> NoReturn:
    without, there_are = "&".join(before + after), f"(there are: {', '.join(known)})"
    other = OPTIONS.get(name)
    if other is not None:
        meant_tls = scheme in _TCP and "tls" in other.schemes
        where = "tls:" if meant_tls else ", ".join(f"{one}:" for one in sorted(other.schemes) if one[-1] not in "46")
        raise NoOptions(f"option {show(name)} is for {where}, not {scheme}: {there_are}", without, for_tls=meant_tls)
    near = nearest(name, known)
    fixes = [] if near is None else ["&".join([*before, near + value, *after]), f"{near}={OPTIONS[near].example}"]
    raise NoOptions(f"unknown option {show(name)} {there_are}", *fixes, without, "")


def whole(text: str) -> int:
    """The number that a value says, ``64k`` and ``1M`` in powers of 1024.

    :raises ValueError: it says none.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        if text == "0":
            return 0
        raise ValueError(f"no number: {show(text)}: write e.g. 60 or 64k")
    return int(match[1]) * _UNITS[match[2].lower()]


# --- words, also for the rest of an address ---------------------------------------------------------------------------


def show(text: str) -> str:
    """A text of the user's in an error: quoted, one line, and not too long."""
    return repr(text if len(text) <= 120 else text[:117] + "...")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Which of ``words`` was probably meant."""
    import difflib  # only here, for a mistake: it is not needed to start a server

    return next(iter(difflib.get_close_matches(word, sorted(words), n=1)), None)


def unquoted(text: str) -> str:
    """Without escapes; bytes that are no UTF-8 become lone surrogates (PEP 383)."""
    return unquote(text, encoding="utf-8", errors="surrogateescape")
