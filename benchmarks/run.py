"""The benchmarks of jackfield: what it costs beside a C program that does the same work, and beside other libraries.

    python benchmarks/run.py                           every row, with the peers that are installed: 15 minutes at most
    python benchmarks/run.py --quick                   fewer and shorter rounds: 3 minutes at most
    python benchmarks/run.py echo latency --no-peers   some rows
    python benchmarks/run.py --json figures.json --svg figures.svg
    python benchmarks/run.py churn echo --limits none  our servers without the limits that they have by default
    python benchmarks/run.py --from figures.json --svg figures.svg      the same again, without measuring

The table goes to standard output, what is going on to standard error. Exit status 1 if a run was void, because a reply
was wrong or lost; 2 if this machine cannot measure (one processor, no C compiler); 0 otherwise, whether every figure is
reached or not: the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
from build import program
from drawing import svg
from processes import Unable, Void, processors, raise_limit
from rows import GROUPS, Row, rows
from servers import BROKEN
from table import Document, markdown, row_document
from trials import Found, Setting

HERE = Path(__file__).parent

ROUNDS, SECONDS, MIB = 5, 1.5, 1024.0
QUICK_ROUNDS, QUICK_SECONDS, QUICK_MIB = 3, 0.4, 128.0


# -- what it is measured on --------------------------------------------------------------------------------------------


def said_by(*command: object) -> str:
    """The first line that a program says; nothing if there is no such program."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.partition("\n")[0].strip()
    return ""


def machine() -> Document:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model or platform.machine(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "compiler": said_by(*shlex.split(os.environ.get("CC", "cc")), "--version"),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str:
    """The commit that is checked out, and whether there are changes to it."""
    found = said_by("git", "-C", HERE, "rev-parse", "--short", "HEAD")
    return f"{found} with changes" if found and said_by("git", "-C", HERE, "status", "--porcelain") else found


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(row: Row, setting: Setting, rounds: int, with_peers: bool) -> Document:
    """One row: its servers in turn, round by round. A server whose run is void is not measured again."""
    names = [*row.servers, *(filter(peers.installed, row.peers) if with_peers else ())]
    names = list(dict.fromkeys(names))
    found: dict[str, list[Found]] = {name: [] for name in names}
    void: dict[str, str] = {}
    for turn in range(1, rounds + 1):
        print(f"{row.title}, {row.what}: round {turn} of {rounds}", file=sys.stderr, flush=True)
        for name in names:
            if name in void:
                continue
            try:
                found[name].append(row.trial(setting, name))
            except (Void, subprocess.TimeoutExpired) as error:
                void[name] = str(error)
                print(f"  {name} is void: {error}", file=sys.stderr, flush=True)
    return row_document(row, found, void)


def measure_all(options: argparse.Namespace, setting: Setting) -> Document:
    """The document of a run."""
    started = time.monotonic()
    document: Document = {
        "benchmark": "jackfield",
        "date": datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").replace("+00:00", " UTC"),
        "jackfield": importlib.metadata.version("jackfield"),
        "commit": commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "limits": options.limits,
        "rows": [],
    }
    for row in rows(setting):
        if row.group not in options.rows:
            continue
        try:
            document["rows"].append(measure(row, setting, options.rounds, options.peers))
        except Unable as error:
            nothing = {"group": row.group, "title": row.title, "what": row.what, "not_measured": str(error)}
            document["rows"].append(nothing)
    wanted = [*peers.TCP, *peers.UDP] if options.peers else []
    missing = dict.fromkeys(peer.partition("-")[0] for peer in wanted if not peers.installed(peer))
    document |= {"native": native(document), "not_installed": [*missing], "took_seconds": time.monotonic() - started}
    return document


def native(document: Document) -> bool | None:
    """Whether the servers of ours had their native part; None if none of them was measured."""
    seen = [
        bool(entry["found"]["native"])
        for row in document["rows"]
        for entry in row.get("servers", [])
        if entry["server"] in ("async", "green", "thread", "serial") and "native" in entry.get("found", {})
    ]
    return any(seen) if seen else None


def voids(document: Document) -> Iterator[str]:
    for row in document["rows"]:
        for entry in row.get("servers", []):
            if entry["void"]:
                yield f"{row['title']}, {entry['server']}: {entry['void']}"


# -- the command -------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    assert __doc__ is not None
    text = "\n".join(f"  {name:10} {about}" for name, about in GROUPS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"rows:\n{text}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", choices=[[], *GROUPS], metavar="ROW", help="what to measure; all if none")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS} s, no peers")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} unless given")
    parser.add_argument("--seconds", type=float, help=f"of one load; {SECONDS} unless given")
    parser.add_argument("--mib", type=float, help=f"the size of the file; {MIB:g} unless given")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, help="other libraries too; those installed")
    parser.add_argument("--connections", type=int, default=1_000_000, help="at most so many in every row")
    parser.add_argument(
        "--limits", choices=("default", "none"), default="default",
        help="of our own servers (but in row file): those that they have by default, or none but of connections",
    )  # fmt: skip
    parser.add_argument("--folder", help="where the file and its copy lie; memory if it has room, unless given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="measure nothing, read such a file")
    parser.add_argument("--broken", choices=BROKEN, help="an async server that does it wrong: shows that it is found")
    options = parser.parse_args()
    options.rows = options.rows or list(GROUPS)
    defaults: dict[str, Any] = {"rounds": ROUNDS, "seconds": SECONDS, "mib": MIB, "peers": True}
    if options.quick:
        defaults = {"rounds": QUICK_ROUNDS, "seconds": QUICK_SECONDS, "mib": QUICK_MIB, "peers": False}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for path in filter(None, (options.json, options.svg)):
        if not path.parent.is_dir():
            parser.error(f"{path} cannot be written: there is no folder {path.parent}")
    if min(options.rounds, options.connections, options.seconds, options.mib) <= 0:
        parser.error("--rounds, --seconds, --connections and --mib are above 0")
    return options


def measured(options: argparse.Namespace) -> Document:
    """The document of what was asked for; Unable if nothing can be measured here."""
    if options.source:
        document: Document = json.loads(options.source.read_text())
        return document
    server, load = processors()
    program("echo_load")  # says at once if there is no compiler
    raise_limit()
    setting = Setting(
        options.seconds, server, load, options.connections, options.mib, options.folder, options.broken, options.limits
    )
    with contextlib.closing(setting):
        return measure_all(options, setting)


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this
    try:
        document = measured(options)
    except Unable as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 2
    print(markdown(document), end="", flush=True)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(svg(document))
    return 1 if any(voids(document)) else 0


if __name__ == "__main__":
    sys.exit(main())
