"""Builds the C programs of ``c/`` when they are first needed, and again when their text has changed."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from processes import Unable

SOURCES = Path(__file__).with_name("c")
BUILT = SOURCES / "built"

FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror")

#: Seconds that the compiler may take for one program.
SECONDS = 120.0


@cache
def program(name: str) -> Path:
    """Where the program ``name`` is. The compiler is ``cc``, or what CC says; Unable if there is none."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    source = SOURCES / f"{name}.c"
    text = "\0".join([*compiler, *FLAGS, source.read_text(), (SOURCES / "common.h").read_text()])
    path = BUILT / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists():
        try:
            BUILT.mkdir(exist_ok=True)
            # Built under another name first: two runs at once must not see half a program.
            with tempfile.TemporaryDirectory(dir=BUILT) as folder:
                unfinished = Path(folder, name)
                command = [*compiler, *FLAGS, "-o", str(unfinished), str(source)]
                subprocess.run(command, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
                unfinished.replace(path)
        except FileNotFoundError:
            raise Unable(f"a C compiler is needed, and there is no {compiler[0]}; install one or set CC") from None
        except subprocess.CalledProcessError as error:
            raise Unable(f"{source.name} could not be built: exit status {error.returncode}, see above") from None
        except OSError as error:
            raise Unable(f"the C programs cannot be built in {BUILT}: {error.strerror}") from None
    return path
