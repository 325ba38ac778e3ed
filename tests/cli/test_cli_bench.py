"""``jackfield bench`` as a user has it: against the real server and those that fail, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Server, only_line, run, serving, start_and_run
from cli_support import Upper as UpperHandler
from screen import Screen

from jackfield.reactor.twin import native
from jackfield.tls import self_signed
from ports import closed_port

pytestmark = pytest.mark.slow

SHORT = ("-n", "200", "-c", "5")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The command's own upper-case echo."""
    with Server("-b", "127.0.0.1:0", "-k", "green") as server:
        yield server.address


def bench(*words: str, code: int = 0, cwd: Path | None = None) -> tuple[str, str]:
    """What it says on stdout and on stderr; the exit code has to be that one."""
    done = run("bench", *words, cwd=cwd)
    assert done.returncode == code, done
    return done.stdout.decode(), done.stderr.decode()


def document(*words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bench(*words, "--json", "-q", code=code)[0])
    return found


# -- it works ------------------------------------------------------------------------------------------------------


def test_without_any_flag_but_a_time(address: str) -> None:
    out, _ = bench(address, "-d", "300ms", "--warmup", "100ms", "-q")
    assert "closed loop" in out and "50 connections, 64 bytes" in out
    assert "  errors      none\n" in out
    loop = "Python" if native is None else "native"
    assert f"({loop} loop)" in out


def test_in_an_interpreter_of_its_own(address: str) -> None:
    done = start_and_run("bench", address, *SHORT, "-q")
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"requests    200 in" in done.stdout


def test_in_a_pipe_there_is_no_bar_and_no_colour(address: str) -> None:
    done = run("bench", address, "-d", "300ms", "--warmup", "0")
    assert b"\x1b" not in done.stdout + done.stderr
    assert "█".encode() not in done.stderr


def test_the_document(address: str) -> None:
    found = document(address, *SHORT)
    assert (found["requests"], found["errors"]["total"]) == (200, 0)
    assert found["plan"]["loop"] == "closed"
    assert found["latency_ms"]["min"] > 0


def test_the_page_names_all_of_the_document(address: str) -> None:
    found = document(address, *SHORT)
    page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
    for part in (found, found["plan"], found["generator"], found["timeline"], found["errors"], found["latency_ms"]):
        assert [name for name in part if f"`{name}`" not in page] == []


def test_a_rate(address: str) -> None:
    found = document(address, "-d", "500ms", "--warmup", "0", "-R", "200", "-c", "4")
    assert found["plan"]["loop"] == "open"
    assert found["requests"] + found["overdue"] == 100


@pytest.mark.parametrize(
    "words",
    [
        ("--connect-per-request",),
        ("--size", "1000"),
        ("--pipeline", "4", "--size", "16"),
        ("--payload", "a\\x62c"),
        ("--payload", "quiet", "--expect", "=QUIET"),
        ("--expect", "any"),
        ("-w", "2"),
        ("--ramp", "50ms"),
        ("-R", "1000"),
        ("-R", "1000", "--connect-per-request"),
    ],
    ids=" ".join,
)
def test_against_the_upper_case_echo(words: tuple[str, ...], address: str) -> None:
    found = document(address, *SHORT, *words)
    assert (found["requests"], found["errors"]["total"]) == (200, 0)


@pytest.mark.parametrize("framing", ["netstring", "u32"])
def test_framing(framing: str, address: str) -> None:
    # In upper case the length stays what it was; and no digit is a letter.
    assert document(address, *SHORT, "--framing", framing)["requests"] == 200


@pytest.mark.parametrize("scheme", ["unix", "unixgram", "unixpacket"])
def test_unix_sockets(scheme: str, tmp_path: Path) -> None:
    with Server("-b", f"{scheme}:{tmp_path}/s") as server:
        found = document(server.address, *SHORT)
        assert (found["requests"], found["errors"]["total"]) == (200, 0)


def test_udp() -> None:
    with Server("-b", "udp://127.0.0.1:0") as server:
        found = document(server.address, *SHORT, "--pipeline", "2")
        assert found["requests"] + found["errors"]["lost"] == 200
        assert found["errors"]["wrong"] == 0


def test_tls() -> None:
    pair = self_signed().cert
    with Server("-b", f"tls://127.0.0.1:0?cert={pair}") as server:
        where = server.address.partition("?")[0]
        found = document(where, *SHORT, "--insecure")
        assert (found["requests"], found["errors"]["total"], found["generator"]["native"]) == (200, 0, False)
        named = where.replace("127.0.0.1", "localhost")
        assert document(named, *SHORT, "--tls-ca", str(pair), "--connect-per-request")["requests"] == 200
        out, line = bench(where, *SHORT, code=1)
        assert out == "" and "certificate" in line and line.count("\n") == 1
        # Plain requests to a server of TLS: nobody answers them as they are.
        assert document(where.replace("tls", "tcp"), "-n", "3", "-c", "1", "--timeout", "1s", code=1)["errors"]["total"]


def test_files(address: str, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"from a file")
    first, _ = bench(address, *SHORT, "--payload-file", "payload", "--json", cwd=tmp_path)
    (tmp_path / "old.json").write_text(first)
    out, said = bench(
        address, *SHORT, "-c", "4", "--compare", "old.json", "--plot", "run.svg", "--latency", "-q", cwd=tmp_path
    )
    assert "compared with the run of" in out and "change" in out
    assert "99.999%" in out
    assert said == ""
    ET.parse(tmp_path / "run.svg")
    [_, values] = csv.reader(io.StringIO(bench(address, *SHORT, "--csv")[0]))
    assert "200" in values
    _, said = bench(address, *SHORT, "-c", "4", "--compare", "old.json", cwd=tmp_path)
    assert "the earlier run was another: connections 4, was 5" in said


# -- what fails ----------------------------------------------------------------------------------------------------


def test_a_condition_that_comes_true_is_1(address: str) -> None:
    out, said = bench(address, *SHORT, "--fail-if", "p50>0ms", "--fail-if", "errors>0", "-q", code=1)
    assert "requests    200" in out
    assert only_line(said.encode()).startswith("jackfield bench: --fail-if p50>0ms: it is ")


def test_wrong_replies_are_1_and_shown(address: str) -> None:
    out, said = bench(address, "-n", "3", "-c", "1", "--expect", "same", "-q", code=1)
    assert "3 wrong replies (100.00 % of 3)" in out
    assert "ABCDEF" in only_line(said.encode()) and "--expect" in said


def test_a_server_that_never_answers_is_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        out, said = bench(where, "-n", "3", "-c", "3", "--timeout", "100ms", "-q", code=1)
    assert "3 timed out" in out
    assert "no reply within --timeout 0.1s" in only_line(said.encode())


def test_a_server_that_closes_is_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def close_all() -> None:
            while not over.is_set():
                sock, _ = listener.accept()
                sock.close()

        thread = threading.Thread(target=close_all)
        thread.start()
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        out, said = bench(where, "-n", "5", "-c", "1", "-q", code=1)
        over.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join(SECONDS)
    assert "closed before the reply" in out
    assert "--connect-per-request" in said or "reset" in said.lower()


def test_where_nobody_listens_is_one_line_and_1(tmp_path: Path) -> None:
    with closed_port() as port:
        out, said = bench(f"127.0.0.1:{port}", "--plot", "x.svg", cwd=tmp_path, code=1)
    assert out == ""
    assert "nobody listens" in only_line(said.encode())
    assert list(tmp_path.iterdir()) == []
    _, said = bench("unix:/nowhere/s", code=1)
    assert "there is no socket /nowhere/s" in only_line(said.encode())


def test_a_server_that_goes_away_in_the_middle_is_1() -> None:
    with (
        Server("-b", "127.0.0.1:0") as server,
        started(server.address, "-d", "60s", "-c", "2", "--warmup", "0", "--json", "--timeout", "500ms") as process,
    ):
        wait_for_load(server)
        server.process.kill()
        server.process.communicate()
        time_to_notice(process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=SECONDS)
    errors = json.loads(out)["errors"]
    assert errors["connect"] + errors["closed"] > 0


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """It runs, in a process of its own."""
    process = subprocess.Popen(
        [*PROGRAM, "bench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for_load(server: Server) -> None:
    """Until the connections of a load test are there."""
    port = int(server.address.rsplit(":", 1)[1])
    wait_until(lambda: connections_to(port) >= 2)


def connections_to(port: int) -> int:
    """How many are established, by the kernel's table (proc_net_tcp.rst): remote port, state 1."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01")


def time_to_notice(process: subprocess.Popen[bytes]) -> None:
    """Half a second, in which the load test goes on: it does not end because a server does."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


# -- ending early --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_early_it_reports_what_it_has(number: int, code: int) -> None:
    with (
        Server("-b", "127.0.0.1:0") as server,
        started(server.address, "-d", "60s", "-c", "2", "--warmup", "0", "--json", "-w", "2") as process,
    ):
        wait_for_load(server)
        time_to_notice(process)
        process.send_signal(number)
        out, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    found = json.loads(out)
    assert found["interrupted"] is True
    assert 0 < found["seconds"] < 60
    assert found["requests"] > 0
    assert b"Traceback" not in said


def test_interrupted_in_the_warm_up_there_is_nothing_to_report_but_no_traceback() -> None:
    with Server("-b", "127.0.0.1:0") as server, started(server.address, "-c", "2", "--warmup", "60s") as process:
        wait_for_load(server)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert b"ended early" in out
    assert b"nothing was measured" in said and b"Traceback" not in said


def test_when_nobody_reads_it_ends_quietly(address: str) -> None:
    with started(address, *SHORT, "-q") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""


def test_the_processes_end_with_the_one_that_started_them() -> None:
    with (
        Server("-b", "127.0.0.1:0") as server,
        started(server.address, "-d", "60s", "-c", "4", "-w", "2") as process,
    ):
        port = int(server.address.rsplit(":", 1)[1])
        wait_for_load(server)
        process.kill()
        wait_until(lambda: connections_to(port) == 0)


# -- on a terminal -------------------------------------------------------------------------------------------------


def on_terminal(*words: str, interrupt_at: str | None = None) -> tuple[str, int, Screen]:
    """Everything written to a terminal of 140 columns, the exit code, and what is to be seen at the end."""
    program, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, "bench", *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    raw = b""
    deadline = time.monotonic() + 2 * SECONDS
    try:
        while True:
            assert select.select([program], [], [], max(0.0, deadline - time.monotonic()))[0], raw
            try:
                data = os.read(program, 65536)
            except OSError:  # EIO: the program has closed its end
                break
            raw += data
            if interrupt_at is not None and interrupt_at.encode() in raw:
                os.write(program, b"\x03")
                interrupt_at = None
        code = process.wait(SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(program)
    text = raw.decode("utf-8", "replace")
    return text, code, Screen(30, 140).feed(text)


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_goes_away(address: str) -> None:
    raw, code, screen = on_terminal(address, "-d", "700ms", "--warmup", "300ms", "-c", "4")
    assert code == 0
    assert "█" in raw and "warm-up" in raw and "/s" in raw and "0 errors" in raw
    assert not any("█" in line or "░" in line for line in screen.lines)
    assert screen.lines[0] == f"jackfield bench {address}"


def test_ctrl_c_on_a_terminal_reports(address: str) -> None:
    raw, code, screen = on_terminal(address, "-d", "60s", "--warmup", "0", "-c", "4", "-w", "2", interrupt_at="0.5s")
    assert code == 130
    assert any("ended early" in line for line in screen.lines)
    assert any("latency" in line for line in screen.lines)
    assert "Traceback" not in raw


def test_quiet_there_is_no_bar(address: str) -> None:
    raw, code, _ = on_terminal(address, "-d", "300ms", "--warmup", "0", "-q")
    assert code == 0
    assert "█" not in raw and "░" not in raw


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "bench what?"),
        (["nowhere"], "nowhere:9999"),
        ([":9999", ":9998"], "one argument too many"),
        ([":0"], "write the port it got"),
        (["fd://3"], "an address to connect to"),
        (["systemd:"], "127.0.0.1:9999"),
        (["tcp://:1?keepalive=5"], "write tcp://:1"),
        ([":1", "-c", "0"], "at least 1"),
        ([":1", "-c", "x"], "at least 1"),
        ([":1", "-c", "2000000"], "1000000"),
        ([":1", "-d", "soon"], "500ms, 5s"),
        ([":1", "-d", "0"], "-d 10s"),
        ([":1", "-n", "0"], "at least 1"),
        ([":1", "-n", "5", "-d", "5"], "write one of them"),
        ([":1", "-R", "0"], "write e.g. 1000"),
        ([":1", "-R", "1s"], "write e.g. 1000"),
        ([":1", "-R", "nan"], "write e.g. 1000"),
        ([":1", "-w", "0"], "at least 1"),
        ([":1", "-w", "3", "-c", "2"], "a smaller -w"),
        ([":1", "-w", "3", "-n", "2"], "-n 2"),
        ([":1", "--pipeline", "0"], "at least 1"),
        ([":1", "--pipeline", "2", "--connect-per-request"], "leave --pipeline out"),
        ([":1", "--pipeline", "2", "--expect", "any"], "--framing"),
        ([":1", "--size", "0"], "--size 64"),
        ([":1", "--size", "65M"], "64M at most"),
        ([":1", "--size", "-1"], "64k, 1M"),
        (["udp://:1", "--size", "64k"], "65507"),
        ([":1", "--size", "5", "--payload", "x"], "choose one"),
        ([":1", "--payload", "\\q"], "--payload"),
        ([":1", "--payload-file", "nothing"], "No such file"),
        ([":1", "--framing", "lines"], "did you mean line?"),
        ([":1", "--framing", "line", "--payload", "a\\nb"], "netstring"),
        ([":1", "--expect", "OK"], "=OK"),
        ([":1", "--expect", "="], "--expect"),
        ([":1", "--warmup", "x"], "500ms"),
        ([":1", "--ramp", "x"], "500ms"),
        ([":1", "--timeout", "0"], "--timeout 5s"),
        ([":1", "--json", "--csv"], "choose one"),
        ([":1", "--plot", "no/such/place.svg"], "no directory no/such"),
        ([":1", "--plot", "."], "a directory"),
        ([":1", "--compare", "nothing.json"], "--compare nothing.json"),
        ([":1", "--compare", "app.py"], "bench --json"),
        ([":1", "--fail-if", "p99>5"], "unit"),
        ([":1", "--fail-if", "p99>1.2x"], "add --compare"),
        ([":1", "--insecure"], "tls://"),
        (["tls://:1", "--tls-ca", "nothing.pem"], "nothing.pem"),
        (["tls://:1", "--tls-key", "nothing.pem"], "--tls-cert"),
        (["tls://:1", "--tls-ca", "app.py", "--insecure"], "choose one"),
        (["tls://localhost:1", "--tls-ca", "app.py"], "app.py"),
        (["udp://:1", "--tls"], "for a stream"),
        ([":1", "--conections", "5"], "--connections"),
        ([":1", "--threads", "5"], "processes are -w"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_2(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("not json\n")
    out, error = bench(*words, code=2, cwd=tmp_path)
    assert out == ""
    line = only_line(error.encode())
    assert line.startswith("jackfield bench: ") and said in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.py"]


def test_help_begins_with_examples_of_use() -> None:
    out, _ = bench("--help")
    assert "jackfield bench :9999 -R 2000 --latency" in out


def test_a_server_of_the_standard_library() -> None:
    with serving(UpperHandler) as where:
        assert document(where, *SHORT)["errors"]["total"] == 0
