"""``connect --send TEXT --expect REGEX``: a smoke test in one line of a shell script."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cli_support import Upper, UpperDatagram, accepting, only_line, run, serving

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["tcp", "udp", "unix", "unixgram"])
def test_what_is_expected_comes(scheme: str, tmp_path: Path) -> None:
    handler = UpperDatagram if scheme in ("udp", "unixgram") else Upper
    path = str(tmp_path / "s") if scheme.startswith("unix") else ""
    with serving(handler, scheme, path) as address:
        done = run("connect", address, "--send", "hello", "--expect", "^HEL+O")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")


def test_several_steps_in_order() -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        assert connection.recv(100) == b"HELO x\r\n"
        connection.sendall(b"250 hello\r\n")
        assert connection.recv(100) == b"QUIT\r\n"
        connection.sendall(b"221 bye\r\n")

    script = ["--expect", "^220 .*\n", "--send", r"HELO x\n", "--expect", "250", "--send", r"QUIT\n", "--expect", "221"]
    with accepting(greet) as address:
        done = run("connect", address, "-C", *script)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_expectation_begins_after_the_one_before() -> None:
    with accepting(lambda connection: connection.sendall(b"once")) as address:
        done = run("connect", address, "--expect", "once", "--expect", "once")
    assert done.returncode == 1


def test_another_answer_is_1_and_shown() -> None:
    with serving(Upper) as address:
        done = run("connect", address, "--send", "hello", "--expect", "BYE", "-w", "300ms")
    assert done.returncode == 1
    assert "/BYE/ did not come within 0.3s; came: 'HELLO'" in only_line(done.stderr)


def test_no_answer_is_1_and_a_missing_line_end_is_pointed_out() -> None:
    def wait_for_a_line(connection: socket.socket) -> None:
        assert connection.makefile("rb").readline() == b"hello"  # the end, not the line

    with accepting(wait_for_a_line) as address:
        done = run("connect", address, "--send", "hello", "--expect", "HELLO", "-w", "300ms")
    assert done.returncode == 1
    line = only_line(done.stderr)
    assert "nothing came" in line and r"without a line's end (\n)" in line


def test_a_server_that_closes_first_is_1() -> None:
    with accepting(lambda connection: connection.sendall(b"no\n")) as address:
        done = run("connect", address, "--expect", "yes")
    assert done.returncode == 1
    assert r"before the other side closed; came: 'no\n'" in only_line(done.stderr)


def test_nobody_there_is_1_and_a_bad_expression_2() -> None:
    assert run("connect", ":1", "--expect", "x").returncode == 1
    assert run("connect", ":1", "--expect", "[").returncode == 2


def test_a_text_alone_is_sent_and_the_answer_shown() -> None:
    with serving(Upper) as address:
        done = run("connect", address, "--send", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")


def test_a_datagram_alone_is_sent_and_the_answer_shown() -> None:
    with serving(UpperDatagram, "udp") as address:
        done = run("connect", address, "--send", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")
