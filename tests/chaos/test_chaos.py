"""Chaos: a real server and real clients that do what they do in any order, beside a book that says what has to come of
it.

After every step every connection that is there has its answers, the server's books are those of the test (who is let
in, who waits, how those that are over have ended), no more are let in than may be, and no descriptor is left.

The ordinary run takes the same few runs of 50 steps each time. ``JACKFIELD_CHAOS=200`` has so many of them, and with
``HYPOTHESIS_PROFILE=search`` they are new ones each time: ``JACKFIELD_CHAOS=5000 HYPOTHESIS_PROFILE=search`` is for
every night.
"""

from __future__ import annotations

import os
import socket
import traceback
from typing import Any

import chaos_clients
import pytest
from chaos_clients import Clients, until
from chaos_handlers import ForgetfulAsyncHandler, ForgetfulHandler, Handler
from chaos_server import OneServer
from chaos_workers import ManyWorkers
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from jackfield import Server, draining

WANTED = int(os.environ.get("JACKFIELD_CHAOS", "0"))
STEPS = 50

#: A minute, and half a minute for each run that was asked for: a quiet machine takes half a second for one of one
#: server, and some seconds for one with workers, which is started, reloaded and killed in it.
pytestmark = pytest.mark.timeout(60 + WANTED * 30)

MODES = ["thread", "green", "async"]


@pytest.fixture(autouse=True)
def half_a_message_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a step takes, on a machine that is busy with other things."""
    monkeypatch.setattr(draining, "QUIET", 1000.0)


def run(machine: type[Clients], examples: int, **more: object) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=examples, stateful_step_count=STEPS, **more)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("mode", MODES)
def test_all_is_as_it_has_to_be_whatever_comes(mode: str) -> None:
    run(type("Chaos", (OneServer,), {"mode": mode}), WANTED or 6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_with_workers_only_the_clients_of_one_that_is_killed_notice(mode: str) -> None:
    run(type("Chaos", (ManyWorkers,), {"mode": mode}), WANTED or 2)


# -- broken ones, which are found --------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is awaited does not come."""
    monkeypatch.setattr(chaos_clients, "SOON", 5.0)


def found(machine: type[Clients], **attributes: Any) -> str:
    """What is said of a machine with these attributes, which is not right. What hypothesis makes of it when it
    tries again is another thing: how it goes wrong is a matter of luck."""
    said: list[str] = []

    def settle(self: Clients) -> None:
        try:
            machine.settle(self)
        except Exception as error:
            said.append(str(error))
            raise

    with pytest.raises(Exception) as caught:
        run(type("Broken", (machine,), {**attributes, "settle": settle}), 30, phases=(Phase.generate,))
    return "\n".join([*said, *traceback.format_exception(caught.value)])


@pytest.mark.parametrize(("mode", "handler"), [("green", ForgetfulHandler), ("async", ForgetfulAsyncHandler)])
def test_a_handler_that_forgets_half_a_message_is_found(mode: str, handler: Any, impatient: None) -> None:
    said = found(OneServer, mode=mode, handler=handler)
    # How a message comes in pieces is not the same twice, which hypothesis may tell in the place of what it has found.
    assert " and not " in said or "Flaky" in said, said


class OverFull(Server):
    """Takes no notice of limits that change."""

    limits = Server.limits.setter(lambda self, limits: setattr(self, "_limits", limits))


def test_a_server_that_lets_in_too_many_is_found() -> None:
    """A few steps of such a run."""
    broken = type("Broken", (OneServer,), {"mode": "thread", "server_class": OverFull})()
    try:
        broken.change_limits(1)
        with pytest.raises(AssertionError, match=r"are let in, and [12] may be"):
            for _ in range(3):
                broken.connect(chaos_clients.SOURCES[0])
            until(lambda: broken.server.info().connections == 3, broken.server.info)
            broken.be_idle()
    finally:
        broken.teardown()


class Keeping(Handler):
    """Keeps a descriptor of each client that leaves."""

    kept: list[socket.socket]

    def finish(self) -> None:
        self.kept.append(self.request.dup())
        super().finish()


def test_a_descriptor_that_is_kept_is_found(impatient: None) -> None:
    kept: list[socket.socket] = []
    handler = type("Keeping", (Keeping,), {"kept": kept})
    try:
        broken = type("Broken", (OneServer,), {"mode": "thread", "handler": handler})()
        with pytest.raises(AssertionError, match=r" descriptors; "):
            broken.be_idle()  # the first one has left before
        for one in kept:
            one.close()
        broken.teardown()
    finally:
        for one in kept:
            one.close()


@pytest.mark.slow
def test_workers_that_do_not_let_their_clients_finish_are_found(impatient: None) -> None:
    """Two steps of such a run."""
    options = ("--retire-timeout", "10ms", "--graceful-timeout", "10ms")
    broken = type("Broken", (ManyWorkers,), {"mode": "thread", "options": options})()
    try:
        broken.connect(chaos_clients.SOURCES[0])
        with pytest.raises((AssertionError, ConnectionError), match=r"is at its end|reset|Broken pipe|0 are let in"):
            broken.reload(False)
    finally:
        broken.teardown()


@pytest.mark.slow
def test_workers_that_are_fewer_than_they_are_to_be_are_found(impatient: None) -> None:
    broken = type("Broken", (ManyWorkers,), {"mode": "green"})()
    try:
        broken.workers += 1  # as if it had been told
        with pytest.raises(AssertionError, match="there are the workers"):
            broken.be_idle()
    finally:
        broken.teardown()
