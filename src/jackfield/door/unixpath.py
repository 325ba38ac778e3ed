"""Unix sockets in the file system: a path is taken only where nobody is, and given back only if it is still ours."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket as _socket_std
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from jackfield.address import Address
from jackfield.door.options import set_asked_options
from jackfield.door.reasons import explain_unix
from jackfield.errors import StartError

__all__ = ["SocketFile", "clear_stale_unix_path", "open_unix"]

DEFAULT_MODE = 0o660
"""Owner and group.  0666 would leave all protection to the directory, and one forgotten directory lets everybody in."""

# sun_path with its closing NUL: 108 bytes on Linux, 104 elsewhere (unix(7)).
_LONGEST = 107 if sys.platform == "linux" else 103
_TRIES = 8
_LOCK_WAIT = 1.0  # seconds
_MODE = re.compile(r"[0-7]{3,4}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_FILE_OPTIONS = ("mode", "owner", "group")
_MOST_NUMBER = 2**32 - 2  # -1 means "no change" to the kernel (chown(2))


@dataclass(frozen=True, slots=True)
class _Access:
    """Who may connect: the permissions of the file, and its user and group by number, -1 as the system makes them."""

    mode: int
    owner: int
    group: int

    @property
    def first_mode(self) -> int:
        """What the file is made with: nobody's, as long as it is not yet of the user and group that it is to be of."""
        return self.mode if self.owner == self.group == -1 else 0


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file that a socket of ours made: the device and inode tell it from whatever else may take its path."""

    path: str
    device: int
    inode: int
    process: int

    @classmethod
    def at(cls, path: str, final: str) -> SocketFile:
        """What lies at ``path`` now and will be found at ``final``."""
        status = os.lstat(path)
        # Absolute, as the program may change its directory before it closes the socket.
        return cls(os.path.abspath(final), status.st_dev, status.st_ino, os.getpid())

    def remove(self) -> bool:
        """Unlinks it if it is still the same file, in the process that made it; whether it did.  Never raises OSError.

        A forked child has the parent's sockets, and closing its copies must not make the parent unreachable.
        """
        if self.process != os.getpid():
            return False
        with _alone_in(os.path.dirname(self.path)):
            return self.remove_locked()

    def remove_locked(self) -> bool:
        """:meth:`remove` for whoever holds the directory's lock already."""
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
                return True
        return False


def open_unix(
    address: Address, *, backlog: int, socket_class: type[_socket_std.socket]
) -> tuple[_socket_std.socket, SocketFile | None]:
    """A bound socket, listening unless it is for datagrams, and the file that it made (none in the abstract namespace).

    :raises StartError: a live server or something that is no stale socket has the path, there is no such user or group,
        or the system refuses.  What is there stays untouched, and nothing is left behind.
    """
    kind = _type_of(address)
    path = address.path
    if path.startswith("@"):
        return _open_abstract(address, kind, backlog, socket_class), None
    access = _access_of(address)
    if not path or "\0" in path:
        raise StartError(f"cannot listen on {address}: that is no path; write e.g. unix:/run/x.sock")
    if len(os.fsencode(path)) > _LONGEST:
        raise StartError(
            f"cannot listen on {address}: the path has {len(os.fsencode(path))} bytes and the system takes {_LONGEST};"
            " choose a shorter one, e.g. below /run, or one relative to the working directory"
        )
    try:
        with _alone_in(os.path.dirname(path)):
            for _ in range(_TRIES):
                stale = _look_at(address)
                sock = socket_class(_socket_std.AF_UNIX, kind)
                try:
                    set_asked_options(sock, address)
                    file = _bind_and_place(sock, path, access, backlog, stale)
                except BaseException:
                    sock.close()
                    raise
                if file is not None:
                    return sock, file
                sock.close()  # the path changed hands meanwhile: look again
    except _NotGivenError as error:
        raise StartError(f"cannot listen on {address}: {error}") from error.__cause__
    except OSError as error:
        raise explain_unix(error, address) from error
    raise StartError(f"cannot listen on {address}: other programs keep making and removing it; choose another path")


def clear_stale_unix_path(path: str | bytes) -> None:
    """Unlinks ``path`` if it is a socket that nobody is bound to; in every other case does nothing, silently.

    For the classes that bind as the standard library does: the socket file of a server that died, which the standard
    library leaves behind, would make bind(2) fail.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:  # unnamed, or in the abstract namespace: no file
        return
    with contextlib.suppress(OSError), _alone_in(os.path.dirname(text)):
        if _is_stale(text):
            os.unlink(text)


# --- looking ----------------------------------------------------------------------------------------------------------


class _Answer(Enum):
    SOMEBODY = "a socket is bound to it"
    NOBODY = "its socket is gone"
    GONE = "the file is gone"
    UNKNOWN = "no permission to ask"


def _ask(path: str) -> _Answer:
    """Whether a live socket is behind a socket file, without disturbing it.

    connect(2) finds the socket by the file's inode, and refuses (ECONNREFUSED) where there is none; only then does it
    compare the types (EPROTOTYPE).  So a datagram socket asks of streams too, and no server accepts a connection that
    nobody wanted; it even finds a stream that is bound and does not listen yet.
    """
    with _socket_std.socket(_socket_std.AF_UNIX, _socket_std.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return _Answer.NOBODY
        except FileNotFoundError:
            return _Answer.GONE
        except OSError as error:
            # EPERM comes from a live datagram socket that is connected to somebody else (unix(7)).
            known = error.errno in (errno.EPROTOTYPE, errno.EPERM, errno.EAGAIN, errno.EISCONN)
            return _Answer.SOMEBODY if known else _Answer.UNKNOWN
    return _Answer.SOMEBODY


def _look_at(address: Address) -> bool:
    """Whether a stale socket is to be replaced, False if the path is free; refuses everything else."""
    path = address.path
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        problem = f"it is a directory; name a file in it, e.g. {address.scheme}:{path.rstrip('/')}/x.sock"
    elif stat.S_ISLNK(status.st_mode):
        problem = "it is a symbolic link, which is left alone; name the path that it points to, or remove it"
    elif not stat.S_ISSOCK(status.st_mode):
        problem = "it is a file and no socket, and is left alone; move it away or choose another path"
    else:
        match _ask(path):
            case _Answer.NOBODY:
                return True
            case _Answer.GONE:
                return False
            case _Answer.SOMEBODY:
                problem = f"a server is using it; stop that one (`ss -xlp src {path}`) or choose another path"
            case _Answer.UNKNOWN:
                problem = "a socket is there that may not be asked whether it lives; remove it or choose another path"
    raise StartError(f"cannot listen on {address}: {problem}")


def _is_stale(path: str) -> bool:
    """A socket file with nobody behind it.

    Asked again just before such a file goes, since it may have come to life: a new file there can have the very inode
    number of the old one, which nothing held any more.
    """
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode) and _ask(path) is _Answer.NOBODY
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _alone_in(directory: str) -> Iterator[None]:
    """Keeps other Jackfield processes from looking and placing in one directory at the same time.

    Between looking at a stale file and replacing it, another server that starts could have replaced it already.  The
    lock is on the directory (flock(2)), so no lock file stays behind.  It is a courtesy: where it is not to be had
    (no permission, a network file system, somebody who does not let go), things go on without it after a second.
    """
    import fcntl  # here, as Windows has none; it has no Unix sockets in Python either

    try:
        descriptor = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.005)
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


# --- binding ----------------------------------------------------------------------------------------------------------


def _bind_and_place(
    sock: _socket_std.socket, path: str, access: _Access, backlog: int, stale: bool
) -> SocketFile | None:
    """None where the path is no longer what it was seen to be (``stale`` or free), and nothing has been changed."""
    # Linux makes the file with the permissions of the socket's own inode, cut by the umask; so it is narrow from its
    # first moment.  Other systems refuse this, and have the temporary name for it.
    with contextlib.suppress(OSError):
        os.fchmod(sock.fileno(), access.first_mode)
    aside = _name_aside(path) if sock.type != _socket_std.SOCK_DGRAM else None
    if aside is None:
        return _bind_in_place(sock, path, access, backlog, stale)
    sock.bind(aside)
    file = None
    try:
        _set_mode(aside, access.mode, access.owner, access.group)
        sock.listen(backlog)
        file = SocketFile.at(aside, path)
        return file if _put(aside, path, stale) else None
    except BaseException:
        if file is not None:
            file.remove_locked()
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)


def _put(aside: str, path: str, stale: bool) -> bool:
    """Moves the finished socket to its path in one step: whoever sees the file there can connect."""
    if stale:
        if not _is_stale(path):
            return False
        os.rename(aside, path)
        return True
    try:
        os.link(aside, path)  # unlike rename(2), it never replaces what has turned up since
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.rename(aside, path)  # a file system without hard links
    return True


def _bind_in_place(
    sock: _socket_std.socket, path: str, access: _Access, backlog: int, stale: bool
) -> SocketFile | None:
    """For datagrams, as the name that a socket was bound to goes out as the sender's address of each reply (unix(7)):
    under a temporary one, clients could not tell who answers.  A bound datagram socket is ready, so nothing is lost.
    """
    if stale:
        if not _is_stale(path):
            return None
        os.unlink(path)
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    file = SocketFile.at(path, path)
    try:
        _set_mode(path, access.mode, access.owner, access.group)
        if sock.type != _socket_std.SOCK_DGRAM:
            sock.listen(backlog)
    except BaseException:
        file.remove_locked()
        raise
    return file


def _name_aside(path: str) -> str | None:
    """A name nobody has, in the same directory (rename(2) works within one file system); None if none is short enough.

    It begins as the real one does: ``ss`` shows a socket by the name that it was bound to.
    """
    token = secrets.token_hex(4)
    for name in (f"{path}.{token}", os.path.join(os.path.dirname(path), f".{token}")):
        if len(os.fsencode(name)) <= _LONGEST:
            return name
    return None


class _NotGivenError(Exception):
    """The system does not give the file to whom the options name; the text says what to do."""


def _set_mode(path: str, mode: int, owner: int = -1, group: int = -1) -> None:
    """Lets in who may come, and gives back what the umask, which belongs to the whole process, took from ``mode``.

    The group goes first, or another one would have the permissions for a moment; the user goes last, as nobody but its
    owner may change a file's permissions (chmod(2)), and until then that is who runs the server.
    """
    with _pinned(path) as pinned:
        _give(pinned, "group", group)
        if stat.S_IMODE(os.stat(pinned).st_mode) != mode:
            os.chmod(pinned, mode)
        _give(pinned, "owner", owner)


@contextlib.contextmanager
def _pinned(path: str) -> Iterator[str]:
    """A name for the socket file at ``path`` that stays with it whatever happens to the path."""
    if not hasattr(os, "O_PATH"):
        yield path
        return
    # chmod(2) would follow a symbolic link that somebody put there this moment; a descriptor cannot be swapped.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise FileExistsError(errno.EEXIST, "somebody replaced the socket file while it was being made", path)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _give(path: str, option: str, number: int) -> None:
    """The file goes to another user (``option`` owner) or group; -1 leaves it."""
    status = os.stat(path)
    if number in (-1, status.st_uid if option == "owner" else status.st_gid):
        return  # so who has no right to give it away needs none
    try:
        os.chown(path, *((number, -1) if option == "owner" else (-1, number)))
    except OSError as error:
        if error.errno == errno.EPERM:
            needed = "root (CAP_CHOWN)" if option == "owner" else "to be in that group, or root (CAP_CHOWN)"
            advice = f"it takes {needed} to set {option}={number}, and this is user {os.geteuid()}"
        elif error.errno == errno.EINVAL:
            advice = f"{option}={number} is nobody in this user namespace (user_namespaces(7))"
        else:
            raise
        raise _NotGivenError(f"{advice}; leave {option}= out or name another") from error


def _open_abstract(
    address: Address, kind: int, backlog: int, socket_class: type[_socket_std.socket]
) -> _socket_std.socket:
    names = ", ".join(f"{name}=" for name, _ in address.options if name in _FILE_OPTIONS)
    if names:
        raise StartError(f"cannot listen on {address}: an abstract name is no file, and open to all; leave {names} out")
    if sys.platform != "linux":
        raise StartError(f"cannot listen on {address}: only Linux has abstract names; write a path, unix:/run/x.sock")
    name = b"\0" + os.fsencode(address.path[1:])
    if len(name) > _LONGEST + 1:
        raise StartError(
            f"cannot listen on {address}: the system takes names of {_LONGEST} bytes; choose a shorter one"
        )
    try:
        sock = socket_class(_socket_std.AF_UNIX, kind)
        try:
            set_asked_options(sock, address)
            sock.bind(name)
            if kind != _socket_std.SOCK_DGRAM:
                sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise explain_unix(error, address) from error
    return sock


def _type_of(address: Address) -> int:
    return {
        "unix": _socket_std.SOCK_STREAM,
        "unixgram": _socket_std.SOCK_DGRAM,
        "unixpacket": _socket_std.SOCK_SEQPACKET,
    }[address.scheme]


def _access_of(address: Address) -> _Access:
    """What the options say, the names looked up; before anything is opened."""
    options = dict(address.options)
    mode = options.get("mode")
    if mode is not None and not _MODE.fullmatch(mode):
        raise StartError(f"cannot listen on {address}: mode={mode} is no file permission; write e.g. mode=660")
    return _Access(
        DEFAULT_MODE if mode is None else int(mode, 8),
        _number_of(address, "owner", options.get("owner")),
        _number_of(address, "group", options.get("group")),
    )


def _number_of(address: Address, option: str, text: str | None) -> int:
    """The number of a user (``option`` owner) or group, given as such or by name; -1 where nothing is said."""
    if text is None:
        return -1
    if _NUMBER.fullmatch(text) and int(text) <= _MOST_NUMBER:
        return int(text)
    import grp  # here, as Windows has neither, and a name may be asked of a directory service
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid if option == "owner" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        kind, table = ("user", "passwd") if option == "owner" else ("group", "group")
        advice = f"there is no {kind} {text!r}; see `getent {table}`, or write a number, e.g. {option}=1000"
        raise StartError(f"cannot listen on {address}: {advice}") from None
