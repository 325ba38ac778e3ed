"""What holds, and why: every value with its origin, as TOML that means the same when it is read, or as JSON."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

from jackfield.cli.arguments import Parser, UsageError
from jackfield.cli.configuration.keys import Key, keys_of_serve
from jackfield.cli.configuration.origins import Origin
from jackfield.cli.configuration.resolving import Configured
from jackfield.cli.configuration.values import toml_text, value_of_file
from jackfield.cli.text import escape

__all__ = ["as_json", "as_toml", "rows_of"]

#: What the help of a flag says of a default that the library knows and the command line does not.
_DEFAULT = re.compile(r"\(default:? ([^;)]*)")

_WIDTH = 48


def as_toml(configured: Configured) -> str:
    """Every value, a line each, with its origin as a comment; fed back as a file it gives the same values. What was
    left to the library, which TOML has no value for, is a comment altogether."""
    parser, keys = keys_of_serve()
    several = len(configured.servers) > 1
    of_process = [key for key in keys if key.in_files and not (several and key.of_server)]
    alone = configured.process if several else configured.servers[0]
    lines = [_line(parser, key, alone) for key in of_process]
    for options in configured.servers if several else ():
        lines += ["", "[[server]]", *(_line(parser, key, options) for key in keys if key.of_server)]
    return "\n".join(lines)


def as_json(configured: Configured) -> str:
    """The same for a program: for each key its ``value`` and ``origin``; null is what was left to the library."""
    parser, keys = keys_of_serve()

    def of(options: argparse.Namespace, of_server: bool) -> dict[str, Any]:
        return {
            key.name: {"value": _plain(parser, key, options), "origin": str(_origin(key, options))}
            for key in keys if key.of_server is of_server
        }  # fmt: skip

    shown = {
        "file": configured.document.path if configured.document is not None else None,
        "process": of(configured.process, False),
        "servers": [of(options, True) for options in configured.servers],
    }
    return json.dumps(shown, indent=2)


def rows_of(configured: Configured) -> list[dict[str, Any]]:
    """Every value that is not left to the library, as rows: ``server`` is None for what is about the process."""
    parser, keys = keys_of_serve()
    rows = []
    for number, options in [(None, configured.process), *enumerate(configured.servers)]:
        for key in keys:
            if key.of_server is (number is not None) and (text := _toml(parser, key, options)) is not None:
                rows.append({"server": number, "key": key.name, "value": text, "origin": str(_origin(key, options))})
    return rows


def _origin(key: Key, options: argparse.Namespace) -> Origin:
    origin: Origin = options.origins[key.dest]
    return origin


def _line(parser: Parser, key: Key, options: argparse.Namespace) -> str:
    origin = _origin(key, options)
    text = _toml(parser, key, options)
    if text is None:
        default = _DEFAULT.search(key.action.help or "")
        return f"# {key.name} =".ljust(_WIDTH) + f"  # default{f': {default[1]}' if default else ''}"
    return f"{key.name} = {text}".ljust(_WIDTH) + f"  # {escape(str(origin))}"


def _plain(parser: Parser, key: Key, options: argparse.Namespace) -> Any:
    text = _toml(parser, key, options)
    if text is None:
        return None
    import tomllib

    return tomllib.loads(f"value = {text}")["value"]


def _toml(parser: Parser, key: Key, options: argparse.Namespace) -> str | None:
    """The value as TOML; None where it was left to the library."""
    value = getattr(options, key.dest)
    if _origin(key, options).kind == "default" and (value is None or (value == key.default and _is_opaque(value))):
        return None
    for text in _spellings(value):
        if _means(parser, key, text, value):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError(f"{key.name}: it has bytes that are no UTF-8, which TOML cannot have") from None
            return text
    raise AssertionError(f"{key.name}: {value!r} cannot be written")  # a type of a flag whose str() it does not read


def _is_opaque(value: Any) -> bool:
    """Whether it only marks that nothing was said."""
    return not isinstance(value, bool | int | float | str | list)


def _spellings(value: Any) -> Iterator[str]:
    yield toml_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        yield f'"{value:03o}"'  # what is read as octal, as a umask
    yield toml_text(str(value))


def _means(parser: Parser, key: Key, text: str, value: Any) -> bool:
    import tomllib

    try:
        read = value_of_file(parser, key, tomllib.loads(f"value = {text}")["value"])
    except UsageError:
        return False
    return bool(read == value)
