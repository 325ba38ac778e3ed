"""examples/mtls_echo.py with openssl s_client, with a certificate of the right authority, of another, and with none."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_support import EXAMPLES, SECONDS, Program, both_ways, command, needs, port_of, run, served

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca``, and ``server`` and ``ann`` of it; and ``mallory``, who has signed for himself."""
    folder = tmp_path_factory.mktemp("papers")
    openssl = needs("openssl", "openssl")

    def make(*words: str) -> None:
        command(openssl, *words, cwd=folder)

    for name in ("ca", "mallory"):
        make("req", "-x509", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name in ("server", "ann"):
        make("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        make("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-out", f"{name}.pem")  # fmt: skip
    return folder


@contextlib.contextmanager
def echo(how: str, papers: Path) -> Iterator[Program]:
    files = [str(papers / name) for name in ("server.pem", "server.key", "ca.pem")]
    if how == "python":
        with served(how, "mtls_echo:Echo", *files, "0", more=3) as it:
            yield it
    else:
        flags = zip(("--tls-cert", "--tls-key", "--tls-client-ca"), files, strict=True)
        with served(how, "mtls_echo:Echo", "127.0.0.1:0", flags=tuple(word for flag in flags for word in flag)) as it:
            yield it


def s_client(it: Program, papers: Path, who: str | None, said: bytes) -> subprocess.CompletedProcess[bytes]:
    """What openssl makes of it, which waits for the server's end."""
    words = [needs("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port_of(it)}", "-CAfile", "ca.pem"]
    words += ["-quiet", "-verify_return_error"]
    if who is not None:
        words += ["-cert", f"{who}.pem", "-key", f"{who}.key"]
    return subprocess.run(words, input=said, cwd=papers, capture_output=True, timeout=SECONDS, check=False)


@both_ways
def test_who_has_a_certificate_is_known_by_it(how: str, papers: Path) -> None:
    with echo(how, papers) as it:
        done = s_client(it, papers, "ann", b"one\ntwo\n\n")
        assert done.stdout == b"hello ann, by TLSv1.3\none\ntwo\n", done.stderr


@pytest.mark.parametrize(("who", "alert"), [(None, "certificate required"), ("mallory", "unknown ca")])
def test_who_has_none_that_counts_is_refused(who: str | None, alert: str, papers: Path) -> None:
    with echo("python", papers) as it:
        done = s_client(it, papers, who, b"one\n")
        assert done.stdout == b""
        assert re.search(f"alert {alert}", done.stderr.decode()), done.stderr
        assert s_client(it, papers, "ann", b"\n").stdout.startswith(b"hello ann")


def test_without_an_authority_nobody_is_let_in_by_mistake() -> None:
    assert run("mtls_echo.py", "cert.pem") == (1, "", "write: mtls_echo.py CERT KEY CLIENT_CA [ADDRESS]\n")
    words = [f"{EXAMPLES.parent}/none.pem"] * 3
    code, output, errors = run("mtls_echo.py", *words)
    assert code == 1 and output == "" and "none.pem" in errors
    with served("jackfield", "mtls_echo:Echo", "127.0.0.1:0") as it:
        told = command(needs("curl", "curl"), "-sS", "--max-time", "10", f"telnet://127.0.0.1:{port_of(it)}")
        assert told.stdout == b"this server was started without --tls-client-ca\n"
