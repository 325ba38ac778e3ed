"""What stands around ``serve`` and waits for it: a service manager, a pipe, scripts that look for a pid file.

The flags, and one object that the command tells what becomes of the servers: :class:`Readiness`.  Of a manager it knows
by the environment, so that ``Type=notify`` and ``WatchdogSec=`` of systemd need no flag.
"""

from __future__ import annotations

import argparse

from jackfield.cli.arguments import DEFAULT_ADDRESS, count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jackfield.address import Address
    from jackfield.server import Server
    from jackfield.supervisor.pidfile import PidFile
    from jackfield.supervisor.pulse import Pulse
    from jackfield.supervisor.supervisor import Supervisor

__all__ = ["Readiness", "configure", "default_addresses"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("service manager")
    group.add_argument("--pid", metavar="FILE", help="write the process id there; refused while its process lives")
    group.add_argument(
        "--ready-fd", metavar="N", type=count(3), help="write a newline to this open descriptor when ready (s6)"
    )


def default_addresses() -> list[Address]:
    """Where a server listens that was not told where: on the sockets that a service manager passed, or else on
    :data:`DEFAULT_ADDRESS`."""
    from jackfield.address import parse_address
    from jackfield.door.activation import activation
    from jackfield.door.inheritance import inheritance

    passed = activation()
    if inheritance().has("systemd:"):
        return [parse_address("systemd:")]
    if not passed and passed.is_for_another:
        import logging

        # As sd_listen_fds(3) has it, these are none; but whoever wrote the unit meant them for us.
        logging.getLogger("jackfield.serve").warning("not listening on systemd:: %s", passed.problem)
    return [parse_address("systemd:" if passed else DEFAULT_ADDRESS)]


class Readiness:
    """Tells whoever waits for the servers how they are; a context manager around everything that opens something.

    In this order: :meth:`watch`, and the servers are started; :meth:`ready`; :meth:`reloading` as often as there is a
    reload; :meth:`stopping`; and at its end the pid file goes.  Nothing of it costs anything where nobody waits.

    :param pid: ``--pid``: held from beginning to end, so that a second start is refused before it opens anything.
    :param ready_fd: ``--ready-fd``.
    """

    def __init__(self, pid: str | None = None, ready_fd: int | None = None) -> None:
        from jackfield.door.activation import activation
        from jackfield.supervisor.notify import Notifier, ReadyDescriptor

        self._descriptor = ReadyDescriptor(-1 if ready_fd is None else ready_fd)
        self._file: PidFile | None = None
        if pid is not None:
            from jackfield.supervisor.pidfile import PidFile

            self._file = PidFile(pid)
        self._notifier = Notifier.from_environment()
        activation()  # read and taken out of the environment also where other addresses were named
        self._pulse: Pulse | None = None
        self._listening = ""
        self._is_stopping = False

    def __enter__(self) -> Readiness:
        """:raises StartError: a live process has the pid file, or it cannot be written."""
        from jackfield.door.inheritance import inheritance

        try:
            # Who takes over from a process that serves has its file only when it serves itself.
            if self._file is not None and not inheritance():
                self._file.take()
        except BaseException:
            self._descriptor.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._pulse is not None:
            self._pulse.close()
        self._descriptor.close()
        if self._file is not None:
            self._file.release()

    def watch(self, servers: Sequence[Server]) -> None:
        """Have the loops of servers, which are about to start, feed the manager's watchdog, if it has one for us.

        :raises StartError: one of them cannot: its loop does not turn while a client is served.
        """
        seconds = self._notifier.watchdog
        if seconds is None or not self._notifier:
            return
        if any(server.mode == "serial" for server in servers):
            from jackfield.errors import StartError

            raise StartError(
                "the service manager watches for hanging (WATCHDOG_USEC), and with -k serial a slow client would look"
                " like it: leave out WatchdogSec=, or use another mode"
            )
        from jackfield.supervisor.pulse import Pulse

        self._pulse = Pulse(servers, seconds / 2, self._notifier.alive)

    def ready(self, servers: Iterable[Server]) -> None:
        """They listen, and that was announced."""
        self._listening = f"listening on {', '.join(address for server in servers for address in server.addresses)}"
        self._take_over()
        self._notifier.ready(self._listening)
        self._descriptor.ready()
        if self._pulse is not None:
            self._pulse.start()

    def reloading(self, reload: Callable[[], object]) -> Callable[[], object]:
        """The same reload, before and after which the manager is told; what it returns, as text, is the status."""

        def told() -> object:
            self._notifier.reloading("reloading")
            came = None
            try:
                came = reload()
            finally:
                # Also of one that failed: what was read before is in force, and it serves.
                if not self._is_stopping:
                    self._notifier.ready("; ".join([self._listening, *([str(came)] if came else [])]))
            return came

        return told if self._notifier else reload

    def _take_over(self) -> None:
        from jackfield.door.inheritance import inheritance

        left = inheritance()
        if left:
            if self._file is not None:
                self._file.take(left.pid_file)
            left.ready()

    @property
    def environment(self) -> dict[str, str]:
        """The manager's variables, for a process that is to take over."""
        return self._notifier.environment

    @property
    def pid_file(self) -> int:
        """The descriptor that holds the pid file, for the same; -1: there is none."""
        return -1 if self._file is None else self._file.fileno()

    def taken_over(self, pid: int) -> None:
        """Another process is the service from now on. The manager believes that from this one only."""
        self._notifier.main_pid(pid)

    def supervise(self, supervisor: Supervisor, locations: Sequence[str], announce: Callable[[], object]) -> None:
        """All of this for servers in workers, of which ``supervisor``, which is about to run, tells; it feeds the
        manager's watchdog itself, and looks after the workers' loops.

        :param locations: where they listen.
        :param announce: called once they are ready, before the manager is told.
        """
        prepare, in_worker = supervisor.on_reload, supervisor.in_worker
        listening = f"listening on {', '.join(locations)}"

        def ready() -> None:
            announce()
            self._take_over()
            self._notifier.ready(listening)
            self._descriptor.ready()

        def reload() -> None:
            self._notifier.reloading("reloading")
            prepare()

        def reloaded(worked: bool) -> None:
            if not self._is_stopping:
                self._notifier.ready(listening if worked else f"{listening}; the last reload failed")

        def begin_worker() -> None:
            self._descriptor.close()  # its reader waits for the end of it, which every copy puts off
            in_worker()

        supervisor.on_ready, supervisor.on_stop, supervisor.in_worker = ready, self.stopping, begin_worker
        supervisor.on_reload, supervisor.on_reloaded = reload, reloaded
        if (seconds := self._notifier.watchdog) is not None and self._notifier:
            supervisor.every(seconds / 2, self._notifier.alive)

    def stopping(self, status: str = "stopping") -> None:
        """They were told to stop, or one has ended by itself; called again, only the status is told."""
        if self._is_stopping:
            self._notifier.status(status)
        else:
            self._is_stopping = True
            self._notifier.stopping(status)
