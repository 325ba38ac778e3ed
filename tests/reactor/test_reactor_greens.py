"""Green threads: started, joined, asked for a result, killed; from green threads, plain threads and coroutines."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from greenlet import getcurrent
from reactor_support import SOON, Host, turns, until

from jackfield.errors import MisuseError
from jackfield.journal import Journal
from jackfield.reactor import (
    GreenExit,
    GreenThread,
    GreenWait,
    await_,
    drive,
    green,
    greens,
    in_green,
    run,
    sleep,
    spawn,
)
from jackfield.sync import Event


def boom() -> None:
    raise ZeroDivisionError("boom")


# -- spawn, join, result -----------------------------------------------------------------------------------------------


def test_a_green_thread_returns_what_its_function_returns(host: Host) -> None:
    def main() -> Any:
        thread = spawn(lambda a, b=0: (a, b, in_green()), 1, b=2)
        assert not thread.done, "it has its first turn soon, not now"
        assert thread.join()
        return thread.result()

    assert host.run(main) == (1, 2, True)


def test_the_joiner_gets_the_very_exception(host: Host) -> None:
    raised = ZeroDivisionError("boom")

    def fails() -> None:
        raise raised

    def main() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            spawn(fails).result()
        assert caught.value is raised
        assert spawn(fails).join(), "join tells the end, not how it came"

    host.run(main)


def test_join_and_result_have_patience(host: Host) -> None:
    def main() -> None:
        thread = spawn(Event().wait)
        assert thread.join(0.001) is False
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.001 s"):
            thread.result(0.001)
        assert not thread._joiners, "those who gave up are off the list"
        thread.kill()
        assert thread.join()

    host.run(main)


def test_several_join_one_from_every_side(host: Host) -> None:
    def main() -> list[str]:
        release = Event()
        thread = spawn(lambda: release.wait() and "value")
        seen: list[str] = []
        greens = [spawn(lambda: seen.append(thread.result())) for _ in range(3)]

        async def coroutine() -> None:
            seen.append(await thread)

        task = drive(coroutine())
        plain = threading.Thread(target=lambda: seen.append(thread.result(SOON)))
        plain.start()
        until(lambda: len(thread._joiners or ()) == 5)
        release.set()
        for one in greens:
            one.join()
        await_(task)
        until(lambda: not plain.is_alive())
        plain.join()
        return seen

    assert host.run(main) == ["value"] * 5


def test_joining_one_that_has_ended_does_not_wait(host: Host) -> None:
    def main() -> None:
        thread = spawn(boom)
        thread.join()
        assert thread.join(0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                thread.result()

    host.run(main)


def test_the_name_and_the_state_are_told(host: Host) -> None:
    def main() -> None:
        thread = spawn(boom)
        assert "boom" in repr(thread)
        assert "starting" in repr(thread)
        thread.join()
        assert "done" in repr(thread)
        waiting = spawn(Event().wait)
        turns()
        assert "waiting" in repr(waiting)
        assert "running" in repr(getcurrent())
        waiting.kill()
        waiting.join()

    host.run(main)


def test_spawn_needs_a_loop() -> None:
    with pytest.raises(MisuseError, match=r"jackfield\.run\(fn\)"):
        spawn(boom)


# -- kill --------------------------------------------------------------------------------------------------------------


def test_killed_before_its_first_turn_it_never_runs(host: Host) -> None:
    def main() -> None:
        ran: list[int] = []
        thread = spawn(ran.append, 1)
        thread.kill()
        assert thread.join()
        turns()
        assert ran == []
        with pytest.raises(GreenExit):
            thread.result()

    host.run(main)


def test_killed_where_it_waits(host: Host) -> None:
    def main() -> None:
        cleaned: list[str] = []

        def waits() -> None:
            try:
                Event().wait()
            except GreenExit:
                cleaned.append("saw it")
                raise
            finally:
                sleep(0)  # cleaning up may wait as well
                cleaned.append("cleaned")

        thread = spawn(waits)
        turns()
        thread.kill()
        assert not thread.done, "kill does not wait"
        thread.join()
        assert cleaned == ["saw it", "cleaned"]
        with pytest.raises(GreenExit):
            thread.result()

    host.run(main)


@pytest.mark.parametrize("error", [KeyError, KeyError("an instance")])
def test_killed_with_an_error_of_ones_own(host: Host, error: Any) -> None:
    def main() -> None:
        thread = spawn(Event().wait)
        turns()
        thread.kill(error)
        with pytest.raises(KeyError) as caught:
            thread.result()
        assert isinstance(error, type) or caught.value is error

    host.run(main)


def test_what_survives_a_kill_goes_on(host: Host) -> None:
    def main() -> Any:
        def stubborn() -> str:
            try:
                Event().wait()
            except GreenExit:
                pass
            return "still here"

        thread = spawn(stubborn)
        turns()
        thread.kill()
        return thread.result()

    assert host.run(main) == "still here"


def test_killing_oneself_raises_here(host: Host) -> None:
    def main() -> None:
        after: list[int] = []

        def suicide() -> None:
            getcurrent().kill()  # type: ignore[attr-defined]
            after.append(1)

        thread = spawn(suicide)
        thread.join()
        assert after == []
        with pytest.raises(GreenExit):
            thread.result()

    host.run(main)


def test_killing_one_that_has_ended_changes_nothing(host: Host) -> None:
    def main() -> None:
        thread = spawn(lambda: "value")
        thread.join()
        thread.kill()
        turns()
        assert thread.result() == "value"

    host.run(main)


def test_killed_from_a_plain_thread(host: Host) -> None:
    def main() -> None:
        thread = spawn(Event().wait)
        turns()
        killer = threading.Thread(target=thread.kill)
        killer.start()
        thread.join()
        killer.join()
        with pytest.raises(GreenExit):
            thread.result()

    host.run(main)


# -- nothing is lost ---------------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture, function: Callable[[], Any]) -> list[str]:
    """The kinds of exceptions that ``function()`` leaves in the log of green threads."""
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG, "jackfield.green"):
        # One of this test's own: what others wrote is no reason to hold anything back.
        patch.setattr(greens, "_journal", Journal(logging.getLogger("jackfield.green")))
        caplog.clear()
        function()
    last_lines = [record.exc_text.splitlines()[-1] for record in caplog.records if record.exc_text]
    return [line.partition(":")[0].strip() for line in last_lines]


def test_an_exception_that_nobody_joined_for_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        thread = spawn(boom)
        until(lambda: thread.done)

    errors = logged(caplog, lambda: host.run(main))
    assert errors == ["ZeroDivisionError"]
    assert "boom" in caplog.text


def test_one_that_somebody_joined_for_is_not(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def main() -> None:
        with pytest.raises(ZeroDivisionError):
            spawn(boom).result()

    assert logged(caplog, lambda: host.run(main)) == []


@pytest.mark.parametrize("who", ["green", "coroutine"])
def test_a_joiner_who_left_does_not_count(host: Host, caplog: pytest.LogCaptureFixture, who: str) -> None:
    """Whoever stops waiting for it will not be told, so the log has to be."""

    def main() -> None:
        release = Event()

        def fails() -> None:
            release.wait()
            boom()

        thread = spawn(fails)
        if who == "green":
            joiner = spawn(thread.join)
            turns()
            joiner.kill()
        else:

            async def awaits() -> None:
                await thread

            task = drive(awaits())
            turns()
            task.cancel()
        turns()
        release.set()
        until(lambda: thread.done)

    assert logged(caplog, lambda: host.run(main)) == ["ZeroDivisionError"]


@pytest.mark.parametrize("error", [GreenExit, KeyboardInterrupt])
def test_an_end_from_outside_is_no_error(host: Host, caplog: pytest.LogCaptureFixture, error: Any) -> None:
    def main() -> None:
        thread = spawn(Event().wait)
        turns()
        thread.kill(error)
        until(lambda: thread.done)

    assert logged(caplog, lambda: host.run(main)) == []


def test_system_exit_ends_one_green_thread_and_not_the_loop(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def main() -> str:
        def leaves() -> None:
            raise SystemExit(3)

        thread = spawn(leaves)
        until(lambda: thread.done)
        turns()
        return "the loop goes on"

    results: list[str] = []
    errors = logged(caplog, lambda: results.append(host.run(main)))
    assert results == ["the loop goes on"]
    assert errors == ["SystemExit"]


# -- context variables -------------------------------------------------------------------------------------------------

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


def test_context_variables_are_ones_own(host: Host) -> None:
    def main() -> None:
        where.set("main")
        seen: dict[str, list[str]] = {}

        def body(name: str) -> None:
            seen[name] = [where.get()]
            where.set(name)
            turns()  # the others set theirs meanwhile
            seen[name].append(where.get())

        threads = [spawn(body, name) for name in "abc"]
        where.set("main, later")
        for thread in threads:
            thread.join()
        assert seen == {name: ["main", name] for name in "abc"}, "each starts with its maker's, and keeps its own"
        assert where.get() == "main, later"

    host.run(main)
    assert where.get() == "nowhere"


def test_context_variables_over_the_bridges(host: Host) -> None:
    def main() -> None:
        where.set("green")

        async def coroutine() -> str:
            seen = where.get()
            where.set("coroutine")
            return f"{seen}, {await green(lambda: where.get())}"

        assert await_(coroutine()) == "green, coroutine"
        assert where.get() == "green"

    host.run(main)


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_ten_thousand_at_once(kind: str) -> None:
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="the extra 'uvloop' is not installed")

    def main() -> int:
        waits: list[GreenWait] = []

        def body(number: int) -> int:
            wait = GreenWait(getcurrent())  # type: ignore[arg-type]
            waits.append(wait)
            wait.wait(3600 if number % 2 else None)
            return number

        threads = [spawn(body, number) for number in range(10_000)]
        until(lambda: len(waits) == 10_000)
        assert not any(thread.done for thread in threads)
        for wait in reversed(waits):
            wait.wake()
        return sum(thread.result() for thread in threads)

    assert Host(kind).run(main) == sum(range(10_000))


def test_ten_thousand_killed_at_once() -> None:
    def main() -> int:
        ended: list[int] = []

        def body() -> None:
            try:
                sleep(3600)
            finally:
                ended.append(1)

        threads = [spawn(body) for _ in range(10_000)]
        turns()
        for thread in threads:
            thread.kill()
        for thread in threads:
            thread.join()
        return len(ended)

    assert run(main) == 10_000


def test_a_log_that_stays_silent_would_be_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """The broken case for the section on what is logged."""

    def main() -> None:
        thread = spawn(boom)
        until(lambda: thread.done)

    end = GreenThread._end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GreenThread, "_end", lambda self, value, error: end(self, value, None))
        assert logged(caplog, lambda: run(main)) == []
    assert len(logged(caplog, lambda: run(main))) == 1
