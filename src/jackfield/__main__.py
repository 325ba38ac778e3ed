"""``python -m jackfield`` is the same program as the ``jackfield`` command."""

import sys

from jackfield.cli import main

if __name__ == "__main__":
    sys.exit(main())
