"""An upgrade: a new supervisor, of the version that is installed now, takes the sockets over from this one.

It is started as this one was, by the same command line, inherits the listeners (:mod:`jackfield.door.inheritance`), and
says when its workers serve. Then the old workers retire, and this supervisor ends with the last of them. If the new one
ends before, all stays as it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from ..door import Listener
from ..door.inheritance import VARIABLE, described
from .supervisor import Supervisor

_log = logging.getLogger("jackfield.supervisor")


class Upgrade:
    """What SIGUSR2 asks for; any number of times, one after the other.

    :param environment: what it gets besides this process's environment.
    :param pid_file: the descriptor that holds the pid file's lock; -1 for none.
    :param also: listeners that it takes over besides those that the workers serve.
    :param command: how it is started; by default as this process was.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        environment: dict[str, str] | None = None,
        pid_file: Callable[[], int] = lambda: -1,
        also: Sequence[Listener] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        self._supervisor = supervisor
        #: Called with the new one's pid when it serves.
        self.on_taken_over: Callable[[int], object] = lambda pid: None
        self._environment = environment or {}
        self._pid_file = pid_file
        self._also = also
        # sys.orig_argv has what the interpreter itself was told, too, such as -m (Python 3.10).
        self._command = list(command or [sys.executable, *sys.orig_argv[1:]])
        self._process: subprocess.Popen[bytes] | None = None
        self._reading = -1

    def begin(self) -> None:
        """Start the new one; returns at once."""
        if self._process is not None or self._supervisor.stopping:
            _log.warning("no upgrade: %s", "one is under way" if self._process is not None else "this is stopping")
            return
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        pid_file = self._pid_file()
        listeners = [*self._supervisor.listeners, *self._also]
        passed = [listener.fileno() for listener in listeners if listener.fileno() >= 0]
        passed += [writing, *([pid_file] if pid_file >= 0 else [])]
        environment = {
            **os.environ, **self._environment, VARIABLE: described(listeners, writing, pid_file),
        }  # fmt: skip
        try:
            self._process = subprocess.Popen(
                self._command, pass_fds=passed, env=environment, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            _log.error("the upgrade failed, and what serves goes on: %s", error)
            os.close(self._reading)
            return
        finally:
            os.close(writing)
        _log.info("upgrade: process %d is to take over", self._process.pid)
        self._supervisor.watch(self._reading, self._heard)

    def _heard(self) -> None:
        """The new one serves, or it has ended: the kernel closes the pipe's other end with it."""
        ready = bool(os.read(self._reading, 1))
        self._supervisor.unwatch(self._reading)
        os.close(self._reading)
        process, self._process = self._process, None
        assert process is not None
        if ready:
            _log.info("upgrade: process %d serves; this one ends with its last connection", process.pid)
            self.on_taken_over(process.pid)
            for listener in self._supervisor.listeners:
                listener.hand_over()
            self._supervisor.leave()
            process.returncode = 0  # it outlives this one, and is not waited for
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.returncode is None:
            process.kill()
            process.wait()
        _log.error("the upgrade failed, and what serves goes on: the new process ended by exit code %d",
                   process.returncode)  # fmt: skip
