"""``connect`` in a pipe: a plain byte pipe, in both directions, to the last byte."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Upper, UpperDatagram, accepting, only_line, run, serving

from ports import closed_port, port_to_bind

pytestmark = pytest.mark.slow

EVERY_BYTE = bytes(range(256)) * 4


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def swallow(connection: socket.socket) -> bytes:
    parts = []
    while data := connection.recv(65536):
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("scheme", ["tcp", "udp", "unix", "unixgram"])
def test_each_kind_of_address_is_a_pipe(scheme: str, tmp_path: Path) -> None:
    handler = UpperDatagram if scheme in ("udp", "unixgram") else Upper
    path = str(tmp_path / "s") if scheme.startswith("unix") else ""
    with serving(handler, scheme, path) as address:
        done = run("connect", address, data=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")


def test_a_unix_datagram_client_leaves_no_socket_behind(tmp_path: Path) -> None:
    """Its own path is where the answer comes to, and goes when it goes."""
    seen: list[str] = []

    class Look(UpperDatagram):
        def handle(self) -> None:
            seen.append(self.client_address)
            assert os.path.exists(self.client_address)
            super().handle()

    with serving(Look, "unixgram", str(tmp_path / "s")) as address:
        assert run("connect", address, data=b"x").stdout == b"X"
    assert seen and not os.path.exists(seen[0])


def test_a_unix_datagram_client_that_is_ended_leaves_no_socket_behind(tmp_path: Path) -> None:
    came = threading.Event()
    seen: list[str] = []

    class Look(UpperDatagram):
        def handle(self) -> None:
            seen.append(self.client_address)
            came.set()

    with (
        serving(Look, "unixgram", str(tmp_path / "s")) as address,
        subprocess.Popen([*PROGRAM, "connect", address], stdin=subprocess.PIPE, env=ENVIRONMENT) as client,
    ):
        assert client.stdin is not None
        client.stdin.write(b"x")
        client.stdin.flush()
        assert came.wait(SECONDS)
        assert os.path.exists(seen[0])
        client.send_signal(signal.SIGTERM)
        assert client.wait(SECONDS) == 128 + signal.SIGTERM
    assert not os.path.exists(seen[0])


def test_five_megabytes_there_and_back() -> None:
    """More than all buffers on the way hold: each direction has to go on while the other one is stuck."""
    data = os.urandom(5 << 20)
    with accepting(echo) as address:
        done = run("connect", address, data=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_one_way_pump_would_not_do() -> None:
    """The broken case of the test above: to send everything first and read then stops where the buffers are full."""

    def echo_until_it_leaves(connection: socket.socket) -> None:
        with pytest.raises((ConnectionError, TimeoutError)):
            echo(connection)

    with accepting(echo_until_it_leaves) as address:
        host, port = address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=0.5) as sock, pytest.raises(TimeoutError):
            sock.sendall(bytes(64 << 20))


def test_every_byte_passes_unchanged() -> None:
    with accepting(echo) as address:
        assert run("connect", address, data=EVERY_BYTE).stdout == EVERY_BYTE


def test_the_end_of_input_is_told_and_the_rest_read() -> None:
    def answer_late(connection: socket.socket) -> None:
        request = swallow(connection)  # returns only because the client has closed its direction
        connection.sendall(b"%d bytes" % len(request))

    with accepting(answer_late) as address:
        done = run("connect", address, data=b"abc")
    assert (done.returncode, done.stdout) == (0, b"3 bytes")


def test_no_shutdown_keeps_the_way_open() -> None:
    def insist(connection: socket.socket) -> None:
        assert connection.recv(3, socket.MSG_WAITALL) == b"abc"
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"still open")

    with accepting(insist) as address:
        done = run("connect", address, "--no-shutdown", data=b"abc")
    assert (done.returncode, done.stdout) == (0, b"still open")


def test_input_goes_on_to_a_server_that_has_nothing_more_to_say() -> None:
    data = os.urandom(1 << 20)
    came: list[bytes] = []

    def listen_only(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        came.append(swallow(connection))

    with accepting(listen_only) as address:
        assert run("connect", address, data=data).returncode == 0
    assert came == [data]


def test_it_ends_with_the_server_though_input_goes_on() -> None:
    with accepting(lambda connection: connection.sendall(b"bye")) as address:
        with subprocess.Popen(
            [*PROGRAM, "connect", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
        ) as client:
            assert client.stdout is not None
            assert client.stdout.read() == b"bye"
            assert client.wait(SECONDS) == 0  # its standard input is open still


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    def pour(connection: socket.socket) -> None:
        with pytest.raises(OSError):
            while True:
                connection.sendall(bytes(65536))

    with accepting(pour) as address:
        shell = f"'{PROGRAM[0]}' -m jackfield connect {address} | head -c 10 | wc -c"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=SECONDS, env=ENVIRONMENT, check=True)
    assert (done.stdout.strip(), done.stderr) == (b"10", b"")


def test_a_reset_is_one_line_and_exit_code_1() -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() then sends RST

    with accepting(reset) as address:
        done = run("connect", address, "--no-shutdown", data=b"hello")
    assert done.returncode == 1
    assert f"{address} broke the connection off" in only_line(done.stderr)


def test_send_only_throws_away_what_comes() -> None:
    def chatter(connection: socket.socket) -> None:
        connection.sendall(bytes(1 << 20))
        assert swallow(connection) == b"hello"

    with accepting(chatter) as address:
        done = run("connect", address, "--send-only", data=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_recv_only_does_not_read_the_input() -> None:
    with accepting(lambda connection: connection.sendall(b"news")) as address:
        shell = f"printf rest | {{ '{PROGRAM[0]}' -m jackfield connect {address} --recv-only; cat; }}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=SECONDS, env=ENVIRONMENT, check=True)
    assert done.stdout == b"newsrest"


def test_crlf() -> None:
    came: list[bytes] = []
    with accepting(lambda connection: came.append(swallow(connection))) as address:
        assert run("connect", address, "-C", data=b"a\nb\r\nc\rd\n").returncode == 0
    assert came == [b"a\r\nb\r\nc\rd\r\n"]


def test_hex_shows_rows_of_sixteen() -> None:
    with accepting(lambda connection: connection.sendall(b"hello world\n" * 2)) as address:
        done = run("connect", address, "-x")
    assert done.stdout.decode().splitlines() == [
        "00000000  68 65 6c 6c 6f 20 77 6f  72 6c 64 0a 68 65 6c 6c  |hello world.hell|",
        "00000010  6f 20 77 6f 72 6c 64 0a                           |o world.|",
    ]


def test_output_and_record_keep_what_passed(tmp_path: Path) -> None:
    output, record = tmp_path / "came", tmp_path / "both"
    with accepting(echo) as address:
        done = run("connect", address, "-o", str(output), "--record", str(record), data=b"\xffhello")
    assert done.stdout == output.read_bytes() == b"\xffhello"
    entries = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(entry["way"], entry["base64"]) for entry in entries] == [("sent", "/2hlbGxv"), ("received", "/2hlbGxv")]
    assert 0 <= entries[0]["at"] <= entries[1]["at"] < SECONDS


def test_closed_standard_input_is_not_mistaken_for_the_line() -> None:
    """With descriptor 0 closed, the socket itself would get the number 0, and be read as the input."""
    with accepting(lambda connection: connection.sendall(b"bye")) as address:
        shell = f"'{PROGRAM[0]}' -m jackfield connect {address} <&-"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, timeout=SECONDS, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"bye", b"")


def test_idle_timeout() -> None:
    def be_silent(connection: socket.socket) -> None:
        assert swallow(connection) == b""

    with accepting(be_silent) as address:
        done = run("connect", address, "-i", "200ms", "--no-shutdown")
    assert done.returncode == 1
    assert "nothing passed for 0.2s" in only_line(done.stderr)


def test_connect_timeout() -> None:
    """A listener whose queue is full answers no further SYN (listen(2), tcp_abort_on_overflow)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            started = time.monotonic()
            done = run("connect", "{}:{}".format(*listener.getsockname()), "-w", "300ms")
        finally:
            for sock in waiting:
                sock.close()
    assert time.monotonic() - started < SECONDS
    assert done.returncode == 1
    assert "within 0.3s; -w waits longer" in only_line(done.stderr)


def test_source_is_what_the_server_sees() -> None:
    came: list[object] = []
    with port_to_bind() as port, accepting(lambda connection: came.append(connection.getpeername())) as address:
        assert run("connect", address, "--source", f"127.0.0.2:{port}").returncode == 0
    assert came == [("127.0.0.2", port)]


def test_source_may_be_a_host_alone() -> None:
    came: list[str] = []
    with accepting(lambda connection: came.append(connection.getpeername()[0])) as address:
        assert run("connect", address, "--source", "127.0.0.3").returncode == 0
    assert came == ["127.0.0.3"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has an abstract namespace")
def test_source_of_unix_datagrams_may_be_abstract(tmp_path: Path) -> None:
    own = f"unixgram:@jackfield-test-{os.getpid()}"
    with serving(UpperDatagram, "unixgram", str(tmp_path / "s")) as address:
        assert run("connect", address, "--source", own, data=b"hello").stdout == b"HELLO"


def test_broadcast_needs_its_flag() -> None:
    done = run("connect", "udp://255.255.255.255:9", data=b"x")
    assert done.returncode == 1
    # Where the machine has no route, it says that instead: either way it is one line.
    assert "--allow-broadcast" in only_line(done.stderr) or "cannot reach" in only_line(done.stderr)


def test_allow_broadcast_takes_answers_from_anybody() -> None:
    """127.255.255.255 is loopback's own broadcast address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        server.settimeout(SECONDS)
        asked: list[bytes] = []

        def answer() -> None:
            data, client = server.recvfrom(100)
            asked.append(data)
            server.sendto(b"here", client)

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("connect", f"udp://127.255.255.255:{server.getsockname()[1]}", "--allow-broadcast", data=b"who?")
        thread.join(SECONDS)
    assert (done.returncode, done.stdout, asked) == (0, b"here", [b"who?"])


def test_seqpacket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.send(connection.recv(100).upper())
                assert connection.recv(100) == b""

        thread = threading.Thread(target=talk)
        thread.start()
        done = run("connect", f"unixpacket:{path}", data=b"packet")
        thread.join(SECONDS)
    assert (done.returncode, done.stdout) == (0, b"PACKET")


def test_an_inherited_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello")
        ours.shutdown(socket.SHUT_WR)
        done = subprocess.run(
            [*PROGRAM, "connect", f"fd://{theirs.fileno()}"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            env=ENVIRONMENT,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"hello")


def test_z_says_whether_anybody_is_there() -> None:
    with serving(Upper) as address:
        done = run("connect", address, "-z")
        assert (done.returncode, only_line(done.stderr)) == (0, f"{address} is open")
        assert run("connect", address, "-z", "-q").stderr == b""
    with closed_port() as port:
        done = run("connect", f"127.0.0.1:{port}", "-z")
    assert done.returncode == 1
    assert "nobody listens" in only_line(done.stderr)


def test_z_of_a_datagram_address() -> None:
    with serving(UpperDatagram, "udp") as address:
        done = run("connect", address, "-z")
        assert (done.returncode, only_line(done.stderr)) == (0, f"{address} answers")
    with closed_port(socket.SOCK_DGRAM) as port:
        assert run("connect", f"udp://127.0.0.1:{port}", "-z").returncode == 1
