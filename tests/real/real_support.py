"""What the tests of real programs share: servers of ours under handlers that know nothing of us, and the proof that
it is ours that serve."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jackfield.socket
from jackfield import socketserver
from jackfield.reactor import in_green
from jackfield.sync import Event

SECONDS = 20.0
"""What any one thing may take on a machine that is busy with other things."""


class Seen(NamedTuple):
    """Where one request was handled, and on what."""

    request: type
    green: bool
    thread: int


class Witness:
    """Mix-in, before all others: notes of each request where its handler ran. ``mode`` is "thread" or "green"."""

    mode: str
    # The programs of the standard library that serve by threads say the same: the program's end waits for nobody.
    daemon_threads = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[Seen] = []
        self.serving_thread = 0
        super().__init__(*args, **kwargs)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        self.serving_thread = threading.get_ident()
        super().serve_forever(poll_interval)  # type: ignore[misc]

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.seen.append(Seen(type(request), in_green(), threading.get_ident()))
        super().finish_request(request, client_address)  # type: ignore[misc]


class ThreadServer(Witness, socketserver.ThreadingTCPServer):
    mode = "thread"


class GreenServer(Witness, socketserver.GreenTCPServer):
    mode = "green"


class ComposedThreadServer(Witness, socketserver.ThreadingMixIn, socketserver.TCPServer):
    mode = "thread"


class ComposedGreenServer(Witness, socketserver.GreenMixIn, socketserver.TCPServer):
    mode = "green"


def check_ours(server: Any) -> None:
    """AssertionError unless every request so far was served by classes and sockets of ours, in the server's mode."""
    theirs = [base.__name__ for base in type(server).__mro__ if base.__module__ == "socketserver"]
    assert not theirs, f"the standard library's {', '.join(theirs)} is among the bases of the server"
    assert server.seen, "nothing was served"
    kinds = {seen.request for seen in server.seen}
    assert kinds == {jackfield.socket.socket}, f"handlers were given {kinds}"
    for seen in server.seen:
        if server.mode == "green":
            assert seen.green and seen.thread == server.serving_thread, f"not on a green thread: {seen}"
        else:
            assert not seen.green and seen.thread != server.serving_thread, f"not on a thread of its own: {seen}"


def url_of(server: Any, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def client_of(server: Any) -> contextlib.closing[http.client.HTTPConnection]:
    """A web client's connection, made by its first request."""
    host, port = server.server_address[:2]
    return contextlib.closing(http.client.HTTPConnection(host, port, timeout=SECONDS))


@contextlib.contextmanager
def serving(kind: Callable[..., Any], handler: Any, **attributes: Any) -> Iterator[Any]:
    """Serve ``handler`` by a server class on a port of its own, on a thread; checked at the end that it was ours.

    Clients are gone by then, and so must every connection be.
    """
    server = kind(("127.0.0.1", 0), handler)
    for name, value in attributes.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, name="serves")
    thread.start()
    try:
        yield server
        check_ours(server)
        # What has ended is given up at once and not when the garbage is collected.
        server.stop(deadline=SECONDS)
        thread.join(2 * SECONDS)
        assert not thread.is_alive(), "serve_forever() did not return"
        assert not server.connections, f"left open: {server.connections}"
    finally:
        server.stop(deadline=0)
        thread.join(SECONDS)
        server.server_close()


class Meeting:
    """``enter()`` waits until ``number`` have entered, at the same time, in whatever mode: nobody who is served one
    after the other ever meets another."""

    def __init__(self, number: int, patience: float = SECONDS) -> None:
        self._missing = number
        self._patience = patience
        self._lock = threading.Lock()
        self._all_here = Event()

    def enter(self) -> bool:
        with self._lock:
            self._missing -= 1
            if self._missing == 0:
                self._all_here.set()
        return self._all_here.wait(self._patience)


def command(*words: str, data: bytes = b"") -> bytes:
    """What a program writes; AssertionError, with its complaint, if it fails."""
    done = subprocess.run(words, input=data, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: exit status {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def all_at_once(work: Callable[[int], Any], number: int) -> list[Any]:
    """``work(0)``, ``work(1)`` … each on a thread of its own, at once; their results, or the first error."""
    results: list[Any] = [None] * number
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    if errors:
        raise errors[0]
    return results
