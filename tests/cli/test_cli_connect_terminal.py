"""``connect`` on a terminal, a pseudo-terminal here: a prompt, history, and what comes in above the prompt."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import queue
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, PROGRAM, SECONDS, Upper, UpperDatagram, accepting, serving
from screen import Screen

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 10, 60
UP, LEFT, CONTROL_C, CONTROL_D = "\x1b[A", "\x1b[D", "\x03", "\x04"

try:
    import prompt_toolkit  # noqa: F401

    EDITORS = ["readline", "nothing", "prompt_toolkit"]
except ImportError:
    EDITORS = ["readline", "nothing"]

# Each editor is chosen by hiding the better ones, as on a machine that lacks them.
HIDDEN = {"prompt_toolkit": [], "readline": ["prompt_toolkit"], "nothing": ["prompt_toolkit", "readline"]}


class Terminal:
    """The client on a terminal of its own, and a user who types and looks."""

    def __init__(self, arguments: list[str], editor: str, tmp_path: Path) -> None:
        hidden = tmp_path / "hidden"
        hidden.mkdir(exist_ok=True)
        for name in HIDDEN[editor]:
            (hidden / f"{name}.py").write_text("raise ImportError('hidden by the test')\n")
        program, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [*PROGRAM, "connect", *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**ENVIRONMENT, "PYTHONPATH": str(hidden), "INPUTRC": "/dev/null", "PROMPT_TOOLKIT_NO_CPR": "1"},
            # Ctrl-C reaches the foreground process of its controlling terminal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self._program = program
        self.screen = Screen(ROWS, COLUMNS)
        self.raw = ""

    def type(self, text: str) -> None:
        os.write(self._program, text.encode())

    def look(self, wanted: Callable[[Screen], bool]) -> list[str]:
        """Wait until the screen shows what is wanted; its lines."""
        deadline = time.monotonic() + SECONDS
        while not wanted(self.screen):
            ready = select.select([self._program], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = self._read() if ready else b""
            if not data:
                raise AssertionError(f"not to be seen: {self.screen.lines!r} (written: {self.raw!r})")
            text = data.decode()
            self.raw += text
            self.screen.feed(text)
        return self.screen.lines

    def _read(self) -> bytes:
        try:
            return os.read(self._program, 65536)
        except OSError:  # EIO: the program has closed its end
            return b""

    def end(self) -> int:
        """The exit code, once all has been shown."""
        while data := self._read():
            self.screen.feed(data.decode())
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._program)


@contextlib.contextmanager
def terminal(*arguments: str, editor: str, tmp_path: Path) -> Iterator[Terminal]:
    user = Terminal(list(arguments), editor, tmp_path)
    try:
        yield user
    finally:
        user.close()


def at_prompt(screen: Screen) -> bool:
    return screen.cursor_line == ">>> "


def shows(*wanted: str) -> Callable[[Screen], bool]:
    return lambda screen: all(line in screen.lines for line in wanted)


class Host:
    """A TCP server whose lines the test says, when it wants."""

    def __init__(self) -> None:
        self.say: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.heard: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        listener = threading.Thread(target=self._listen, args=(connection,))
        listener.start()
        while (data := self.say.get()) is not None:
            connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)
        listener.join(SECONDS)

    def _listen(self, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            self.heard.append(data)


@pytest.fixture(params=EDITORS)
def editor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("scheme", ["tcp", "udp", "unix", "unixgram"])
def test_the_notes_client(scheme: str, editor: str, tmp_path: Path) -> None:
    """Connect, prompt, a line goes out and comes back in upper case above the next prompt; Ctrl-D ends it."""
    handler = UpperDatagram if scheme in ("udp", "unixgram") else Upper
    path = str(tmp_path / "s") if scheme.startswith("unix") else ""
    with serving(handler, scheme, path) as address, terminal(address, "-q", editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("hello\r")
        user.look(lambda screen: "HELLO" in screen.lines and at_prompt(screen))
        user.type("again\r")
        lines = user.look(lambda screen: "AGAIN" in screen.lines and at_prompt(screen))
        user.type(CONTROL_D)
        assert user.end() == 0
    assert lines == [">>> hello", "HELLO", ">>> again", "AGAIN", ">>>"]


def test_it_says_where_it_is_connected_and_that_it_has_closed(editor: str, tmp_path: Path) -> None:
    with serving(Upper) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type(CONTROL_D)
        assert user.end() == 0
        assert user.screen.lines[0].startswith(f"jackfield: connected to {address}; Ctrl-D closes"[:COLUMNS])
        assert user.screen.lines[-1] == "jackfield: closed"


def test_what_comes_in_stands_above_a_line_half_typed(editor: str, tmp_path: Path) -> None:
    host = Host()
    with accepting(host) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("half")
        user.look(lambda screen: screen.cursor_line == ">>> half")
        host.say.put(b"one\ntwo\n")
        lines = user.look(shows("one", "two"))
        user.look(lambda screen: screen.cursor_line == ">>> half")
        assert lines.index("one") + 1 == lines.index("two") < len(user.screen.lines) - 1
        user.type(" a line\r")
        user.look(at_prompt)
        host.say.put(None)
        assert user.end() == 0
    assert b"".join(host.heard) == b"half a line\n"


def test_more_than_a_screenful_comes_in(editor: str, tmp_path: Path) -> None:
    """Nothing of it is lost, though the prompt is on the last row all the time."""
    host = Host()
    numbers = [f"line {number}" for number in range(3 * ROWS)]
    with accepting(host) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("typed")
        user.look(lambda screen: screen.cursor_line == ">>> typed")
        host.say.put("\n".join(numbers).encode() + b"\n")
        user.look(lambda screen: shows(numbers[-1])(screen) and screen.cursor_line == ">>> typed")
        host.say.put(None)
        assert user.end() == 0
        assert [line for line in user.screen.lines if line.startswith("line ")] == numbers


def test_a_long_line_is_cut_into_rows(editor: str, tmp_path: Path) -> None:
    host = Host()
    text = "".join(f"{number:04d}" for number in range(50))
    with accepting(host) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        host.say.put(text.encode() + b"\n")
        user.look(lambda screen: "0049" in "".join(screen.lines) and at_prompt(screen))
        assert text in "".join(user.screen.lines[1:])
        host.say.put(None)
        assert user.end() == 0


def test_a_line_in_two_pieces_is_one_line(tmp_path: Path) -> None:
    """With the pieces 0 ms apart: half a line that arrives just before the rest is not shown by itself."""
    host = Host()
    with accepting(host) as address, terminal(address, editor="readline", tmp_path=tmp_path) as user:
        user.look(at_prompt)
        host.say.put(b"one ")
        host.say.put(b"line\n")
        user.look(shows("one line"))
        host.say.put(None)
        assert user.end() == 0


def test_the_server_closing_is_told_in_one_line(editor: str, tmp_path: Path) -> None:
    """Though the user is in the middle of typing, and does not touch a key."""
    host = Host()
    with accepting(host) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("half")
        user.look(lambda screen: screen.cursor_line == ">>> half")
        host.say.put(None)
        assert user.end() == 0
        assert user.screen.lines[-1] == f"jackfield: {address} closed the connection"


def test_a_reset_is_told_in_one_line_and_by_the_exit_code(editor: str, tmp_path: Path) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with accepting(reset) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("hello\r")
        assert user.end() == 1
        assert "broke the connection off" in "".join(user.screen.lines[-2:])
        assert "Traceback" not in "".join(user.screen.lines)


def test_control_c_ends_it(editor: str, tmp_path: Path) -> None:
    with serving(Upper) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type(CONTROL_C)
        assert user.end() == 128 + signal.SIGINT, user.screen.lines
        assert "Traceback" not in "".join(user.screen.lines)


@pytest.mark.parametrize("editor", [name for name in EDITORS if name != "nothing"])
def test_history_and_line_editing(editor: str, tmp_path: Path) -> None:
    with serving(Upper) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("hello\r")
        user.look(lambda screen: "HELLO" in screen.lines and at_prompt(screen))
        user.type(UP)
        user.look(lambda screen: screen.cursor_line == ">>> hello")
        user.type(LEFT * 5 + "o")
        user.look(lambda screen: screen.cursor_line == ">>> o")
        user.type("\r")
        # A Ctrl-D typed before the prompt is there would be the kernel's to interpret (termios(3), ICANON).
        user.look(lambda screen: "OHELLO" in screen.lines and at_prompt(screen))
        user.type(CONTROL_D)
        assert user.end() == 0


def test_what_comes_in_leaves_the_cursor_where_it_is(tmp_path: Path) -> None:
    """In the middle of a line, and in one that has wrapped; readline has to find its cursor where it left it."""
    host = Host()
    with accepting(host) as address, terminal(address, editor="readline", tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("world" + LEFT * 5)
        user.look(lambda screen: screen.cursor_line == ">>> " and ">>> world" in screen.lines)
        host.say.put(b"news\n")
        user.look(lambda screen: shows("news")(screen) and screen.cursor_line == ">>> ")
        user.type("hello ")
        user.look(lambda screen: shows(">>> hello world")(screen) and screen.cursor_line == ">>> hello ")
        user.type("\r" + "x" * (COLUMNS + 10))
        user.look(lambda screen: screen.cursor_line == "x" * 14)
        host.say.put(b"more news\n")
        lines = user.look(lambda screen: shows("more news")(screen) and screen.cursor_line == "x" * 14)
        assert lines.index("more news") == len(user.screen.lines) - 3
        host.say.put(None)
        assert user.end() == 0


def test_what_comes_in_cannot_steer_the_terminal(editor: str, tmp_path: Path) -> None:
    host = Host()
    with accepting(host) as address, terminal(address, editor=editor, tmp_path=tmp_path) as user:
        user.look(at_prompt)
        host.say.put(b"\x1b[2J\x07\xff\xc3\xa4\n")
        user.look(shows("\\x1b[2J\\x07\\xffä"))
        host.say.put(None)
        assert user.end() == 0


def test_hex(tmp_path: Path) -> None:
    with serving(Upper) as address, terminal(address, "-x", editor="readline", tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type("hello\r")
        dump = "00000000  48 45 4c 4c 4f"
        user.look(lambda screen: any(line.startswith(dump) for line in screen.lines) and at_prompt(screen))
        user.type(CONTROL_D)
        assert user.end() == 0


def test_another_prompt(tmp_path: Path) -> None:
    arguments = ["--prompt", "you: "]
    with serving(Upper) as address, terminal(address, *arguments, editor="readline", tmp_path=tmp_path) as user:
        user.look(lambda screen: screen.cursor_line == "you: ")
        user.type(CONTROL_D)
        assert user.end() == 0


def test_quiet(tmp_path: Path) -> None:
    with serving(Upper) as address, terminal(address, "-q", editor="readline", tmp_path=tmp_path) as user:
        user.look(at_prompt)
        user.type(CONTROL_D)
        assert user.end() == 0
        assert user.screen.lines == [">>>"]


def test_the_last_word_after_control_d(tmp_path: Path) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        request = b""
        while data := connection.recv(100):
            request += data
        connection.sendall(b"%d bytes\n" % len(request))

    with accepting(answer_at_the_end) as address:
        with terminal(address, editor="readline", tmp_path=tmp_path) as user:
            user.look(at_prompt)
            user.type("abc\r")
            user.look(lambda screen: shows(">>> abc")(screen) and at_prompt(screen))
            user.type(CONTROL_D)
            assert user.end() == 0
            assert "4 bytes" in user.screen.lines
