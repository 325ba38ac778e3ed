"""What ``jackfield init nftables`` writes, loaded into a kernel: clients in a network namespace of their own, a server
in another one whose limits are all off, so that whoever is kept out was kept out by the rules."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_support import SECONDS, command

import jackfield
from jackfield.address import parse_address
from jackfield.admission import PeerList, Rate
from jackfield.cli.nftables import rule_set
from jackfield.limits import Limits

# Lives in a namespace and makes sockets there, for whoever asks: a socket stays in the namespace that it was made in.
MAKER = """
import socket, sys
orders = socket.socket(fileno=int(sys.argv[1]))
orders.send(b"ready")
while order := orders.recv(64):
    with socket.socket(*map(int, order.split())) as sock:
        socket.send_fds(orders, [b"here"], [sock.fileno()])
"""

HERE, CLIENTS = "10.77.0.1", ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
HERE6 = "fd77:1::1"
#: The first two are in one /64.
CLIENTS6 = ["fd77:1::2", "fd77:1::3", "fd77:2::2"]
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

SERVER_SIDE = f"""
link set lo up
link add v0 type veth peer name v1 netns {{}}
addr add {HERE}/24 dev v0
addr add {HERE6}/64 dev v0 nodad
addr add fd77:2::1/64 dev v0 nodad
link set v0 up
"""
CLIENT_SIDE = "\n".join(
    [
        "link set v1 up",
        *(f"addr add {client}/24 dev v1" for client in CLIENTS),
        *(f"addr add {client}/64 dev v1 nodad" for client in CLIENTS6),
    ]
)


class Namespace:
    """A network of its own.  ``enter`` are the words that run a program in it, to be filled with the maker's number."""

    def __init__(self, words: list[str], enter: list[str]) -> None:
        self._orders, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._maker = subprocess.Popen(
                [*words, sys.executable, "-c", MAKER, str(far.fileno())],
                pass_fds=[far.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._orders.settimeout(SECONDS)
        self.pid = self._maker.pid
        self.enter = [word.format(self.pid) for word in enter]
        if self._orders.recv(64) != b"ready":
            self.close()
            raise PermissionError("no network namespace may be made here: be root, or allow user namespaces")

    def close(self) -> None:
        self._orders.close()
        self._maker.wait(SECONDS)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        self._orders.send(b"%d %d %d" % (family, kind, protocol))
        _, (number,), _, _ = socket.recv_fds(self._orders, 64, 1)
        sock = socket.socket(fileno=number)
        sock.settimeout(SECONDS)
        return sock

    def run(self, *words: str, data: str = "") -> str:
        return command(*self.enter, *words, data=data.encode()).decode()


class World:
    """Two namespaces with a wire between them."""

    def __init__(self, server: Namespace, clients: Namespace, nft: str) -> None:
        self.server = server
        self.clients = clients
        self._nft = nft
        self._open: list[socket.socket] = []

    def load(self, *addresses: str, proxies: PeerList | None = None, **limits: Any) -> None:
        self.take(rule_set(map(parse_address, addresses), Limits.none(**limits), proxies=proxies))

    def take(self, text: str) -> None:
        self.server.run(self._nft, "-f", "-", data=text)

    def refused(self, limit: str) -> int:
        """Packets that rules for a limit have kept out."""
        listed = self.server.run(self._nft, "list", "table", "inet", "jackfield").splitlines()
        rules = [line for line in listed if f'comment "{limit}"' in line]
        assert rules, f"there is no rule for {limit}"
        return sum(int(line.partition("counter packets ")[2].split()[0]) for line in rules)

    def client(self, source: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        sock = self.clients.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, kind)
        self._open.append(sock)
        sock.bind((source, 0))
        return sock

    def connect(self, source: str, port: int) -> socket.socket | None:
        """A connection that has been answered, or None where it was refused."""
        sock = self.client(source)
        try:
            sock.connect((HERE6 if ":" in source else HERE, port))
        except ConnectionRefusedError:
            sock.close()
            return None
        assert answered(sock)
        return sock

    def served(self, source: str, port: int, times: int) -> list[bool]:
        """Of so many that connect one after the other and stay, who is served."""
        return [self.connect(source, port) is not None for _ in range(times)]

    def begin(self, source: str, port: int) -> socket.socket:
        """A client that is on its way."""
        sock = self.client(source)
        sock.setblocking(False)
        assert sock.connect_ex((HERE6 if ":" in source else HERE, port)) == errno.EINPROGRESS
        return sock

    def clear(self) -> None:
        self.server.run(self._nft, "flush", "ruleset")
        while self._open:
            self._open.pop().close()

    def close(self) -> None:
        self.clients.close()
        self.server.close()


def answered(sock: socket.socket) -> bool:
    sock.sendall(b"hello")
    return sock.recv(64) == b"HELLO"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        select.select([], [], [], 0.02)  # the kernel tells nobody


def is_on_its_way(sock: socket.socket) -> bool:
    return not select.select([], [sock], [], 0)[1]


def made_world() -> World:
    """The two namespaces; OSError where they cannot be had."""
    tools = {name: shutil.which(name, path=PATH) for name in ("nft", "ip", "unshare", "nsenter")}
    if missing := sorted(name for name, found in tools.items() if found is None):
        raise FileNotFoundError(f"not here: {', '.join(missing)} (packages nftables, iproute2, util-linux)")
    nft, ip, unshare, nsenter = (str(tools[name]) for name in ("nft", "ip", "unshare", "nsenter"))
    enter = [nsenter, "--preserve-credentials", "-U", "-n", "-t", "{}"]
    try:
        server = Namespace([unshare, "-r", "-n"], enter)
    except PermissionError:
        # Some systems keep user namespaces from everybody, and network namespaces from everybody but root.
        enter = [nsenter, "-n", "-t", "{}"]
        server = Namespace([unshare, "-n"], enter)
    try:
        clients = Namespace([*server.enter, unshare, "-n"], enter)
    except BaseException:
        server.close()
        raise
    world = World(server, clients, nft)
    try:
        server.run(ip, "-batch", "-", data=SERVER_SIDE.format(clients.pid))
        clients.run(ip, "-batch", "-", data=CLIENT_SIDE)
    except BaseException:
        world.close()
        raise
    return world


@pytest.fixture(scope="module")
def namespaces() -> Iterator[World]:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("there is no IPv6 here")
    try:
        made = made_world()
    except OSError as error:
        pytest.skip(str(error))
    with contextlib.closing(made):
        yield made


@pytest.fixture
def world(namespaces: World) -> Iterator[World]:
    yield namespaces
    namespaces.clear()


class Upper(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(data.upper())


class UpperDatagram(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request[1].sendto(self.request[0].upper(), self.client_address)


@contextlib.contextmanager
def serving(world: World, kind: int = socket.SOCK_STREAM) -> Iterator[int]:
    """A server in its namespace, by IPv4 and IPv6, with all limits off; its port."""
    with world.server.socket(socket.AF_INET6, kind) as sock:
        sock.bind(("::", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        handler = Upper if kind == socket.SOCK_STREAM else UpperDatagram
        server = jackfield.Server(handler, f"fd://{sock.fileno()}", mode="green", limits=Limits.none())
        server.start()
        try:
            yield sock.getsockname()[1]
        finally:
            for client in world._open:
                client.close()
            server.stop(deadline=SECONDS)


@pytest.fixture
def port(world: World) -> Iterator[int]:
    with serving(world) as number:
        yield number


# --- connections ------------------------------------------------------------------------------------------------------


def test_without_the_rules_nobody_is_kept_out(world: World, port: int) -> None:
    """The broken case of all that follows."""
    assert world.served(CLIENTS[0], port, 5) == [True] * 5


def test_who_is_over_the_cap_of_an_address_is_refused_and_others_are_served(world: World, port: int) -> None:
    world.load(f":{port}", max_connections_per_address=3)
    first = world.connect(CLIENTS[0], port)
    assert world.served(CLIENTS[0], port, 4) == [True, True, False, False]
    assert world.refused("max_connections_per_address") == 2
    assert world.served(CLIENTS[1], port, 1) == [True]
    assert first is not None
    first.close()
    until(lambda: world.connect(CLIENTS[0], port))  # there is room again
    assert world.served(CLIENTS[0], port, 1) == [False]


def test_ipv6_counts_by_64_bits(world: World, port: int) -> None:
    world.load(f":{port}", max_connections_per_address=3)
    assert world.served(CLIENTS6[0], port, 2) == [True, True]
    assert world.served(CLIENTS6[1], port, 2) == [True, False]
    assert world.served(CLIENTS6[2], port, 1) == [True]


def test_ipv4_counts_by_its_prefix(world: World, port: int) -> None:
    world.load(f":{port}", max_connections_per_address=3, ipv4_prefix=31)
    assert world.served(CLIENTS[0], port, 2) == [True, True]  # .2, .3
    assert world.served(CLIENTS[1], port, 2) == [True, False]
    assert world.served(CLIENTS[2], port, 1) == [True]  # .4


def test_all_together(world: World, port: int) -> None:
    world.load(f":{port}", max_connections=4, when_full="refuse", exempt=PeerList([CLIENTS[0]]))
    assert world.served(CLIENTS[0], port, 2) == [True, True]
    assert world.served(CLIENTS6[0], port, 3) == [True, True, False]
    assert world.served(CLIENTS[0], port, 1) == [False]  # the totals hold for those that are exempt


def test_the_rate_of_an_address_with_its_burst(world: World, port: int) -> None:
    world.load(f":{port}", accept_rate_per_address=Rate(1, 3600.0, 3))
    assert world.served(CLIENTS[0], port, 5) == [True, True, True, False, False]
    assert world.served(CLIENTS[1], port, 1) == [True]
    assert world.served(CLIENTS6[0], port, 2) + world.served(CLIENTS6[1], port, 2) == [True, True, True, False]


def test_one_address_does_not_use_up_the_rate_of_all(world: World, port: int) -> None:
    world.load(f":{port}", accept_rate=Rate(1, 3600.0, 4), accept_rate_per_address=Rate(1, 3600.0, 2))
    assert world.served(CLIENTS[0], port, 10) == [True, True] + [False] * 8
    assert world.served(CLIENTS[1], port, 2) == [True, True]
    assert world.served(CLIENTS[2], port, 1) == [False]
    assert world.refused("accept_rate") == 1


def test_who_is_exempt_has_no_rate(world: World, port: int) -> None:
    world.load(
        f":{port}", accept_rate=Rate(1, 3600.0), accept_rate_per_address=Rate(1, 3600.0),
        max_connections_per_address=1, exempt=PeerList(["10.77.0.2/31"]),
    )  # fmt: skip
    assert world.served(CLIENTS[0], port, 4) == [True] * 4
    assert world.served(CLIENTS[2], port, 2) == [True, False]


def test_who_is_denied_gets_no_answer_at_all(world: World, port: int) -> None:
    world.load(f":{port}", deny=PeerList([CLIENTS[0], "fd77:1::/64"]))
    kept = [world.begin(source, port) for source in (CLIENTS[0], CLIENTS6[1])]
    until(lambda: world.refused("deny") >= 2)
    assert world.served(CLIENTS[1], port, 1) + world.served(CLIENTS6[2], port, 1) == [True, True]
    assert all(map(is_on_its_way, kept))


def test_only_who_is_allowed_gets_through(world: World, port: int) -> None:
    world.load(f":{port}", allow=PeerList([CLIENTS[0]]))
    kept = [world.begin(source, port) for source in (CLIENTS[1], CLIENTS6[0])]
    until(lambda: world.refused("allow") >= 2)
    assert world.served(CLIENTS[0], port, 2) == [True, True]
    assert all(map(is_on_its_way, kept))


def test_only_proxies_get_through_where_there_are_such(world: World, port: int) -> None:
    world.load(f":{port}", proxies=PeerList([CLIENTS[0]]), max_connections_per_address=1)
    kept = world.begin(CLIENTS[1], port)
    until(lambda: world.refused("proxies") >= 1)
    assert world.served(CLIENTS[0], port, 3) == [True] * 3  # which speak for many addresses
    assert is_on_its_way(kept)


def test_other_ports_other_addresses_and_this_machine_are_left_alone(world: World, port: int) -> None:
    with serving(world) as other:
        world.load(f":{port}", "tcp6://[fd77:9::9]:" + str(other), max_connections_per_address=1)
        assert world.served(CLIENTS[0], port, 2) == [True, False]
        assert world.served(CLIENTS[0], other, 3) == [True] * 3
        for _ in range(3):
            local = world.server.socket(socket.AF_INET, socket.SOCK_STREAM)
            world._open.append(local)
            local.connect((HERE, port))
            assert answered(local)


def test_an_address_given_twice_is_counted_once(world: World, port: int) -> None:
    world.load(f":{port}", f"{HERE}:{port}", accept_rate_per_address=Rate(1, 3600.0, 4))
    assert world.served(CLIENTS[0], port, 5) == [True] * 4 + [False]


def test_connections_from_before_go_on(world: World, port: int) -> None:
    """Nobody tracked them, so the kernel takes their next packet for a new connection's."""
    old = [world.connect(CLIENTS[0], port) for _ in range(3)]
    world.load(f":{port}", max_connections_per_address=1, accept_rate_per_address=Rate(1, 3600.0))
    assert all(sock is not None and answered(sock) for sock in old)
    assert world.served(CLIENTS[0], port, 2) == [True, False]
    assert all(sock is not None and answered(sock) for sock in old)


def test_what_the_command_writes(world: World, port: int) -> None:
    words = f"init nftables -b :{port} --max-connections-per-ip 2 --max-connections 3".split()
    world.take(command(sys.executable, "-m", "jackfield", *words).decode())
    assert world.served(CLIENTS[0], port, 3) == [True, True, False]
    assert world.served(CLIENTS[1], port, 2) == [True, False]
    assert (world.refused("max_connections_per_address"), world.refused("max_connections")) == (1, 1)


def checksum(data: bytes) -> int:
    """RFC 1071; of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forge_syns(world: World, port: int, hosts: Iterable[int]) -> None:
    """SYNs from addresses that nobody has: their connections are never finished."""
    to = socket.inet_aton(HERE)
    with world.clients.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for host in hosts:
            source = socket.inet_aton(f"10.77.0.{host}")
            syn = struct.pack("!HHLLBBHHH", 5000, port, 1, 0, 5 << 4, 0x02, 1000, 0, 0)
            right = checksum(source + to + struct.pack("!HH", socket.IPPROTO_TCP, len(syn)) + syn)
            # The kernel fills in the length and the checksum of the IP header (raw(7)).
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, host, 0, 64, socket.IPPROTO_TCP, 0, source, to)
            sock.sendto(header + syn[:16] + struct.pack("!H", right) + syn[18:], (HERE, 0))


def test_forged_syns_can_fill_a_count_of_all(world: World, port: int) -> None:
    """Why the command writes that rule only where it is asked for."""
    world.load(f":{port}", max_connections_per_address=5)
    forge_syns(world, port, range(100, 120))
    assert world.served(CLIENTS[0], port, 1) == [True]
    world.load(f":{port}", max_connections=20, when_full="refuse")
    forge_syns(world, port, range(120, 140))
    assert world.served(CLIENTS[1], port, 1) == [False]


# --- datagrams --------------------------------------------------------------------------------------------------------


@pytest.fixture
def udp_port(world: World) -> Iterator[int]:
    with serving(world, socket.SOCK_DGRAM) as number:
        yield number


def replies(world: World, port: int, *sent: tuple[str, bytes]) -> list[int]:
    """How many answers each source had to what was sent; all are there when one that comes after them is."""
    senders: dict[str, socket.socket] = {}
    for source, data in [*sent, (CLIENTS[2], b"last")]:
        if source not in senders:
            senders[source] = world.client(source, socket.SOCK_DGRAM)
        senders[source].sendto(data, (HERE6 if ":" in source else HERE, port))
    last = senders[CLIENTS[2]]
    while last.recv(65535) != b"LAST":
        pass
    counts = []
    for source in dict(sent):
        senders[source].setblocking(False)
        count = 0
        with contextlib.suppress(BlockingIOError):
            while senders[source].recv(65535):
                count += 1
        counts.append(count)
    return counts


def test_the_rate_of_datagrams(world: World, udp_port: int) -> None:
    sent = [(CLIENTS[0], b"x")] * 10 + [(CLIENTS[1], b"x")] * 3 + [(CLIENTS6[0], b"x")] * 4
    assert replies(world, udp_port, *sent) == [10, 3, 4]
    world.load(f"udp://:{udp_port}", datagram_rate_per_address=Rate(1, 3600.0, 5))
    more = [(CLIENTS6[1], b"x")] * 4  # of the same /64
    assert replies(world, udp_port, *sent, *more) == [5, 3, 4, 1]
    assert world.refused("datagram_rate_per_address") == 5 + 3


def test_the_rate_of_all_datagrams_and_who_is_exempt(world: World, udp_port: int) -> None:
    world.load(f"udp://:{udp_port}", datagram_rate=Rate(1, 3600.0, 5), exempt=PeerList([CLIENTS[1], CLIENTS[2]]))
    assert replies(world, udp_port, *[(CLIENTS[1], b"x")] * 20, *[(CLIENTS[0], b"x")] * 7) == [20, 5]
    assert world.refused("datagram_rate") == 2


def test_datagrams_that_are_too_long_or_from_whom_is_denied(world: World, udp_port: int) -> None:
    world.load(f"udp://:{udp_port}", max_datagram=3000, deny=PeerList([CLIENTS[1]]))
    sent = [(CLIENTS[0], b"x" * 3000), (CLIENTS[0], b"x" * 3001), (CLIENTS[1], b"x")]
    assert replies(world, udp_port, *sent) == [1, 0]
    assert (world.refused("max_datagram"), world.refused("deny")) == (1, 1)
