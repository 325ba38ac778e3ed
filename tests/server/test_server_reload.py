"""What is in files is read again while the server serves: by a call, and by SIGHUP to what serve() runs."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from native_support import MODES, SOON, TCP, AsyncEcho, dial, echo, is_over, leave, until

import jackfield
from jackfield import MisuseError, Server
from jackfield.admission import PeerList
from jackfield.limits import Limits
from jackfield.proxyheader import ProxyHeader, encode
from jackfield.serving import ProxyRule, Reload
from jackfield.signals import Reloads
from jackfield.tls import TLS, ServerTLS, self_signed

EVERYBODY = "127.0.0.0/8\n"
NOBODY = "# nobody\n"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "bad.txt"
    file.write_text(NOBODY)
    return file


def denying(file: Path, **more: Any) -> Limits:
    return Limits(deny=PeerList.from_file(file), **more)


def answers(client: Any) -> bool:
    client.sendall(b"hello")
    return bool(client.recv(10) == b"HELLO")


def is_served(server: Server) -> bool:
    """Whether a new client is."""
    with contextlib.closing(dial(server)) as client:
        try:
            return answers(client)
        except ConnectionError:
            return False
        finally:
            leave(client)


# --- by a call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "serial"])
def test_a_new_list_holds_for_those_who_come_and_ends_nobody(
    mode: str, bad: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Server(echo(mode), TCP, mode=mode, limits=denying(bad)) as server:
        with contextlib.closing(dial(server)) as client:
            assert answers(client)
            bad.write_text(EVERYBODY)
            assert is_served(server)  # written alone it is nothing
            assert server.reload() == Reload(read=(f"{bad} (1 entry)",))
            assert not is_served(server)
            assert answers(client)
            bad.write_text(NOBODY)
            server.reload()
            assert is_served(server)
            leave(client)
    said = [record for record in caplog.records if "read again" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO", "INFO"]
    assert said[0].getMessage() == f"{server.name}: read again: {bad} (1 entry)"


def test_every_list_that_is_from_a_file_is_read_once(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("allow", "deny", "exempt", "proxies")}
    for file in files.values():
        file.write_text("192.0.2.1\n")
    lists = {name: PeerList.from_file(file, also=["192.0.2.77"]) for name, file in files.items()}
    rule = ProxyRule(allow_from=lists.pop("proxies"))
    server = Server(echo("thread"), TCP, mode="thread", proxy_protocol=rule, limits=Limits(**lists, idle_timeout=7.0))
    for file in files.values():
        file.write_text("192.0.2.1\n192.0.2.2\n127.0.0.1\n")
    result = server.reload()
    assert sorted(result.read) == sorted(f"{file} (4 entries)" for file in files.values())
    expected = PeerList(["192.0.2.77", "192.0.2.1", "192.0.2.2", "127.0.0.1"])
    assert (server.limits.allow, server.limits.exempt) == (expected, expected)
    assert server.limits.idle_timeout == 7.0
    server.limits = server.limits.replace(allow=None, deny=None)  # of this program's own accord
    with server:
        # The rule that was read before there were listeners is that of the listeners.
        with contextlib.closing(dial(server)) as client:
            client.sendall(encode(ProxyHeader.of(("192.0.2.9", 1), ("192.0.2.8", 1))) + b"hello")
            assert client.recv(10) == b"HELLO"
        files["proxies"].write_text("192.0.2.1\n")
        assert len(server.reload().read) == 2, "what is not in force any more is not read any more"
        assert server.limits.allow is None
        with contextlib.closing(dial(server)) as client:
            assert is_over(client)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a line": (lambda file: file.write_text("10.0.0.0/8\n10.0.0.1/8\n"), "bad.txt:2: a host where a network ends"),
    "gone": (lambda file: file.unlink(), "cannot read .*bad.txt: No such file or directory"),
    "a directory": (lambda file: (file.unlink(), file.mkdir()), "cannot read .*bad.txt: Is a directory"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_wrong_leaves_the_list_and_the_others_are_read(
    what: str, bad: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, wanted = WRONG[what]
    bad.write_text(EVERYBODY)
    trusted = tmp_path / "trusted.txt"
    trusted.write_text("")
    limits = denying(bad, exempt=PeerList.from_file(trusted))
    with Server(echo("thread"), TCP, mode="thread", limits=limits) as server:
        make(bad)
        trusted.write_text("192.0.2.1\n")
        with caplog.at_level(logging.INFO):
            result = server.reload()
        assert result.read == (f"{trusted} (1 entry)",)
        assert len(result.failed) == 1
        assert server.limits.exempt == PeerList(["192.0.2.1"])
        assert not is_served(server)
    (record,) = [record for record in caplog.records if record.name == "jackfield.server"][:1]
    assert record.levelname == "ERROR"
    assert "\n" not in record.getMessage()
    assert re.search(wanted, record.getMessage())


def test_a_server_without_files_says_that_there_are_none() -> None:
    server = Server(echo("thread"), TCP, mode="thread")
    before = server.limits
    assert str(server.reload()).startswith("nothing to read again")
    assert server.limits is before


@pytest.fixture(scope="module")
def certificates() -> list[TLS]:
    # Of different names in the first place: of two issuers of one name OpenSSL 3.0 tries the first alone.
    return [self_signed(), self_signed(("another", "localhost"))]


def serial_number(client: ssl.SSLSocket) -> str:
    return str(client.getpeercert()["serialNumber"])  # type: ignore[index]


@contextlib.contextmanager
def spoken(server: Server, trusted: Path) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(trusted))
    with contextlib.closing(dial(server)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            yield client
            leave(client)


@pytest.mark.parametrize("mode", ["thread", "process", "green", "async"])
@pytest.mark.parametrize("given", [TLS, lambda path: ServerTLS(TLS(path))], ids=["TLS", "ServerTLS"])
def test_a_new_certificate_is_for_those_who_come(
    mode: str, given: Callable[[Path], Any], certificates: list[TLS], tmp_path: Path
) -> None:
    old, new = (Path(one.cert) for one in certificates)
    served, both = tmp_path / "served.pem", tmp_path / "both.pem"
    shutil.copy(old, served)
    both.write_text(old.read_text() + new.read_text())
    with Server(echo(mode), TCP, mode=mode, tls=given(served)) as server, spoken(server, both) as first:
        before = serial_number(first)
        shutil.copy(new, served)
        assert server.reload().failed == ()
        with spoken(server, both) as second:
            assert serial_number(second) != before
            assert answers(second)
        served.write_text("rubbish")
        (problem,) = server.reload().failed
        assert "served.pem has not a certificate in PEM" in problem
        with spoken(server, both) as third:
            assert serial_number(third) != before
        assert answers(first)


def test_in_a_coroutine_it_is_offloaded(bad: Path) -> None:
    async def main() -> None:
        async with Server(AsyncEcho, TCP, limits=denying(bad)) as server:
            with pytest.raises(MisuseError, match=r"await jackfield\.offload"):
                server.reload()
            assert (await jackfield.offload(server.reload)).read

    asyncio.run(main())


def test_in_a_green_thread_the_others_go_on(bad: Path, tmp_path: Path) -> None:
    """The file is one that nobody writes to yet: reading it waits."""

    def main() -> None:
        with Server(echo("green"), TCP, mode="green", limits=denying(bad)) as server:
            pipe = slow_in_place_of(bad)
            reading = jackfield.spawn(server.reload)
            with jackfield.connect(server.addresses[0], SOON) as client:
                assert answers(client)
                jackfield.offload(write_to, pipe, EVERYBODY)
                assert reading.result() == Reload(read=(f"{bad} (1 entry)",))
                assert answers(client)

    jackfield.run(main)


def slow_in_place_of(file: Path) -> Path:
    """A named pipe in place of the file: whoever opens it for reading waits for one who opens it for writing."""
    pipe = file.with_suffix(".pipe")
    os.mkfifo(pipe)
    pipe.rename(file)
    return file


def write_to(pipe: Path, text: str) -> None:
    """Once somebody reads it: until then it cannot be opened so (fifo(7): ENXIO)."""
    opened: list[int] = []

    def open_it() -> list[int]:
        with contextlib.suppress(OSError):
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return opened

    until(open_it)
    with open(opened[0], "w") as file:
        file.write(text)


# --- how often ------------------------------------------------------------------------------------------------------


class Counted:
    """A reload that can be held up."""

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[threading.Thread] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self) -> None:
        self.count += 1
        self.threads.add(threading.current_thread())
        assert self.go.wait(SOON)


def test_however_many_ask_meanwhile_one_more_is_enough() -> None:
    reload = Counted()
    reload.go.clear()
    reloads = Reloads(reload, rest=0.0)
    reloads.ask()
    until(lambda: reload.count == 1)
    for _ in range(199):
        reloads.ask()
    reload.go.set()
    until(lambda: reload.count == 2 and reloads._thread is None)
    reloads.ask()
    until(lambda: reload.count == 3)
    assert threading.current_thread() not in reload.threads
    reloads.close()


def test_after_each_it_rests() -> None:
    """For longer than this test takes; and a close does not wait for the end of that."""
    reload = Counted()
    reloads = Reloads(reload, rest=3600.0)
    for _ in range(200):
        reloads.ask()
    until(lambda: reload.count == 1)
    for _ in range(200):
        reloads.ask()
    reloads.close()
    assert reloads._thread is None and reload.count <= 2
    reloads.ask()
    assert reloads._thread is None, "it is closed"


def test_one_that_fails_is_told_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = iter([RuntimeError("no luck"), None])
    done: list[None] = []

    def reload() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        done.append(None)

    reloads = Reloads(reload, rest=0.0)
    reloads.ask()
    until(lambda: reloads._thread is None)
    reloads.ask()
    until(lambda: done)
    reloads.close()
    assert [record.exc_info is not None for record in caplog.records] == [True]


# --- by a signal ----------------------------------------------------------------------------------------------------

PROGRAM = """
import logging, signal, sys
import jackfield
from jackfield.admission import PeerList
from jackfield.limits import Limits

class Echo(jackfield.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data.upper())

class AsyncEcho(jackfield.AsyncRequestHandler):
    async def handle(self):
        while data := await self.request.recv(100):
            await self.request.sendall(data.upper())

mode, file, own = sys.argv[1:]
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
if own == "own":
    signal.signal(signal.SIGHUP, lambda *_: logging.info("heard"))
before = signal.getsignal(signal.SIGHUP)
jackfield.serve(AsyncEcho if mode == "async" else Echo, "tcp://127.0.0.1:0", mode=mode, name="echo",
                limits=Limits(deny=PeerList.from_file(file)))
assert signal.getsignal(signal.SIGHUP) == before
"""


class Program:
    """A program that calls serve(), with a list in ``file``."""

    def __init__(self, mode: str, file: Path, own: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, mode, str(file), own], stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.port = int(self.line("listening on").rpartition(":")[2])

    def line(self, wanted: str) -> str:
        """The next line that it says, which has to be the one that is wanted."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert wanted in line, line
        return line

    def client(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), SOON)

    def serves(self) -> bool:
        with contextlib.closing(self.client()) as client:
            try:
                return answers(client)
            except ConnectionError:
                return False
            finally:
                leave(client)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> str:
        """What it has said until it ended by itself, when it was asked to."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=SOON)
        assert self.process.returncode == 0, rest
        return rest


@pytest.mark.parametrize("mode", MODES)
def test_sighup_reads_again(mode: str, bad: Path) -> None:
    with Program(mode, bad) as program:
        assert program.serves()
        with contextlib.closing(program.client()) as client:
            assert answers(client)
            if mode == "serial":
                leave(client)  # there its handler has the thread that heeds signals
            bad.write_text(EVERYBODY)
            os.killpg(program.process.pid, signal.SIGHUP)  # to the processes of connections as well
            program.line("INFO echo: read again: ")
            assert not program.serves()
            if mode != "serial":
                assert answers(client)
            leave(client)
        assert program.end() == ""


@pytest.mark.parametrize("mode", ["thread", "green", "async"])
def test_a_file_that_is_slow_to_read_stops_nobody(mode: str, bad: Path) -> None:
    with Program(mode, bad) as program, contextlib.closing(program.client()) as client:
        slow_in_place_of(bad)
        program.process.send_signal(signal.SIGHUP)
        for _ in range(20):
            assert answers(client)
        assert program.serves()
        write_to(bad, EVERYBODY)
        program.line("INFO echo: read again: ")
        assert answers(client)
        assert not program.serves()
        leave(client)
        assert program.end() == ""


def test_a_program_that_has_a_handler_of_its_own_keeps_it(bad: Path) -> None:
    with Program("thread", bad, "own") as program:
        bad.write_text(EVERYBODY)
        program.process.send_signal(signal.SIGHUP)
        program.line("INFO heard")
        assert program.serves()
        assert program.end() == ""


# --- a list and its file --------------------------------------------------------------------------------------------


def test_a_list_knows_its_file(bad: Path) -> None:
    peers = PeerList.from_file(bad, also=["192.0.2.1", "uid:7"])
    assert list(peers) == ["192.0.2.1", "uid:7"]
    bad.write_text("\n10.0.0.0/8 # ours\n")
    again = peers.reread()
    assert list(again) == ["192.0.2.1", "uid:7", "10.0.0.0/8"]
    assert again == PeerList(again) and hash(again) == hash(PeerList(again))
    assert again.path == peers.path == str(bad)
    assert list(peers) == ["192.0.2.1", "uid:7"], "a list never changes"
    for other in (pickle.loads(pickle.dumps(again)), copy.deepcopy(again)):
        assert list(other.reread()) == list(again)
    bad.write_text("# of entries beside it the lines know nothing\n010.0.0.1\n")
    with pytest.raises(ValueError, match=r"bad\.txt:2: no address"):
        again.reread()
    with pytest.raises(ValueError, match="no address and no network: ''"):
        PeerList.from_file(bad, also=[""])


def test_a_list_of_no_file_is_what_it_is() -> None:
    peers = PeerList(["192.0.2.1"])
    assert peers.path is None and peers.reread() is peers
