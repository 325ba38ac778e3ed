"""A judge from outside, sslyze: what a native TLS listener offers with its defaults, and what it is not open to."""

from __future__ import annotations

import importlib.util
import json
import shutil
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from real_support import SECONDS

import jackfield
from jackfield.tls import TLS, ServerTLS, self_signed

#: Some hundreds of handshakes; a machine that is busy with other things has time for them.
PATIENCE = 6 * SECONDS

SCANS = [
    "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--heartbleed", "--openssl_ccs", "--robot",
    "--reneg", "--compression", "--early_data", "--fallback", "--ems",
]  # fmt: skip

OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
NEW = ("tls_1_2", "tls_1_3")

#: What else is asked, and the answer that is right.
QUESTIONS = {
    ("heartbleed", "is_vulnerable_to_heartbleed"): False,
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"): False,
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"): False,
    ("session_renegotiation", "supports_secure_renegotiation"): True,
    ("tls_compression", "supports_compression"): False,
    ("tls_1_3_early_data", "supports_early_data"): False,
    ("tls_fallback_scsv", "supports_fallback_scsv"): True,
    ("tls_extended_master_secret", "supports_ems_extension"): True,
    ("robot", "robot_result"): "NOT_VULNERABLE_RSA_NOT_SUPPORTED",
}


class Upper(jackfield.BaseRequestHandler[Any]):
    def handle(self) -> None:
        while data := self.request.recv(1000):
            self.request.sendall(data.upper())


@pytest.fixture(scope="module")
def sslyze() -> list[str]:
    """The command."""
    path = shutil.which("sslyze")
    if path is not None:
        return [path]
    if importlib.util.find_spec("sslyze") is None:
        pytest.skip("no sslyze on this machine: pip install sslyze, in an environment of its own that is on PATH")
    return [sys.executable, "-m", "sslyze"]


@pytest.fixture(scope="module")
def signed_pair(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    """A certificate with an RSA key, signed by an authority: what most servers have, and ROBOT is about."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine, to sign a certificate with")
    folder = tmp_path_factory.mktemp("sslyze")

    def make(name: str, *more: str) -> None:
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.pem", *more]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=SECONDS)

    make("authority")
    make("localhost", "-CA", "authority.pem", "-CAkey", "authority.key", "-addext", "subjectAltName=DNS:localhost")
    return TLS(folder / "localhost.pem", folder / "localhost.key")


def judged(
    sslyze: list[str], tls: TLS | ServerTLS | None, mode: str, folder: Path, handler: Any = Upper, *more: str
) -> dict[str, Any]:
    """What sslyze says of a server, in its own words."""
    told = folder / "told.json"
    with jackfield.Server(handler, "tcp://127.0.0.1:0", mode=mode, tls=tls) as server:
        target = f"localhost:{server.server_address[1]}"
        command = [*sslyze, "--quiet", "--mozilla_config=disable", f"--json_out={told}", *more, *SCANS, target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert told.exists(), done.stderr
        assert server.info().handler_errors == 0 and server.info().refusals == {}
    [result] = json.loads(told.read_text())["server_scan_results"]
    assert result["scan_status"] == "COMPLETED", result["connectivity_error_trace"]
    return {name: scan["result"] for name, scan in result["scan_result"].items() if scan["status"] == "COMPLETED"}


def faults_of(said: dict[str, Any]) -> list[str]:
    """Everything in it that should not be."""
    faults = [f"speaks {version}" for version in OLD if said[f"{version}_cipher_suites"]["accepted_cipher_suites"]]
    for version in NEW:
        accepted = [suite["cipher_suite"] for suite in said[f"{version}_cipher_suites"]["accepted_cipher_suites"]]
        if not accepted:
            faults.append(f"does not speak {version}")
        for suite in accepted:
            name = suite["name"]
            secret = version == "tls_1_3" or name.startswith("TLS_ECDHE_")
            sound = "_GCM_" in name or "_CHACHA20_POLY1305_" in name
            if not (secret and sound) or suite["is_anonymous"] or suite["key_size"] < 128:
                faults.append(f"takes {name}")
    for (scan, question), right in QUESTIONS.items():
        if said[scan][question] != right:
            faults.append(f"{question} is {said[scan][question]}")
    return faults


@pytest.mark.parametrize("mode", ["thread", "green"])
@pytest.mark.parametrize("pair", ["self-signed", "signed"])
def test_the_judge_finds_nothing(pair: str, mode: str, sslyze: list[str], signed_pair: TLS, tmp_path: Path) -> None:
    tls = self_signed() if pair == "self-signed" else signed_pair
    assert faults_of(judged(sslyze, tls, mode, tmp_path)) == []


@pytest.mark.parametrize("mode", ["thread", "green"])
def test_the_judge_finds_nothing_behind_starttls(
    mode: str, sslyze: list[str], signed_pair: TLS, tmp_path: Path
) -> None:
    """By the first words of SMTP (RFC 3207), in which each of its handshakes begins."""
    served = ServerTLS(signed_pair)

    class Mail(jackfield.StreamRequestHandler[Any]):
        def handle(self) -> None:
            self.wfile.write(b"220 localhost ESMTP\r\n")
            for line in self.rfile:
                if line.upper() == b"STARTTLS\r\n" and self.request.tls is None:
                    self.wfile.write(b"220 go on\r\n")
                    self.start_tls(served)
                elif line.upper().startswith(b"EHLO"):
                    self.wfile.write(b"250-localhost\r\n250 STARTTLS\r\n")
                else:
                    self.wfile.write(b"502 not here\r\n")

    assert faults_of(judged(sslyze, None, mode, tmp_path, Mail, "--starttls=smtp")) == []


def test_the_judge_finds_what_is_there(sslyze: list[str], signed_pair: TLS, tmp_path: Path) -> None:
    """The broken case: a server whose settings are those of twenty years ago."""

    class Weak(ServerTLS):
        def choose(self, hello: Any) -> ssl.SSLContext:
            return context

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES:@SECLEVEL=0")
    context.load_cert_chain(signed_pair.cert, signed_pair.key)
    faults = faults_of(judged(sslyze, Weak(signed_pair), "thread", tmp_path))
    assert "takes TLS_RSA_WITH_AES_128_CBC_SHA" in faults
    assert "does not speak tls_1_3" in faults
    assert "speaks tls_1_0" in faults and "speaks ssl_3_0" not in faults
    assert "robot_result is NOT_VULNERABLE_NO_ORACLE" in faults
