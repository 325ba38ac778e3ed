"""README and docs: every block of code runs, every link leads somewhere, and nothing that was asked for is left out."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import DOCS, Block, blocks_of

from doc_support import ENVIRONMENT, complaints
from ports import port_to_bind

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
SECONDS = 20.0
RUNNER = Path(__file__).with_name("run_page.py")
PROGRAM = f"{shlex.quote(sys.executable)} -m jackfield"
NUMBER = r"\d+(\.\d+)*"
SIGN = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[78D])|\r")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def servers_in(path: Path) -> list[Block]:
    return [block for block in blocks_of(path.read_text()) if block.serves]


def consoles_in(path: Path) -> list[Block]:
    return [block for block in blocks_of(path.read_text()) if block.language == "console"]


# -- Python ------------------------------------------------------------------------------------------------------------


def run_page(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), str(page)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=55, check=False
    )


@by_page
def test_python_blocks_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    done = run_page(page, tmp_path)
    assert complaints(done.stderr) == ""
    assert done.returncode == 0


@by_page
def test_excerpts_are_those_of_the_files(page: Path) -> None:
    for block in blocks_of(page.read_text()):
        if block.excerpt_of:
            excerpt = block.text.partition("\n")[2]
            assert excerpt in (ROOT / block.excerpt_of).read_text(), f"{page.name}:{block.line}"


@pytest.mark.parametrize(
    "server",
    [pytest.param((page, block), id=f"{page.name}:{block.line}") for page in PAGES for block in servers_in(page)],
)
def test_servers_in_the_pages_serve(server: tuple[Path, Block], tmp_path: Path) -> None:
    _, block = server
    program = tmp_path / "server.py"
    with port_to_bind() as port:
        program.write_text(block.text.replace("9999", str(port)))
        with started([sys.executable, str(program)], tmp_path) as process:
            with connected(port, process) as client:
                client.sendall(b"hello\n")
                assert client.recv(1024).strip() == b"HELLO"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=SECONDS)
            # A program that does not catch Ctrl-C ends by its exception, as every Python program does.
            last = errors.strip().splitlines()[-1:]
            assert last in ([], ["KeyboardInterrupt"]), errors


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def connected(port: int, process: subprocess.Popen[str]) -> socket.socket:
    """A connection to a program that does not say when it listens."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), SECONDS)
        except ConnectionRefusedError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "it does not listen"
            select.select([], [], [], 0.02)  # nothing tells of a port that opens


# -- the command -------------------------------------------------------------------------------------------------------


def as_run(command: str, port: int) -> str:
    """A command of the page, with this Python's jackfield and a port of its own."""
    command = re.sub(r"(\.venv/bin/)?\bjackfield (?=serve|connect|bench)", lambda _: f"{PROGRAM} ", command)
    return re.sub(r"\bmake serve\b", f"{PROGRAM} serve -b tcp://127.0.0.1:9999", command).replace("9999", str(port))


def like(text: str) -> re.Pattern[str]:
    """Any text that differs in numbers and in the amount of blanks only."""
    pieces = re.split(r"(\d[\d.]*\d|\d| +)", text)
    return re.compile("".join(NUMBER if p[:1].isdigit() else r"\s+" if p[:1] == " " else re.escape(p) for p in pieces))


def steps_of(block: Block) -> list[tuple[str, list[str]]]:
    """Each command of a console block, and the lines that follow it."""
    steps: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            assert steps, f"line {block.line}: a console block begins with a command after $"
            steps[-1][1].append(line)
    return steps


def talk_on_terminal(command: str, said: list[str]) -> None:
    """Run a command on a terminal and type what stands after the prompt; everything has to appear, in that order."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("/bin/sh", ["/bin/sh", "-c", f"exec {command}"], {**ENVIRONMENT, "TERM": "xterm"})
    screen = ""

    def wait_for(pattern: re.Pattern[str]) -> None:
        nonlocal screen
        deadline = time.monotonic() + SECONDS
        while (found := pattern.search(screen)) is None:
            assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], (pattern, screen)
            screen += SIGN.sub("", os.read(terminal, 65536).decode())
        screen = screen[found.end() :]

    try:
        for line in said:
            if line.startswith(">>> "):
                wait_for(re.compile(">>> "))
                os.write(terminal, line[4:].encode() + b"\n")
            else:
                wait_for(like(line))
        os.write(terminal, b"\x04")
        wait_for(re.compile("closed"))
    finally:
        with contextlib.suppress(OSError):
            while os.read(terminal, 65536):
                pass
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert status == 0


def check_console(page: Path, folder: Path) -> list[str]:
    """Run the commands of a page, servers staying up until the next one; returns what was run."""
    ran = []
    with port_to_bind() as port, contextlib.ExitStack() as servers:
        for block in consoles_in(page):
            for command, said in steps_of(block):
                if not re.search(r"\bmake serve\b|\bjackfield (serve|connect|bench)\b", command):
                    continue
                ran.append(command)
                real = as_run(command, port)
                if " serve" in real:
                    servers.close()
                    process = servers.enter_context(started(shlex.split(real), folder))
                    assert process.stderr is not None
                    for line in said:
                        came = process.stderr.readline().rstrip("\n")
                        assert like(line).fullmatch(came), (line, came)
                elif any(line.startswith(">>> ") for line in said):
                    talk_on_terminal(real, said)
                else:
                    done = subprocess.run(
                        ["/bin/sh", "-c", real],
                        cwd=folder,
                        env=ENVIRONMENT,
                        capture_output=True,
                        text=True,
                        timeout=SECONDS,
                        check=True,
                    )
                    came = done.stdout.splitlines()
                    if " bench " in real:  # figures are other ones each time
                        pairs = zip(came, said, strict=True)
                        came = [line if like(line).fullmatch(shown) else shown for shown, line in pairs]
                    assert came == said, (command, done)
    return ran


@by_page
def test_commands_do_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    ran = check_console(page, tmp_path)
    if page.name == "README.md":
        assert len(ran) == 5


def test_the_readme_leads_with_two_commands_that_there_are() -> None:
    commands = [command for block in consoles_in(ROOT / "README.md") for command, _ in steps_of(block)]
    makes = [command for command in commands if command.startswith("make ")]
    assert makes == ["make serve", "make test"] == [commands[0], commands[2]]
    makefile = (ROOT / "Makefile").read_text()
    for command in makes:
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)
    # What `make serve` runs, and where the README has its client connect to.
    assert re.search(r"^serve:.*\n\t.*jackfield serve .*tcp://127\.0\.0\.1:9999", makefile, re.MULTILINE)


# -- links -------------------------------------------------------------------------------------------------------------


def anchors_of(page: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    text = page.read_text()
    dead = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file.read_text())):
            dead.append(target)
    return dead


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_every_page_and_example_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"(docs/{page.name})" in readme


# -- what was asked for ------------------------------------------------------------------------------------------------

#: Each thing that the tutorial has to explain, and a pattern that its running code has to contain.
IN_CODE = {
    "AF_UNIX": r"socket\.AF_UNIX",
    "AF_INET": r"socket\.AF_INET\b",
    "SOCK_STREAM": r"socket\.SOCK_STREAM",
    "SOCK_DGRAM": r"socket\.SOCK_DGRAM",
    "SOCK_RAW": r"socket\.SOCK_RAW, socket\.IPPROTO_ICMP",
    "hand-made IP headers": r"IP_HDRINCL",
    "SOCK_RDM": r"socket\.SOCK_RDM",
    "SOCK_SEQPACKET": r"socket\.SOCK_SEQPACKET",
    "proto": r"socket\.SOCK_STREAM, socket\.IPPROTO_TCP",
    "fileno, the argument": r"socket\.socket\(fileno=",
    "socketpair between green threads": r"socketpair\(\)\n.*\n?.*jackfield\.spawn",
    "socketpair between processes": r"socketpair\(\)\nchild = subprocess\.Popen\(",
    "create_connection": r"def create_connection\((.*\n)*?.*getaddrinfo(.*\n)*?.*\.connect\(",
    "getaddrinfo": r"spawn\(socket\.getaddrinfo",
    "bind": r"\.bind\(",
    "listen": r"\.listen\(\)",
    "the backlog": r"backlog=5",
    "setblocking": r"\.setblocking\(False\)",
    "many at once in a single thread": r"selectors\.DefaultSelector\(\)",
    "accept": r"\.accept\(\)",
    "connect": r"client\.connect\(address\)",
    "connect_ex": r"\.connect_ex\(",
    "close": r"client\.close\(\)",
    "recv": r"\.recv\(1024\)",
    "recvfrom": r"\.recvfrom\(",
    "send": r"taken = near\.send\(",
    "sendall": r"\.sendall\(",
    "sendall tells how much": r"bytes_sent",
    "sendto": r"\.sendto\(",
    "settimeout": r"\.settimeout\(",
    "getpeername": r"\.getpeername\(\)",
    "getsockname": r"\.getsockname\(\)",
    "fileno, the method": r"\.fileno\(\)",
    "sendfile": r"sock\.sendfile\(file\)",
    "recvfile": r"sock\.recvfile\(file\)",
    "the five classes": r"UnixStreamServer, socketserver\.UDPServer, socketserver\.UnixDatagramServer",
    "bind_and_activate": r"bind_and_activate=False",
    "a composed class of one's own": r"socketserver\.ThreadingMixIn, socketserver\.TCPServer\)",
    "setup, handle, finish": r"def setup(.*\n)*?.*def handle(.*\n)*?.*def finish",
    "request": r"self\.request\.",
    "client_address": r"self\.client_address",
    "server": r"self\.server\.",
    "the example server": r"# examples/notes_server\.py",
    "the example client": r"# examples/notes_client\.py",
    "how many threads": r"max_threads = ",
    "a green server": r"socketserver\.GreenTCPServer\(",
    "handle_request": r"server\.handle_request\(\)",
    "serve_forever": r"serve_forever",
}

IN_PROSE = {
    "AF_INET6": r"`AF_INET6`",
    "IGMP": r"ICMP, IGMP",
    "flood attacks": r"## Floods",
    "the backlog cannot be infinite": r"cannot be infinite",
    "who calls whom: connect, create_connection": r"the other way round",
    "the servers are synchronous": r"synchronous: one request at a time",
    "ForkingMixIn": r"`ForkingMixIn` \| a process",
    "the composed classes": r"`ForkingTCPServer`, `ForkingUDPServer`",
    "as many as the system allows": r"As many as the operating system allows",
}


def left_out(page: str) -> list[str]:
    code = "\n".join(block.text for block in blocks_of(page) if block.language == "python")
    missing = [item for item, pattern in IN_CODE.items() if not re.search(pattern, code)]
    return missing + [item for item, pattern in IN_PROSE.items() if not re.search(pattern, page)]


def test_the_tutorial_leaves_nothing_out() -> None:
    assert left_out((DOCS / "tutorial.md").read_text()) == []


# -- and each of these can fail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\nprint(1)\n```\n", "printed"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "is to print"),
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```\n", "page.md:5: this block raised"),
        ("```python\nimport os, socket\nsocket.socket()\n```\n", "ResourceWarning"),
    ],
)
def test_a_block_that_is_wrong_is_found_out(page: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    assert complaint in run_page(path, tmp_path).stderr


@pytest.mark.parametrize("page", ["```\nx\n```\n", "```py\nx\n```\n", "```python\nx\n"])
def test_a_block_in_no_language_or_without_end_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        blocks_of(page)


def test_output_belongs_to_the_block_it_follows_directly() -> None:
    code, text = "```python\nprint(1)\n```\n", "```text\n1\n```\n"
    assert blocks_of(f"{code}\n{text}")[0].output == "1\n"
    assert blocks_of(f"{code}\nSomething else.\n\n{text}")[0].output is None


def test_a_command_that_says_something_else_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    banner = "jackfield 9.9.9  upper-case echo  {}  Python 3.13.0"
    server = f"```console\n$ jackfield serve -b 127.0.0.1:9999\n{banner}\n```\n"
    client = "```console\n$ echo hello | jackfield connect 127.0.0.1:9999\n{}\n```\n"
    page.write_text(server.format("green") + client.format("HELLO"))
    assert len(check_console(page, tmp_path)) == 2
    page.write_text(server.format("thread"))
    with pytest.raises(AssertionError, match="thread"):
        check_console(page, tmp_path)
    page.write_text(server.format("green") + client.format("hello"))
    with pytest.raises(AssertionError, match="HELLO"):
        check_console(page, tmp_path)


def test_a_load_test_that_says_something_else_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    banner = "jackfield 9.9.9  upper-case echo  green  Python 3.13.0"
    server = f"```console\n$ jackfield serve -b 127.0.0.1:9999\n{banner}\n```\n"
    load = "```console\n$ jackfield bench 127.0.0.1:9999 -n 9 -q --fail-if 'errors>0' | grep {}\n  {}\n```\n"
    page.write_text(server + load.format("errors", "errors      none"))
    assert len(check_console(page, tmp_path)) == 2
    page.write_text(server + load.format("errors", "errors      7 wrong replies"))
    with pytest.raises(AssertionError, match="none"):
        check_console(page, tmp_path)


def test_a_dead_link_and_a_missing_item_are_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#two) [c](gone.md) [d](https://example.org)\n")
    assert dead_links(page) == ["#two", "gone.md"]
    assert "setblocking" in left_out((DOCS / "tutorial.md").read_text().replace(".setblocking(False)", ""))
