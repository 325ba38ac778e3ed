"""The processes of a load test: started together, listened to while they run, their figures put together at the end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from jackfield.bench.load import Beat, measure, open_load
from jackfield.bench.loop import Target
from jackfield.bench.plan import Plan
from jackfield.errors import JackfieldError

__all__ = ["Crowd", "LostProcessError"]

HEAD_START = 20_000_000
"""Nanoseconds that a process has to come into being before the load begins, times the number of them."""


class LostProcessError(JackfieldError):
    """A process of the load test ended without its figures; the message, one line, says how."""


class Crowd:
    """All processes of one load test.

    :param on_beat: is told how far each has come: the number of the process, and its beat.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        secure: Callable[[Any], Any] | None = None,
        on_beat: Callable[[int, Beat], None] | None = None,
    ) -> None:
        self._plan, self._target, self._secure = plan, target, secure
        self._on_beat = on_beat or (lambda _number, _beat: None)
        self._pids: dict[int, int] = {}
        self._asked = 0

    def stop(self) -> None:
        """End early, from a signal handler: the processes end with what they have; called again, without."""
        self._asked += 1
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if self._asked == 1 else signal.SIGKILL)

    def run(self) -> list[dict[str, Any]]:
        """Run the load; what each process measured (:func:`jackfield.bench.load.measure`).

        :raises LostProcessError: one was killed, or failed.
        """
        start = time.monotonic_ns() + HEAD_START * self._plan.workers
        pipes: dict[int, int] = {}
        try:
            for number in range(self._plan.workers):
                pipes[self._start(number, start, list(pipes))] = number
            return self._listen(pipes)
        finally:
            for pid in self._pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            self._pids.clear()
            for pipe in pipes:
                os.close(pipe)

    def _start(self, number: int, start: int, others: list[int]) -> int:
        """Fork one; the end of the pipe on which it tells."""
        listens, tells = os.pipe()
        # A stop that comes while the child comes into being must find what makes it end well.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        pid = os.fork()
        if pid == 0:
            for descriptor in (listens, *others):
                os.close(descriptor)
            _be_one(self._plan, self._target, self._secure, number, start, tells, blocked)
        self._pids[number] = pid
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(tells)
        return listens

    def _listen(self, pipes: dict[int, int]) -> list[dict[str, Any]]:
        came = dict.fromkeys(pipes, b"")
        results: dict[int, dict[str, Any]] = {}
        poll = select.poll()
        for pipe in pipes:
            poll.register(pipe, select.POLLIN)
        while came:
            for pipe, _ in poll.poll():
                data = os.read(pipe, 1 << 16)
                if not data:
                    poll.unregister(pipe)
                    del came[pipe]
                    self._check(pipes[pipe], results)
                    continue
                *lines, came[pipe] = (came[pipe] + data).split(b"\n")
                for line in lines:
                    self._hear(pipes[pipe], json.loads(line), results)
        return [results[number] for number in sorted(results)]

    def _hear(self, number: int, told: dict[str, Any], results: dict[int, dict[str, Any]]) -> None:
        if "beat" in told:
            self._on_beat(number, Beat(*told["beat"]))
        elif "result" in told:
            results[number] = told["result"]
        else:
            raise LostProcessError(f"process {number + 1} of the load test failed: {told['failed']}")

    def _check(self, number: int, results: dict[int, dict[str, Any]]) -> None:
        """A process has nothing more to tell: it has ended, with its figures or not."""
        _, status = os.waitpid(self._pids.pop(number), 0)
        if number in results:
            return
        if self._asked > 1:
            raise KeyboardInterrupt
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise LostProcessError(f"process {number + 1} of the load test ended before its figures came ({how})")


def _be_one(
    plan: Plan, target: Target, secure: Callable[[Any], Any] | None, number: int, start: int, tells: int,
    mask: set[Any],
) -> NoReturn:  # fmt: skip
    """What a process does from its fork to its end."""
    code = 1
    try:
        stopped: list[int] = []
        # Ctrl-C reaches every process of the terminal; whoever started this one decides what is to come of it.
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda signum, _frame: stopped.append(signum))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        def tell(kind: str, what: Any) -> None:
            data = memoryview(json.dumps({kind: what}).encode() + b"\n")
            while data:
                data = data[os.write(tells, data) :]

        def go_on(beat: Beat) -> bool:
            tell("beat", beat)  # which fails once nobody listens any more, and that is the end of this process
            return not stopped

        try:
            load = open_load(plan, target, number, start, secure)
            tell("result", measure(plan, load, start, go_on))
            code = 0
        except BrokenPipeError:
            pass
        except Exception as error:
            tell("failed", f"{type(error).__name__}: {error}")
    finally:
        # Not sys.exit(): what the parent has open, buffers and atexit functions among it, is the parent's to end.
        os._exit(code)
