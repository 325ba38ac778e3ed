"""User and group of a Unix path: set before anybody can connect, or one line that says why not."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jackfield.address import Address, parse_address
from jackfield.admission import Credentials
from jackfield.door import Listener, open_listeners, peer_of
from jackfield.door import unixpath as module
from jackfield.errors import AddressError, StartError

KINDS = {"unix": socket.SOCK_STREAM, "unixgram": socket.SOCK_DGRAM, "unixpacket": socket.SOCK_SEQPACKET}
each_kind = pytest.mark.parametrize("scheme", KINDS)
linux = pytest.mark.skipif(not os.path.exists("/proc/sys/net"), reason="what Linux's kernel does")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")

ME, MY_GROUP = os.geteuid(), os.getegid()


class Access(NamedTuple):
    """Who may connect to what lies at a path."""

    mode: int
    owner: int
    group: int


def access_of(path: str) -> Access:
    status = os.lstat(path)
    return Access(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(target: Any, stack: ExitStack, socket_class: type[socket.socket] = socket.socket) -> Listener:
    (listener,) = open_listeners(target, socket_class=socket_class)
    stack.callback(listener.close)
    return listener


def reason(target: Any) -> str:
    with pytest.raises(StartError) as caught:
        open_listeners(target, socket_class=socket.socket)
    text = str(caught.value)
    assert "\n" not in text and "Errno" not in text and text.startswith("cannot listen on ")
    return text


def another_group() -> int:
    """A group that this process may give its files to, and that they do not have by themselves."""
    if ME == 0:
        return MY_GROUP + 1
    others = [group for group in os.getgroups() if group != MY_GROUP]
    if not others:
        pytest.skip("needs root, or a user who is in a second group")
    return others[0]


# --- what can be written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "unix:/p?mode=660&owner=www-data&group=adm",
        "unix:/p?owner=0",
        "unixgram:/p?group=4294967294&mode=600",
        "unixpacket:p?owner=DOMAIN\\someone&group=users@example.org",
        "unix:/p?owner=größe",
    ],
)
def test_options_are_kept_as_they_were_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("/p?owner", "no name or number of a user: ''", "/p?owner=www-data"),
        ("/p?group=", "no name or number of a group: ''", "/p?group=www-data"),
        ("/p?owner=010", "name or number of a user: '010'", "/p?owner=www-data"),
        ("/p?owner=99999999999", "name or number of a user", "/p?owner=www-data"),
        ("/p?owner=a:b", "name or number of a user: 'a:b'", "/p?owner=www-data"),
        ("/p?owner=a%00", "name or number of a user", "/p?owner=www-data"),
        ("/p?owner=%0aroot", "name or number of a user", "/p?owner=www-data"),
        ("/p?group=two%20words", "name or number of a group", "/p?group=www-data"),
        ("/p?owner=a&owner=b", "option 'owner' twice", "/p?owner=a"),
        ("/p?user=a", "unknown option 'user' (there are: mode, owner, group,", "/p"),
        ("tcp://127.0.0.1:9999?owner=a", "'owner' is for unix:, unixgram:, unixpacket:, not", "tcp://127.0.0.1:9999"),
    ],
)
def test_what_is_no_user_or_group_is_told_in_one_line(text: str, problem: str, fix: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert problem in message and message.endswith(f"write e.g. {fix}") and "\n" not in message


# --- what comes of it -------------------------------------------------------------------------------------------------


@each_kind
def test_this_user_and_group_need_no_privilege(scheme: str, path: str, stack: ExitStack) -> None:
    for owner in {str(ME), pwd.getpwuid(ME).pw_name}:
        for group in {str(MY_GROUP), grp.getgrgid(MY_GROUP).gr_name}:
            listener = listen(f"{scheme}:{path}?owner={owner}&group={group}", stack)
            assert access_of(path) == (0o660, ME, MY_GROUP)
            assert listener.location == f"{scheme}:{path}"
            listener.close()
    assert not os.listdir(os.path.dirname(path))


@each_kind
def test_another_group(scheme: str, path: str, stack: ExitStack) -> None:
    group = another_group()
    listener = listen(f"{scheme}:{path}?group={group}&mode=620", stack)
    assert access_of(path) == (0o620, ME, group)
    with socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
        client.connect(path)
    listener.close()
    assert not os.listdir(os.path.dirname(path))


@as_root
@each_kind
def test_another_user_may_connect_and_nobody_else(
    scheme: str, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chmod(tmp_path, 0o755)
    monkeypatch.chdir(tmp_path)  # as others may not pass through the directories above it
    listen(f"{scheme}:s?owner=nobody&mode=600", stack)
    assert access_of("s") == (0o600, nobody.pw_uid, MY_GROUP)

    def may_connect(uid: int) -> bool:
        os.seteuid(uid)
        try:
            with socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
                client.connect("s")
            return True
        except PermissionError:
            return False
        finally:
            os.seteuid(0)

    assert may_connect(nobody.pw_uid) and not may_connect(nobody.pw_uid - 1)


@linux
def test_a_stale_path_and_one_without_room_for_a_temporary_name(tmp_path: Path, stack: ExitStack) -> None:
    directory = str(tmp_path)
    while len(directory) < 90:
        directory = os.path.join(directory, "d" * max(1, min(20, 89 - len(directory))))
        os.mkdir(directory)
    path = os.path.join(directory, "x" * (106 - len(directory)))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listen(f"unix:{path}?owner={ME}&group={MY_GROUP}&mode=606", stack)
    assert access_of(path) == (0o606, ME, MY_GROUP) and len(os.listdir(directory)) == 1


# --- no window --------------------------------------------------------------------------------------------------------


def seen_on_the_way(target: str, monkeypatch: pytest.MonkeyPatch) -> list[Access]:
    """Who could have connected, after each step that changes that."""
    seen: list[Access] = []
    bound: list[str] = []

    class Watching(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            bound.append(address)
            seen.append(access_of(address))

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def step(*args: Any) -> None:
            call(*args)
            if bound and os.path.lexists(bound[-1]):
                seen.append(access_of(bound[-1]))

        return step

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "chmod", watched(os.chmod))
        patch.setattr(module.os, "chown", watched(os.chown))
        (listener,) = open_listeners(target, socket_class=Watching)
    listener.close()
    return seen


def is_shut_until_it_is_right(seen: list[Access], wanted: Access) -> bool:
    """As long as another group would have what the right one is to have, nobody has anything. The user who runs the
    server has the file first, whoever is to have it in the end."""
    return seen[-1] == wanted and all(step.group == wanted.group or step.mode == 0 for step in seen)


@linux
@each_kind
def test_there_is_no_moment_in_which_others_could_connect(
    scheme: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = another_group()
    owner = pwd.getpwnam("nobody").pw_uid if ME == 0 else ME
    wanted = Access(0o660, owner, group)
    before = os.umask(0)  # which would help
    try:
        seen = seen_on_the_way(f"{scheme}:{path}?owner={owner}&group={group}", monkeypatch)
        assert seen[0].mode == 0 and is_shut_until_it_is_right(seen, wanted)

        # The broken case: what a server does that binds with its permissions and gives the file away afterwards.
        monkeypatch.setattr(module._Access, "first_mode", property(lambda self: self.mode))
        assert not is_shut_until_it_is_right(seen_on_the_way(f"{scheme}:{path}?group={group}", monkeypatch), wanted)
    finally:
        os.umask(before)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_who_is_not_there_is_named(path: str) -> None:
    text = reason(f"unix:{path}?owner=no-such-user")
    assert "there is no user 'no-such-user'; see `getent passwd`" in text
    assert "there is no group 'no-such-group'; see `getent group`" in reason(f"unixgram:{path}?group=no-such-group")
    assert "there is no user" in reason(Address("unix", path=path, options=(("owner", "a\0b"),)))
    assert "there is no user" in reason(Address("unix", path=path, options=(("owner", "4294967295"),)))
    assert not os.listdir(os.path.dirname(path))


@linux
def test_an_abstract_name_has_no_owner() -> None:
    assert "leave owner=, group= out" in reason("unix:@name?owner=root&group=root")


@each_kind
@pytest.mark.parametrize(
    ("option", "number", "said"),
    [
        ("owner", errno.EPERM, "it takes root (CAP_CHOWN) to set owner="),
        ("group", errno.EPERM, "it takes to be in that group, or root (CAP_CHOWN) to set group="),
        ("owner", errno.EINVAL, "is nobody in this user namespace"),
        ("group", errno.EIO, "Input/output error (EIO)"),
    ],
)
def test_a_file_that_cannot_be_given_away_is_not_left(
    scheme: str, option: str, number: int, said: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "chown", fail)
    text = reason(f"{scheme}:{path}?{option}={(ME if option == 'owner' else MY_GROUP) + 1}")
    assert said in text
    if number != errno.EIO:
        assert f"leave {option}= out" in text
    assert not os.listdir(os.path.dirname(path))


# --- who is there -----------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("scheme", ["unix", "unixpacket"])
def test_a_client_is_told_by_its_credentials(scheme: str, path: str, tmp_path: Path, stack: ExitStack) -> None:
    listener = listen(f"{scheme}:{path}", stack)
    for name in ("", str(tmp_path / "client")):
        with socket.socket(socket.AF_UNIX, KINDS[scheme]) as client:
            if name:
                client.bind(name)
            client.connect(path)
            connection, address = listener.socket.accept()
            with connection:
                assert address == name
                assert peer_of(connection, address) == Credentials(os.getpid(), ME, MY_GROUP)


def test_a_client_of_the_network_is_told_by_its_address(stack: ExitStack) -> None:
    listener = listen("tcp://127.0.0.1:0", stack)
    with socket.create_connection(listener.socket.getsockname()), listener.socket.accept()[0] as connection:
        assert peer_of(connection, ("::ffff:192.0.2.1", 5, 0, 0)) == ("192.0.2.1", 5)
        assert peer_of(connection, None) is None


def test_where_the_system_tells_nothing_it_is_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackfield.door.listener._SO_PEERCRED", -1)
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert peer_of(here, "/who") == "/who"
