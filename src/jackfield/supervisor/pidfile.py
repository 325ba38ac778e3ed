"""``--pid FILE``: which process serves, for scripts, in a file that cannot lie for long.

The number in a file says nothing by itself: its process may have been killed, and the number be another's by now.  So
the file is locked by the process that it names, and the kernel takes the lock away with the process, however it ends.
A file that nobody has locked is stale and is taken over; one that is locked is that of a live process.

Readers never see half a number: the file is put in its place by rename(2), under the lock of the one before it.  (Only
where the file may be written and its directory may not, it is written where it is.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
import weakref

from jackfield.errors import StartError

__all__ = ["PidFile"]

#: Looks at a file that another process has locked, and seconds between them.  One that is just taking a stale file over
#: has locked it before its number is in it: a number is believed that has stood there for several looks.
_LOOKS = 20
_BELIEVED = 6
_PAUSE = 0.05

# A file with anything else in it is somebody's, and not a pid file: a mistyped --pid must not cost it.
_NUMBER = re.compile(rb"\s*[0-9]{0,20}\s*")
_MODE = 0o644


class PidFile:
    """A file with this process's number, from :meth:`take` to :meth:`release`. A context manager that does both.

    The lock is flock(2)'s: it belongs to the open file, so that another process which inherits the descriptor
    (:meth:`fileno`) can take the file over while this one still has it, without a moment in which a third one could.
    Forked children close theirs at once; one that lived on would keep the file locked.

    :param path: of the file; its directory must be one that this process may write to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.fspath(path)
        # Absolute, as the program may change its directory before the end.
        self._path = os.path.abspath(self._name)
        self._fd = -1
        self._process = 0

    def take(self, inherited: int = -1) -> PidFile:
        """Write this process's number into the file.

        :param inherited: the descriptor of the file as another process has it, which hands it over: it is taken though
            that process lives, and closed. Default -1: there is none.
        :raises StartError: a live process has it, or it cannot be written; one line that says what to do. What is there
            stays untouched.
        """
        if self._fd >= 0:
            return self
        try:
            old = self._lock_given(inherited) if inherited >= 0 else self._lock()
            try:
                self._check(old)
                self._fd = self._write(old)
            finally:
                os.close(old)
        except OSError as error:
            raise StartError(f"--pid {self._name}: cannot write it: {error.strerror}; name another file") from error
        self._process = os.getpid()
        _held.add(self)
        return self

    def fileno(self) -> int:
        """The descriptor that holds the lock, close-on-exec; to be passed to the process that takes the file over. -1
        where nothing is held."""
        return self._fd

    @property
    def held(self) -> bool:
        """Whether the file is still this process's: nobody has taken it over, moved it or removed it."""
        return self._fd >= 0 and self._is_ours(self._fd)

    def _is_ours(self, fd: int) -> bool:
        ours = b"%d\n" % os.getpid()
        return self._process == os.getpid() and _is_at(fd, self._path) and os.pread(fd, 64, 0) == ours

    def release(self) -> None:
        """Remove the file, if it is still ours, and let go of it; any number of times. Never raises OSError."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        _held.discard(self)
        with contextlib.suppress(OSError):
            if self._is_ours(fd):
                try:
                    os.unlink(self._path)
                except OSError:
                    # The directory is not ours to write to any more, after a change of the user: a number that is soon
                    # another's is worse than none.
                    os.ftruncate(fd, 0)
        os.close(fd)

    def __enter__(self) -> PidFile:
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    # --- taking -------------------------------------------------------------------------------------------------------

    def _lock(self) -> int:
        """The descriptor of what lies at the path, locked; it is made if there is nothing."""
        seen: list[tuple[int, int]] = []
        for look in range(_LOOKS):
            # Not through a symbolic link, which in a directory for everybody (/tmp) may lead anywhere; and a pipe that
            # nobody reads must not hold us.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self._path, flags, _MODE)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise StartError(f"--pid {self._name}: it is no regular file; name another one")
                if not _try_lock(fd):
                    seen.append((os.fstat(fd).st_ino, self._number_in(fd)))
                    steady = seen[-_BELIEVED:] == seen[-1:] * _BELIEVED
                    self._refuse(seen[-1][1], sure=steady, last=look == _LOOKS - 1)
                elif _is_at(fd, self._path):
                    locked, fd = fd, -1
                    return locked
            finally:
                if fd >= 0:
                    os.close(fd)
            # It changes hands just now: whoever has the lock of the old one puts a new one there.
            time.sleep(_PAUSE)
        raise StartError(f"--pid {self._name}: other processes keep making and removing it; name another file")

    def _number_in(self, fd: int) -> int:
        self._check(fd)
        return int(os.pread(fd, 64, 0).strip() or b"0")

    def _refuse(self, pid: int, *, sure: bool, last: bool) -> None:
        """Raise for a file that another process has; return where the next look may tell more."""
        if pid and (last or (sure and _is_alive(pid))):
            raise StartError(
                f"--pid {self._name}: process {pid} has it and is running; stop that one (kill {pid}), or name another"
                " file"
            )
        if last:
            raise StartError(f"--pid {self._name}: another process has it locked; name another file")

    def _lock_given(self, fd: int) -> int:
        """A descriptor of our own for the one inherited, which has to be that of the file, with the lock."""
        try:
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        except OSError:
            raise StartError(
                f"--pid {self._name}: descriptor {fd}, by which it was to be handed over, is not open"
            ) from None
        try:
            # It is granted to whoever has the lock already, which is what all descriptors of this open file have.
            if not (_is_at(own, self._path) and _try_lock(own)):
                raise StartError(f"--pid {self._name}: descriptor {fd} is not that of the process that has it")
            os.close(fd)
        except BaseException:
            os.close(own)
            raise
        return own

    def _check(self, fd: int) -> None:
        if _NUMBER.fullmatch(os.pread(fd, 64, 0)) is None:
            raise StartError(f"--pid {self._name}: it has something else in it than a pid; name another file")

    def _write(self, old: int) -> int:
        """Put a file with our number in the place of the one that we have locked; the descriptor of the new lock."""
        folder, name = os.path.split(self._path)
        # Nobody else makes this one: it takes the lock that we have. What lies there was left by one that was killed.
        temporary = os.path.join(folder, f".{name}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except PermissionError:
            # A file that was made for us, in a directory that is not ours: written where it is, under its lock.
            fd = fcntl.fcntl(old, fcntl.F_DUPFD_CLOEXEC, 0)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            return fd
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, b"%d\n" % os.getpid())
            os.rename(temporary, self._path)
        except BaseException:
            os.close(fd)
            for path in (temporary, *([self._path] if os.fstat(old).st_size == 0 else [])):
                with contextlib.suppress(OSError):  # the empty one is what this call has made, or no loss
                    os.unlink(path)
            raise
        return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether the open file is what lies at the path; an open file's number is no other's."""
    ours = os.fstat(fd)
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


#: Those that are held, for forked children.
_held: weakref.WeakSet[PidFile] = weakref.WeakSet()


def _close_in_child() -> None:
    for file in list(_held):
        _held.discard(file)
        os.close(file._fd)
        file._fd = -1


os.register_at_fork(after_in_child=_close_in_child)
