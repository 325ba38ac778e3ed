"""``serve --user``: it binds and reads as root, and nothing of root's is left once there is code of others."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pwd
import random
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, SECONDS, Server, only_line, run

from jackfield.address import parse_address
from jackfield.cli.app import build_parser
from jackfield.cli.logs import LogFile
from jackfield.cli.privileges import Plan
from jackfield.supervisor.privileges import Privileges
from jackfield.supervisor.rights import Rights
from jackfield.tls import self_signed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux, and root, to give something up"
    ),
]

DOCS = Path(__file__).parents[2] / "docs"
NOBODY = pwd.getpwnam("nobody")
LOOPBACK = ["-b", "127.0.0.1:0"]
AS_NOBODY = ["--user", "nobody"]
NOTHING = {"user": None, "group": None, "umask": None, "no_new_privs": None, "allow_root": False, "log_file": None}
MODES = ["serial", "thread", "process", "green", "async"]

TARGET = '''
import os
from jackfield import AsyncRequestHandler, BaseRequestHandler

def status():
    with open("/proc/thread-self/status") as file:
        return file.read()

AT_IMPORT = status()

class Handler(BaseRequestHandler):
    """What it was when this was imported, and what it is; and the exit code of a shell that does what is asked."""
    def handle(self):
        self.request.sendall(f"{AT_IMPORT}\\0{status()}\\0".encode())
        while command := self.request.recv(1000).decode():
            self.request.sendall(b"%d" % os.spawnvp(os.P_WAIT, "sh", ["sh", "-c", command]))

class AsyncHandler(AsyncRequestHandler):
    async def handle(self):
        await self.request.sendall(f"{AT_IMPORT}\\0{status()}\\0".encode())
        await self.request.recv(1)
'''


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that others may read, unlike a test's own; ``target.py`` is in it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "target.py").write_text(TARGET)
        yield directory


@contextlib.contextmanager
def privileged_port() -> Iterator[int]:
    """A port that only root may bind, for one test alone (tests/ports.py)."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 1024:
        pytest.skip("every port is for everybody here (ip_unprivileged_port_start)")
    while True:
        number = random.SystemRandom().randrange(600, 1024)
        with socket.socket(socket.AF_UNIX) as claim, socket.socket() as probe:
            try:
                claim.bind(f"\0jackfield-tests-port-{number}")
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            probe.close()
            yield number
            return


@contextlib.contextmanager
def client_of(address: str) -> Iterator[socket.socket]:
    host, port = address.split("://")[1].rsplit(":", 1)
    with socket.create_connection((host, int(port)), SECONDS) as client:
        yield client


def received(client: socket.socket, parts: int) -> list[str]:
    """What comes, up to the NUL after so many parts."""
    data = b""
    while data.count(b"\0") < parts:
        more = client.recv(65536)
        assert more, data
        data += more
    return data.decode().split("\0")[:parts]


def statuses(pid: int) -> Iterator[str]:
    """Of every thread of a process, and of those that it has forked."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            yield (task / "status").read_text()
            for child in (task / "children").read_text().split():
                yield from statuses(int(child))


def has_nothing(status: str, *, no_new_privs: bool = True) -> bool:
    found = Rights.parse(status)
    ids = {*found.uids} == {NOBODY.pw_uid} and {*found.gids} == {NOBODY.pw_gid} and not found.groups
    return ids and not any(found.capabilities.values()) and found.no_new_privs == no_new_privs


def answers(address: str) -> bool:
    with client_of(address) as client:
        client.sendall(b"hello\n")
        return client.recv(100) == b"HELLO"


def complaint(*arguments: str, code: int, cwd: Path | None = None) -> str:
    done = run("serve", *arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (code, b""), done
    return only_line(done.stderr)


def as_nobody(*command: str) -> list[str]:
    """Such a command, without Python: it may be where only root can read it."""
    return ["setpriv", "--reuid", "nobody", "--regid", str(NOBODY.pw_gid), "--clear-groups", *command]


# --- the drop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_it_has_a_port_of_roots_and_nothing_else(mode: str, directory: Path) -> None:
    target = "target:AsyncHandler" if mode == "async" else "target:Handler"
    with privileged_port() as port:
        with Server(target, "-k", mode, "-b", f"127.0.0.1:{port}", *AS_NOBODY, cwd=directory) as server:
            with client_of(server.address) as client:
                at_import, now = received(client, 2)
                threads = [*statuses(server.process.pid)]
                assert len(threads) >= 2  # the loop's beside that which waits for signals
                for status in (at_import, now, *threads):
                    assert has_nothing(status), status
                client.shutdown(socket.SHUT_WR)
            assert server.end() == 0
    assert "Traceback" not in "\n".join(server.said)


def workers_of(pid: int) -> set[int]:
    return {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }


def test_workers_have_as_little_and_so_have_those_that_replace_them(directory: Path) -> None:
    with Server("target:Handler", "-w", "2", *LOOPBACK, *AS_NOBODY, cwd=directory) as server:
        first = workers_of(server.process.pid)
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        deadline = time.monotonic() + SECONDS
        while not (new := workers_of(server.process.pid) - first):
            assert time.monotonic() < deadline, "nobody replaces it"
            select.select([], [], [], 0.02)  # nothing tells of another process's children
        for status in statuses(server.process.pid):
            assert has_nothing(status), status
        with client_of(server.address) as client:
            assert all(map(has_nothing, received(client, 2)))
        assert len(new) == 1 and server.end() == 0


def test_without_the_flag_it_has(directory: Path) -> None:
    """The broken case of the test above; and root on loopback is served."""
    with Server("target:Handler", *LOOPBACK, cwd=directory) as server:
        with client_of(server.address) as client:
            assert not any(map(has_nothing, received(client, 2)))
        assert server.end() == 0


@pytest.mark.parametrize("words", [["target:Handler", "--allow-root"], []], ids=["said so", "no code of others"])
def test_root_on_loopback_is_not_told_without_need(words: list[str], directory: Path) -> None:
    with Server(*words, *LOOPBACK, cwd=directory) as server:
        assert not any("warning" in line for line in server.said)
        assert server.end() == 0


@pytest.mark.parametrize("permitted", [False, True])
def test_setuid_programs_give_nothing_unless_that_is_wanted(permitted: bool, directory: Path) -> None:
    program, secret = directory / "show", directory / "secret"
    shutil.copy(shutil.which("cat") or "", program)
    program.chmod(0o4755)
    secret.touch(0o600)
    command = f"{program} {secret} 2>/dev/null"
    if subprocess.run(as_nobody("sh", "-c", command), timeout=SECONDS, check=False).returncode:
        pytest.skip("setuid programs gain nothing on this file system anyway (nosuid)")
    words = ["--no-no-new-privs"] if permitted else []
    with Server("target:Handler", *LOOPBACK, *AS_NOBODY, *words, cwd=directory) as server:
        with client_of(server.address) as client:
            assert has_nothing(received(client, 2)[1], no_new_privs=not permitted)
            client.sendall(command.encode())
            assert (client.recv(100) == b"0") == permitted
        assert server.end() == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_echo_needs_no_file_any_more(mode: str, tmp_path: Path) -> None:
    """Every kind of thing that a server does late, where Python itself may be unreadable by then."""
    deny = tmp_path / "deny.txt"
    deny.write_text("192.0.2.1\n")
    words = [*LOOPBACK, "-b", "udp://127.0.0.1:0", "-b", f"unix:{tmp_path}/s", "--deny-file", str(deny)]
    with Server("-k", mode, *words, "--tls-self-signed", "--proxy-protocol", *AS_NOBODY) as server:
        assert answers_encrypted(server.address, None, b"PROXY TCP4 127.0.0.2 127.0.0.1 1 2\r\n")
        server.process.send_signal(signal.SIGHUP)
        server.read_until(lambda line: "still as it was" in line)
        assert answers_encrypted(server.address, None, b"PROXY UNKNOWN\r\n")
        with client_of(server.address) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.recv(100)
        assert server.end() == 0
    said = "\n".join(server.said)
    assert "Traceback" not in said and "Error" not in said


def answers_encrypted(address: str, certificate: str | None, before: bytes = b"") -> bool:
    context = ssl.create_default_context(cafile=certificate)
    if certificate is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with client_of(address) as plain:
        plain.sendall(before)
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"hello\n")
            return client.recv(100) == b"HELLO"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["of all", "of one address"])
def test_a_key_is_read_as_root_and_then_no_longer(own: bool, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    shutil.copy(self_signed().cert, key)
    key.chmod(0o600)
    words = ["-b", f"tls://127.0.0.1:0?cert={key}"] if own else [*LOOPBACK, "--tls-cert", str(key)]
    with Server(*words, *AS_NOBODY) as server:
        assert answers_encrypted(server.address, str(key))
        server.process.send_signal(signal.SIGHUP)
        line = server.read_until(lambda line: "still as it was" in line)
        assert f"{key} may not be read by this user: " in line
        assert line.endswith(f"(permission denied as user {NOBODY.pw_uid})")
        assert answers_encrypted(server.address, str(key))
        assert server.end() == 0


def test_a_list_that_may_not_be_read_again_is_told_in_one_line(tmp_path: Path) -> None:
    deny = tmp_path / "deny.txt"
    deny.write_text("192.0.2.1\n")
    with Server(*LOOPBACK, "--deny-file", str(deny), *AS_NOBODY) as server:
        server.process.send_signal(signal.SIGHUP)
        line = server.read_until(lambda line: "still as it was" in line)
        assert line.endswith(f"cannot read {deny}: Permission denied as user {NOBODY.pw_uid}")
        assert answers(server.address)
        assert server.end() == 0


def reloaded(server: Server, log: Path) -> str:
    """What the log has once a reload is in it."""
    before = log.read_text().count("nothing to read again") if log.exists() else 0
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + SECONDS
    while not log.exists() or log.read_text().count("nothing to read again") == before:
        assert time.monotonic() < deadline, "it has not logged"
        select.select([], [], [], 0.02)
    return log.read_text()


def owner_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def test_a_log_that_it_made_is_the_users_and_can_be_rotated(directory: Path) -> None:
    os.chown(directory, NOBODY.pw_uid, -1)
    log, moved = directory / "log", directory / "log.1"
    with Server(*LOOPBACK, "--log-file", str(log), "--umask", "027", *AS_NOBODY) as server:
        assert owner_of(log) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o640)
        log.rename(moved)
        reloaded(server, log)
        assert owner_of(log) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o640)
        assert "nothing to read again" not in moved.read_text()
        assert server.end() == 0


def test_where_the_log_cannot_be_opened_anew_the_old_one_is_gone_on_with(directory: Path) -> None:
    log, moved = directory / "log", directory / "log.1"
    with Server(*LOOPBACK, "--log-file", str(log), *AS_NOBODY) as server:
        log.rename(moved)
        for _ in range(2):
            reloaded(server, moved)
            assert answers(server.address)
        assert server.end() == 0
    assert moved.read_text().count("cannot be opened anew (Permission denied): going on in the old file") == 1
    assert not log.exists() and "Traceback" not in "\n".join(server.said)


def test_a_log_that_was_there_stays_whose_it_is(directory: Path) -> None:
    log = directory / "log"
    log.touch(0o600)
    with Server(*LOOPBACK, "--log-file", str(log), *AS_NOBODY) as server:
        assert owner_of(log) == (0, os.getegid(), 0o600)
        assert server.end() == 0


@pytest.mark.parametrize("planted", [None, "symbolic", "hard"])
def test_no_file_of_roots_is_given_away_by_a_link(planted: str | None, tmp_path: Path) -> None:
    """Somebody who writes in the log's directory was quicker than the start of the server."""
    path, precious = tmp_path / "log", tmp_path / "precious"
    precious.touch(0o600)
    plan = Plan(argparse.Namespace(**{**NOTHING, "user": "nobody", "log_file": str(path)}))
    if planted == "symbolic":
        path.symlink_to(precious)
    elif planted == "hard":
        path.hardlink_to(precious)
    handler = LogFile(path)
    logging.getLogger().addHandler(handler)
    try:
        plan._hand_over_log(Privileges.look_up("nobody"))
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert precious.stat().st_uid == 0
    assert path.stat().st_uid == (NOBODY.pw_uid if planted is None else 0)


def test_what_lies_in_the_working_directory_is_not_imported_as_root(directory: Path) -> None:
    """What is imported ahead of its time is not; the target, which comes later, may have it."""
    trap = "import os\nwith open('trap', 'a') as file:\n    file.write(str(os.geteuid()))\n"
    for name in ("tomllib", "target_too"):
        (directory / f"{name}.py").write_text(trap)
    with (directory / "target.py").open("a") as file:
        file.write("\nimport target_too\n")
    trapped = directory / "trap"
    trapped.touch()
    os.chown(trapped, NOBODY.pw_uid, -1)
    with Server("target:Handler", *LOOPBACK, *AS_NOBODY, cwd=directory) as server:
        assert server.end() == 0
    assert trapped.read_text() == str(NOBODY.pw_uid)


@pytest.mark.parametrize("words", [["--app-dir", "."], []])
def test_a_target_that_it_may_not_read_is_told_in_one_line(words: list[str], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "target.py").write_text(TARGET)
    done = run("serve", "target:Handler", *LOOPBACK, *words, *AS_NOBODY, cwd=closed)
    lines = [line for line in done.stderr.decode().splitlines() if "so nothing more is imported from there" not in line]
    assert (done.returncode, len(lines)) == (3, 1), done
    assert f"user nobody may not read {closed}, where TARGET is: name another --app-dir" in lines[0]


# --- who says nothing -------------------------------------------------------------------------------------------------


def test_nobody_serves_other_machines_as_root_without_saying_so(tmp_path: Path) -> None:
    words = ["-b", f"unix:{tmp_path}/s", "-b", ":0", "--log-file", f"{tmp_path}/log"]
    line = complaint(*words, code=2)
    assert line.endswith(
        "refusing to serve tcp://:0, which other machines can reach, as root: give that up with --user NAME, or say"
        " --allow-root"
    )
    assert not os.listdir(tmp_path)  # nothing was opened
    for more in (["--allow-root"], AS_NOBODY):
        with Server(*words, *more) as server:
            log = (tmp_path / "log").read_text()
            port = re.findall(r'"?tcp://\S+?:(\d+)', "\n".join([*server.said, log]))[0]
            assert answers(f"tcp://127.0.0.1:{port}")
            assert server.end() == 0


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "udp://:0", "192.0.2.1:9", "tls://:0", "[fe80::1%25lo]:9"])
def test_each_address_of_the_network_is_one(address: str) -> None:
    assert "which other machines can reach, as root" in complaint("-b", address, code=2)


@pytest.mark.parametrize(
    "address", ["9999", "127.0.0.5:9", "[::1]:9", "unix:s", "unix:@s", "udp://[::ffff:127.0.0.1]:9"]
)
def test_each_of_this_machine_is_none(address: str) -> None:
    Plan(argparse.Namespace(**NOTHING)).refuse_root([parse_address(address)])


def test_a_socket_of_somebody_elses_is_looked_at() -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        done = subprocess.run(
            [sys.executable, "-m", "jackfield", "serve", "-b", f"fd://{sock.fileno()}"],
            pass_fds=[sock.fileno()], capture_output=True, env=ENVIRONMENT, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert f"refusing to serve tcp://0.0.0.0:{sock.getsockname()[1]}, which" in only_line(done.stderr)


# --- what cannot be meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--user", "nobdy"], 3, "there is no user 'nobdy'; did you mean nobody?"),
        (["--user", "root"], 3, "user 'root' is root, who gives nothing up"),
        (["--user", "nobody", "--group", "dæmon"], 3, "there is no group 'dæmon'"),
        (["--group", "nogroup"], 2, "--group goes with --user: root in another group is still root"),
        (["--umask", "9"], 2, "--umask: '9' is no umask: write it in octal, e.g. 027"),
        (["--umask", "1777"], 2, "'1777' is no umask"),
        (["--umask", ""], 2, "'' is no umask"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    assert said in complaint("-b", f"unix:{tmp_path}/s", "--log-file", f"{tmp_path}/log", *words, code=code)
    assert not os.listdir(tmp_path)


def test_who_is_not_root_cannot_become_another() -> None:
    other = next(one.pw_name for one in pwd.getpwall() if one.pw_uid not in (0, NOBODY.pw_uid))
    # Not started by setpriv(1): Python may be where only root can read it.
    program = (
        "import sys; from jackfield.cli import app, privileges; privileges._import_all_of_it();"
        "from jackfield.supervisor.privileges import Privileges; Privileges.look_up('nobody').drop();"
        f"sys.exit(app.main(['serve', '-b', '127.0.0.1:0', '--user', {other!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=ENVIRONMENT, timeout=SECONDS, check=False
    )
    assert done.returncode == 3
    assert f"only root can become user {other} (CAP_SETUID, CAP_SETGID), and this is user" in only_line(done.stderr)


# --- what the page says -----------------------------------------------------------------------------------------------


def test_the_commands_and_the_flags_of_the_page_are_those_of_the_command() -> None:
    section = re.search(r"(?ms)^## Privileges$.*?(?=^## |\Z)", (DOCS / "running.md").read_text())
    assert section
    commands = re.findall(r"(?m)^jackfield (serve .*)$", section[0])
    assert commands
    parser, named = build_parser(["serve"])
    for command in commands:
        parser.parse_args(shlex.split(command))
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section[0]))
    assert flags <= set(named["serve"].flags())
    ours = next(group for group in named["serve"]._action_groups if group.title == "privileges")
    assert {flag for action in ours._group_actions for flag in action.option_strings} <= flags
