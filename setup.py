"""Builds the native twin of the reactor's inner loop where that can be done; Jackfield works the same without it.

``JACKFIELD_PURE=1`` leaves it out. ``JACKFIELD_SANITIZE=1`` builds it with the address and undefined-behaviour
sanitizers, for the tests. Everything else about the package is in pyproject.toml.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = ["-std=gnu11", "-O2", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unused-parameter"]
FLAGS += ["-Wno-missing-field-initializers", "-Wno-cast-function-type", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
# greenlet copies stacks away and back, which the red zones between a function's variables cannot survive.
SANITIZE += ["--param=asan-stack=0"]


def asked_for(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


class BuildNative(build_ext):
    """Builds it, or says in one line why not, and goes on."""

    def build_extension(self, extension: Extension) -> None:
        try:
            super().build_extension(extension)
        except Exception as error:
            if asked_for("JACKFIELD_SANITIZE"):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0][:80]
            print(
                f"jackfield: built without its native part ({reason}); it runs on the one in Python, slower. "
                "For the native one install a C compiler and Python's headers, then install jackfield again.",
                file=sys.stderr,
            )


native = Extension(
    "jackfield.reactor._native",
    sources=sorted(str(path) for path in Path("native").glob("*.c")),
    depends=["native/native.h"],
    libraries=["m"],
    extra_compile_args=FLAGS + (SANITIZE if asked_for("JACKFIELD_SANITIZE") else []),
    extra_link_args=SANITIZE[:1] if asked_for("JACKFIELD_SANITIZE") else [],
    optional=not asked_for("JACKFIELD_SANITIZE"),
)

wanted = sys.platform == "linux" and not asked_for("JACKFIELD_PURE")
setup(ext_modules=[native] if wanted else [], cmdclass={"build_ext": BuildNative})
