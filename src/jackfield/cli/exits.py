"""What the command's exit code says.

Where the neighbours agree, theirs: 2 for a bad flag is argparse's and everybody's, 3 for an application that could not
start is uvicorn's, 130 is 128 + SIGINT, as shells count it.
"""

OK = 0
"""Done; for a server: it was asked to stop, and stopped."""

FAILED = 1
"""It broke while running; for ``connect``: the network failed or an expectation did not come true."""

USAGE = 2
"""The command line says something that cannot be meant."""

NOT_STARTED = 3
"""The server could not start: an import, a bind, a permission."""

INTERRUPTED = 130
"""Ctrl-C cut it short; for a server only the second Ctrl-C, the first is an orderly stop."""
