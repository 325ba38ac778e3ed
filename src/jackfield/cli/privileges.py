"""The flags of ``serve`` that say whose rights it has, and what becomes of them between binding and loading a target.

In this order: what takes root is opened and read (addresses, the log, certificates and their keys), then the rights go,
and only then is the target loaded, which is code that need not have them.

Nobody serves other machines as root without having said so: one fault in a handler would be theirs to use. An address
that only this machine reaches (loopback, Unix) is a trial on a desk or inside a container, and is served.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
import sys

from jackfield.cli.arguments import Switch, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jackfield.address import Address
    from jackfield.cli.building import Bound
    from jackfield.supervisor.privileges import Privileges

__all__ = ["Plan", "configure"]


def _umask(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no umask: write it in octal, e.g. 027")
    return int(text, 8)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("privileges")
    group.add_argument(
        "--user", metavar="NAME|UID",
        help="become this user once the addresses are bound, before TARGET is loaded; takes root",
    )  # fmt: skip
    group.add_argument("--group", metavar="NAME|GID", help="with --user: its only group (default the user's own)")
    group.add_argument("--umask", metavar="MODE", type=_umask, help="what new files do not permit, in octal, e.g. 027")
    group.add_argument(
        "--no-new-privs", action=Switch,
        help="programs that it runs gain nothing from setuid (default with --user)",
    )  # fmt: skip
    group.add_argument("--allow-root", action="store_true", help="serve other machines as root")


class Plan:
    """What the flags mean for one run of ``serve``, from before anything is opened to the drop.

    :raises UsageError: the flags do not go together.
    :raises StartError: there is no such user or group.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        if options.group is not None and options.user is None:
            raise UsageError("--group goes with --user: root in another group is still root")
        self._says_root = options.allow_root
        self._drops = options.user is not None
        self._privileges: Privileges | None = None
        #: The log, if it is this run that makes it.
        self._new_log: str | None = None
        if options.umask is not None:
            os.umask(options.umask)  # now: it is for the log, too
        if self._drops or options.no_new_privs:
            from jackfield.supervisor.privileges import Privileges  # late: most servers have no use for it

            self._privileges = Privileges.look_up(
                options.user, options.group, umask=options.umask, no_new_privs=options.no_new_privs
            )
        if options.log_file is not None and not os.path.lexists(options.log_file):
            self._new_log = os.path.abspath(options.log_file)

    def refuse_root(self, addresses: Iterable[Address]) -> None:
        """Before anything is opened.

        :raises UsageError: root was not stated, and another machine could reach one of the addresses. What is a name,
            or somebody else's socket, is looked at by :meth:`carry_out`.
        """
        for address in addresses:
            if address.scheme not in ("fd", "systemd") and _is_open(address.host, address.is_unix):
                self._refuse(str(address))

    def carry_out(self, bound: Iterable[Bound]) -> None:
        """Once all is bound, and before a target is loaded: give the rights up, for good.

        :raises UsageError: as :meth:`refuse_root`.
        :raises StartError: the rights cannot be given up, or whoever has them no longer could not read the target.
        """
        from jackfield.address import parse_address

        bound = list(bound)
        for listener in (listener for one in bound for listener in one.listeners):
            address = parse_address(listener.location)
            if _is_open(address.host, address.is_unix):
                self._refuse(listener.location)
        targets = [one.options.app_dir for one in bound if one.options.target is not None]
        if self._privileges is None:
            return
        if self._drops:
            with _without_this_directory():
                _import_all_of_it()
            self._hand_over_log(self._privileges)
        self._privileges.drop()
        if self._drops:
            _check_what_it_may_read(str(self._privileges), targets)

    def _refuse(self, location: str) -> None:
        if not self._drops and not self._says_root and _is_root():
            raise UsageError(
                f"refusing to serve {location}, which other machines can reach, as root: give that up with --user NAME,"
                " or say --allow-root"
            )

    def _hand_over_log(self, privileges: Privileges) -> None:
        """The log that was made as root is its user's, so that this one may open it again after it was rotated."""
        import logging

        uid, gid = (-1 if number is None else number for number in (privileges.uid, privileges.gid))
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream and handler.baseFilename == self._new_log:
                try:
                    if _is_only_at(self._new_log, handler.stream.fileno()):
                        os.fchown(handler.stream.fileno(), uid, gid)
                except OSError as error:
                    _log("%s stays root's: %s; once rotated it cannot be opened", self._new_log, error.strerror)


def _is_open(host: str, is_unix: bool) -> bool:
    """Whether other machines can reach it; no for a name, which is an address once it is bound."""
    import ipaddress

    if is_unix:
        return False
    try:
        address = ipaddress.ip_address(host.partition("%")[0] or "::")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback


def _is_only_at(path: str, fd: int) -> bool:
    """Whether an open file is a plain one that has this name and no other: in a directory where others write, somebody
    may have put a link there, to a file of root's, just before it was opened."""
    there, opened = os.lstat(path), os.fstat(fd)
    same = (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)
    return same and stat.S_ISREG(opened.st_mode) and opened.st_nlink == 1 and opened.st_uid == os.geteuid()


def _is_root() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    from jackfield.supervisor.privileges import is_root

    return is_root()


def _log(text: str, *arguments: object) -> None:
    import logging

    logging.getLogger("jackfield.serve").warning(text, *arguments)


# --- what it reads afterwards -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_this_directory() -> Iterator[None]:
    """``python -m`` looks for modules in the working directory first, which may be the user's to write in: whoever
    imports as root must not find one there."""
    path = sys.path[:]
    with contextlib.suppress(OSError):  # it is gone, and has nothing to be found
        here = os.getcwd()
        sys.path[:] = [entry for entry in path if os.path.abspath(entry) != here]
    try:
        yield
    finally:
        sys.path[:] = path


def _import_all_of_it() -> None:
    """Whoever comes from /root has Python there as often as not, and could import nothing of it any more.

    A server imports much of itself late, to start early. All of that is imported here, and what it uses of the standard
    library with it: the echo needs no file afterwards, and a target none but its own and what that imports.
    """
    import importlib
    import pkgutil

    import jackfield

    modules = [jackfield]
    for name in _LATE:
        importlib.import_module(name)
    for package in modules:
        for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}."):
            if found.name not in _NOT_SERVED:
                with contextlib.suppress(ImportError):  # of another system, or of an extra that is not installed
                    modules.append(importlib.import_module(found.name))


#: What no server needs.
_NOT_SERVED = {"jackfield.testing", "jackfield.__main__"}

#: What the standard library itself imports only when it is needed, and a server may need.
_LATE = (
    "asyncio", "concurrent.futures.thread", "encodings.ascii", "encodings.idna", "encodings.latin_1", "linecache",
    "tomllib",
)  # fmt: skip


def _check_what_it_may_read(who: str, app_dirs: Iterable[str]) -> None:
    """As the new user: in one line what would else be told by an import that finds no module."""
    from jackfield.errors import StartError

    for directory in map(os.path.abspath, app_dirs):
        if not os.access(directory, os.R_OK | os.X_OK):
            raise StartError(
                f"{who} may not read {directory}, where TARGET is: name another --app-dir, or let that user in on the"
                " way there (chmod o+rx)"
            )
    for module in ("os", "jackfield"):
        directory = os.path.dirname(str(__import__(module).__file__))
        if not os.access(directory, os.R_OK | os.X_OK):
            _log("%s may not read %s, so nothing more is imported from there; install it elsewhere", who, directory)
