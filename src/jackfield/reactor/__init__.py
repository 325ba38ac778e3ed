"""The reactor: readiness to whoever waits, green threads, the coroutine driver, and the bridges between them."""

from greenlet import GreenletExit as GreenExit

from .bridges import await_, offload, sleep, wait_readable, wait_writable
from .cooperative import CooperativeSocket
from .core import Reactor, current_reactor, loop_runs_here
from .driver import PARKED, DrivenTask, drive
from .greens import GreenThread, green, in_green, run, spawn, spawn_on
from .waiting import AsyncWait, GreenWait, ThreadWait, blocking_wait
from .watchdog import Watchdog, watched

__all__ = [
    "PARKED",
    "AsyncWait",
    "CooperativeSocket",
    "DrivenTask",
    "GreenExit",
    "GreenThread",
    "GreenWait",
    "Reactor",
    "ThreadWait",
    "Watchdog",
    "await_",
    "blocking_wait",
    "current_reactor",
    "drive",
    "green",
    "in_green",
    "loop_runs_here",
    "offload",
    "run",
    "sleep",
    "spawn",
    "spawn_on",
    "wait_readable",
    "wait_writable",
    "watched",
]
