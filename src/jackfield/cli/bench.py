"""``jackfield bench ADDR``: a load test of a server, with every reply checked."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from jackfield.cli import exits, tlsflags
from jackfield.cli.arguments import UsageError, count, duration, size
from jackfield.cli.text import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jackfield.bench import Plan, Result, Target
    from jackfield.bench.verdict import Condition

__all__ = ["ANSWERS", "EXAMPLES", "configure", "run"]

EXAMPLES = """\
examples:
  jackfield bench :9999                                   50 connections for 10 s against the upper-case echo
  jackfield bench :9999 -R 2000 --latency                 2,000 requests a second, every percentile
  jackfield bench :9999 --expect same --size 1k           an echo that changes nothing
  jackfield bench :6379 --payload PING --framing line --expect any
  jackfield bench :9999 --json > old.json; jackfield bench :9999 --compare old.json --fail-if 'p99>1.2x'
"""

ANSWERS = {
    "--port": "write it into the address, jackfield bench HOST:PORT",
    "-p": "write it into the address, jackfield bench HOST:PORT",
    "--host": "write it into the address, jackfield bench HOST:PORT",
    "-t": "processes are -w",
    "--threads": "processes are -w",
    "--concurrency": "connections are -c",
    "--udp": "write udp://HOST:PORT",
    "-u": "write udp://HOST:PORT",
    "--ssl": "write tls://HOST:PORT, or --tls",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    parser.add_argument(
        "address",
        metavar="ADDR",
        nargs="?",
        help="host:9999, :9999 (this machine), tcp:// tls:// udp:// (4, 6) unix: unixgram: unixpacket:",
    )
    much = parser.add_argument_group("how much")
    much.add_argument(
        "-c", "--connections", metavar="N", type=count(1), default=50, help="at once, in all (default 50)"
    )
    much.add_argument(
        "-d", "--duration", metavar="TIME", type=duration, help="how long is measured (default 10s, or what -n takes)"
    )
    much.add_argument("-n", "--requests", metavar="N", type=count(1), help="how many are measured, in place of a time")
    much.add_argument(
        "-R",
        "--rate",
        metavar="N",
        type=_rate,
        default=0.0,
        help="an open loop: N requests a second in all, each timed from when it was due; without it a closed loop: "
        "each connection asks again when it has its reply",
    )
    much.add_argument("-w", "--workers", metavar="N", type=count(1), default=1, help="processes (default 1)")
    much.add_argument(
        "--pipeline", metavar="N", type=count(1), default=1, help="requests on their way on each connection (default 1)"
    )
    much.add_argument("--connect-per-request", action="store_true", help="a new connection for each request")
    much.add_argument(
        "--warmup", metavar="TIME", type=duration, help="not measured, at the beginning (default 1s, with -n 0)"
    )
    much.add_argument(
        "--ramp", metavar="TIME", type=duration, default=0.0,
        help="over so long connections are opened and the rate is raised, before the warm-up",
    )  # fmt: skip
    much.add_argument(
        "--timeout", metavar="TIME", type=duration,
        help="for a connection and for a reply (default 5s; datagrams 1s, after which they count as lost)",
    )  # fmt: skip

    what = parser.add_argument_group("what")
    what.add_argument("--size", metavar="SIZE", type=size, help="bytes of each request, small letters (default 64)")
    what.add_argument("--payload", metavar="TEXT", help="instead; \\n \\r \\t \\xNN are read as in Python")
    what.add_argument("--payload-file", metavar="FILE", help="instead; the bytes of FILE")
    what.add_argument(
        "--framing", metavar="HOW", choices=("none", "line", "netstring", "u32"), default="none",
        help="of requests and replies: none (default), line, netstring or u32",
    )  # fmt: skip
    what.add_argument(
        "--expect", metavar="WHAT", default="upper",
        help="the reply: upper (default: the request in upper case), same, any, or =TEXT",
    )  # fmt: skip

    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--latency", action="store_true", help="every percentile")
    shown.add_argument("--json", action="store_true", help="everything as JSON, in place of the report")
    shown.add_argument("--csv", action="store_true", help="the figures as CSV, in place of the report")
    shown.add_argument("--plot", metavar="FILE", help="draw latencies and replies over time to FILE, as SVG")
    shown.add_argument("--compare", metavar="FILE", help="with an earlier run, whose --json is in FILE")
    shown.add_argument(
        "--fail-if", metavar="CONDITION", action="append", default=[],
        help="exit code 1 if so: 'p99>50ms', 'rate<1000', 'errors>0.1%%', with --compare 'p99>1.2x'; may be repeated",
    )  # fmt: skip

    tlsflags.configure(parser)


def _rate(text: str) -> float:
    from jackfield.config import parse_duration

    try:
        rate = parse_duration(text)
    except ValueError:
        rate = 0.0
    # A bare number is what a duration and a rate have in common: digits, perhaps with a point.
    if not rate or not (text[-1].isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of requests a second above 0: write e.g. 1000")
    return rate


def run(options: argparse.Namespace) -> int:
    """Run the load test and report; the exit code: 0 done, 1 errors or --fail-if, 2 the call was wrong."""
    # Imported late: `bench --help` needs none of it.
    from jackfield.address import parse_address
    from jackfield.bench.plan import PlanError
    from jackfield.bench.result import DocumentError, read_document
    from jackfield.bench.verdict import ConditionError, parse_condition
    from jackfield.cli.benchplan import plan_of, security_of

    if options.address is None:
        raise UsageError("bench what? For example: jackfield bench localhost:9999")
    if options.json and options.csv:
        raise UsageError("--json and --csv both go to stdout: choose one")
    address = parse_address(options.address)
    try:
        plan = plan_of(address, options)
        conditions = [parse_condition(text) for text in options.fail_if]
        old = read_document(options.compare) if options.compare is not None else None
    except (PlanError, ConditionError) as error:
        raise UsageError(str(error)) from None
    except DocumentError as error:
        raise UsageError(f"--compare {error}") from None
    except OSError as error:
        raise UsageError(f"--compare {options.compare}: {error.strerror}") from None
    if old is None and (relative := next((found for found in conditions if found.is_relative), None)):
        raise UsageError(f"--fail-if {relative.text!r} is about an earlier run: add --compare OLD.json")
    secure = security_of(address, options)
    _check_plot(options.plot)
    target = _try_out(plan, secure)
    result, signals = _measure(plan, target, secure, options)
    return _tell(result, old, conditions, options, signals)


def _check_plot(path: str | None) -> None:
    """That a drawing can be written there, before minutes are spent; the file itself comes when there is a drawing."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder):
        raise UsageError(
            f"--plot {path}: {'a directory' if os.path.isdir(path) else f'there is no directory {folder}'}"
        )
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise UsageError(f"--plot {path}: it may not be written")


def _try_out(plan: Plan, secure: Callable[[Any], Any] | None) -> Target:
    """Where the address leads: found out, and tried, once."""
    from jackfield.bench.target import find, try_out
    from jackfield.cli.dial import NetworkError, explain

    try:
        return try_out(find(plan.address), plan.timeout, secure)
    except OSError as error:
        reason = explain(error, plan.address, plan.timeout).replace("; -w waits", "; --timeout waits")
        raise NetworkError(reason) from error


def _measure(
    plan: Plan, target: Target, secure: Callable[[Any], Any] | None, options: argparse.Namespace
) -> tuple[Result, list[int]]:
    from jackfield.bench import Crowd, Result
    from jackfield.cli.progress import Progress

    signals: list[int] = []
    progress = Progress(plan, sys.stderr if sys.stderr and not options.quiet else None, options.color)
    crowd = Crowd(plan, target, secure, progress)

    def stop(number: int, _frame: object) -> None:
        signals.append(number)
        crowd.stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        measured = crowd.run()
    finally:
        progress.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    return Result.of(plan, measured, bool(signals)), signals


def _tell(
    result: Result, old: dict[str, Any] | None, conditions: list[Condition], options: argparse.Namespace,
    signals: list[int],
) -> int:  # fmt: skip
    from jackfield import __version__
    from jackfield.bench import report
    from jackfield.bench.plot import svg
    from jackfield.bench.verdict import compare, other_conditions

    warnings = report.warnings(result, _processors())
    document = result.document(__version__, warnings)
    if options.plot is not None:
        with open(options.plot, "w", encoding="utf-8") as file:
            file.write(svg(document, old))
    if options.json:
        import json

        shown = json.dumps(document) + "\n"
    elif options.csv:
        shown = report.csv_text(document)
    else:
        shown = report.text(result)
        if options.latency:
            shown += "\n" + report.percentile_table(result)
        if old is not None:
            shown += "\n" + report.comparison(old, compare(old, document))
    try:
        sys.stdout.write(shown)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody wants it any more; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(line: str, style: str) -> None:
        complain("jackfield bench", line, options.color, style)

    if not options.quiet:
        for line in warnings:
            say(line, "yellow")
        if old is not None and (others := other_conditions(old, document)):
            say(f"the earlier run was another: {', '.join(others)}", "yellow")
    for line in report.explanations(result):
        say(line, "red")
    reached = [verdict for found in conditions if (verdict := found.verdict(document, old))]
    for line in reached:
        say(f"--fail-if {line}", "red")
    if signals:
        return 128 + signals[0]
    return exits.FAILED if result.failed or reached or not result.latencies.count else exits.OK


def _processors() -> int:
    """How many this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
