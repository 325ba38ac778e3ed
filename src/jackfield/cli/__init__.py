"""The ``jackfield`` command."""

from jackfield.cli.app import main

__all__ = ["main"]
