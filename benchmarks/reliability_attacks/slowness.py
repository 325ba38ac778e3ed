"""Attacks by slowness: bytes one by one, answers that nobody reads, lines without an end, peers that vanish."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from processes import Unable, memory

from .arena import Arena, Found
from .crowd import Crowd

MIB = 1 << 20

#: An endless line is no longer fed when the server has grown by so many bytes: it is plain then, and the machine is
#: others' as well.
GROWN_ENOUGH = 256 * MIB


def drip(arena: Arena) -> Found:
    """Each sends a byte every half second and never ends its line. No timeout of a single recv() ever fires."""
    count, patience = arena.many(2000), arena.limit("message_timeout")
    with Crowd(arena.target.address) as crowd:
        made = crowd.connect(count, 5.0, b"x")
        began = time.monotonic()
        gone = None
        while gone is None and time.monotonic() - began < min(patience + 1.5, arena.left):
            pause = time.monotonic() + 0.5
            crowd.say(b"x")
            while crowd and time.monotonic() < pause:
                crowd.look(0.05)
            if not crowd:
                gone = time.monotonic() - began
        return {"attackers": made, "survivors": len(crowd), "gone_s": gone}


def never_reads(arena: Arena) -> Found:
    """Each asks for 1 GiB and never reads: a zero window."""
    count, patience = arena.many(20), arena.limit("send_timeout")
    before = memory(arena.target.pid)
    with Crowd(arena.target.address, reads=False) as crowd:
        made = crowd.connect(count, 3.0, b"BLOB 1073741824\n", receive_buffer=4096)
        began = time.monotonic()
        time.sleep(0.5)
        queued = unsent(arena.target.port)
        gone = None
        while gone is None and time.monotonic() - began < min(patience + 2.0, arena.left):
            if not crowd.look(0.05):
                gone = time.monotonic() - began
        survivors = len(crowd)
    made = made or 1
    return {
        "attackers": made,
        "survivors": survivors,
        "gone_s": gone,
        "growth_kib_each": max(0, arena.watch.memory - before) / 1024 / made,
        "queue_kib_each": queued / 1024 / made,
    }


def unsent(port: int) -> int:
    """Bytes in the kernel's send queues of the connections to a local port (proc_net_tcp)."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] != "0A":
            total += int(fields[4].partition(":")[0], 16)
    return total


def endless_line(arena: Arena) -> Found:
    """1 GiB without the end of the line."""
    most = min(1024, arena.most) * MIB
    before = memory(arena.target.pid)
    sent, chunk, cut = 0, b"A" * MIB, False
    with contextlib.suppress(OSError), arena.target.connect(5.0) as sock:
        cut = True
        while sent < most and arena.left:
            sent += sock.send(chunk)
            if sent % (32 * MIB) < MIB and memory(arena.target.pid) - before > GROWN_ENOUGH:
                break
        cut = False
    growth = max(arena.watch.memory, memory(arena.target.pid)) - before
    return {"attackers": 1, "survivors": int(not cut), "sent_mib": sent / MIB, "growth_mib": max(0, growth) / MIB}


# -- peers that vanish -------------------------------------------------------------------------------------------------

#: Addresses of the peers, which are on this machine as long as they are there (RFC 5737).
PEERS = [f"198.51.100.{number}" for number in range(1, 5)]


def vanish(arena: Arena) -> Found:
    """Half of the peers say nothing, half are being sent a long answer, when their network is cut: neither FIN nor RST
    ever comes. Only in a network namespace of this row's own."""
    for peer in PEERS:
        with contextlib.suppress(Unable):
            _ip("route", "del", "blackhole", f"{peer}/32")  # of the server before
        _ip("address", "add", f"{peer}/32", "dev", "lo")
    count = arena.many(10)
    port = arena.target.port
    with Crowd(arena.target.address, PEERS) as quiet, Crowd(arena.target.address, PEERS, reads=False) as reading:
        quiet.connect(count, 3.0)
        reading.connect(count, 3.0, b"BLOB 1073741824\n", receive_buffer=4096)
        time.sleep(0.3)
        for peer in PEERS:
            _ip("address", "del", f"{peer}/32", "dev", "lo")
            _ip("route", "add", "blackhole", f"{peer}/32")
        began, gone = time.monotonic(), None
        while gone is None and time.monotonic() - began < min(8.0, arena.left):
            time.sleep(0.05)
            if not (left := there(port)):
                gone = time.monotonic() - began
        return {"attackers": 2 * count, "survivors": left, "gone_s": gone}


def there(port: int) -> int:
    """Connections that a server still has with those peers."""
    ends = tuple(f"{number:02X}6433C6:" for number in range(1, 5))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        fields[1].endswith(f":{port:04X}") and fields[2].startswith(ends) and fields[3] in ("01", "08")
        for fields in lines
    )


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise Unable(f"ip {' '.join(arguments)} fails here: {done.stderr.strip()}")
