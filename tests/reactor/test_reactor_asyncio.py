"""What asyncio and programs for it are made of works inside a driven coroutine, and leaves the reactor clean."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from reactor_support import Host, async_until, drain, fill, pair

from jackfield import socket as jackfield_socket
from jackfield.errors import MisuseError
from jackfield.reactor import current_reactor, drive
from jackfield.streams import AsyncReader, AsyncSocket


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# -- timeouts ----------------------------------------------------------------------------------------------------------


def test_a_timeout_around_a_parked_recv_leaves_the_channel_clean(host: Host) -> None:
    async def main() -> None:
        with pair() as (left, right):
            sock = AsyncSocket(left)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await sock.recv(10)
                assert left._registered is not None
                assert left._registered.reader is None
            right.send(b"still there")
            async with asyncio.timeout(10):
                assert await sock.recv(100) == b"still there"
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    host.drive(main)


def test_a_timeout_around_a_parked_sendall_leaves_the_channel_clean(host: Host) -> None:
    async def main() -> None:
        with pair() as (left, right):
            sock = AsyncSocket(left)
            fill(left)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await sock.sendall(b"x" * 1000)
            assert left._registered is not None
            assert left._registered.writer is None
            drain(right)
            async with asyncio.timeout(10):
                await sock.sendall(b"after it")
            assert right.recv(100) == b"after it"

    host.drive(main)


@pytest.mark.parametrize("how", ["recv", "recv_into", "recvfrom", "readline", "accept"])
def test_a_timeout_around_everything_that_waits(host: Host, how: str) -> None:
    async def main() -> None:
        with pair() as (left, _), jackfield_socket.create_server(("127.0.0.1", 0)) as listener:
            sock = AsyncSocket(left)
            waits: dict[str, Any] = {
                "recv": lambda: sock.recv(10),
                "recv_into": lambda: sock.recv_into(bytearray(10)),
                "recvfrom": lambda: sock.recvfrom(10),
                "readline": lambda: AsyncReader(sock).readline(),
                "accept": lambda: AsyncSocket(listener).accept(),
            }
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waits[how](), 0.001)
            for one in (left, listener):
                assert one._registered is None or one._registered.reader is None

    host.drive(main)


def test_a_timeout_that_has_passed_before_it_waits(host: Host) -> None:
    async def main() -> None:
        with pair() as (left, right):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(-1):
                    await AsyncSocket(left).recv(10)
            right.send(b"x")
            assert await AsyncSocket(left).recv(10) == b"x"

    host.drive(main)


def test_a_timeout_may_be_moved_on(host: Host) -> None:
    async def main() -> str:
        async with asyncio.timeout(3600) as deadline:
            deadline.reschedule(None)
            await asyncio.sleep(0.001)
        return "not timed out"

    assert host.drive(main) == "not timed out"


def test_nested_timeouts_are_told_apart(host: Host) -> None:
    async def main() -> str:
        async with asyncio.timeout(3600):
            try:
                async with asyncio.timeout(0.001):
                    await forever()
            except TimeoutError:
                return "the inner one"
        return "the outer one"

    assert host.drive(main) == "the inner one"


@pytest.mark.parametrize("at", [1, 62, 63, 64, 65, 127])
def test_a_cancellation_takes_nothing_that_was_received(at: int) -> None:
    """A coroutine that reads without ever having to wait gives up its turn now and then. Cancelled there, or by a
    timeout, it must not have bytes in hand: whoever reads next would miss them."""

    async def main() -> None:
        with pair() as (left, right):
            sock, taken = AsyncSocket(left), bytearray()
            right.sendall(bytes(range(200)))

            async def reader() -> None:
                while len(taken) < 199:
                    taken.extend(await sock.recv(1))
                    if len(taken) == at:
                        task = asyncio.current_task()
                        assert task is not None
                        task.cancel()  # as anybody may, at any moment: it is met where the turn is given away next

            with pytest.raises(asyncio.CancelledError):
                await drive(reader())
            assert bytes(taken) + left.recv(1000) == bytes(range(200))

    Host("asyncio").drive(main)


# -- groups of tasks ---------------------------------------------------------------------------------------------------


def test_a_task_group(host: Host) -> None:
    async def main() -> None:
        async def square(number: int) -> int:
            await asyncio.sleep(0.001)
            return number * number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(square(n)) for n in range(5)]
        assert [task.result() for task in tasks] == [0, 1, 4, 9, 16]

    host.drive(main)


def test_a_task_group_of_which_one_fails_cancels_the_others(host: Host) -> None:
    async def main() -> None:
        ended: list[str] = []

        async def waits() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        async def fails() -> None:
            await asyncio.sleep(0.001)
            raise KeyError("one")

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(fails())
                await forever()  # the body itself is cancelled too
        assert [type(error) for error in caught.value.exceptions] == [KeyError]
        assert ended == ["cancelled"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    host.drive(main)


def test_a_task_group_inside_a_cancelled_task(host: Host) -> None:
    async def main() -> None:
        inside: list[str] = []

        async def body() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever())
                inside.append("waits")
                await forever()

        task = drive(body())
        await async_until(lambda: inside)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    host.drive(main)


def test_gather_wait_for_wait_shield(host: Host) -> None:
    async def main() -> None:
        async def later(value: Any) -> Any:
            await asyncio.sleep(0.001)
            return value

        async def fails() -> None:
            raise KeyError("k")

        assert await asyncio.gather(later(1), drive(later(2)), asyncio.create_task(later(3))) == [1, 2, 3]
        one, other = await asyncio.gather(drive(fails()), drive(later(5)), return_exceptions=True)
        assert isinstance(one, KeyError)
        assert other == 5
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(drive(forever()), 0.001)
        assert await asyncio.wait_for(drive(later("in time")), 10) == "in time"
        done, pending = await asyncio.wait([drive(later(1)), drive(forever())], return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(pending)) == (1, 1)
        for task in pending:
            task.cancel()
        assert [await each for each in asyncio.as_completed([drive(later("a"))])] == ["a"]

        shielded = drive(later("shielded"))
        outer = drive(waits_for(asyncio.shield(shielded)))
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert await shielded == "shielded"

    async def waits_for(awaitable: Any) -> Any:
        return await awaitable

    host.drive(main)


# -- what asyncio's programs hold each other up with -------------------------------------------------------------------


def test_lock_queue_event_condition_semaphore(host: Host) -> None:
    """Between driven tasks and asyncio's own."""

    async def main() -> None:
        lock, queue, event, semaphore = asyncio.Lock(), asyncio.Queue[int](2), asyncio.Event(), asyncio.Semaphore(1)
        condition = asyncio.Condition()
        seen: list[str] = []
        inside = 0

        async def holds(name: str) -> None:
            nonlocal inside
            async with lock, semaphore:
                inside += 1
                await asyncio.sleep(0)
                assert inside == 1, "two inside at once"
                inside -= 1
            seen.append(name)

        async def produces() -> None:
            for number in range(10):
                await queue.put(number)
            await queue.join()
            event.set()
            async with condition:
                condition.notify_all()

        async def consumes() -> int:
            total = 0
            for _ in range(10):
                total += await queue.get()
                queue.task_done()
            await event.wait()
            return total

        async def notified() -> None:
            async with condition:
                await condition.wait()

        waiter = drive(notified())
        await async_until(lambda: condition._waiters)  # type: ignore[attr-defined]
        results = await asyncio.gather(
            *(drive(holds(f"driven {n}")) for n in range(3)),
            *(asyncio.create_task(holds(f"own {n}")) for n in range(3)),
            drive(produces()),
            asyncio.create_task(consumes()),
        )
        await waiter
        assert results[-1] == 45
        assert len(seen) == 6

    host.drive(main)


def test_executors_and_threads(host: Host) -> None:
    async def main() -> None:
        assert await asyncio.to_thread(lambda: 5) == 5
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, lambda: 6) == 6
        future = loop.create_future()
        await asyncio.to_thread(loop.call_soon_threadsafe, future.set_result, 7)
        assert await future == 7

    host.drive(main)


def test_streams_of_asyncio_inside_a_driven_task(host: Host) -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"over asyncio's streams\n")
            assert await reader.read() == b"over asyncio's streams\n"
            writer.close()
            await writer.wait_closed()

    host.drive(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks(host: Host) -> None:
    """A task that begins inside the step of a driven one, on its stack, and hands back to it."""
    if "uvloop" in host.name and sys.version_info >= (3, 13):
        pytest.skip("uvloop 0.23 hands its task factory an argument that Python 3.13.0's eager one does not know")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[arg-type]
        with pair() as (left, right):
            me = asyncio.current_task()
            seen: list[Any] = []

            async def eager() -> bytes:
                seen.append(asyncio.current_task())
                return await AsyncSocket(left).recv(10)

            task = asyncio.get_running_loop().create_task(eager())
            assert seen == [task], "it began at once"
            assert asyncio.current_task() is me
            right.send(b"x")
            assert await task == b"x"
            assert asyncio.current_task() is me

    host.drive(main)


# -- sockets between tasks of either kind ------------------------------------------------------------------------------


def test_an_ordinary_task_waits_on_the_same_sockets(host: Host) -> None:
    async def main() -> None:
        with pair() as (left, right):
            mine, other = AsyncSocket(left), AsyncSocket(right)

            async def echo() -> None:
                while data := await other.recv(100):
                    await other.sendall(data.upper())
                other.close()

            task = asyncio.get_running_loop().create_task(echo())
            for word in (b"one", b"two"):
                await mine.sendall(word)
                assert await mine.recv(100) == word.upper()
            big = b"x" * 1_000_000
            sending = asyncio.ensure_future(mine.sendall(big))  # type: ignore[arg-type]
            received = bytearray()
            while len(received) < len(big):
                received += await mine.recv(1 << 16)
            await sending
            assert bytes(received) == big.upper()
            left.shutdown(jackfield_socket.SHUT_WR)
            await task
            assert await mine.recv(1) == b""

    host.drive(main)


@pytest.mark.parametrize("first", ["driven", "own"])
@pytest.mark.parametrize("second", ["driven", "own"])
def test_two_tasks_that_read_one_socket_are_both_named(host: Host, first: str, second: str) -> None:
    async def main() -> None:
        with pair() as (left, _):
            sock = AsyncSocket(left)

            async def reads() -> None:
                await sock.recv(10)

            def start(kind: str, name: str) -> Any:
                if kind == "driven":
                    return drive(reads(), name=name)
                return asyncio.get_running_loop().create_task(reads(), name=name)

            one = start(first, "the first reader")
            await async_until(lambda: left._registered is not None and left._registered.reader is not None)
            two = start(second, "the second reader")
            with pytest.raises(MisuseError, match=r"the second reader.* would read .*the first reader.* waits to read"):
                await two
            assert not one.done(), "the first is not disturbed"
            one.cancel()

    host.drive(main)


@pytest.mark.parametrize("kind", ["driven", "own"])
def test_closing_a_socket_wakes_the_coroutine_that_waits_on_it(host: Host, kind: str) -> None:
    async def main() -> None:
        with pair() as (left, _):

            async def reads() -> None:
                await AsyncSocket(left).recv(10)

            task: Any = drive(reads()) if kind == "driven" else asyncio.get_running_loop().create_task(reads())
            await async_until(lambda: left._registered is not None and left._registered.reader is not None)
            left.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await task
            with pytest.raises(OSError, match="Bad file descriptor"):
                await reads()

    host.drive(main)


def test_a_channel_that_is_not_cleaned_would_be_found_out() -> None:
    """The broken case: a reader that stays on the channel after its timeout makes the next one a misuse."""

    async def main() -> None:
        with pair() as (left, _):
            sock = AsyncSocket(left)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await sock.recv(10)
            assert left._registered is not None
            left._registered.reader = drive(forever())  # type: ignore[assignment]
            with pytest.raises(MisuseError):
                await sock.recv(10)
            left._registered.reader = None
            assert current_reactor().tasks

    Host("asyncio").drive(main)
