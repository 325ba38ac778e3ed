"""What the tests of the pages and of the examples share: the environment of the programs they run, and their stderr."""

from __future__ import annotations

import os
import re

#: The watchdog's report of a handler that held the loop: on a machine that is busy with other things it may be the
#: machine that held it.
_HELD = re.compile(r"^a handler has held the loop for .*\n(?:^ .*\n?)*", re.MULTILINE)

# What is said of this process's terminal, its size too: readline exports that, and pytest imports readline.
_TERMINAL = {"FORCE_COLOR", "NO_COLOR", "TERM", "LINES", "COLUMNS"}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in _TERMINAL},
    "PYTHONWARNINGS": "always::ResourceWarning,default::DeprecationWarning",  # on stderr, where the tests look
    "PYTHONUNBUFFERED": "1",
}


def complaints(errors: str) -> str:
    """What a program wrote to stderr, the watchdog's reports left out."""
    return _HELD.sub("", errors)
