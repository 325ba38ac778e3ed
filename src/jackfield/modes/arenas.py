"""glibc's arenas: how many heaps the threads of a server have between them."""

from __future__ import annotations

import os
import sys

__all__ = ["ARENAS", "share_arenas"]

#: The heaps that all threads share. Who allocates while another has the heap waits for it; in CPython nearly nobody
#: does, as a thread has the interpreter for itself then.
ARENAS = 2

_M_ARENA_MAX = -8  # malloc.h


def share_arenas() -> bool:
    """Have glibc keep :data:`ARENAS` heaps for all threads; False where it is not there, or the user has said how many.

    By itself it makes one for each thread until there are eight for each processor (mallopt(3), M_ARENA_MAX). Each
    keeps some 40 KiB that its thread has touched, also when the thread is gone: half of what a server's memory grew by
    when short connections had come and gone. For a process that is a server's, from the thread that starts it.
    """
    if os.environ.get("MALLOC_ARENA_MAX") or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS) == 1)
    except (ImportError, OSError, AttributeError):
        return False  # built without ctypes, or musl, which has no arenas
