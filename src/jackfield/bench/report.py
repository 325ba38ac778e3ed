"""A result for people, and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jackfield.bench.result import Result
from jackfield.bench.verdict import Difference

__all__ = ["COLUMNS", "comparison", "csv_text", "explanations", "percentile_table", "text", "warnings"]

WIDTH = 12


def milliseconds(value: float) -> str:
    """``12.345ms``: always the same unit, so that columns can be compared by eye."""
    return f"{value:.3f}ms"


def megabytes(count: float) -> str:
    """``12.34 MB``, of 1,000,000 bytes."""
    return f"{count / 1e6:.2f} MB"


def text(result: Result) -> str:
    """The report: what was done, how fast, how long replies took, what went wrong, what the load generator used."""
    plan, measured = result.plan, result.percentiles()
    share = result.latencies.count / max(1, result.counts["replied"])  # bytes are counted for the whole run
    seconds = max(result.seconds, 1e-9)
    lines = [
        f"jackfield bench {plan.address}",
        f"  {_what(result)}",
        "",
        _row(
            "requests",
            f"{result.latencies.count} in {result.seconds:.2f}s",
            f"{result.per_second:.1f}/s",
            f"{megabytes(result.counts['sent'] * share / seconds)}/s out",
            f"{megabytes(result.counts['received'] * share / seconds)}/s in",
        ),
        _row("latency", *(f"{name} {milliseconds(measured[name])}" for name in ("p50", "p90", "p99", "p99.9", "max"))),
        _row(
            "",
            f"mean {milliseconds(measured['mean'])}",
            f"stdev {milliseconds(measured['stdev'])}",
            f"min {milliseconds(measured['min'])}",
            "from when each was due" if plan.is_open else "from when each was sent",
        ),
        _row("errors", _errors(result)),
        _row("generator", _generator(result)),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(name: str, *parts: str) -> str:
    return f"  {name:{WIDTH}}{'   '.join(parts)}"


def _what(result: Result) -> str:
    plan = result.plan
    parts = [f"open loop at {plan.rate:g}/s" if plan.is_open else "closed loop (each asks again when it has its reply)"]
    parts.append(_plural(plan.connections, "connection"))
    if plan.connect_per_request:
        parts.append("one connection for each request")
    if plan.pipeline > 1:
        parts.append(f"{plan.pipeline} requests on each")
    parts.append(_plural(len(plan.request()), "byte"))
    if plan.workers > 1:
        parts.append(_plural(plan.workers, "process"))
    if plan.ramp:
        parts.append(f"{plan.ramp:g}s of ramp")
    if plan.warmup:
        parts.append(f"{plan.warmup:g}s of warm-up")
    if result.interrupted:
        parts.append("ended early")
    return ", ".join(parts)


def _plural(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 'es' if thing.endswith('s') else 's'}"


WORDS = {
    "connect": "could not connect",
    "closed": "closed before the reply",
    "wrong": "wrong replies",
    "timeout": "timed out",
    "lost": "lost datagrams",
}


def _errors(result: Result) -> str:
    if not result.failed:
        return "none"
    parts = [f"{count} {WORDS[name]}" for name, count in result.errors.items() if count]
    return f"{', '.join(parts)} ({100 * result.error_share:.2f} % of {result.failed + result.counts['replied']})"


def _generator(result: Result) -> str:
    used = [f"{100 * used:.0f} %" for used, _ in result.processors] or ["0 %"]
    starved = max((starved for _, starved in result.processors), default=0.0)
    loop = "native" if result.native else "Python"
    return f"used {' + '.join(used)} of a processor, waited for one {100 * starved:.0f} % of the time ({loop} loop)"


def percentile_table(result: Result) -> str:
    """Every percentile: what share was at most as slow, and how many were slower."""
    total = result.latencies.count
    lines = [f"  {'percentile':>12}{'latency':>16}{'slower':>14}"]
    for name, value in result.percentiles().items():
        if name.startswith("p"):
            slower = int(total * (100 - float(name[1:])) / 100 + 1e-6)
            lines.append(f"  {name[1:]:>11}%{milliseconds(value):>16}{slower:>14}")
    lines.append(f"  {'100':>11}%{milliseconds(result.percentiles()['max']):>16}{0:>14}")
    return "\n".join(lines) + "\n"


def comparison(old: Mapping[str, Any], differences: Sequence[Difference]) -> str:
    """Both runs, a line for each measure."""
    lines = [f"  compared with the run of {old.get('date', '?')} ({old.get('address', '?')})", ""]
    lines.append(f"  {'':{WIDTH}}{'then':>16}{'now':>16}{'change':>12}")
    for difference in differences:
        plain = difference.measure in ("rate", "errors")
        then, now = (f"{value:.1f}" if plain else milliseconds(value) for value in (difference.old, difference.new))
        change = "" if difference.change is None else f"{100 * difference.change:+.1f} %"
        lines.append(f"  {difference.measure:{WIDTH}}{then:>16}{now:>16}{change:>12}".rstrip())
    return "\n".join(lines) + "\n"


COLUMNS = (
    "date", "address", "loop", "connections", "workers", "rate", "pipeline", "request_bytes", "seconds", "requests",
    "per_second", "min_ms", "mean_ms", "stdev_ms", "p50_ms", "p75_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms",
    "p99.99_ms", "p99.999_ms", "max_ms", "errors", "connect", "closed", "wrong", "timeout", "lost", "overdue",
    "bytes_sent", "bytes_received", "processor",
)  # fmt: skip
"""Of the CSV; new ones are added at the end."""


def csv_text(document: Mapping[str, Any]) -> str:
    """The figures of a run as CSV (RFC 4180): a line with the names, a line with the values."""
    latencies = {f"{name}_ms": value for name, value in document["latency_ms"].items()}
    errors = {**document["errors"], "errors": document["errors"]["total"]}
    found = {**document["plan"], **document, **latencies, **errors}
    found["requests"] = document["requests"]
    found["processor"] = round(sum(document["generator"]["processor"]), 4)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerow(["" if found[column] is None else found[column] for column in COLUMNS])
    return out.getvalue()


def explanations(result: Result) -> list[str]:
    """Why there were errors, one line for each kind, with what to do."""
    lines, plan, address = [], result.plan, result.plan.address
    if result.errors["connect"]:
        number = int(result.reasons.get("connect", 0))
        advice = {
            errno.EADDRNOTAVAIL: "this machine has no port left to connect from: fewer connections a second, -R",
            errno.EMFILE: "more connections than this process may have descriptors: ulimit -n, or a smaller -c",
            errno.ECONNREFUSED: "nobody listens there any more",
            errno.ETIMEDOUT: f"no connection within --timeout {plan.timeout:g}s",
            errno.EAGAIN: "the server's queue of connections is full: a smaller -c, or --ramp",
        }.get(number, os.strerror(number) if number else "the handshake failed")
        lines.append(f"could not connect to {address}: {advice}")
    if result.errors["closed"]:
        number = int(result.reasons.get("closed", 0))
        how = os.strerror(number) if number else "the server closed the connection"
        once = "" if plan.connect_per_request else "; for a server of one request, --connect-per-request"
        lines.append(f"before the reply had come: {how}{once}")
    if result.errors["wrong"]:
        came = result.reasons.get("wrong", "").encode("latin-1")
        due = {"upper": "its request in upper case", "same": "its request"}.get(str(plan.expect), "what was expected")
        lines.append(f"the first wrong reply was {came!r}, not {due}: --expect same, any or TEXT says what is right")
    if result.errors["timeout"]:
        line = " A server of lines wants --framing line." if plan.framing == "none" else ""
        lines.append(f"no reply within --timeout {plan.timeout:g}s.{line}")
    if result.errors["lost"]:
        lines.append(f"a datagram without an answer after --timeout {plan.timeout:g}s counts as lost")
    return lines


def warnings(result: Result, processors: int) -> list[str]:
    """What has to be known to read the figures.

    :param processors: how many this process may run on.
    """
    lines, plan = [], result.plan
    if result.limited:
        busiest = max(result.processors, key=sum)
        more = ""
        if plan.workers < processors:
            more = f"; -w {plan.workers + 1} uses more processors" if result.native else "; -w uses more processors"
        lines.append(
            f"the load generator is the limit: its busiest process used {100 * busiest[0]:.0f} % of a processor and "
            f"waited for one {100 * busiest[1]:.0f} % of the time{more}"
        )
    if result.backlogged:
        lines.append(
            f"{plan.rate:g}/s is more than was answered ({result.per_second:.1f}/s): {result.overdue} requests were due"
            " and never sent, and the latencies measure nothing but that backlog; a smaller -R measures the server"
        )
    if not result.latencies.count:
        lines.append("nothing was measured: no request that counts has a reply")
    return lines
