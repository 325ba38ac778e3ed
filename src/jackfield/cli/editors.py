"""Line editors for a client that is told things while its user types: what comes in appears above the prompt.

Two of them with one face: :class:`ToolkitEditor` on prompt_toolkit, when the ``cli`` extra is installed, and
:class:`PlainEditor` on the standard library's ``readline``, or on nothing but the terminal where even that is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import unicodedata
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

__all__ = ["Editor", "HungUpError", "PlainEditor", "ToolkitEditor", "above", "choose_editor", "rows_of"]

STDIN, STDOUT = 0, 1


class HungUpError(Exception):
    """Raised out of :meth:`Editor.read_line` once another thread has called :meth:`Editor.hang_up`."""


class Editor(Protocol):
    """Reads lines in the main thread of the process; the other two calls come from any other thread."""

    def read_line(self) -> str:
        """The next line, without its end.  When it raises, the cursor is at the start of a row.

        :raises EOFError: Ctrl-D on an empty line.
        :raises KeyboardInterrupt: Ctrl-C.
        :raises HungUpError: there is nobody to type for any more.
        """

    def show(self, text: str) -> None:
        """Print lines above the prompt and what is typed so far; returns once they are printed."""

    def hang_up(self) -> None:
        """Make :meth:`read_line` raise, now and from now on."""


@contextlib.contextmanager
def choose_editor(prompt: str) -> Iterator[Editor]:
    """The best editor that is installed, for as long as the block lasts."""
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        editor = PlainEditor(prompt)
        try:
            yield editor
        finally:
            editor.close()
    else:
        from prompt_toolkit.patch_stdout import patch_stdout

        with patch_stdout():
            yield ToolkitEditor(prompt)


class ToolkitEditor:
    """On prompt_toolkit, whose ``patch_stdout`` has to be in force: it puts what is printed above the prompt."""

    def __init__(self, prompt: str) -> None:
        from prompt_toolkit import PromptSession

        self._session: Any = PromptSession(prompt)
        self._hung_up = False

    def read_line(self) -> str:
        # pre_run: a hang-up may come when the application does not run yet, and could not be told of it.
        line: str = self._session.prompt(pre_run=self._leave_if_hung_up)
        return line

    def show(self, text: str) -> None:
        print(text, flush=True)

    def hang_up(self) -> None:
        self._hung_up = True
        loop = self._session.app.loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed between the two lines: nothing to wake
                loop.call_soon_threadsafe(self._leave_if_hung_up)

    def _leave_if_hung_up(self) -> None:
        app = self._session.app
        if self._hung_up and app.is_running and not app.future.done():
            app.exit(exception=HungUpError())


class PlainEditor:
    """On ``input()``, with ``readline`` behind it where Python has it.

    Only the main thread ever touches the terminal.  GNU readline is not thread-safe, and its caller sits in it for as
    long as the user types; but between two keystrokes CPython lets signal handlers run there (``select`` returns EINTR,
    then PyErr_CheckSignals), and an exception out of a handler ends ``input()``.  So a thread that has something to
    show leaves it in a slot and sends the main thread SIGIO.

    A signal that arrives just before that ``select``, Ctrl-C too, would be noticed with the next keystroke only; so
    while it reads, a timer interrupts it now and then.
    """

    TICK = 0.2
    """Seconds between two interruptions: how late a signal may be noticed."""

    SIGNALS = (signal.SIGIO, signal.SIGALRM)

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._readline = _import_readline()
        self._moves_cursor = os.environ.get("TERM", "dumb") != "dumb"
        self._slot: str | None = None
        self._taken = threading.Event()
        self._reading = self._hung_up = self._closed = False
        self._main = threading.main_thread()
        self._old_handlers = [signal.signal(number, self._on_signal) for number in self.SIGNALS]

    def close(self) -> None:
        """Give the signals back; ignored, as their default would end the process (signal(7))."""
        self._closed = True
        self._taken.set()
        for number, handler in zip(self.SIGNALS, self._old_handlers, strict=True):
            signal.signal(number, handler if callable(handler) else signal.SIG_IGN)

    def read_line(self) -> str:
        try:
            self._reading = True
            signal.setitimer(signal.ITIMER_REAL, self.TICK, self.TICK)
            if self._hung_up:
                raise HungUpError
            return self._input()
        except HungUpError:
            # Without readline, the kernel holds what is typed until Enter; the shell would be given it next.
            termios.tcflush(STDIN, termios.TCIFLUSH)
            _write("\r\x1b[K" if self._moves_cursor else "\r\n")
            raise
        except (EOFError, KeyboardInterrupt):
            _write("\r\n")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._reading = False

    def _input(self) -> str:
        try:
            return input(self._prompt)
        except SystemError as error:
            # input() runs pending signal handlers once more after one has raised (builtin_input, 3.11-3.13), and takes
            # it amiss when the second, in all innocence, returns: the exception that counts is the cause.
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None

    def show(self, text: str) -> None:
        self._taken.clear()
        self._slot = text
        self._wake()
        self._taken.wait()

    def hang_up(self) -> None:
        self._hung_up = True
        self._wake()

    def _wake(self) -> None:
        assert self._main.ident is not None
        if self._closed:
            self._taken.set()
        else:
            signal.pthread_kill(self._main.ident, signal.SIGIO)

    def _on_signal(self, *_: object) -> None:
        # Emptied first: the handler may itself be interrupted by the other signal.
        text, self._slot = self._slot, None
        if text is not None:
            _write(self._around(text))
            self._taken.set()
        if self._hung_up and self._reading:
            raise HungUpError

    def _around(self, text: str) -> str:
        """What to write to the terminal so that `text` stands above the line being edited."""
        typed = self._readline.get_line_buffer() if self._readline is not None and self._reading else ""
        if not self._moves_cursor:
            return f"\r\n{text}\r\n{self._prompt if self._reading else ''}{typed}"
        columns = shutil.get_terminal_size().columns
        wrapped = (_width(self._prompt) + _width(typed)) // columns
        return "".join(above(row, wrapped) for row in rows_of(text, columns))


def above(row: str, rows_up: int = 0) -> str:
    """The control sequences (ECMA-48, and DEC's IND, DECSC, DECRC) that put one row above the line being edited.

    The cursor ends where it was in that line, so whoever edits it, readline or the kernel, need not know.

    :param rows_up: how far above the cursor the edited line begins: more than 0 once it has wrapped.
    """
    make_room, back, save = "\x1bD", "\x1b[A", "\x1b7"  # index scrolls when the cursor is on the last row of the screen
    up = f"\x1b[{rows_up}A" if rows_up else ""
    return f"{make_room}{back}{save}{up}\r\x1b[L{row}\x1b8\x1b[B"


def rows_of(text: str, columns: int) -> list[str]:
    """The text as the rows that it takes on a screen of that many columns; tabs become blanks."""
    rows = []
    for line in text.expandtabs().split("\n"):
        row, width = "", 0
        for character in line:
            cells = _width(character)
            # One column stays free: a terminal that has just filled the last one disagrees with others on where it is.
            if width + cells > columns - 1 and row:
                rows.append(row)
                row, width = "", 0
            row, width = row + character, width + cells
        rows.append(row)
    return rows


def _width(text: str) -> int:
    """The cells that the text takes: East Asian wide ones two, combining ones none (Unicode annex 11)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _import_readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # Python can be built without; input() then edits as the kernel does
        return None
    return readline


def _write(text: str) -> None:
    sys.stdout.flush()
    rest = memoryview(text.encode("utf-8", "backslashreplace"))
    while rest:
        rest = rest[os.write(STDOUT, rest) :]
