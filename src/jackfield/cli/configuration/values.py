"""Values: what a file or the environment says, through the type and the choices of the flag that it stands for.

A value of a file has a type of TOML's, and is taken seriously: a number where a number is due, and a text where a flag
takes more than numbers.  Which of them a flag takes is asked of its own type: it takes a number if it reads the digits
as the number that they are.  So a umask of 27, which it would read as octal, is refused in a file, and "027" is taken.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from jackfield.cli.arguments import Parser, UsageError
from jackfield.cli.configuration.keys import Key

__all__ = ["refuse_secret", "toml_text", "value_of_file", "value_of_variable"]

_SECRET_WORDS = frozenset({"password", "passphrase", "passwd", "secret", "token", "credential", "credentials"})
#: In the options of an address, or before the name of a host.
_SECRET_IN_ADDRESS = re.compile(r"[?&](?:password|passphrase|secret|token)=|://[^/@\s]*:[^/@\s]+@")
_ON_OFF = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a table"}


def value_of_file(parser: Parser, key: Key, value: Any) -> Any:
    """What `value`, of one of TOML's types, means for a key.

    :raises UsageError: it cannot be meant; the message, without the place, says what to write.
    """
    if key.is_switch:
        if not isinstance(value, bool):
            raise UsageError(f"{_shown(value)} is {_kind(value)}: write true or false, without quotes")
        return value
    if isinstance(key.action, argparse._CountAction):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{_shown(value)} is no number of times: write 0, 1 or 2")
        return value
    if isinstance(value, bool):
        if key.action.nargs != argparse.OPTIONAL or not key.action.option_strings:
            raise UsageError(f"{_shown(value)} is a boolean: write {_wanted(key)}")
        return key.action.const if value else key.default
    if isinstance(value, list):
        return _list_of(parser, key, value)
    return _several(key, _one(parser, key, value))


def value_of_variable(parser: Parser, key: Key, text: str) -> Any:
    """What the text of an environment variable means for a key. Several values are separated by blanks, as an address
    may have commas in it; a list of networks takes its commas, too.

    :raises UsageError: it cannot be meant; the message, without the place, says what to write.
    """
    refuse_secret(key.name, text)
    if key.is_switch:
        if text.lower() not in _ON_OFF:
            raise UsageError(f"{text!r} is neither yes nor no: write 1 or 0")
        return _ON_OFF[text.lower()]
    if isinstance(key.action, argparse._CountAction):
        if not (text.isascii() and text.isdigit()) or len(text) > 3:
            raise UsageError(f"{text!r} is no number of times: write 0, 1 or 2")
        return int(text)
    if key.repeats:
        return [value for part in text.split() for value in _several(key, _convert(parser, key, part))]
    return _convert(parser, key, text)


def _list_of(parser: Parser, key: Key, values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, list | dict | bool):
            raise UsageError(f"{_shown(value)} is {_kind(value)}: write a list of texts")
        read = _one(parser, key, value)
        # Some flags take a list as one text, with commas (--tls-alpn): their type makes a list of it.
        if not key.repeats and not isinstance(read, list):
            raise UsageError(f"it has one value, and this is a list: write {_wanted(key)}")
        found += read if isinstance(read, list) else [read]
    return found


def _several(key: Key, value: Any) -> Any:
    """A flag that may be repeated has a list, also of one."""
    return [value] if key.repeats and not isinstance(value, list) else value


def _one(parser: Parser, key: Key, value: Any) -> Any:
    """One value that is neither a list nor a boolean."""
    if isinstance(value, str):
        refuse_secret(key.name, value)
        if (number := _number(value)) is not None and _takes_number(parser, key, number):
            raise UsageError(f"{_shown(value)} is a text: write {value} without quotes")
        return _convert(parser, key, value)
    if isinstance(value, int | float):
        read = _convert(parser, key, _digits(value))  # its own message says most, where it refuses
        if not _is_number(read, value):
            raise UsageError(f"{_shown(value)} is a number: write {_wanted(key)}")
        return read
    raise UsageError(f"{_shown(value)} is {_kind(value)}: write {_wanted(key)}")


def _takes_number(parser: Parser, key: Key, number: float) -> bool:
    try:
        return _is_number(_convert(parser, key, _digits(number)), number)
    except UsageError:
        return False


def _is_number(read: Any, number: float) -> bool:
    """Whether a flag has read the digits of a number as that number; 0 may switch something off, and be None."""
    if read is None:
        return number == 0
    return isinstance(read, int | float) and not isinstance(read, bool) and read == number


def _number(text: str) -> float | None:
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        return None
    return float(text) if "." in text else int(text) if len(text) < 20 else None


def _digits(number: float) -> str:
    """A number as a flag takes it: without an exponent, and without a fraction that is none."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 1e18:
        number = int(number)
    text = repr(number)
    if "e" in text:
        from decimal import Decimal

        text = f"{Decimal(text):f}"
    return text


def _convert(parser: Parser, key: Key, text: str) -> Any:
    try:
        value = parser._get_value(key.action, text)
        parser._check_value(key.action, value)
    except argparse.ArgumentError as error:
        raise UsageError(error.message) from None
    return value


def _wanted(key: Key) -> str:
    if key.action.choices is not None:
        return "one of " + ", ".join(f'"{choice}"' for choice in key.action.choices)
    return f'"{key.action.metavar or key.action.dest.upper()}" in quotes, as for {key.flag}'


def _shown(value: Any) -> str:
    text = "true" if value is True else "false" if value is False else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    return next((words for kind, words in _KINDS.items() if isinstance(value, kind)), "a date or time")


def refuse_secret(name: str, value: Any = None) -> None:
    """Refuse a secret in the place of a file that has it: who may read a configuration, or the environment of a
    process (/proc/PID/environ, and every child of it), is not who may read a key.  The value is never shown.

    :raises UsageError: the name asks for a secret itself, or the value is a key or a certificate.
    """
    words = name.lower().split("_")
    if words[-1] != "file" and _SECRET_WORDS.intersection(words):
        raise UsageError(f"a secret has no place here: write it to a file of its own, and name that ({name}_file)")
    if isinstance(value, str) and "-----BEGIN " in value:
        raise UsageError("this is a key or certificate itself, not shown here: write it to a file, and name that")
    if isinstance(value, str) and _SECRET_IN_ADDRESS.search(value):
        raise UsageError("there is a password in it, not shown here: write it to a file, and name that (password_file)")


def toml_text(value: Any) -> str:
    """A resolved value as TOML writes it, so that reading it gives the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "0"  # what switches a limit off, in the grammar of the flags
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _digits(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """A basic string of TOML: the quotation mark, the backslash and control characters are written out."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(
        f"\\u{ord(letter):04x}" if ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 else letter for letter in escaped
    ) + '"'  # fmt: skip
