"""examples/chat.py and examples/chat_async.py: names, rooms, who does not read, and a hundred at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from example_support import SECONDS, Line, both_ways, port_of, program, served

from doc_support import ENVIRONMENT

both = pytest.mark.parametrize("target", ["chat:Chat", "chat_async:AsyncChat"])
both_programs = pytest.mark.parametrize("name", ["chat.py", "chat_async.py"])


def enter(port: int, name: str) -> Line:
    member = Line(port)
    assert member.read(len("your name? ")) == "your name? "
    member.say(name)
    assert member.hear() == f"* {name} is here"
    return member


@both_programs
def test_chat(name: str) -> None:
    with program(name, "0") as server:
        port = server.port()
        with enter(port, "ann") as ann:
            with enter(port, "bob") as bob:
                assert ann.hear() == "* bob is here"
                ann.say("good morning")
                assert bob.hear() == "ann: good morning"
                with Line(port) as other:
                    other.say("bob")
                    assert other.hear() == "your name? that name is taken, or is none"
                    assert other.hear() == ""
                bob.say("and to you")
                assert ann.hear() == "bob: and to you"
            assert ann.hear() == "* bob has left"
        assert server.finish() == (0, "", "")


@both_programs
def test_chat_puts_out_who_does_not_read(name: str) -> None:
    with program(name, "0") as server:
        port = server.port()
        with enter(port, "deaf") as deaf, enter(port, "ann") as ann, enter(port, "bob") as bob:
            assert ann.hear() == "* bob is here"
            # Bob reads what Ann writes, so that her lines come one by one: only the deaf one's pile up, first in the
            # kernel's buffers and then in the room.
            for _ in range(20_000):
                ann.say("x" * 900)
                if (heard := bob.hear()) == "* deaf has left":
                    break
                assert heard == "ann: " + "x" * 900
            assert ann.hear() == "* deaf has left"
            deaf.close()
        assert server.finish()[0] == 0


@both_ways
@both
def test_rooms_are_apart(how: str, target: str) -> None:
    with served(how, target, "127.0.0.1:0", mode="async" if "async" in target else "green") as server:
        port = port_of(server)
        with enter(port, "ann") as ann, enter(port, "bob") as bob:
            assert ann.hear() == "* bob is here"
            bob.say("/join garden")
            assert ann.hear() == "* bob has left"
            assert bob.hear() == "* bob is here"
            ann.say("is anybody there?")
            bob.say("how quiet it is")
            ann.say("/join garden")
            for member in (ann, bob):  # and nothing of what was said in the other room
                assert member.hear() == "* ann is here"
            bob.say("/join " + "x" * 31)  # which is no name, and so is said
            assert ann.hear() == "bob: /join " + "x" * 31


@both_programs
def test_a_hundred_hear_each_other(name: str) -> None:
    with program(name, "0") as server, contextlib.ExitStack() as stack:
        port = server.port()
        members = [stack.enter_context(enter(port, f"m{number}")) for number in range(100)]
        for number, member in enumerate(members):
            for other in range(number + 1, 100):
                assert member.hear() == f"* m{other} is here"
        for number in (0, 50, 99):
            members[number].say(f"from {number}")
            for other, member in enumerate(members):
                assert other == number or member.hear() == f"m{number}: from {number}"


@contextlib.contextmanager
def terminal(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A member who has come by the command, as the docstring says, from a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jackfield", "connect", f"127.0.0.1:{port}"],
        env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def test_the_command_is_a_client() -> None:
    with program("chat.py", "0") as server:
        port = server.port()
        with enter(port, "ann") as ann, terminal(port) as bob:
            assert bob.stdin is not None and bob.stdout is not None
            bob.stdin.write(b"bob\nhello\n")
            bob.stdin.flush()
            assert (ann.hear(), ann.hear()) == ("* bob is here", "bob: hello")
            ann.say("and to you")
            assert bob.stdout.readline() == b"your name? * bob is here\n"
            assert bob.stdout.readline() == b"ann: and to you\n"
