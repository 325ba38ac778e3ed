"""The lives of a server and of a connection, as tables: their states and the moves that are legal. Free of I/O."""

from __future__ import annotations

import threading
from enum import Enum

from .errors import MisuseError


class State(Enum):
    """Where a server is in its life."""

    NEW = "new"  # configured; nothing is open
    SERVING = "serving"  # listening, and taking connections
    SUSPENDED = "suspended"  # listening, and letting those who connect wait
    DRAINING = "draining"  # no longer listening; connections may finish
    STOPPED = "stopped"  # nothing is open any more
    FAILED = "failed"  # could not start, or ended by an error; nothing is open


#: Each state and those that may follow it. A move that is not here is a fault of ours, or a misuse that is told.
MOVES: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.SERVING, State.STOPPED, State.FAILED}),
    State.SERVING: frozenset({State.SUSPENDED, State.DRAINING, State.STOPPED, State.FAILED}),
    State.SUSPENDED: frozenset({State.SERVING, State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
}

ENDED = frozenset(state for state, following in MOVES.items() if not following)


class ConnectionState(Enum):
    """Where a connection is in its life, as far as others can see (``jackfield.connections.Connection.state``)."""

    ENTERING = "entering"  # accepted; its PROXY header or TLS handshake is still to come
    SERVED = "served"  # its handler has it
    ENDING = "ending"  # somebody has decided that it ends, and why; its handler may still say goodbye
    ENDED = "ended"  # its socket is closed


#: The same for a connection. Without a PROXY header and TLS it begins as one that is served.
CONNECTION_MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.ENTERING: frozenset({ConnectionState.SERVED, ConnectionState.ENDING, ConnectionState.ENDED}),
    ConnectionState.SERVED: frozenset({ConnectionState.ENDING, ConnectionState.ENDED}),
    ConnectionState.ENDING: frozenset({ConnectionState.ENDED}),
    ConnectionState.ENDED: frozenset(),
}


class LifeCycle:
    """The state of one server. Moves may come from any thread."""

    def __init__(self) -> None:
        self.state = State.NEW
        self._lock = threading.Lock()

    def move(self, to: State) -> None:
        """Go to a following state; MisuseError if it does not follow."""
        with self._lock:
            if to not in MOVES[self.state]:
                raise MisuseError(f"a server that is {self.state.value} cannot become {to.value}; make a new Server")
            self.state = to

    @property
    def ended(self) -> bool:
        return self.state in ENDED
