"""The face of jackfield.socketserver, held against the standard library's module of the interpreter that runs this."""

from __future__ import annotations

import inspect
import socketserver as std
import types
from typing import Any

import pytest

from jackfield import socketserver as ours

#: Names of the standard library's module that we do not have: private classes of its own workings.
NOT_HERE = {"_NoThreads", "_ServerSelector", "_SocketWriter", "_Threads"}

#: Our own names beside the standard library's. The Unix servers that fork came to it with Python 3.12.
BESIDE = {
    *(f"{mode}{kind}Server" for mode in ("Green", "Async") for kind in ("TCP", "UDP", "UnixStream", "UnixDatagram")),
    *(f"{mode}UnixSeqpacketServer" for mode in ("", "Threading", "Green", "Async")),
    "GreenMixIn", "AsyncMixIn", "AsyncRequestHandler", "AsyncStreamRequestHandler", "AsyncDatagramRequestHandler",
    *({"ForkingUnixStreamServer", "ForkingUnixDatagramServer"} - set(std.__all__)),
}  # fmt: skip

#: A private attribute that is a list on the class there, and made when asked for here.
OTHERWISE = {"_threads"}

CLASSES = [
    name
    for name, value in sorted(vars(std).items())
    if isinstance(value, type) and value.__module__ == std.__name__ and name not in NOT_HERE
]


def plain(signature: inspect.Signature) -> inspect.Signature:
    """Without annotations, which the standard library's has none of."""
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


def attributes(cls: type) -> dict[str, Any]:
    """What a program finds on the class: its own and inherited, without what every class has."""
    return {
        name: getattr(cls, name)
        for name in dir(cls)
        if not (name.startswith("__") and name.endswith("__") and name not in ("__init__", "__enter__", "__exit__"))
        and not name.startswith(f"_{cls.__name__}__")
    }


def differences(theirs: Any, mine: Any) -> list[str]:
    """Where the second module differs from the first: missing names, other signatures, attributes or bases."""
    found = []
    for name in CLASSES:
        cls, own = getattr(theirs, name), getattr(mine, name, None)
        if own is None:
            found.append(f"{name} is missing")
            continue
        if [base.__name__ for base in cls.__mro__] != [base.__name__ for base in own.__mro__]:
            found.append(f"{name} has other bases: {[base.__name__ for base in own.__mro__]}")
        for attribute, value in attributes(cls).items():
            where = f"{name}.{attribute}"
            if attribute in OTHERWISE:
                continue
            if not hasattr(own, attribute):
                found.append(f"{where} is missing")
            elif inspect.isfunction(value):
                if not inspect.isfunction(getattr(own, attribute)):
                    found.append(f"{where} is not a method")
                elif plain(inspect.signature(value)) != plain(inspect.signature(getattr(own, attribute))):
                    found.append(f"{where}{plain(inspect.signature(getattr(own, attribute)))} has another signature")
            elif not isinstance(value, types.ModuleType) and getattr(own, attribute) != value:
                found.append(f"{where} is {getattr(own, attribute)!r} and not {value!r}")
    return found


def test_every_class_is_the_same_from_outside() -> None:
    assert differences(std, ours) == []


@pytest.mark.parametrize(
    ("attribute", "value", "told"),
    [
        ("UDPServer", None, "UDPServer is missing"),
        ("TCPServer", type("TCPServer", (ours.UDPServer,), {}), "TCPServer has other bases"),
        ("StreamRequestHandler", ours.BaseRequestHandler, "StreamRequestHandler.rbufsize is missing"),
        ("TCPServer", type("TCPServer", (ours.TCPServer,), {"request_queue_size": 6}), "size is 6 and not 5"),
        (
            "BaseServer",
            type("BaseServer", (ours.BaseServer,), {"shutdown": lambda self, now: 0}),
            "BaseServer.shutdown",
        ),
    ],
)
def test_a_difference_would_be_found(attribute: str, value: Any, told: str) -> None:
    """The broken cases, one of each kind."""
    changed = types.SimpleNamespace(**{**vars(ours), attribute: value})
    assert any(told in line for line in differences(std, changed))


def test_the_names() -> None:
    assert set(std.__all__) <= set(ours.__all__)
    assert set(ours.__all__) - set(std.__all__) == BESIDE
    assert len(set(ours.__all__)) == len(ours.__all__)
    for name in ours.__all__:
        assert hasattr(ours, name)
    public = {name for name in vars(ours) if not name.startswith("_") and name != "annotations"}
    assert public == set(ours.__all__), "a helper's name shows"


def test_none_of_them_is_the_standard_librarys() -> None:
    """Our own code, not a wrapper: no class of ours is or derives from one of theirs."""
    for name in ours.__all__:
        cls = getattr(ours, name)
        assert isinstance(cls, type)
        assert not [base for base in cls.__mro__ if base.__module__ == std.__name__], name


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_our_own_follow_the_same_rule(name: str) -> None:
    cls = getattr(ours, name)
    assert cls.__doc__
    names = [base.__name__ for base in cls.__mro__]
    if name.endswith("Server"):
        for mode in ("Threading", "Green", "Async"):
            if name.startswith(mode):
                assert names[1] == f"{mode}MixIn", "the mix-in comes first"
                assert names.index(f"{mode}MixIn") < names.index(name.removeprefix(mode))
        assert names.index("TCPServer") < names.index("BaseServer")


def test_an_instance_has_the_attributes_that_programs_reach_for() -> None:
    """Also the private ones, which programs in the wild set and ask."""
    for name in ("TCPServer", "UDPServer", "ThreadingTCPServer", "UnixStreamServer"):
        theirs, mine = (
            getattr(module, name)(("127.0.0.1", 0), object, bind_and_activate=False) for module in (std, ours)
        )
        with theirs, mine:
            for attribute in vars(theirs):
                assert hasattr(mine, attribute), f"{name}().{attribute}"
            assert mine.server_address == theirs.server_address
            assert mine.RequestHandlerClass is object
            assert isinstance(mine.socket, type(theirs.socket))
            assert (mine.socket.family, mine.socket.type) == (theirs.socket.family, theirs.socket.type)
            assert mine._BaseServer__shutdown_request == theirs._BaseServer__shutdown_request
            assert mine._BaseServer__is_shut_down.is_set() == theirs._BaseServer__is_shut_down.is_set()


def test_handlers_are_made_and_run_as_there() -> None:
    def trace(module: Any) -> list[str]:
        seen: list[str] = []

        class Handler(module.BaseRequestHandler):  # type: ignore[name-defined,misc]
            def setup(self) -> None:
                seen.append(f"setup {self.request} {self.client_address} {self.server}")

            def handle(self) -> None:
                seen.append("handle")
                raise KeyError

            def finish(self) -> None:
                seen.append("finish")

        with pytest.raises(KeyError):
            Handler("request", "address", "server")
        return seen

    assert trace(ours) == trace(std) == ["setup request address server", "handle", "finish"]


def test_the_signatures_are_for_people_too() -> None:
    """Parameter names are part of the face: programs pass them by name."""
    server = ours.TCPServer(server_address=("127.0.0.1", 0), RequestHandlerClass=object, bind_and_activate=False)
    server.server_close()
    ours.BaseRequestHandler(request=1, client_address=2, server=3)
