"""Sockets that a service manager bound before it started this process: ``systemd:`` and ``systemd:NAME``.

The protocol is that of sd_listen_fds(3): ``$LISTEN_FDS`` descriptors from number 3 on, meant for the process that
``$LISTEN_PID`` names, with the names of ``$LISTEN_FDNAMES`` and colons between them.  systemd, s6's launchers and
``systemd-socket-activate`` speak it.

It is read once for the process, at the first use: the variables are taken out of the environment, so that no child
takes the descriptors for its own, and the descriptors are set to close at exec.
"""

from __future__ import annotations

import os
import socket as _socket_std
import threading
from collections.abc import MutableMapping
from dataclasses import dataclass

from jackfield.address import Address
from jackfield.door.adoption import adopt_descriptor
from jackfield.errors import StartError

__all__ = ["Activation", "activation", "open_activated"]

#: SD_LISTEN_FDS_START (sd_listen_fds(3)).
FIRST = 3

#: What sd_listen_fds_with_names(3) calls a descriptor that was passed without a name.
UNNAMED = "unknown"

# The first three, and LISTEN_PIDFDID of systemd 258, which holds beside LISTEN_PID.
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

_HOW = "start it by a .socket unit, or try it with `systemd-socket-activate -l 127.0.0.1:9999 …`"


@dataclass(frozen=True, slots=True)
class Activation:
    """What was passed to this process.

    :param sockets: each descriptor and its name, in the order of the numbers.
    :param problem: why there is none, as the end of a sentence that begins with the address.
    :param is_for_another: there are some, and another process was meant.
    """

    sockets: tuple[tuple[int, str], ...] = ()
    problem: str = ""
    is_for_another: bool = False

    @classmethod
    def read(cls, environment: MutableMapping[str, str]) -> Activation:
        """What the variables say, which are taken out of ``environment``; never raises."""
        pid, count, names, _ = (environment.pop(name, None) for name in _VARIABLES)
        if count is None:
            return cls(problem=f"no sockets were passed to this process (LISTEN_FDS is not set); {_HOW}")
        if not _is_number(count) or not int(count):
            return cls(problem=f"LISTEN_FDS={count!r} is no number of sockets; {_HOW}")
        if pid is None or not _is_number(pid):
            return cls(problem=f"LISTEN_FDS is set and LISTEN_PID={pid!r} is no process; {_HOW}")
        if int(pid) != os.getpid():
            return cls(
                problem=f"the sockets are for process {int(pid)} (LISTEN_PID), and this is {os.getpid()}; let the"
                " service manager start it directly, or in a shell with `exec`",
                is_for_another=True,
            )
        numbers = range(FIRST, FIRST + int(count))
        named = names.split(":") if names else []
        if len(named) != len(numbers):
            named = [UNNAMED] * len(numbers)
        for number in numbers:
            try:
                os.set_inheritable(number, False)
            except OSError:
                return cls(problem=f"LISTEN_FDS={count} were passed, but no descriptor {number} is open; {_HOW}")
        return cls(tuple(zip(numbers, (name or UNNAMED for name in named), strict=True)))

    @property
    def names(self) -> list[str]:
        """The names there are, each once."""
        return list(dict.fromkeys(name for _, name in self.sockets))

    def __bool__(self) -> bool:
        return bool(self.sockets)


_lock = threading.Lock()
_read: list[Activation] = []


def activation() -> Activation:
    """What was passed to this process; read from its environment the first time."""
    with _lock:
        if not _read:
            _read.append(Activation.read(os.environ))
        return _read[0]


def open_activated(
    address: Address, *, backlog: int, socket_class: type[_socket_std.socket], given: Activation | None = None
) -> list[_socket_std.socket]:
    """Sockets of our own for those that ``systemd:`` or ``systemd:NAME`` means; those passed stay open.

    A client that comes while they are not served waits in the queue of the manager's, who has them as well, and is
    served by the next process.  The path of a Unix socket is the manager's to remove.

    :param given: default :func:`activation`.
    :raises StartError: there is none, or one that cannot be served; nothing is left open.
    """
    passed = activation() if given is None else given
    if not passed:
        raise StartError(f"cannot listen on {address}: {passed.problem}")
    wanted = [(number, name) for number, name in passed.sockets if address.host in ("", name)]
    if not wanted:
        known = ", ".join(str(Address("systemd", name)) for name in passed.names)
        raise StartError(f"cannot listen on {address}: no socket of that name was passed; there is {known}")
    opened: list[_socket_std.socket] = []
    try:
        for number, name in wanted:
            shown = f"{Address('systemd', name)} (descriptor {number})"
            opened.append(adopt_descriptor(number, backlog=backlog, socket_class=socket_class, name=shown))
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened


def _is_number(text: str) -> bool:
    """Digits, and few of them: Python refuses to convert thousands, and no process has so many descriptors."""
    return text.isascii() and text.isdigit() and len(text) <= 7
