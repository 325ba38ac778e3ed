"""One row on one server: start it, ask it alone, attack it, and look at what is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import Any

from processes import Unable, Void

from .addresses import million
from .arena import Arena, Found
from .rows import TABLE_BARS, Row, judged, judged_honest
from .target import Honest, Target, Watch, started

#: Seconds for the honest client alone, and after an attack where it cannot be asked during it.
ALONE = 1.0

#: Seconds for a server to let go of what the attackers had.
SETTLE = 1.5

#: Descriptors of this process and of the server beside the attackers' connections.
SPARE = 120

#: Seconds that the honest client asks at least, also beside an attack that is over in no time.
SHORTEST = 0.7

#: How much the attack stands back where it shares a processor with the honest client, whose waiting is measured.
NICE = 10


@dataclass(frozen=True)
class Conditions:
    """What holds for a whole run. ``most`` cuts the number of attackers in every row."""

    most: int
    alone: float
    server_processor: int | None
    certificate: str


def setup_of(row: Row, folder: str, certificate: str) -> dict[str, Any]:
    """What the servers of a row are told."""
    setup: dict[str, Any] = {"limits": dict(row.limits), "options": dict(row.options)}
    if row.room and row.attackers:
        # Of the handshakes a quarter may be under way at once (Limits.max_handshakes).
        setup["options"]["max_threads"] = row.attackers * (4 if row.kind in ("tls", "proxy") else 1) + 300
    if row.kind == "tls":
        setup["certificate"] = certificate
    elif row.kind == "proxy":
        setup["proxy"] = True
    elif row.kind == "udp":
        setup["datagrams"] = True
    elif row.kind == "unix":
        setup["path"] = os.path.join(folder, "socket")
    return setup


def attacked(row: Row, arena: Arena) -> Found:
    """What the attack has found; Void if it is not over in time. On a thread of its own, which stands back."""
    found: list[Found] = []
    errors: list[BaseException] = []

    def work() -> None:
        # On Linux a nice value is a thread's own (sched(7)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            found.append(row.attack(arena))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(arena.left + 5.0)
    if thread.is_alive():
        raise Void(f"the attack is not over after {row.seconds + 5:.0f} s")
    if errors:
        if isinstance(errors[0], Unable | Void):
            raise errors[0]
        raise Void(f"{type(errors[0]).__name__}: {errors[0]}") from errors[0]
    return found[0]


def asked(honest: Honest, seconds: float) -> dict[str, Any]:
    honest.begin()
    time.sleep(seconds)
    return honest.end()


def trial(row: Row, name: str, conditions: Conditions, seconds: float) -> Found:
    """The figures of a server, with ``missed``: what it has not held to. At most about so many seconds."""
    with contextlib.ExitStack() as exits:
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-attack-"))
        setup = setup_of(row, folder, conditions.certificate)
        target = exits.enter_context(
            started(name, setup, descriptors=row.descriptors, processor=conditions.server_processor)
        )
        honest = exits.enter_context(Honest(target, row.kind, row.pause)) if row.honest != "none" else None
        alone = None
        if honest is not None:
            asked(honest, 0.2)  # what a server and its client do only once is done
            alone = asked(honest, conditions.alone)
        if not (alone["answered"] if alone else target.served(2.0)):
            raise Void(f"it does not even answer when nobody attacks it: {target.last_words()}")
        before, log = target.usage(), target.log.stat().st_size
        if honest is not None and row.honest == "during":
            honest.begin()
        with Watch(target) as watch:
            until = time.monotonic() + min(row.seconds, seconds)
            began = time.monotonic()
            arena = Arena(target, watch, conditions.most, setup, until)
            found = attacked(row, arena)
            if seconds < row.seconds and not arena.left:
                raise Void("no time was left")  # what it would have held to with more of it, nobody knows
            if row.honest == "during":
                time.sleep(max(0.0, began + SHORTEST - time.monotonic()))
        beside = None
        if honest is not None:
            beside = honest.end() if row.honest == "during" else asked(honest, conditions.alone)
        after = settled(target, before.descriptors)
        highest = max(watch.memory, after.memory if after else 0)
        found |= {
            "cpu_seconds": after.cpu - before.cpu if after else None,
            "memory_mib": max(0, (after.memory if after else highest) - before.memory) / 2**20,
            "peak_mib": max(0, highest - before.memory) / 2**20,
            "descriptors": [before.descriptors, after.descriptors if after else None],
            "log_bytes": target.log.stat().st_size - log,
        }
    return entry(name, found, alone, beside, judged(row.bars, found, name))


def entry(name: str, found: Found, alone: Any, beside: Any, missed: list[str]) -> Found:
    """What the document has of a server."""
    return {"server": name, "found": found, "alone": alone, "beside": beside,
            "missed": [*missed, *judged_honest(alone, beside)]}  # fmt: skip


def settled(target: Target, descriptors: int) -> Any:
    """What a server has when the attackers have gone, or after a while; None if it has ended."""
    end = time.monotonic() + SETTLE
    while target.alive():
        usage = target.usage()
        if usage.descriptors <= descriptors or time.monotonic() > end:
            return usage
        time.sleep(0.05)
    return None


def table_trial(conditions: Conditions) -> Found:
    """The row without a server."""
    try:
        found = million(1_000_000 if conditions.most >= 1000 else 100_000, 60.0)
    except (OSError, subprocess.SubprocessError) as error:
        raise Void(f"the table could not be measured: {error}") from None
    alone, beside = found.pop("alone"), found.pop("beside")
    return entry("per-address table", found, alone, beside, judged(TABLE_BARS, found, ""))
