"""What a server is told, from files, the environment and flags: one value for each key, and where it came from."""

from jackfield.cli.configuration.classes import with_class_attributes
from jackfield.cli.configuration.keys import Key, keys_of, keys_of_serve
from jackfield.cli.configuration.origins import Origin, level_of, naming_origins
from jackfield.cli.configuration.rereading import reread
from jackfield.cli.configuration.resolving import Configured, resolve

__all__ = [
    "Configured",
    "Key",
    "Origin",
    "keys_of",
    "keys_of_serve",
    "level_of",
    "naming_origins",
    "reread",
    "resolve",
    "with_class_attributes",
]
