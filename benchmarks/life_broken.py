"""``jackfield serve`` with a fault, for benchmarks/life.py --broken: at a reload it listens no longer, and then again.

As a server that is stopped and started anew, instead of having new workers take over: who comes meanwhile is refused.
"""

from __future__ import annotations

import socket
import sys
import time

from jackfield.__main__ import main
from jackfield.supervisor.supervisor import Supervisor

#: Seconds.
DEAF = 0.2

_begin_reload = Supervisor._begin_reload


def begin_reload(self: Supervisor) -> None:
    names = [(one.socket, one.socket.getsockname()) for one in self.listeners]
    for sock, _ in names:
        sock.shutdown(socket.SHUT_RDWR)  # for all workers: it is one socket (shutdown(2))
    time.sleep(DEAF)
    for sock, name in names:
        sock.bind(name)  # the kernel had chosen the port, and it was given back
        sock.listen(1024)
    _begin_reload(self)


if __name__ == "__main__":
    Supervisor._begin_reload = begin_reload  # type: ignore[method-assign]
    sys.exit(main())
