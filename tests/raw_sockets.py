"""Running a program without the privilege to open raw sockets, whoever runs the tests."""

from __future__ import annotations

import ctypes
import socket
from typing import Any

CAP_NET_RAW = 13  # capabilities(7)
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # prctl(2)


def may_open_raw_sockets() -> bool:
    """Whether this process may."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return False
    return True


def without_raw_sockets() -> dict[str, Any]:
    """Options for ``subprocess`` with which the program may not."""
    return {"preexec_fn": _drop} if may_open_raw_sockets() else {}


def _drop() -> None:
    """In the child before it becomes the program: out of the bounding set, which limits root as well."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_CAPBSET_READ, CAP_NET_RAW, 0, 0, 0) == 1 and prctl(PR_CAPBSET_DROP, CAP_NET_RAW, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "cannot drop CAP_NET_RAW")
