"""The flags of ``serve`` by which a running server is seen and told something: the admin endpoint, the control socket
that ``ctl`` talks to, and the access log.

The control socket is there without being asked for where a user has a folder for such things (``$XDG_RUNTIME_DIR``,
which no other user can enter). It costs a descriptor and a thread that waits: what answers is imported when somebody
asks for the first time.
"""

from __future__ import annotations

import argparse
import contextlib
import os

from jackfield.cli.arguments import Switch, UsageError, address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from jackfield.admin import AdminEndpoint
    from jackfield.door import Listener
    from jackfield.server import Server
    from jackfield.supervisor import Supervisor

__all__ = ["Overview", "configure", "control_folder"]

DEFAULT = "127.0.0.1:9998"

#: Bytes of a token at most: more than that is a file of something else.
LONGEST_TOKEN = 4096


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("sight")
    group.add_argument(
        "--admin", metavar="ADDR", nargs="?", const=DEFAULT, type=address,
        help=f"serve the admin page, metrics and health there (without ADDR: {DEFAULT}; default: nowhere)",
    )  # fmt: skip
    group.add_argument("--admin-token-file", metavar="FILE", help="whoever looks has to know what is in its first line")
    group.add_argument(
        "--control-socket", metavar="PATH|off", default="auto",
        help="what ctl talks to (default: NAME.ctl in $XDG_RUNTIME_DIR/jackfield, if there is such a folder)",
    )  # fmt: skip
    group.add_argument("--access-log", action=Switch, help="a line in the log for each connection when it has ended")


def control_folder() -> str | None:
    """Where control sockets are; None where a user has no place for them."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(runtime, "jackfield") if runtime.startswith("/") else None


def _token(path: str | None) -> str | None:
    if path is None:
        return None
    from jackfield.errors import StartError

    try:
        with open(path, encoding="utf-8") as file:
            token = file.readline(LONGEST_TOKEN + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise StartError(f"--admin-token-file: {path}: {reason}") from None
    if not 16 <= len(token) <= LONGEST_TOKEN or not token.isascii() or " " in token:
        raise StartError(
            f"--admin-token-file: {path}: a token is a line of 16 or more characters of ASCII, e.g. from"
            " python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


class Overview:
    """The sockets of the endpoint, open, and what answers on them.

    :param options: the resolved options of the process.
    :param stack: closes what is opened.
    :param name: what the server is called.
    :raises StartError: an address cannot be had, or the token's file is none.
    :raises UsageError: the flags do not go together.
    """

    def __init__(self, options: argparse.Namespace, stack: contextlib.ExitStack, name: str) -> None:
        self.name = name
        self.token = _token(options.admin_token_file)
        if self.token is not None and options.admin is None:
            raise UsageError("--admin-token-file goes with --admin")
        self.at_once: list[Listener] = []
        self.on_demand: list[Listener] = []
        if options.admin is not None:
            self.at_once += _open(options.admin, self.token)
        try:
            # What one user opens in a folder of its own, another cannot take away from there at the end.
            wanted = options.control_socket if options.user is None or options.control_socket != "auto" else "off"
            self.on_demand += _open_control(wanted, name)
        finally:
            for listener in self.listeners:
                stack.callback(listener.close)

    @property
    def listeners(self) -> list[Listener]:
        """All of them."""
        return self.at_once + self.on_demand

    @property
    def locations(self) -> list[str]:
        """Where the endpoint can be seen."""
        return [listener.location for listener in self.at_once]

    def attend(
        self, servers: Sequence[Server], stack: contextlib.ExitStack, reload: Callable[[], object],
        stop: Callable[[], object], config: Callable[[], list[dict[str, Any]]],
    ) -> None:  # fmt: skip
        """Answer for ``servers`` of this process: at the admin address from now on, at the control socket from the
        first time on that somebody asks there."""

        def open_endpoint(listeners: list[Listener]) -> AdminEndpoint:
            from jackfield import __version__
            from jackfield.admin import AdminEndpoint

            with _in_silence():
                return AdminEndpoint(
                    servers, *listeners, token=self.token, name=self.name, version=__version__, config=config,
                    reload=reload, stop=stop,
                )  # fmt: skip

        if self.at_once:
            stack.callback(open_endpoint(self.listeners).close)
        elif self.on_demand:
            stack.callback(_OnDemand(self.on_demand, open_endpoint).close)

    @contextlib.contextmanager
    def supervise(
        self, supervisor: Supervisor, config: Callable[[], list[dict[str, Any]]]
    ) -> Iterator[Callable[[], object]]:
        """The same for the workers of ``supervisor``, by a process beside them, as long as the block lasts. What it
        gives ends that earlier: another supervisor has the sockets."""
        if not self.listeners:
            yield lambda: None
            return
        from jackfield.supervisor.clerk import Clerk

        def attend(link: Any) -> None:
            from jackfield import __version__
            from jackfield.admin import Admin, admin_server
            from jackfield.supervisor.through import serve

            def start(inquiry: Any) -> Server:
                admin = Admin(inquiry, self.name, __version__, config)
                return admin_server(admin, *self.listeners, token=self.token).start()

            with _in_silence():
                serve(link, start)

        clerk = Clerk(supervisor, attend)
        # Copies: what a supervisor watches is closed in each worker.
        knocks = [os.dup(listener.fileno()) for listener in ([] if self.at_once else self.on_demand)]

        def stop_waiting() -> None:
            while knocks:
                supervisor.unwatch(knocks[-1])
                os.close(knocks.pop())

        def open_up() -> None:
            stop_waiting()
            clerk.start()

        def leave() -> None:
            stop_waiting()
            clerk.close()
            for listener in self.listeners:
                listener.hand_over()

        for knock in knocks:
            supervisor.watch(knock, open_up)
        if self.at_once:
            supervisor.soon(clerk.start)
        try:
            yield leave
        finally:
            stop_waiting()
            clerk.close()

    def leave_in_worker(self) -> None:
        """In a worker, which has no use for the sockets."""
        for listener in self.listeners:
            listener.hand_over()


class _OnDemand:
    """Opens the endpoint when somebody knocks."""

    def __init__(self, listeners: list[Listener], open_endpoint: Callable[[list[Listener]], AdminEndpoint]) -> None:
        self._listeners = listeners
        self._open = open_endpoint
        self._endpoint: AdminEndpoint | None = None
        import threading  # late, as this module is there for --help, too

        self._bell, self._rings = os.pipe()
        self._thread = threading.Thread(target=self._wait, name="jackfield-control", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        import select

        poll = select.poll()
        for fd in (self._bell, *(listener.fileno() for listener in self._listeners)):
            poll.register(fd, select.POLLIN)
        if self._bell not in dict(poll.poll()):
            self._endpoint = self._open(self._listeners)

    def close(self) -> None:
        os.close(self._rings)
        self._thread.join()
        os.close(self._bell)
        if self._endpoint is not None:
            self._endpoint.close()


def _in_silence() -> contextlib.AbstractContextManager[None]:
    """Where it listens has been said, or nobody has asked for it."""
    from jackfield.cli.logs import quiet_below_warning

    return quiet_below_warning("jackfield.server")


def _open(where: Any, token: str | None = None) -> list[Listener]:
    from jackfield.admin.endpoint import check_admin_address
    from jackfield.door import open_listeners
    from jackfield.door.inheritance import inheritance

    check_admin_address(where, token)
    return list(inheritance().take(where) or open_listeners(where))


def _open_control(path: str, name: str) -> list[Listener]:
    if path == "off":
        return []
    from jackfield.address import parse_address
    from jackfield.errors import StartError

    if path != "auto":
        return _open(parse_address(f"unix:{path}?mode=600"))
    folder = control_folder()
    if folder is None:
        return []
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:40] or "jackfield"
    # Another server may be called the same.
    for file in (f"{plain}.ctl", f"{plain}-{os.getpid()}.ctl"):
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            return _open(parse_address(f"unix:{os.path.join(folder, file)}?mode=600"))
        except (OSError, StartError, ValueError):
            continue  # not asked for, so nothing that a server does not start for
    return []
