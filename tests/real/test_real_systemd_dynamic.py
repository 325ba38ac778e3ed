"""The units of ``jackfield init systemd`` as they are, with the user that systemd makes for them (``DynamicUser=``).

That is for the system's manager: one runs here as process 1 of namespaces of its own, as in a container, with no other
units than ours and the targets that these are ordered by.
"""

from __future__ import annotations

import ast
import pwd
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_real_systemd_manager import SYSTEMD, Manager, skip_unless_possible

from jackfield.cli.systemd import units_of
from ports import port_to_bind

pytestmark = pytest.mark.slow

TARGETS = ("basic", "multi-user", "network", "shutdown", "sockets", "sysinit")

#: Root's home.
HOME = pwd.getpwuid(0).pw_dir

#: A home that nobody else may enter has an interpreter in it, perhaps: there, everybody may, and that is all there is.
OPENED = f"""
mount -t tmpfs none /mnt
mkdir /mnt/kept
mount --bind {sys.base_prefix} /mnt/kept
mount -t tmpfs -o mode=755 none {HOME}
mkdir -p {sys.base_prefix}
mount --bind /mnt/kept {sys.base_prefix}
"""

FIRST = f"""
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/systemd/system
{OPENED if sys.base_prefix.startswith(f"{HOME}/") else ""}
exec {SYSTEMD} --system --unit=chat.socket
"""

TARGET = """
import os
import jackfield

class Chat(jackfield.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line == b"who\\n":
                status = dict(l.split(":\\t") for l in open("/proc/self/status").read().splitlines() if ":\\t" in l)
                try:
                    open("x", "w")
                    wrote = True
                except OSError:
                    wrote = False
                said = os.getuid(), os.getgid(), os.getgroups(), status["CapBnd"], status["NoNewPrivs"], wrote
                self.wfile.write(repr(said).encode() + b"\\n")
            else:
                self.wfile.write(line.upper())
"""


class SystemManager(Manager):
    first = FIRST
    scope = ()
    environment = {"container": "jackfield"}  # it leaves the machine's affairs alone
    more_units = ""


@pytest.fixture
def folder() -> Iterator[Path]:
    skip_unless_possible()
    with tempfile.TemporaryDirectory(prefix="jackfield-") as name:
        Path(name).chmod(0o755)  # the user that is made reads the program
        yield Path(name)


@pytest.mark.parametrize("words", [["-k", "green"], ["-k", "thread", "-w", "2"]], ids=" ".join)
def test_it_serves_as_a_user_that_there_was_not(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "chat.py").write_text(TARGET)
    monkeypatch.chdir(folder)
    with port_to_bind() as port:
        units = units_of(["chat:Chat", *words, "-b", f"127.0.0.1:{port}"], name="chat")
        assert "DynamicUser=yes\n" in units["chat.service"]
        targets = {f"{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in TARGETS}
        systemd = SystemManager(folder, f"127.0.0.1:{port}", {**units, **targets})
        try:
            assert systemd.is_served(), systemd.control("status", "chat.service", check=False)
            systemd.wait_for("ActiveState", "active")
            with systemd.connect() as client:
                client.sendall(b"who\n")
                uid, gid, groups, bounding, no_new, wrote = ast.literal_eval(client.recv(1000).decode())
            assert 61184 <= uid <= 65519 and gid == uid, "systemd.exec(5), DynamicUser="
            with pytest.raises(KeyError):
                pwd.getpwuid(uid)
            assert groups in ([], [gid]) and int(bounding, 16) == 0 and no_new == "1" and not wrote
            pid = systemd.shown("MainPID")
            systemd.control("restart", "chat.service")
            assert systemd.is_served()
            assert systemd.shown("MainPID") != pid
            systemd.control("stop", "chat.service")
            assert (systemd.shown("Result"), systemd.shown("ExecMainStatus")) == ("success", "0")
        finally:
            systemd.close()
