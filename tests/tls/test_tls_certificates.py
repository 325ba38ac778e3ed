"""Files: what is read from them, what is said when something is wrong with one, and reading them again."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tls_support import Files, conversation

from authorities import DAY, NOW, Authority
from jackfield.errors import StartError
from jackfield.tls import TLS, ServerTLS, certificate_facts, self_signed, selfsigned


def test_the_facts_are_those_that_the_library_reads(files: Files) -> None:
    from cryptography import x509

    for path in (files.cert, files.other_cert, files.client_cert, files.ca):
        facts, theirs = certificate_facts(path.read_text()), x509.load_pem_x509_certificate(path.read_bytes())
        assert (facts.starts, facts.expires) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert certificate_facts(files.cert.read_text()).names == ("localhost", "127.0.0.1")


def test_the_common_name_counts_where_there_is_no_other(files: Files) -> None:
    cert, _ = files.authority.issue(common="Old.example")
    assert certificate_facts(cert.decode()).names == ("old.example",)


def test_a_time_beyond_2049_is_written_otherwise(files: Files) -> None:
    cert, _ = files.authority.issue("x", ends=NOW.replace(year=2063, month=1, day=1, microsecond=0))
    assert certificate_facts(cert.decode()).expires.year == 2063


@pytest.mark.parametrize(
    ("name", "covered"),
    [("other.example", True), ("a.wild.example", True), ("wild.example", False), ("a.b.wild.example", False)],
)
def test_a_star_is_one_label(files: Files, name: str, covered: bool) -> None:
    assert certificate_facts(files.other_cert.read_text()).covers(name) is covered


def test_what_is_served_is_told(files: Files) -> None:
    served = ServerTLS(TLS(files.cert, files.key, more=((files.other_cert, files.other_key),)))
    assert served.names == ("localhost", "127.0.0.1", "other.example", "*.wild.example")
    assert served.expires == certificate_facts(files.cert.read_text()).expires
    assert repr(served).startswith("<ServerTLS of localhost, ")


# -- what is wrong with a file, in one line that says what to do -------------------------------------------------------


def said(tls: TLS) -> str:
    with pytest.raises(StartError) as caught:
        ServerTLS(tls)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file(files: Files) -> None:
    missing = files.directory / "missing.pem"
    assert said(TLS(missing)) == f"no such file: {missing}: name the right one, or make one (openssl req -x509 …)"
    assert "missing.pem" in said(TLS(files.cert, missing))
    assert "missing.pem" in said(TLS(files.cert, files.key, client_ca=missing, client_auth="required"))


def test_a_key_of_another(files: Files) -> None:
    assert "is not the one of" in said(TLS(files.cert, files.other_key))


def test_an_encrypted_key(files: Files) -> None:
    cert, key = files.pair("locked", "localhost", password=b"open sesame")
    right, wrong = files.write("right", b"open sesame\nnot this\n"), files.write("wrong", b"open wide\n")
    assert "say where its password is (password_file)" in said(TLS(cert, key))
    assert "is it the right password in" in said(TLS(cert, key, wrong))
    assert "no such file" in said(TLS(cert, key, files.directory / "nowhere"))
    assert ServerTLS(TLS(cert, key, right)).names == ("localhost",)


def test_what_is_no_pem(files: Files) -> None:
    junk = files.write("junk", b"\x30\x82\x01\x00junk")
    assert "has not a certificate in PEM" in said(TLS(junk, files.key))
    assert "has not a private key in PEM" in said(TLS(files.cert, junk))
    assert "has not a private key in PEM" in said(TLS(files.cert))
    broken = files.write("broken", b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n")
    assert "OpenSSL cannot read" in said(TLS(broken, files.key))
    assert "renew it" in said(TLS(files.cert, files.key, client_ca=broken, client_auth="optional"))


def test_a_directory(files: Files) -> None:
    assert said(TLS(files.directory)).endswith("cannot be read: Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(files: Files) -> None:
    path = files.write("forbidden", b"")
    path.chmod(0)
    assert "may not be read by this user" in said(TLS(path))


def test_no_permission_by_a_system_that_says_so(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr("builtins.open", refuse)
    assert "may not be read by this user: chgrp it" in said(TLS(files.cert))


def test_an_unknown_cipher(files: Files) -> None:
    assert "no cipher that OpenSSL knows in 'ROT13'" in said(TLS(files.cert, files.key, ciphers="ROT13"))


def test_an_expired_certificate_is_served_with_a_warning(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    expired = files.pair("expired", "localhost", starts=NOW - 9 * DAY, ends=NOW - DAY)
    early = files.pair("early", "localhost", starts=NOW + 9 * DAY, ends=NOW + 10 * DAY)
    with caplog.at_level(logging.WARNING, "jackfield.tls"):
        ServerTLS(TLS(*expired, more=(early,)))
    assert "expired on" in caplog.messages[0] and "is not valid before" in caplog.messages[1]


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"min_version": "1.1"}, "write min_version='1.2' or '1.3'"),
        ({"client_auth": "perhaps"}, "'none', 'optional' or 'required'"),
        ({"client_auth": "required"}, "add client_ca="),
        ({"client_ca": "x"}, "add client_auth="),
        ({"alpn_required": True}, "add e.g. alpn="),
        ({"alpn": "h2"}, "write alpn=('h2',)"),
        ({"alpn": ("",)}, "1 to 255 letters"),
    ],
)
def test_values_that_do_not_go_together(values: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        TLS("cert.pem", **values)
    assert advice in str(caught.value) and "\n" not in str(caught.value)


# -- the contexts ------------------------------------------------------------------------------------------------------


def test_the_settings_are_safe(files: Files) -> None:
    context = files.served.context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_NO_COMPRESSION
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names and all("GCM" in name or "CHACHA20" in name for name in names)
    assert all("ECDHE" in name or name.startswith("TLS_") for name in names)
    assert ServerTLS(TLS(files.cert, files.key, min_version="1.3")).context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_the_check_of_the_ciphers_can_fail(files: Files) -> None:
    context = ServerTLS(TLS(files.cert, files.key, ciphers="AES128-SHA")).context
    assert not all("GCM" in cipher["name"] or "CHACHA20" in cipher["name"] for cipher in context.get_ciphers())


def test_keys_are_logged_where_python_would(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.directory / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    served = ServerTLS(files.tls)
    monkeypatch.delenv("SSLKEYLOGFILE")
    with conversation(served, files.client()):
        pass
    assert "TRAFFIC_SECRET" in path.read_text()
    served.context.keylog_filename = None  # type: ignore[assignment]  # closes the file


def test_reload_serves_the_new_and_keeps_the_old(files: Files) -> None:
    cert, key = files.pair("renewed", "localhost")
    served = ServerTLS(TLS(cert, key))
    with conversation(served, files.client()) as (sock, client):
        old = client.getpeercert(True)
        files.pair("renewed", "localhost", "renewed.example")
        before = served.context
        served.reload()
        assert served.names == ("localhost", "renewed.example") and served.context is not before
        with conversation(served, files.client(), "renewed.example") as (_, second):
            assert second.getpeercert(True) != old
        client.sendall(b"still here")
        assert sock.recv(100) == b"still here"


def test_a_bad_new_certificate_keeps_the_old_one(files: Files) -> None:
    cert, key = files.pair("spoiled", "localhost")
    served = ServerTLS(TLS(cert, key))
    before = served.context
    cert.write_bytes(files.other_cert.read_bytes())
    with pytest.raises(StartError, match="is not the one of"):
        served.reload()
    assert served.context is before and served.names == ("localhost",)
    with conversation(served, files.client()) as (sock, _):
        assert sock.version() == "TLSv1.3"


# -- for development ---------------------------------------------------------------------------------------------------

AT_EXIT = """
import os, sys
from jackfield.tls import self_signed
path = self_signed().cert
assert os.stat(path).st_mode & 0o777 == 0o600, oct(os.stat(path).st_mode)
if os.fork() == 0:
    sys.exit()
os.wait()
assert os.path.exists(path)
print(path)
"""


def test_a_self_signed_one_is_private_and_gone_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert not path.exists() and not path.parent.exists()


@pytest.mark.parametrize("way", ["library", "command"])
def test_a_self_signed_one_serves(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "command":
        if selfsigned.shutil.which("openssl") is None:
            pytest.skip("no openssl on this machine: install Debian's package openssl")
        monkeypatch.setattr(selfsigned, "_by_library", lambda names: None)
    served = ServerTLS(self_signed(("localhost", "dev.example", "::1")))
    assert served.names == ("localhost", "dev.example", "::1")
    context = ssl.create_default_context(cafile=served.tls.cert)
    with conversation(served, context, "dev.example") as (sock, _):
        assert sock.server_hostname == "dev.example"


def test_without_either_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setattr(selfsigned.shutil, "which", lambda name: None)
    with pytest.raises(StartError, match=r"pip install 'jackfield\[tls\]'"):
        self_signed()


def test_the_command_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfsigned, "_by_library", lambda names: None)
    monkeypatch.setattr(selfsigned.shutil, "which", lambda name: "/bin/false")
    with pytest.raises(StartError, match="makes no certificate for localhost"):
        self_signed(("localhost",))


def test_an_authority_signs_what_a_client_checks(files: Files) -> None:
    stranger = files.pair("by nobody", "localhost", by=Authority("nobody at all"))
    with pytest.raises(ssl.SSLError), conversation(ServerTLS(TLS(*stranger)), files.client()):
        pass
