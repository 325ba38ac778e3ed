"""Privileges: who a process is to be once it has opened what takes root, and the way there, looked at afterwards.

Neighbours that let rights go and do not look have kept some: CPython's subprocess left the supplementary groups where
it was told of none (CVE-2023-6507). So nothing here is believed: what the kernel says afterwards is compared with what
was meant, and whoever has anything left does not go on.

What is given up:

- The user and the group, all four of each: real, effective, saved, file system.
- The supplementary groups: none stays, not even those that the user has when it logs in. A group is access to files,
  and a server needs those that were named for it: ``group``. systemd and HAProxy keep no other, nginx takes all.
- Every capability, also from what programs may get later: the ambient and the bounding set (capabilities(7)).
- What a setuid program would give (PR_SET_NO_NEW_PRIVS), unless that is wanted.

What the kernel does of itself and is left so: the process is no longer "dumpable" (PR_SET_DUMPABLE in prctl(2)), nor
are those that it forks. It still has in memory what it read as root, such as keys, so another process of its user may
neither trace it nor have its core. Cores are written where ``fs.suid_dumpable`` is 2, as systemd-coredump sets it: for
root to read. The tracebacks of :mod:`faulthandler` need none of this.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jackfield.errors import StartError
from jackfield.supervisor.rights import SETGID, SETPCAP, SETUID, Kernel, Rights, need_linux

__all__ = ["Privileges", "is_root"]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_MOST_NUMBER = 2**32 - 2  # -1 means "no change" to the kernel (setresuid(2))
_THREADS_END = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Privileges:
    """Who a process is to be; :meth:`look_up` makes it from what a person writes, and :meth:`drop` does it.

    :param uid: the user; None: this process stays who it is.
    :param gid: the group.
    :param name: what the user is called; None if its number has no name.
    :param home: its home directory.
    :param umask: what files that are made from then on are not to permit; None: as it is.
    :param no_new_privs: whether programs that it runs may not have more than it has.
    """

    uid: int | None = None
    gid: int | None = None
    name: str | None = None
    home: str = "/"
    umask: int | None = None
    no_new_privs: bool = False

    @classmethod
    def look_up(
        cls, user: str | None = None, group: str | None = None, *, umask: int | None = None,
        no_new_privs: bool | None = None,
    ) -> Privileges:  # fmt: skip
        """From names or numbers.

        :param user: None: the process stays who it is.
        :param group: the user's own where none is given.
        :param no_new_privs: None: True where there is a user.
        :raises StartError: there is no such user or group, the user is root, or a group is named without a user.
        """
        if user is None:
            if group is not None:
                raise StartError(f"group {group!r} goes with a user: root in another group is still root")
            return cls(umask=umask, no_new_privs=bool(no_new_privs))
        need_linux()
        uid, gid, name, home = _account(user)
        if uid == 0:
            raise StartError(f"user {user!r} is root, who gives nothing up: name another user")
        if group is not None:
            gid = _group(group)
        if gid is None:
            raise StartError(f"user {uid} is in no table of users that would tell its group: name that as well")
        return cls(uid, gid, name, home, umask, no_new_privs is None or no_new_privs)

    def __str__(self) -> str:
        return f"user {self.name or self.uid}"

    def drop(self, kernel: Kernel | None = None) -> None:
        """Become that, for good, with HOME, USER and LOGNAME of that user, and without root's XDG_RUNTIME_DIR.

        To be called before threads start: setresuid(2) reaches them all by way of the C library, what prctl(2) and
        capset(2) change is the calling thread's alone. Who is that user already, and has nothing to give up, needs no
        right for it.

        :param kernel: makes the calls; another one is for tests.
        :raises StartError: there are threads, it takes rights that this process has not, or something is left
            afterwards. Only in the first two cases the process is still who it was: it has to end in any case.
        """
        kernel = Kernel() if kernel is None else kernel
        if self.umask is not None:
            os.umask(self.umask)
        if self.uid is None and not self.no_new_privs:
            return
        before = kernel.rights()
        _wait_alone(kernel)
        if self.uid is not None and self.gid is not None:
            self._become(self.uid, self.gid, before, kernel)
        if self.no_new_privs:
            self._call("no_new_privs", kernel.forbid_new_privileges)
        left = [*self.left_of(kernel.rights(), bounding=before.may(SETPCAP))]
        if self.uid is not None and self.gid is not None:
            left += [f"{way} works" for way in kernel.ways_back(self.gid)]
            self._move_house()
        if left:
            raise StartError(f"rights were to be given up, and some are left: {', '.join(left)}; nothing is served")

    def _become(self, uid: int, gid: int, before: Rights, kernel: Kernel) -> None:
        changes = {*before.uids} != {uid} or {*before.gids} != {gid} or bool(before.groups)
        if changes and not (before.may(SETUID) and before.may(SETGID)):
            who = {0: "root without these", uid: "that user with more groups or ids"}.get(os.geteuid())
            raise StartError(
                f"only root can become {self} (CAP_SETUID, CAP_SETGID), and this is {who or f'user {os.geteuid()}'};"
                " start it as root, or name no user"
            )
        if before.may(SETPCAP):
            self._call("bounding set", kernel.empty_bounding)
        if changes:
            # In this order: each of them takes the right to do those before it.
            self._call("groups", lambda: kernel.set_groups(()))
            self._call(f"group {gid}", lambda: kernel.set_group(gid))
            self._call(f"user {uid}", lambda: kernel.set_user(uid))
        self._call("capabilities", kernel.empty_capabilities)

    def _call(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            # In a namespace that maps few ids, EINVAL is for one that it does not have; and who made it without root
            # may not set groups (user_namespaces(7), /proc/PID/setgroups).
            raise StartError(
                f"cannot become {self}: {what}: {error.strerror}; name one that this system or container knows and lets"
                " have, or start it as that user"
            ) from error

    def left_of(self, now: Rights, *, bounding: bool) -> Iterable[str]:
        """What ``now`` has that was to be given up, in words.

        :param bounding: whether the bounding set was to be emptied, too: that takes a capability of its own.
        """
        if self.uid is not None and self.gid is not None:
            for name, has, wanted in (("user ids", now.uids, self.uid), ("group ids", now.gids, self.gid)):
                if len(has) != 4 or {*has} != {wanted}:
                    yield f"{name} {'/'.join(map(str, has))}"
            if now.groups:
                yield f"groups {' '.join(map(str, now.groups))}"
            for name, bits in now.capabilities.items():
                if bits and (name != "Bnd" or bounding):
                    yield f"Cap{name} {bits:x}"
        if self.no_new_privs and not now.no_new_privs:
            yield "no_new_privs is not set"

    def _move_house(self) -> None:
        """As login(1) sets them: root's home, which the user may not read, is not where its programs should look."""
        os.environ["HOME"] = self.home
        for variable in ("USER", "LOGNAME"):
            os.environ.pop(variable, None)
            if self.name is not None:
                os.environ[variable] = self.name
        # It has to be the user's own (XDG Base Directory Specification).
        os.environ.pop("XDG_RUNTIME_DIR", None)


def _wait_alone(kernel: Kernel) -> None:
    """Until this thread is the only one; StartError if it does not become so.

    One that was joined may be there for a moment: until 3.12 CPython detaches its threads, and joins what they tell it,
    which is not the end of them for the kernel.
    """
    deadline = time.monotonic() + _THREADS_END
    while (threads := kernel.threads()) != 1:
        if time.monotonic() >= deadline:
            raise StartError(f"rights are given up before threads start, and {threads} are there; drop them earlier")
        time.sleep(0.001)


def is_root() -> bool:
    """Whether this process is root, and of the whole machine or container: who is root in a user namespace of its own
    only (``podman`` without root, ``unshare -r``) has the rights of an ordinary user outside."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        with open("/proc/self/uid_map", encoding="ascii") as opened:
            lines = [[int(word) for word in line.split()] for line in opened]
    except OSError:
        return True
    return all(outside == 0 for inside, outside, _ in lines if inside == 0)


# --- looking up -------------------------------------------------------------------------------------------------------


def _account(user: str) -> tuple[int, int | None, str | None, str]:
    """Number, group, name and home of a user."""
    import pwd  # here: Windows has none, and it may ask a directory service

    try:
        number = _number(user)
        entry = pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except (KeyError, ValueError):
        if number is not None:
            return number, None, None, "/"
        raise _unknown("user", user, "passwd", (one.pw_name for one in pwd.getpwall())) from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir or "/"


def _group(group: str) -> int:
    import grp

    number = _number(group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise _unknown("group", group, "group", (one.gr_name for one in grp.getgrall())) from None


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MOST_NUMBER else None


def _unknown(kind: str, name: str, table: str, known: Iterable[str]) -> StartError:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    guess = f"did you mean {near[0]}?" if near else f"see `getent {table}`, or write a number"
    return StartError(f"there is no {kind} {name!r}; {guess}")
