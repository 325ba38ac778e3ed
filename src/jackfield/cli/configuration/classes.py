"""What the handler class says of itself, in the attributes that socketserver's classes are configured by."""

from __future__ import annotations

import argparse
from typing import Any

from jackfield.cli.arguments import UsageError
from jackfield.cli.configuration.keys import Key, keys_of_serve
from jackfield.cli.configuration.origins import Origin
from jackfield.cli.configuration.values import value_of_file

__all__ = ["ATTRIBUTES", "with_class_attributes"]

ATTRIBUTES = {
    "request_queue_size": "backlog",
    "timeout": "idle_timeout",
    "max_threads": "max_threads",
    "max_children": "max_children",
    "max_packet_size": "max_datagram",
}
"""Each attribute and the key that it stands for.

They are the class variables of socketserver's servers and handlers.  ``timeout`` is special: a stream handler sets it
on its own socket, whose ``recv`` raises after it, and may then still say goodbye.  So it only moves the server's
``idle_timeout`` up, where the handler is willing to wait longer than the default.  ``allow_reuse_port`` is not among
them: a server binds before it loads the class.
"""

_MODES = {"max_threads": "thread", "max_children": "process"}


def with_class_attributes(options: argparse.Namespace, handler: type[Any], mode: str) -> argparse.Namespace:
    """The options of a server once its handler is loaded: an attribute goes before the built-in default, and behind
    whatever anybody wrote.

    :param mode: in which it is run: ``max_threads`` is for threads only.
    :raises UsageError: an attribute cannot be meant; the message names it.
    """
    origins: dict[str, Origin] = getattr(options, "origins", {})
    said = {
        name: value for name, key in ATTRIBUTES.items()
        if (value := getattr(handler, name, None)) is not None and _MODES.get(name, mode) == mode
        and (key not in origins or origins[key].kind == "default")
    }  # fmt: skip
    if not said:
        return options
    parser, keys = keys_of_serve()
    by_name: dict[str, Key] = {key.name: key for key in keys}
    changed, origins = argparse.Namespace(**vars(options)), dict(origins)
    for name, value in said.items():
        key = by_name[ATTRIBUTES[name]]
        origin = Origin("class", f"{handler.__module__}:{handler.__qualname__}.{name}")
        try:
            read = value_of_file(parser, key, value)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from None
        if name == "timeout" and not _waits_longer(read):
            continue
        setattr(changed, key.dest, read)
        origins[key.dest] = origin
    changed.origins = origins
    return changed


def _waits_longer(seconds: float | None) -> bool:
    from jackfield.limits import Limits

    usual = Limits().idle_timeout
    return seconds is not None and usual is not None and seconds > usual
