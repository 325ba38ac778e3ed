"""The standard library's XML-RPC on servers composed of ours, under its own client."""

from __future__ import annotations

import datetime
import xmlrpc.client
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

import pytest
from real_support import GreenServer, Meeting, ThreadServer, all_at_once, client_of, serving, url_of

import jackfield

CLIENTS = 30


class RPC(SimpleXMLRPCDispatcher):
    """Mix-in: what ``SimpleXMLRPCServer`` adds to the server below it."""

    logRequests = True
    _send_traceback_header = False

    def __init__(self, address: Any, handler: Any) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True, use_builtin_types=True)
        super(SimpleXMLRPCDispatcher, self).__init__(address, handler)  # type: ignore[call-arg]
        self.meeting = Meeting(CLIENTS)
        self.register_introspection_functions()
        self.register_multicall_functions()
        functions: list[Any] = [self.echo, self.slowly, self.meet, divmod]
        for function in functions:
            self.register_function(function)

    def echo(self, value: Any) -> Any:
        return value

    def slowly(self, value: Any) -> Any:
        jackfield.sleep(0.01)
        return value

    def meet(self) -> bool:
        return self.meeting.enter()


class ThreadRPC(RPC, ThreadServer):
    pass


class GreenRPC(RPC, GreenServer):
    pass


by_kind = pytest.mark.parametrize("kind", [ThreadRPC, GreenRPC], ids=lambda kind: kind.mode)


def proxy_of(server: Any) -> xmlrpc.client.ServerProxy:
    return xmlrpc.client.ServerProxy(url_of(server, "/RPC2"), allow_none=True, use_builtin_types=True)


VALUES: list[Any] = [
    0, -(2**31), 2.5, True, None, "grüße ✓ <&>", bytes(range(256)), datetime.datetime(2001, 2, 3, 4, 5, 6),
    [], [1, [2, [3]]], {"a": {"b": [None, {}]}}, b"x" * 1_000_000, list(range(5000)),
]  # fmt: skip


class KeptAlive(SimpleXMLRPCRequestHandler):
    """One attribute changed: the client then keeps its connection."""

    protocol_version = "HTTP/1.1"


@by_kind
@pytest.mark.parametrize(("handler", "connections"), [(SimpleXMLRPCRequestHandler, len(VALUES)), (KeptAlive, 1)])
def test_values_come_back_as_they_went(kind: Any, handler: Any, connections: int) -> None:
    with serving(kind, handler) as server, proxy_of(server) as proxy:
        for value in VALUES:
            assert proxy.echo(value) == value
        assert len(server.seen) == connections


@by_kind
def test_faults_introspection_and_many_calls_in_one(kind: Any) -> None:
    with serving(kind, SimpleXMLRPCRequestHandler) as server, proxy_of(server) as proxy:
        with pytest.raises(xmlrpc.client.Fault, match="ZeroDivisionError"):
            proxy.divmod(1, 0)
        with pytest.raises(xmlrpc.client.Fault, match='method "nothing" is not supported'):
            proxy.nothing()
        names: Any = proxy.system.listMethods()
        assert {"echo", "divmod", "system.multicall"} <= set(names)
        calls = xmlrpc.client.MultiCall(proxy)
        for number in range(100):
            calls.divmod(number, 7)
        answers: Any = calls()
        assert [tuple(answer) for answer in answers] == [divmod(number, 7) for number in range(100)]


@by_kind
def test_calls_run_at_the_same_time(kind: Any) -> None:
    with serving(kind, SimpleXMLRPCRequestHandler) as server:

        def call(number: int) -> Any:
            with proxy_of(server) as proxy:
                assert proxy.meet()
                return [proxy.slowly(number), proxy.echo("x" * number)]

        assert all_at_once(call, CLIENTS) == [[number, "x" * number] for number in range(CLIENTS)]


@by_kind
def test_what_is_no_call_is_refused(kind: Any) -> None:
    with serving(kind, SimpleXMLRPCRequestHandler) as server:
        for method, path, body, status in [
            ("POST", "/elsewhere", "x", 404),
            ("GET", "/RPC2", None, 501),
            ("POST", "/RPC2", "<no xml", 200),
        ]:
            with client_of(server) as connection:
                connection.request(method, path, body, {"Content-Type": "text/xml"})
                answer = connection.getresponse()
                assert answer.status == status
                assert (b"<fault>" in answer.read()) is (status == 200)


def test_a_wrong_value_would_be_found() -> None:
    class Wrong(GreenRPC):
        def echo(self, value: Any) -> Any:
            return value[:-1] if isinstance(value, bytes) else value

    with pytest.raises(AssertionError):
        test_values_come_back_as_they_went(Wrong, KeptAlive, 1)
