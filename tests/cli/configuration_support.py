"""What the tests of the configuration share: a command line as the program parses it, and texts for each key."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from jackfield.cli.app import build_parser
from jackfield.cli.arguments import UsageError
from jackfield.cli.configuration import Configured, Key, keys_of_serve, resolve
from jackfield.cli.configuration.values import value_of_file, value_of_variable

PARSER, KEYS = keys_of_serve()

# Something of every grammar that there is; each key takes the first of them that it can, and the second.
POOL = ("text", "other", "7", "8", "7s", "8s", "64k", "65k", "7/s", "8/s", "127.0.0.1:7", "127.0.0.1:8", "027", "022")


def spoken(*words: str) -> argparse.Namespace:
    """What the program makes of a command line of serve."""
    parser, _ = build_parser(["serve"])
    options, extras = parser.parse_known_args(["serve", *words])
    assert not extras
    options.spoken = frozenset(vars(options))
    return options


def resolved(
    folder: Path, text: str | None = None, *words: str, name: str = "jackfield.toml", **environment: str
) -> Configured:
    if text is not None:
        (folder / name).write_text(text)
    return resolve(spoken(*words), environment=environment, directory=str(folder))


def told(folder: Path, text: str | None = None, *words: str, **environment: str) -> list[str]:
    """Every problem, without the folder in front."""
    if text is not None:
        (folder / "jackfield.toml").write_text(text)
    problems: list[str] = []
    resolve(spoken(*words), problems.append, environment, str(folder))
    return [problem.replace(f"{folder}/", "") for problem in problems]


def samples(key: Key) -> list[str]:
    """Two texts that a flag takes, of different meanings; the first is not its default."""
    found: dict[str, Any] = {}
    pool = key.action.choices if key.action.choices is not None else POOL
    for text in map(str, pool):
        try:
            value = value_of_variable(PARSER, key, text)
        except UsageError:
            continue
        if value not in found.values():
            found[text] = value
    return sorted(found, key=lambda text: bool(found[text] == key.default))[:2]


def words_of(key: Key, text: str) -> list[str]:
    """The text as arguments."""
    if key.is_switch:
        return [key.flag]
    if isinstance(key.action, argparse._CountAction):
        return [key.flag] * int(text)
    if not key.action.option_strings:
        return [text]
    return [f"{key.flag}={text}"]


def in_toml(key: Key, text: str) -> str:
    """The text as a user would write it in a file: a number without quotes."""
    for written in (text, f'"{text}"', f'["{text}"]'):
        try:
            value_of_file(PARSER, key, _loads(written))
        except (UsageError, ValueError):
            continue
        return written
    raise AssertionError(f"{key.name} cannot say {text!r} in a file")


def _loads(text: str) -> Any:
    return tomllib.loads(f"value = {text}")["value"]
