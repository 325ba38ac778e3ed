"""``jackfield ctl ACTION``: ask a running server how it is, and tell it what to do."""

from __future__ import annotations

import argparse
import json
import sys
import time

from jackfield.cli import exits
from jackfield.cli.arguments import Parser, UsageError, count, duration
from jackfield.cli.text import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from jackfield.cli.control import Control

__all__ = ["ANSWERS", "EXAMPLES", "configure", "configure_target", "run", "target_of"]

EXAMPLES = """\
examples:
  jackfield ctl status                 how the only server of this user is
  jackfield ctl -s echo.ctl conns      its connections, and the numbers that kick takes
  jackfield ctl kick 17                end one of them
  jackfield ctl limits max_connections=500 idle_timeout=30
  jackfield ctl scale 4                four workers from now on
  jackfield ctl -s 127.0.0.1:9998 --json status
"""

ANSWERS = {"--socket": "use -s PATH", "-p": "use -s HOST:PORT"}


def configure(parser: Parser) -> None:
    """Add the arguments of ``ctl``."""
    configure_target(parser)
    parser.add_argument("--json", action="store_true", help="what the server answers, for a program")
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", required=True, parser_class=Parser
    )
    for name, (help, arguments, _) in _ACTIONS.items():
        action = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        for words, options in arguments:
            action.add_argument(*words, **options)


def configure_target(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which server is asked."""
    parser.add_argument(
        "-s", "--server", metavar="PATH|HOST:PORT", dest="control",
        help="its control socket, or its admin address (default: the only control socket there is)",
    )  # fmt: skip
    parser.add_argument("--token-file", metavar="FILE", help="what the server has as --admin-token-file")


def target_of(options: argparse.Namespace) -> Control:
    """The server that is meant."""
    from jackfield.cli.control import Control, find

    token = None
    if options.token_file is not None:
        try:
            with open(options.token_file, encoding="utf-8") as file:
                token = file.readline().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise UsageError(f"--token-file: {options.token_file}: {reason}") from None
    return Control(find(options.control), token)


def run(options: argparse.Namespace) -> int:
    """Do it; the exit code: 0 done, 1 the server says no, or is not there, 2 the call was wrong."""
    control = target_of(options)
    try:
        told, lines = _ACTIONS[options.action][2](control, options)
    finally:
        control.close()
    text = json.dumps(told) if options.json else "\n".join(lines)
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # as head(1) does it
    return exits.OK


# -- looking -------------------------------------------------------------------------------------------------------




def _status(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import status_lines

    told = control.get("/stats")
    return told, status_lines(told)


def _conns(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import amount, connection_id, lasted, table

    told = control.get("/connections", sort=options.sort, filter=options.filter, limit=options.limit)
    head = ("ID", "PEER", "LISTENER", "AGE", "IN", "OUT", "WAITS", "TLS")
    rows = [
        (
            connection_id(row), row["peer"] + (f" by {row['via']}" if row["via"] else ""), row["listener"],
            lasted(row["age"]), amount(row["received"]), amount(row["sent"]), row["waits"],
            row["tls"] and row["tls"]["version"],
        )
        for row in told["rows"]
    ]  # fmt: skip
    more = told["found"] - len(rows)
    return told, [*table(head, rows), *([f"... and {more} more"] if more > 0 else [])]


def _workers(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import amount, lasted, table

    told = control.get("/workers")
    if not told:
        return told, ["one process serves alone, without workers"]
    head = ("WORKER", "PID", "STATE", "AGE", "CONNECTIONS", "ACCEPTED", "MEMORY", "LAST SIGN OF LIFE")
    return told, table(head, [
        (row["number"], row["pid"], row["state"], lasted(row["age"]), row["connections"], row["accepted"],
         amount(row["resident"]), f"{lasted(row['silent'])} ago")
        for row in told
    ])  # fmt: skip


def _limits(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import table

    if options.changes:
        values = dict(map(_change, options.changes))
        told = [control.post("/limits", values=values, server=options.number)]
    else:
        told = control.get("/limits")
    lines = []
    for number, limits in enumerate(told):
        lines += [f"server {number}"] if len(told) > 1 else []
        rows = [(name, "off" if value is None else value) for name, value in limits.items()]
        lines += table(("LIMIT", "VALUE"), rows)
    return told, lines


def _change(text: str) -> tuple[str, Any]:
    """``idle_timeout=30`` as a name and a value of JSON; ``off`` is none."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} changes no limit: write NAME=VALUE, such as max_connections=500")
    if value == "off":
        return name, None
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _bans(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import lasted, table

    told = control.get("/bans")
    if not told:
        return told, ["nobody is banned"]
    return told, table(("ADDRESS", "FOR", "BY"), [
        (ban["address"], lasted(ban["seconds"]), "hand" if ban["by_hand"] else "its offences") for ban in told
    ])  # fmt: skip


def _errors(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    told = control.get("/log")
    groups = [group for answer in told.values() for group in answer["errors"]]
    groups.sort(key=lambda group: -group["last"])
    lines = []
    for group in groups:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(group["last"]))
        lines += [f"{group['count']} × {group['type']}, last {when}", *map(escape, group["traceback"].split("\n")), ""]
    return groups, lines or ["no errors"]


def _log(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    told = control.get("/log")
    records = sorted(
        ({**record, "worker": worker} for worker, answer in told.items() for record in answer["records"]),
        key=lambda record: record["time"],
    )[-options.lines :]
    lines = []
    for record in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
        worker = f" [{record['worker']}]" if len(told) > 1 else ""
        lines.append(f"{when} {record['level']} {record['logger']}{worker}: {escape(record['text'])}")
    return records, lines


def _config(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    from jackfield.cli.tables import table

    told = control.get("/config")
    return told, table(("KEY", "VALUE", "FROM"), [
        (row["key"] if not row["server"] else f"{row['server']}: {row['key']}", row["value"], row["origin"])
        for row in told
    ])  # fmt: skip


def _stacks(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    told = control.get("/debug/stacks")
    lines = []
    for worker, kinds in told.items():
        for kind, groups in kinds.items():
            for group in groups:
                names = ", ".join(map(escape, group["names"]))
                of = f" of worker {worker}" if len(told) > 1 else ""
                lines.append(f"{group['count']} {kind}{of}: {names}")
                lines += [*(f"    {escape(one)}" for one in group["frames"]), ""]
    return told, lines


# -- doing ---------------------------------------------------------------------------------------------------------


def _kick(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
    parts = options.id.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise UsageError(f"no connection is called {options.id!r}: write its ID, as 'jackfield ctl conns' shows it")
    worker, server, number = [0] * (3 - len(parts)) + [int(part) for part in parts]
    told = control.post("/connections/close", worker=worker, server=server, id=number)
    if told["closed"] is None:
        from jackfield.cli.control import ControlError

        raise ControlError(f"there is no connection {options.id} any more")
    return told, [f"closed {escape(told['closed'])}"]


def _do(path: str, said: str, *names: str) -> Callable[[Control, argparse.Namespace], tuple[Any, list[str]]]:
    def do(control: Control, options: argparse.Namespace) -> tuple[Any, list[str]]:
        told = control.post(path, **{name: getattr(options, name) for name in names})
        return told, [said.format(**vars(options), told=_one_line(told))]

    return do


def _one_line(told: Any) -> str:
    return escape("; ".join(str(value) for value in told.values()) if isinstance(told, dict) else str(told))


_PEER = (("peer",), {"metavar": "ADDRESS"})

_ACTIONS: dict[str, tuple[str, tuple[tuple[tuple[str, ...], dict[str, Any]], ...], Any]] = {
    "status": ("how it is", (), _status),
    "conns": ("its connections", (
        (("--sort",), {"choices": ("age", "received", "sent", "peer", "id"), "default": "age", "metavar": "BY",
                       "help": "age (default), received, sent, peer or id; the largest first"}),
        (("--filter",), {"default": "", "metavar": "TEXT", "help": "only those with TEXT in peer or listener"}),
        (("--limit",), {"type": count(1, 200), "default": 50, "metavar": "N", "help": "how many (default 50)"}),
    ), _conns),
    "workers": ("its workers", (), _workers),
    "kick": ("end one connection", ((("id",), {"metavar": "ID", "help": "as conns shows it"}),), _kick),
    "drain": ("accept nobody: those who connect wait", (), _do("/drain", "accepts nobody now: {told}")),
    "resume": ("accept again", (), _do("/resume", "accepts again: {told}")),
    "reload": ("read configuration, certificates and lists again; with workers, the code too", (),
               _do("/reload", "{told}")),
    "stop": ("stop, as after SIGTERM", (), _do("/stop", "stopping")),
    "scale": ("have another number of workers", (
        (("workers",), {"type": count(1, 128), "metavar": "N"}),
    ), _do("/workers/scale", "{workers} workers from now on", "workers")),
    "limits": ("the limits in force, or other ones", (
        (("changes",), {"nargs": "*", "metavar": "NAME=VALUE", "help": "until the next reload; off switches one off"}),
        (("--number",), {"type": count(0), "default": 0, "metavar": "N", "help": "which of several servers"}),
    ), _limits),
    "bans": ("the addresses that are banned", (), _bans),
    "ban": ("let nobody in from an address", (
        _PEER, (("--for",), {"dest": "seconds", "type": duration, "default": 600.0, "metavar": "TIME",
                             "help": "how long (default 10m)"}),
    ), _do("/bans", "{peer} is banned for {seconds:g} s", "peer", "seconds")),
    "unban": ("let them in again", (_PEER,), _do("/bans/lift", "{peer}: {told}", "peer")),
    "errors": ("errors of handlers, grouped by where they were raised", (), _errors),
    "log": ("the last records of the log", (
        (("-n", "--lines"), {"type": count(1, 200), "default": 20, "metavar": "N", "help": "how many (default 20)"}),
    ), _log),
    "log-level": ("what is logged from now on", (
        (("level",), {"choices": ("debug", "info", "warning", "error", "critical"), "metavar": "LEVEL"}),
    ), _do("/log/level", "{level} and above are logged", "level")),
    "config": ("each value, and where it came from", (), _config),
    "stacks": ("where threads, green threads and coroutines are", (), _stacks),
}  # fmt: skip
