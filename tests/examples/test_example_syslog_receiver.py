"""examples/syslog_receiver.py with logger, by UDP and TCP, and with openssl by TLS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

from jackfield.tls import self_signed


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(Path(self_signed().cert).read_bytes())
    return path


def addresses(certificate: Path) -> list[str]:
    return ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", f"tls://127.0.0.1:0?cert={certificate}"]


@pytest.fixture(scope="module")
def receiver(certificate: Path) -> Iterator[Program]:
    with served("python", "syslog_receiver:Syslog", *addresses(certificate)) as it:
        yield it


def log(it: Program, scheme: str, *words: str) -> None:
    transport = "-d" if scheme == "udp" else "-T"
    logger = [needs("logger", "bsdutils"), "-n", "127.0.0.1", "-P", str(port_of(it, scheme)), transport]
    command(*logger, "-t", "backup", "-p", "local3.warning", *words)


@both_ways
def test_logger_is_understood_by_every_way(how: str, certificate: Path) -> None:
    with served(how, "syslog_receiver:Syslog", *addresses(certificate), mode="green") as it:
        for scheme, words in [
            ("udp", ("--rfc5424",)), ("udp", ("--rfc3164",)),
            ("tcp", ("--rfc5424", "--octet-count")), ("tcp", ("--rfc5424",)), ("tcp", ("--rfc3164",)),
        ]:  # fmt: skip
            log(it, scheme, *words, "--id=4711", "the disk is full")
            told = it.record()
            assert told["by"] == scheme and told["from"] == "127.0.0.1"
            assert (told["facility"], told["severity"]) == ("local3", "warning")
            assert (told["program"], told["pid"], told["text"]) == ("backup", "4711", "the disk is full")
            assert told["time"] and told["host"]


def test_structured_data_is_kept(receiver: Program) -> None:
    said = ["--rfc5424=notq", "--sd-id", "disk@32473", "--sd-param", 'name="sd\\"a\\]"', "--msgid", "FULL", "text"]
    log(receiver, "tcp", *said)
    told = receiver.record()
    assert told["data"] == '[disk@32473 name="sd\\"a\\]"]'
    assert (told["id"], told["text"]) == ("FULL", "text")


def test_openssl_brings_it_by_tls(receiver: Program) -> None:
    where = f"127.0.0.1:{port_of(receiver, 'tls')}"
    message = b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed\n"
    framed = b"%d %b" % (len(message), message)
    command(needs("openssl", "openssl"), "s_client", "-quiet", "-no_ign_eof", "-connect", where, data=framed * 2)
    for _ in range(2):
        assert receiver.record() == {
            "from": "127.0.0.1", "by": "tls", "facility": "auth", "severity": "crit",
            "time": "2003-10-11T22:14:15.003Z", "host": "mymachine.example.com", "program": "su", "id": "ID47",
            "text": "'su root' failed",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        (b"<13>one\n<13>two\r\n\n<13>three", ["one", "two", "three"]),
        (b"5 <1>ab6 <1>cd\n", ["ab", "cd"]),
        (b"5 <1>ab<13>and a line\n7 <1>c\nd\n", ["ab", "and a line", "c\nd"]),
        (b"no priority\n<999>none either\n<13>\xff\n", ["no priority", "<999>none either", "\\xff"]),
        (b"20000 <1>" + b"x" * 19_997 + b"4 <1>y", ["x" * 8189, "y"]),
        (b"<1>" + b"x" * 50_000 + b"\n<1>y\n", ["x" * 8190, "y"]),
        (b"5 <1>ab99999999 <1>c", ["ab"]),
        (b"9 <1>short", []),
    ],
)
def test_both_framings_of_a_stream(receiver: Program, said: bytes, texts: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", port_of(receiver)), SECONDS) as sender:
        sender.sendall(said)
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""  # all of it has been handled
    log(receiver, "udp", "the end")
    told = [receiver.record()["text"] for _ in range(len(texts) + 1)]
    assert told == [*texts, "the end"]
