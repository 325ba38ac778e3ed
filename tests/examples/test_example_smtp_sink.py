"""examples/smtp_sink.py with smtplib, swaks and curl."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import SECONDS, Program, both_ways, command, needs, port_of, served

from jackfield.tls import self_signed

TEXT = "Subject: dots\r\n\r\none\r\n.\r\n..two\r\n.three\r\nCafé\r\n"
ENVELOPE = b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(Path(self_signed().cert).read_bytes())
    return str(path)


@pytest.fixture(scope="module")
def sink(certificate: str) -> Iterator[Program]:
    with served("python", "smtp_sink:Sink", "0", variables={"SMTP_CERT": certificate}) as it:
        yield it


def mailer(it: Program) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port_of(it), timeout=SECONDS)


def say(it: Program, said: bytes) -> list[bytes]:
    """What a client is told that says it all at once, and then nothing more."""
    with socket.create_connection(("127.0.0.1", port_of(it)), SECONDS) as raw, raw.makefile("rb") as told:
        raw.sendall(said)
        raw.shutdown(socket.SHUT_WR)
        return [line[:3] for line in told.read().splitlines()]


@both_ways
def test_swaks_by_tls_with_a_certificate_made_on_the_spot(how: str) -> None:
    swaks = needs("swaks", "swaks")
    with served(how, "smtp_sink:Sink", "127.0.0.1:0") as it:
        words = ["--server", f"127.0.0.1:{port_of(it)}", "--from", "ann@example.test", "--to", "bob@example.test"]
        words += ["--helo", "swaks.test", "--body", "good morning", "--timeout", "20"]
        for tls in (False, True):
            if tls and b"TLS not available" in command(swaks, "--support", code=None).stdout:
                pytest.skip("swaks has no TLS here: install Debian's package libnet-ssleay-perl")
            command(swaks, *words, *(["--tls"] if tls else []))
            told = it.record()
            assert (told["from"], told["to"], told["tls"]) == ("ann@example.test", ["bob@example.test"], tls)
            assert told["hello"] == "swaks.test" and "\r\n\r\ngood morning\r\n" in told["text"]


def test_smtplib_brings_it_byte_by_byte(sink: Program) -> None:
    with mailer(sink) as client:
        client.ehlo("me")
        assert client.has_extn("starttls") and client.esmtp_features["size"] == "1048576"
        assert client.sendmail("ann@x", ["bob@x", "eve@x"], TEXT.encode()) == {}
        told = sink.record()
        assert (told["from"], told["to"], told["text"]) == ("ann@x", ["bob@x", "eve@x"], TEXT)
        assert (told["size"], told["tls"]) == (len(TEXT.encode()), False)
        client.sendmail("", ["bob@x"], "the next\r\n")  # of nobody, as a bounce is
        assert sink.record()["text"] == "the next\r\n"


def test_starttls_begins_anew(sink: Program, certificate: str) -> None:
    with mailer(sink) as client:
        client.starttls(context=ssl.create_default_context(cafile=certificate))
        assert client.docmd("MAIL FROM:<a@x>")[0] == 503  # the EHLO of before counts no more
        client.ehlo("me")
        assert not client.has_extn("starttls") and client.docmd("STARTTLS")[0] == 503
        client.sendmail("ann@x", ["bob@x"], TEXT.encode())
        assert sink.record()["tls"] is True


def test_what_is_put_behind_starttls_is_not_done(sink: Program) -> None:
    assert say(sink, b"STARTTLS\r\n" + ENVELOPE + b"smuggled\r\n.\r\n") == [b"220", b"220"]


def test_the_size_is_bounded(sink: Program) -> None:
    large = "x" * 900 + "\r\n"
    with mailer(sink) as client:
        client.ehlo("me")
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("a@x", ["b@x"], large * 2000)  # it tells how much it is
        assert refused.value.smtp_code == 552
        client.mail("a@x")
        client.rcpt("b@x")
        assert client.data(large * 2000)[0] == 552  # it does not
        client.sendmail("a@x", ["b@x"], large * 50)
        assert sink.record()["size"] == 45_100


def test_curl_pipelines(sink: Program) -> None:
    words = ["-sS", f"smtp://127.0.0.1:{port_of(sink)}/me", "--mail-from", "a@x", "--mail-rcpt", "b@x", "-T", "-"]
    command(needs("curl", "curl"), *words, data=TEXT.encode())
    assert sink.record()["text"] == TEXT


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        (b"NONSENSE\r\nQUIT\r\n", ["500", "221"]),
        (b"MAIL FROM:<a@x>\r\nHELO me\r\nRCPT TO:<b@x>\r\nDATA\r\n", ["503", "250", "503", "503"]),
        (b"HELO me\r\nMAIL a@x\r\nMAIL FROM:<a@x> SIZE=99999999\r\nMAIL FROM:<a@x>\r\nMAIL FROM:<a@x>\r\n",
         ["250", "501", "552", "250", "503"]),
        (b"NOOP\r\nVRFY ann\r\nRSET\r\n", ["250", "252", "250"]),
        (b"X\r\n" * 30, ["500"] * 20 + ["421"]),
        (b"HELO me" + b"x" * 1000, ["500"]),
    ],
)  # fmt: skip
def test_what_is_out_of_order_is_told(sink: Program, said: bytes, codes: list[str]) -> None:
    try:
        assert say(sink, said) == [b"220", *(code.encode() for code in codes)]
    except ConnectionError:
        pytest.fail("it was cut, with answers on the way")


@pytest.mark.parametrize("end", [b"\n.\r\n", b"\r\n.\n", b"\n.\n", b"\r\n.\r.\n"])
def test_no_message_is_smuggled_within_another(sink: Program, end: bytes) -> None:
    said = ENVELOPE + b"one" + end + b"MAIL FROM:<evil@x>\r\nRCPT TO:<b@x>\r\nDATA\r\ntwo\r\n.\r\nQUIT\r\n"
    answers = say(sink, said)
    assert answers[-2:] == [b"250", b"221"]
    assert answers.count(b"354") == 1
    told = sink.record()
    assert told["from"] == "a@x" and "MAIL FROM:<evil@x>" in told["text"]


def test_half_a_message_is_none(sink: Program) -> None:
    assert say(sink, ENVELOPE + b"half of")[-1] == b"354"
    say(sink, ENVELOPE + b"whole\r\n.\r\nQUIT\r\n")
    assert sink.record()["text"] == "whole\r\n"
