"""connect(): every address of a name, in the order and at the pace of RFC 8305, in every world."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jackfield.socket
from jackfield.address import Address
from jackfield.connecting import ATTEMPT_DELAY, Candidate, Race, async_connect, connect, interleave, resolve
from jackfield.errors import AddressError, MisuseError
from jackfield.reactor import run, sleep, spawn
from jackfield.sync import Event
from ports import port_to_bind

SOON = 10.0  # seconds that nothing here takes
FOUR, SIX = socket.AF_INET, socket.AF_INET6


def candidate(address: Any, family: int = FOUR) -> Candidate:
    return family, socket.SOCK_STREAM, 0, "", address


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def refused() -> Iterator[Any]:
    """An address at which nobody listens, and which nobody else can get: bound, and no listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@pytest.fixture
def silent() -> Iterator[Any]:
    """An address that never answers: its backlog is full, and Linux drops the SYN then (listen(2), tcp(7))."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        connected = 0
        while connected <= backlog(listener)[1]:
            stack.enter_context(socket.create_connection(listener.getsockname(), SOON))
            connected += 1
            while backlog(listener)[0] < connected:
                sleep(0)  # our side is connected a moment before the other has counted it
        yield listener.getsockname()


def backlog(listener: socket.socket) -> tuple[int, int]:
    """How many connections wait to be accepted, and the most that may."""
    # Where other sockets have tcpi_unacked and tcpi_sacked (tcp_get_info() in net/ipv4/tcp.c).
    return struct.unpack_from("@II", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)  # type: ignore[return-value]


# --- the order ------------------------------------------------------------------------------------------------------

candidates = st.lists(st.tuples(st.sampled_from([FOUR, SIX, socket.AF_UNIX]), st.integers())).map(
    lambda pairs: [candidate(number, family) for family, number in pairs]
)


@given(candidates)
def test_interleaving_loses_none_and_keeps_the_order_within_a_family(given_: list[Candidate]) -> None:
    ordered = interleave(given_)
    assert ordered[:1] == given_[:1]
    for family in (FOUR, SIX, socket.AF_UNIX):
        assert [c for c in ordered if c[0] == family] == [c for c in given_ if c[0] == family]
    assert len(ordered) == len(given_)


@given(candidates)
def test_no_family_comes_twice_while_another_waits(given_: list[Candidate]) -> None:
    ordered = interleave(given_)
    for position in range(len(ordered) - 1):
        if ordered[position][0] == ordered[position + 1][0]:
            assert {c[0] for c in ordered[position + 1 :]} == {ordered[position][0]}


def test_the_example_of_the_rfc() -> None:
    names = [(SIX, "six 1"), (SIX, "six 2"), (FOUR, "four 1"), (SIX, "six 3"), (FOUR, "four 2")]
    ordered = interleave([candidate(name, family) for family, name in names])
    assert [c[4] for c in ordered] == ["six 1", "four 1", "six 2", "four 2", "six 3"]


# --- the pace, on a clock that the test moves -----------------------------------------------------------------------


class Attempts:
    """Makes the sockets of a race, and remembers them."""

    def __init__(self) -> None:
        self.made: list[jackfield.socket.socket] = []

    def __call__(self, family: int, kind: int, proto: int) -> jackfield.socket.socket:
        self.made.append(jackfield.socket.socket(family, kind, proto))
        return self.made[-1]

    @property
    def open(self) -> int:
        return sum(sock.fileno() >= 0 for sock in self.made)


def ready(race: Race) -> None:
    """Until an attempt of the race has an answer."""
    assert select.select([race], [], [], SOON)[0]


def test_a_second_attempt_starts_when_the_first_has_been_silent_for_the_delay(silent: Any, listener: Any) -> None:
    attempts = Attempts()
    with Race([candidate(silent), candidate(silent), candidate(listener.getsockname())], open_socket=attempts) as race:
        assert race.step(100.0) is None and len(attempts.made) == 1
        assert race.next == 100.0 + ATTEMPT_DELAY
        assert race.step(100.0 + ATTEMPT_DELAY - 0.001) is None and len(attempts.made) == 1
        assert race.step(100.0 + ATTEMPT_DELAY) is None and len(attempts.made) == 2
        won, now = None, 100.0 + 2 * ATTEMPT_DELAY
        won = race.step(now)
        assert len(attempts.made) == 3
        if won is None:  # the kernel takes a moment even on loopback
            assert race.next == float("inf")
            ready(race)
            won = race.step(now)
    assert won is attempts.made[2]
    assert attempts.open == 1  # the others are closed
    assert won.gettimeout() is None and won.getpeername() == listener.getsockname()
    won.close()


def test_without_the_delay_ever_ending_a_silent_address_stalls_all(silent: Any, listener: Any) -> None:
    """The proof above can fail."""
    attempts = Attempts()
    both = [candidate(silent), candidate(listener.getsockname())]
    with Race(both, delay=float("inf"), open_socket=attempts) as race:
        assert race.step(0.0) is None and race.step(1e9) is None
        assert len(attempts.made) == 1


def test_a_failure_starts_the_next_at_once(refused: Any, listener: Any) -> None:
    attempts = Attempts()
    with Race([candidate(refused), candidate(listener.getsockname())], open_socket=attempts) as race:
        won = race.step(0.0)
        while won is None:
            ready(race)
            won = race.step(0.0)  # the clock stands still
    assert won is attempts.made[1] and attempts.open == 1
    won.close()


def test_a_late_success_of_the_first_still_wins(silent: Any, listener: Any) -> None:
    class SlowThenThere(jackfield.socket.socket):
        """Connected from the start, and said to be in progress."""

        def connect_ex(self, address: Any, /) -> int:
            super().connect_ex(address)
            return errno.EINPROGRESS

    made: list[jackfield.socket.socket] = []

    def open_socket(family: int, kind: int, proto: int) -> jackfield.socket.socket:
        made.append((SlowThenThere if not made else jackfield.socket.socket)(family, kind, proto))
        return made[-1]

    with Race([candidate(listener.getsockname()), candidate(silent)], open_socket=open_socket) as race:
        assert race.step(0.0) is None
        ready(race)
        won = race.step(1.0)  # late: the second would be due as well, but there is a winner
        assert won is made[0] and len(made) == 1
        won.close()


def test_an_attempt_that_cannot_even_begin_is_a_failed_one(listener: Any) -> None:
    def open_socket(family: int, kind: int, proto: int) -> jackfield.socket.socket:
        if family == SIX:
            raise OSError(errno.EAFNOSUPPORT, "no such family here")
        return jackfield.socket.socket(family, kind, proto)

    both = [candidate(("::1", 9, 0, 0), SIX), candidate(listener.getsockname())]
    with Race(both, open_socket=open_socket) as race:
        won = race.step(0.0)
        if won is None:
            ready(race)
            won = race.step(0.0)
        assert won is not None
        won.close()
    with (
        Race(both[:1], open_socket=open_socket) as race,
        pytest.raises(OSError, match=r"no such family here: tcp://\[::1\]"),
    ):
        race.step(0.0)
    with Race([]) as race, pytest.raises(OSError, match="no address"):
        race.step(0.0)


def test_the_error_is_the_last_ones_and_tells_of_each(refused: Any, silent: Any) -> None:
    attempts = Attempts()
    with Race([candidate(refused)] * 2, open_socket=attempts) as race:
        with pytest.raises(ConnectionRefusedError) as caught:
            while race.step(0.0) is None:
                ready(race)
        assert caught.value.errno == errno.ECONNREFUSED
        assert f"tcp://127.0.0.1:{refused[1]}" in str(caught.value)
        assert len(caught.value.__notes__) == 2
        assert attempts.open == 0
    with Race([candidate(refused), candidate(silent)]) as race:
        while race.next < float("inf"):  # until the second has begun
            assert race.step(0.0) is None
        notes = race.timed_out("too late").__notes__
        assert "refused" in notes[0] and "no answer yet" in notes[1]


def test_a_socket_connected_to_itself_is_no_connection(refused: Any) -> None:
    with port_to_bind() as port:
        address = ("127.0.0.1", port)
        with Race([candidate(address)], source_address=address) as race, pytest.raises(ConnectionRefusedError):
            while race.step(0.0) is None:
                ready(race)


# --- all of it, in each world ---------------------------------------------------------------------------------------


class World:
    """How a kind of program connects."""

    def __init__(self, name: str) -> None:
        self.name = name

    def connect(self, *arguments: Any, **options: Any) -> jackfield.socket.socket:
        if self.name == "thread":
            return connect(*arguments, **options)
        if self.name == "green":
            return run(lambda: connect(*arguments, **options))
        return asyncio.run(async_connect(*arguments, **options))


@pytest.fixture(params=["thread", "green", "coroutine"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def names(*addresses: Any) -> Callable[[Address], list[Candidate]]:
    return lambda target: [candidate(address) for address in addresses]


def check(sock: jackfield.socket.socket, listener: socket.socket) -> None:
    with sock, listener.accept()[0] as peer:
        assert isinstance(sock, jackfield.socket.socket)
        assert sock.getblocking() and sock.gettimeout() is None
        peer.sendall(b"hello")
        assert sock.recv(10) == b"hello"


@pytest.mark.parametrize("form", ["text", "number", "Address", "pair", "empty host", "tcp4", "name"])
def test_an_address_in_every_form(world: World, listener: socket.socket, form: str) -> None:
    port = listener.getsockname()[1]
    address: Any = {
        "text": f"127.0.0.1:{port}",
        "number": port,
        "Address": Address("tcp", "127.0.0.1", port),
        "pair": ("127.0.0.1", port),
        "empty host": f":{port}",
        "tcp4": f"tcp4://localhost:{port}",
        "name": f"localhost:{port}",
    }[form]
    check(world.connect(address, SOON), listener)
    if form != "number":
        check(world.connect(address), listener)


def test_a_dead_first_address_does_not_stall(world: World, silent: Any, refused: Any, listener: socket.socket) -> None:
    resolver = names(silent, refused, listener.getsockname())
    check(world.connect("tcp://two-hearted.example:9", SOON, resolver=resolver), listener)


def test_all_addresses_fail(world: World, refused: Any) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        world.connect("tcp://nowhere.example:9", SOON, resolver=names(refused, refused))
    assert len(caught.value.__notes__) == 2


def test_the_timeout_covers_the_attempts(world: World, silent: Any) -> None:
    host, port = silent
    # No name: on a busy machine its look-up, though it is none, may take all of the time.
    with pytest.raises(TimeoutError, match=rf"tcp://{re.escape(host)}:{port}") as caught:
        world.connect(f"{host}:{port}", 0.05)
    assert "no answer yet" in caught.value.__notes__[0]
    with pytest.raises(TimeoutError, match=r"tcp://silent\.example:9"):
        world.connect("silent.example:9", 0, resolver=names(silent))


def test_the_timeout_covers_the_look_up(world: World) -> None:
    release = threading.Event()
    ended = threading.Event()

    def never(target: Address) -> list[Candidate]:
        release.wait(SOON)
        ended.set()
        return []

    try:
        with pytest.raises(TimeoutError, match=r"slow\.example"):
            world.connect("slow.example:9", 0.05, resolver=never)
    finally:
        release.set()
        assert ended.wait(SOON)


@pytest.mark.parametrize("timeout", [None, SOON])
def test_what_the_look_up_raises_is_raised(world: World, timeout: float | None) -> None:
    def unknown(target: Address) -> list[Candidate]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror):
        world.connect("unknown.example:9", timeout, resolver=unknown)


def test_from_a_source_address(world: World, listener: socket.socket) -> None:
    sock = world.connect(("127.0.0.1", listener.getsockname()[1]), SOON, ("127.0.0.2", 0))
    assert sock.getsockname()[0] == "127.0.0.2"
    check(sock, listener)


def test_the_default_timeout_of_the_socket_module_is_kept(world: World, listener: socket.socket) -> None:
    socket.setdefaulttimeout(7)
    try:
        sock = world.connect(("127.0.0.1", listener.getsockname()[1]))
    finally:
        socket.setdefaulttimeout(None)
    assert sock.gettimeout() == 7
    sock.close()


def test_udp(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with world.connect(f"udp://127.0.0.1:{server.getsockname()[1]}", SOON) as sock:
            sock.send(b"hi")
            data, peer = server.recvfrom(10)
            assert data == b"hi" and peer == sock.getsockname()


@pytest.mark.parametrize("scheme", ["unix", "unixpacket", "unixgram"])
@pytest.mark.parametrize("abstract", [False, True])
def test_unix(world: World, scheme: str, abstract: bool, tmp_path: Path) -> None:
    kind = {"unix": socket.SOCK_STREAM, "unixpacket": socket.SOCK_SEQPACKET, "unixgram": socket.SOCK_DGRAM}[scheme]
    path = f"@jackfield-{id(tmp_path)}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(path.replace("@", "\0"))
        if scheme != "unixgram":
            server.listen()
        with world.connect(f"{scheme}:{path}", SOON) as sock:
            sock.send(b"hi")
            assert sock.gettimeout() is None
            if scheme == "unixgram":
                assert server.recv(10) == b"hi"
            else:
                with server.accept()[0] as peer:
                    assert peer.recv(10) == b"hi"


def test_unix_without_a_server(world: World, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"unix:{tmp_path}/s"):
        world.connect(f"unix:{tmp_path}/s")


def test_unix_with_a_full_backlog_times_out(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen(0)
        with pytest.raises(TimeoutError, match=path):
            for _ in range(5):
                stack.enter_context(world.connect(f"unix:{path}", 0.05))


@pytest.mark.parametrize("address", ["fd://3", "tcp://127.0.0.1:0", ("127.0.0.1",), ("127.0.0.1", "http"), "no port"])
def test_what_is_no_place_to_connect_to(world: World, address: Any) -> None:
    with pytest.raises(AddressError):
        world.connect(address)


def test_a_negative_timeout_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="0 seconds"):
        world.connect("127.0.0.1:9", -1)


def test_in_a_coroutine_the_blocking_call_shows_the_other() -> None:
    async def main() -> None:
        with pytest.raises(MisuseError, match="await async_connect"):
            connect("127.0.0.1:9")

    asyncio.run(main())


def test_in_a_green_thread_the_others_go_on(silent: Any) -> None:
    asked, release = threading.Event(), threading.Event()

    def slow(target: Address) -> list[Candidate]:
        asked.set()
        assert release.wait(SOON)
        return [candidate(silent)]

    def main() -> None:
        connecting = spawn(connect, "slow.example:9", resolver=slow)
        while not asked.is_set():
            sleep(0.001)
        assert not connecting.done  # it looks up, and we run
        release.set()
        turns = Event()
        spawn(turns.set).join()
        connecting.kill()
        connecting.join()

    run(main)


@pytest.mark.parametrize("moment", ["look-up", "attempt"])
def test_killed_or_cancelled_it_leaves_nothing_open(silent: Any, moment: str) -> None:
    """The net under every test looks for descriptors; ended at each of the two waits."""
    asked, release = threading.Event(), threading.Event()

    def resolver(target: Address) -> list[Candidate]:
        asked.set()
        assert moment == "attempt" or release.wait(SOON)
        return [candidate(silent)]

    def main() -> None:
        connecting = spawn(connect, "slow.example:9", SOON, resolver=resolver)
        while not asked.is_set():
            sleep(0.001)
        sleep(0.01)
        connecting.kill()
        connecting.join()

    async def amain() -> None:
        connecting = asyncio.ensure_future(async_connect("slow.example:9", SOON, resolver=resolver))
        while not asked.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    try:
        run(main)
        asked.clear()
        asyncio.run(amain())
    finally:
        release.set()


def test_the_resolver_is_that_of_the_system() -> None:
    assert resolve(Address("tcp4", "127.0.0.1", 9)) == socket.getaddrinfo("127.0.0.1", 9, FOUR, socket.SOCK_STREAM)
    assert resolve(Address("udp6", "::1", 9)) == socket.getaddrinfo("::1", 9, SIX, socket.SOCK_DGRAM)
    assert {found[4][0] for found in resolve(Address("tcp", "", 9))} <= {"::1", "127.0.0.1"}
