"""``jackfield init nftables``: what stands in the rule set, that nft takes it whatever the limits are, and bad input.

That the rules do what they say is in tests/real/test_real_nftables.py, in namespaces.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import ipaddress
import re
import shutil
import stat
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cli_support import SECONDS, only_line, run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jackfield.address import Address, parse_address
from jackfield.admission import PeerList, Rate
from jackfield.cli import init
from jackfield.cli.app import build_parser
from jackfield.cli.arguments import UsageError
from jackfield.cli.nftables import HELD, rule_set
from jackfield.limits import Limits

pytestmark = pytest.mark.slow

BOTH = ["tcp://:9999", "udp://:9999"]
SYN = "tcp flags & (fin | syn | rst | ack) == syn ct state new goto streams"


def rules_for(*addresses: str, name: str = "", proxies: PeerList | None = None, **limits: Any) -> str:
    """The text for addresses and limits, where those that are not given are off."""
    return rule_set(map(parse_address, addresses or BOTH), Limits.none(**limits), name=name, proxies=proxies)


def block(text: str, kind: str, name: str) -> list[str]:
    """The lines of a set or a chain, without comments."""
    found = re.search(rf"^    {kind} {name} {{\n(.*?)^    }}$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return []
    return [line.strip() for line in found[1].splitlines() if not line.strip().startswith("#")]


def chain(text: str, name: str) -> list[str]:
    return block(text, "chain", name)


def elements(text: str, name: str) -> list[str]:
    words = " ".join(block(text, "set", name)).partition("elements = {")[2].rpartition("}")[0]
    return words.replace(",", " ").split()


def code(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def left(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#   ([a-z_0-9]+): (.*)$", text, re.MULTILINE))


# --- nft says ---------------------------------------------------------------------------------------------------------


@functools.cache
def in_namespace() -> tuple[list[str], str]:
    """The words that run a program in a network namespace of its own, or why there are none."""
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if nft is None:
        return [], "there is no nft here: install nftables"
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        try:
            done = subprocess.run([*words, nft, "list", "ruleset"], capture_output=True, timeout=SECONDS, check=False)
        except OSError:
            break
        if done.returncode == 0:
            return words, ""
    return [], "no network namespace may be made here: be root, or allow user namespaces"


def in_own_network(script: str, data: str = "") -> subprocess.CompletedProcess[str]:
    words, reason = in_namespace()
    if reason:
        pytest.skip(reason)
    return subprocess.run(
        [*words, "sh", "-ec", f"PATH=$PATH:/usr/sbin:/sbin\n{script}"],
        input=data, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


def check(text: str) -> None:
    """AssertionError unless nft, and the kernel that it asks, would load the text."""
    done = in_own_network("nft -c -f -", text)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def test_nft_does_refuse() -> None:
    text = rules_for(max_connections=5, when_full="refuse")
    check(text)
    for broken in (text.replace("goto streams_all", "goto nowhere"), text.replace("ct count over 5", "ct count")):
        assert broken != text
        with pytest.raises(AssertionError):
            check(broken)


RATES = st.builds(
    Rate,
    st.integers(1, 10**9),
    st.sampled_from([0.001, 0.1, 1 / 3, 1.0, 7.0, 10.0, 60.0, 3600.0, 86400.0, 86400.0 * 366]) | st.floats(0.001, 1e7),
    st.sampled_from([0, 1, 5, 10**9]) | st.integers(1, 10**9),
)
V4 = st.builds(lambda n, p: str(ipaddress.ip_network((n, p), strict=False)), st.integers(0, 2**32 - 1),
               st.integers(0, 32))  # fmt: skip
V6 = st.builds(lambda n, p: str(ipaddress.ip_network((n, p), strict=False)), st.integers(0, 2**128 - 1),
               st.integers(0, 128))  # fmt: skip
PEERS = st.lists(V4 | V6 | st.sampled_from(["uid:0", "gid:7", "::ffff:10.0.0.0/104", "0.0.0.0/0", "::/0"]), max_size=8)
LISTS = PEERS.map(PeerList)
NUMBERS = st.integers(1, 100) | st.sampled_from([1, 2**32 - 1, 2**32, 10**30])
LIMITS = st.builds(
    Limits,
    max_connections=st.none() | NUMBERS,
    when_full=st.sampled_from(["wait", "refuse"]),
    max_connections_per_address=st.none() | st.just("auto") | NUMBERS,
    ipv4_prefix=st.integers(1, 32),
    ipv6_prefix=st.integers(1, 128),
    accept_rate=st.none() | RATES,
    accept_rate_per_address=st.none() | RATES,
    datagram_rate=st.none() | RATES,
    datagram_rate_per_address=st.none() | RATES,
    max_datagram=st.none() | st.integers(1, 70_000),
    allow=st.none() | LISTS,
    deny=st.none() | LISTS,
    exempt=LISTS,
)
HOSTS = ["", "0.0.0.0", "192.0.2.1", "[::]", "[2001:db8::1]", "[fe80::1%eth0]", "[::ffff:192.0.2.1]", "host.example"]
ADDRESSES = st.builds(lambda s, h, p: parse_address(f"{s}://{h}:{p}"), st.sampled_from(["tcp", "udp"]),
                      st.sampled_from(HOSTS), st.integers(1, 65535))  # fmt: skip


@settings(max_examples=40)
@given(st.lists(ADDRESSES, min_size=1, max_size=6), LIMITS, st.none() | LISTS, st.booleans())
@example([parse_address(one) for one in BOTH], Limits(accept_rate=Rate(1, 86400.0 * 366, 10**9)), None, True)
@example([parse_address(one) for one in BOTH], Limits(accept_rate_per_address=Rate(10**9, 0.001)), None, True)
def test_nft_takes_whatever_the_limits_are(
    addresses: list[Address], limits: Limits, proxies: PeerList | None, count_all: bool
) -> None:
    text = rule_set(addresses, limits, proxies=proxies, count_all=count_all)
    check(text)
    for field in dataclasses.fields(limits):  # nothing that is on is passed over in silence
        if getattr(limits, field.name) is not None:
            assert field.name in HELD or field.name in left(text), field.name


def test_ten_thousand_networks() -> None:
    many = [f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}.0/25" for n in range(1 << 16, (1 << 16) + 20_000, 2)]
    more = [f"2001:db8:{n:x}::/48" for n in range(2, 20_000, 2)]
    text = rules_for(deny=PeerList(many), allow=PeerList([*more, "0.0.0.0/0"]))
    assert (elements(text, "deny4"), elements(text, "allow6")) == (many, more)
    assert max(map(len, text.splitlines())) <= 120
    if in_namespace()[0] == ["unshare", "-rn"]:
        # nft hands a file over as one message, and only root of the machine may send one of over net.core.wmem_max.
        pytest.skip("a file of that size can be loaded by root only")
    check(text)


def test_loading_again_replaces_its_own_table_and_no_other() -> None:
    first, second = (rules_for(name="chat", max_connections=most, when_full="refuse") for most in (5, 6))
    done = in_own_network(
        "cat >/dev/null; nft add table inet jackfield; nft add table inet other; nft -f - <<'E'\n"
        f"{first}\nE\nnft -f - <<'E'\n{second}\nE\nnft list tables; nft list chain inet jackfield_chat streams_all"
    )
    assert done.returncode == 0, done.stderr
    assert re.findall("table inet ([a-z_]+)$", done.stdout, re.MULTILINE) == ["jackfield", "other", "jackfield_chat"]
    assert "over 6" in done.stdout and "over 5" not in done.stdout


# --- what stands in it ------------------------------------------------------------------------------------------------


def test_the_order_is_the_servers_but_for_what_a_rule_uses_up() -> None:
    text = rules_for(
        max_connections=100, when_full="refuse", max_connections_per_address=20, accept_rate=Rate(50),
        accept_rate_per_address=Rate(10, burst=15), deny=PeerList(["192.0.2.0/24"]), allow=PeerList(["10.0.0.0/8"]),
        exempt=PeerList(["10.1.0.0/16"]), datagram_rate=Rate(500), datagram_rate_per_address=Rate(5),
        max_datagram=1472,
    )  # fmt: skip
    reset = "counter reject with tcp reset comment"
    v6 = "ip6 saddr & ffff:ffff:ffff:ffff::"
    listed = [
        'ip saddr @deny4 counter drop comment "deny"',
        'ip saddr != @allow4 counter drop comment "allow"',
        'meta nfproto ipv6 counter drop comment "allow"',
    ]
    ten, five = "limit rate over 10/second burst 15 packets", "limit rate over 5/second burst 5 packets"
    assert chain(text, "streams") == [
        *listed,
        "ip saddr @exempt4 goto streams_all",
        f'update @newcomers4 {{ ip saddr {ten} }} {reset} "accept_rate_per_address"',
        f'update @newcomers6 {{ {v6} {ten} }} {reset} "accept_rate_per_address"',
        f'add @connected4 {{ ip saddr ct count over 20 }} {reset} "max_connections_per_address"',
        f'add @connected6 {{ {v6} ct count over 20 }} {reset} "max_connections_per_address"',
        f'limit rate over 50/second burst 50 packets {reset} "accept_rate"',
        "goto streams_all",
    ]
    assert chain(text, "streams_all") == [f'ct count over 100 {reset} "max_connections"']
    assert chain(text, "datagrams") == [
        'udp sport 0 counter drop comment "from port 0"',
        *listed,
        'udp length > 1480 counter drop comment "max_datagram"',
        "ip saddr @exempt4 accept",
        f'update @senders4 {{ ip saddr {five} }} counter drop comment "datagram_rate_per_address"',
        f'update @senders6 {{ {v6} {five} }} counter drop comment "datagram_rate_per_address"',
        'limit rate over 500/second burst 500 packets counter drop comment "datagram_rate"',
    ]
    assert chain(text, "input") == [
        "type filter hook input priority filter; policy accept;",
        'iif "lo" accept',
        f"tcp dport {{ 9999 }} {SYN}",
        "udp dport { 9999 } goto datagrams",
    ]
    check(text)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("tcp://:9999", ""),
        ("tcp://[::]:9999", ""),
        ("tcp://0.0.0.0:9999", "meta nfproto ipv4 "),
        ("tcp4://:9999", "meta nfproto ipv4 "),
        ("tcp6://[::]:9999", "meta nfproto ipv6 "),
        ("tcp://192.0.2.1:9999", "ip daddr 192.0.2.1 "),
        ("tcp://[::ffff:192.0.2.1]:9999", "ip daddr 192.0.2.1 "),
        ("tcp://[2001:DB8::0:1]:9999", "ip6 daddr 2001:db8::1 "),
        ("tcp6://[fe80::1%25eth0]:9999", "ip6 daddr fe80::1 "),
        ("tcp://host.example:9999", ""),
        ("tcp4://host.example:9999", "meta nfproto ipv4 "),
    ],
)
def test_only_the_packets_for_an_address(address: str, where: str) -> None:
    text = rules_for(address, max_connections_per_address=5)
    assert chain(text, "input")[2:] == [f"{where}tcp dport {{ 9999 }} {SYN}"]
    families = {"ip ": {4}, "ip6 ": {6}}.get(where[: where.find(" ") + 1], {4, 6})
    families = {"meta nfproto ipv4 ": {4}, "meta nfproto ipv6 ": {6}}.get(where, families)
    assert {n for n in (4, 6) if block(text, "set", f"connected{n}")} == families
    check(text)


def test_ports_stand_together_and_addresses_of_this_machine_need_none() -> None:
    text = rules_for(":80", "tcp://:443", "udp4://:53", "127.0.0.1:1", "udp://[::1]:2", "localhost:3", "tcp://:80")
    assert chain(text, "input")[2:] == [
        f"tcp dport {{ 80, 443 }} {SYN}",
        "meta nfproto ipv4 udp dport { 53 } goto datagrams",
    ]
    assert chain(rules_for("udp://:53"), "streams") == chain(rules_for("tcp://:53"), "datagrams") == []


def test_networks_are_told_once_and_by_family() -> None:
    peers = PeerList(["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3", "::ffff:10.0.0.0/104", "2001:db8::/32", "2001:db8::5",
                      "192.0.2.7", "uid:5"])  # fmt: skip
    text = rules_for(deny=peers)
    assert elements(text, "deny4") == ["10.0.0.0/8", "192.0.2.7"]
    assert elements(text, "deny6") == ["2001:db8::/32"]
    assert left(text)["deny"].startswith("who comes by Unix")
    check(text)


@pytest.mark.parametrize("entries", [[], ["uid:5"]])
def test_a_list_that_lets_nobody_in_lets_nobody_in(entries: list[str]) -> None:
    text = rules_for(allow=PeerList(entries), deny=PeerList(entries))
    for name in ("streams", "datagrams"):
        drops = [rule for rule in chain(text, name) if "nfproto" in rule]
        assert drops == [f'meta nfproto ipv{n} counter drop comment "allow"' for n in (4, 6)]
    assert "@deny" not in text
    check(text)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"max_connections": 5, "when_full": "wait"}, "wait in the kernel's queue"),
        ({"max_connections": 5, "when_full": "refuse", "refusal": b"busy\n"}, "the refusal"),
        ({"max_connections": 2**32, "when_full": "refuse"}, "more than the kernel counts"),
    ],
)
def test_where_the_server_says_it_better_it_is_left_to_it(limits: Any, why: str) -> None:
    text = rules_for(**limits)
    assert chain(text, "streams_all") == [] and "ct count" not in text
    assert why in left(text)["max_connections"]


def test_behind_proxies_the_kernel_does_not_see_the_clients() -> None:
    limits = {
        "max_connections": 9, "when_full": "refuse", "max_connections_per_address": 2, "accept_rate": Rate(5),
        "accept_rate_per_address": Rate(1), "deny": PeerList(["192.0.2.1"]), "allow": PeerList(["192.0.2.0/24"]),
    }  # fmt: skip
    text = rules_for(proxies=PeerList(["10.0.0.0/8"]), exempt=PeerList(["10.0.0.1"]), **limits)
    assert chain(text, "streams") == [
        'ip saddr != @proxies4 counter drop comment "proxies"',
        'meta nfproto ipv6 counter drop comment "proxies"',
        "ip saddr @exempt4 goto streams_all",
        'limit rate over 5/second burst 5 packets counter reject with tcp reset comment "accept_rate"',
        "goto streams_all",
    ]
    assert set(left(text)) == {"allow", "deny", "accept_rate_per_address", "max_connections_per_address"}
    assert 'ip saddr @deny4 counter drop comment "deny"' in chain(text, "datagrams")  # which have no such header
    check(text)


# --- rates ------------------------------------------------------------------------------------------------------------

PER = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def kernels_rate(text: str) -> tuple[Fraction, int] | None:
    """Packets a second, and the burst."""
    found = re.search(r"limit rate over (\d+)/(\w+) burst (\d+) packets", text)
    return (Fraction(int(found[1]), PER[found[2]]), int(found[3])) if found else None


def judge(rate: Rate, text: str) -> None:
    """AssertionError unless the kernel's rate is that of the server, a little faster at most."""
    found = kernels_rate(text)
    if found is None:
        assert "beyond the kernel's arithmetic" in left(text)["accept_rate"]
        assert rate.count / rate.seconds > 9e8 or rate.burst * rate.seconds / rate.count > 9e9
        return
    wanted = Fraction(rate.count) / Fraction(repr(float(rate.seconds)))
    assert found[1] == rate.burst
    assert wanted <= found[0] < wanted + Fraction(1, 604800)


@given(RATES)
def test_a_rate_is_never_slower_than_the_servers(rate: Rate) -> None:
    judge(rate, rules_for("tcp://:1", accept_rate=rate))


def test_a_rate_that_is_slower_would_be_noticed() -> None:
    rate = Rate(7, 11.0)
    text = rules_for("tcp://:1", accept_rate=rate)
    assert "limit rate over 384873/week" in text  # 384,872.7
    judge(rate, text)
    for other in ("38/minute", "39/minute", "384872/week", "384874/week"):
        with pytest.raises(AssertionError):
            judge(rate, text.replace("384873/week", other))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("10/s", "10/second"),
        ("10/m,3", "10/minute"),
        ("5/10s", "30/minute"),
        ("1/90s", "40/hour"),
        ("3/ms", "3000/second"),
    ],
)
def test_rates_are_written_as_people_would(text: str, written: str) -> None:
    assert f"limit rate over {written} burst" in rules_for("tcp://:1", accept_rate=Rate.parse(text))


@given(RATES)
def test_a_bucket_is_not_forgotten_before_it_is_full(rate: Rate) -> None:
    lines = block(rules_for("tcp4://:1", accept_rate_per_address=rate), "set", "newcomers4")
    if lines:
        seconds = int(lines[-1].removeprefix("timeout ").removesuffix("s"))
        assert seconds > rate.burst * rate.seconds / rate.count or seconds == 30 * 86400
        assert "size 65536" in lines and "flags dynamic, timeout" in lines


def test_open_connections_are_never_forgotten() -> None:
    assert "flags dynamic" in block(rules_for(max_connections_per_address=5), "set", "connected6")
    assert "timeout" not in " ".join(block(rules_for(max_connections_per_address=5), "set", "connected6"))


@pytest.mark.parametrize(("prefix4", "prefix6"), [(24, 56), (1, 1), (32, 128), (31, 127)])
def test_addresses_count_together_by_prefix(prefix4: int, prefix6: int) -> None:
    text = rules_for(max_connections_per_address=5, ipv4_prefix=prefix4, ipv6_prefix=prefix6)
    masks = re.findall(r"saddr(?: & (\S+))? ct count", text)
    whole = ["255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
    bits = [int(ipaddress.ip_address(mask or all_of_it)) for mask, all_of_it in zip(masks, whole, strict=True)]
    assert bits == [2**32 - 2 ** (32 - prefix4), 2**128 - 2 ** (128 - prefix6)]
    check(text)


def test_nothing_steps_out_of_a_comment() -> None:
    text = rule_set([Address("tcp", 'x\n}\nflush ruleset\u2028"', 9)], Limits())
    assert not any("flush" in line for line in code(text))
    assert len([line for line in text.split("\n") if "flush" in line]) == 1


# --- the command ------------------------------------------------------------------------------------------------------


def written_by(*words: str, cwd: Path | None = None) -> str:
    done = run("init", "nftables", *words, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def test_the_command_says_what_the_flags_of_serve_mean(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("192.0.2.0/24  # them\n\n2001:db8::/32\n")
    text = written_by(
        "-b", ":9999", "-b", "udp://:53", "--name", "chat-1", "--max-connections", "50",
        "--max-connections-per-ip", "7", "--accept-rate", "100/s,200", "--accept-rate-per-ip", "10/m",
        "--deny", "10.0.0.0/8", "--deny-file", "bad.txt",
        "--idle-timeout", "5m", "--tls-self-signed", cwd=tmp_path,
    )  # fmt: skip
    assert "delete table inet jackfield_chat-1" in text
    assert elements(text, "deny4") == ["10.0.0.0/8", "192.0.2.0/24"]
    assert elements(text, "exempt4") == ["127.0.0.0/8"]
    for wanted in ("over 100/second burst 200", "over 10/minute burst 10", "count over 7", "count over 50"):
        assert wanted in text
    assert left(text)["idle_timeout"] == "300.0"
    check(text)


def test_all_are_counted_only_where_it_was_asked_for() -> None:
    """Forged SYNs can fill that count, so it is nobody's default; that of an address is."""
    text = written_by("-b", ":9999")
    assert chain(text, "streams_all") == []
    assert "forged SYNs" in left(text)["max_connections"]
    assert "ct count over 2500" in text
    check(text)


def test_the_command_knows_of_proxies() -> None:
    text = written_by("-b", ":9999", "--proxy-protocol", "--proxy-allow-from", "10.0.0.0/8,::1")
    assert (elements(text, "proxies4"), elements(text, "proxies6")) == (["10.0.0.0/8"], ["::1"])
    check(text)


def test_a_file_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "echo.nft"
    assert written_by("-b", ":1", "-o", "echo.nft", cwd=tmp_path) == ""
    first = path.read_text()
    assert first == written_by("-b", ":1")
    assert not stat.S_IMODE(path.stat().st_mode) & 0o111
    assert "it exists; choose another name, or write over it with --force" in complaint("-b :2 -o echo.nft", tmp_path)
    assert path.read_text() == first
    written_by("-b", ":2", "-o", "echo.nft", "--force", cwd=tmp_path)
    assert path.read_text() == written_by("-b", ":2")


def complaint(words: str, cwd: Path | None = None) -> str:
    """The one line of a call that was wrong."""
    words = words.removeprefix("init") if words.startswith("init") else f"nftables {words}"
    done = run("init", *words.split(), cwd=cwd)
    assert (done.returncode, done.stdout) == (2, b""), done
    line = only_line(done.stderr)
    assert line.startswith("jackfield init: "), line
    return line


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("init", "required: KIND"),
        ("init nftable", "did you mean nftables?"),
        ("init system", "did you mean systemd? There is: nftables, systemd"),
        ("", "tcp://127.0.0.1:9999 is reached from this machine only, which is let through: write one for others"),
        ("-b localhost:80", "write one for others, e.g. -b :9999"),
        ("-b unix:/run/x.sock", "unix:/run/x.sock has no port that a packet filter could see: leave it out"),
        ("-b :80 -b unixgram:@x", "unixgram:@x has no port that a packet filter could see: leave it out"),
        ("-b fd://3", "what fd://3 listens on is not known here: write its address, e.g. tcp://:9999"),
        ("-b :0", "has its port only when the server has started: write e.g. -b :9999"),
        ("-b tcp://host", "no port in 'tcp://host': write e.g."),
        ("-b :80 --name a/b", "no name for a table: 'a/b': write letters"),
        ("-b :80 --accept-rate fast", "write e.g. 100/s"),
        ("-b :80 --max-connections 0", "whole number of at least 1"),
        ("-b :80 --deny 10.0.0.1/8", "write 10.0.0.0/8"),
        ("-b :80 --deny-file nowhere", "--deny-file: cannot read nowhere"),
        ("-b :80 --proxy-allow-from ::1", "goes with --proxy-protocol"),
        ("-b :80 --proxy-protocol optional", "leave out --proxy-protocol optional"),
        ("-b :80 --force", "--force goes with -o FILE"),
        ("-b :80 -o nowhere/x.nft", "-o nowhere/x.nft: cannot write it: No such file or directory"),
        ("-b :80 -o . --force", "cannot write it: Is a directory"),
        ("-b :80 --bnd :9", "did you mean --bind?"),
        ("-b :80 --port 9", "use --bind :PORT"),
        ("-b :80 --mode=green", "the same in every mode"),
        ("-b :80 --max-threads 5", "use --max-connections N"),
        ("-b :80 more", "one argument too many: 'more'"),
    ],
)
def test_bad_input_is_one_line(words: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in complaint(words, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_flags_are_those_of_serve() -> None:
    def flags(parser: argparse.ArgumentParser) -> dict[str, tuple[Any, ...]]:
        return {
            flag: (action.help, action.metavar, action.type, action.nargs, action.choices)
            for action in parser._actions
            for flag in action.option_strings
        }

    _, named = build_parser()
    ours, theirs = flags(named["init"]), flags(named["serve"])
    own = {"-o", "--output", "--force", "--name", "--user", "--no-socket"}
    assert {flag: ours[flag] for flag in ours.keys() - own} == {flag: theirs[flag] for flag in ours.keys() - own}
    limits = {flag for flag in theirs if re.match(r"--(max-conn|accept|allow(?!-root)|deny|idle|proxy|tls|when)", flag)}
    assert {"-b", "--bind", *limits} <= ours.keys() and len(limits) > 10


def test_help_shows_examples_that_work(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("192.0.2.7\n")
    lines = [line.split("  ")[1].split() for line in init.EXAMPLES.splitlines() if line.startswith("  jackfield")]
    assert len(lines) > 1
    for words in lines:
        done = run(*words[1:], cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
    assert b"examples:" in run("init", "--help").stdout


def test_misuse_from_a_program_is_told_too() -> None:
    with pytest.raises(UsageError, match="no address: write one for others"):
        rule_set([], Limits())
