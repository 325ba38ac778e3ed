"""One server suite over the standard library's servers and ours: drop-in and native, in every mode."""

from __future__ import annotations

import socketserver as _socketserver_std
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from conformance_kinds import FORKING, KINDS
from nursery import Nursed, Nursery

from jackfield import socketserver
from jackfield.testing import (
    DATAGRAM_SERVER,
    STREAM_SERVER,
    ClassServers,
    NativeServers,
    OwnProcess,
    ServerFactory,
    check_server,
)

STREAMS = ["tcp://127.0.0.1:0", "tcp://[::1]:0", "unix:"]
DATAGRAMS = ["udp://127.0.0.1:0", "udp://[::1]:0", "unixgram:"]

# What each does not promise, and why. The lists are exact: a check that begins to pass has to leave them.
STDLIB = {"stops_with_idle_peers": "it cannot close the connections it serves"}
ELSEWHERE = dict.fromkeys(("leaves_nothing_open", "leaves_no_descriptor"), "the descriptors are another process's")
NOT_PROMISED: dict[str, Mapping[str, str]] = {
    "stdlib-threading": STDLIB,
    "stdlib-forking": {
        **STDLIB,
        **ELSEWHERE,
        **dict.fromkeys(("refuses_after_stop", "stops_and_is_gone"), "its children keep the listening socket"),
    },
    "forking": ELSEWHERE,
    "native-process": ELSEWHERE,
}


@pytest.fixture(scope="module")
def factory_of() -> Iterator[Callable[[str, str], ServerFactory]]:
    """Makes the factory for a kind and an address; what forks is started outside this process."""
    nursery = Nursery()

    def make(kind: str, address: str) -> ServerFactory:
        return Nursed(nursery, kind, address) if kind in FORKING else KINDS[kind](address)

    yield make
    nursery.close()


@pytest.mark.parametrize("name", STREAM_SERVER)
@pytest.mark.parametrize("address", STREAMS)
@pytest.mark.parametrize("kind", KINDS)
def test_stream_server(kind: str, address: str, name: str, factory_of: Any, check: Any, needs_ipv6: Any) -> None:
    needs_ipv6(address)
    check(STREAM_SERVER, name, factory_of(kind, address), NOT_PROMISED.get(kind, {}))


@pytest.mark.parametrize("name", DATAGRAM_SERVER)
@pytest.mark.parametrize("address", DATAGRAMS)
@pytest.mark.parametrize("kind", KINDS)
def test_datagram_server(kind: str, address: str, name: str, factory_of: Any, check: Any, needs_ipv6: Any) -> None:
    needs_ipv6(address)
    check(DATAGRAM_SERVER, name, factory_of(kind, address), NOT_PROMISED.get(kind, {}))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"])
@pytest.mark.parametrize("kind", sorted(FORKING - {"stdlib-forking"}))
def test_a_forking_server_leaves_nothing_open_in_its_own_process(kind: str, address: str) -> None:
    factory = KINDS[kind](address)
    if factory.is_datagram:
        DATAGRAM_SERVER.run_one("leaves_no_descriptor", factory)
    else:
        STREAM_SERVER.run_one("leaves_nothing_open", factory)


@pytest.fixture(scope="module")
def uvloop() -> Any:
    """uvloop, with the pipe that it opens at its first loop and keeps."""
    uvloop = pytest.importorskip("uvloop")
    uvloop.new_event_loop().close()
    return uvloop


@pytest.mark.parametrize("mode", ["green", "async"])
def test_a_server_on_uvloop(mode: str, uvloop: Any) -> None:
    """The reactor's other host, on what differs there: waiting, stopping, ends."""
    options = {"loop_factory": uvloop.new_event_loop}
    streams = [
        "echoes_to_many_clients",
        "serves_a_slow_reader",
        "survives_a_reset_in_mid_send",
        "stops_with_idle_peers",
    ]
    assert list(check_server(NativeServers(mode, options=options), only=streams).passed) == streams
    datagrams = ["answers_many_clients", "takes_an_empty_datagram", "stops_and_is_gone"]
    assert (
        list(check_server(NativeServers(mode, "udp://127.0.0.1:0", options=options), only=datagrams).passed)
        == datagrams
    )


@pytest.mark.parametrize("kind", ["threading", "native-process"])
def test_a_server_forked_from_this_process(kind: str) -> None:
    report = check_server(OwnProcess(KINDS[kind]("unix:")), only=["echoes_to_many_clients", "stops_with_idle_peers"])
    assert len(report.passed) == 2


def test_a_server_in_its_own_process_that_cannot_start_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(AssertionError, match="ended by an error"),
        OwnProcess(KINDS["threading"]("unix:/no/such/s"))("echo"),
    ):
        pass
    assert "FileNotFoundError" in capfd.readouterr().err


def test_every_class_is_the_modules_own() -> None:
    """The factory composes a class only where the module lacks it; ours lacks none."""
    for prefix in ("", "Threading", "Forking", "Green", "Async"):
        for address in ("tcp://127.0.0.1:0", "udp://127.0.0.1:0", "unix:/p", "unixgram:/p"):
            made = ClassServers(socketserver, prefix, address).server_class(address)
            if hasattr(_socketserver_std, made.__name__) or prefix in ("Green", "Async"):
                assert made.__mro__[1] is getattr(socketserver, made.__name__)


def test_every_check_says_what_it_promises() -> None:
    for suite in (STREAM_SERVER, DATAGRAM_SERVER):
        for name in suite:
            assert suite.promise(name).endswith("."), name
