"""What happens beside a server's own journal passes the same gate: a flood of each stays within its bound."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from journal_support import Lines, logged_by

from jackfield import BaseRequestHandler, Server
from jackfield.journal import Journal
from jackfield.modes import Processes, units
from jackfield.modes import processes as processes_module
from jackfield.reactor import greens, run, sleep, spawn
from jackfield.testing.clients import connect

FLOOD = 200

#: Records of a kind at once, and as many as may follow while a flood goes on, at one a second.
MOST = 10 + 20


@contextlib.contextmanager
def fresh(module: Any, logger: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """The module's journal, as if nothing had been written to it, and its log."""
    lines = Lines()
    with logged_by(lines, logger) as to:
        journal = Journal(to)
        monkeypatch.setattr(module, "_journal", journal)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)  # pytest's own makes a failure of each
        yield lines
        journal.tell()


def green_threads() -> None:
    def fails() -> None:
        raise ValueError("in vain")

    def start() -> None:
        for _ in range(FLOOD):
            spawn(fails)
        sleep(0.01)

    run(start)


def system_exits() -> None:
    def ends() -> None:
        try:
            raise SystemExit(3)
        except SystemExit as error:
            units.report(error)

    for _ in range(FLOOD):
        ends()


GREENS = (greens, "jackfield.green", green_threads, "green threads that ended by an error")
EXITS = (units, "jackfield.server", system_exits, "handlers that ended by SystemExit")


@pytest.mark.parametrize(("module", "logger", "flood", "kind"), [GREENS, EXITS], ids=["green threads", "SystemExit"])
def test_a_flood_of_one_process(
    module: Any, logger: str, flood: Callable[[], None], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh(module, logger, monkeypatch) as lines:
        flood()
        assert 1 <= len(lines.texts) <= MOST
    assert lines.texts[-1].endswith(f"more of these: {kind}")
    assert len(lines.log) < 16 * 1024


def test_a_flood_past_the_gate_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken case: a journal that holds nothing back."""
    monkeypatch.setattr("jackfield.journal.tallies.Tally.delay", 0.0)
    with fresh(units, "jackfield.server", monkeypatch) as lines:
        system_exits()
        assert len(lines.texts) == FLOOD


def test_a_flood_of_failing_processes(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each child would have a burst of its own, if the allowance were not shared."""
    log, count = tmp_path / "log", 40

    def flood(shared: bool) -> int:
        log.write_text("")
        handler = logging.FileHandler(log)
        with logged_by(handler, "jackfield.process"):
            journal = Journal(logging.getLogger("jackfield.server"))
            processes = Processes()
            monkeypatch.setattr(processes_module, "_journal", Journal(logging.getLogger("jackfield.process")))
            processes._journal = processes_module._journal
            if shared:
                journal.share()
                processes.tell_by(journal)
            for _ in range(count):
                processes.start(os.path.getsize, "/there is no such file")
            assert processes.join(20)
            handler.close()
            with logged_by(Lines(), "jackfield.server"):
                journal.close()
        return log.read_text().count("a handler's process failed")

    assert 10 <= flood(shared=True) <= MOST
    assert flood(shared=False) == count  # the broken case


def test_a_server_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(BaseRequestHandler[Any]):
        pass

    def failing_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lines = Lines()
    with logged_by(lines):
        with Server(Never, "tcp://127.0.0.1:0") as server:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", failing_start)
                for _ in range(FLOOD):
                    with connect(server.addresses[0], 20.0) as client, contextlib.suppress(ConnectionResetError):
                        assert client.recv(1) == b""
        assert server.info().refused == FLOOD
    said = [text for text in lines.texts if "cannot serve" in text]
    assert 1 <= len(said) <= MOST
    assert any(text.endswith("more of these: clients that cannot be served") for text in lines.texts)


def test_what_is_held_back_is_told_at_the_end() -> None:
    """By a process of its own, as only that ends."""
    program = (
        "import logging\nfrom jackfield.journal import standing_journal\n"
        "journal = standing_journal(logging.getLogger('some'))\n"
        f"for _ in range({FLOOD}):\n    journal.write(logging.ERROR, 'again', kind='agains')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    *written, last = done.stderr.splitlines()
    assert len(written) == 10 and last == f"... {FLOOD - 10} more of these: agains"
