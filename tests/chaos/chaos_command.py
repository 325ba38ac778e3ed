"""``jackfield serve -w`` in a process of its own, as the chaos tests need it: told by signals, seen from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos_clients import SOON, until

HERE = Path(__file__).parent

#: Seconds that the program may take to start, to reload and to stop, on a machine that is busy with other things.
LONG = 30.0

#: What all workers let in together: so many that there is never pressure, as under that idle clients have five seconds
#: only (Limits.pressure), and a step on a busy machine may take longer.
ROOM = 12

#: ESTABLISHED and CLOSE_WAIT, as proc_pid_net(5) has them.
_OPEN = frozenset({"01", "08"})


def children(pid: int) -> list[int]:
    """Those that run."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(word) for word in found if state(int(word)) != "Z"]
    return []


def state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def accepted(port: int) -> int:
    """Connections that some process has accepted at that port and not closed: one that nobody has accepted yet has no
    inode (proc_pid_net(5))."""
    count = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        count += int(fields[1].rpartition(":")[2], 16) == port and fields[3] in _OPEN and fields[9] != "0"
    return count


class Command:
    """Ready when the constructor returns; ``options`` are added."""

    def __init__(self, mode: str, handler: str, workers: int, *options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jackfield-chaos-")
        self.list = Path(self._folder.name, "denied")
        self.list.write_text("# nobody\n")
        self._log = Path(self._folder.name, "log")
        command = [
            sys.executable, "-m", "jackfield", "serve", f"chaos_handlers:{handler}", "--app-dir", str(HERE),
            "-k", mode, "-w", str(workers), "-b", "127.0.0.1:0", "-v", "--deny-file", str(self.list),
            "--max-connections", str(ROOM), "--when-full", "wait", "--idle-timeout", "0",
            "--first-byte-timeout", "0", "--message-timeout", "0", *options,
        ]  # fmt: skip
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=HERE
            )
        try:
            until(lambda: "Ready in" in self.log or self.process.poll() is not None, lambda: self.log, LONG)
            found = re.search(r"tcp://127\.0\.0\.1:(\d+)", self.log)
            assert found is not None, self.log
        except BaseException:
            self.end_all()
            raise
        self.port = int(found[1])
        self._reloads = 0
        self.own_descriptors = self.descriptors()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        return children(self.process.pid)

    def descriptors(self) -> int:
        """Of the supervisor."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def reload(self) -> None:
        self._reloads += 1
        self.send(signal.SIGHUP)
        until(lambda: self.log.count("the reload is done") >= self._reloads, lambda: self.log, LONG)

    def kill(self, pid: int) -> None:
        """One of its workers, and wait until it is reaped."""
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), lambda: f"{pid} is not reaped: {self.log}", SOON)

    def session(self) -> list[int]:
        """All that it has started and that runs."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split() if name.isdigit() else []
                if fields and int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append(int(name))
        return found

    def end(self) -> int:
        self.send(signal.SIGTERM)
        return self.process.wait(LONG)

    def end_all(self) -> None:
        """Nothing of it stays, whatever has become of it."""
        for pid in self.session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(LONG)
        until(lambda: not self.session(), lambda: f"these go on: {self.session()}", LONG)
        self._folder.cleanup()
