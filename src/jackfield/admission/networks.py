"""Lists of peers: networks for IP, users and groups for Unix sockets, and the strict reading of both.

Looking one up is one step in a sorted list, however many networks there are.
"""

from __future__ import annotations

import os
import re
import socket as _socket_std
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from jackfield.admission.addresses import Credentials, Peer, Source, source_of
from jackfield.admission.texts import show

__all__ = ["PeerList", "parse_ip", "parse_peer"]

# No leading zero: 010.0.0.1 is 8.0.0.1 to some readers and 10.0.0.1 to others (CVE-2021-29921).
_NUMBER = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{3}}")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_OWNER = re.compile(r"(uid|gid):(0|[1-9][0-9]{0,9})")
_MOST_OWNER = 2**32 - 2  # (uid_t) -1 means "no change" to the kernel (setreuid(2)); nobody has it

_MAPPED = bytes(10) + b"\xff\xff"
#: The entry for every client of a Unix socket.
_UNIX = "unix"
_WRITE = "write e.g. 192.0.2.7, 10.0.0.0/8, 2001:db8::/32, uid:1000, gid:100 or unix"


def parse_ip(text: str) -> bytes | None:
    """4 or 16 bytes in network order, or None where ``text`` is no address.

    For what comes over the wire or out of a list: four decimal numbers without leading zeros, or an IPv6 address as
    RFC 4291 2.2 has it; no zone, no short forms, no blanks.
    """
    if _IPV4.fullmatch(text):
        return bytes(map(int, text.split(".")))
    if ":" not in text or not _IPV6.fullmatch(text):
        return None
    if "." in text and not _IPV4.fullmatch(text.rpartition(":")[2]):
        return None
    try:
        return _socket_std.inet_pton(_socket_std.AF_INET6, text)
    except OSError:
        return None


def parse_peer(text: str) -> Peer:
    """The peer that a person means by ``192.0.2.7``, ``2001:db8::1`` or ``uid:1000``: to ban one, or to let it go.

    :raises ValueError: no such peer; one line that says what to write.
    """
    owner = _parse_owner(text)
    if owner is not None and owner[0] == "uid":
        return Credentials(pid=0, uid=owner[1], gid=-1)
    if owner is not None or parse_ip(text) is None:
        raise ValueError(f"no address of a peer: {show(text)}: write e.g. 192.0.2.7, 2001:db8::1 or uid:1000")
    return (text, 0)


class PeerList:
    """Networks of IP addresses, and users and groups of the processes behind Unix sockets; never changed once made.

    ``peer in peers`` takes a peer as the socket module gives it (:func:`source_of`).  An IPv4 network also holds IPv4
    clients of a dual-stack socket, and ``::/0`` holds none of them.  A Unix peer is told by its
    :class:`~jackfield.admission.Credentials`; one without is in no list.

    :param entries: ``192.0.2.7``, ``10.0.0.0/8``, ``2001:db8::/32``, ``uid:1000``, ``gid:100``, and ``unix`` for every
        user; they may overlap.
    :raises ValueError: an entry is none of these, or names a host where it has a prefix; one line that says what to
        write.
    """

    __slots__ = ("_also", "_bounds4", "_bounds6", "_gids", "_uids", "_unix", "entries", "path")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        if isinstance(entries, str):
            raise ValueError(f"a list of peers is several texts, not one: write PeerList([{entries!r}])")
        #: As they were written.
        self.entries = tuple(entries)
        #: The file that they are from, for :meth:`reread`; None for a list that is from none.
        self.path: str | None = None
        self._also: tuple[str, ...] = ()
        self._fill(self.entries)

    def _fill(self, entries: Iterable[str], where: str = "", first: int = 1) -> None:
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        owners: dict[str, set[int]] = {"uid": set(), "gid": set()}
        self._unix = False
        for number, entry in enumerate(entries, first):
            if where and not entry:
                continue  # a blank line
            if entry == _UNIX:
                self._unix = True
                continue
            owner = _parse_owner(entry)
            if owner is not None:
                owners[owner[0]].add(owner[1])
                continue
            try:
                length, first, end = _parse_network(entry)
            except ValueError as error:
                raise ValueError(f"{where}:{number}: {error}" if where else str(error)) from None
            ranges[length].append((first, end))
        self._bounds4 = _bounds(ranges[4], 4)
        self._bounds6 = _bounds(ranges[16], 16)
        self._uids = frozenset(owners["uid"])
        self._gids = frozenset(owners["gid"])

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], also: Iterable[str] = ()) -> PeerList:
        """The list in a file: an entry a line, ``#`` begins a comment, blanks around and empty lines do not count.

        :param also: entries beside those in the file.
        :raises ValueError: a line is none; it is told by file and line, and what to write.
        :raises OSError: the file cannot be read.
        """
        peers = cls(also)
        peers.path, peers._also = os.fspath(path), peers.entries
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            # split(), not splitlines(): a form feed or U+2028 ends no line for an editor that is asked for line 7.
            lines = [line.partition("#")[0].strip(" \t\r") for line in file.read().split("\n")]
        peers._fill([*peers._also, *lines], peers.path, 1 - len(peers._also))
        peers.entries = (*peers._also, *filter(None, lines))
        return peers

    def reread(self) -> PeerList:
        """Another list, as the file has it now; this very one where it is from none.

        A file that is written while it is read may be read in part: write another beside it, and rename that over it.

        :raises ValueError: as :meth:`from_file`.
        :raises OSError: the file cannot be read.
        """
        return self if self.path is None else type(self).from_file(self.path, self._also)

    def holds(self, source: Source) -> bool:
        """Whether a peer is in the list whose source is known already."""
        if type(source) is bytes:
            # The bounds are where the list begins, ends, begins again: after an odd number of them one is inside.
            return bisect_right(self._bounds4 if len(source) == 4 else self._bounds6, source) & 1 == 1
        return isinstance(source, Credentials) and (
            self._unix or source.uid in self._uids or source.gid in self._gids
        )

    def __contains__(self, peer: Peer) -> bool:
        return self.holds(source_of(peer))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _content(self) -> tuple[Any, ...]:
        return tuple(self._bounds4), tuple(self._bounds6), self._uids, self._gids, self._unix

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same peers, however they are written."""
        return self._content() == other._content() if isinstance(other, PeerList) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._content())

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.entries[:5]))
        more = f", ... {len(self.entries)} in all" if len(self.entries) > 5 else ""
        return f"PeerList([{shown}{more}])"


def _parse_owner(entry: str) -> tuple[str, int] | None:
    match = _OWNER.fullmatch(entry) if isinstance(entry, str) else None
    return (match[1], int(match[2])) if match is not None and int(match[2]) <= _MOST_OWNER else None


def _parse_network(entry: str) -> tuple[int, int, int]:
    """Length of the addresses in bytes, the first one, and the one after the last."""
    if not isinstance(entry, str):
        raise ValueError(f"an entry of a list of peers is a text, not {type(entry).__name__}: {_WRITE}")
    host, slash, prefix = entry.partition("/")
    packed = parse_ip(host)
    if packed is None:
        raise ValueError(f"no address and no network: {show(entry)}: {_WRITE}")
    bits = 8 * len(packed)
    if not slash:
        length = bits
    elif not _PREFIX.fullmatch(prefix) or (length := int(prefix)) > bits:
        raise ValueError(f"no prefix from 0 to {bits} after the slash: {show(entry)}: write e.g. {host}/{bits}")
    if len(packed) == 16 and length >= 96 and packed.startswith(_MAPPED):
        packed, length, bits = packed[12:], length - 96, 32  # it is IPv4 that comes from there
    first, size = int.from_bytes(packed, "big"), 1 << (bits - length)
    if first % size:
        family = _socket_std.AF_INET if bits == 32 else _socket_std.AF_INET6
        network = _socket_std.inet_ntop(family, (first - first % size).to_bytes(bits // 8, "big"))
        raise ValueError(f"a host where a network ends after {length} bits: {show(entry)}: write {network}/{length}")
    return bits // 8, first, first + size


def _bounds(ranges: list[tuple[int, int]], length: int) -> list[bytes]:
    """Where the union of ``ranges`` begins and ends, in order, as addresses: those compare as fast as they are read."""
    ranges.sort()
    merged: list[int] = []
    for first, end in ranges:
        if not merged or first > merged[-1]:
            merged += first, end
        elif end > merged[-1]:
            merged[-1] = end
    if merged and merged[-1] >> (8 * length):
        merged.pop()  # past the last address there is none, and nothing to bound
    return [bound.to_bytes(length, "big") for bound in merged]

