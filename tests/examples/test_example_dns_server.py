"""examples/dns_server.py with dig: UDP, TCP, EDNS, what is truncated, and what there is not."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

from ports import port_to_bind


@pytest.fixture(scope="module")
def zone() -> Iterator[Program]:
    with port_to_bind() as port, served("python", "dns_server:Zone", str(port)) as it:
        yield it


def dig(it: Program, *words: str) -> str:
    """What dig prints, with what it asked and was told, comments and all."""
    options = ["@127.0.0.1", "-p", str(port_of(it, "udp")), "+tries=1", f"+timeout={SECONDS:.0f}"]
    return command(needs("dig", "dnsutils"), *options, *words).stdout.decode()


@both_ways
def test_it_is_asked_by_udp_and_by_tcp(how: str) -> None:
    with port_to_bind() as port:
        addresses = [f"udp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}"]
        with served(how, "dns_server:Zone", *([str(port)] if how == "python" else addresses)) as it:
            for transport in ("+notcp", "+tcp"):
                assert dig(it, "+short", transport, "www.example.test") == "192.0.2.80\n"
                assert dig(it, "+short", transport, "www.example.test", "AAAA") == "2001:db8::80\n"
            assert dig(it, "+short", "example.test", "TXT") == '"a zone of an example"\n'


def test_the_answer_is_one_of_who_knows(zone: Program) -> None:
    told = dig(zone, "WwW.eXample.TEST")
    assert "status: NOERROR" in told and "flags: qr aa rd;" in told
    assert ";WwW.eXample.TEST." in told  # as it was asked
    assert "EDNS: version: 0, flags:; udp: 1232" in told
    assert "EDNS" not in dig(zone, "+noedns", "www.example.test").partition("ANSWER SECTION")[2]


@pytest.mark.parametrize(
    ("words", "status", "soa"),
    [
        (("none.example.test",), "NXDOMAIN", True),
        (("www.example.test", "TXT"), "NOERROR", True),
        (("elsewhere.test",), "REFUSED", False),
        (("notexample.test",), "REFUSED", False),
        (("-c", "CH", "example.test"), "REFUSED", False),
        (("+opcode=notify", "example.test"), "NOTIMP", False),
        (("+edns=7", "+noednsnegotiation", "example.test"), "BADVERS", False),
    ],
)
def test_what_there_is_not(zone: Program, words: tuple[str, ...], status: str, soa: bool) -> None:
    told = dig(zone, *words)
    assert f"status: {status}" in told
    assert ("\tSOA\tns.example.test. hostmaster.example.test. 1 3600 600 604800 300" in told) == soa


@pytest.mark.parametrize("words", [(), ("+noedns",), ("+bufsize=4096",)])
def test_what_is_too_long_is_truncated_and_asked_for_over_tcp(zone: Program, words: tuple[str, ...]) -> None:
    told = dig(zone, *words, "many.example.test")
    assert "Truncated, retrying in TCP mode" in told and told.count("192.0.2.") == 100
    ignored = dig(zone, *words, "+ignore", "many.example.test")
    assert "flags: qr aa tc rd;" in ignored and "192.0.2." not in ignored


def test_one_connection_takes_question_after_question(zone: Program) -> None:
    options = ["+tcp", "+keepopen", "+short"]
    told = dig(zone, *options, "www.example.test", "ns.example.test", *options)
    assert told == "192.0.2.80\n127.0.0.1\n"


QUESTION = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\3www\7example\4test\0\0\1\0\1"


@pytest.mark.parametrize(
    "message",
    [
        QUESTION[:-1],
        QUESTION[:12] + b"\xc0\x0c\0\1\0\1",  # a name that points to itself
        QUESTION[:12] + b"\x3fshort",
        QUESTION[:4] + b"\0\2" + QUESTION[6:],  # two questions, and there is one
        QUESTION[:12] + b"\1a" * 130 + b"\0\0\1\0\1",
        QUESTION[:10] + b"\0\1" + QUESTION[12:],  # an additional record that is not there
    ],
)
def test_what_is_no_question_is_told_so(zone: Program, message: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(zone)), SECONDS) as tcp:
        tcp.sendall(len(message).to_bytes(2, "big") + message)
        told = tcp.recv(100)
        assert (told[2:4], told[5] & 15) == (message[:2], 1)  # FORMERR


def test_what_is_an_answer_or_noise_is_not_answered(zone: Program) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(SECONDS)
        udp.connect(("127.0.0.1", port_of(zone, "udp")))
        udp.send(QUESTION[:2] + b"\x81" + QUESTION[3:])
        udp.send(b"")
        udp.send(os.urandom(2) + b"\1\0")
        udp.send(QUESTION)
        told = udp.recv(1000)
        assert told[:2] == QUESTION[:2] and told[7] == 1  # the first that comes is of the last that went


def test_no_answer_by_udp_is_longer_than_three_questions(zone: Program) -> None:
    for name in ("www", "many", "ns", "none"):
        asked = QUESTION.replace(b"\3www", bytes([len(name)]) + name.encode()).replace(b"\0\1\0\1", b"\0\xff\0\1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(SECONDS)
            udp.connect(("127.0.0.1", port_of(zone, "udp")))
            udp.send(asked)
            assert len(udp.recv(65535)) <= 3 * len(asked)
