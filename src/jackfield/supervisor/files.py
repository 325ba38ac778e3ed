"""Which files have changed: for ``--reload``, while a handler is written."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence

#: Directories that nobody edits: what is installed, what is generated, and what begins with a dot.
NOT_WATCHED = ("__pycache__", "node_modules", "site-packages")


class Files:
    """The files under ``directories`` whose names match one of ``include`` and none of ``exclude`` (fnmatch), by the
    time and size that they had when they were last looked at. Links to directories are not followed."""

    def __init__(
        self, directories: Iterable[str], include: Sequence[str] = ("*.py",), exclude: Sequence[str] = ()
    ) -> None:
        self._directories = list(directories)
        self._include = include
        self._exclude = exclude
        self._seen = dict(self._look())

    def changed(self) -> list[str]:
        """Those that were written, made or removed since the last call, in order."""
        before, self._seen = self._seen, dict(self._look())
        names = before.keys() | self._seen.keys()
        return sorted(name for name in names if before.get(name) != self._seen.get(name))

    def _look(self) -> Iterator[tuple[str, tuple[int, int]]]:
        waiting = list(self._directories)
        while waiting:
            try:
                entries = list(os.scandir(waiting.pop()))
            except OSError:
                continue  # removed meanwhile, or not ours to read
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(".") and entry.name not in NOT_WATCHED:
                            waiting.append(entry.path)
                    elif self._matters(entry.name):
                        status = entry.stat()
                        yield entry.path, (status.st_mtime_ns, status.st_size)
                except OSError:
                    continue

    def _matters(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, one) for one in self._include) and not any(
            fnmatch.fnmatch(name, one) for one in self._exclude
        )
