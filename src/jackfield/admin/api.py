"""The endpoints: what each of them tells or does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..metrics import CONTENT_TYPE, exposition
from .desk import LEVELS
from .families import families
from .inquiry import Inquiry, Unanswered
from .page import page
from .routes import Parameter, Route, openapi
from .totals import totals
from .visible import MOST, ORDERS

__all__ = ["ROUTES", "STEP", "Admin", "Answer", "Stream"]

#: Seconds for which figures are good enough for the next who asks: many pages cost no more than one.
FRESH = 0.5

#: Seconds between two events of a stream.
STEP = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is not JSON, or not 200."""

    body: Any
    status: int = 200
    kind: str = "application/json"


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events: what ``next()`` gives is one, every :data:`STEP` seconds as long as the client stays, or
    ``count`` times."""

    next: Callable[[], Any]
    count: int = 0


@dataclass
class Admin:
    """What the endpoints work on.

    :param name: what the whole is called, and ``version`` what serves it.
    :param config: the resolved configuration, as rows; nothing where there is none.
    """

    inquiry: Inquiry
    name: str = "jackfield"
    version: str = ""
    config: Callable[[], list[dict[str, Any]]] = list
    since: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _last: tuple[float, dict[str, Any]] | None = field(default=None, repr=False)

    def snapshot(self) -> dict[str, Any]:
        """All figures, at most half a second old."""
        with self._lock:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > FRESH:
                workers = self.inquiry.workers()
                stats = self.inquiry.ask("stats")
                told = totals(stats.values(), self.inquiry.past)
                for row in workers:
                    row["lag"] = [server["lag"] for server in stats.get(row["number"], {}).get("servers", [])]
                self._last = now, {
                    "time": time.time(), "name": self.name, "version": self.version, "state": state_of(told),
                    **told, "workers": workers,
                }  # fmt: skip
            return self._last[1]


def state_of(told: dict[str, Any]) -> str:
    """``ready``, or what keeps it from being that."""
    for server in told["servers"]:
        if server["state"] != "serving":
            return str(server["state"])
    return "ready"


# -- looking -------------------------------------------------------------------------------------------------------


def _page(admin: Admin) -> Answer:
    return Answer(page(), kind="text/html; charset=utf-8")


def _livez(admin: Admin) -> Answer:
    """This very answer says it: while it drains as well."""
    return Answer("alive\n", kind="text/plain; charset=utf-8")


def _readyz(admin: Admin) -> Answer:
    try:
        state = admin.snapshot()["state"]
    except Unanswered as error:
        state = str(error)
    return Answer(f"{state}\n", 200 if state == "ready" else 503, "text/plain; charset=utf-8")


def _metrics(admin: Admin) -> Answer:
    told = admin.snapshot()
    return Answer(exposition(families(told, told["workers"], admin.version)), kind=CONTENT_TYPE)


def _events(admin: Admin, count: int) -> Stream:
    return Stream(admin.snapshot, count)


def _listeners(admin: Admin) -> Any:
    told = admin.snapshot()
    return [
        {"server": number, **listener}
        for number, server in enumerate(told["servers"])
        for listener in server["listeners"]
    ]


def _certs(admin: Admin) -> Any:
    told = admin.snapshot()
    return [
        {"server": number, **one} for number, server in enumerate(told["servers"]) for one in server["certificates"]
    ]


def _workers(admin: Admin) -> Any:
    return admin.snapshot()["workers"]


def _connections(admin: Admin, sort: str, filter: str, limit: int) -> Any:
    answers = admin.inquiry.ask("connections", order=sort, text=filter, most=limit)
    rows = [{"worker": worker, **row} for worker, answer in answers.items() for row in answer["rows"]]
    # Those of each worker are sorted already: what is first of all is among the first of each.
    rows.sort(key=lambda row: row[sort], reverse=sort not in ("peer", "id"))
    return {
        "total": sum(answer["total"] for answer in answers.values()),
        "found": sum(answer["found"] for answer in answers.values()),
        "rows": rows[:limit],
    }


def _each(what: str, admin: Admin) -> Any:
    return {str(worker): answer for worker, answer in admin.inquiry.ask(what).items()}


def _limits(admin: Admin) -> Any:
    answers = admin.inquiry.ask("limits")
    return next(iter(answers.values()))


def _bans(admin: Admin) -> Any:
    """Workers have one book of them; whoever has its own adds what is there."""
    found: dict[tuple[int, str], Any] = {}
    for answer in admin.inquiry.ask("bans").values():
        for ban in answer:
            found[ban["server"], ban["address"]] = ban
    return list(found.values())


# -- changing ------------------------------------------------------------------------------------------------------


def _close(admin: Admin, worker: int, server: int, id: int) -> Any:
    return admin.inquiry.ask("close", worker=worker, server=server, id=id)[worker]


def _all_do(what: str, admin: Admin, **arguments: Any) -> Any:
    answers = admin.inquiry.ask(what, **arguments)
    admin._last = None
    return next(iter(answers.values()))


def _do(what: str, admin: Admin, **arguments: Any) -> Any:
    told = admin.inquiry.do(what, **arguments)
    admin._last = None
    return told


_SECONDS = Parameter("seconds", "number", "how long, in seconds", 600.0, least=0.001, most=31536000)
_PEER = Parameter("peer", "text", "an address such as 192.0.2.1 or 2001:db8::1")

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", "the page", _page, is_open=True, kind="text/html"),
    Route("GET", "/livez", "200 while the process lives", _livez, is_open=True, kind="text/plain"),
    Route("GET", "/readyz", "200 while clients are accepted, else 503", _readyz, is_open=True, kind="text/plain"),
    Route("GET", "/metrics", "all figures as Prometheus reads them", _metrics, kind="text/plain"),
    Route("GET", "/stats", "all figures", lambda admin: admin.snapshot()),
    Route("GET", "/events", "all figures once a second, as server-sent events", _events, (
        Parameter("count", "whole", "how many events; 0: without end", 0, least=0, most=1000000),
    ), kind="text/event-stream"),
    Route("GET", "/listeners", "the addresses, and who waits there to be accepted", _listeners),
    Route("GET", "/workers", "the workers; none where one process serves alone", _workers),
    Route("GET", "/connections", "live connections", _connections, (
        Parameter("sort", "text", "by what, the largest first", "age", choices=tuple(ORDERS)),
        Parameter("filter", "text", "only those with this in their peer or listener, or of this number", ""),
        Parameter("limit", "whole", "how many at most", MOST, least=0, most=MOST),
    )),
    Route("GET", "/limits", "the limits in force, of each server", _limits),
    Route("GET", "/bans", "addresses that are banned", _bans),
    Route("GET", "/certs", "certificates, and when they run out", _certs),
    Route("GET", "/log", "the last records of each process's log, errors by traceback, blocked loops",
          partial(_each, "records")),
    Route("GET", "/config", "each value, and where it came from", lambda admin: admin.config()),
    Route("GET", "/debug/stacks", "where threads, green threads and coroutines are", partial(_each, "stacks")),
    Route("GET", "/openapi.json", "this table", lambda admin: openapi(ROUTES, admin.version), is_open=True),
    Route("POST", "/connections/close", "end one connection", _close, (
        Parameter("id", "whole", "its number", least=0, most=2**62),
        Parameter("worker", "whole", "the number of its worker", 0, least=0, most=2**31),
        Parameter("server", "whole", "which of several servers", 0, least=0, most=1000),
    )),
    Route("POST", "/drain", "accept nobody: those who connect wait", partial(_all_do, "suspend")),
    Route("POST", "/resume", "accept again", partial(_all_do, "resume")),
    Route("POST", "/reload", "read configuration, certificates and lists again; workers with new code",
          partial(_do, "reload")),
    Route("POST", "/stop", "stop as after SIGTERM", partial(_do, "stop")),
    Route("POST", "/workers/scale", "another number of workers", partial(_do, "scale"), (
        Parameter("workers", "whole", "how many", least=1, most=128),
    )),
    Route("POST", "/bans", "let nobody in from an address", partial(_all_do, "ban"), (_PEER, _SECONDS)),
    Route("POST", "/bans/lift", "let them in again", partial(_all_do, "unban"), (_PEER,)),
    Route("POST", "/limits", "other limits from now on, until the next reload", partial(_all_do, "set-limits"), (
        Parameter("values", "object", "limits by their names, such as {\"max_connections\": 500}"),
        Parameter("server", "whole", "which of several servers", 0, least=0, most=1000),
    )),
    Route("POST", "/log/level", "what is logged from now on", partial(_all_do, "log-level"), (
        Parameter("level", "text", "the least that is logged", choices=LEVELS),
    )),
)  # fmt: skip
