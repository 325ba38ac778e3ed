"""The service manager that started this process, and what it is told.

systemd's way is sd_notify(3), datagrams of a few lines; that of s6 is a newline on a descriptor.  What is told is an
aid to the manager and never a condition of serving: one that has gone away, or that does not read, costs a line in the
log.  Without a manager nothing is opened and nothing is sent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket as _socket_std
import time
from collections.abc import MutableMapping

from jackfield.errors import StartError

__all__ = ["Notifier", "ReadyDescriptor"]

_log = logging.getLogger("jackfield.service")

#: Seconds that a manager has to take what must not be lost. It reads at once, unless it is stopped or drowned in
#: messages: then its queue is full (net.unix.max_dgram_qlen, unix(7)).
PATIENCE = 1.0

# systemd reads 4,096 bytes of a message (PIPE_BUF) and throws a longer one away.
_LONGEST_STATUS = 1000

# sd_watchdog_enabled(3): 0 is no time, and 2**64 - 1 is systemd's "never".
_LONGEST_WATCHDOG = 2**64 - 2


class Notifier:
    """Tells the service manager that this process is ready, reloads, stops, lives.

    No call raises an OSError, and each may be made from any thread; :meth:`alive` never waits, the others a second at
    most.  No descriptor is kept, so that nothing is inherited by children and a manager that was replaced is found
    again.

    :param address: of the manager's socket, as ``$NOTIFY_SOCKET`` has it: a path, or ``@name`` in the abstract
        namespace.  None: there is no manager, and every call returns at once.
    :param watchdog: seconds without :meth:`alive` after which the manager takes this process for hung; None if it does
        not watch.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self.watchdog = watchdog
        self._address = _sockaddr(address)
        self._failing = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Notifier:
        """What ``$NOTIFY_SOCKET``, ``$WATCHDOG_USEC`` and ``$WATCHDOG_PID`` say, which are taken out: a child that
        inherited them would speak in this process's name.

        The watchdog is ours unless ``$WATCHDOG_PID`` names another process (sd_watchdog_enabled(3)).  What cannot be
        meant is told in the log, and is as if it were not there.

        :param environment: default ``os.environ``.
        """
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", None)
        microseconds, pid = variables.pop("WATCHDOG_USEC", None), variables.pop("WATCHDOG_PID", None)
        return cls(address, _watchdog(microseconds) if pid in (None, str(os.getpid())) else None)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which another process finds the same manager; none where there is none."""
        if self._address is None:
            return {}
        watchdog = {} if self.watchdog is None else {"WATCHDOG_USEC": str(int(self.watchdog * 1_000_000))}
        return {"NOTIFY_SOCKET": str(self._address).replace("\0", "@", 1), **watchdog}

    def __bool__(self) -> bool:
        """Whether there is a manager to tell."""
        return self._address is not None

    def ready(self, status: str = "") -> bool:
        """It serves: at the start, and when a reload is done. Whether the manager was told, as for all that follow."""
        return self.send("READY=1", *_status(status))

    def reloading(self, status: str = "") -> bool:
        """A reload has begun; :meth:`ready` ends it. The clock's reading lets the manager tell this reload from one
        before (systemd 253, Type=notify-reload)."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", *_status(status))

    def stopping(self, status: str = "") -> bool:
        """It was asked to stop, and will."""
        return self.send("STOPPING=1", *_status(status))

    def status(self, status: str) -> bool:
        """One line for people, as ``systemctl status`` shows it."""
        return self.send(*_status(status))

    def main_pid(self, pid: int) -> bool:
        """Another process is the service from now on, and whatever it says counts."""
        return self.send(f"MAINPID={pid}")

    def alive(self) -> bool:
        """It is not hung. Never waits: what is told on a server's loop must not be what holds it."""
        return self.send("WATCHDOG=1", patience=0.0)

    def send(self, *assignments: str, patience: float = PATIENCE) -> bool:
        """Send ``NAME=value`` lines as one message; whether it was sent. Waits ``patience`` seconds at most."""
        if self._address is None or not assignments:
            return False
        try:
            with _socket_std.socket(_socket_std.AF_UNIX, _socket_std.SOCK_DGRAM) as sock:
                sock.settimeout(patience)  # 0 is "do not wait"
                # Sent by sendto, not by a connected socket: systemd looks for SCM_CREDENTIALS, which the kernel adds
                # by itself for a receiver that asked for them (unix(7), SO_PASSCRED).
                sock.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)
        except OSError as error:  # TimeoutError is one, too
            self._note(error)
            return False
        self._failing = False
        return True

    def _note(self, error: OSError) -> None:
        if not self._failing:  # once, until it goes well again: a watchdog would say it for ever
            self._failing = True
            _log.warning(
                "the service manager is not told how this server is: %s (NOTIFY_SOCKET was %r)",
                error.strerror or error, self._shown,
            )  # fmt: skip

    @property
    def _shown(self) -> str:
        return (self._address or "").replace("\0", "@", 1)


class ReadyDescriptor:
    """A descriptor on which whoever started this process waits for a newline: s6's notification-fd, or a script's pipe.

    If the process ends before it is ready, that reader finds the end of the file instead.

    :param number: 3 or more; it was inherited, and is this object's from now on. Default -1: there is none, and nothing
        is told.
    :raises StartError: it is not open, or not for writing; one line that says what to do.
    """

    def __init__(self, number: int = -1) -> None:
        self._fd = -1
        if number < 0:
            return
        how = f"--ready-fd {number}"
        if number < 3:
            # To close one of them would give its number to the next file or socket that is opened.
            raise StartError(f"{how}: 0, 1 and 2 are input, output and errors; pass another, e.g. --ready-fd 3 3>ready")
        try:
            writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            # Whatever this process opened itself is close-on-exec (PEP 446), and nothing that it inherited is.
            inherited = os.get_inheritable(number)
        except (OSError, OverflowError):
            inherited = writable = False
        if not inherited:
            raise StartError(f"{how}: no such descriptor is open; pass it on, e.g. {how} {number}>ready")
        if not writable:
            raise StartError(f"{how}: it is open for reading only; pass one to write to, e.g. {how} {number}>ready")
        os.set_inheritable(number, False)
        self._fd = number

    def ready(self) -> None:
        """Write the newline and close it; any number of times."""
        if self._fd >= 0:
            try:
                os.write(self._fd, b"\n")
            except OSError as error:
                if error.errno != errno.EPIPE:  # that one only has lost interest
                    _log.warning("--ready-fd %d: cannot write to it: %s", self._fd, error.strerror)
            self.close()

    def close(self) -> None:
        """Close it without a word; any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _sockaddr(address: str | None) -> str | None:
    """What sendto(2) takes; None where there is nobody, or nobody whom this could reach."""
    if not address:
        return None
    if address.startswith("/") and "\0" not in address:
        return address
    if address.startswith("@") and len(address) > 1:
        return "\0" + address[1:]
    # vsock:CID:PORT is for the payload of a virtual machine that is its own init (systemd 254).
    _log.warning("NOTIFY_SOCKET=%r is neither a path nor a name after @: the service manager is not told", address)
    return None


def _watchdog(microseconds: str | None) -> float | None:
    if microseconds is None:
        return None
    digits = microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= 20
    if not digits or not 1 <= int(microseconds) <= _LONGEST_WATCHDOG:
        _log.warning("WATCHDOG_USEC=%r is no number of microseconds: the watchdog is not fed", microseconds)
        return None
    return int(microseconds) / 1_000_000


def _status(text: str) -> list[str]:
    """A line of its own: a newline in it would begin another assignment."""
    words = "".join(character if character.isprintable() else " " for character in text)
    return [f"STATUS={words[:_LONGEST_STATUS]}"] if words else []
