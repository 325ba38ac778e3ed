"""One server of this process, its clients, and everything that may be asked of it while it serves."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any, ClassVar

from chaos_clients import MOST_LET_IN, SOON, SOURCES, Client, Clients, until
from chaos_handlers import AsyncHandler, Handler
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from jackfield import Server
from jackfield.admission import PeerList
from jackfield.limits import Limits

NOBODY = "# nobody\n"


def held() -> tuple[int, frozenset[threading.Thread]]:
    """How many descriptors this process has, and its threads."""
    return len(os.listdir("/proc/self/fd")), frozenset(threading.enumerate())


class OneServer(Clients):
    """A server that is suspended, resumed, reloaded, stopped, has its limits changed and its connections ended, while
    its clients do what they do."""

    mode: ClassVar[str]
    server_class: ClassVar[type[Server]] = Server
    handler: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self.before = held()
        descriptor, path = tempfile.mkstemp(prefix="jackfield-chaos-")
        os.close(descriptor)
        self.list = Path(path)
        self.list.write_text(NOBODY)
        self.start()

    def start(self) -> None:
        self.ended.clear()
        self.refused = 0
        self.cap, self.suspended, self.denied = MOST_LET_IN, False, frozenset()
        self.list.write_text(NOBODY)
        handler = self.handler or (AsyncHandler if self.mode == "async" else Handler)
        # Nothing here may depend on how long a step takes: no deadline of theirs is ever reached.
        limits = Limits(
            max_connections=self.cap, when_full="wait", deny=PeerList.from_file(self.list),
            pressure_idle_timeout=None, idle_timeout=None, first_byte_timeout=None, message_timeout=None,
        )  # fmt: skip
        self.server = self.server_class(
            handler, "tcp://127.0.0.1:0", mode=self.mode, limits=limits, graceful_timeout=1000.0
        )
        self.server.start()
        self.port = self.server.server_address[1]
        # Counted when it has had somebody: it opens its loop on a thread of its own.
        first = Client(self.port, SOURCES[0])
        first.hear()
        self.own_descriptors = len(os.listdir("/proc/self/fd")) - 2
        first.leave()
        self.ended["peer_closed"] += 1
        self.were_let_in = 0
        #: Whether whoever accepts may have looked for room before that was taken away, and accept one more: it does so
        #: on a thread of its own.
        self.one_may_be_late = False

    # -- what has to be ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        server = self.server

        def holds() -> bool:
            info = server.info()
            peers = {connection.peer for connection in server.connections}
            if self.one_may_be_late and self.waiting and self.waiting[0].name in peers:
                self.one_may_be_late = False
                self.let_in.append(self.waiting.pop(0))
                self.let_in[-1].hear()
            # The end of one who was there before this step may be news to the server.
            most = max(self.cap, self.were_let_in, len(self.let_in))
            assert info.connections <= most, f"{info.connections} are let in, and {most} may be: {info}"
            return (
                info.ends == +self.ended
                and info.refusals.get("denied", 0) == self.refused
                and peers == {one.name for one in self.let_in}
                and len(os.listdir("/proc/self/fd"))
                == self.own_descriptors + 2 * len(self.let_in) + len(self.waiting)
            )

        until(
            holds,
            lambda: f"the server has {server.info()}, {server.connections}, {len(os.listdir('/proc/self/fd'))}"
            f" descriptors; {self.ended}, {self.refused}, {self.let_in}, {self.waiting} and {self.own_descriptors} are"
            " due",
        )  # fmt: skip
        self.were_let_in = len(self.let_in)
        info = server.info()
        assert info.handler_errors == self.ended["handler_error"], info
        assert info.state == ("suspended" if self.suspended else "serving"), info

    # -- what is asked of it -----------------------------------------------------------------------------------------

    @rule()
    def suspend(self) -> None:
        self.server.suspend()
        self.suspended = self.one_may_be_late = True
        self.settle()

    @rule()
    def resume(self) -> None:
        self.server.resume()
        self.suspended = False
        self.settle()

    @rule(cap=st.integers(1, MOST_LET_IN))
    def change_limits(self, cap: int) -> None:
        self.server.limits = self.server.limits.replace(max_connections=cap)
        self.one_may_be_late |= cap < self.cap
        self.cap = cap
        self.settle()

    @rule(denied=st.booleans())
    def reload(self, denied: bool) -> None:
        self.list.write_text(SOURCES[1] if denied else NOBODY)
        result = self.server.reload()
        assert result.read and not result.failed, result
        self.denied = frozenset(SOURCES[1:] if denied else ())
        self.settle()

    @precondition(lambda self: self.let_in)
    @rule(number=st.integers(0, MOST_LET_IN - 1), abort=st.booleans())
    def end_one(self, number: int, abort: bool) -> None:
        client = self.one(number)
        (id,) = (connection.id for connection in self.server.connections if connection.peer == client.name)
        connection = self.server.connection(id)
        assert connection is not None
        if abort:
            connection.abort()
        else:
            connection.close()
        client.hear_the_end()
        self.over(client, "aborted" if abort else "closed")
        self.settle()

    @precondition(lambda self: self.let_in)
    @rule()
    def spread(self) -> None:
        self.server.close_spread(0.0)
        for client in self.let_in:
            client.called = True
        self.settle()

    @rule()
    def stop_and_start_anew(self) -> None:
        """Everybody who has connected is served, and told; then another server begins."""
        self.server.stop()
        self.suspended = False
        self.be_told_of_a_stop()
        assert self.server.wait_stopped(SOON), self.server.info()
        info = self.server.info()
        assert info.state == "stopped" and info.ends == +self.ended, (info, self.ended)
        assert info.refusals.get("denied", 0) == self.refused, (info, self.refused)
        self.wait_until_nothing_is_left()
        self.start()
        self.settle()

    def teardown(self) -> None:
        super().teardown()
        self.server.stop(0)
        stopped = self.server.wait_stopped(SOON)
        self.list.unlink()
        assert stopped, self.server.info()
        self.wait_until_nothing_is_left()

    def wait_until_nothing_is_left(self) -> None:
        until(lambda: held() == self.before, lambda: f"{self.before} before and {held()} after it")
