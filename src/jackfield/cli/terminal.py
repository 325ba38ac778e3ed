"""``connect`` on a terminal: a prompt with history; what the server says appears above it."""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Callable

from jackfield.cli import exits
from jackfield.cli.conversation import Conversation
from jackfield.cli.dial import NetworkError
from jackfield.cli.editors import Editor, HungUpError, choose_editor
from jackfield.cli.text import escape

__all__ = ["Client"]

SETTLE = 0.02
"""Seconds to wait for the rest of a line that has come in part."""

LARGEST_PIECE = 1 << 16
"""Bytes shown at once at most, however fast they come."""

FAREWELL = 1.0
"""Seconds that the server has for a last word after Ctrl-D."""


class Client:
    """The interactive conversation.

    :param say: is given each status line.
    :param view: makes text of what has come, for ``--hex``; None decodes it.
    :param half_close: whether Ctrl-D tells the server first, and waits for a last word.
    :param idle: seconds without any traffic after which it is a failure; None waits for ever.
    """

    def __init__(
        self,
        conversation: Conversation,
        prompt: str,
        *,
        say: Callable[[str], None],
        view: Callable[[bytes], str] | None = None,
        half_close: bool = True,
        idle: float | None = None,
    ) -> None:
        self._conversation = conversation
        self._prompt = prompt
        self._say = say
        self._view = view or Decoder()
        self._half_close = half_close
        self._idle = idle
        self._failure: NetworkError | None = None

    def run(self) -> int:
        """Talk until Ctrl-D or until the server closes; the exit code.

        :raises NetworkError: the line broke, or was idle too long.
        """
        peer = self._conversation.line.peer
        terms = self._conversation.line.terms
        self._say(f"connected to {peer}{f' ({terms})' if terms else ''}; Ctrl-D closes")
        with choose_editor(self._prompt) as editor:
            listener = threading.Thread(target=self._listen, args=(editor,), daemon=True, name="listener")
            listener.start()
            try:
                while True:
                    line = editor.read_line()
                    self._conversation.send(line.encode("utf-8", "surrogateescape") + b"\n")
            except EOFError:
                farewell = "closed"
                if self._half_close and self._conversation.line.ends:
                    self._conversation.line.finish()
                    listener.join(FAREWELL)
            except HungUpError:
                farewell = f"{peer} closed the connection"
                if self._failure is not None:
                    raise self._failure from None
        self._say(farewell)
        return exits.OK

    def _listen(self, editor: Editor) -> None:
        """The receiving thread."""
        try:
            while (data := self._next_piece()) is not None:
                if data:
                    editor.show(self._view(data).removesuffix("\n"))
        except NetworkError as error:
            self._failure = error
        editor.hang_up()

    def _next_piece(self) -> bytes | None:
        """What has come, with the rest of its last line if that follows at once; None at the end."""
        line = self._conversation.line
        while not line.waits(self._idle):
            if time.monotonic() - self._conversation.last >= (self._idle or 0):
                raise NetworkError(f"nothing passed for {self._idle:g}s (-i)")
        piece = self._conversation.receive()
        if piece is None or not line.ends:
            return piece
        while not piece.endswith(b"\n") and len(piece) < LARGEST_PIECE and line.waits(SETTLE):
            more = self._conversation.receive()
            if more is None:  # it will say so again
                break
            piece += more
        return piece


class Decoder:
    """Makes text of what comes in: UTF-8, across the borders of pieces, and nothing that could steer the terminal."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def __call__(self, data: bytes) -> str:
        return escape(self._decode(data).replace("\r\n", "\n"), keep="\n\t")
