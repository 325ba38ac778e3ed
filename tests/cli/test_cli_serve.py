"""``serve``: every mode over every kind of socket, the banner, signals, exit codes, logs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Server, answer, only_line, run

from jackfield.tls import self_signed

pytestmark = pytest.mark.slow

MODES = ["serial", "thread", "process", "green", "async"]
LOOPBACK = ["-b", "127.0.0.1:0"]

HANDLERS = '''
import signal, time
from jackfield import socketserver

class Shout(socketserver.BaseRequestHandler):
    """Speaks first, so that the test knows when it runs, and leaves only with its peer."""
    def handle(self):
        self.request.sendall(b"here!")
        while data := self.request.recv(1024):
            self.request.sendall(data + b"!")

class AsyncShout(socketserver.AsyncRequestHandler):
    async def handle(self):
        while data := await self.request.recv(1024):
            await self.request.sendall(data + b"!")

class Stuck(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"here!")
        time.sleep(1000)

class Raises(socketserver.BaseRequestHandler):
    def handle(self):
        raise ValueError(self.request.recv(1024).decode())

class Plain:
    class Inner:
        """No base class of ours, and not at the top of the module."""
        def __init__(self, request, client_address, server):
            request.sendall(b"plain")
        def handle(self):
            pass

def make():
    return Shout

thing = 3
'''


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(HANDLERS)
    return tmp_path


def connect(address: str, timeout: float = SECONDS) -> socket.socket:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=timeout)


def wait_refused(address: str) -> None:
    """Until nobody listens there any more; a stop is asked for first and done a moment later."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            connect(address).close()
        except OSError:
            return
    raise AssertionError(f"{address} still listens")


# --- the upper-case echo ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_upper_case_echo_in_each_mode_over_each_kind_of_socket(mode: str, tmp_path: Path) -> None:
    stream, datagram = tmp_path / "s", tmp_path / "d"
    addresses = ["127.0.0.1:0", "tcp://[::1]:0", "udp://127.0.0.1:0", f"unix:{stream}", f"unixgram:{datagram}"]
    with Server("-k", mode, *[word for address in addresses for word in ("-b", address)]) as server:
        assert [address.split(":")[0] for address in server.addresses] == ["tcp", "tcp", "udp", "unix", "unixgram"]
        for address in server.addresses:
            expected = b"HELLO, WORLD\n" if address.startswith(("udp", "unixgram")) else b"HELLO, WORLD"
            assert answer(address, data=b"Hello, World\n") == expected, address
        assert server.end() == 0
    assert not stream.exists() and not datagram.exists()
    assert "Traceback" not in "\n".join(server.said)


def test_the_echo_goes_on_with_each_line_and_prints_nothing_for_it() -> None:
    with Server(*LOOPBACK) as server:
        with connect(server.address) as client:
            for line in (b"one", b"two", b"three"):
                client.sendall(line + b"\n")
                assert client.recv(100) == line.upper()
            client.sendall(b" \n")  # nothing is left once it is stripped: the end
            assert client.recv(100) == b""
        assert server.end() == 0
    # Whether the server has seen that the client has left before it is told to stop, nobody can say.
    records = [line for line in server.said[4:] if "may finish" not in line]
    assert len(records) == 1
    assert re.search(r"stopped: served 1 connection and 0 datagrams in \d+ s$", records[0])


def test_green_is_the_mode_when_none_is_named() -> None:
    with Server(*LOOPBACK) as server:
        assert server.said[0].split("  ")[1:3] == ["upper-case echo", "green"]
        assert server.end() == 0


def test_several_clients_at_once_are_served_in_every_mode_but_serial() -> None:
    for mode in MODES[1:]:
        with Server("-k", mode, *LOOPBACK) as server:
            clients = [connect(server.address) for _ in range(10)]
            for number, client in enumerate(clients):
                client.sendall(b"client %d\n" % number)
            for number, client in enumerate(clients):
                assert client.recv(100) == b"CLIENT %d" % number
                client.close()
            assert server.end() == 0


@pytest.mark.parametrize("mode", ["green", "async"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_loop(mode: str, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="the uvloop extra is not installed")
    with Server("-k", mode, "--loop", loop, *LOOPBACK) as server:
        assert run("connect", server.address, data=b"hello").stdout == b"HELLO"
        assert server.end() == 0


def test_a_bare_port_is_dual_stack() -> None:
    with Server("-b", ":0", "--allow-root") as server:
        port = server.address.rsplit(":", 1)[1]
        for host in ("127.0.0.1", "[::1]"):
            assert run("connect", f"{host}:{port}", data=b"hello").stdout == b"HELLO"
        assert server.end() == 0


def test_an_inherited_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Server("-b", f"fd://{listener.fileno()}", pass_fds=[listener.fileno()]) as server:
            host, port = listener.getsockname()
            assert server.addresses == [f"tcp://{host}:{port}"]
            assert run("connect", server.address, data=b"hello").stdout == b"HELLO"
            assert server.end() == 0


# --- the target -------------------------------------------------------------------------------------------------------


def test_a_handler_of_the_users(app: Path) -> None:
    with Server("app:Shout", *LOOPBACK, cwd=app) as server:
        assert server.said[0].split("  ")[1:3] == ["app:Shout", "thread"]
        assert run("connect", server.address, data=b"hello").stdout == b"here!hello!"
        assert server.end() == 0


def test_a_coroutine_handler_is_run_as_one(app: Path) -> None:
    with Server("app:AsyncShout", *LOOPBACK, cwd=app) as server:
        assert server.said[0].split("  ")[2] == "async"
        assert run("connect", server.address, data=b"hello").stdout == b"hello!"
        assert server.end() == 0


def test_app_dir_factory_and_nested_attribute(app: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with Server("app:make", "--factory", "--app-dir", str(app), *LOOPBACK, cwd=elsewhere) as server:
        assert run("connect", server.address, data=b"hello").stdout == b"here!hello!"
        assert server.end() == 0
    with Server("app:Plain.Inner", "--app-dir", str(app), *LOOPBACK, cwd=elsewhere) as server:
        assert run("connect", server.address, "--recv-only").stdout == b"plain"
        assert server.end() == 0


# --- banner and logs --------------------------------------------------------------------------------------------------


def test_banner() -> None:
    with Server("-k", "thread", "--name", "shop", "--graceful-timeout", "5s", *LOOPBACK) as server:
        pid = server.process.pid
        assert server.end() == 0
    port = server.address.rsplit(":", 1)[1]
    python = ".".join(map(str, sys.version_info[:3]))
    patterns = [
        rf"jackfield \d+\.\d+\.\d+\S*  upper-case echo  thread  Python {python}\S*  shop",
        rf"  listening  tcp://127\.0\.0\.1:{port}",
        rf"  limits     \d+ threads at once · graceful 5s +pid {pid}",
        rf"Ready in \d+ ms\. Ctrl-C to stop\.   Try: jackfield connect 127\.0\.0\.1:{port}",
    ]
    assert len(server.said) == len(patterns) + 1
    for pattern, line in zip(patterns, server.said, strict=False):
        assert re.fullmatch(pattern, line), line


def test_what_the_banner_says_to_try_works(tmp_path: Path) -> None:
    for address in (":0", "[::]:0", "0.0.0.0:0", "[::1]:0", "udp://:0", f"unix:{tmp_path}/s"):
        with Server("-b", address, "--allow-root") as server:
            command, *words = server.ready.split("Try: jackfield ")[1].split()
            assert command == "connect"
            assert answer(*words, data=b"hello") == b"HELLO", words
            assert server.end() == 0


def test_open_to_the_world_is_warned_of() -> None:
    with Server("-b", ":0", "-b", "udp://0.0.0.0:0", "--allow-root") as server:
        warnings = [line for line in server.said if " warning " in line]
        assert len(warnings) == 2
        assert all("open to every machine" in line and "nothing is encrypted" in line for line in warnings)
        assert server.end() == 0


def test_with_tls_only_what_is_plain_is_called_so() -> None:
    with Server("-b", ":0", "-b", "udp://0.0.0.0:0", "--tls-self-signed", "--allow-root") as server:
        plain = [line for line in server.said if "open to every machine" in line and "nothing is encrypted" in line]
        assert len(plain) == 1 and "udp://" in plain[0]
        assert server.end() == 0


@pytest.fixture(scope="module")
def certificate() -> str:
    return os.fspath(self_signed().cert)


def test_a_listener_with_its_own_certificate(certificate: str) -> None:
    """Only what is plain is said to be so, and the echo is there by both."""
    with Server("-b", ":0", "-b", f"tls://:0?cert={certificate}", "--allow-root") as server:
        plain, encrypted = server.addresses
        assert plain.startswith("tcp://") and encrypted.startswith("tls://")
        warnings = [line for line in server.said if "open to every machine" in line]
        assert ["nothing is encrypted" in line for line in warnings] == [True, False]
        context = ssl.create_default_context(cafile=certificate)
        with connect(f"127.0.0.1:{encrypted.rsplit(':', 1)[1]}") as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"HELLO"
        assert answer(f"127.0.0.1:{plain.rsplit(':', 1)[1]}", data=b"hello") == b"HELLO"
        assert server.end() == 0


def test_the_banner_says_what_is_encrypted(certificate: str) -> None:
    with Server(*LOOPBACK, "--tls-cert", certificate) as server:
        assert server.said[1].endswith(f"{server.address}  TLS")
        assert server.ready.endswith(f"Try: openssl s_client -connect {server.address.removeprefix('tcp://')}")
        assert server.end() == 0
    with Server(*LOOPBACK, "-b", "tls://127.0.0.1:0", "--tls-cert", certificate, "--log-format", "json") as server:
        said = json.loads(server.ready)
        assert said["listeners"] == server.addresses and said["encrypted"] == [server.addresses[1]]
        assert server.end() == 0


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("tls://127.0.0.1:0", 3, "no certificate; add ?cert=FILE&key=FILE"),
        ("tls://127.0.0.1:0?cert=there-is-none.pem", 3, "no such file: there-is-none.pem"),
        ("tcp://127.0.0.1:0?nodely=1", 2, "write e.g. tcp://127.0.0.1:0?nodelay=1"),
        ("127.0.0.1:9?cert=a.pem", 2, "write e.g. tls://127.0.0.1:9?cert=a.pem"),
    ],
)
def test_a_listener_that_cannot_be(address: str, code: int, said: str) -> None:
    done = run("serve", "-b", address)
    assert done.returncode == code
    assert said in only_line(done.stderr)


def test_a_server_for_this_machine_only_is_not_warned_of(tmp_path: Path) -> None:
    with Server("-b", "127.0.0.1:0", "-b", "[::1]:0", "-b", f"unix:{tmp_path}/s") as server:
        assert "warning" not in "\n".join(server.said)
        assert server.end() == 0


def test_json_logs() -> None:
    with Server("--log-format", "json", "-b", "127.0.0.1:0", "-b", "udp://127.0.0.1:0") as server:
        assert run("connect", server.address, data=b"hello").stdout == b"HELLO"
        assert server.end() == 0
        pid = server.process.pid
    ready, stopped = (json.loads(line) for line in server.said)
    assert ready["event"] == "ready" and ready["level"] == "info" and ready["pid"] == pid
    assert [listener.split(":")[0] for listener in ready["listeners"]] == ["tcp", "udp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ready["time"])
    assert stopped["message"].startswith("stopped: served 1 connection and 0 datagrams in")


def test_quiet_says_nothing() -> None:
    free = run("connect", "127.0.0.1:1", "-q")
    assert free.returncode == 1  # quiet or not, what is wrong is said
    assert only_line(free.stderr)
    address = f"unix:@jackfield-test-quiet-{os.getpid()}"
    read, write = os.pipe()
    with subprocess.Popen(
        [*PROGRAM, "-q", "serve", "-b", address],
        stderr=write,
        env=ENVIRONMENT,
    ) as process:
        os.close(write)
        while run("connect", address, "-z").returncode:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        with os.fdopen(read, "rb") as said:
            assert said.read() == b""


def test_log_file_that_is_rotated(app: Path, tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    with Server("app:Raises", "--log-file", str(log), *LOOPBACK, cwd=app) as server:
        run("connect", server.address, data=b"first")
        log.rename(old)
        run("connect", server.address, data=b"second")
        assert server.end() == 0
    assert "ready" in old.read_text() and "ValueError: first" in old.read_text()
    assert "ValueError: second" in log.read_text()
    assert len(server.said) == 4  # the banner


def test_what_a_peer_sends_cannot_forge_a_record(app: Path) -> None:
    forged = "x\n2026-01-01 00:00:00.000 info jackfield.serve: all is well\x1b[2J"
    with Server("app:Raises", *LOOPBACK, cwd=app) as server:
        run("connect", server.address, data=forged.encode())
        server.read_until(lambda line: "all is well" in line)
        assert server.end() == 0
    (line,) = [line for line in server.said if "all is well" in line]
    assert line.startswith("    ") and line.endswith("\\x1b[2J")


def test_log_level(app: Path) -> None:
    with Server("app:Raises", "--log-level", "critical", *LOOPBACK, cwd=app) as server:
        run("connect", server.address, data=b"first")
        assert server.end() == 0
    assert len(server.said) == 4


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_asked_to_stop_and_stopped_is_0(mode: str, number: int) -> None:
    with Server("-k", mode, *LOOPBACK) as server:
        assert server.end(number) == 0
    assert "Traceback" not in "\n".join(server.said)


def patient(mode: str) -> list[str]:
    """Serve lines, and wait for the rest of one that has begun."""
    handler = "patient:AsyncLines" if mode == "async" else "patient:Lines"
    return [handler, "--app-dir", str(Path(__file__).parent), "-k", mode]


def begin(client: socket.socket) -> None:
    """A line, and half of the next."""
    client.sendall(b"one\nhalf")
    assert client.recv(100) == b"ONE\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_may_finish(mode: str) -> None:
    with Server(*patient(mode), *LOOPBACK) as server, connect(server.address) as client:
        begin(client)
        server.process.send_signal(signal.SIGTERM)
        server.read_until(lambda line: "1 connection may finish within 30s" in line)
        client.sendall(b"way\n")
        assert client.recv(100) == b"HALFWAY\n"
        if mode != "serial":  # where the one handler has the thread, and nobody is there to close the listener
            wait_refused(server.address)
        assert client.recv(100) == b"", "it is told then"
        assert server.wait() == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_graceful_timeout_cuts_and_is_0_all_the_same(mode: str) -> None:
    with Server(*patient(mode), "--graceful-timeout", "300ms", *LOOPBACK) as server, connect(server.address) as client:
        begin(client)
        assert server.end() == 0
        assert client.recv(100) == b""
    cut = [
        line
        for line in server.said
        if " warning jackfield.server: " in line and re.search(r"cuts? 1 of its handlers", line)
    ]
    assert len(cut) == 1, server.said


@pytest.mark.parametrize("mode", MODES)
def test_a_second_control_c_is_at_once_and_130(mode: str) -> None:
    with Server(*patient(mode), *LOOPBACK) as server, connect(server.address) as client:
        begin(client)
        server.process.send_signal(signal.SIGINT)
        server.read_until(lambda line: "may finish" in line)
        assert server.insist(signal.SIGINT) == 130


def test_a_signal_that_is_told_twice_is_one_wish() -> None:
    """`timeout -s INT` signals its child, and then the whole group, the child among it."""
    with Server(*patient("green"), *LOOPBACK, start_new_session=True) as server, connect(server.address) as client:
        begin(client)
        os.kill(server.process.pid, signal.SIGINT)
        os.killpg(server.process.pid, signal.SIGINT)
        server.read_until(lambda line: "may finish" in line)
        client.sendall(b"way\n")
        assert client.recv(100) == b"HALFWAY\n"
        assert server.wait() == 0
    assert not any("at once" in line and "SIGINT" in line for line in server.said)


def test_a_second_term_is_at_once_and_0() -> None:
    with Server(*patient("green"), *LOOPBACK) as server, connect(server.address) as client:
        begin(client)
        server.process.send_signal(signal.SIGTERM)
        server.read_until(lambda line: "may finish" in line)
        assert server.insist(signal.SIGTERM) == 0


def test_it_serves_though_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """A terminal may hang up, and a pipe's reader go away, in the midst of the banner."""
    reading, writing = os.pipe()
    os.close(reading)
    path = tmp_path / "s"
    with subprocess.Popen([*PROGRAM, "serve", "-b", f"unix:{path}"], stderr=writing, env=ENVIRONMENT) as process:
        os.close(writing)
        try:
            deadline = time.monotonic() + SECONDS
            while not path.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)  # nothing tells: that is the point
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(SECONDS)
                client.connect(str(path))
                for _ in range(3):
                    client.sendall(b"hello")
                    assert client.recv(10) == b"HELLO"
                    time.sleep(0.1)
        finally:
            process.terminate()


def test_quit_is_at_once() -> None:
    with Server(*LOOPBACK) as server, connect(server.address) as client:
        client.sendall(b"one")
        assert client.recv(100) == b"ONE"
        assert server.end(signal.SIGQUIT) == 0


@pytest.mark.parametrize("mode", ["serial", "thread", "process", "green"])
def test_a_handler_that_never_returns_is_left_behind(mode: str, app: Path) -> None:
    """Nothing can interrupt it, be it on a thread of its own or on the loop; Ctrl-C twice ends the process anyhow."""
    # A fifth of the patience that both have, the server with its handlers and the command with the server.
    (app / "hasty.py").write_text(
        "import jackfield.cli.stopping, jackfield.server\n"
        "from app import Stuck\n"
        "jackfield.serving.drain.CUT_SECONDS /= 5\n"
        "jackfield.cli.stopping.GIVE_UP /= 5\n"
    )
    socket_file = app / "s"
    with (
        Server("hasty:Stuck", "-k", mode, "-b", f"unix:{socket_file}", cwd=app) as server,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(SECONDS)
        client.connect(str(socket_file))
        assert client.recv(5, socket.MSG_WAITALL) == b"here!"
        server.process.send_signal(signal.SIGINT)
        server.read_until(lambda line: "may finish" in line)
        assert server.insist(signal.SIGINT) == 130
    assert not socket_file.exists()


def test_sigint_ignored_by_the_shell_is_taken_all_the_same() -> None:
    """A background job of a non-interactive shell inherits SIGINT as ignored (POSIX)."""
    with Server(*LOOPBACK, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) as server:
        assert server.end(signal.SIGINT) == 0


def test_a_crash_is_1_and_its_traceback_is_logged(app: Path) -> None:
    """What cannot happen, made to happen by the user's module: the loop that serves raises."""
    (app / "crash.py").write_text(
        "from app import Shout\n"
        "from jackfield.serving import Service\n"
        "def attend(*_): raise ZeroDivisionError('made to happen')\n"
        "Service.attend = attend\n"
    )
    socket_file = app / "s"
    with Server("crash:Shout", "-b", f"unix:{socket_file}", cwd=app) as server:
        assert server.wait() == 1
    assert any(" critical jackfield.server: " in line for line in server.said)
    assert any("ZeroDivisionError: made to happen" in line for line in server.said)
    assert not socket_file.exists()


def test_a_stop_during_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """Bind comes first, so there is a socket file while the user's module is being imported."""
    socket_file = tmp_path / "s"
    (tmp_path / "slow.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(1000)\n")
    with subprocess.Popen(
        [*PROGRAM, "serve", "slow:Handler", "-b", f"unix:{socket_file}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"importing\n"
        assert socket_file.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        assert process.stderr.read() == b""
    assert not socket_file.exists()


def test_control_c_at_a_terminal_lets_the_children_of_process_mode_finish() -> None:
    """The terminal signals the whole process group, and so each child as well."""
    with (
        Server(*patient("process"), *LOOPBACK, start_new_session=True) as server,
        connect(server.address) as client,
    ):
        begin(client)
        os.killpg(server.process.pid, signal.SIGINT)
        server.read_until(lambda line: "may finish" in line)
        client.sendall(b"way\n")
        assert client.recv(100) == b"HALFWAY\n"
        assert client.recv(100) == b"", "it is told then"
        assert server.wait() == 0
