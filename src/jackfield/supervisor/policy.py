"""When a worker that died is replaced, and when a supervisor gives up. Free of I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Seconds within which a worker that has had no connection counts as one that cannot live.
EARLY = 10.0

#: Seconds before a replacement, when two of those have died in a row, and at most: twice as long after each (as systemd
#: and Dovecot) beyond one for each place, as all that were started together die together. The first is replaced at
#: once: it may have been killed.
FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0

#: How many of them in a row, beyond one for each place, end the supervisor, if no other worker serves.
GIVE_UP_AFTER = 5

#: Deaths of workers that had been of use: so many in a row are replaced at once, or one for each place where there are
#: more, and beyond that one every so many seconds. A client that ends each worker that it comes to would otherwise have
#: the machine do nothing but fork. Between systemd, which gives up after 5 starts in 10 s (StartLimitBurst=), and
#: gunicorn and nginx, which fork without a pause. It is no reason to give up: between two deaths somebody was served.
BURST = 5
PACE = 3.0

#: A worker that is replaced for its age, memory or connections is so within this part of the limit: not all at once.
JITTER = 0.1

#: Seconds between two looks at what the workers show, where that may call for replacing one.
RECYCLING_STEP = 5.0

#: Seconds before one that is worn out is tried again, when its successor could not begin; and a change to fewer.
RECYCLING_REST = 60.0

#: Workers at most, where they become more one by one: a signal that is sent without end is not to fill the machine.
MOST = 128

#: Seconds that a turn may be late before it counts as one in which nothing on this machine, or in this container, ran.
HELD_UP = 1.0

#: Seconds between two tries to start a worker, where the machine has no room for one.
NO_ROOM = 1.0

#: Seconds from the end of one reload to the beginning of the next, however many are asked for.
REST = 1.0


class Restarts:
    """Counts deaths, and says how long to wait after each."""

    def __init__(self) -> None:
        self._early = 0
        self.delay = 0.0
        self._places = 1
        #: When all deaths will be forgotten: one each :data:`PACE` seconds (the generic cell rate algorithm, ITU-T
        #: I.371, as of a bucket that is full again then).
        self._forgotten_at = 0.0
        #: Whether they have died faster than that since all was well.
        self.too_often = False

    @property
    def early(self) -> bool:
        """Whether the last that died could not live."""
        return self._early > 0

    def died(self, now: float, lived: float, accepted: int, places: int = 1, missing: int = 1) -> float:
        """One of the workers for so many ``places`` has died that nobody had told to, ``lived`` seconds after its
        start, and so many are ``missing`` with it; the seconds until another may take its place."""
        self._places = places
        self.too_often = self.too_often and self._forgotten_at > now
        most = PACE * (max(BURST, places) + places)
        self._forgotten_at = min(max(self._forgotten_at, now) + PACE, now + most)
        if accepted or lived >= EARLY:
            self.lives()
            pause = self.pause(now, missing)
            self.too_often = self.too_often or pause > 0
            return pause
        self._early += 1
        beyond = min(max(0, self._early - 1 - places), 20)
        self.delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0**beyond) if self._early > 1 else 0.0
        return self.delay or self.pause(now, missing)

    def pause(self, now: float, missing: int = 1) -> float:
        """The seconds until one of so many ``missing`` may be started, as those that were of use die too fast; 0 where
        they do not."""
        free = PACE * (max(BURST, self._places) + max(1, missing) - 1)
        return max(0.0, self._forgotten_at - now - free)

    def lives(self) -> None:
        """A worker has had a connection, or lived for long: it is not so that none can live."""
        self._early, self.delay = 0, 0.0

    def hopeless(self, places: int, serving: int) -> bool:
        """Whether to give up: so many could not live, and nobody serves."""
        return not serving and self._early >= places + GIVE_UP_AFTER


@dataclass(frozen=True, slots=True)
class Recycling:
    """When a worker that is well is replaced all the same; None: never. Each worker draws limits of its own, a tenth
    higher or lower."""

    #: Seconds.
    lifetime: float | None = None
    #: Bytes.
    max_rss: int | None = None
    max_accepts: int | None = None

    def drawn(self, chance: random.Random) -> Recycling:
        """For one worker."""

        def draw(limit: float | None) -> float | None:
            return None if limit is None else limit * chance.uniform(1 - JITTER, 1 + JITTER)

        rss, accepts = draw(self.max_rss), draw(self.max_accepts)
        return Recycling(
            draw(self.lifetime),
            None if rss is None else int(rss),
            None if accepts is None else max(1, round(accepts)),
        )

    def why(self, age: float, resident: int, accepted: int) -> str | None:
        """What speaks for it, in words; None if nothing does."""
        if self.lifetime is not None and age >= self.lifetime:
            return f"it is {age:.0f} s old"
        if self.max_rss is not None and resident >= self.max_rss:
            return f"it takes {resident / 2**20:.0f} MiB of memory"
        if self.max_accepts is not None and accepted >= self.max_accepts:
            return f"it has taken {accepted} connections"
        return None

    @property
    def any(self) -> bool:
        return not (self.lifetime is None and self.max_rss is None and self.max_accepts is None)
