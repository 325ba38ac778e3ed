"""``ctl``, the control socket, the admin endpoint and the access log of a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import cli_support
import pytest
from cli_support import SECONDS, Server, only_line, run, start_and_run

pytestmark = pytest.mark.slow

LOOPBACK = ["-b", "127.0.0.1:0"]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "ctl"


def connect(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def ctl(control: Path, *words: str) -> str:
    done = run("ctl", "-s", str(control), *words)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def refused(*words: str) -> tuple[int, str]:
    done = run("ctl", *words)
    assert done.stdout == b""
    return done.returncode, only_line(done.stderr)


def test_a_server_is_asked_and_told(control: Path) -> None:
    with Server(*LOOPBACK, "--control-socket", str(control)) as server, connect(server) as client:
        assert control.stat().st_mode & 0o777 == 0o600
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        status = ctl(control, "status")
        assert re.search(r"clients +1 of \d+ connections, 1 accepted, 0 refused", status)
        told = json.loads(ctl(control, "--json", "status"))
        assert (told["state"], told["servers"][0]["received"]) == ("ready", 5)
        head, row = ctl(control, "conns").splitlines()
        assert head.split() == ["ID", "PEER", "LISTENER", "AGE", "IN", "OUT", "WAITS", "TLS"]
        assert "{}:{}".format(*client.getsockname()) in row
        assert ctl(control, "workers") == "one process serves alone, without workers\n"
        assert re.search(r"max_connections +77\n", ctl(control, "limits", "max_connections=77", "idle_timeout=off"))
        assert re.search(r"idle_timeout +off\n", ctl(control, "limits"))
        assert ctl(control, "ban", "192.0.2.1", "--for", "5m") == "192.0.2.1 is banned for 300 s\n"
        assert "192.0.2.1" in ctl(control, "bans")
        ctl(control, "unban", "192.0.2.1")
        assert ctl(control, "bans") == "nobody is banned\n"
        assert "control_socket" in ctl(control, "config")
        assert "Upper" in ctl(control, "stacks")
        assert ctl(control, "errors") == "no errors\n"
        assert ctl(control, "log-level", "debug") == "debug and above are logged\n"
        assert ctl(control, "drain") == "accepts nobody now: ['suspended']\n"
        assert ctl(control, "resume") == "accepts again: ['serving']\n"
        assert "nothing to read again" in ctl(control, "reload")
        assert ctl(control, "kick", row.split()[0]).startswith("closed 127.0.0.1:")
        assert client.recv(100) == b""
        assert ctl(control, "stop") == "stopping\n"
        assert server.wait() == 0
    assert not control.exists()


def test_what_cannot_be_is_one_line(control: Path, tmp_path: Path) -> None:
    with Server(*LOOPBACK, "--control-socket", str(control)) as server:
        where = ["-s", str(control)]
        for words, code, said in (
            (["kick", "9"], 1, "there is no connection 9 any more"),
            (["kick", "x"], 2, "no connection is called 'x'"),
            (["kick", "7:0:1"], 1, "there is no worker 7"),
            (["scale", "3"], 1, "scale is for servers with workers"),
            (["scale", "0"], 2, "not a whole number from 1 to 128"),
            (["limits", "max_line"], 2, "write NAME=VALUE"),
            (["limits", "max_lin=1"], 1, "there is no limit 'max_lin'"),
            (["ban", "127.0.0.1"], 1, "exempt from bans"),
            (["ban", "nobody"], 1, "nobody"),
            (["stat"], 2, "did you mean status?"),
        ):
            got, line = refused(*where, *words)
            assert got == code and said in line, line
        assert server.end() == 0
    for there in (control, tmp_path / "nothing", "127.0.0.1:1"):
        code, line = refused("-s", str(there), "status")
        assert code == 1 and "is the server still there?" in line
    assert refused("-s", "a b:c", "status")[0] in (1, 2)


def test_the_only_server_of_a_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being told; of several it is asked which, and one that was killed is none."""
    monkeypatch.setitem(cli_support.ENVIRONMENT, "XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "jackfield"

    def found(*words: str) -> tuple[int, str, str]:
        done = start_and_run("ctl", *words)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    assert found("status")[0] == 2
    with Server(*LOOPBACK) as server:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in folder.iterdir()] == ["echo.ctl"]
        assert found("status")[1].startswith("echo  ready")
        with Server(*LOOPBACK) as other:
            names = sorted(path.name for path in folder.iterdir())
            assert names == [f"echo-{other.process.pid}.ctl", "echo.ctl"]
            code, _, line = found("status")
            assert code == 2 and all(name in line for name in names)
            assert other.end(signal.SIGKILL) == -signal.SIGKILL
        assert found("status")[0] == 0
        assert server.end() == 0
    with Server(*LOOPBACK, "--control-socket", "off") as server:
        assert found("status")[0] == 2
        assert server.end() == 0


def test_the_admin_address_is_told_and_serves(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    with Server(*LOOPBACK, "--admin", "127.0.0.1:0", "--admin-token-file", str(token)) as server:
        (page,) = re.findall(r"(?m)^  admin +(\S+)", "\n".join(server.said))
        with urllib.request.urlopen(f"{page}readyz", timeout=SECONDS) as answer:
            assert answer.read() == b"ready\n"
        where = ["-s", page.removeprefix("http://").rstrip("/")]
        assert refused(*where, "status") == (1, refused(*where, "status")[1])
        done = run("ctl", *where, "--token-file", str(token), "status")
        assert done.returncode == 0 and done.stdout.startswith(b"echo  ready")
        assert server.end() == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--admin", "127.0.0.1:nix"], 2, "127.0.0.1:nix"),
        (["--admin", ":0"], 3, "can be reached from other machines"),
        (["--admin-token-file", "nothing"], 3, "No such file"),
        (["--control-socket", "/nowhere/at/all"], 3, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], code: int, said: str) -> None:
    done = start_and_run("serve", *LOOPBACK, *words)
    assert done.returncode == code
    assert said in only_line(done.stderr)


@pytest.mark.parametrize("mode", ["thread", "process", "green", "async"])
def test_the_access_log_has_a_line_for_each_connection(mode: str) -> None:
    with Server(*LOOPBACK, "-k", mode, "--access-log") as server:
        with connect(server) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
            name = "{}:{}".format(*client.getsockname())
        server.read_until(lambda line: " info jackfield.access: " in line)
        assert server.end() == 0
    (line,) = [line for line in server.said if "jackfield.access" in line]
    assert re.search(rf"{re.escape(name)} tcp://127.0.0.1:\d+ #\d+ peer_\w+, \d in, \d out, \d+\.\d\d\d s$", line)


def test_the_access_log_as_json_has_fields() -> None:
    with Server(*LOOPBACK, "--access-log", "--log-format", "json") as server:
        connect(server).close()
        line = server.read_until(lambda line: "jackfield.access" in line)
        assert server.end(signal.SIGTERM) == 0
    told = json.loads(line)
    assert (told["event"], told["received"], told["sent"]) == ("ended", 0, 0)
    assert told["reason"] in ("peer_closed", "peer_reset")


def test_nobody_else_can_open_the_control_socket(control: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    with Server(*LOOPBACK, "--control-socket", str(control)) as server:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(control))
            except PermissionError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert server.end() == 0
