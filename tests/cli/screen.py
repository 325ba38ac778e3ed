"""What a terminal would show: just enough of one to test a client that moves the cursor."""

from __future__ import annotations

import re
from collections.abc import Callable

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b([78DM=>])|\x1b[()](.)|([\x00-\x1f])|([^\x00-\x1f])")


class Screen:
    """A grid of characters and a cursor, driven by the control sequences of an xterm (ECMA-48 and DEC's)."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.columns = columns
        self.grid = [[" "] * columns for _ in range(rows)]
        self.history: list[str] = []
        self.row = self.column = 0
        self._saved = (0, 0)

    def feed(self, text: str) -> Screen:
        """Show what a program has written."""
        for found in _SEQUENCE.finditer(text):
            numbers, letter, plain, _, control, character = found.groups()
            if letter is not None:
                self._control(numbers, letter)
            elif plain is not None:
                self._plain(plain)
            elif control is not None:
                self._c0(control)
            elif character is not None:
                if self.column == self.columns:
                    self.column = 0
                    self._index()
                self.grid[self.row][self.column] = character
                self.column += 1
        return self

    @property
    def lines(self) -> list[str]:
        """Every row so far, without the blank ones at the end."""
        shown = self.history + ["".join(row).rstrip() for row in self.grid]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def cursor_line(self) -> str:
        """The row of the cursor, up to the cursor."""
        return "".join(self.grid[self.row][: self.column])

    def _index(self) -> None:
        if self.row + 1 < len(self.grid):
            self.row += 1
            return
        self.history.append("".join(self.grid.pop(0)).rstrip())
        self.grid.append([" "] * self.columns)

    def _c0(self, control: str) -> None:
        if control == "\n":
            self._index()
        elif control == "\r":
            self.column = 0
        elif control == "\b":
            self.column = max(0, self.column - 1)

    def _plain(self, letter: str) -> None:
        actions: dict[str, Callable[[], None]] = {"D": self._index, "7": self._save, "8": self._restore}
        actions.get(letter, lambda: None)()

    def _save(self) -> None:
        self._saved = (self.row, self.column)

    def _restore(self) -> None:
        self.row, self.column = self._saved

    def _control(self, numbers: str, letter: str) -> None:
        if numbers.startswith("?"):
            return  # modes: bracketed paste and the like
        parts = [int(part) for part in numbers.split(";") if part] or [0]
        count = max(1, parts[0])
        row = self.grid[self.row]
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row = min(len(self.grid) - 1, self.row + count)
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + count)
        elif letter == "D":
            self.column = max(0, self.column - count)
        elif letter == "G":
            self.column = count - 1
        elif letter == "K":
            start, end = {0: (self.column, self.columns), 1: (0, self.column + 1)}.get(parts[0], (0, self.columns))
            row[start:end] = [" "] * (end - start)
        elif letter == "J" and parts[0] == 0:
            row[self.column :] = [" "] * (self.columns - self.column)
            for below in range(self.row + 1, len(self.grid)):
                self.grid[below] = [" "] * self.columns
        elif letter == "L":
            for _ in range(count):
                self.grid.insert(self.row, [" "] * self.columns)
                self.grid.pop()
        elif letter == "P":
            row[self.column :] = row[self.column + count :] + [" "] * count
        elif letter == "@":
            row[self.column :] = ([" "] * count + row[self.column :])[: self.columns - self.column]
