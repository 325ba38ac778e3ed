"""``await sock.recv(n)``, whoever drives the coroutine: the native awaitable has to pass for a future, or for none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twin_support import DRIVERS, SOON, as_task, natively, parked, stream

from jackfield.errors import ClosedSocketError, MisuseError
from jackfield.reactor import drive

Driver = Callable[[Coroutine[Any, Any, Any]], "asyncio.Future[Any]"]

every_driver = pytest.mark.parametrize("driver", DRIVERS)


def bounded(work: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(SOON):
            return await work

    return asyncio.run(main())


def waits(sock: Any) -> Callable[[], bool]:
    """Whether somebody waits to read the socket."""
    return lambda: sock.socket._registered.reader is not None


@every_driver
def test_what_is_there_is_returned_at_once(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):
            peer.sendall(b"here")

            async def handler() -> bytes:
                return await sock.recv(100)

            assert await driver(handler()) == b"here"

    bounded(main())


@every_driver
def test_it_waits_and_is_resumed_many_times(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            received: list[bytes] = []

            async def handler() -> None:
                while data := await sock.recv(100):
                    received.append(data)

            task = driver(handler())
            for number in range(5):
                await parked(waits(sock))
                peer.sendall(b"%d" % number)
                await parked(lambda number=number: len(received) > number)
            peer.close()
            await task
            assert received == [b"0", b"1", b"2", b"3", b"4"]

    bounded(main())


@every_driver
def test_cancelled_it_waits_no_more_and_loses_nothing(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            async def handler() -> bytes:
                return await sock.recv(100)

            task = driver(handler())
            await parked(waits(sock))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not waits(sock)()
            peer.sendall(b"later")
            assert await driver(handler()) == b"later"

    bounded(main())


@every_driver
def test_a_cancelled_handler_may_receive_on(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            caught: list[bool] = []

            async def handler() -> bytes:
                try:
                    return await sock.recv(100)
                except asyncio.CancelledError:
                    caught.append(True)
                    return b"after: " + await sock.recv(100)

            task = driver(handler())
            await parked(waits(sock))
            task.cancel()
            await parked(lambda: caught)
            await parked(waits(sock))
            peer.sendall(b"more")
            assert await task == b"after: more"
            assert sock.socket.received == len(b"-more")

    bounded(main())


@every_driver
def test_a_deadline_ends_the_wait(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            async def handler() -> bytes:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(sock.recv(100), 0.001)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await sock.recv(100)
                peer.sendall(b"on")
                return await asyncio.wait_for(sock.recv(100), SOON)

            assert await driver(handler()) == b"on"

    bounded(main())


@every_driver
def test_gathered_and_grouped(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (one, first), stream() as (two, second):

            async def handler() -> list[bytes]:
                gathered = asyncio.gather(one.recv(100), two.recv(100))
                await parked(waits(one))
                await parked(waits(two))
                second.sendall(b"2")
                first.sendall(b"1")
                return await gathered

            assert await driver(handler()) == [b"1", b"2"]

    bounded(main())


@every_driver
def test_closed_while_it_waits(driver: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, _):

            async def handler() -> bytes:
                return await sock.recv(100)

            task = driver(handler())
            await parked(waits(sock))
            sock.socket.close()
            with pytest.raises(ClosedSocketError):
                await task

    bounded(main())


def test_closed_between_the_call_and_the_await() -> None:
    async def main() -> None:
        async with stream() as (sock, _):
            receive = sock.recv(100)
            sock.socket.close()
            with pytest.raises(OSError):
                await receive

    bounded(main())


@every_driver
@pytest.mark.parametrize("first", [drive, as_task])
def test_a_second_waiter_is_told_of_the_first(driver: Driver, first: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            async def handler() -> bytes:
                return await sock.recv(100)

            waiting = first(handler())
            waiting.set_name("the first one")  # type: ignore[attr-defined]
            await parked(waits(sock))
            with pytest.raises(MisuseError, match=r"the first one.*waits to read"):
                await driver(handler())
            peer.sendall(b"for the first")
            assert await waiting == b"for the first"

    bounded(main())


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_awaited_twice_it_gives_its_data_once() -> None:
    async def main() -> None:
        async with stream() as (sock, peer):
            peer.sendall(b"once")
            receive = sock.recv(100)
            assert await receive == b"once"
            try:
                assert await receive is None  # what the interpreter says of a generator that has ended
            except RuntimeError as error:
                assert "cannot reuse" in str(error)
            assert sock.socket.received == len(b"-once")

    bounded(main())


@natively
@pytest.mark.parametrize("second", [drive, as_task])
def test_awaited_by_two_the_second_is_told(second: Driver) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):
            receive = sock.recv(100)

            async def handler() -> bytes:
                return await receive  # type: ignore[no-any-return]

            waiting = drive(handler())
            await parked(waits(sock))
            with pytest.raises(RuntimeError, match="already"):
                await second(handler())
            peer.sendall(b"x")
            assert await waiting == b"x"

    bounded(main())


@pytest.mark.parametrize("driver", [drive, as_task])
def test_asking_what_it_is_does_not_make_it_wait(driver: Driver) -> None:
    """hasattr(), a debugger, and whoever follows ``cr_await`` to draw a stack ask for attributes it does not have."""

    async def main() -> None:
        async with stream() as (sock, peer):
            receive = sock.recv(100)
            assert not hasattr(receive, "ag_await") and not asyncio.isfuture(receive)
            assert not waits(sock)()

            async def handler() -> bytes:
                return await receive  # type: ignore[no-any-return]

            task = driver(handler())
            await parked(waits(sock))
            hasattr(task.get_coro().cr_await, "ag_await")  # type: ignore[attr-defined]
            peer.sendall(b"x")
            assert await task == b"x"

    bounded(main())


async def another(sock: Any, peer: Any) -> None:
    """One more exchange: the exception of the last, and the frames it went through, are kept until then."""
    peer.sendall(b"x")
    assert await sock.recv(100) == b"x"


def test_driven_by_hand() -> None:
    """send(None) until StopIteration brings the data: what a trampoline that is not asyncio's does."""

    async def main() -> None:
        async with stream() as (sock, peer):
            peer.sendall(b"by hand")
            await parked(lambda: sock.socket._registered.readable)
            with pytest.raises(StopIteration) as caught:
                sock.recv(100).send(None)
            assert caught.value.value == b"by hand"
            await another(sock, peer)

    bounded(main())


@natively
def test_the_value_of_each_stop_iteration_is_its_own() -> None:
    """The exception is used again, but never while somebody holds it."""

    async def main() -> None:
        async with stream() as (sock, peer):
            held = []
            for number in range(3):
                peer.sendall(b"%d" % number)
                await parked(lambda: sock.socket._registered.readable)
                try:
                    sock.recv(100).send(None)
                except StopIteration as stop:
                    held.append(stop)
            assert [stop.value for stop in held] == [b"0", b"1", b"2"]
            await another(sock, peer)

    bounded(main())


@pytest.mark.parametrize("error", [KeyError, KeyError("k"), GeneratorExit, asyncio.CancelledError()])
def test_thrown_into(error: Any) -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            async def handler() -> bytes:
                return await sock.recv(100)

            coroutine = handler()
            coroutine.send(None)
            with pytest.raises(error if isinstance(error, type) else type(error)):
                coroutine.throw(error)
            gc.collect()
            assert not waits(sock)()
            peer.sendall(b"x")
            assert await sock.recv(100) == b"x"

    bounded(main())


def test_closed_by_hand() -> None:
    async def main() -> None:
        async with stream() as (sock, peer):

            async def handler() -> bytes:
                return await sock.recv(100)

            for _ in range(100):  # more than are kept to be used again
                coroutine = handler()
                coroutine.send(None)
                coroutine.close()
            assert not waits(sock)()
            peer.sendall(b"x")
            assert await sock.recv(100) == b"x"

    bounded(main())


def test_left_alone_before_and_after_it_was_begun() -> None:
    async def main() -> None:
        async with stream() as (sock, peer):
            sock.recv(100)
            sock.sendall(b"")
            begun = [sock.recv(100)]
            begun.clear()
            gc.collect()
            peer.sendall(b"x")
            assert await sock.recv(100) == b"x"

    bounded(main())


def test_sendall_has_sent_when_it_returns() -> None:
    async def main() -> None:
        async with stream() as (sock, peer):
            sent = sock.sendall(b"sent")
            assert peer.recv(100) == b"sent"
            assert await sent is None
            assert await asyncio.wait_for(sock.sendall(b"again"), SOON) is None
            assert await asyncio.gather(sock.sendall(b" and"), sock.sendall(b" again")) == [None, None]

    bounded(main())
