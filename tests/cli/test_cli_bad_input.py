"""Bad input to the command: one line that says what to do, the right exit code, nothing left behind or disturbed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from cli_support import Server, Upper, accepting, answer, only_line, run, serving

from ports import closed_port

HANDLER = """
class Handler:
    def __init__(self, request, client_address, server): ...
    def handle(self): ...
class Empty: ...
class Async:
    async def handle(self): ...
def make(): return Handler
def make_nothing(): return None
def fail(): raise RuntimeError("cannot make it")
instance = Handler(1, 2, 3)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(HANDLER)
    (tmp_path / "broken.py").write_text("import app\nraise KeyError('broken on purpose')\n")
    (tmp_path / "syntax.py").write_text("class Handler(:\n")
    (tmp_path / "needs.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    return tmp_path


def complaint(*arguments: str, code: int, cwd: Path | None = None, data: bytes = b"") -> str:
    """The one line on stderr; stdout is empty and the exit code as expected."""
    done = run(*arguments, cwd=cwd, data=data)
    assert (done.returncode, done.stdout) == (code, b""), done
    line = only_line(done.stderr)
    assert line.startswith(("jackfield: ", "jackfield serve: ", "jackfield connect: ")), line
    return line


# --- 2: it cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("serve --bnd :9999", "did you mean --bind?"),
        ("serve --port 9999", "use --bind :PORT"),
        ("serve --port=9999", "use --bind :PORT"),
        ("serve --host localhost", "use --bind HOST:PORT"),
        ("serve --max-thread 3", "did you mean --max-threads?"),
        ("serve --frobnicate", "'jackfield serve --help' lists them all"),
        ("serve -k gren", "did you mean green?"),
        ("serve -k", "expected one argument"),
        ("serve --loop trio", "There is: auto, asyncio, uvloop"),
        ("serve --log-level loud", "There is: debug, info"),
        ("serve --log-format xml", "There is: text, json"),
        ("serve --max-threads 0", "whole number of at least 1"),
        ("serve --max-threads many", "whole number of at least 1"),
        ("serve --max-threads 4", "goes with -k thread, and this is -k green"),
        ("serve -k thread --max-children 4", "goes with -k process, and this is -k thread"),
        ("serve -k thread --loop asyncio", "goes with -k green and -k async, and this is -k thread"),
        ("serve --graceful-timeout soon", "write e.g. 500ms, 5s"),
        ("serve --factory", "goes with a TARGET"),
        ("serve app:Handler other:Handler -b 127.0.0.1:0", "one argument too many: 'other:Handler'"),
        ("serve app", "write app:Handler"),
        ("serve app:", "write app:Handler"),
        ("serve app.py:Handler", "here app:Handler"),
        ("serve ./app.py", "here app:Handler"),
        ("serve app:a-b", "module:Class"),
        ("serve app:Handler --app-dir nowhere -b 127.0.0.1:0", "--app-dir nowhere is no directory"),
        ("serve app:Async -k green -b 127.0.0.1:0", "use -k async"),
        ("serve app:Handler -k async -b 127.0.0.1:0", "use -k green"),
        ("serve -b tcp://host", "tcp://host:9999"),
        ("serve -b tcp://::1:9999", "tcp://[::1]:9999"),
        ("serve -b localhost:http", "localhost:9999"),
        ("serve -b :99999", "65535"),
        ("serve -b tpc://localhost:9999", "tcp://localhost:9999"),
        ("connect", "jackfield connect localhost:9999"),
        ("connect tcp://host", "tcp://host:9999"),
        ("connect :0", "port 0 is for a server"),
        ("connect --tiemout 3s :9999", "did you mean --timeout?"),
        ("connect :9999 --port 3", "write it into the address"),
        ("connect :9999 --bind :3", "that is for serve"),
        ("connect :9999 --send-only --recv-only", "choose one"),
        ("connect :9999 --expect (", "no regular expression"),
        ("connect :9999 --send \\q", "no escape \\q"),
        ("connect :9999 --allow-broadcast", "goes with udp://"),
        ("connect :9999 --source unix:/x", "HOST, :PORT or HOST:PORT"),
        ("connect unix:/x --source :3", "is for unixgram:"),
        ("connect unixgram:/x --source unix:/y", "a unixgram:PATH of its own"),
        ("connect :9999 -o nowhere/file", "-o nowhere/file: No such file or directory"),
        ("serv", "did you mean serve?"),
        ("frobnicate", "There is: serve, connect"),
        ("--versoin", "did you mean --version?"),
        ("--json", "goes with --version"),
        ("--color blue serve", "There is: auto, always, never"),
    ],
)
def test_what_cannot_be_meant_is_2(arguments: str, wanted: str, app: Path) -> None:
    assert wanted in complaint(*arguments.split(), code=2, cwd=app)


def test_no_command_shows_the_help() -> None:
    done = run()
    assert done.returncode == 2
    assert b"usage: jackfield" in done.stderr


# --- 3: it could not start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("ap:Handler", "there is no module 'ap'"),
        ("ap:Handler", "did you mean app?"),
        ("nothing.like.it:Handler", "there is no module 'nothing'"),
        ("app:Handlr", "did you mean Handler?"),
        ("app:Zzz", "it has: Handler, Async"),
        ("app:Handler.inner", "there is no 'inner' in app.Handler"),
        ("app:Empty", "give it a method handle()"),
        ("app:instance", "is a Handler, not a handler class"),
        ("app:make", "add --factory"),
    ],
)
def test_a_target_that_is_not_there_is_3(target: str, wanted: str, app: Path) -> None:
    line = complaint("serve", target, "-b", "127.0.0.1:0", code=3, cwd=app)
    assert wanted in line


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("app:make_nothing", "what app:make_nothing returned is a NoneType, not a handler class"),
        ("app:Handler", "leave --factory out"),
        ("app:instance", "wants a function"),
    ],
)
def test_a_factory_that_is_none_is_3(target: str, wanted: str, app: Path) -> None:
    assert wanted in complaint("serve", target, "--factory", "-b", "127.0.0.1:0", code=3, cwd=app)


@pytest.mark.parametrize(
    ("words", "last_line", "shown"),
    [
        (["broken:Handler"], "importing broken failed: KeyError: 'broken on purpose'", 'broken.py", line 2'),
        (["syntax:Handler"], "importing syntax failed: SyntaxError", 'syntax.py", line 1'),
        (["needs:Handler"], "importing needs failed: ModuleNotFoundError", 'needs.py", line 1'),
        (["leaves:Handler"], "importing leaves failed: SystemExit: 0", 'leaves.py", line 1'),
        (["app:fail", "--factory"], "calling app:fail failed: RuntimeError: cannot make it", "in fail"),
    ],
)
def test_an_exception_in_the_users_code_shows_the_users_traceback(
    words: list[str], last_line: str, shown: str, app: Path
) -> None:
    done = run("serve", *words, "-b", "127.0.0.1:0", cwd=app)
    assert done.returncode == 3
    said = done.stderr.decode()
    assert last_line in said.splitlines()[-1]
    assert shown in said
    # From the user's own first line on: our frames and the import system's are of no use to anybody.
    assert "jackfield/cli" not in said and "importlib" not in said


def test_verbose_shows_the_traceback_of_our_own(app: Path) -> None:
    done = run("-v", "serve", "app:Handlr", "-b", "127.0.0.1:0", cwd=app)
    assert done.returncode == 3
    assert "jackfield/cli/target.py" in done.stderr.decode()


def test_a_port_in_use_is_3_and_its_server_goes_on() -> None:
    with Server("-b", "127.0.0.1:0") as server:
        port = server.address.rsplit(":", 1)[1]
        line = complaint("serve", "-b", f"127.0.0.1:{port}", code=3)
        assert port in line and "in use" in line
        assert run("connect", server.address, data=b"still there").stdout == b"STILL THERE"
        assert server.end() == 0


def test_a_port_in_use_is_told_before_the_target_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('loaded')\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        complaint("serve", "loud:Handler", "-b", f"127.0.0.1:{listener.getsockname()[1]}", code=3, cwd=tmp_path)


@pytest.mark.parametrize("scheme", ["unix", "unixgram"])
def test_a_path_of_a_live_server_is_3_and_that_server_goes_on(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("-b", f"{scheme}:{path}") as server:
        before = os.stat(path).st_ino
        assert "a server is using it" in complaint("serve", "-b", f"{scheme}:{path}", code=3)
        assert os.stat(path).st_ino == before
        assert answer(server.address, data=b"still there") == b"STILL THERE"
        assert server.end() == 0


def test_a_path_that_is_no_socket_is_3_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    complaint("serve", "-b", f"unix:{path}", code=3)
    assert path.read_text() == "data"


def test_the_path_of_a_dead_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Server("-b", f"unix:{path}") as server:
        assert run("connect", server.address, data=b"hello").stdout == b"HELLO"
        assert server.end() == 0


def test_when_one_of_several_addresses_fails_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        complaint("serve", "-b", f"unix:{path}", "-b", f"127.0.0.1:{port}", code=3)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root is permitted to")
def test_a_privileged_port_is_3() -> None:
    line = complaint("serve", "-b", "127.0.0.1:80", code=3)
    assert "1024" in line


def test_a_path_in_no_directory_is_3() -> None:
    assert "/nowhere" in complaint("serve", "-b", "unix:/nowhere/at/all/s", code=3)


def test_a_path_that_is_too_long_is_no_address(tmp_path: Path) -> None:
    line = complaint("serve", "-b", f"unix:{tmp_path}/{'x' * 120}", code=2)
    assert "107" in line


def test_an_address_of_another_machine_is_3() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    assert "192.0.2.1" in complaint("serve", "-b", "192.0.2.1:9999", "--allow-root", code=3)


def test_a_descriptor_that_is_none_is_3() -> None:
    assert "no descriptor 77 is open" in complaint("serve", "-b", "fd://77", code=3)


def test_a_log_file_that_cannot_be_written_is_3() -> None:
    assert "--log-file" in complaint("serve", "-b", "127.0.0.1:0", "--log-file", "/nowhere/log", code=3)


# --- 1: the network ---------------------------------------------------------------------------------------------------


def test_nobody_listens_is_1(tmp_path: Path) -> None:
    with closed_port() as port:
        assert "nobody listens on tcp://127.0.0.1:" in complaint("connect", f"127.0.0.1:{port}", code=1)
    with closed_port(socket.SOCK_DGRAM) as port:
        assert "nobody listens on udp://" in complaint("connect", f"udp://127.0.0.1:{port}", code=1, data=b"x")
    assert f"there is no socket {tmp_path}/s" in complaint("connect", f"unix:{tmp_path}/s", code=1)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert "nobody listens on unix:" in complaint("connect", f"unix:{tmp_path}/dead", code=1)


def test_no_such_host_is_1() -> None:
    # RFC 6761: no such name ever resolves.
    assert "cannot find the host 'nobody.invalid'" in complaint("connect", "nobody.invalid:9999", code=1)


def test_a_path_that_is_no_socket_is_1_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert "nobody listens" in complaint("connect", f"unix:{path}", code=1)
    assert path.read_text() == "data"


def test_the_wrong_kind_of_unix_socket_is_1_and_the_right_one_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with serving(Upper, "unix", path):
        assert f"try unix:{path}" in complaint("connect", f"unixgram:{path}", code=1)
    assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_unix_datagram_client_that_fails_leaves_no_socket_behind(tmp_path: Path) -> None:
    own = tmp_path / "own"
    complaint("connect", f"unixgram:{tmp_path}/nobody", "--source", f"unixgram:{own}", code=1)
    assert not own.exists()


def test_a_source_in_use_is_1_and_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("data")
    path = str(tmp_path / "s")
    with serving(Upper, "unix", path):
        line = complaint("connect", f"unixgram:{path}", "--source", f"unixgram:{own}", code=1)
    assert "choose another --source" in line
    assert own.read_text() == "data"


def test_a_datagram_that_no_buffer_holds_is_1() -> None:
    # --send is one datagram; input from a pipe would be cut into several.
    with closed_port(socket.SOCK_DGRAM) as port:
        done = run("connect", f"udp://127.0.0.1:{port}", "--send", "x" * 120_000)
    assert done.returncode == 1
    assert "too large for one datagram" in only_line(done.stderr)


# --- tests of tests ---------------------------------------------------------------------------------------------------


def test_two_lines_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="one line"):
        only_line(b"one\ntwo\n")


def test_a_server_that_was_disturbed_would_be_noticed() -> None:
    with accepting(lambda connection: connection.sendall(b"")) as address:
        assert run("connect", address, data=b"still there").stdout != b"STILL THERE"
