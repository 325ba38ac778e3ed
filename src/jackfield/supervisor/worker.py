"""A worker's own side: a process that serves, shows that it lives, and does what its supervisor asks."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from ..admission.ledger import Seat
from ..door import Listener
from ..errors import JackfieldError
from ..server import Server
from .board import Board, Shown
from .errands import LONGEST
from .link import Link, written
from .policy import EARLY
from .pulse import Pulse

if TYPE_CHECKING:
    from ..admin import Desk

_log = logging.getLogger("jackfield.worker")

#: Exit codes: it was told to stop and did; it ended by an error; it could not begin, as the command's own.
STOPPED, FAILED, NOT_STARTED = 0, 1, 3

#: Seconds that a stopping worker has beyond its deadline before it leaves without its handlers.
GIVE_UP = 2.0

#: Seconds between two signs of life, and the part of the supervisor's patience that they may take.
BEAT, PART = 2.0, 5.0

#: Seconds in which it looks at once whether it has had a client, and between two looks: should it die, that tells one
#: that was killed from one that cannot live.
YOUNG, LOOK = EARLY, 0.25

#: Seconds within which SIGTERM again is the same wish told twice: a wrapper such as timeout(1) sends it to its child,
#: and to the whole group of the child.
ECHO = 0.1

#: What a supervisor decides for all: a terminal's Ctrl-C, its going away, and the rest of what it is asked by signals.
NOT_FOR_WORKERS = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip

_PAGE = os.sysconf("SC_PAGE_SIZE")

_ENDED = ("stopped", "failed")


class Worker:
    """What one worker is given: its end of the link, its row of the board, and how it is watched."""

    def __init__(
        self, link: Link, board: Board, row: int, *, patience: float, graceful_timeout: float, number: int
    ) -> None:
        self.number = number
        self._link = link
        self._board = board
        self._row = row
        self._beat_seconds = min(BEAT, patience / PART)
        self._graceful_timeout = graceful_timeout
        self._servers: Sequence[Server] = ()
        #: Where each of its servers counts with those of the other workers.
        self.seats: Sequence[Seat] = ()
        self._pulse: Pulse | None = None
        self._give_up_at: float | None = None
        self._since = time.monotonic()
        self._terminated: float | None = None
        self._is_retired = False
        self._bell = self._rings = self._stacks = -1
        #: Of listeners that were asked for, those that this worker is to serve.
        self.its_own: Callable[[Sequence[Listener]], Sequence[Listener]] = lambda listeners: listeners
        self._desk: Desk | None = None
        #: Whether what it does is counted from the start for those who look.
        self.is_watched = False
        #: Called when logs are to be opened again.
        self.on_reopen: Callable[[], object] = lambda: None

    def run(self, make_servers: Callable[[Worker], Sequence[Server]]) -> NoReturn:
        """In the forked process: make the servers, serve, end the process."""
        code = NOT_STARTED
        try:
            self._take_over()
            code = self._serve(make_servers)
        except BaseException:
            _log.critical("worker %d ended by an error", self.number, exc_info=True)
            code = FAILED
        finally:
            _leave(code)

    # -- the process -------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """The process is its own from now on: its signals, its end."""
        self._bell, self._rings = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._rings, warn_on_full_buffer=False)
        for number in NOT_FOR_WORKERS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._have_stacks_logged()

    def _have_stacks_logged(self) -> None:
        """SIGABRT from the supervisor, or a fault of C code: every thread's stack goes to the log first.

        To a descriptor of its own: faulthandler keeps the number only, which is another file's, or a client's, once a
        log that was moved away is opened again.
        """
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stderr without a descriptor, or none
            before, self._stacks = self._stacks, os.dup(_log_file().fileno())
            faulthandler.enable(self._stacks, all_threads=True)
            if before >= 0:
                os.close(before)

    def _on_term(self, number: int, frame: object) -> None:
        """The supervisor is asked to see to it, which has another take this one's place first, or stops all: a service
        manager sends the signal to every process of a service (systemd.kill(5), ``KillMode=control-group``). Only where
        there is none, and when asked again, is it a wish to this one alone."""
        now = time.monotonic()
        before, self._terminated = self._terminated, now
        if not self._servers:
            _leave(STOPPED)  # it serves nobody yet
        elif before is None:
            if not self._link.send(leave=True):
                self._stop(self._graceful_timeout)
        elif now - before > ECHO:
            self._stop(0.0 if self._give_up_at is not None else self._graceful_timeout)

    # -- serving -----------------------------------------------------------------------------------------------------

    def _serve(self, make_servers: Callable[[Worker], Sequence[Server]]) -> int:
        try:
            servers = make_servers(self)
            for server, seat in zip(servers, self.seats, strict=False):
                server.share_limits(seat)
            watched = [server for server in servers if server.mode != "serial"]
            self._pulse = Pulse(watched, self._beat_seconds, self._beat)
            self._servers = servers
            if any(server.mode == "process" for server in servers):
                # A process for each client outlives a worker that is killed: by its group the supervisor finds them.
                os.setpgid(0, 0)
            for server in servers:
                server.when_stopped(self._ring)
                server.start()
            self._pulse.start()
        except Exception as error:
            known = isinstance(error, JackfieldError)
            if not known:
                _log.error("worker %d cannot start", self.number, exc_info=True)
            # One line, whoever reads it: what is longer stands in the log.
            self._link.send(failed=" ".join((f"{error}" if known else f"{type(error).__name__}: {error}").split()))
            return NOT_STARTED
        self._beat()
        self._link.send(ready=[_facts(server) for server in self._servers])
        if self.is_watched:
            self._sit_at_desk()
        self._attend(not watched)
        if self._desk is not None:
            self._tell(self._desk.stats(), past=True)
            self._desk.close()
        failed = any(server.state == "failed" for server in self._servers)
        self._beat()
        self._link.send(cut=sum(len(server.cut) for server in self._servers))
        return FAILED if failed else STOPPED

    def _attend(self, beats: bool) -> None:
        """Do as the supervisor asks until all servers have ended. ``beats``: nobody else shows that this one lives: a
        serial server's loop does not turn while a handler runs, however long that is to take."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._link.fileno(), select.POLLIN)
        while any(server.state not in _ENDED for server in self._servers):
            left = None if self._give_up_at is None else self._give_up_at - time.monotonic()
            if left is not None and left <= 0:
                _log.error("worker %d: a handler does not return; left behind", self.number)
                # Nor would what Python does at its end: it waits for servers.
                _leave(STOPPED, in_order=False)
            look = LOOK if self._is_to_look() else None
            waits = [one for one in (left, look, self._beat_seconds if beats else None) if one is not None]
            for fd, _ in poll.poll(int(min(*waits, LONGEST) * 1000 + 0.999) if waits else None):
                if fd == self._bell:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                elif not self._heed():
                    poll.unregister(fd)
            if beats:
                self._beat()
            self._see_to_ends()

    def _is_to_look(self) -> bool:
        """Whether nobody has come yet, and it is young."""
        if time.monotonic() - self._since > YOUNG or self._board.read(self._row).accepted:
            return False
        accepted = sum(server.info().accepted for server in self._servers)
        self._board.write_accepted(self._row, accepted)
        return not accepted

    def _see_to_ends(self) -> None:
        """Where one of several servers has ended by itself, this worker is not what it is to be: the others end, too,
        and another worker takes its place."""
        ended = [server for server in self._servers if server.state in _ENDED]
        others = [server for server in self._servers if server.state not in _ENDED and not server.draining]
        if ended and others and self._give_up_at is None and not self._is_retired:
            names = ", ".join(server.name for server in ended)
            _log.error("worker %d: %s has ended, and with it the others stop", self.number, names)
            self._link.send(ending=True)
            for server in others:
                server.retire(0.0)
            self._is_retired = True

    def _heed(self) -> bool:
        """False once there is no supervisor any more."""
        while message := self._link.receive():
            self._do(message)
        if message is not None:
            return True
        if self._give_up_at is None:
            _log.error("worker %d: the supervisor is gone, so this ends too", self.number)
            self._stop(self._graceful_timeout)
        return False

    def _do(self, message: dict[str, Any]) -> None:
        if "stop" in message:
            self._stop(float(message["stop"]))
        if "retire" in message:
            self._is_retired = True
            for server in self._servers:
                server.retire(float(message["retire"]))
        if "ask" in message:
            self._answer(message["ask"], message["what"], message["arguments"])
        if "reopen" in message:
            self.on_reopen()
            self._have_stacks_logged()

    def _answer(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        """Somebody wants to know, or to have something done here. What counts only for those who look counts from the
        first time on, or from the start where ``is_watched``."""
        from ..admin import BadQuestion

        try:
            self._tell(self._sit_at_desk().answer(what, **arguments), answer=number)
        except BadQuestion as error:
            self._link.send(answer=number, problem=str(error))
        except Exception as error:
            _log.error("worker %d cannot answer what it was asked", self.number, exc_info=True)
            self._link.send(answer=number, problem=f"worker {self.number} failed: {type(error).__name__}")

    def _sit_at_desk(self) -> Desk:
        from ..admin import Desk

        if self._desk is None:
            self._desk = Desk(self._servers, self.number)
        return self._desk

    def _tell(self, value: Any, **message: Any) -> None:
        fd = written(value)
        self._link.send(fd=fd, **message)
        os.close(fd)

    def _stop(self, seconds: float) -> None:
        give_up_at = time.monotonic() + seconds + GIVE_UP
        self._give_up_at = give_up_at if self._give_up_at is None else min(self._give_up_at, give_up_at)
        for server in self._servers:
            server.stop(seconds)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full of rings: one is enough
            os.write(self._rings, b"\0")

    # -- showing -----------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        infos = [server.info() for server in self._servers]
        self._board.write(
            self._row,
            Shown(
                time.monotonic(), sum(info.connections for info in infos), sum(info.accepted for info in infos),
                _resident(),
            ),
        )  # fmt: skip


def _facts(server: Server) -> dict[str, Any]:
    """What is told of one; an address of which it has several sockets is one address."""
    facts = asdict(server.info())
    return {**facts, "addresses": list(dict.fromkeys(facts["addresses"]))}


def _resident() -> int:
    """Bytes of memory of this process (proc(5), statm)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _log_file() -> Any:
    """Where the log goes, for a stack that is written without Python's help."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            return handler.stream
    return sys.stderr


def _leave(code: int, *, in_order: bool = True) -> NoReturn:
    """End the process without the way back through the supervisor's frames, of which it is a copy."""
    if in_order:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)
