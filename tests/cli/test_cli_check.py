"""``check``: what serve would say, all of it at once, and nothing is left open."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Server, only_line, run

from jackfield.cli.configuration import keys_of_serve
from jackfield.tls import self_signed

pytestmark = pytest.mark.slow

APP = """
from jackfield import AsyncRequestHandler, BaseRequestHandler

class Plain(BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")

class Tuned(Plain):
    request_queue_size = 7
    max_threads = 3
    max_children = 4
    max_packet_size = 1400
    timeout = 90

class Hasty(Plain):
    timeout = 5

class Odd(Plain):
    max_threads = "many"

class Async(AsyncRequestHandler):
    async def handle(self):
        pass
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def problems(*words: str, cwd: Path) -> list[str]:
    """What is wrong, a line each."""
    done = run("check", *words, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, b""), done
    lines = done.stderr.decode().splitlines()
    assert lines and all(line.startswith("jackfield check: ") for line in lines), lines
    return [line.removeprefix("jackfield check: ") for line in lines]


def printed(*words: str, cwd: Path) -> dict[str, dict[str, Any]]:
    """Each key of the only server, and of the process: its value and where that came from."""
    done = run("check", "--print", "--json", "--no-bind", *words, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, b""), done
    shown = json.loads(done.stdout)
    (server,) = shown["servers"]
    return {**shown["process"], **server}


def test_all_is_well_in_one_line(app: Path) -> None:
    done = run("check", "app:Plain", "-b", "127.0.0.1:0", "-b", f"unix:{app}/s", cwd=app)
    assert (done.returncode, done.stderr) == (0, b"")
    assert only_line(done.stdout) == "jackfield check: all is well: 1 server, no file"
    assert not (app / "s").exists()
    (app / "jackfield.toml").write_text("[[server]]\nbind = '127.0.0.1:0'\n[[server]]\nbind = 'udp://127.0.0.1:0'\n")
    assert only_line(run("check", cwd=app).stdout) == "jackfield check: all is well: 2 servers, jackfield.toml"
    assert run("check", "-q", cwd=app).stdout == b""


def test_everything_that_is_wrong_is_told_at_once(app: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (app / "jackfield.toml").write_text(f"""
            max_conections = 5
            log_file = "nowhere/log"
            [[server]]
            name = "a"
            bind = ["127.0.0.1:{port}", "unix:nowhere/s", "tls://127.0.0.1:0?cert=nothing.pem"]
            allow_file = "no-list.txt"
            proxy_allow_from = "10.0.0.0/8"
            tls_cert = "no-cert.pem"
            [[server]]
            name = "b"
            bind = "127.0.0.1:0"
            handler = "app:Plane"
            max_connections = 9999999
            [[server]]
            name = "c"
            bind = "127.0.0.1:0"
            handler = "app:Async"
            mode = "thread"
            """)
        found = problems(cwd=app)
    wanted = [
        ":2: there is no key max_conections; did you mean max_connections?",
        ":3: cannot write to nowhere/log: there is no nowhere",
        ":7: --allow-file: cannot read no-list.txt",
        ":8: --proxy-allow-from goes with --proxy-protocol",
        ":9: no such file: no-cert.pem",
        f":6: cannot listen on tcp://127.0.0.1:{port}",
        ":6: cannot listen on unix:nowhere/s",
        ":6: cannot listen on tls://127.0.0.1:0?cert=nothing.pem: no such file: nothing.pem",
        ":14: 9999999 connections need more descriptors",
        ":13: there is no 'Plane' in app",
        ":19: -k thread cannot run app:Async",
    ]
    for line in wanted:
        assert any(f"jackfield.toml{line}" in problem for problem in found), (line, found)
    assert len(found) == len(wanted)


def test_a_limit_that_cannot_hold_does_not_keep_the_rest_from_being_looked_at(app: Path) -> None:
    (found,) = problems("app:Plane", "-b", "127.0.0.1:0", cwd=app)
    assert found.startswith("there is no 'Plane' in app")
    two = problems("app:Plane", "-b", "127.0.0.1:0", "--max-connections", "9999999", cwd=app)
    assert len(two) == 2 and two[0].startswith("--max-connections: 9999999 connections need more descriptors")


def test_what_check_lets_pass_serve_takes(app: Path) -> None:
    """And the other way round: what serve says of the first that is wrong is the first that check says."""
    good = ["app:Plain", "-b", "127.0.0.1:0", "--max-connections", "5", "-k", "thread"]
    assert run("check", *good, cwd=app).returncode == 0
    with Server(*good, cwd=app) as server:
        assert server.end() == 0
    for bad in (["--tls-key", "x"], ["--loop", "uvloop", "-k", "thread"], ["-b", "unix:nowhere/s"], ["--allow", "x"],
                ["--group", "nogroup"], ["--factory"]):  # fmt: skip
        target = [] if "--factory" in bad else ["app:Plain"]
        words = [*target, *bad, *([] if "-b" in bad else ["-b", "127.0.0.1:0"])]
        served = run("serve", "--allow-root", *words, cwd=app)
        assert served.returncode in (2, 3)
        said = only_line(served.stderr).removeprefix("jackfield serve: ")
        assert problems("--allow-root", *words, cwd=app)[0] == said


def test_an_address_in_use_is_left_alone_if_asked(app: Path) -> None:
    with Server("-b", "127.0.0.1:0") as server:
        words = ["-b", server.address]
        (found,) = problems(*words, cwd=app)
        assert found.startswith(f"cannot listen on {server.address}")
        assert run("check", "--no-bind", *words, cwd=app).returncode == 0
        assert server.end() == 0
    assert run("check", *words, cwd=app).returncode == 0


def test_a_certificate_is_looked_at_without_binding(app: Path) -> None:
    good = self_signed(["localhost"]).cert
    assert run("check", "--no-bind", "-b", f"tls://127.0.0.1:0?cert={good}", cwd=app).returncode == 0
    (app / "bad.pem").write_text("rubbish")
    (found,) = problems("--no-bind", "-b", "tls://127.0.0.1:0?cert=bad.pem", cwd=app)
    assert "cert=bad.pem: bad.pem has not a certificate in PEM" in found


def test_a_target_that_raises_shows_where(app: Path) -> None:
    (app / "broken.py").write_text("raise KeyError('on purpose')\n")
    done = run("check", "broken:Handler", "--no-bind", cwd=app)
    assert done.returncode == 2 and b"Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == b"jackfield check: importing broken failed: KeyError: 'on purpose'"


def test_what_is_printed_fed_back_is_the_same(app: Path) -> None:
    """Through the program itself, each value with its origin as a comment."""
    words = ["app:Plain", "-b", "127.0.0.1:0", "-b", "tls://127.0.0.1:0?cert=x.pem", "--idle-timeout", "0",
             "--accept-rate", "10/m,5", "--umask", "027", "--deny", "192.0.2.1,10.0.0.0/8", "--name", 'a "quoted" ü'
             ]  # fmt: skip
    (app / "x.pem").write_bytes(Path(self_signed(["localhost"]).cert).read_bytes())
    (app / "jackfield.toml").write_text("max_connections = 77\n")
    first = run("check", "--print", *words, cwd=app)
    assert (first.returncode, first.stderr) == (0, b"")
    text = first.stdout.decode()
    assert tomllib.loads(text)["umask"] == "027"
    lines = {line.partition(" =")[0]: line for line in text.splitlines()}
    assert lines["max_connections"].split() == ["max_connections", "=", "77", "#", "jackfield.toml:1"]
    assert (
        lines["handler"].endswith("# TARGET")
        and lines["idle_timeout"].split() == "idle_timeout = 0 # --idle-timeout".split()
    )
    assert lines["# backlog"].endswith("# default: 65535")
    before = printed(*words, cwd=app)
    (app / "jackfield.toml").write_text(text)
    after = printed(cwd=app)
    assert {key: said["value"] for key, said in before.items()} == {key: said["value"] for key, said in after.items()}
    assert after["deny"]["origin"].startswith("jackfield.toml:")


def test_every_key_is_printed(app: Path) -> None:
    _, keys = keys_of_serve()
    assert set(printed(cwd=app)) == {key.name for key in keys}
    lines = run("check", "--print", "--no-bind", cwd=app).stdout.decode().splitlines()
    names = [line.removeprefix("# ").partition(" =")[0] for line in lines]
    assert names == [key.name for key in keys if key.in_files]


def test_secrets_are_shown_as_the_files_that_they_are_in(app: Path) -> None:
    pair = self_signed(["localhost"]).cert
    (app / "password.txt").write_text("hunter2\n")
    done = run("check", "--print", "--no-bind", "--tls-cert", str(pair), "--tls-password-file", "password.txt", cwd=app)
    assert done.returncode == 0
    assert b'tls_password_file = "password.txt"' in done.stdout
    assert b"hunter2" not in done.stdout and b"BEGIN" not in done.stdout


def test_what_toml_cannot_have_is_not_printed(app: Path) -> None:
    import subprocess

    words = [os.fsencode(word) for word in (*PROGRAM, "check", "--no-bind", "--print", "--name")]
    done = subprocess.run(
        [*words, b"a\xff"], env=ENVIRONMENT, cwd=app, capture_output=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert only_line(done.stderr) == "jackfield check: name: it has bytes that are no UTF-8, which TOML cannot have"


@pytest.mark.parametrize("mode", ["thread", "process", "green"])
def test_what_a_class_says_of_itself_goes_before_the_defaults_only(mode: str, app: Path) -> None:
    shown = printed("app:Tuned", "-k", mode, cwd=app)
    for key, value, attribute in (("backlog", 7, "request_queue_size"), ("max_datagram", 1400, "max_packet_size"),
                                  ("idle_timeout", 90, "timeout")):  # fmt: skip
        assert shown[key] == {"value": value, "origin": f"app:Tuned.{attribute}"}
    assert shown["max_threads"]["value"] == (3 if mode == "thread" else None)
    assert shown["max_children"]["value"] == (4 if mode == "process" else None)
    (app / "jackfield.toml").write_text("backlog = 9\n")
    assert printed("app:Tuned", cwd=app)["backlog"] == {"value": 9, "origin": "jackfield.toml:1"}
    assert printed("app:Tuned", "--backlog", "11", cwd=app)["backlog"] == {"value": 11, "origin": "--backlog"}


def test_a_class_that_waits_less_sees_to_that_itself(app: Path) -> None:
    assert printed("app:Hasty", cwd=app)["idle_timeout"] == {"value": None, "origin": "default"}
    (found,) = problems("app:Odd", "--no-bind", cwd=app)
    assert found.startswith("app:Odd.max_threads: ")


def test_a_class_has_the_queue_and_the_bound_that_it_says(app: Path) -> None:
    """listen(2) took it: Linux shows the longest queue of a listener where it shows what is in the queue of others."""
    with Server("app:Tuned", "-k", "thread", "-b", "127.0.0.1:0", cwd=app) as server:
        assert "3 threads at once" in "\n".join(server.said)
        assert _longest_queue(server.address) == 7
        assert server.end() == 0
    with Server("app:Plain", "-k", "thread", "-b", "127.0.0.1:0", cwd=app) as server:
        assert _longest_queue(server.address) != 7
        assert server.end() == 0


def _longest_queue(address: str) -> int:
    """inet_diag(7), sock_diag(7): of a listening socket idiag_wqueue is its backlog."""
    import struct

    port = int(address.rsplit(":", 1)[1])
    listening = 1 << 10  # TCP_LISTEN
    request = struct.pack("=IHHIIBBBBIHH16s16sI8s", 72, 20, 0x301, 1, 0, socket.AF_INET, socket.IPPROTO_TCP, 0, 0,
                          listening, 0, 0, b"", b"", 0, b"")  # fmt: skip
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as sock:
        sock.settimeout(SECONDS)
        sock.sendto(request, (0, 0))
        while True:
            data = sock.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (2, 3):
                    raise AssertionError(f"no listener has port {port}")
                sport = struct.unpack_from(">H", data, 16 + 4)[0]
                if sport == port:
                    return int(struct.unpack_from("=I", data, 16 + 4 + 48 + 8)[0])
                data = data[(length + 3) & ~3 :]


def test_json_goes_with_print() -> None:
    assert only_line(run("check", "--json").stderr) == "jackfield check: --json goes with --print"
    assert only_line(run("check", "--prnt").stderr) == "jackfield check: unknown flag --prnt; did you mean --print?"


def test_the_environment_reaches_the_program(app: Path) -> None:
    import subprocess

    done = subprocess.run(
        [*PROGRAM, "check", "--no-bind", "--print"],
        env={**ENVIRONMENT, "JACKFIELD_MAX_CONNECTIONS": "33", "JACKFIELD_HANDLER": "app:Plain"},
        cwd=app, capture_output=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert b"# JACKFIELD_MAX_CONNECTIONS" in done.stdout and b"# JACKFIELD_HANDLER" in done.stdout
    assert os.listdir(app).count("jackfield.toml") == 0
