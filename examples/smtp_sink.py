"""A sink for mail: it takes every message, delivers none, and prints each as a line of JSON. For tests of what mails.

    python examples/smtp_sink.py [ADDRESS]          9925 unless given; 0 takes any free port
    swaks --server 127.0.0.1:9925 --to ann@example.test --tls

``jackfield serve --app-dir examples smtp_sink:Sink`` is the same. Mode thread, the default for a handler that blocks,
as few programs send mail at a time; ``-k green`` takes thousands.

The protocol is RFC 5321, with STARTTLS (RFC 3207), SIZE (RFC 1870), 8BITMIME and PIPELINING. The certificate is one for
development, made when the first client asks for it; SMTP_CERT names a file with another and its key.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
from typing import Any

import jackfield
from jackfield.tls import TLS, ServerTLS, self_signed

LARGEST = 1 << 20  # bytes of a message
LONGEST_LINE = 1000  # RFC 5321, 4.5.3.1.6; of a command 512
MOST_RECIPIENTS = 100  # 4.5.3.1.8
MOST_ERRORS = 20  # until it is not worth to listen any longer

PATH = re.compile(r"(FROM|TO): ?<([^<>\s]*)>((?: \S+)*)", re.IGNORECASE)


@functools.cache
def certificate() -> ServerTLS:
    """What STARTTLS is done with. StartError if it cannot be had."""
    path = os.environ.get("SMTP_CERT")
    return ServerTLS(TLS(path) if path else self_signed())


class Sink(jackfield.StreamRequestHandler):
    """One client, and the messages that it brings."""

    timeout = 300  # RFC 5321, 4.5.3.2.7; the server's own limits are shorter

    def handle(self) -> None:
        self.hello, self.errors = "", 0
        self.forget()
        self.say(220, "ready, and delivers nothing")
        while self.errors < MOST_ERRORS:
            line = self.rfile.readline(LONGEST_LINE + 1)
            if not line.endswith(b"\n"):
                if line:
                    self.say(500, "that line is too long")
                return
            word, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            if word.upper() == "QUIT":
                self.say(221, "goodbye")
                return
            command = getattr(self, f"do_{word.lower()}", None)
            if command is None:
                self.refuse(500, "there is no such command")
            else:
                try:
                    command(rest.strip())
                except EOFError:
                    return
        self.say(421, "too many errors")

    def say(self, code: int, *lines: str) -> None:
        """An answer: all lines but the last have a hyphen behind the code (RFC 5321, 4.2.1)."""
        *before, last = lines
        text = "".join(f"{code}-{line}\r\n" for line in before) + f"{code} {last}\r\n"
        self.wfile.write(text.encode())

    def refuse(self, code: int, text: str) -> None:
        self.errors += 1
        self.say(code, text)

    def forget(self) -> None:
        """No message is under way."""
        self.sender: str | None = None
        self.recipients: list[str] = []

    # -- commands ----------------------------------------------------------------------------------------------------

    def do_helo(self, name: str) -> None:
        self.hello = name
        self.forget()
        self.say(250, "hello")

    def do_ehlo(self, name: str) -> None:
        self.hello = name
        self.forget()
        offers = ["hello", "PIPELINING", "8BITMIME", f"SIZE {LARGEST}"]
        self.say(250, *offers, *([] if self.request.tls else ["STARTTLS"]))

    def do_starttls(self, rest: str) -> None:
        if self.request.tls or rest:
            self.refuse(503 if self.request.tls else 501, "STARTTLS stands alone, and comes once")
            return
        try:
            served = certificate()
        except jackfield.StartError as error:
            self.refuse(454, f"no TLS just now: {error}")
            return
        self.say(220, "begin")
        self.start_tls(served)  # what was sent behind the command, by whomever, ends it here
        self.hello = ""  # and what was said before counts no more (RFC 3207, 4.2)
        self.forget()

    def do_mail(self, rest: str) -> None:
        found = PATH.fullmatch(rest)
        size = re.search(r"\bSIZE=(\d{1,20})\b", rest, re.IGNORECASE | re.ASCII)
        if not self.hello:
            self.refuse(503, "say EHLO first")
        elif self.sender is not None:
            self.refuse(503, "one message after the other")
        elif not found or found[1].upper() != "FROM":
            self.refuse(501, "write MAIL FROM:<address>")
        elif size and int(size[1]) > LARGEST:
            self.refuse(552, f"no more than {LARGEST} bytes")
        else:
            self.sender = found[2]
            self.say(250, "go on")

    def do_rcpt(self, rest: str) -> None:
        found = PATH.fullmatch(rest)
        if self.sender is None:
            self.refuse(503, "say MAIL first")
        elif not found or found[1].upper() != "TO" or not found[2]:
            self.refuse(501, "write RCPT TO:<address>")
        elif len(self.recipients) >= MOST_RECIPIENTS:
            self.refuse(452, "that is enough of them")
        else:
            self.recipients.append(found[2])
            self.say(250, "go on")

    def do_data(self, rest: str) -> None:
        if not self.recipients:
            self.refuse(503, "say RCPT first")
            return
        self.say(354, "end it by a dot on a line of its own")
        message = self.read_message()
        if message is None:
            self.refuse(552, f"no more than {LARGEST} bytes")
        else:
            self.print(message)
            self.say(250, "taken")
        self.forget()

    def do_rset(self, rest: str) -> None:
        self.forget()
        self.say(250, "forgotten")

    def do_noop(self, rest: str) -> None:
        self.say(250, "nothing")

    def do_vrfy(self, rest: str) -> None:
        self.say(252, "who knows")  # RFC 5321, 3.5.3: nobody learns here who there is

    # -- messages ----------------------------------------------------------------------------------------------------

    def read_message(self) -> bytes | None:
        """All up to the dot; None if that is too much. EOFError if the client has gone before.

        The end is CR LF, a dot, CR LF, and nothing else: servers that took a bare LF for an end of line let one message
        be smuggled in within another (CVE-2023-51764).
        """
        message, size, at_start = [], 0, True
        while True:
            line = self.rfile.readline(LONGEST_LINE + 1)
            if not line:
                raise EOFError
            if at_start and line == b".\r\n":
                return b"".join(message) if size <= LARGEST else None
            if at_start and line.startswith(b"."):
                line = line[1:]  # the client has put it there (RFC 5321, 4.5.2)
            size += len(line)
            if size <= LARGEST:
                message.append(line)
            at_start = line.endswith(b"\r\n")

    def print(self, message: bytes) -> None:
        told: dict[str, Any] = {"from": self.sender, "to": self.recipients, "tls": bool(self.request.tls)}
        told |= {"hello": self.hello, "size": len(message), "text": message.decode("utf-8", "backslashreplace")}
        sys.stdout.write(json.dumps(told) + "\n")  # in one piece, whoever else writes
        sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # says where it listens
    jackfield.serve(Sink, *(sys.argv[1:] or ["9925"]), graceful_timeout=1)
