"""What the kernel knows of a process's rights, and the calls that take them away, each by itself.

Linux's alone: its ``/proc/self/status`` tells every right (proc_pid_status(5)), so that what was given up can be looked
at afterwards. Python has no prctl(2) and no capset(2); they are called in the C library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jackfield.errors import StartError

__all__ = ["SETGID", "SETPCAP", "SETUID", "Kernel", "Rights", "need_linux"]

#: Numbers of capabilities (linux/capability.h).
SETGID, SETUID, SETPCAP = 6, 7, 8

# linux/prctl.h
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

_CAPABILITY_VERSION_3 = 0x20080522  # sets of 64, each as two words (capset(2))

_SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one thread.

    :param uids: real, effective, saved and file system user.
    :param gids: the same of the group.
    :param groups: the supplementary ones.
    :param capabilities: ``Inh``, ``Prm``, ``Eff``, ``Bnd`` and ``Amb`` (capabilities(7)), a bit for each.
    :param no_new_privs: whether no program that it runs can have more than it has.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: Mapping[str, int]
    no_new_privs: bool

    @classmethod
    def parse(cls, status: str) -> Rights:
        """From the text of ``/proc/PID/status``, or of ``/proc/PID/task/TID/status``.

        :raises StartError: it does not tell one of them, as that of a sandbox which only imitates Linux.
        """
        fields = dict(re.findall(r"(?m)^(\w+):[ \t]*(.*?)[ \t]*$", status))
        try:
            return cls(
                _numbers(fields["Uid"]),
                _numbers(fields["Gid"]),
                _numbers(fields["Groups"]),
                {name: int(fields[f"Cap{name}"], 16) for name in _SETS},
                fields["NoNewPrivs"] != "0",  # "NoNewPrivs" is there since Linux 4.10
            )
        except KeyError as error:
            raise StartError(
                f"/proc/self/status does not tell {error.args[0]}, so that nobody can see which rights are left;"
                " start the program as its user in the first place"
            ) from None

    def may(self, capability: int) -> bool:
        """Whether the thread has that capability now."""
        return bool(self.capabilities["Eff"] >> capability & 1)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


class Kernel:
    """The calls, in a class so that a test can leave one out. Each raises OSError where the kernel refuses."""

    def rights(self) -> Rights:
        """Those of this thread."""
        need_linux()
        try:
            # Not as text: Python imports a codec late, and may be where this user cannot read it.
            return Rights.parse(Path("/proc/self/status").read_bytes().decode("ascii", "replace"))
        except OSError as error:
            raise StartError(
                f"cannot see which rights this process has ({error.strerror}: {error.filename}); mount /proc"
            ) from None

    def threads(self) -> int:
        """How many this process has, those of C libraries among them."""
        return len(os.listdir("/proc/self/task"))

    def set_groups(self, groups: Sequence[int]) -> None:
        """setgroups(2)."""
        os.setgroups(groups)

    def set_group(self, gid: int) -> None:
        """setresgid(2): real, effective and saved; the one of the file system goes with the effective one."""
        os.setresgid(gid, gid, gid)

    def set_user(self, uid: int) -> None:
        """setresuid(2)."""
        os.setresuid(uid, uid, uid)

    def empty_bounding(self) -> None:
        """No program that runs later can have a capability, not even one that is setuid root; takes CAP_SETPCAP."""
        # /proc/sys/kernel/cap_last_cap may be hidden; the kernel refuses the first number that is none (EINVAL).
        for capability in range(64):
            try:
                self._prctl(_PR_CAPBSET_DROP, capability)
            except OSError:
                if capability <= SETPCAP:
                    raise
                break

    def empty_capabilities(self) -> None:
        """Effective, permitted and inheritable (capset(2)), and with these the kernel empties the ambient set. Becoming
        another user does so only for who was root, and not where securebits say otherwise (capabilities(7))."""
        import ctypes

        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        self._checked(_libc().capset(header, (ctypes.c_uint32 * 6)()))

    def forbid_new_privileges(self) -> None:
        """PR_SET_NO_NEW_PRIVS: execve(2) gives nobody more than it has, setuid or not; for good."""
        self._prctl(_PR_SET_NO_NEW_PRIVS, 1)

    def ways_back(self, gid: int) -> list[str]:
        """What should fail for who is no longer root and does not; ``gid`` is the group that it is to be of, which may
        be 0. Who finds one has gone it."""
        found = []
        ways = [("setuid(0)", os.setuid)] + [("setgid(0)", os.setgid)] * (gid != 0)
        for name, call in ways:
            try:
                call(0)
            except OSError:
                continue
            found.append(name)
        return found

    def _prctl(self, option: int, argument: int) -> None:
        import ctypes

        # All five: the C function takes what it needs from the registers, and unused ones have to be 0 (prctl(2)).
        self._checked(_libc().prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))

    def _checked(self, result: int) -> None:
        import ctypes

        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def need_linux() -> None:
    """:raises StartError: this is another system."""
    if not sys.platform.startswith("linux"):
        raise StartError("only on Linux can rights be given up and be seen to be gone; start the program as its user")


def _libc() -> Any:
    import ctypes  # here: it takes as long to import as a server does to bind

    return ctypes.CDLL(None, use_errno=True)
