"""Runs the Python blocks of one page in order, in one namespace, and holds what they print against the page.

    python tests/docs/run_page.py docs/tutorial.md

Exit code 1, and what went wrong on stderr, where a block raises or prints something else.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from doc_blocks import Block, blocks_of

SECONDS = 50


def run_page(path: Path) -> int:
    """Run it; how many blocks were run. SystemExit with the reason where one fails."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = [block for block in blocks_of(path.read_text()) if block.runs_in_page]
    # Not a file object in place of sys.stdout: forked children and other programs print too.
    with tempfile.TemporaryFile() as printed:
        screen = os.dup(1)
        os.dup2(printed.fileno(), 1)
        try:
            for block in blocks:
                _run(block, path, namespace, printed)
        finally:
            sys.stdout.flush()
            os.dup2(screen, 1)
            os.close(screen)
    return len(blocks)


def _run(block: Block, path: Path, namespace: dict[str, Any], printed: BinaryIO) -> None:
    # Blank lines in front, so that a traceback shows the page's own lines.
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
    printed.seek(0)
    printed.truncate()
    try:
        exec(code, namespace)
    except BaseException:
        traceback.print_exc()
        raise SystemExit(f"{path}:{block.line}: this block raised") from None
    sys.stdout.flush()
    printed.seek(0)
    output = printed.read().decode()
    wanted = block.output or ""
    if output.rstrip() != wanted.rstrip():
        raise SystemExit(f"{path}:{block.line}: this block is to print\n{wanted}\nand printed\n{output}")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    run_page(Path(sys.argv[1]).resolve())
    faulthandler.cancel_dump_traceback_later()
