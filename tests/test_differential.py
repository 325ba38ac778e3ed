"""The socket calls of the notes, one by one: the same script on the standard library's module and on ours.

Each script runs three times: on the standard library's `socket` in a plain thread, which says what is right, and on
`jackfield.socket` in a plain thread and in a green thread. What every call returned or raised (type, errno, and the
text of an OSError) has to be the same. The other end, where there is one, is always the standard library's.
"""

from __future__ import annotations

import array
import errno
import io
import os
import socket as _socket_std
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import jackfield.socket
from jackfield.reactor import run
from ports import closed_port

SHORT = 0.02
BIG = 16 << 20
LOOPBACK = ("127.0.0.1", 0)


class Trial:
    """One run of a script on one socket module: what it opens is closed, and what its calls did is written down."""

    def __init__(self, net: Any, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.said: list[tuple[str, Any]] = []
        self.opened = ExitStack()
        self.peers: list[threading.Thread] = []

    def __call__(self, label: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Make a call, write down how it ended, and return what it returned (None if it raised)."""
        try:
            value = call(*args, **options)
        except Exception as error:
            # The text of other errors is the interpreter's wording, and names functions.
            text = str(error).replace(str(self.folder), "folder") if isinstance(error, OSError) else ""
            self.said.append((label, (type(error), getattr(error, "errno", None), text)))
            return None
        self.said.append((label, plain(value)))
        return self.keep(value)

    def keep(self, value: Any) -> Any:
        """Close `value`, or the sockets in it, at the end."""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, _socket_std.socket):
                self.opened.enter_context(item)
        return value

    def socket(self, *args: Any, **options: Any) -> Any:
        return self.keep(self.net.socket(*args, **options))

    def peer(self, *args: Any) -> _socket_std.socket:
        """A socket of the standard library for the other end."""
        return self.keep(_socket_std.socket(*args))  # type: ignore[no-any-return]

    def beside(self, body: Callable[[], Any]) -> None:
        """Run `body` in a thread beside the script; it may well be cut off by the script's end."""

        def cut() -> None:
            with suppress(OSError):
                body()

        thread = threading.Thread(target=cut, daemon=True)
        self.peers.append(thread)
        thread.start()

    def pair(self) -> tuple[Any, _socket_std.socket]:
        """A TCP connection: our end of the module under trial, the other of the standard library."""
        with _socket_std.create_server(LOOPBACK) as listener:
            near = self.socket()
            near.connect(listener.getsockname())
            return near, self.keep(listener.accept()[0])

    def listener(self, backlog: int = 5) -> tuple[_socket_std.socket, Any]:
        listener = self.keep(_socket_std.create_server(LOOPBACK, backlog=backlog))
        return listener, listener.getsockname()

    def free_port(self, kind: int = _socket_std.SOCK_STREAM) -> int:
        """A port nobody listens on while the trial runs."""
        return self.opened.enter_context(closed_port(kind))

    def silent(self) -> Any:
        """The address of a listener whose queue is full: the kernel drops what else would connect."""
        _, address = self.listener(backlog=0)
        for _ in range(4):
            filler = self.peer()
            filler.settimeout(0.1)
            if filler.connect_ex(address):
                break
        return address


def plain(value: Any) -> Any:
    """What two runs have in common: ports, free names and descriptors differ, sockets are told by what they are."""
    if isinstance(value, _socket_std.socket):
        is_open = value.fileno() >= 0
        return ("socket", value.family, value.type, value.proto, value.gettimeout(), value.getblocking(), is_open)
    if isinstance(value, tuple) and len(value) in (2, 4) and isinstance(value[0], str) and isinstance(value[1], int):
        return (value[0], "a port" if value[1] > 1023 else value[1], *value[2:])
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes) and value.startswith(b"\0") and len(value) == 6:
        return b"\0free!"
    return value


def tried(script: Callable[[Trial], None], net: Any, folder: Path) -> list[tuple[str, Any]]:
    trial = Trial(net, folder)
    with trial.opened:
        script(trial)
    return trial.said


@pytest.fixture(params=["thread", "green"])
def same(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Trial], None]], None]:
    """Hold a script's run on ours against its run on the standard library's."""

    def in_place(script: Callable[[Trial], None], net: Any, name: str, place: str) -> list[tuple[str, Any]]:
        folder = tmp_path / name
        folder.mkdir()
        before = threading.active_count()
        if place == "green":
            said = run(tried, script, net, folder)
        else:
            said = tried(script, net, folder)
        assert threading.active_count() <= before + 5
        return said

    def compare(script: Callable[[Trial], None]) -> None:
        wanted = in_place(script, _socket_std, "s", "thread")
        got = in_place(script, jackfield.socket, "o", request.param)
        assert [label for label, _ in got] == [label for label, _ in wanted]
        differences = [
            f"{label}: ours {ours}, stdlib {theirs}"
            for (label, ours), (_, theirs) in zip(got, wanted, strict=True)
            if ours != theirs
        ]
        assert not differences, "\n".join(differences)
        assert len(wanted) > 4

    return compare


Same = Callable[[Callable[[Trial], None]], None]


def test_01_socket(same: Same) -> None:
    def script(t: Trial) -> None:
        make = t.net.socket
        t("default", make)
        for family in ("AF_INET", "AF_INET6", "AF_UNIX"):
            for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET", "SOCK_RDM", "SOCK_RAW"):
                t(f"{family} {kind}", make, getattr(t.net, family), getattr(t.net, kind))
        t("proto named", make, t.net.AF_INET, t.net.SOCK_STREAM, t.net.IPPROTO_TCP)
        t("proto of another type", make, t.net.AF_INET, t.net.SOCK_STREAM, t.net.IPPROTO_UDP)
        t("no such family", make, 250)
        t("no such type", make, t.net.AF_INET, 250)
        t("born non-blocking", make, t.net.AF_INET, t.net.SOCK_STREAM | t.net.SOCK_NONBLOCK)
        t("family of a wrong kind", make, "AF_INET")
        t("not inherited", t.socket().get_inheritable)
        bound = t.peer(t.net.AF_INET6, t.net.SOCK_DGRAM)
        t("found from fileno", make, fileno=os.dup(bound.fileno()))
        t("told and fileno", make, t.net.AF_INET6, t.net.SOCK_DGRAM, 0, os.dup(bound.fileno()))
        t("fileno -1", make, fileno=-1)
        t("fileno not open", make, fileno=1 << 20)
        t("fileno a text", make, fileno="3")
        reading, writing = os.pipe()
        t("fileno of a pipe", make, fileno=reading)
        os.close(reading)
        os.close(writing)
        near = t.socket()
        t("is the standard library's", isinstance, near, _socket_std.socket)
        t("unknown attribute", setattr, near, "no_such_thing", 1)
        previous = t.net.getdefaulttimeout()
        t.net.setdefaulttimeout(5)
        t("with a default timeout", make)
        t.net.setdefaulttimeout(previous)

    same(script)


def test_02_socketpair(same: Same) -> None:
    def script(t: Trial) -> None:
        for kind in (t.net.SOCK_STREAM, t.net.SOCK_DGRAM, t.net.SOCK_SEQPACKET):
            near, far = t("pair", t.net.socketpair, t.net.AF_UNIX, kind)
            near.sendall(b"one")
            near.send(b"two")
            t("first read", far.recv, 3)
            t("second read", far.recv, 10)
            t("names", lambda near=near: (near.getsockname(), near.getpeername()))
            near.close()
            if kind != t.net.SOCK_DGRAM:
                t("end of stream", far.recv, 10)
        t("default", t.net.socketpair)
        t("internet", t.net.socketpair, t.net.AF_INET)
        t("no such type", t.net.socketpair, t.net.AF_UNIX, 99)

    same(script)


def test_03_create_connection(same: Same) -> None:
    def script(t: Trial) -> None:
        listener, address = t.listener()
        t("plain", t.net.create_connection, address)
        t("by name", t.net.create_connection, ("localhost", address[1]))
        t("with a timeout", t.net.create_connection, address, 5)
        t("without blocking", t.net.create_connection, address, 0)
        near = t("from", t.net.create_connection, address, source_address=("127.0.0.2", 0))
        t("is from", lambda: near.getsockname())
        t("from elsewhere", t.net.create_connection, address, source_address=("192.0.2.1", 0))
        nobody = ("127.0.0.1", t.free_port())
        t("refused", t.net.create_connection, nobody)
        t("refused, as a group", t.net.create_connection, nobody, all_errors=True)
        t("timed out", t.net.create_connection, t.silent(), SHORT)
        t("no such service", t.net.create_connection, ("127.0.0.1", "no-such-service"))
        t("no address", t.net.create_connection, "127.0.0.1")
        listener.close()

    same(script)


def test_04_getaddrinfo(same: Same) -> None:
    def script(t: Trial) -> None:
        ask = t.net.getaddrinfo
        t("name", ask, "localhost", 80)
        t("name and type", ask, "localhost", 80, t.net.AF_INET, t.net.SOCK_STREAM)
        t("number", ask, "127.0.0.1", 80)
        t("number as bytes", ask, b"127.0.0.1", b"80")
        t("IPv6 with scope", ask, "fe80::1%1", 80, 0, t.net.SOCK_DGRAM)
        t("nobody, passive", ask, None, 0, t.net.AF_INET6, t.net.SOCK_STREAM, 0, t.net.AI_PASSIVE)
        t("nobody, active", ask, None, "80", type=t.net.SOCK_STREAM)
        t("canonical name", ask, "127.0.0.1", None, flags=t.net.AI_CANONNAME, type=t.net.SOCK_STREAM)
        t("a name where a number must be", ask, "localhost", 80, flags=t.net.AI_NUMERICHOST)
        t("the other family", ask, "127.0.0.1", 80, t.net.AF_INET6)
        t("no such service", ask, "127.0.0.1", "no-such-service")
        t("no such type", ask, "127.0.0.1", 80, 0, 99)
        t("an impossible name", ask, "a" * 64 + ".invalid", 80)
        t("an empty label", ask, "a..b", 80)
        t("a host of a wrong kind", ask, 5, 80)
        t("a port of a wrong kind", ask, "127.0.0.1", 1.5)
        t("gethostbyname", t.net.gethostbyname, "localhost")
        t("gethostbyname_ex", t.net.gethostbyname_ex, "127.0.0.1")
        t("gethostbyaddr", t.net.gethostbyaddr, "127.0.0.1")
        t("getnameinfo", t.net.getnameinfo, ("127.0.0.1", 80), t.net.NI_NUMERICHOST | t.net.NI_NUMERICSERV)
        t("getnameinfo of a name", t.net.getnameinfo, ("localhost", 80), 0)

    same(script)


def test_05_bind(same: Same) -> None:
    def script(t: Trial) -> None:
        first = t.socket()
        t("any port", first.bind, LOOPBACK)
        t("where", first.getsockname)
        t("again", first.bind, LOOPBACK)
        first.listen()
        t("in use", t.socket().bind, first.getsockname())
        t("by name", t.socket().bind, ("localhost", 0))
        t("all interfaces", t.socket().bind, ("", 0))
        t("not this machine's", t.socket().bind, ("192.0.2.1", 0))
        t("of the other family", t.socket().bind, ("::1", 0))
        t("port too large", t.socket().bind, ("127.0.0.1", 70000))
        t("port of a wrong kind", t.socket().bind, ("127.0.0.1", "80"))
        t("no tuple", t.socket().bind, "127.0.0.1:80")
        sixth = t.socket(t.net.AF_INET6)
        t("IPv6", sixth.bind, ("::1", 0, 0, 0))
        t("where in IPv6", sixth.getsockname)
        path = str(t.folder / "path")
        t("path", t.socket(t.net.AF_UNIX).bind, path)
        t("path taken", t.socket(t.net.AF_UNIX).bind, path)
        t("path in no folder", t.socket(t.net.AF_UNIX).bind, path + "/none")
        t("path too long", t.socket(t.net.AF_UNIX).bind, "x" * 200)
        free = t.socket(t.net.AF_UNIX, t.net.SOCK_DGRAM)
        t("free name", free.bind, "")
        t("which", free.getsockname)
        closed = t.socket()
        closed.close()
        t("closed", closed.bind, LOOPBACK)

    same(script)


def test_06_listen(same: Same) -> None:
    def script(t: Trial) -> None:
        for backlog in (0, 1, 2):
            listener = t.socket()
            listener.bind(LOOPBACK)
            t("listen", listener.listen, backlog)
            accepted = 0
            for _ in range(6):
                client = t.peer()
                client.settimeout(0.1)
                if client.connect_ex(listener.getsockname()):
                    break
                accepted += 1
            t("how many connect before the first accept", int, accepted)
        unbound = t.socket()
        t("unbound", unbound.listen)
        t("has a port", unbound.getsockname)
        t("says so", unbound.getsockopt, t.net.SOL_SOCKET, t.net.SO_ACCEPTCONN)
        t("again", unbound.listen, 10)
        t("negative", unbound.listen, -5)
        t("huge", unbound.listen, 1 << 30)
        t("too huge", unbound.listen, 1 << 40)
        t("of a wrong kind", unbound.listen, "5")
        t("datagrams", t.socket(t.net.AF_INET, t.net.SOCK_DGRAM).listen)
        t("connected", t.pair()[0].listen)
        unbound.close()
        t("closed", unbound.listen)

    same(script)


def test_07_setblocking(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()

        def state() -> tuple[Any, ...]:
            return near.gettimeout(), near.getblocking(), near.timeout

        t("at first", state)
        t("off", near.setblocking, False)
        t("state", state)
        t("kernel's flag", os.get_blocking, near.fileno())
        t("recv", near.recv, 10)
        t("accept", near.accept)
        t("recv with MSG_WAITALL", near.recv, 10, t.net.MSG_WAITALL)
        sent = 0
        try:
            while True:
                sent += near.send(b"x" * 65536)
        except BlockingIOError as error:
            t("send when full", lambda number=error.errno: (sent > 0, number))
        t("sendall when full", near.sendall, b"x" * BIG)
        t("connect", t.socket(t.net.AF_INET, t.net.SOCK_STREAM | t.net.SOCK_NONBLOCK).connect, t.silent())
        t("on", near.setblocking, 1)
        t("state", state)
        t("kernel's flag", os.get_blocking, near.fileno())
        t("recv that may not wait", near.recv, 10, t.net.MSG_DONTWAIT)
        far.sendall(b"data")
        t("recv", near.recv, 10)
        t("of a wrong kind", near.setblocking)
        near.close()
        t("closed", near.setblocking, False)

    same(script)


def test_08_accept(same: Same) -> None:
    def script(t: Trial) -> None:
        places = {t.net.AF_INET: LOOPBACK, t.net.AF_INET6: ("::1", 0), t.net.AF_UNIX: str(t.folder / "a")}
        for family, address in places.items():
            listener = t.socket(family)
            listener.bind(address)
            listener.listen()
            client = t.peer(family)
            client.connect(listener.getsockname())
            accepted, _ = t("accept", listener.accept)
            t("not inherited", accepted.get_inheritable)
            client.sendall(b"hello")
            t("works", accepted.recv, 10)
            listener.settimeout(SHORT)
            t("nobody comes", listener.accept)
            late = t.peer(family)
            t.beside(lambda late=late, listener=listener: late.connect(listener.getsockname()))
            listener.settimeout(10)
            t("somebody comes", listener.accept)
            listener.setblocking(False)
            t("nobody there", listener.accept)
            another = t.peer(family)
            another.connect(listener.getsockname())
            t.net.setdefaulttimeout(3)
            t("with a default timeout", listener.accept)
            t.net.setdefaulttimeout(None)
        t("not listening", t.socket().accept)
        t("datagrams", t.socket(t.net.AF_INET, t.net.SOCK_DGRAM).accept)
        listener.close()
        t("closed", listener.accept)

    same(script)


def test_09_connect(same: Same) -> None:
    def script(t: Trial) -> None:
        _, address = t.listener()
        nobody = ("127.0.0.1", t.free_port())
        near = t.socket()
        t("connect", near.connect, address)
        t("again", near.connect, address)
        t("by name", t.socket().connect, ("localhost", address[1]))
        refused = t.socket()
        t("refused", refused.connect, nobody)
        t("after a refusal", refused.connect, address)
        slow = t.socket()
        slow.settimeout(SHORT)
        t("timed out", slow.connect, t.silent())
        timed = t.socket()
        timed.settimeout(5)
        t("within a timeout", timed.connect, address)
        t("keeps the timeout", timed.gettimeout)
        timed.sendall(b"x")
        refused_in_time = t.socket()
        refused_in_time.settimeout(5)
        t("refused within a timeout", refused_in_time.connect, nobody)
        near.settimeout(5)
        t("connected, with a timeout since", near.connect, address)
        t("no such path", t.socket(t.net.AF_UNIX).connect, str(t.folder / "none"))
        deaf = t.peer(t.net.AF_UNIX)
        deaf.bind(str(t.folder / "deaf"))
        t("path of no listener", t.socket(t.net.AF_UNIX).connect, str(t.folder / "deaf"))
        busy = t.peer(t.net.AF_UNIX)
        busy.bind(str(t.folder / "busy"))
        busy.listen(0)
        t("path of a listener", t.socket(t.net.AF_UNIX).connect, str(t.folder / "busy"))
        hasty = t.socket(t.net.AF_UNIX)
        hasty.settimeout(SHORT)
        t("path of a listener whose queue is full, with a timeout", hasty.connect, str(t.folder / "busy"))
        t("port 0", t.socket().connect, ("127.0.0.1", 0))
        t("port too large", t.socket().connect, ("127.0.0.1", 70000))
        t("no tuple", t.socket().connect, "localhost")
        t("too many parts", t.socket().connect, ("127.0.0.1", 1, 2, 3))
        t("impossible name", t.socket().connect, ("a..b", 1))
        t("the other family", t.socket().connect, ("::1", address[1]))
        t("broadcast by TCP", t.socket().connect, ("255.255.255.255", 9))
        listening = t.socket()
        listening.listen()
        t("a listener", listening.connect, address)
        datagram = t.socket(t.net.AF_INET, t.net.SOCK_DGRAM)
        t("datagrams", datagram.connect, nobody)
        t("datagrams again", datagram.connect, address)
        near.close()
        t("closed", near.connect, address)

    same(script)


def test_10_connect_ex(same: Same) -> None:
    def script(t: Trial) -> None:
        _, address = t.listener()
        nobody = ("127.0.0.1", t.free_port())
        near = t.socket()
        t("connect", near.connect_ex, address)
        t("again", near.connect_ex, address)
        t("refused", t.socket().connect_ex, nobody)
        timed = t.socket()
        timed.settimeout(SHORT)
        t("timed out", timed.connect_ex, t.silent())
        timely = t.socket()
        timely.settimeout(5)
        t("within a timeout", timely.connect_ex, address)
        refused = t.socket()
        refused.settimeout(5)
        t("refused within a timeout", refused.connect_ex, nobody)
        eager = t.socket()
        eager.setblocking(False)
        t("without blocking", eager.connect_ex, t.silent())
        t("without blocking, again", eager.connect_ex, t.silent())
        t("no such path", t.socket(t.net.AF_UNIX).connect_ex, str(t.folder / "none"))
        t("the other family", t.socket().connect_ex, ("::1", 1))
        t("impossible name", t.socket().connect_ex, ("a..b", 1))
        t("no tuple", t.socket().connect_ex, 5)
        near.close()
        t("closed", near.connect_ex, address)

    same(script)


def test_11_close(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("close", near.close)
        t("again", near.close)
        t("fileno", near.fileno)
        t("the peer reads", far.recv, 10)
        calls: dict[str, tuple[Any, ...]] = {
            "recv": (1,),
            "recv_into": (bytearray(1),),
            "recvfrom": (1,),
            "recvfrom_into": (bytearray(1),),
            "recvmsg": (1,),
            "recvmsg_into": ([bytearray(1)],),
            "send": (b"x",),
            "sendall": (b"x",),
            "sendto": (b"x", ("127.0.0.1", 9)),
            "sendmsg": ([b"x"],),
            "shutdown": (t.net.SHUT_RDWR,),
            "accept": (),
            "listen": (),
            "getsockname": (),
            "getpeername": (),
            "getsockopt": (t.net.SOL_SOCKET, t.net.SO_ERROR),
            "setsockopt": (t.net.SOL_SOCKET, t.net.SO_KEEPALIVE, 1),
            "settimeout": (1,),
            "gettimeout": (),
            "dup": (),
            "detach": (),
            "get_inheritable": (),
            "makefile": (),
        }
        for name, args in calls.items():
            t(name, lambda name=name, args=args: type(getattr(near, name)(*args)))
        t("timeout of a closed", near.gettimeout)
        held, other = t.pair()
        file = held.makefile("rwb", 0)
        held.close()
        t("socket closed, file open", lambda: held.fileno() >= 0)
        t("file writes", file.write, b"still")
        t("peer reads", other.recv, 10)
        file.close()
        t("peer reads the end", other.recv, 10)
        t("file closed", file.write, b"x")
        unread, last = t.pair()
        last.sendall(b"never read")
        t("there", unread.recv, 1)
        unread.close()
        t("peer of one closed with unread data", last.recv, 10)
        with t.net.socket() as inside:
            t("inside with", inside.listen)
        t("after with", inside.fileno)
        fd = t.net.socket().detach()
        t("of a descriptor", t.net.close, fd)
        t("of a closed descriptor", t.net.close, fd)

    same(script)


def test_12_recv(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        flags = t.net
        far.sendall(b"0123456789")
        t("some", near.recv, 3)
        t("nothing", near.recv, 0)
        t("peek", near.recv, 100, flags.MSG_PEEK)
        t("peek and all", near.recv, 4, flags.MSG_PEEK | flags.MSG_WAITALL)
        t("rest", near.recv, 100)
        t("nothing of nothing", near.recv, 0)
        t("into nothing", near.recv_into, bytearray(0))
        t("negative", near.recv, -1)
        t("of a wrong kind", near.recv, "1")
        t("without a size", near.recv)
        t("too large", near.recv, 1 << 62)
        t("may not wait", near.recv, 1, flags.MSG_DONTWAIT)
        t("urgent, none there", near.recv, 1, flags.MSG_OOB)
        t("errors, none there", near.recv, 1, flags.MSG_ERRQUEUE)
        buffer = bytearray(4)
        t("into, more than fits", near.recv_into, buffer, 5)
        t("into, negative", near.recv_into, buffer, -1)
        t("into bytes", near.recv_into, b"1234")

        def in_pieces() -> None:
            for piece in (b"aa", b"bb", b"cc"):
                far.sendall(piece)
                threading.Event().wait(SHORT / 4)

        t.beside(in_pieces)
        t("all", near.recv, 6, flags.MSG_WAITALL)
        t.beside(in_pieces)
        t("all into", near.recv_into, bytearray(6), 6, flags.MSG_WAITALL)
        near.settimeout(SHORT)
        t("timed out", near.recv, 1)
        t("peek timed out", near.recv, 1, flags.MSG_PEEK)
        t("may not wait, but has a timeout", near.recv, 1, flags.MSG_DONTWAIT)
        t("nothing, within the timeout", near.recv, 0)
        far.send(b"!", flags.MSG_OOB)
        far.sendall(b"behind")
        t("behind the urgent", near.recv, 100)
        t("urgent", near.recv, 1, flags.MSG_OOB)
        near.settimeout(None)
        far.sendall(b"last")
        far.shutdown(flags.SHUT_WR)
        t("last", near.recv, 100)
        t("end", near.recv, 100)
        t("end again", near.recv, 100)
        t("end, all", near.recv, 100, flags.MSG_WAITALL)
        t("not connected", t.socket().recv, 1)
        t("listening", t.keep(t.net.create_server(LOOPBACK)).recv, 1)
        reset, resetter = t.pair()
        resetter.setsockopt(flags.SOL_SOCKET, flags.SO_LINGER, struct.pack("ii", 1, 0))
        resetter.close()
        t("reset", reset.recv, 1)
        t("after the reset", reset.recv, 1)
        short, shorter = t.pair()
        short.shutdown(flags.SHUT_RD)
        t("after shutdown of reading", short.recv, 1)
        t("the other side goes on", shorter.send, b"x")

    same(script)


def test_13_recvfrom(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        far.sendall(b"stream")
        t("stream", near.recvfrom, 3)
        t("stream into", near.recvfrom_into, bytearray(10))
        for family, address in ((t.net.AF_INET, LOOPBACK), (t.net.AF_INET6, ("::1", 0)), (t.net.AF_UNIX, "")):
            server = t.socket(family, t.net.SOCK_DGRAM)
            server.bind(address)
            client = t.peer(family, t.net.SOCK_DGRAM)
            client.bind(address)
            for message in (b"whole", b"cut off", b"", b"looked at", b"into", b"into a part"):
                client.sendto(message, server.getsockname())
            t("whole", server.recvfrom, 100)
            t("cut", server.recvfrom, 3)
            t("empty", server.recvfrom, 100)
            t("peek", server.recvfrom, 100, t.net.MSG_PEEK)
            t("taken", server.recvfrom, 100)
            t("into", server.recvfrom_into, bytearray(100))
            t("into a part", server.recvfrom_into, bytearray(100), 4)
            client.sendto(b"12345", server.getsockname())
            t("true length", server.recvfrom_into, bytearray(100), 2, t.net.MSG_TRUNC)
            client.sendto(b"12345", server.getsockname())
            t("flags", server.recvmsg, 2)
            t("may not wait", server.recvfrom, 1, t.net.MSG_DONTWAIT)
            server.settimeout(SHORT)
            t("timed out", server.recvfrom, 1)
            t("into timed out", server.recvfrom_into, bytearray(1))
            t("negative", server.recvfrom, -1)
            t("into, too many", server.recvfrom_into, bytearray(1), 2)
            server.settimeout(None)
            t.beside(lambda client=client, server=server: client.sendto(b"late", server.getsockname()))
            t("waits", server.recvfrom, 100)
        gone = t.socket(t.net.AF_INET, t.net.SOCK_DGRAM)
        gone.connect(("127.0.0.1", t.free_port(t.net.SOCK_DGRAM)))
        gone.send(b"to nobody")
        t("refused", gone.recvfrom, 1)

    same(script)


def fill(near: Any) -> None:
    """Send until the kernel takes no more, and will take no more later: its peer does not read."""
    while True:
        # What is under way arrives, and makes room, when the machine gets to it. Nothing is: then nothing changes.
        nothing_under_way = unacknowledged(near) == 0
        try:
            near.send(bytes(BIG))
        except TimeoutError:
            if nothing_under_way:
                return


def unacknowledged(sock: _socket_std.socket) -> int:
    """Segments that are sent and not acknowledged: tcpi_unacked of tcp_info (linux/tcp.h)."""
    return int(struct.unpack_from("@I", sock.getsockopt(_socket_std.IPPROTO_TCP, _socket_std.TCP_INFO, 104), 24)[0])


def test_14_send(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("some", near.send, b"hello")
        t("nothing", near.send, b"")
        t("array", near.send, array.array("i", [1, 2, 3]))
        t("view", near.send, memoryview(b"abcdef")[::2])
        t("text", near.send, "text")
        t("number", near.send, 5)
        t("more to come", near.send, b"x", t.net.MSG_MORE)
        t("urgent", near.send, b"!", t.net.MSG_OOB)
        near.settimeout(5)
        t("a part", lambda: 0 < near.send(bytes(BIG)) < BIG)
        near.settimeout(SHORT)
        fill(near)
        t("full", near.send, b"x" * 100_000)
        whole, reader = t.pair()

        def read_all() -> None:
            while reader.recv(1 << 20):
                pass

        t.beside(read_all)
        t("all of it, where it blocks", whole.send, bytes(BIG))
        whole.shutdown(t.net.SHUT_WR)
        t("after shutdown", whole.send, b"x")
        t("not connected", t.socket().send, b"x")
        datagram = t.socket(t.net.AF_INET, t.net.SOCK_DGRAM)
        t("no destination", datagram.send, b"x")
        datagram.connect(("127.0.0.1", t.free_port(t.net.SOCK_DGRAM)))
        t("datagram", datagram.send, b"x")
        t("datagram, refused", datagram.send, b"x")
        t("datagram too large", datagram.send, bytes(70_000))
        t("sendmsg", far.sendmsg, [b"one", bytearray(b"two")])
        t("sendmsg of nothing", far.sendmsg, [])
        t("sendmsg of text", far.sendmsg, ["text"])
        t("sendmsg of bytes", far.sendmsg, b"one")

    same(script)


def test_15_sendall(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("some", near.sendall, b"hello")
        t("nothing", near.sendall, b"")
        t("array", near.sendall, array.array("i", [1, 2, 3]))
        t("more to come", near.sendall, b"x", t.net.MSG_MORE)
        t("text", near.sendall, "text")
        t("flags of a wrong kind", near.sendall, b"x", "flags")

        def read_all() -> None:
            while far.recv(1 << 20):
                pass

        t.beside(read_all)
        t("all of it", near.sendall, bytes(BIG))
        near.settimeout(10)
        t("all of it in time", near.sendall, bytearray(BIG))
        near.shutdown(t.net.SHUT_WR)
        t("after shutdown", near.sendall, b"x")
        t("nothing after shutdown", near.sendall, b"")
        full, deaf = t.pair()
        full.settimeout(SHORT)
        t("timed out", full.sendall, bytes(BIG))
        full.setblocking(False)
        t("full", full.sendall, bytes(BIG))
        deaf.setsockopt(t.net.SOL_SOCKET, t.net.SO_LINGER, struct.pack("ii", 1, 0))
        deaf.close()
        full.settimeout(5)
        t("reset", full.sendall, bytes(BIG))
        t("after the reset", full.sendall, b"x")
        t("not connected", t.socket().sendall, b"x")
        t("no destination", t.socket(t.net.AF_INET, t.net.SOCK_DGRAM).sendall, b"x")

    same(script)


def test_16_sendto(same: Same) -> None:
    def script(t: Trial) -> None:
        server = t.peer(t.net.AF_INET, t.net.SOCK_DGRAM)
        server.bind(LOOPBACK)
        server.settimeout(10)
        where = server.getsockname()
        client = t.socket(t.net.AF_INET, t.net.SOCK_DGRAM)
        t("sendto", client.sendto, b"one", where)
        t("with flags", client.sendto, b"two", t.net.MSG_DONTWAIT, where)
        t("nothing", client.sendto, b"", where)
        t("by name", client.sendto, b"four", ("localhost", where[1]))
        t("arrived", lambda: [server.recv(100) for _ in range(4)])
        t("no address", client.sendto, b"x")
        t("too many", client.sendto, b"x", 0, where, where)
        t("flags of a wrong kind", client.sendto, b"x", "0", where)
        t("text", client.sendto, "text", where)
        t("address of a wrong kind", client.sendto, b"x", "127.0.0.1")
        t("address None", client.sendto, b"x", None)
        t("port too large", client.sendto, b"x", ("127.0.0.1", 70000))
        t("impossible name", client.sendto, b"x", ("a..b", 9))
        t("the other family", client.sendto, b"x", ("::1", 9))
        t("port 0", client.sendto, b"x", ("127.0.0.1", 0))
        t("too large", client.sendto, bytes(70_000), where)
        t("broadcast not allowed", client.sendto, b"x", ("255.255.255.255", 9))
        t("to nobody", client.sendto, b"x", ("127.0.0.1", t.free_port(t.net.SOCK_DGRAM)))
        t("after nobody", client.sendto, b"five", where)
        t("sendmsg to", client.sendmsg, [b"six"], [], 0, where)
        client.connect(where)
        t("connected, elsewhere", client.sendto, b"x", ("127.0.0.1", t.free_port(t.net.SOCK_DGRAM)))
        near, _far = t.pair()
        t("stream", near.sendto, b"x", where)
        t("unconnected stream", t.socket().sendto, b"x", where)
        local = t.socket(t.net.AF_UNIX, t.net.SOCK_DGRAM)
        t("no such path", local.sendto, b"x", str(t.folder / "none"))
        taker = t.peer(t.net.AF_UNIX, t.net.SOCK_DGRAM)
        taker.bind(str(t.folder / "taker"))
        t("path", local.sendto, b"x", str(t.folder / "taker"))
        taker.close()
        t("path of nobody", local.sendto, b"x", str(t.folder / "taker"))
        client.close()
        t("closed", client.sendto, b"x", where)

    same(script)


def test_17_settimeout(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        for value in (None, 0, 0.0, 1, 0.5, 1e-9, 3600, True):
            t(f"set {value}", near.settimeout, value)
            t(f"is {value}", lambda: (near.gettimeout(), near.timeout, near.getblocking()))
        for wrong in (-1, -1e-9, "1", float("nan"), float("inf"), 1e300, object):
            t(f"set {wrong!r:.10}", near.settimeout, wrong)
            t("is as before", near.gettimeout)
        near.settimeout(SHORT)
        for name, args in (
            ("recv", (1,)),
            ("recv_into", (bytearray(1),)),
            ("recvfrom", (1,)),
            ("recvfrom_into", (bytearray(1),)),
            ("recvmsg", (1,)),
            ("recvmsg_into", ([bytearray(1)],)),
        ):
            t(f"{name} timed out", getattr(near, name), *args)
        t("the old name of TimeoutError", lambda: t.net.timeout is TimeoutError)
        far.sendall(b"data")
        t("data in time", near.recv, 100)
        connecting = t.socket()
        connecting.settimeout(SHORT)
        t("connect timed out", connecting.connect, t.silent())
        t("is as before", connecting.gettimeout)
        listener = t.socket()
        listener.listen()
        listener.settimeout(SHORT)
        t("accept timed out", listener.accept)
        file = near.makefile("rb")
        t("file timed out", file.read, 1)
        t("file after that", file.read, 1)
        file.close()
        near.settimeout(0)
        t("no file without blocking", lambda: near.makefile("rb").read(1))
        t("default", t.net.getdefaulttimeout)
        t("wrong default", t.net.setdefaulttimeout, -1)
        near.close()
        t("closed", near.settimeout, 1)
        t("of a closed", near.gettimeout)

    same(script)


def test_18_getpeername(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("connected", near.getpeername)
        t("is the other's name", lambda: near.getpeername() == far.getsockname())
        t("not connected", t.socket().getpeername)
        t("listening", t.keep(t.net.create_server(LOOPBACK)).getpeername)
        datagram = t.socket(t.net.AF_INET, t.net.SOCK_DGRAM)
        t("datagrams", datagram.getpeername)
        datagram.connect(far.getsockname())
        t("connected datagrams", datagram.getpeername)
        sixth = t.socket(t.net.AF_INET6, t.net.SOCK_DGRAM)
        sixth.connect(("::1", 9))
        t("IPv6", sixth.getpeername)
        one, two = t.keep(t.net.socketpair())
        t("pair", one.getpeername)
        two.close()
        t("after the peer went", one.getpeername)
        far.close()
        t("end", near.recv, 1)
        t("after the end", near.getpeername)
        near.close()
        t("closed", near.getpeername)
        t("with an argument", far.getpeername, 1)

    same(script)


def test_19_getsockname(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("connected", near.getsockname)
        t("is the other's peer", lambda: near.getsockname() == far.getpeername())
        t("fresh", t.socket().getsockname)
        t("fresh IPv6", t.socket(t.net.AF_INET6).getsockname)
        t("fresh Unix", t.socket(t.net.AF_UNIX).getsockname)
        path = t.socket(t.net.AF_UNIX)
        path.bind(str(t.folder / "p"))
        t("path", lambda: path.getsockname() == str(t.folder / "p"))
        abstract = t.socket(t.net.AF_UNIX)
        abstract.bind(f"\0jackfield {os.getpid()}")
        t("abstract", lambda: abstract.getsockname() == f"\0jackfield {os.getpid()}".encode())
        t("listening", t.keep(t.net.create_server(LOOPBACK)).getsockname)
        if t.net.has_dualstack_ipv6():
            both = t.net.create_server(("", 0), family=t.net.AF_INET6, dualstack_ipv6=True)
            t("dual stack", t.keep(both).getsockname)
        near.close()
        t("closed", near.getsockname)

    same(script)


def test_20_fileno(same: Same) -> None:
    def script(t: Trial) -> None:
        near, far = t.pair()
        t("a number", lambda: isinstance(near.fileno(), int) and near.fileno() > 2)
        t("of a socket", lambda: os.fstat(near.fileno()).st_mode >> 12)
        twin = t("dup", near.dup)
        t("another number", lambda: twin.fileno() != near.fileno())
        copy = t("fromfd", t.net.fromfd, near.fileno(), near.family, near.type)
        twin.close()
        copy.close()
        t("the peer still has one", far.send, b"x")
        t("works", near.recv, 1)
        near.settimeout(5)
        t("dup keeps the timeout", near.dup)
        fd = near.detach()
        t("detached", near.fileno)
        t("detached again", near.detach)
        t("recv", near.recv, 1)
        again = t("back", t.net.socket, fileno=fd)
        t("same number", lambda: again.fileno() == fd)
        t("with an argument", again.fileno, 1)
        far.sendall(b"to the end")
        t("read by number", os.read, fd, 100)
        t("written by number", os.write, fd, b"back")
        t("comes", far.recv, 100)
        t("fromfd of nothing", t.net.fromfd, 1 << 20, t.net.AF_INET, t.net.SOCK_STREAM)

    same(script)


def test_21_sendfile(same: Same) -> None:
    data = bytes(range(256)) * 4096

    def script(t: Trial) -> None:
        near, far = t.pair()

        def read_all() -> None:
            while far.recv(1 << 20):
                pass

        t.beside(read_all)

        class NoDescriptor:
            """A file of which only read() is known."""

            def __init__(self) -> None:
                self.rest = io.BytesIO(data)
                self.read = self.rest.read

        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile("w+") as text, tempfile.TemporaryFile() as empty:
            file.write(data)
            file.flush()

            def sent(*args: Any, source: Any = file, by: Any = near) -> Any:
                return by.sendfile(source, *args), source.tell()

            for args in ((), (1000,), (1000, 5000), (0, len(data)), (0, len(data) * 2), (len(data),), (len(data) + 5,)):
                t(f"offset and count {args}", sent, *args)
            file.seek(77)
            t("from the start, not from the position", sent)
            t("count 0", sent, 0, 0)
            t("count negative", sent, 0, -5)
            t("count of a wrong kind", sent, 0, 1.5)
            t("offset negative", sent, -1)
            t("offset of a wrong kind", sent, "0")
            t("empty file", sent, source=empty)
            t("text file", sent, source=text)
            t("in memory", sent, source=io.BytesIO(data))
            t("in memory, a part", sent, 100, 200, source=io.BytesIO(data))
            t("in memory, past the end", sent, 1 << 30, source=io.BytesIO(data))
            t("without descriptor", near.sendfile, NoDescriptor())
            t("without descriptor or seek", near.sendfile, NoDescriptor(), 5)
            t("no file", near.sendfile, b"bytes")
            t("by datagrams", sent, by=t.socket(t.net.AF_INET, t.net.SOCK_DGRAM))
            t("not connected", sent, by=t.socket())
            reading, writing = os.pipe()
            os.write(writing, b"through a pipe")
            os.close(writing)
            with open(reading, "rb") as pipe:
                t("a pipe", near.sendfile, pipe)
            near.settimeout(10)
            t("with a timeout", sent)
            t("keeps it", near.gettimeout)
            near.settimeout(0)
            t("without blocking", sent)
            full, _deaf = t.pair()
            full.settimeout(SHORT)
            with tempfile.TemporaryFile() as large:
                large.truncate(BIG)
                t("timed out", full.sendfile, large)
                t("the position says how far", lambda: 0 < large.tell() < BIG)
            near.settimeout(None)
            near.shutdown(t.net.SHUT_WR)
            t("after shutdown", sent)
            near.close()
            t("closed", sent)
            file.close()
            t("closed file", full.sendfile, file)

    same(script)


def test_closing_wakes_a_green_thread_that_waits() -> None:
    """Item 11 promises more than the standard library: its recv would stay blocked (close(2), NOTES)."""

    def main() -> None:
        from jackfield.reactor import sleep, spawn

        near, far = jackfield.socket.socketpair()
        with far:
            waiting = spawn(near.recv, 1)
            sleep(0)
            near.close()
            with pytest.raises(OSError) as raised:
                waiting.result(timeout=10)
            assert raised.value.errno == errno.EBADF

    run(main)


def test_a_difference_is_noticed(same: Same) -> None:
    """The comparison fails where a module does differ: here one call whose result names the module."""

    def script(t: Trial) -> None:
        for _ in range(5):
            t("the module's name", lambda: t.net.__name__)

    with pytest.raises(AssertionError, match=r"ours jackfield\.socket, stdlib socket"):
        same(script)
