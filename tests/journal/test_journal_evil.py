"""300 peers whose bytes are made for whoever reads the log, of servers whose handlers quote them in what they raise."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

import pytest
from journal_support import FORMAT, MARGIN, Lines, logged_by, records_in, wrong_in

from jackfield import AsyncRequestHandler, BaseRequestHandler, Server, socketserver
from jackfield.journal import Journal, escaping
from jackfield.journal.tallies import BURST
from jackfield.testing import ManualClock
from jackfield.testing.clients import connect

pytestmark = pytest.mark.slow

NUMBER = 300
SOON = 20.0
EVIL = (
    b"\x1b[2J\x1b]0;owned\x07\r8c1f ERROR jackfield.server: forged\n8d00 CRITICAL root: forged\n"
    + "\u2028\u202e\x9b31m\x85".encode()
    + bytes(range(256))
) * 4


def quote(data: bytes) -> None:
    """Raises what quotes ``data`` in every place there is for it."""
    text = data.decode("latin-1")
    try:
        int(text)
    except ValueError as error:
        group = ExceptionGroup(text, [RuntimeError(data), KeyError(text)])
        group.__cause__ = error
        failure = RuntimeError(text)
        failure.add_note(text)
        raise failure from group


class Quotes(BaseRequestHandler[Any]):
    def handle(self) -> None:
        quote(self.request.recv(len(EVIL), socket.MSG_WAITALL))


class AsyncQuotes(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        data = b""
        while len(data) < len(EVIL):
            data += await self.request.recv(len(EVIL))
        quote(data)


class AnswersAndRaises(BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(10).upper())
        raise ValueError("after all")


@contextlib.contextmanager
def log_file() -> Iterator[IO[str]]:
    """What forked children write to as well: a file that each opens at its end."""
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/log", "a+", encoding="utf-8", errors="surrogateescape") as file:
            handler = logging.StreamHandler(file)
            handler.setFormatter(logging.Formatter(FORMAT))
            with logged_by(handler) as logger:
                logger.setLevel(logging.WARNING)
                yield file


def text_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def visit(address: Any, data: bytes = EVIL, number: int = 1) -> list[bytes]:
    """That many connections, ten at a time, each until the server has ended it; what it answered."""
    answers: list[bytes] = []
    while len(answers) < number:
        clients = [_dial(address) for _ in range(min(10, number - len(answers)))]
        for client in clients:
            client.sendall(data)
        for client in clients:
            answer = b""
            with client:
                with contextlib.suppress(ConnectionResetError):
                    while part := client.recv(100):
                        answer += part
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)  # forked children may have copies
            answers.append(answer)
    return answers


def _dial(address: Any) -> socket.socket:
    return socket.create_connection(address, SOON) if isinstance(address, tuple) else connect(address, SOON)


def stand_still(book: Journal) -> Journal:
    """However slow the machine is: it is all of the same moment."""
    book._clock = ManualClock(1.0)
    return book


def serve_evil(mode: str) -> tuple[str, Journal]:
    with log_file() as file:
        with Server(AsyncQuotes if mode == "async" else Quotes, "tcp://127.0.0.1:0", mode=mode) as server:
            book = stand_still(server._service.failures.journal)
            visit(server.addresses[0], number=NUMBER)
        assert server.info().handler_errors == NUMBER
        return text_of(file), book


@pytest.mark.parametrize("mode", ["serial", "thread", "green", "async", "process"])
def test_evil_peers_of_a_native_server(mode: str) -> None:
    log, book = serve_evil(mode)
    assert wrong_in(log) == []
    assert len(log) > 5000, "whole tracebacks came first"
    assert book.lost == 0
    summary = f"... {book.suppressed} more of these: exceptions of handlers"
    assert summary in log
    assert book.suppressed + records_in(log) - 1 == NUMBER, "every one of them is in the log or counted"
    assert "RuntimeError" in log and "ExceptionGroup" in log and r"\x1b[2J" in log


def serve_evil_drop_in(cls: Any) -> tuple[str, Journal]:
    handler = AsyncQuotes if cls is socketserver.AsyncTCPServer else Quotes
    with log_file() as file:
        with cls(("127.0.0.1", 0), handler) as server:
            book = stand_still(server._failures.journal)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            visit(server.server_address, number=NUMBER)
            server.stop(SOON)
            thread.join()
            assert list(server.connections) == []
        return text_of(file), book


@pytest.mark.parametrize("name", ["", "Threading", "Forking", "Green", "Async"])
def test_evil_peers_of_a_drop_in_server(name: str) -> None:
    log, book = serve_evil_drop_in(getattr(socketserver, f"{name}TCPServer"))
    assert wrong_in(log) == []
    assert f"... {book.suppressed} more of these: exceptions of handlers" in log
    assert book.suppressed + records_in(log) - 1 == NUMBER


def raw(self: Journal, level: int, text: str, *args: object, **told: Any) -> bool:
    """The gate as it would be without a gate."""
    logging.getLogger("jackfield.server").log(level, text, *args, exc_info=told.get("error"))
    return True


def test_the_same_is_wrong_without_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "write", raw)
    wrong = wrong_in(serve_evil("thread")[0])
    assert any("'\\x1b' is in it" in line for line in wrong)
    assert any("forged: '8d00 CRITICAL" in line for line in wrong)
    assert any("more than" in line for line in wrong)


def test_the_same_is_wrong_without_its_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escaping, "escape", lambda text: text)
    wrong = wrong_in(serve_evil("thread")[0])
    assert any("'\\x1b' is in it" in line for line in wrong) and any("forged" in line for line in wrong)


def test_the_same_is_too_much_without_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Lines()
    with logged_by(book) as logger:
        for _ in range(NUMBER):
            try:
                quote(EVIL)
            except RuntimeError as error:
                Journal(logger).write(logging.ERROR, "serving", kind="of nobody else's", error=error)
    assert wrong_in(book.log) == [f"{len(book.log)} characters, more than 16384 bytes"]


# --- a log that cannot be written -----------------------------------------------------------------------------------


class FullDisk:
    def write(self, text: str) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(text.encode())

    def flush(self) -> None: ...


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("this handler raises")


HANDLERS = {"a full disk": lambda: logging.StreamHandler(FullDisk()), "raises": RaisingHandler}


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("mode", ["serial", "thread", "green", "process"])
def test_serving_goes_on_where_the_log_cannot_be_written(
    mode: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # lost as well
    with logged_by(HANDLERS[kind]()) as logger:
        logger.setLevel(logging.WARNING)
        with Server(AnswersAndRaises, "tcp://127.0.0.1:0", mode=mode) as server:
            book = stand_still(server._service.failures.journal)
            assert visit(server.addresses[0], b"hello", 50) == [b"HELLO"] * 50
        assert server.info().handler_errors == 50
        assert book.suppressed == 50 - BURST
        assert book.lost == BURST + 1, "the line that tells of the others is lost too"


def test_a_plain_drop_in_server_outlives_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with logged_by(logging.StreamHandler(FullDisk())):
        with socketserver.TCPServer(("127.0.0.1", 0), AnswersAndRaises) as server:
            book = stand_still(server._failures.journal)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            assert visit(server.server_address, b"hello", 50) == [b"HELLO"] * 50
            server.shutdown()
            thread.join()
        assert (book.suppressed, book.lost) == (50 - BURST, BURST + 1)


# --- what was held back, while the server runs ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_what_is_held_back_is_told_when_its_time_has_come_though_nobody_comes(mode: str) -> None:
    told = threading.Event()

    class Tells(Lines):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if "more of these" in record.getMessage():
                told.set()

    lines = Tells()
    with logged_by(lines) as logger:
        logger.setLevel(logging.WARNING)
        with Server(AnswersAndRaises, "tcp://127.0.0.1:0", mode=mode) as server:
            book = server._service.failures.journal
            clock = book._clock = ManualClock(1.0)
            visit(server.addresses[0], b"x", BURST)
            clock.advance(0.999)
            visit(server.addresses[0], b"x")  # held back; a look at it is due a millisecond later
            clock.advance(0.001)
            assert told.wait(SOON)
    assert lines.texts[-1] == f"{MARGIN}jackfield.server: ... 1 more of these: exceptions of handlers"
