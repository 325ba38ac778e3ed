"""Unix paths: taken only where nobody is, whole from the first moment, and given back only if still ours."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import select
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from jackfield.address import Address
from jackfield.door import Listener, clear_stale_unix_path, open_listeners
from jackfield.door import unixpath as module
from jackfield.errors import StartError

linux = pytest.mark.skipif(not os.path.exists("/proc/sys/net"), reason="what Linux's kernel does")
KINDS = {"unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM, "unixpacket": socket.SOCK_SEQPACKET}
each_kind = pytest.mark.parametrize("scheme", KINDS)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def listen(target: Any, stack: ExitStack, **options: Any) -> Listener:
    (listener,) = open_listeners(target, **{"socket_class": socket.socket, **options})
    stack.callback(listener.close)
    return listener


def reason(target: Any, **options: Any) -> str:
    with pytest.raises(StartError) as caught:
        open_listeners(target, **{"socket_class": socket.socket, **options})
    text = str(caught.value)
    assert "\n" not in text and "Errno" not in text and text.startswith("cannot listen on ")
    return text


def make_stale(path: str, scheme: str = "unix") -> int:
    """The file of a server that died; its inode."""
    with socket.socket(socket.AF_UNIX, KINDS[scheme]) as dead:
        dead.bind(path)
    return os.lstat(path).st_ino


def serves(path: str, listener: Listener) -> bool:
    """Whether a client that goes to ``path`` reaches this listener."""
    with socket.socket(socket.AF_UNIX, listener.socket.type) as client:
        client.connect(path)
        if listener.is_datagram:
            client.send(b"hello")
            assert select.select([listener], [], [], 5)[0]
            return listener.socket.recv(9) == b"hello"
        connection, _ = listener.socket.accept()
        with connection:
            client.sendall(b"hello")
            return connection.recv(9) == b"hello"


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def alone(path: str) -> bool:
    """Nothing but the socket lies in its directory: no temporary name, no lock file."""
    return os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


# --- a new path -------------------------------------------------------------------------------------------------------


@each_kind
def test_a_new_path(scheme: str, path: str, stack: ExitStack) -> None:
    listener = listen(f"{scheme}:{path}", stack)
    assert listener.location == f"{scheme}:{path}"
    assert listener.is_datagram == (scheme == "unixgram")
    assert not os.get_blocking(listener.fileno()) and not os.get_inheritable(listener.fileno())
    assert serves(path, listener) and alone(path)
    listener.close()
    listener.close()
    assert not os.path.lexists(path)


@each_kind
@pytest.mark.usefixtures("wide_umask")
def test_the_mode_is_the_one_asked_for_whatever_the_umask(scheme: str, path: str, stack: ExitStack) -> None:
    listen(f"{scheme}:{path}", stack).close()
    assert mode_of_while_open(f"{scheme}:{path}", path, stack) == 0o660
    assert mode_of_while_open(f"{scheme}:{path}?mode=600", path, stack) == 0o600
    assert mode_of_while_open(f"{scheme}:{path}?mode=666", path, stack) == 0o666


def mode_of_while_open(target: str, path: str, stack: ExitStack) -> int:
    listener = listen(target, stack)
    mode = mode_of(path)
    listener.close()
    return mode


@linux
@each_kind
def test_nobody_gets_in_before_the_mode_is_set(scheme: str, path: str, stack: ExitStack) -> None:
    """With no umask to help, the file that bind makes would be open to everyone for a moment."""
    seen = []

    class Watching(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            seen.append(mode_of(address))

    before = os.umask(0)
    try:
        listen(f"{scheme}:{path}?mode=600", stack, socket_class=Watching)
    finally:
        os.umask(before)
    assert seen == [0o600]


@pytest.mark.parametrize("scheme", ["unix", "unixpacket"])
def test_a_stream_is_at_its_path_only_once_it_listens(scheme: str, path: str, stack: ExitStack) -> None:
    seen = []

    class Watching(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            seen.append(os.path.exists(path))

        def listen(self, *backlog: int) -> None:
            seen.append(os.path.exists(path))
            super().listen(*backlog)

    listen(f"{scheme}:{path}", stack, socket_class=Watching)
    assert seen == [False, False] and os.path.exists(path)


def test_a_datagram_answer_comes_from_the_path_that_was_asked(path: str, tmp_path: Path, stack: ExitStack) -> None:
    listener = listen(f"unixgram:{path}", stack)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.bind(str(tmp_path / "client"))
        client.sendto(b"hello", path)
        data, peer = listener.socket.recvfrom(9)
        listener.socket.sendto(data, peer)
        assert client.recvfrom(9) == (b"hello", path)


def test_a_relative_path_is_found_again_from_another_directory(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listener = listen("unix:s", stack)
    assert listener.location == "unix:s" and serves("s", listener)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    listener.close()
    assert not os.path.lexists(tmp_path / "s")


@linux
@pytest.mark.parametrize("length", [107, 100, 99, 98, 97])
def test_the_longest_path_leaves_no_room_for_a_temporary_name(length: int, tmp_path: Path, stack: ExitStack) -> None:
    directory = str(tmp_path)
    while len(directory) < 90:
        directory = os.path.join(directory, "d" * max(1, min(20, 89 - len(directory))))
        os.mkdir(directory)
    for name in ("x" * (length - len(directory) - 1),):
        path = os.path.join(directory, name)
        assert len(path) == length
        make_stale(path)
        listener = listen(f"unix:{path}", stack)
        assert serves(path, listener) and alone(path) and mode_of(path) == 0o660
        assert "a server is using it" in reason(f"unix:{path}")
        listener.close()
        assert not os.path.lexists(path)


@linux
def test_an_abstract_name(stack: ExitStack) -> None:
    name = f"@jackfield-{os.getpid()}"
    listener = listen(f"unix:{name}", stack)
    assert listener.location == f"unix:{name}"
    assert serves("\0" + name[1:], listener)
    assert "a server has this name already" in reason(f"unix:{name}")
    assert "leave mode= out" in reason(f"unix:{name}?mode=600")
    listener.close()
    listen(f"unix:{name}", stack)


# --- a path where something is ----------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("dead", KINDS)
def test_a_stale_socket_is_replaced(scheme: str, dead: str, path: str, stack: ExitStack) -> None:
    make_stale(path, dead)
    listener = listen(f"{scheme}:{path}", stack)
    assert serves(path, listener) and alone(path) and mode_of(path) == 0o660


@each_kind
@pytest.mark.parametrize("alive", KINDS)
def test_a_live_server_keeps_its_path_and_does_not_notice(scheme: str, alive: str, path: str, stack: ExitStack) -> None:
    live = listen(f"{alive}:{path}", stack)
    inode = os.lstat(path).st_ino
    assert "a server is using it" in reason(f"{scheme}:{path}")
    clear_stale_unix_path(path)
    assert os.lstat(path).st_ino == inode and alone(path)
    assert not select.select([live], [], [], 0)[0]  # nobody connected, nothing was sent
    assert serves(path, live)


def test_a_server_that_is_bound_and_not_yet_listening_is_alive(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(path)
        assert "a server is using it" in reason(f"unix:{path}")
        clear_stale_unix_path(path)
        assert os.path.exists(path)


def test_a_server_with_a_full_queue_is_alive(path: str, stack: ExitStack) -> None:
    listen(f"unix:{path}", stack, backlog=0)
    for _ in range(3):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        client.connect_ex(path)
    assert "a server is using it" in reason(f"unix:{path}")


def test_a_datagram_server_that_talks_to_one_peer_only_is_alive(path: str, tmp_path: Path, stack: ExitStack) -> None:
    live = listen(f"unixgram:{path}", stack)
    friend = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    friend.bind(str(tmp_path / "friend"))
    live.socket.connect(str(tmp_path / "friend"))
    assert "a server is using it" in reason(f"unixgram:{path}")


@each_kind
def test_files_links_and_directories_are_left_alone(scheme: str, tmp_path: Path) -> None:
    file, directory, link, dangling = (tmp_path / name for name in ("file", "directory", "link", "dangling"))
    file.write_text("precious")
    directory.mkdir()
    make_stale(str(tmp_path / "stale"))
    link.symlink_to(tmp_path / "stale")
    dangling.symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    before = sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir())
    assert "a file and no socket" in reason(f"{scheme}:{file}")
    assert f"it is a directory; name a file in it, e.g. {scheme}:{directory}/x.sock" in reason(f"{scheme}:{directory}")
    assert "a symbolic link" in reason(f"{scheme}:{link}")
    assert "a symbolic link" in reason(f"{scheme}:{dangling}")
    assert "a file and no socket" in reason(f"{scheme}:{tmp_path / 'pipe'}")
    for name in ("file", "directory", "link", "dangling", "pipe", "absent"):
        clear_stale_unix_path(str(tmp_path / name))
    assert sorted((entry.name, entry.lstat().st_ino) for entry in tmp_path.iterdir()) == before
    assert file.read_text() == "precious"


def test_only_the_owners_file_is_removed_at_the_end(path: str, stack: ExitStack) -> None:
    first = listen(f"unix:{path}", stack)
    os.unlink(path)
    second = listen(f"unix:{path}", stack)
    first.close()
    assert serves(path, second)
    os.unlink(path)
    Path(path).write_text("precious")
    second.close()
    assert Path(path).read_text() == "precious"


def test_a_listener_may_be_told_to_leave_its_path(path: str, stack: ExitStack) -> None:
    listen(f"unix:{path}", stack, unlink_on_close=False).close()
    assert os.path.exists(path)


def test_a_forked_child_that_closes_does_not_cut_off_its_parent(path: str, stack: ExitStack) -> None:
    listener = listen(f"unix:{path}", stack)
    child = multiprocessing.get_context("fork").Process(target=listener.close)
    child.start()
    child.join(10)
    assert child.exitcode == 0
    child.close()
    assert serves(path, listener)


# --- refusals, and what is left of a start that fails -----------------------------------------------------------------


def test_one_line_for_each_refusal(tmp_path: Path) -> None:
    assert f"there is no directory '{tmp_path}/none'; make it" in reason(f"unix:{tmp_path}/none/s")
    (tmp_path / "file").touch()
    assert "is no directory" in reason(f"unix:{tmp_path}/file/s")
    assert "bytes and the system takes" in reason(Address("unix", path="/" + "x" * 200))
    assert "bytes" in reason(Address("unix", path="@" + "x" * 200))
    assert "that is no path" in reason(Address("unix"))
    assert "that is no path" in reason(Address("unix", path="a\0b"))
    assert "no file permission" in reason(Address("unix", path=f"{tmp_path}/s", options=(("mode", "rw"),)))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "in a circle" in reason(f"unix:{tmp_path}/loop/s")


@pytest.mark.parametrize(
    ("scheme", "call", "number", "said"),
    [
        ("unix", "bind", errno.EACCES, "may not make files in"),
        ("unixpacket", "bind", errno.EROFS, "read-only"),
        ("unixgram", "bind", errno.ENOSPC, "no space left"),
        ("unix", "listen", errno.ENOBUFS, "(ENOBUFS)"),
        ("unixpacket", "listen", errno.ENOMEM, "(ENOMEM)"),
    ],
)
def test_a_start_that_fails_leaves_nothing(scheme: str, call: str, number: int, said: str, path: str) -> None:
    class Failing(socket.socket):
        pass

    def fail(self: socket.socket, *args: Any) -> None:
        raise OSError(number, os.strerror(number))

    setattr(Failing, call, fail)
    inode = make_stale(path)
    assert said in reason(f"{scheme}:{path}", socket_class=Failing)
    if scheme != "unixgram":
        assert alone(path) and os.lstat(path).st_ino == inode  # what was there is still there
    else:
        assert not os.listdir(os.path.dirname(path))


@pytest.mark.parametrize("step", ["_set_mode", "_put"])
def test_an_interrupted_start_leaves_nothing(step: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(module, step)

    def interrupt(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, interrupt)
    for scheme in ("unix", "unixgram"):
        if (scheme, step) != ("unixgram", "_put"):
            with pytest.raises(KeyboardInterrupt):
                open_listeners(f"{scheme}:{path}", socket_class=socket.socket)
            assert not os.listdir(os.path.dirname(path))


@each_kind
def test_what_turns_up_meanwhile_is_not_overwritten(scheme: str, path: str) -> None:
    """Somebody makes a file between the look at the path and the binding."""

    class Slow(socket.socket):
        def bind(self, address: Any) -> None:
            Path(path).write_text("precious")
            super().bind(address)

    assert "a file and no socket" in reason(f"{scheme}:{path}", socket_class=Slow)
    assert Path(path).read_text() == "precious" and alone(path)


@pytest.mark.parametrize("scheme", ["unix", "unixpacket"])
def test_a_stale_socket_that_came_to_life_meanwhile_is_not_replaced(scheme: str, path: str, stack: ExitStack) -> None:
    make_stale(path)
    winner: list[socket.socket] = []

    class Slow(socket.socket):
        def listen(self, *backlog: int) -> None:
            if not winner:
                os.unlink(path)
                winner.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
                winner[0].bind(path)
                winner[0].listen()
            super().listen(*backlog)

    assert "a server is using it" in reason(f"{scheme}:{path}", socket_class=Slow)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        winner[0].accept()[0].close()
    assert alone(path)


def test_a_path_that_never_holds_still_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_put", lambda *_: False)
    assert "keep making and removing it" in reason(f"unix:{path}")
    assert not os.listdir(os.path.dirname(path))


def test_a_file_system_without_hard_links_will_do(path: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    listener = listen(f"unix:{path}", stack)
    assert serves(path, listener) and alone(path)


@linux
def test_a_link_put_in_place_of_the_socket_does_not_get_its_mode(tmp_path: Path) -> None:
    victim, swapped = tmp_path / "victim", tmp_path / "s"
    victim.write_text("precious")
    victim.chmod(0o600)
    swapped.symlink_to(victim)
    with pytest.raises(OSError):
        module._set_mode(str(swapped), 0o666)
    assert mode_of(str(victim)) == 0o600


def test_a_link_swapped_in_and_out_during_starts_never_leads_to_its_target(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", str(tmp_path / "s")
    victim.write_text("precious")
    victim.chmod(0o600)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for change in (lambda: os.symlink(victim, path), lambda: os.unlink(path)):
                with suppress(OSError):
                    change()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for scheme in ("unix", "unixgram") * 100:
            with suppress(StartError):
                for listener in open_listeners(f"{scheme}:{path}?mode=666", socket_class=socket.socket):
                    listener.close()
    finally:
        stop.set()
        swapper.join(10)
    assert (victim.read_text(), mode_of(str(victim))) == ("precious", 0o600)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"victim", "s"}


def test_of_many_that_start_at_once_on_a_stale_path_one_wins(path: str) -> None:
    for _ in range(10):
        make_stale(path)
        gate = threading.Barrier(8)
        won: list[Listener] = []

        def start(gate: threading.Barrier = gate, won: list[Listener] = won) -> None:
            gate.wait(10)
            try:
                won.extend(open_listeners(f"unix:{path}", socket_class=socket.socket))
            except StartError:
                pass

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        (winner,) = won
        assert serves(path, winner) and alone(path)
        winner.close()
        assert not os.path.lexists(path)


def test_somebody_who_keeps_the_directory_locked_does_not_stop_a_start(
    path: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_WAIT", 0.02)
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    listener = listen(f"unix:{path}", stack)
    assert serves(path, listener)
    listener.close()
    assert not os.path.lexists(path)


# --- for the drop-in classes ------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("form", [str, os.fsencode])
def test_a_stale_path_is_cleared(scheme: str, form: Any, path: str) -> None:
    make_stale(path, scheme)
    clear_stale_unix_path(form(path))
    assert not os.path.lexists(path)


@pytest.mark.parametrize("path", ["", b"", "\0name", b"\0name", "x" * 5000, "/nonesuch/s", "a\0b"])
def test_clearing_what_is_no_path_does_nothing(path: Any) -> None:
    clear_stale_unix_path(path)


def test_the_gate_against_taking_a_live_path_can_fail(
    path: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = listen(f"unix:{path}", stack)
    monkeypatch.setattr(module, "_ask", lambda _: module._Answer.NOBODY)
    thief = listen(f"unix:{path}", stack)
    assert serves(path, thief)
    live.close()
    assert os.path.exists(path)
