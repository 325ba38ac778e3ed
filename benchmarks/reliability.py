"""The reliability of servers: attacks on real ones in processes of their own, beside one honest client.

    python benchmarks/reliability.py                       every row, every server that is installed: 20 minutes at most
    python benchmarks/reliability.py --quick               fewer attackers, our own servers: 3 minutes at most
    python benchmarks/reliability.py --rows 1,7,9          some rows
    python benchmarks/reliability.py --servers green,async some servers
    python benchmarks/reliability.py --json docs/reliability.json
    python benchmarks/reliability.py --rows 8 --update docs/reliability.json     these again, among the others there

The page goes to standard output, what is going on to standard error. Exit status 1 if a server of ours has missed what
it is to hold to, or if something could not be measured to its end; 2 if nothing can be measured here; 0 otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import Unable, Void, child, raise_limit
from reliability_attacks.report import Document, markdown, ours
from reliability_attacks.rows import (
    HONEST_WAIT,
    ROWS,
    TABLE_BARS,
    TABLE_ROW,
    TABLE_TITLE,
    Row,
    to_hold,
)
from reliability_attacks.trial import ALONE, SPARE, Conditions, table_trial, trial
from run import commit, machine

#: Seconds of a row, and of a whole run; what was begun by then is finished.
OF_A_ROW = 55.0
OF_A_RUN, OF_A_QUICK_RUN = 1200.0, 180.0

#: A quick run has so many attackers at most, and these servers.
QUICK_MOST, QUICK_ALONE = 200, 0.3
QUICK_SERVERS = ("thread", "green", "process")

#: Seconds without which a trial is not begun.
LEAST = 4.0

#: Of a server whose only fault is that the honest client has waited too long.
TRIALS = 3


def installed(server: str) -> bool:
    return server != "gevent" or importlib.util.find_spec("gevent") is not None


def row_document(row: Row) -> Document:
    settings = {**row.limits, **row.options}
    said = ", ".join(f"`{name}={value}`" for name, value in settings.items())
    if row.descriptors:
        said += f"{said and ', '}`ulimit -n {row.descriptors}`"
    return {
        "number": row.number, "title": row.title, "about": row.about, "to_hold": to_hold(row.bars, row.honest),
        "set": f"Set for it: {said}; what is left out is by default." if said else "", "date": now(), "servers": [],
    }  # fmt: skip


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").replace("+00:00", " UTC")


def attack(row: Row, names: list[str], conditions: Conditions, until: float) -> Document:
    """A row on each of its servers, one after the other, as long as there is time."""
    document = row_document(row)
    end = min(until, time.monotonic() + OF_A_ROW)
    for place, name in enumerate(names):
        left = end - time.monotonic()
        print(f"{row.number}. {row.title}: {name}", file=sys.stderr, flush=True)
        if left < LEAST:
            entry: Document = {"server": name, "void": "no time was left"}
        else:
            try:
                entry = tried(row, name, conditions, end, len(names) - place - 1)
            except Unable as error:
                document["not_measured"] = str(error)
                return document
            except (Void, OSError, subprocess.SubprocessError) as error:
                entry = {"server": name, "void": str(error)}
                print(f"  void: {error}", file=sys.stderr, flush=True)
        document["servers"].append(entry)
    return document


def tried(row: Row, name: str, conditions: Conditions, end: float, others: int) -> Document:
    """A trial, over by ``end`` (time.monotonic()), with time left for so many others. One that misses by how long the
    honest client waits, and by nothing else, is made three times if there is time, and the middle one counts: what else
    the machine does disturbs that figure most."""
    entries: list[Document] = []
    wanted = 1
    while len(entries) < wanted:
        began = time.monotonic()
        found = trial(row, name, conditions, end - began - LEAST * others)
        entries.append({**found, "seconds": round(time.monotonic() - began, 1)})
        if only_waits(entries[0]) and end - time.monotonic() > entries[0]["seconds"] * (others + 1):
            wanted = min(TRIALS, len(entries) + 1)
    return middle(entries)


def only_waits(entry: Document) -> bool:
    """Whether all that is missed is how long the honest client waits."""
    return bool(entry["missed"]) and all(text.startswith(HONEST_WAIT) for text in entry["missed"])


def middle(entries: list[Document]) -> Document:
    """The one in the middle by the honest client's p99; the worse one of two."""

    def wait(entry: Document) -> float:
        p99 = (entry["beside"] or {}).get("p99_ms")
        return math.inf if p99 is None else float(p99)

    return {**sorted(entries, key=wait)[len(entries) // 2], "trials": len(entries)}


def in_namespace(row: Row, names: list[str], options: argparse.Namespace) -> Document:
    """The row by this same command in a network namespace of its own, which nobody else's packets reach."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return {**row_document(row), "not_measured": "a network namespace of its own needs unshare and root's rights"}
    with tempfile.TemporaryDirectory(prefix="jackfield-attack-") as folder:
        path = Path(folder, "found.json")
        command = ["unshare", "--net", sys.executable, __file__, "--inside", "--rows", row.number, "--json", str(path)]
        command += ["--servers", ",".join(names), *(["--quick"] if options.quick else [])]
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, options.processors)
        try:
            with child(*command) as process:
                process.communicate(timeout=OF_A_ROW + 20)
            found: Document = json.loads(path.read_text())["rows"][0]
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return {**row_document(row), "not_measured": f"in a network namespace: {error}"}
        finally:
            os.sched_setaffinity(0, here)
    return found


def addresses(conditions: Conditions) -> Document:
    from reliability_attacks.addresses import measured

    about = " ".join((measured.__doc__ or "").split())
    about += " Verdicts alone, without a server; what one costs is processor time."
    document: Document = {
        "number": TABLE_ROW, "title": TABLE_TITLE, "about": about, "to_hold": to_hold(TABLE_BARS, "during"), "set": "",
        "date": now(), "servers": [],
    }  # fmt: skip
    print(f"{TABLE_ROW}. {TABLE_TITLE}", file=sys.stderr, flush=True)
    try:
        document["servers"].append(table_trial(conditions))
    except Void as error:
        document["servers"].append({"server": "per-address table", "void": str(error)})
    return document


def measure(options: argparse.Namespace, conditions: Conditions, notes: list[str]) -> Document:
    began = time.monotonic()
    until = began + (OF_A_QUICK_RUN if options.quick else OF_A_RUN)
    document: Document = {
        "benchmark": "jackfield reliability",
        "date": now(),
        "jackfield": importlib.metadata.version("jackfield"),
        "commit": commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": machine(),
        "quick": options.quick,
        "notes": notes,
        "rows": [],
    }
    for row in ROWS:
        names = [name for name in row.servers if name in options.servers and installed(name)]
        if row.number not in options.rows or not names:
            continue
        if row.namespace and not options.inside:
            document["rows"].append(in_namespace(row, names, options))
        else:
            document["rows"].append(attack(row, names, conditions, until))
    if TABLE_ROW in options.rows:
        document["rows"].append(addresses(conditions))
    document["took_seconds"] = time.monotonic() - began
    return document


def updated(document: Document, new: Document) -> Document:
    """A document with the rows that were measured again, which say so."""
    rows = {row["number"]: {**row, "again": new["commit"]} for row in new["rows"]}
    return {**document, "rows": [rows.get(row["number"], row) for row in document["rows"]]}


def failures(document: Document) -> list[str]:
    """What makes the exit status 1."""
    said = []
    for row in document["rows"]:
        for entry in row["servers"]:
            if entry.get("void"):
                said.append(f"{row['number']}, {entry['server']}: void, {entry['void']}")
            elif entry["missed"] and ours(entry["server"]):
                said.append(f"{row['number']}, {entry['server']}: {'; '.join(entry['missed'])}")
    return said


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    assert __doc__ is not None
    numbers = [*(row.number for row in ROWS), TABLE_ROW]
    servers = list(dict.fromkeys(name for row in ROWS for name in row.servers))
    listed = "\n".join(f"  {row.number:4} {row.title}" for row in ROWS) + f"\n  {TABLE_ROW:4} {TABLE_TITLE}"
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"rows:\n{listed}\n\nservers: {', '.join(servers)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", help="their numbers, with commas; all unless given")
    parser.add_argument("--servers", help="their names, with commas; all that are installed unless given")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MOST} attackers at most, few servers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument("--update", type=Path, metavar="FILE", help="put what was found in the place of what is there")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing, read such a file")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name, known, default in (
        ("rows", numbers, numbers), ("servers", servers, QUICK_SERVERS if options.quick else servers),
    ):  # fmt: skip
        given = getattr(options, name)
        chosen = list(default) if given is None else given.split(",")
        if unknown := [one for one in chosen if one not in known]:
            parser.error(f"--{name}: there is no {', '.join(unknown)}; write some of {','.join(known)}")
        setattr(options, name, chosen)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"{options.json} cannot be written: there is no folder {options.json.parent}")
    return options


def scaled(options: argparse.Namespace) -> tuple[int, list[str]]:
    """How many attackers there may be, and what is to be said about it."""
    most = QUICK_MOST if options.quick else 1_000_000
    notes = [f"A quick run: {QUICK_MOST} attackers at most."] if options.quick else []
    room = raise_limit() - SPARE
    if room < 100:
        raise Unable(f"at least {100 + SPARE} descriptors are needed: raise the hard limit (ulimit -Hn)")
    if room < min(most, max(row.attackers for row in ROWS)):
        notes.append(f"Attackers are cut to {room:,}, as the limit of descriptors has no room for more (ulimit -Hn).")
        most = room
    return most, notes


def measured(options: argparse.Namespace) -> Document:
    if options.source:
        document: Document = json.loads(options.source.read_text())
        return document
    if not Path("/proc/self/smaps_rollup").exists() or not hasattr(signal, "pthread_kill"):
        raise Unable("the figures come from Linux's /proc, and there is none here")
    if options.inside:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    most, notes = scaled(options)
    options.processors = os.sched_getaffinity(0)
    allowed = sorted(options.processors)
    with tempfile.TemporaryDirectory(prefix="jackfield-attack-") as folder:
        path = certificate(folder)
        if len(allowed) > 1:
            os.sched_setaffinity(0, set(allowed[1:]))  # the first one is the server's
        conditions = Conditions(most, QUICK_ALONE if options.quick else ALONE, allowed[0], path)
        return measure(options, conditions, notes)


def certificate(folder: str) -> str:
    from jackfield.tls.selfsigned import self_signed

    return str(shutil.copy(self_signed().cert, folder))


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this
    try:
        document: dict[str, Any] = measured(options)
    except Unable as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 2
    if options.update:
        document = updated(json.loads(options.update.read_text()), document)
        options.update.write_text(json.dumps(document, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(document), end="", flush=True)
    said = failures(document)
    for text in said:
        print(text, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
