"""``jackfield connect ADDR``: a client on a terminal, a byte pipe elsewhere, a smoke test with ``--send --expect``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from jackfield.cli import exits, tlsflags
from jackfield.cli.arguments import UsageError, duration
from jackfield.cli.text import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, NoReturn

    from jackfield.cli.conversation import Conversation
    from jackfield.cli.dial import Line

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield connect :9999                            type, and read what comes back
  jackfield connect unix:/run/echo.sock < request    a byte pipe
  jackfield connect udp://localhost:9999             datagrams: one for each line typed
  jackfield connect tls://example.org:443            TLS, with the certificate checked
  jackfield connect :9999 -z                         is anybody there?
  jackfield connect :9999 --send 'hi\\n' --expect HI  a smoke test: exit code 0 or 1
"""

ANSWERS = {
    "--port": "write it into the address, jackfield connect HOST:PORT",
    "-p": "write it into the address, jackfield connect HOST:PORT",
    "--host": "write it into the address, jackfield connect HOST:PORT",
    "-u": "write udp://HOST:PORT",
    "--udp": "write udp://HOST:PORT",
    "-U": "write unix:PATH",
    "-b": "that is for serve; connect takes the address as it is",
    "--bind": "that is for serve; connect takes the address as it is",
    "--ssl": "write --tls, or tls://HOST:PORT",
    "--cafile": "write --tls-ca FILE",
    "--cert": "write --tls-cert FILE",
    "--key": "write --tls-key FILE",
    "--sni": "write --servername NAME",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``connect``."""
    parser.add_argument(
        "address",
        metavar="ADDR",
        nargs="?",
        help="host:9999, :9999 (this machine), tcp:// tls:// udp:// (4, 6) unix: unixgram: unixpacket: fd://N",
    )
    limits = parser.add_argument_group("time")
    limits.add_argument(
        "-w",
        "--timeout",
        metavar="TIME",
        type=duration,
        default=10.0,
        help="to connect, and for each --expect (default 10s)",
    )
    limits.add_argument(
        "-i", "--idle-timeout", metavar="TIME", type=duration, help="give up when nothing passes for so long"
    )

    ways = parser.add_argument_group("what passes")
    ways.add_argument("-C", "--crlf", action="store_true", help="send CR LF where the input has LF")
    ways.add_argument("-x", "--hex", action="store_true", help="show what comes in as a hex dump")
    ways.add_argument("-o", "--output", metavar="FILE", help="write what comes in to FILE as well")
    ways.add_argument("--record", metavar="FILE", help="write both directions to FILE, JSON lines with times")
    ways.add_argument("--send-only", action="store_true", help="throw away what comes in; stop when the input does")
    ways.add_argument("--recv-only", action="store_true", help="do not read the input")
    ways.add_argument("--no-shutdown", action="store_true", help="do not tell the server that the input has ended")
    ways.add_argument("--prompt", metavar="TEXT", default=">>> ", help="on a terminal (default '>>> ')")

    tests = parser.add_argument_group("tests")
    tests.add_argument("-z", dest="only_connect", action="store_true", help="connect, say so, and stop")
    tests.add_argument(
        "--send",
        metavar="TEXT",
        dest="steps",
        action="append",
        type=lambda text: ("send", text),
        help="send TEXT instead of the input; \\n \\r \\t \\xNN are read as in Python; may be repeated",
    )
    tests.add_argument(
        "--expect",
        metavar="REGEX",
        dest="steps",
        action="append",
        type=lambda text: ("expect", text),
        help="wait until what came in matches; then the next --send or --expect; exit code 1 if it never does",
    )

    network = parser.add_argument_group("network")
    network.add_argument("--source", metavar="ADDR", help="send from this HOST, :PORT or HOST:PORT; unixgram: a path")
    network.add_argument(
        "--send-proxy", "--proxy-protocol", choices=("v1", "v2"), metavar="v1|v2",
        help="begin with a PROXY header of that version, before TLS",
    )  # fmt: skip
    network.add_argument(
        "--proxy-source", metavar="ADDR", help="the client that it tells of, HOST or HOST:PORT (default: this one)"
    )
    network.add_argument("--allow-broadcast", action="store_true", help="permit udp:// to a broadcast address")

    tlsflags.configure(parser)


def run(options: argparse.Namespace) -> int:
    """Connect and talk; the exit code: 0 done, 1 the network or an expectation failed, 2 the call was wrong."""
    # Imported late: `connect --help` needs none of it.
    import signal

    from jackfield.address import parse_address
    from jackfield.cli.conversation import Conversation, open_tape
    from jackfield.cli.dial import dial, parse_introduction, parse_source
    from jackfield.cli.pipe import hold_standard_descriptors
    from jackfield.cli.script import parse_step

    if options.address is None:
        raise UsageError("connect where? For example: jackfield connect localhost:9999")
    if options.send_only and options.recv_only:
        raise UsageError("--send-only and --recv-only leave nothing to do: choose one")
    address = parse_address(options.address)
    source = parse_source(options.source) if options.source is not None else None
    proxy = parse_introduction(options.send_proxy, options.proxy_source)
    steps = [parse_step(flag, text) for flag, text in options.steps or ()]
    tls = tlsflags.terms_of(options, address)

    hold_standard_descriptors()
    # Whoever ends this process politely expects it to tidy up; Python's default would not run the `finally`s.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)

    with contextlib.ExitStack() as stack:

        def tape(path: str | None, flag: str) -> BinaryIO | None:
            return stack.enter_context(open_tape(path, flag)) if path is not None else None

        output, record = tape(options.output, "-o"), tape(options.record, "--record")
        line = stack.enter_context(dial(address, options.timeout, source, options.allow_broadcast, proxy))
        if tls is not None:
            from jackfield.cli.encrypted import encrypt

            line = stack.enter_context(encrypt(line, tls, options.timeout))
        conversation = Conversation(line, options.crlf, output, record)
        if options.only_connect:
            return _report_open(conversation, options)
        if steps:
            return _follow(conversation, steps, options)
        if options.send_only or options.recv_only or not _on_terminal():
            return _pipe(conversation, options, read_input=not options.recv_only)
        return _chat(conversation, options)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _on_terminal() -> bool:
    # Asked by descriptor: Python leaves sys.stdin None where it was closed when the program started.
    return os.isatty(0) and os.isatty(1)


def _follow(conversation: Conversation, steps: list[Any], options: argparse.Namespace) -> int:
    from jackfield.cli.pipe import Stdout
    from jackfield.cli.script import run_script

    write = None if options.send_only else Stdout(options.hex).write
    try:
        code = run_script(conversation, steps, timeout=options.timeout, write=write)
    except BrokenPipeError:  # our own output; the line's is a NetworkError
        return exits.OK
    if not isinstance(steps[-1], bytes):
        return code
    # Nothing is expected of the last text: treat it as the end of an input, and show what comes of it.
    if not options.no_shutdown:
        conversation.line.finish()
    return _pipe(conversation, options, read_input=False, linger=not conversation.line.ends)


def _pipe(conversation: Conversation, options: argparse.Namespace, read_input: bool, linger: bool = False) -> int:
    from jackfield.cli.pipe import Pump, Stdout

    write = None if options.send_only else Stdout(options.hex).write
    pump = Pump(
        conversation,
        write,
        read_input=read_input,
        half_close=not options.no_shutdown,
        linger=linger,
        idle=options.idle_timeout,
    )
    return pump.run()


def _chat(conversation: Conversation, options: argparse.Namespace) -> int:
    from jackfield.cli.conversation import HexDump
    from jackfield.cli.terminal import Client

    def say(text: str) -> None:
        if not options.quiet:
            complain("jackfield", text, options.color, "dim")

    client = Client(
        conversation,
        options.prompt,
        say=say,
        view=HexDump() if options.hex else None,
        half_close=not options.no_shutdown,
        idle=options.idle_timeout,
    )
    return client.run()


def _report_open(conversation: Conversation, options: argparse.Namespace) -> int:
    line: Line = conversation.line
    verdict = "is open"
    if not line.ends:
        verdict = _probe(conversation, options.timeout)
    if not options.quiet:
        print(f"{line.peer} {verdict}{f' ({line.terms})' if line.terms else ''}", file=sys.stderr)
    return exits.OK


def _probe(conversation: Conversation, timeout: float) -> str:
    """What an empty datagram tells: an answer, a refusal (raised), or nothing within a second."""
    conversation.send(b"")
    # A closed port of this machine refuses at once, a distant one after a round trip; silence proves nothing.
    if conversation.line.waits(min(timeout, 1.0)):
        conversation.receive()
        return "answers"
    return "did not refuse (datagrams: silence proves nothing)"
