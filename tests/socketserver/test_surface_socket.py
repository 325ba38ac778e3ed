"""The face of jackfield.socket, held against the standard library's module of the interpreter that runs this."""

from __future__ import annotations

import inspect
import os
import socket as std
import types
from typing import Any

import pytest

from jackfield import socket as ours
from jackfield.reactor import run

#: What is ours in place of theirs. Everything else is the very object of the standard library's.
OWN = {
    "socket", "fromfd", "socketpair", "create_connection", "create_server", "has_dualstack_ipv6",
    "getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo", "getfqdn",
    "_fallback_socketpair",
}  # fmt: skip

#: What a module has of its own.
OF_ITSELF = {
    "__name__",
    "__doc__",
    "__file__",
    "__cached__",
    "__loader__",
    "__spec__",
    "__package__",
    "__builtins__",
    "__all__",
}

#: Methods and attributes of the class beside the standard library's.
BESIDE = {"recvfile", "received", "sent", "asked", "proxy", "waits", "whole", "tls"}


#: A private method; its second parameter there guards against a module that is being taken apart, and is never given.
OTHERWISE = {"_real_close"}


def compare(theirs: Any, mine: Any) -> list[str]:
    """Names that the second module lacks, and those that it has replaced beyond what is declared."""
    names = {name for name in vars(theirs) if name not in OF_ITSELF}
    found = [f"{name} is missing" for name in sorted(names) if not hasattr(mine, name)]
    for name in sorted(names):
        if hasattr(mine, name) and (getattr(mine, name) is not getattr(theirs, name)) != (name in OWN):
            found.append(f"{name} is {'not ' if name in OWN else ''}ours")
    return found


def test_name_for_name() -> None:
    """The private ones too: programs and tests reach for them."""
    assert compare(std, ours) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AF_INET", 5, "AF_INET is ours"),
        ("socket", std.socket, "socket is not ours"),
        ("_intenum_converter", None, "is ours"),
    ],
)
def test_a_difference_would_be_found(name: str, value: Any, told: str) -> None:
    """The broken cases: a name changed that should not be, one not changed that should be."""
    changed = types.SimpleNamespace(**{**vars(ours), name: value})
    assert any(told in line for line in compare(std, changed))


def test_what_import_star_brings() -> None:
    assert ours.__all__ == std.__all__
    brought: dict[str, Any] = {}
    exec("from jackfield.socket import *", brought)
    assert set(brought) - {"__builtins__"} == set(std.__all__)


def test_nothing_else_shows() -> None:
    extra = {name for name in vars(ours) if not hasattr(std, name) and not name.startswith("_")}
    assert extra <= {"annotations"}


def plain(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    "name", ["fromfd", "socketpair", "create_connection", "create_server", "has_dualstack_ipv6", "getaddrinfo"]
)
def test_the_functions_take_the_same(name: str) -> None:
    theirs, mine = plain(getattr(std, name)), plain(getattr(ours, name))
    if name == "create_connection":
        # The default timeout is an object of the module's own, and the same one.
        assert ours._GLOBAL_DEFAULT_TIMEOUT is std._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
    assert mine == theirs


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gethostbyname", ("127.0.0.1",)),
        ("gethostbyname_ex", ("127.0.0.1",)),
        ("getnameinfo", (("127.0.0.1", 80), std.NI_NUMERICHOST | std.NI_NUMERICSERV)),
        ("getfqdn", ("127.0.0.1",)),
        ("gethostbyname", (5,)),
        ("getnameinfo", (5,)),
        ("gethostbyname", ()),
        ("getfqdn", ()),
    ],
)
def test_the_resolver_answers_the_same(name: str, arguments: tuple[Any, ...]) -> None:
    def outcome(module: Any) -> Any:
        try:
            return getattr(module, name)(*arguments)
        except Exception as error:
            return type(error), error.args

    assert outcome(ours) == outcome(std)
    assert run(outcome, ours) == outcome(std)
    assert getattr(ours, name).__name__ == name
    assert getattr(ours, name).__doc__


def test_the_class() -> None:
    assert issubclass(ours.socket, std.socket)
    assert ours.socket.__name__ == "socket"
    missing = [name for name in dir(std.socket) if not hasattr(ours.socket, name)]
    assert missing == []
    beside = {name for name in dir(ours.socket) if not hasattr(std.socket, name) and not name.startswith("_")}
    assert beside == BESIDE


def test_the_methods_take_the_same() -> None:
    """Where the standard library tells; some of its methods in C have no signature."""
    compared = 0
    for name in dir(std.socket):
        if name.startswith("_") and name != "__init__":
            continue
        theirs, mine = getattr(std.socket, name), getattr(ours.socket, name)
        if not callable(theirs) or mine is theirs or name in OTHERWISE:
            continue
        try:
            expected = plain(theirs)
        except ValueError:
            continue
        got = plain(mine)
        # "*args" takes whatever the C code takes.
        if not any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind, _ in expected):
            by_position = inspect.Parameter.POSITIONAL_ONLY
            assert [n for n, kind, _ in got if kind is not by_position and n != "self"] == [
                n for n, kind, _ in expected if kind is not by_position and n != "self"
            ], name
            assert [default for _, _, default in got] == [default for _, _, default in expected], name
        compared += 1
    assert compared > 3


def test_an_instance_has_no_dictionary_more_than_there() -> None:
    """Slots, as in the standard library: ten thousand connections are ten thousand of these."""
    with ours.socket() as mine, std.socket() as theirs:
        assert hasattr(mine, "__dict__") == hasattr(theirs, "__dict__")


@pytest.mark.parametrize(
    "make", ["accept", "dup", "fromfd", "socketpair", "create_connection", "create_server", "fallback"]
)
def test_whatever_makes_a_socket_makes_one_of_ours(make: str) -> None:
    with ours.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        made: list[Any]
        if make == "accept":
            with std.create_connection(address):
                made = [listener.accept()[0]]
        elif make == "dup":
            made = [listener.dup()]
        elif make == "fromfd":
            made = [ours.fromfd(listener.fileno(), std.AF_INET, std.SOCK_STREAM)]
        elif make == "socketpair":
            made = list(ours.socketpair())
        elif make == "fallback":
            made = list(ours._fallback_socketpair())
        elif make == "create_connection":
            made = [ours.create_connection(address)]
        else:
            made = [ours.create_server(("127.0.0.1", 0))]
        for sock in made:
            assert type(sock) is ours.socket
            assert not os.get_inheritable(sock.fileno())
            sock.close()


def test_the_text_of_a_socket_is_like_there() -> None:
    """`<socket.socket fd=…>` names the class by its module, so only that differs."""
    with ours.socket() as mine:
        text = repr(mine)
        assert text.startswith("<jackfield.socket.socket fd=")
        with std.socket(mine.family, mine.type, mine.proto, mine.fileno()) as theirs:
            expected = repr(theirs).replace("socket.socket", "jackfield.socket.socket")
            theirs.detach()
        assert text == expected
