"""The threads on which servers run in the background, and their end with the process."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import Any

#: The threads that serve, and their servers.
in_background: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()

#: Seconds that a server in the background has to end with the process.
_LAST_SECONDS = 2.0


@atexit.register
def _end_with_the_process() -> None:
    """CPython ends a daemon thread in the midst of whatever it does (pthread_exit(3)), and unwinding its stack meets
    those of green threads: the process could crash on its way out."""
    for thread, server in list(in_background.items()):
        if thread.is_alive():
            server.stop(0)
            thread.join(_LAST_SECONDS)
