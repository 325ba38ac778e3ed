"""The life of a worker, as a table: its states and the moves that are legal. Free of I/O."""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """Where a worker is in its life, as its supervisor sees it."""

    STARTING = "starting"  # forked; it loads what it is to serve
    SERVING = "serving"  # it said that it is ready, and takes clients
    RETIRING = "retiring"  # it takes nobody any more; its connections go on
    STOPPING = "stopping"  # told to stop: its connections have until a deadline
    KILLED = "killed"  # it gave no sign of life, or did not stop in time
    GONE = "gone"  # reaped


#: Each state and those that may follow it.
MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset(
        {WorkerState.SERVING, WorkerState.STOPPING, WorkerState.KILLED, WorkerState.GONE}
    ),
    WorkerState.SERVING: frozenset(
        {WorkerState.RETIRING, WorkerState.STOPPING, WorkerState.KILLED, WorkerState.GONE}
    ),
    WorkerState.RETIRING: frozenset({WorkerState.STOPPING, WorkerState.KILLED, WorkerState.GONE}),
    WorkerState.STOPPING: frozenset({WorkerState.KILLED, WorkerState.GONE}),
    WorkerState.KILLED: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset(),
}

#: Those in which it has begun and has to show that it lives.
AT_WORK = frozenset({WorkerState.SERVING, WorkerState.RETIRING, WorkerState.STOPPING})
