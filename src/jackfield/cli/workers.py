"""The flags of workers, ``serve -w N`` and ``serve --reload``; what they do is in :mod:`jackfield.cli.supervising`."""

from __future__ import annotations

import argparse

from jackfield.cli.arguments import count, duration, size

__all__ = ["configure", "configure_reload", "wants_workers"]


def _workers(text: str) -> int | str:
    return text if text == "auto" else count(1)(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "-w", "--workers", metavar="N|auto", type=_workers,
        help="processes that serve, kept by one that replaces them; auto: one for each processor (default: this one)",
    )  # fmt: skip
    group.add_argument(
        "--worker-timeout", metavar="TIME", type=duration, default=30.0,
        help="a worker that gives no sign of life for so long is killed, and its stack logged (default 30s)",
    )  # fmt: skip
    group.add_argument(
        "--retire-timeout", metavar="TIME", type=duration, default=3600.0,
        help="how long the connections of a replaced worker may go on after a reload (default 1h)",
    )  # fmt: skip
    group.add_argument(
        "--worker-lifetime", metavar="TIME", type=duration, help="replace a worker that is so old, a tenth more or less"
    )
    group.add_argument("--worker-max-rss", metavar="SIZE", type=size, help="... that takes so much memory, e.g. 500M")
    group.add_argument("--worker-max-accepts", metavar="N", type=count(1), help="... that has had so many connections")


def configure_reload(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a reload by itself."""
    group = parser.add_argument_group("while you write it")
    group.add_argument(
        "--reload", action=argparse.BooleanOptionalAction, default=None,
        help="new workers whenever a file changes; one worker unless -w says more",
    )  # fmt: skip
    group.add_argument("--reload-dir", metavar="DIR", action="append", help="where (default --app-dir); repeatable")
    group.add_argument("--reload-include", metavar="GLOB", action="append", help="which files (default *.py)")
    group.add_argument("--reload-exclude", metavar="GLOB", action="append", help="which of them not")
    group.add_argument(
        "--reload-delay", metavar="TIME", type=duration, default=0.25, help="between two looks (default 250ms)"
    )


def wants_workers(options: argparse.Namespace) -> bool:
    """Whether other processes are to serve than this one."""
    return options.workers is not None or bool(options.reload)
