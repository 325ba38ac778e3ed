"""Foreign text on one line of a log: nothing in it steers a terminal, begins a line, or is without end."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["BORNE", "LINE", "MARK", "cut", "escape", "fit", "one_line", "said", "size"]

#: Bytes of one line, as UTF-8, all that was cut out left aside.
LINE = 1024

#: Stands where something was cut out.
MARK = " ... cut ... "

#: What the code of a foreign object may raise when it is asked how it reads. Ctrl-C and the end of a green thread or a
#: task are no answers: they go their way.
BORNE = (Exception, SystemExit)


def escape(text: str) -> str:
    """``text`` with each character that is not printable written out (``\\n``, ``\\x1b``, ``\\u202e``).

    Not printable is what ``str.isprintable()`` says: the controls C0 and C1, the breaks of lines, what turns the
    direction of writing, lone surrogates, and what Unicode has not assigned. The backslash is left as it is.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def size(text: str) -> int:
    """Bytes of ``text`` as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "backslashreplace"))


def cut(text: str, most: int) -> str:
    """``text``, escaped before, in at most ``most`` bytes: two thirds of that from its head, the rest from its tail."""
    if size(text) <= most:
        return text
    data = text.encode("utf-8", "backslashreplace")
    kept = max(0, most - len(MARK))
    tail = kept // 3
    # A character that lies across the cut is left out.
    ends = data[: kept - tail].decode("utf-8", "ignore"), data[len(data) - tail :].decode("utf-8", "ignore")
    return MARK.join(ends) if kept else ""


def one_line(text: str, most: int = LINE) -> str:
    """Foreign ``text`` escaped, in at most ``most`` bytes. What it costs does not grow with the text."""
    if len(text) > 2 * most:
        text = text[:most] + text[-most:]  # no character gets shorter, so what is cut out here is cut out anyway
    return cut(escape(text), most)


def fit(lines: list[str], most: int) -> list[str]:
    """Whole ``lines``, escaped before, in at most ``most`` bytes with their ends: from the head a third, and from the
    tail, where a traceback says what happened, the rest."""
    if sum(size(line) + 1 for line in lines) <= most:
        return lines
    mark = "  ... lines cut ..."
    left = most - len(mark) - 1
    if left <= 0:
        return []
    tail = _taken(reversed(lines), left - left // 3)
    if not tail:
        tail = [cut(lines[-1], left - left // 3 - 1)]  # better the half of what happened than nothing
    head = _taken(lines[: len(lines) - len(tail)], left // 3)
    return [*head, mark, *reversed(tail)]


def _taken(lines: Iterable[str], most: int) -> list[str]:
    taken = []
    for line in lines:
        most -= size(line) + 1
        if most < 0:
            break
        taken.append(line)
    return taken


# --- what foreign objects say of themselves -------------------------------------------------------------------------


def said(value: object) -> str:
    """What ``str(value)`` is, without its middle where it is long, and not escaped; also where it raises.

    The text of an error that carries a message of megabytes is not made first and then cut: the arguments of errors
    with ``str()`` as it came are shortened one by one.
    """
    try:
        if isinstance(value, BaseException) and type(value).__str__ is BaseException.__str__:
            args = value.args
            if len(args) == 1:
                return said(args[0])
            return f"({', '.join(_shown(arg) for arg in args[:10])}{', ...' if len(args) > 10 else ''})" if args else ""
        if type(value) in (bytes, bytearray):
            return _shown(value)
        return _short(str(value))
    except BORNE as failure:
        return f"<str() of {type(value).__name__} raised {type(failure).__name__}>"


def _shown(value: object) -> str:
    """``repr(value)`` without its middle."""
    if type(value) in (bytes, bytearray):
        data: bytes = value  # type: ignore[assignment]
        if len(data) > 2 * LINE:
            return _short(f"{data[:LINE]!r}{MARK}{data[-LINE:]!r}")
    if type(value) is str:
        return repr(_short(value))
    return _short(repr(value))


def _short(text: str) -> str:
    # What a subclass of str has made of its methods is not to be called.
    head = str.__getitem__(text, slice(0, 2 * LINE))
    return head + MARK + str.__getitem__(text, slice(-LINE, None)) if str.__len__(text) > 3 * LINE else str.__getitem__(
        text, slice(0, 3 * LINE)
    )
