"""What to do when accept(2) fails, decided by the error's name and nothing else; and accepting in fair batches.

The loops of all modes share this: it takes errors and a clock, returns verdicts, and waits for nothing itself.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from jackfield.clock import MONOTONIC, Clock
from jackfield.door.spare import Shedding

__all__ = ["BUDGET", "AcceptPolicy", "Action", "Outcome", "Pauses", "accept_batch"]

T = TypeVar("T")
K = TypeVar("K")

_log = logging.getLogger("jackfield.door")

BUDGET = 64
"""Connections accepted at one go before those already accepted get their turn."""

PAUSE = 0.1
"""Seconds without accepting after a failure that will not go away at once; HAProxy, ranch and OpenSSH wait as long."""

QUIET = 10.0
"""Seconds without a failure after which an episode is over.

At the limit each connection that ends frees one descriptor, so failures and successes alternate many times a second;
were the first success the end, the log would hold two lines for each.
"""

_MOST_FAULTS_IN_A_ROW = 1024


class Action(Enum):
    """What an accept loop does next."""

    RETRY = "again at once: one connection failed, or the batch is full and there may be more"
    DRAINED = "nothing is waiting: come back when the listener is readable"
    PAUSE = "out of descriptors or memory: leave the listener alone for a moment"
    CLOSED = "the listener is no listener any more: finish"
    UNKNOWN = "not in the table: reported; leave the listener alone for a moment"


def _named(names: str) -> frozenset[int]:
    """The numbers of error names; a system has its own selection of them."""
    return frozenset(getattr(errno, name) for name in names.split() if hasattr(errno, name))


_TABLE: tuple[tuple[Action, frozenset[int]], ...] = (
    (Action.DRAINED, _named("EAGAIN EWOULDBLOCK")),
    # The listener is fine, one connection is not: its peer gave up while it waited in the queue (ECONNABORTED, on BSD
    # also ECONNRESET, ENOTCONN), a firewall forbids it (EPERM), or a network error was pending on it, which Linux
    # hands over as accept's own (accept(2), "Error handling").  A pause here would let one peer that resets its
    # connections early slow down all others.  EINTR says nothing at all.
    (
        Action.RETRY,
        _named(
            "ECONNABORTED ECONNRESET ENOTCONN ECONNREFUSED ETIMEDOUT EPIPE EPERM EACCES EPROTO ENOPROTOOPT EOPNOTSUPP"
            " ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENONET EINTR"
        ),
    ),
    # The connection stays in the queue and the listener stays readable: a loop that goes on asks for it again and
    # again at full speed until a descriptor is free.
    (Action.PAUSE, _named("EMFILE ENFILE ENOBUFS ENOMEM")),
    # Closed, shut down (EINVAL: shutdown(2) on a listening socket), or its number is another file's by now.
    (Action.CLOSED, _named("EBADF EINVAL ENOTSOCK")),
)
_ACTIONS = {number: action for action, numbers in _TABLE for number in numbers}

_REMEDIES = {
    errno.EMFILE: "raise the limit with `ulimit -n` (systemd: LimitNOFILE=), or allow fewer connections",
    errno.ENFILE: "the whole machine's table is full: raise `sysctl fs.file-max`, or find who holds so many",
    errno.ENOBUFS: "the kernel has no memory for sockets: allow fewer connections, or see net.ipv4.tcp_mem",
    errno.ENOMEM: "the kernel has no memory: allow fewer connections, or raise the machine's or the cgroup's limit",
}


@dataclass(slots=True)
class _Episode:
    """Failures of one kind, from the first until they have stopped for a while."""

    name: str
    began: float
    last: float
    count: int
    shed: int = 0


class AcceptPolicy:
    """Sorts a listener's accept errors, and tells each trouble once when it begins and once when it is over.

    :param clock: for the length of episodes.
    :param name: of the listener, for the texts, e.g. ``tcp://127.0.0.1:9999``.
    :param pause: seconds to leave the listener alone after a failure that will last.
    :param quiet: seconds without a failure that end an episode.
    """

    def __init__(
        self, clock: Clock = MONOTONIC, *, name: str = "listener", pause: float = PAUSE, quiet: float = QUIET
    ) -> None:
        self.name = name
        self.pause = pause
        self.quiet = quiet
        self.faults = 0
        """Connections that failed on their own before anybody had them."""
        self.failures = 0
        """Times that accepting failed for want of something, or for no known reason."""
        self.shed = 0
        """Clients turned away by the spare descriptor."""
        self._clock = clock
        self._faults_in_a_row = 0
        self._episodes: dict[int, _Episode] = {}  # one for each errno, so at most as many as there are

    def verdict(self, error: OSError) -> Action:
        """What ``error``, raised by accept, asks for; a pure look-up."""
        ssl = sys.modules.get("ssl")
        if ssl is not None and isinstance(error, ssl.SSLError):
            # A listening socket wrapped in TLS shakes hands within accept; errno is then OpenSSL's, not the system's.
            return Action.RETRY
        if error.errno is None:
            return Action.DRAINED if isinstance(error, TimeoutError) else Action.UNKNOWN
        return _ACTIONS.get(error.errno, Action.UNKNOWN)

    @property
    def calm(self) -> bool:
        """Whether nothing has gone wrong of late: then neither :meth:`note_well` nor :meth:`end` has anything to do."""
        return not self._episodes and not self._faults_in_a_row

    @property
    def in_trouble(self) -> bool:
        """Whether an episode has begun and not been ended."""
        return bool(self._episodes)

    def begin(self, error: OSError) -> str | None:
        """Notes a failure that asks for a pause; the text to log where it begins an episode, None where it goes on."""
        now = self._clock.now()
        self.failures += 1
        number = error.errno or 0
        episode = self._episodes.get(number)
        if episode is not None:
            episode.count += 1
            episode.last = now
            return None
        name = errno.errorcode.get(number, type(error).__name__)
        self._episodes[number] = _Episode(name, now, now, 1)
        remedy = _REMEDIES.get(number, "this is not expected of accept")
        return f"{self.name}: cannot accept, {error.strerror or error} ({name}); clients wait in the queue: {remedy}"

    def end(self, *, stopping: bool = False) -> list[str]:
        """Accepting works: the texts to log for the episodes that are over by now.

        :param stopping: ends all of them, as there will be no later.
        """
        now = self._clock.now()
        over = [number for number, it in self._episodes.items() if stopping or now - it.last >= self.quiet]
        return [self._farewell(self._episodes.pop(number)) for number in over]

    def _farewell(self, it: _Episode) -> str:
        times = "once" if it.count == 1 else f"{it.count} times in {it.last - it.began:.1f} s"
        turned_away = f"; clients turned away: {it.shed}" if it.shed else ""
        return f"{self.name}: {it.name} on accept is over, it failed {times}{turned_away}"

    def note_shed(self, error: OSError) -> str | None:
        """A client was turned away because of ``error``, which has begun an episode; the text to log where it is the
        episode's first."""
        self.shed += 1
        episode = self._episodes[error.errno or 0]
        episode.shed += 1
        if episode.shed > 1:
            return None
        remedy = _REMEDIES.get(error.errno or 0, "this is not expected of accept")
        return f"{self.name}: {episode.name} lasts; clients are turned away until there are descriptors: {remedy}"

    def note_fault(self) -> bool:
        """Counts a connection that failed on its own; False where it no longer looks like that.

        An error from the table that repeats for ever would make a loop spin, whoever's fault it is: after 1,024 with
        no connection between them it is treated as unknown.
        """
        self.faults += 1
        self._faults_in_a_row += 1
        return self._faults_in_a_row < _MOST_FAULTS_IN_A_ROW

    def note_well(self) -> None:
        """Accepting worked, or found nothing to accept."""
        self._faults_in_a_row = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a batch ended.

    :param accepted: connections that were taken.
    :param action: what to do next.
    :param pause: seconds until then; 0 unless the action is ``PAUSE`` or ``UNKNOWN``.
    :param error: what ended the batch, where an error other than "nothing waiting" did.
    :param shed: connections that were turned away for want of descriptors.
    """

    accepted: int
    action: Action
    pause: float = 0.0
    error: OSError | None = None
    shed: int = 0


def accept_batch(
    accept: Callable[[], T],
    take: Callable[[T], object],
    policy: AcceptPolicy,
    budget: int = BUDGET,
    report: Callable[[str], object] = _log.warning,
    shedding: Shedding[T] | None = None,
) -> Outcome:
    """Accepts until nothing is waiting, something is wrong, or ``budget`` connections have been looked at.

    :param accept: gives the next connection or raises ``OSError``; must not wait.
    :param take: gets each connection and owns it from then on; what it raises ends the batch and is raised here.
    :param policy: the listener's.
    :param report: gets the lines for the log, at the beginning and at the end of each episode of trouble.
    :param shedding: the listener's, for turning clients away when descriptors stay short; None leaves them waiting.
        A batch that does it ends with a pause even where it was cut short by its budget, so that those who come again
        at once, having been turned away, cost no more than ``budget`` connections in each pause.
    """
    accepted, shed_before = 0, policy.shed
    short: OSError | None = None
    if shedding is not None:
        # Before any client: without it nobody could be told in the next want.
        shedding.spare.take()
    for _ in range(budget):
        try:
            connection = accept()
        except OSError as error:
            action = policy.verdict(error)
            if action is Action.RETRY:
                if policy.note_fault():
                    continue
                policy.note_well()
                action = Action.UNKNOWN
            elif action is Action.DRAINED:
                policy.note_well()
                if shedding is not None:
                    shedding.note_well()
                return Outcome(accepted, action, shed=policy.shed - shed_before)
            elif action is Action.CLOSED:
                return Outcome(accepted, action, error=error, shed=policy.shed - shed_before)
            text = policy.begin(error)
            if text is not None:
                report(text)
            if shedding is not None and shedding.is_due(error):
                short = error
                after = _turn_one_away(accept, policy, shedding, error, report)
                if after is Action.RETRY:
                    continue
                if after is Action.CLOSED:
                    return Outcome(accepted, after, error=error, shed=policy.shed - shed_before)
            return Outcome(accepted, action, policy.pause, error, policy.shed - shed_before)
        accepted += 1
        if shedding is not None:
            shedding._since = None  # as note_well() does it
        if policy._faults_in_a_row or policy._episodes:  # not calm
            policy.note_well()
            for text in policy.end():
                report(text)
        take(connection)
    if short is not None:
        return Outcome(accepted, Action.PAUSE, policy.pause, short, policy.shed - shed_before)
    return Outcome(accepted, Action.RETRY)


def _turn_one_away(
    accept: Callable[[], T],
    policy: AcceptPolicy,
    shedding: Shedding[T],
    short: OSError,
    report: Callable[[str], object],
) -> Action:
    """By the spare's descriptor: RETRY if that was one waiting client less, else what accept's error says.

    Linux gives out the number before it looks into the queue (accept4 in net/socket.c): at the limit accept fails with
    EMFILE even when nobody waits, and only here it is seen whether somebody does.
    """
    with shedding.spare.lent():
        try:
            connection = accept()
        except OSError as error:
            action = policy.verdict(error)
            if action is Action.RETRY and not policy.note_fault():
                action = Action.UNKNOWN
            if action in (Action.PAUSE, Action.UNKNOWN):
                shedding.note_futile()
            return action
        policy.note_well()
        text = policy.note_shed(short)
        if text is not None:
            report(text)
        shedding.refuse(connection)
        return Action.RETRY


class Pauses(Generic[K]):
    """Which listeners are to be left alone, and until when; a want of descriptors or memory is over sooner, when
    something is given back. All but :meth:`freed` is for the threads that accept.

    :param clock: what pauses are measured by.
    """

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._short: dict[K, float] = {}
        self._others: dict[K, float] = {}
        self._has_freed = False

    def begin(self) -> None:
        """A batch begins: what is given back from now on may come too late for it."""
        self._has_freed = False

    def note(self, listener: K, outcome: Outcome) -> None:
        """The batch has ended."""
        if outcome.action is Action.PAUSE:
            self._short[listener] = self._clock.now() + outcome.pause
            if self._has_freed:
                self._has_freed = False
                # Its connection ended after accept had failed, and before it was known here that somebody waits for
                # that. Whoever frees does these two steps in the other order, so one of both sees the other.
                self._short.clear()
        elif outcome.pause:
            self._others[listener] = self._clock.now() + outcome.pause

    def left(self, listener: K) -> float:
        """Seconds that ``listener`` is still to be left alone; 0.0 if it is not."""
        for pauses in (self._short, self._others):
            until = pauses.get(listener)
            if until is not None:
                left = until - self._clock.now()
                if left > 0:
                    return left
                pauses.pop(listener, None)
        return 0.0

    def freed(self) -> bool:
        """A connection's descriptor was given back; True if that ended a pause, so that the loop is to be woken. From
        any thread, and at no cost worth naming."""
        self._has_freed = True
        if not self._short:
            return False
        self._short.clear()
        return True
