"""Journals of what happens outside of any server, which nobody looks after: a module has one for good."""

from __future__ import annotations

import atexit
import logging

from .journal import Journal

__all__ = ["standing_journal"]


def standing_journal(logger: logging.Logger) -> Journal:
    """A :class:`Journal` that is written to by units of whatever server, or of none, for as long as the program runs.

    What it holds back is told before the next record of its kind for which there is room, and the rest when the
    interpreter ends. A process that was forked has its own allowance, and tells nothing of its parent's.
    """
    journal = Journal(logger)
    atexit.register(journal.tell)
    return journal
