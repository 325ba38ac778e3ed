"""Pid files: with live processes, killed ones, forked ones, many at once, and one that hands its file over."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jackfield.errors import StartError
from jackfield.supervisor.pidfile import PidFile

SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""

# Takes the file, says how that went, and holds it until its input ends. With a number: it is handed over by that
# descriptor. With "fork": a child lives on when it is killed.
HOLDER = """
import os, sys, time
from jackfield.errors import StartError
from jackfield.supervisor.pidfile import PidFile
file = PidFile(sys.argv[1])
try:
    file.take(int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else -1)
except StartError as error:
    sys.exit(str(error))
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    print("taken", file.fileno(), file.held, flush=True)
    sys.stdin.read()
    file.release()
    os._exit(0)
if sys.argv[2:] != ["fork"]:
    print("taken", flush=True)
sys.stdin.read()
file.release()
"""


class Holder:
    """Another process that has the file."""

    def __init__(self, path: Path, *words: str, **popen: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip() if self._speaks() else ""
        self.pid = self.process.pid

    def _speaks(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], SECONDS)[0])

    def end(self) -> str:
        """Let go of the file and end; what it complained of."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return errors.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


def ours() -> str:
    return f"{os.getpid()}\n"


def complaint(path: Path | str, inherited: int = -1) -> str:
    """The one line of a refusal."""
    file = PidFile(path)
    with pytest.raises(StartError) as caught:
        file.take(inherited)
    text = str(caught.value)
    assert "\n" not in text and "Errno" not in text and text.startswith(f"--pid {path}: ")
    assert not file.held and file.fileno() == -1
    file.release()
    return text


def test_the_number_is_there_for_as_long_as_it_is_held(path: Path) -> None:
    with PidFile(path) as file:
        assert path.read_text() == ours() and file.held
        assert path.stat().st_mode & 0o777 == 0o644 & ~current_umask()
        assert not os.get_inheritable(file.fileno())
        assert file.take() is file  # again: nothing happens
        assert os.listdir(path.parent) == [path.name]
    assert not path.exists() and not file.held
    file.release()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_relative_name_is_that_of_the_directory_of_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    file = PidFile(path.name).take()
    monkeypatch.chdir("/")
    assert file.held
    file.release()
    assert not path.exists()


def test_a_live_one_is_refused_and_named(path: Path) -> None:
    with Holder(path) as holder:
        wanted = f"process {holder.pid} has it and is running; stop that one (kill {holder.pid}), or name another file"
        assert complaint(path).endswith(wanted)
        assert path.read_text() == f"{holder.pid}\n"
        assert holder.end() == ""
    assert not path.exists()
    PidFile(path).take().release()


def test_a_second_one_of_the_same_process_is_refused_too(path: Path) -> None:
    with PidFile(path) as file:
        assert f"process {os.getpid()} has it" in complaint(path)
        assert file.held


def test_a_stale_one_is_taken_over(path: Path) -> None:
    with Holder(path) as holder:
        holder.kill()
        assert path.read_text() == f"{holder.pid}\n"
    with PidFile(path):
        assert path.read_text() == ours()
    # A number that is a live process's again says nothing: nobody has the lock.
    for left in (f"{os.getppid()}\n", "1\n", "", "\n", "  77", "99999999999999999999\n"):
        path.write_text(left)
        with PidFile(path):
            assert path.read_text() == ours()


def test_a_child_that_outlives_it_does_not_keep_it(path: Path) -> None:
    with Holder(path, "fork") as holder:
        assert holder.said == "taken -1 False"  # the child's word
        holder.kill()
        with PidFile(path):
            assert path.read_text() == ours()
            holder.process.communicate(timeout=SECONDS)  # the child ends, and removes nothing
            assert path.read_text() == ours()


def test_a_lock_that_a_child_kept_would_be_found(path: Path) -> None:
    """What would happen without the hook at fork, shown by a child that has a copy of the descriptor."""
    with PidFile(path) as file:
        copy = os.dup(file.fileno())
        os.close(file.fileno())
        file._fd = -1
        assert f"process {os.getpid()} has it" in complaint(path)
        os.close(copy)
    PidFile(path).take().release()


def test_of_many_at_once_one_has_it(path: Path) -> None:
    for left in (None, "1\n"):  # nothing, or one that was left by a process whose number lives
        if left:
            path.write_text(left)
        with contextlib.ExitStack() as stack:
            racers = [
                subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(6)
            ]  # fmt: skip
            for racer in racers:
                stack.callback(racer.communicate)
                stack.callback(racer.kill)
            said = {racer.pid: racer.stdout.readline() for racer in racers if racer.stdout}
            assert sorted(said.values()) == [""] * 5 + ["taken\n"]
            (winner,) = (pid for pid, word in said.items() if word)
            assert path.read_text() == f"{winner}\n"
            for racer in racers:
                _, errors = racer.communicate(timeout=SECONDS)
                assert racer.pid == winner or f"process {winner} has it" in errors
        assert not path.exists()


def test_threads_that_race_for_it(path: Path) -> None:
    path.write_text("1\n")
    won: list[PidFile] = []
    refused: list[str] = []
    start = threading.Barrier(8)

    def race() -> None:
        start.wait(SECONDS)
        try:
            won.append(PidFile(path).take())
        except StartError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(won) == 1 and len(refused) == 7
    assert all(f"process {os.getpid()} has it" in text for text in refused), refused
    won[0].release()


def test_a_reader_never_sees_a_part_of_it(path: Path) -> None:
    path.write_text("1234567890\n")
    seen: set[str] = set()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        file = PidFile(path).take()
        os.close(file._fd)  # as if it had been killed: it stays, stale
        file._fd = -1
    over.set()
    reader.join(SECONDS)
    assert seen <= {"1234567890\n", ours()} and ours() in seen


def test_it_is_removed_only_while_it_is_ours(path: Path) -> None:
    file = PidFile(path).take()
    path.unlink()
    assert not file.held
    file.release()
    file = PidFile(path).take()
    path.unlink()
    path.write_text("77\n")
    assert not file.held
    file.release()
    assert path.read_text() == "77\n"
    file = PidFile(path).take()
    path.write_text("88\n")  # in its place, and not ours any more
    assert not file.held
    file.release()
    assert path.read_text() == "88\n"


# --- handing over -----------------------------------------------------------------------------------------------------


def test_it_is_handed_over_while_both_run(path: Path) -> None:
    file = PidFile(path).take()
    number = file.fileno()
    assert f"process {os.getpid()} has it" in complaint(path)
    with Holder(path, str(number), pass_fds=[number]) as holder:
        assert holder.said == "taken"
        assert path.read_text() == f"{holder.pid}\n"
        assert not file.held
        assert f"process {holder.pid} has it" in complaint(path)
        file.release()  # the old one ends, and takes nothing with it
        assert path.read_text() == f"{holder.pid}\n"
        assert f"process {holder.pid} has it" in complaint(path)
        assert holder.end() == ""
    assert not path.exists()


def test_an_upgrade_that_fails_leaves_the_old_one_with_its_file(path: Path) -> None:
    file = PidFile(path).take()
    number = file.fileno()
    with Holder(path, str(number), pass_fds=[number]) as holder:
        holder.kill()
    assert not file.held
    file.release()
    with file.take():  # it had been handed over, and its new owner died: it is stale
        assert path.read_text() == ours()


def test_a_descriptor_that_is_not_the_holders_is_refused(path: Path) -> None:
    with Holder(path) as holder:
        number = os.open(path, os.O_RDWR)
        assert "is not that of the process that has it" in complaint(path, number)
        os.close(number)
        number = os.open(path.parent / "other", os.O_RDWR | os.O_CREAT)
        assert "is not that of the process that has it" in complaint(path, number)
        os.close(number)
        assert f"descriptor {number}, by which it was to be handed over, is not open" in complaint(path, number)
        assert path.read_text() == f"{holder.pid}\n"


# --- what cannot be one -----------------------------------------------------------------------------------------------


def test_what_is_no_pid_file_is_left_alone(path: Path) -> None:
    for content in ("root:x:0:0\n", "12 34\n", "-5\n", "\0", "1" * 64):
        path.write_text(content)
        assert "it has something else in it than a pid" in complaint(path)
        assert path.read_text() == content
    path.unlink()
    path.mkdir()
    assert "cannot write it: Is a directory" in complaint(path)
    path.rmdir()
    target = path.parent / "target"
    target.write_text("")
    path.symlink_to(target)
    assert "cannot write it: Too many levels of symbolic links" in complaint(path)
    path.unlink()
    os.mkfifo(path)
    assert "it is no regular file" in complaint(path)
    assert "cannot write it: Not a directory" in complaint(target / "pid")
    assert "cannot write it: No such file or directory" in complaint(path.parent / "nowhere" / "pid")
    assert sorted(os.listdir(path.parent)) == ["server.pid", "target"]


def test_what_a_killed_one_left_beside_it_goes(path: Path) -> None:
    beside = path.parent / f".{path.name}.new"
    beside.write_text("rubbish")
    with PidFile(path):
        assert path.read_text() == ours()
    assert os.listdir(path.parent) == []


@pytest.fixture
def folder_of_others() -> Iterator[Path]:
    """A directory that its user may enter and not write to, with a file of theirs: the way of init scripts."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        file = Path(name, "pid")
        file.write_text("")
        if os.geteuid() == 0:
            os.chown(file, 65534, 65534)
        else:
            os.chmod(name, 0o555)
        yield Path(name)
        os.chmod(name, 0o755)


def as_nobody(act: Any) -> str:
    """What `act()` returns in a process without the rights of root."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.write(writing, act().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as said:
        text = said.read()
    os.waitpid(pid, 0)
    return text


def test_a_file_in_a_directory_of_others_is_written_where_it_is(folder_of_others: Path) -> None:
    path = folder_of_others / "pid"

    def hold() -> str:
        file = PidFile(path).take()
        found = [path.read_text() == ours(), file.held]
        try:
            PidFile(path).take()
        except StartError as error:
            found.append(f"process {os.getpid()} has it" in str(error))
        file.release()
        return f"{found} {path.read_text()!r} {file.fileno()}"

    assert as_nobody(hold) == "[True, True, True] '' -1"
    assert os.listdir(folder_of_others) == ["pid"]


def test_after_a_change_of_the_user_it_is_emptied(folder_of_others: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    path = folder_of_others / "root.pid"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            file = PidFile(path).take()
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            file.release()
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.read_text() == ""
    PidFile(path).take().release()
    assert not path.exists()


def test_a_signal_in_the_midst_leaves_a_file_that_can_be_taken(path: Path) -> None:
    for _ in range(10):
        with Holder(path) as holder:
            assert holder.said == "taken"
            holder.process.send_signal(signal.SIGKILL)
            holder.process.wait(SECONDS)
        PidFile(path).take().release()
    assert os.listdir(path.parent) == []
