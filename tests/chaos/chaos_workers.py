"""A server with workers, its clients, and everything that may be asked of it or befall it while it serves."""

from __future__ import annotations

import signal
from typing import ClassVar

from chaos_clients import SOURCES, Clients, numbers, until
from chaos_command import ROOM, Command, accepted
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

#: Workers at first and at most; and how many reloads and kills there are in one run, as a supervisor takes its time
#: between two of them.
WORKERS, MOST_WORKERS = 2, 3
FEW = 3


class ManyWorkers(Clients):
    """Workers that are killed, replaced, more and fewer, while the clients do what they do. Only the clients of one
    that is killed may notice."""

    mode: ClassVar[str]
    handler: ClassVar[str] = ""
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        handler = self.handler or ("AsyncHandler" if self.mode == "async" else "Handler")
        self.command = Command(self.mode, handler, WORKERS, *self.options)
        self.port = self.command.port
        self.workers = WORKERS
        self.reloads = self.kills = 0
        self.cap = ROOM

    # -- what has to be ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        # Whoever is there is answered, and by the process that served it before; nobody is idle for long.
        for client in self.let_in:
            if not client.half:
                pid = client.pid
                client.socket.sendall(b"pid\n")
                client.due.append(b"pid")
                client.hear()
                assert client.pid == pid, f"{client} was one of {pid}"
        command = self.command

        def holds() -> bool:
            count, workers = accepted(self.port), command.workers
            serving = {client.pid for client in self.let_in}
            return (
                count == len(self.let_in)
                and serving <= set(workers)
                and self.workers <= len(workers) <= self.workers + len(serving)
            )

        until(
            holds,
            lambda: f"{accepted(self.port)} are let in, and there are the workers {command.workers}; {self.let_in},"
            f" {self.waiting} and {self.workers} are due: {command.log}",
        )
        assert command.process.poll() is None, command.log

    # -- what is asked of it, and befalls it -------------------------------------------------------------------------

    @precondition(lambda self: self.reloads < FEW)
    @rule(denied=st.booleans())
    def reload(self, denied: bool) -> None:
        self.reloads += 1
        self.command.list.write_text(SOURCES[1] if denied else "# nobody\n")
        self.command.reload()
        self.denied = frozenset(SOURCES[1:] if denied else ())
        self.settle()

    @precondition(lambda self: self.workers < MOST_WORKERS)
    @rule()
    def have_one_more(self) -> None:
        self.workers += 1
        self.command.send(signal.SIGTTIN)
        self.settle()

    @precondition(lambda self: self.workers > 1)
    @rule()
    def have_one_less(self) -> None:
        self.workers -= 1
        self.command.send(signal.SIGTTOU)
        self.settle()

    @precondition(lambda self: self.let_in and self.kills < FEW)
    @rule(number=numbers)
    def kill_the_worker_of(self, number: int) -> None:
        self.kills += 1
        victim = self.one(number).pid
        self.command.kill(victim)
        for client in [client for client in self.let_in if client.pid == victim]:
            client.hear_the_end()
            self.over(client, "killed")
        self.settle()

    def teardown(self) -> None:
        """A stop at the end, at which all who have connected are served, and told."""
        command = self.command
        try:
            if command.process.poll() is None and self.is_right:
                until(
                    lambda: command.descriptors() <= command.own_descriptors + 2 * (MOST_WORKERS - WORKERS) * 2,
                    lambda: f"the supervisor had {command.own_descriptors} descriptors, {command.descriptors()} now",
                )
                command.send(signal.SIGTERM)
                self.be_told_of_a_stop()
                assert command.process.wait(30.0) == 0, command.log
                assert command.session() == [], command.log
        finally:
            super().teardown()
            command.end_all()
