"""Files by HTTP/1.1: the standard library's ``http.server`` handler, unchanged but for ranges, on green threads.

    python examples/http_files.py [ADDRESS]      what is below this folder; 9980 unless given, 0 takes any free port
    curl -r 0-99 http://127.0.0.1:9980/README.md

``jackfield serve --app-dir examples http_files:Files -k green`` is the same. Mode green, since a web client keeps its
connection open between two requests: ten thousand that rest are no thread's worth of memory. Every other mode that
blocks will do as well. ``SimpleHTTPRequestHandler`` itself is served in the same way, if ranges are not wanted.
"""

from __future__ import annotations

import http.server
import logging
import os
import re
import sys
from typing import Any

import jackfield

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


class Files(http.server.SimpleHTTPRequestHandler):
    """One client: any number of requests, each for a file, a part of one, or the list of a folder."""

    protocol_version = "HTTP/1.1"  # the connection stays open, as every answer says how long it is

    #: Of the file that is sent, how many bytes from where; None is all of it.
    part: tuple[int, int] | None = None

    def send_head(self) -> Any:
        """What is sent before the file, and the file: a part of it for a request with a range (RFC 9110, 14.2).

        One range only, and none with a condition (``If-Range``): a server may answer all others with the whole file.
        """
        self.part = None
        path = self.translate_path(self.path)
        wanted = RANGE.fullmatch(self.headers.get("Range", ""))
        if self.command != "GET" or not wanted or "If-Range" in self.headers or not os.path.isfile(path):
            return super().send_head()
        first, last, suffix = (int(text) if text else None for text in wanted.groups())
        if first is not None and last is not None and last < first:
            return super().send_head()  # that is no range (RFC 9110, 14.1.1)
        try:
            file = open(path, "rb")
        except OSError:
            return super().send_head()  # which knows what to say
        size = os.fstat(file.fileno()).st_size
        begin, end = (first, size if last is None else min(last + 1, size)) if suffix is None else (size - suffix, size)
        begin = max(0, begin)
        if begin >= end:
            file.close()
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.part = begin, end - begin
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        return file

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Out of a file the bytes never pass through Python (sendfile(2))."""
        if self.part is not None:
            self.connection.sendfile(source, *self.part)
        else:
            super().copyfile(source, outputfile)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Files, *(sys.argv[1:] or ["9980"]), mode="green", graceful_timeout=1)
