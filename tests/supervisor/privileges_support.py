"""Programs that give their rights up, each in a process of its own, as nobody can take them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

SECONDS = 30.0
"""What one such program may take on a machine that is busy with other things."""

as_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux, and root, to give something up"
)  # fmt: skip

# All is imported first: Python itself may be where only root can read it.
_BEGINNING = """\
import ctypes, grp, json, os, pwd, subprocess, sys, threading
from jackfield.errors import StartError
from jackfield.supervisor.privileges import Privileges, is_root
from jackfield.supervisor.rights import Kernel

said = {}

def drop(user, group=None, *, kernel=None, **more):
    try:
        Privileges.look_up(user, group, **more).drop(kernel)
    except StartError as error:
        said["refused"] = str(error)

def note(name="status"):
    with open("/proc/self/status") as status:
        said[name] = status.read()
    said["euid"] = os.geteuid()

"""


def said_by(program: str, before: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """Run a program that has what ``_BEGINNING`` defines, and return what it has put into ``said``.

    :param before: a command that is to start it, such as ``unshare``.
    """
    done = subprocess.run(
        [*before, sys.executable, "-c", f"{_BEGINNING}{program}\nprint(json.dumps(said))"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    said: dict[str, Any] = json.loads(done.stdout)
    return said
