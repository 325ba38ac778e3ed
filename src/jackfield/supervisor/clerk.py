"""The clerk: a process beside the workers that answers for all of them at the admin endpoint.

HTTP has no place in a supervisor, which must not fall whatever comes, nor in one worker, which may be replaced at any
moment. The clerk asks over its link; the supervisor passes on what is for workers, and their answers, unread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import JackfieldError
from .life import WorkerState
from .link import Link, written
from .member import Member, describe_exit
from .nursery import forked
from .supervisor import Supervisor
from .worker import NOT_FOR_WORKERS

if TYPE_CHECKING:
    from ..admin.records import Records

_log = logging.getLogger("jackfield.supervisor")

#: Seconds between two starts, where one has ended; and that it has for its end.
REST, PATIENCE = 1.0, 2.0

#: Workers that can answer.
_ANSWERING = (WorkerState.SERVING, WorkerState.RETIRING, WorkerState.STOPPING)


class Clerk:
    """The supervisor's side of it.

    :param attend: called in the clerk's process with its end of the link; returns when that is closed.
    """

    def __init__(self, supervisor: Supervisor, attend: Callable[[Link], object]) -> None:
        self._supervisor = supervisor
        self._attend = attend
        self._link: Link | None = None
        self._pid = -1
        self._over = False
        self._records: Records | None = None
        supervisor.on_answer = self._pass_on

    # -- its process -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have one, if there is none; where that cannot be, it is tried again."""
        if self._link is not None or self._over:
            return
        try:
            link, theirs = Link.pair()
        except OSError as error:
            self._try_again(f"could not be started: {error.strerror}")
            return

        def begin() -> NoReturn:
            link.close()
            self._begin(theirs)

        try:
            self._pid = forked(begin)
        except OSError as error:
            link.close()
            self._try_again(f"could not be started: {error.strerror}")
            return
        finally:
            theirs.close()
        self._link = link
        self._keep_records()
        self._supervisor.watch(link.fileno(), self._hear)

    def _begin(self, link: Link) -> NoReturn:
        """In the new process, which nothing leaves: the frames below are the supervisor's."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (*NOT_FOR_WORKERS, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # it ends when its supervisor does
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            supervisor = self._supervisor
            for member in supervisor.members:
                member.let_go()
            for listener in supervisor.listeners:
                listener.hand_over()
            supervisor.close_in_child()
            supervisor.in_worker()
            self._attend(link)
            code = 0
        except JackfieldError as error:
            _log.error("the admin endpoint: %s", error)
        except BaseException:
            with contextlib.suppress(BaseException):
                _log.critical("the admin endpoint has failed", exc_info=True)
        finally:
            with contextlib.suppress(BaseException):
                logging.shutdown()
            os._exit(code)

    def _keep_records(self) -> None:
        """What the supervisor itself says is part of the log, too."""
        if self._records is None:
            from ..admin.records import Records

            self._records = Records()
            logging.getLogger().addHandler(self._records)

    def _ended(self) -> None:
        self._let_go()
        _, status = os.waitpid(self._pid, 0)  # its end of the link is closed by nothing else
        if not self._over:
            self._try_again(f"ended by {describe_exit(os.waitstatus_to_exitcode(status))}")

    def _try_again(self, why: str) -> None:
        _log.error("the admin endpoint %s; started again in %g s", why, REST)
        self._supervisor.after(REST, self.start)

    def _let_go(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._supervisor.unwatch(link.fileno())
            link.close()

    def close(self) -> None:
        """It ends; any number of times."""
        self._over = True
        if self._records is not None:
            logging.getLogger().removeHandler(self._records)
        if self._link is None:
            return
        self._let_go()
        given_up = time.monotonic() + PATIENCE
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > given_up:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(0.005)

    # -- what it asks ------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        while self._link is not None and (message := self._link.receive()):
            self._answer(**message)
        if self._link is not None and message is None:
            self._ended()

    def _answer(self, ask: int, what: str, worker: int | None = None, arguments: dict[str, Any] | None = None) -> None:
        assert self._link is not None
        members = [one for one in self._supervisor.members if one.state in _ANSWERING and worker in (None, one.number)]
        match what:
            case "workers":
                self._tell(ask, [_row(member) for member in self._supervisor.members])
            case "reload":
                self._supervisor.reload()
                self._tell(ask, {"reload": "asked for; the log says how it went"})
            case "stop":
                self._tell(ask, {"stopping": True})
                self._supervisor.stop()
            case "scale":
                self._supervisor.scale((arguments or {})["workers"])
                self._tell(ask, {"workers": self._supervisor.workers})
            case _:
                put = partial(Link.send, ask=ask, what=what, arguments=arguments or {})
                asked = [one.number for one in members if put(one.link)]
                own = self._records if what == "records" and worker in (None, 0) else None
                self._link.send(ask=ask, asked=asked if own is None else [0, *asked])
                if own is not None:
                    self._tell(ask, own.read(), worker=0)

    def _tell(self, ask: int, value: Any, **more: Any) -> None:
        """Whatever its length."""
        assert self._link is not None
        fd = written(value)
        self._link.send(ask=ask, fd=fd, **more)
        os.close(fd)

    def _pass_on(self, member: Member, message: dict[str, Any]) -> None:
        """An answer of a worker, or its last figures."""
        fd = message.pop("fd", -1)
        if self._link is not None:
            self._link.send(worker=member.number, fd=fd, **message)
        if fd >= 0:
            os.close(fd)


def _row(member: Member) -> dict[str, Any]:
    """A worker as others see it: ``silent`` is the seconds since its last sign of life."""
    now, shown = time.monotonic(), member.shown
    return {
        "number": member.number,
        "pid": member.pid,
        "state": member.state.value,
        "age": now - member.since,
        "connections": shown.connections,
        "accepted": shown.accepted,
        "resident": shown.resident,
        "silent": now - shown.beat,
    }


