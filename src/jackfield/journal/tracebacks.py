"""An error's traceback as lines of text: bounded, and every character of it fit for a log.

It reads as the standard library's does, with two differences. Each line begins with two blanks, where a record's first
line never does; and what is inside of an error's text or of a source line never ends a line.
"""

from __future__ import annotations

import linecache
from types import TracebackType

from .escaping import BORNE, one_line, said

__all__ = ["INDENT", "traceback_lines"]

#: What every line of a record but the first begins with.
INDENT = "  "

#: Errors told in one traceback: the error, what it came of, and what is in a group.
MOST_ERRORS = 10
#: Errors told of one group, and notes (PEP 678) of one error.
MOST_PARTS = 5
#: Of each error, frames from the outermost in, and from the innermost out. Endless recursion has a thousand.
OUTER_FRAMES, INNER_FRAMES = 5, 15

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def traceback_lines(error: BaseException) -> list[str]:
    """The traceback of ``error``, with its causes and what is in a group. Nothing of it is kept, and nothing raised."""
    lines: list[str] = []
    try:
        _tell_chain(error, "", lines, set())
    except BORNE as failure:
        # An error's class may have made anything of its attributes.
        lines.append(f"{_name(error)}: (no more can be told of it: {_name(failure)})")
    return [INDENT + one_line(line) for line in lines]


def _tell_chain(error: BaseException, margin: str, lines: list[str], told: set[int]) -> None:
    """``error`` after what it came of, the oldest first as in a traceback; found from the newest, which matters most.

    ``told`` holds the errors that have their place: chains may be circles.
    """
    chain: list[tuple[BaseException | None, str]] = []
    older: BaseException | None = error
    link = ""
    while older is not None:
        if id(older) in told or len(told) >= MOST_ERRORS:
            chain.append((None, link))
            break
        told.add(id(older))
        chain.append((older, link))
        if older.__cause__ is not None:
            older, link = older.__cause__, _CAUSE
        elif older.__context__ is not None and not older.__suppress_context__:
            older, link = older.__context__, _CONTEXT
        else:
            older = None
    for one, link in reversed(chain):
        if one is None:
            lines.append(f"{margin}... more errors, not told again or not told ...")
        else:
            _tell_one(one, margin, lines, told)
        if link:
            lines.append(margin + link)


def _tell_one(error: BaseException, margin: str, lines: list[str], told: set[int]) -> None:
    if error.__traceback__ is not None:
        lines.append(f"{margin}Traceback (most recent call last):")
        _tell_frames(error.__traceback__, margin, lines)
    text = said(error)
    lines.append(f"{margin}{_name(error)}: {text}" if text else margin + _name(error))
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list | tuple):
        lines += [margin + said(note) for note in notes[:MOST_PARTS]]
        if len(notes) > MOST_PARTS:
            lines.append(f"{margin}... {len(notes) - MOST_PARTS} more notes ...")
    if isinstance(error, BaseExceptionGroup):
        inner = error.exceptions
        for number, one in enumerate(inner[:MOST_PARTS], 1):
            lines.append(f"{margin}+- {number} of {len(inner)}")
            _tell_chain(one, margin + "|  ", lines, told)
        if len(inner) > MOST_PARTS:
            lines.append(f"{margin}... {len(inner) - MOST_PARTS} more errors ...")


def _tell_frames(outermost: TracebackType, margin: str, lines: list[str]) -> None:
    depth = 0
    step: TracebackType | None = outermost
    while step is not None:
        depth += 1
        step = step.tb_next
    number, step = 0, outermost
    while step is not None:
        if number < OUTER_FRAMES or number >= depth - INNER_FRAMES:
            code = step.tb_frame.f_code
            lines.append(f'{margin}  File "{code.co_filename}", line {step.tb_lineno}, in {code.co_name}')
            source = _source_line(code.co_filename, step.tb_lineno, step.tb_frame.f_globals)
            if source:
                lines.append(f"{margin}    {source}")
        elif number == OUTER_FRAMES:
            lines.append(f"{margin}  ... {depth - OUTER_FRAMES - INNER_FRAMES} frames ...")
        number, step = number + 1, step.tb_next


def _source_line(filename: str, number: int | None, module: dict[str, object]) -> str:
    if number is None:
        return ""
    try:
        linecache.checkcache(filename)
        return linecache.getline(filename, number, module).strip()
    except BORNE:
        return ""  # without descriptors or memory, or a loader of the application's that fails


def _name(error: BaseException) -> str:
    """``ValueError``, ``package.module.SomeError``."""
    kind = type(error)
    module, name = str(kind.__module__), str(kind.__qualname__)
    return name[:200] if module in ("builtins", "__main__") else f"{module[:200]}.{name[:200]}"
