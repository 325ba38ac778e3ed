"""The programs in examples/, each as its user runs it: a process of its own, and a real client."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from example_support import EXAMPLES, SECONDS, Line, command, program, run

from doc_support import ENVIRONMENT
from raw_sockets import may_open_raw_sockets, without_raw_sockets

# -- the notes' programs -----------------------------------------------------------------------------------------------


def for_stdlib(name: str, folder: Path) -> Path:
    """The same program with the one line changed back."""
    lines = (EXAMPLES / name).read_text().splitlines(keepends=True)
    imports = [index for index, line in enumerate(lines) if "jackfield" in line and "import" in line]
    assert len(imports) == 1, f"{name} is to differ from a program for the standard library in one line"
    lines[imports[0]] = lines[imports[0]].replace("from jackfield import", "import")
    copy = folder / name
    copy.write_text("".join(lines))
    return copy


@pytest.mark.parametrize("server_is", ["jackfield", "stdlib"])
@pytest.mark.parametrize("client_is", ["jackfield", "stdlib"])
def test_notes_server_and_client_are_one_import_away(tmp_path: Path, server_is: str, client_is: str) -> None:
    names = {"jackfield": lambda name: EXAMPLES / name, "stdlib": lambda name: for_stdlib(name, tmp_path)}
    with program(names[server_is]("notes_server.py"), "0") as server:
        port = server.port()
        with program(names[client_is]("notes_client.py"), str(port), stdin=subprocess.PIPE) as client:
            typed = client.process.stdin
            assert typed is not None
            for line in (b"hello, world", b"and again"):
                client.read_until(b">>> ")
                typed.write(line + b"\n")
                typed.flush()
                assert client.read_until(b"\n") == line.decode().upper() + "\n"
                assert server.read_until(b"\n") == f"127.0.0.1 wrote: {line.decode()}\n"
            client.read_until(b">>> ")
            assert client.finish(None) == (0, "", "")
        assert server.finish() == (0, "stopping\n", "")


# -- the proxy ---------------------------------------------------------------------------------------------------------


def test_tcp_proxy_passes_on_both_ways_and_the_half_close() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        with program("tcp_proxy.py", f"127.0.0.1:{listener.getsockname()[1]}", "0") as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port()), SECONDS) as client:
                server, _ = listener.accept()
                with server:
                    server.settimeout(SECONDS)
                    client.sendall(b"the question")
                    client.shutdown(socket.SHUT_WR)
                    assert server.makefile("rb").read() == b"the question"  # to its end
                    answer = os.urandom(1 << 20)
                    server.sendall(answer)  # and only then the answer
                    server.shutdown(socket.SHUT_WR)
                    assert client.makefile("rb").read() == answer
            assert proxy.finish() == (0, "", "")


def test_tcp_proxy_ends_one_side_when_the_other_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        with program("tcp_proxy.py", f"127.0.0.1:{listener.getsockname()[1]}", "0") as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port()), SECONDS) as client:
                server, _ = listener.accept()
                client.sendall(b"?")
                assert server.recv(1) == b"?"
                server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                server.close()  # a reset
                assert client.recv(1) == b""
            assert proxy.finish() == (0, "", "")


def test_tcp_proxy_says_that_nobody_answers() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        target = f"127.0.0.1:{bound.getsockname()[1]}"
        with program("tcp_proxy.py", target, "0") as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port()), SECONDS) as client:
                assert client.recv(1) == b""
            code, _, errors = proxy.finish()
    assert code == 0
    assert f"cannot reach {target}: " in errors and "refused" in errors


# -- ping --------------------------------------------------------------------------------------------------------------


def test_ping_asks_all_hosts_at_once() -> None:
    if not may_open_raw_sockets():
        pytest.skip("no CAP_NET_RAW here: run the tests as root")
    code, output, errors = run("ping.py", "-c", "3", "127.0.0.1", "127.0.0.2")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    for host in ("127.0.0.1", "127.0.0.2"):
        mine = [line for line in lines if line.startswith(f"{host}: ")]
        assert [re.sub(r"[\d.]+ ms$", "T", line) for line in mine] == [
            f"{host}: 64 bytes, sequence {sequence}, T" for sequence in (1, 2, 3)
        ]


WITHIN = """
ip link set lo up && echo "$1" >/proc/sys/net/ipv4/ping_group_range && shift &&
exec setpriv --inh-caps -net_raw --bounding-set -net_raw "$@"
"""


def within_a_namespace(groups: str) -> list[str]:
    """Words before a command that run it where the groups named may send echo requests, without CAP_NET_RAW."""
    words = ["unshare", "--net", "sh", "-c", WITHIN, "sh", groups]
    if not all(map(shutil.which, ("unshare", "ip", "setpriv"))) or subprocess.call(
        [*words, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        pytest.skip("no network namespace to be had here: run the tests as root, with unshare, ip and setpriv")
    return words


def test_ping_without_a_raw_socket_where_its_group_may() -> None:
    words = [sys.executable, str(EXAMPLES / "ping.py"), "-c", "2", "127.0.0.1", "127.0.0.2"]
    done = command(*within_a_namespace("0 65535"), *words, env=ENVIRONMENT)
    lines = [re.sub(r"[\d.]+ ms$", "T", line) for line in done.stdout.decode().splitlines()]
    assert sorted(lines) == [
        f"127.0.0.{host}: 64 bytes, sequence {sequence}, T" for host in (1, 2) for sequence in (1, 2)
    ]
    done = command(*within_a_namespace("1 0"), *words, code=2, env=ENVIRONMENT)  # nobody may
    assert b"CAP_NET_RAW" in done.stderr


def test_ping_names_the_privilege_it_lacks() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    if low <= os.getegid() <= high:
        pytest.skip("here every group, or this one, may ping (ping_group_range in icmp(7))")
    code, output, errors = run("ping.py", "127.0.0.1", **without_raw_sockets())
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert errors.startswith("ping: ") and "CAP_NET_RAW" in errors


# -- the protocol of lines ---------------------------------------------------------------------------------------------


def test_line_protocol() -> None:
    with program("line_protocol.py", "0") as server:
        port = server.port()
        with Line(port) as first, Line(port) as second:
            first.say("SET colour blue")
            assert first.hear() == "OK"
            second.say("GET colour")
            assert second.hear() == "OK blue"
            second.say("QUIT")
            assert (second.hear(), second.hear()) == ("OK", "")
        assert server.finish() == (0, "", "")


def test_line_protocols_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "test_line_protocol.py")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b\d+ passed", done.stdout)


# -- all of them -------------------------------------------------------------------------------------------------------


def test_each_example_says_how_to_run_it_and_is_run_here() -> None:
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for path in sorted(EXAMPLES.glob("*.py")):
        assert re.search(rf'"{path.stem}(\.py|:\w+)"', here), f"{path.name} is not run here"
        assert re.search(rf"    python .*examples/{path.name}", path.read_text()), f"how does one run {path.name}?"


def test_a_program_that_fails_is_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('it cannot start')\n")
    with program(broken) as it, pytest.raises(AssertionError, match="it cannot start"):
        it.port()
