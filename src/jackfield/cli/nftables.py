"""The limits of a server as rules for the kernel's packet filter: the text of a file for ``nft -f``.

What is refused here costs no descriptor, no thread and no line of Python.  The server holds to its limits all the same,
so no rule is meant to be stricter than the limit it stands for: where the kernel cannot say the same, it lets through,
and the server decides.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from jackfield.address import Address
from jackfield.admission import PeerList, Rate, parse_ip
from jackfield.admission.addresses import MOST_ADDRESSES
from jackfield.admission.texts import show
from jackfield.cli.arguments import UsageError
from jackfield.cli.nftwords import IPV4, IPV6, Door, Family, doors_of, forgotten_after, limit_of, networks_of, sender_of
from jackfield.cli.text import escape
from jackfield.limits import Limits

__all__ = ["HELD", "rule_set"]

#: The limits that rules stand for, and what only says more of another; every other one that is on is named in the file
#: as left to the server.
HELD = frozenset(
    {
        "max_connections", "when_full", "full_patience", "refusal", "max_connections_per_address", "ipv4_prefix",
        "ipv6_prefix", "accept_rate", "accept_rate_per_address", "allow", "deny", "exempt", "max_datagram",
        "datagram_rate", "datagram_rate_per_address", "pressure",
    }
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_COUNT = 2**32 - 1  # struct nft_connlimit has a u32
_LARGEST_DATAGRAM = 65_535 - 8  # UDP's length counts its header (RFC 768)
_COLUMNS = 100

_INTRODUCTION = """\
#!/usr/sbin/nft -f
#
# The limits of a jackfield server, held by the kernel before the server sees anything.
#
#   load, also again    nft -f FILE
#   what was refused    nft list table inet {table}
#   take it away        nft delete table inet {table}
#
# The table is this server's own: loading replaces it in one step and touches no other. What is let through here, other
# tables may still refuse. Connections that were open before it was loaded are not counted, nor are those that another
# table keeps out of connection tracking (notrack)."""

_SYN_NOTE = """\
#
# SYN floods: leave net.ipv4.tcp_syncookies at 1. Rules see the sender that a packet claims to have. Connections are
# counted from their SYN on, and one that is never finished counts for net.netfilter.nf_conntrack_tcp_timeout_syn_recv
# (60 s): forged SYNs use up what is counted for the address they claim{whole}. Let
# net.netfilter.nf_conntrack_max be several times the connections that you expect."""

_PROXY_NOTE = """\
#
# The addresses of clients come in PROXY headers, which the kernel does not read: here only proxies may connect, and all
# limits by the address of a client are left to the server."""

_FULL_NOTE = f"""\
    # Of {MOST_ADDRESSES} addresses at once; while a set is full, one that is not in it is let through to the server."""


def rule_set(
    addresses: Iterable[Address],
    limits: Limits,
    *,
    name: str = "",
    proxies: PeerList | None = None,
    count_all: bool = True,
) -> str:
    """The text of a file for ``nft -f`` that holds to ``limits`` on the ports of ``addresses``.

    Packets for one TCP or UDP port are asked ``deny``, ``allow``, then (unless ``exempt``) the limits of their
    address, then those of all.  That is the server's order but for ``accept_rate``, which here comes after the limits
    of the address: a rule that matches has taken its token, and one address must not use up those of all.

    :param addresses: TCP and UDP; those of this machine alone (127.0.0.1, ::1, localhost) need no rules.
    :param name: the table is ``jackfield_<name>``; default ``jackfield``.
    :param proxies: who may connect where connections begin with a PROXY header; None where they do not.
    :param count_all: whether ``max_connections`` gets a rule; default True.  Forged SYNs can fill that count, and
        then nobody comes in, where SYN cookies would have let them.
    :raises UsageError: an address without a port that a packet filter could see, none that is reached from elsewhere,
        or no name; one line that says what to write.
    """
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"no name for a table: {show(name)}: write letters, digits, '_', '-', '.', e.g. --name chat")
    doors = doors_of(addresses)
    return _File(doors, limits, f"jackfield_{name}" if name else "jackfield", proxies, count_all).text()


class _File:
    """The table as it is put together; a set is written where a rule has asked for it."""

    def __init__(
        self, doors: Sequence[Door], limits: Limits, table: str, proxies: PeerList | None, count_all: bool
    ) -> None:
        self._doors = doors
        self._limits = limits
        self._table = table
        self._proxies = proxies
        self._count_all = count_all
        self._counts_all = False
        self._sets: dict[str, list[str]] = {}
        #: What the limits have and the rules do not, with the reason.
        self._left: dict[str, str] = {}

    def text(self) -> str:
        chains = []
        if streams := [door for door in self._doors if not door.is_datagram]:
            chains += [self._streams_all(), self._streams(_families(streams))]
        if datagrams := [door for door in self._doors if door.is_datagram]:
            chains += [self._datagrams(_families(datagrams))]
        chains += [self._input(streams, datagrams)]
        self._leave()
        lines = [
            *self._introduction(bool(streams)),
            "",
            # Deleting what is not there is an error, and so it is made first; all of a file is one transaction.
            f"table inet {self._table}",
            f"delete table inet {self._table}",
            "",
            f"table inet {self._table} {{",
        ]
        blocks = [*self._sets.values(), *chains]
        for number, block in enumerate(blocks):
            lines += [*([""] if number else []), *block]
        return "\n".join([*lines, "}", ""])

    def _introduction(self, streams: bool) -> list[str]:
        lines = _INTRODUCTION.format(table=self._table).split("\n")
        if streams:
            whole = ", and in all" if self._counts_all else ""
            lines += _SYN_NOTE.format(whole=whole).split("\n")
            if self._proxies is not None:
                lines += _PROXY_NOTE.split("\n")
        if self._left:
            lines += ["#", "# Left to the server:", *(f"#   {name}: {why}" for name, why in sorted(self._left.items()))]
        return lines

    def _leave(self) -> None:
        """Name what is on and that no rule stands for."""
        for field in dataclasses.fields(self._limits):
            value = getattr(self._limits, field.name)
            if field.name not in HELD and value is not None:
                known = isinstance(value, int | float | str | Rate)
                self._left[field.name] = escape(str(value)) if known else "what breaking the rules costs an address"
        for name in ("allow", "deny"):
            peers: PeerList | None = getattr(self._limits, name)
            if peers is not None and any(parse_ip(entry.partition("/")[0]) is None for entry in peers):
                self._left.setdefault(name, "who comes by Unix sockets")

    # --- chains -------------------------------------------------------------------------------------------------------

    def _input(self, streams: Sequence[Door], datagrams: Sequence[Door]) -> list[str]:
        rules = ['iif "lo" accept']
        # Only what begins a connection: loose tracking (nf_conntrack_tcp_loose) calls those new that it first sees in
        # their middle. goto, not jump: a packet for two of the addresses is counted once.
        begins = "tcp flags & (fin | syn | rst | ack) == syn ct state new goto streams"
        for doors, rest in ((streams, f"tcp dport %s {begins}"), (datagrams, "udp dport %s goto datagrams")):
            ports: dict[str, set[int]] = {}
            for door in doors:
                ports.setdefault(door.where, set()).add(door.port)
                which = f"; whatever addresses {door.address.host} has" if door.is_named else ""
                rules.append(f"# {escape(f'{door.address}{which}')}")
            for where, numbers in ports.items():
                rules.append(where + rest % f"{{ {', '.join(map(str, sorted(numbers)))} }}")
        return _chain("input", ["type filter hook input priority filter; policy accept;", *rules])

    def _streams(self, families: Sequence[Family]) -> list[str]:
        limits, proxies = self._limits, self._proxies
        rules = []
        if proxies is None:
            rules += self._listed(families)
            rules += self._exempt(families, "goto streams_all", "no limit of the address, no rate")
            rules += self._rated("accept_rate_per_address", "newcomers", families, "reject with tcp reset")
            rules += self._counted(families)
        else:
            rules += self._only("proxies", proxies, families)
            for name in ("allow", "deny", "accept_rate_per_address", "max_connections_per_address"):
                if getattr(limits, name) is not None:
                    self._left[name] = "of the clients behind proxies"
            rules += self._exempt(families, "goto streams_all", "no rate")
        rules += self._rate_of_all("accept_rate", "reject with tcp reset")
        return _chain("streams", [*rules, "goto streams_all"])

    def _streams_all(self) -> list[str]:
        limits = self._limits
        most = limits.max_connections
        rules = []
        if most is not None:
            if limits.when_full == "wait":
                self._left["max_connections"] = "clients above it wait in the kernel's queue, as when_full says"
            elif limits.refusal:
                self._left["max_connections"] = "clients above it are sent the refusal"
            elif not self._count_all:
                self._left["max_connections"] = "forged SYNs could fill a count of all (--max-connections N writes it)"
            elif most > _MOST_COUNT:
                self._left["max_connections"] = "more than the kernel counts"
            else:
                self._counts_all = True
                rules.append(_refuse(f"ct count over {most}", "reject with tcp reset", "max_connections"))
        return _chain("streams_all", rules)

    def _datagrams(self, families: Sequence[Family]) -> list[str]:
        most = self._limits.max_datagram
        # Nothing can be answered there (RFC 768).
        rules = [_refuse("udp sport 0", "drop", "from port 0"), *self._listed(families)]
        if most is not None and most < _LARGEST_DATAGRAM:
            rules.append(_refuse(f"udp length > {most + 8}", "drop", "max_datagram"))
        rules += self._exempt(families, "accept", "no rate")
        rules += self._rated("datagram_rate_per_address", "senders", families, "drop")
        rules += self._rate_of_all("datagram_rate", "drop")
        return _chain("datagrams", rules)

    # --- rules --------------------------------------------------------------------------------------------------------

    def _listed(self, families: Sequence[Family]) -> list[str]:
        rules = []
        if self._limits.deny is not None:
            rules += [
                _refuse(f"{family.header} saddr @{name}", "drop", "deny")
                for family in families
                if (name := self._network_set("deny", self._limits.deny, family))
            ]
        if self._limits.allow is not None:
            rules += self._only("allow", self._limits.allow, families)
        return rules

    def _only(self, what: str, peers: PeerList, families: Sequence[Family]) -> list[str]:
        rules = []
        for family in families:
            name = self._network_set(what, peers, family)
            others = f"{family.header} saddr != @{name}" if name else f"meta nfproto {family.protocol}"
            rules.append(_refuse(others, "drop", what))
        return rules

    def _exempt(self, families: Sequence[Family], verdict: str, what: str) -> list[str]:
        rules = [
            f"{family.header} saddr @{name} {verdict}"
            for family in families
            if (name := self._network_set("exempt", self._limits.exempt, family))
        ]
        return [f"# exempt: {what}", *rules] if rules else []

    def _rated(self, name: str, noun: str, families: Sequence[Family], verdict: str) -> list[str]:
        """A rate for each sender.  update, not add: whoever keeps coming is not forgotten while refused."""
        rate: Rate | None = getattr(self._limits, name)
        limit = self._limit(name, rate)
        if rate is None or limit is None:
            return []
        rules = []
        for family in families:
            self._sets[f"{noun}{family.number}"] = [
                f"    # {name} {rate}: forgotten when it would be full again.",
                _FULL_NOTE,
                f"    set {noun}{family.number} {{",
                f"        type {family.type}",
                f"        size {MOST_ADDRESSES}",
                "        flags dynamic, timeout",
                f"        timeout {forgotten_after(rate)}s",
                "    }",
            ]
            rules.append(_refuse(f"update @{noun}{family.number} {{ {self._sender(family)} {limit} }}", verdict, name))
        return rules

    def _counted(self, families: Sequence[Family]) -> list[str]:
        name, most = "max_connections_per_address", self._limits.connections_per_address
        if most is None:
            return []
        if most > _MOST_COUNT:
            self._left[name] = "more than the kernel counts"
            return []
        rules = []
        for family in families:
            self._sets[f"connected{family.number}"] = [
                f"    # {name} {most}. No timeout: it would forget connections that are open. The kernel takes out",
                "    # addresses that have none.",
                _FULL_NOTE,
                f"    set connected{family.number} {{",
                f"        type {family.type}",
                f"        size {MOST_ADDRESSES}",
                "        flags dynamic",
                "    }",
            ]
            element = f"{self._sender(family)} ct count over {most}"
            rules.append(_refuse(f"add @connected{family.number} {{ {element} }}", "reject with tcp reset", name))
        return rules

    def _rate_of_all(self, name: str, verdict: str) -> list[str]:
        limit = self._limit(name, getattr(self._limits, name))
        return [] if limit is None else [_refuse(limit, verdict, name)]

    def _limit(self, name: str, rate: Rate | None) -> str | None:
        if rate is None:
            return None
        limit = limit_of(rate)
        if limit is None:
            self._left[name] = f"{rate}, beyond the kernel's arithmetic"
        return limit

    def _sender(self, family: Family) -> str:
        return sender_of(family, self._limits.ipv4_prefix if family is IPV4 else self._limits.ipv6_prefix)

    def _network_set(self, what: str, peers: PeerList, family: Family) -> str | None:
        """The name of the set of those networks; None where there are none, as a set without elements may not be."""
        name = f"{what}{family.number}"
        if name not in self._sets:
            networks = networks_of(peers, family)
            if not networks:
                return None
            self._sets[name] = [
                f"    set {name} {{",
                f"        type {family.type}",
                "        flags constant, interval",
                "        elements = {",
                *_wrapped(networks),
                "        }",
                "    }",
            ]
        return name


def _families(doors: Sequence[Door]) -> list[Family]:
    return [family for family in (IPV4, IPV6) if any(family in door.families for door in doors)]


def _refuse(match: str, verdict: str, limit: str) -> str:
    return f'{match} counter {verdict} comment "{limit}"'


def _chain(name: str, rules: Iterable[str]) -> list[str]:
    return [f"    chain {name} {{", *(f"        {rule}" for rule in rules), "    }"]


def _wrapped(words: Sequence[str]) -> list[str]:
    """The words with commas between them, in lines that are not too long."""
    lines, line = [], ""
    for number, word in enumerate(words):
        piece = word if number == len(words) - 1 else f"{word},"
        if line and len(line) + len(piece) >= _COLUMNS:
            lines.append(line)
            line = ""
        line += f" {piece}" if line else f"            {piece}"
    return [*lines, line]
