"""The metrics: which there are, what they are called, and from which figures they come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..metrics import Family, Histogram
from .meter import DURATIONS

__all__ = ["families"]


def families(total: dict[str, Any], workers: Iterable[dict[str, Any]] = (), version: str = "") -> list[Family]:
    """Of :func:`~jackfield.admin.totals.totals`, and the rows of workers; ``version`` is what serves."""
    made = [*_of_servers(total["servers"]), *_of_processes(total, list(workers))]
    info = Family("build_info", "gauge", "1, with the version that serves")
    info.add(1, version=version)
    return [*made, info]


def _of_servers(servers: list[dict[str, Any]]) -> list[Family]:
    plain = [
        Family("connections_accepted_total", "counter", "Connections that were accepted"),
        Family("connections_active", "gauge", "Connections that are live"),
        Family("connections_entering", "gauge", "Connections whose PROXY header or TLS handshake is not done"),
        Family("connections_limit", "gauge", "Connections at once at most"),
        Family("handler_errors_total", "counter", "Errors that handlers let out"),
        Family("bytes_received_total", "counter", "Bytes that were received on connections"),
        Family("bytes_sent_total", "counter", "Bytes that were sent on connections"),
        Family("datagrams_received_total", "counter", "Datagrams that were received"),
        Family("datagrams_dropped_total", "counter", "Datagrams that were received and not handled"),
        Family("datagrams_kernel_dropped_total", "counter", "Datagrams that the kernel dropped"),
        Family("datagrams_withheld_total", "counter", "Replies that the limits did not let out"),
        Family("uptime_seconds", "gauge", "Seconds since it began to serve"),
    ]
    names = (
        "accepted", "connections", "entering", "limit", "handler_errors", "received", "sent", "datagrams", "dropped",
        "kernel_dropped", "withheld", "uptime",
    )  # fmt: skip
    closed = Family("connections_closed_total", "counter", "Connections that ended, by the reason")
    rejected = Family("connections_rejected_total", "counter", "Clients and datagrams turned away, by the reason")
    errors = Family("handler_exceptions_total", "counter", "Connections that an exception ended, by its type")
    lasted = Family("connection_duration_seconds", "histogram", "Seconds from accept to the end of a connection")
    lag = Family("loop_lag_seconds", "gauge", "How late the loop came to what it was asked, the last time")
    queue = Family("listen_backlog", "gauge", "Clients that wait in the kernel's queue to be accepted")
    expiry = Family("tls_certificate_expiry_timestamp_seconds", "gauge", "When a certificate runs out")
    ready = Family("server_ready", "gauge", "1 while clients are accepted")
    for number, server in enumerate(servers):
        label = {"server": f"{number}:{server['name']}"}
        for family, name in zip(plain, names, strict=True):
            family.add(server[name], **label)
        for family, counts, key in (
            (closed, "ends", "reason"), (rejected, "refusals", "reason"), (errors, "errors", "type"),
        ):  # fmt: skip
            for word, count in server[counts].items():
                family.add(count, **label, **{key: word})
        lasted.add(Histogram(DURATIONS, server["durations"], server["seconds"]), **label)
        lag.add(server["lag"]["last"], **label)
        for listener in server["listeners"]:
            queue.add(listener["waiting"], **label, listener=listener["address"])
        for certificate in server["certificates"]:
            expiry.add(certificate["expires"], **label, name=(certificate["names"] or [""])[0])
        ready.add(int(server["state"] == "serving"), **label)
    return [*plain, closed, rejected, errors, lasted, lag, queue, expiry, ready]


def _of_processes(total: dict[str, Any], workers: list[dict[str, Any]]) -> list[Family]:
    runtime = total["runtime"]
    simple = [
        ("process_resident_memory_bytes", "gauge", "Memory of all processes that serve", runtime["resident"]),
        ("process_cpu_seconds_total", "counter", "Processor time of all processes that serve", runtime["cpu"]),
        ("process_open_descriptors", "gauge", "Descriptors of all processes that serve", runtime["descriptors"]),
        ("process_threads", "gauge", "Threads of all processes that serve", runtime["threads"]),
        ("processes", "gauge", "Processes that serve and have told their figures", total["processes"]),
    ]
    made = []
    for name, kind, help, value in simple:
        family = Family(name, "counter" if kind == "counter" else "gauge", help)
        family.add(value)
        made.append(family)
    state = Family("workers", "gauge", "Workers, by where they are in their lives")
    counts: dict[str, int] = {}
    for row in workers:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    for word, count in counts.items():
        state.add(count, state=word)
    return [*made, state]
