"""The rows of the table: what is done to a server, what is set for that, and what it must hold to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from . import connecting, datagrams, handshakes, listening, logs, shortage, slowness
from .arena import Arena, Found

NATIVE = ("thread", "green", "async")
#: Libraries that are measured where they are installed, and the standard library.
OTHERS = ("stdlib-threading", "asyncio-streams", "gevent")
EVERYBODY = (*NATIVE, "dropin-threading", *OTHERS)
#: In rows that take long, so that all of them have the time.
FEWER = (*NATIVE, "stdlib-threading", "asyncio-streams")

#: The honest client may wait so many times as long as without the attack, but is not asked for less than this.
TIMES_ALONE = 3.0
LEAST_MS = 20.0

#: What is said first where it has waited longer.
HONEST_WAIT = "honest p99"


@dataclass(frozen=True)
class Bar:
    """What a figure must hold to. ``value`` by the server's name where not all have the same; a server that is not in
    there, or that has no such figure, is not judged by it."""

    figure: str
    sign: Literal["≤", "≥", "="]
    value: float | Mapping[str, float]
    unit: str = ""

    def for_server(self, name: str) -> float | None:
        return self.value.get(name) if isinstance(self.value, Mapping) else self.value

    def missed(self, found: Found, name: str) -> str | None:
        """How it is missed, in words; None if it holds or does not apply."""
        bar = self.for_server(name)
        if bar is None or self.figure not in found:
            return None
        value = found[self.figure]
        if value is not None and {"≤": value <= bar, "≥": value >= bar, "=": value == bar}[self.sign]:
            return None
        opposite = {"≤": ">", "≥": "<", "=": "≠"}[self.sign]
        said = "never" if value is None else number(value)
        return f"{word(self.figure)} {said} {opposite} {number(bar)}{self.unit and ' '}{self.unit}"


#: What a figure is called, where it is not its own name.
WORDS = {
    "survivors": "still there", "gone_s": "gone after", "last_s": "last answer after", "kib_each": "memory each",
    "growth_kib_each": "growth each", "queue_kib_each": "kernel's queue each", "sent_mib": "sent",
    "growth_mib": "growth", "log_in_attack": "log", "cpu_percent": "CPU", "back_s": "back after",
    "fds_back_s": "descriptors back after", "next_s": "the next one told after", "exit_s": "ended after SIGTERM in",
    "calls_per_second": "failing calls a second", "span_s": "27 in", "lost_clients": "clients lost",
    "per_second": "a second", "silent_s": "silent ones gone after", "good_refused": "right headers refused",
    "noticed_s": "noticed after", "promises_broken": "promises broken", "controls": "control characters",
    "answered_percent": "answered", "turned_away": "turned away", "kernel_drops": "dropped by the kernel",
    "admit_us": "to admit one", "leave_us": "for one to leave", "networks_us": "to look up one in 10,000 networks",
    "admit_together_us": "to admit one by two workers together", "leave_together_us": "for one to leave them",
    "memory_mib": "memory", "log_lines": "lines of log", "let_down": "served and then lost",
}  # fmt: skip


def word(figure: str) -> str:
    return WORDS.get(figure, figure.replace("_", " "))


def number(value: float) -> str:
    """As many digits as tell something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"


@dataclass(frozen=True)
class Row:
    """One attack. ``attackers``: the most that are there at once, by which servers and this machine must have room.

    ``honest``: whether the client that is none of them asks during the attack, only after it, or not at all.
    ``room``: mode ``thread`` may have as many threads as there are attackers, and some more; else its own 256.
    ``namespace``: only in a network namespace of its own, with root's rights.
    ``pause``: seconds from an answer that the honest client has to its next request.
    """

    number: str
    title: str
    attack: Callable[[Arena], Found]
    bars: tuple[Bar, ...]
    servers: tuple[str, ...] = EVERYBODY
    attackers: int = 0
    limits: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["tcp", "tls", "proxy", "unix", "udp"] = "tcp"
    honest: Literal["during", "after", "none"] = "during"
    room: bool = True
    descriptors: int | None = None
    namespace: bool = False
    pause: float = 0.005
    seconds: float = 9.0

    @property
    def about(self) -> str:
        """What is done, as the attack's own docstring says it."""
        return " ".join((self.attack.__doc__ or "").split())


PROMPT = {"thread": 1.0, "green": 0.5, "async": 0.5, "dropin-threading": 1.0, **dict.fromkeys(OTHERS, 1.0)}

#: Seconds of deadlines in rows about them: the defaults (5 to 60) would only take longer to see.
SHORT = 2.0


def gone_by(seconds: float) -> tuple[Bar, ...]:
    return Bar("survivors", "=", 0), Bar("gone_s", "≤", seconds, "s")


ROWS = (
    Row("1", "1,000 connect in one instant", connecting.burst,
        (Bar("unanswered", "=", 0), Bar("last_s", "≤", PROMPT, "s")), attackers=1000, honest="after", room=False),
    Row("2", "200 connect to a server with 64 descriptors", shortage.descriptors,
        (Bar("cpu_percent", "≤", 5, "%"), Bar("served", "≥", 30), Bar("let_down", "=", 0), Bar("back_s", "≤", 0.3, "s"),
         Bar("log_in_attack", "≤", 4096, "bytes")), attackers=200, honest="after", descriptors=64, seconds=14.0),
    Row("2b", "200 whose handlers take 256 descriptors", shortage.descriptors_of_handlers,
        (Bar("cpu_percent", "≤", 5, "%"), Bar("served", "≥", 30), Bar("let_down", "=", 0), Bar("back_s", "≤", 0.3, "s"),
         Bar("log_in_attack", "≤", 4096, "bytes")), attackers=200, honest="after", descriptors=256, seconds=14.0),
    Row("3", "accept fails: EMFILE, then ENOMEM", shortage.failing_accept,
        (Bar("calls_per_second", "≤", 15), Bar("back_s", "≤", 0.2, "s")), honest="after", seconds=16.0),
    Row("4", "accept fails 27 times: ECONNABORTED", shortage.aborted,
        (Bar("span_s", "≤", 0.05, "s"), Bar("lost_clients", "=", 0), Bar("log_lines", "=", 0)), honest="after"),
    Row("5", "500 idle connections", connecting.idle,
        (*gone_by(SHORT + 1), Bar("kib_each", "≤", {"green": 12, "async": 12, "thread": 40}, "KiB")),
        attackers=500, limits={"first_byte_timeout": SHORT}),
    Row("5b", "5,000 idle connections to a server for 1,000", connecting.fill,
        (Bar("survivors", "≤", 1000),), servers=FEWER, attackers=5000,
        limits={"max_connections": 1000, "exempt": []}, seconds=14.0),
    Row("6", "60 idle connections to forked children", connecting.forked_idle,
        (Bar("next_s", "≤", 2, "s"), Bar("exit_s", "≤", SHORT + 0.5, "s"), Bar("processes", "≤", 42)),
        servers=("process", "dropin-forking", "stdlib-forking"), attackers=60, honest="none",
        options={"graceful_timeout": SHORT}),
    Row("7", "2,000 slow-drip connections", slowness.drip, gone_by(SHORT + 1), attackers=2000,
        limits={"message_timeout": SHORT}),
    Row("8", "20 ask for 1 GiB and never read", slowness.never_reads,
        (*gone_by(SHORT + 1), Bar("growth_kib_each", "≤", 64, "KiB"), Bar("queue_kib_each", "≤", 512, "KiB")),
        attackers=20, limits={"send_timeout": SHORT}),
    Row("9", "a line of 1 GiB", slowness.endless_line,
        (Bar("survivors", "=", 0), Bar("sent_mib", "≤", 9, "MiB"), Bar("growth_mib", "≤", 1, "MiB"))),
    Row("10", "900 go away rudely", connecting.resets,
        (Bar("tracebacks", "=", 0), Bar("log_bytes", "≤", 2048, "bytes"), Bar("fds_back_s", "≤", 1, "s")),
        attackers=900, room=False, seconds=12.0),
    Row("11", "20 vanish without a word", slowness.vanish, gone_by(20),
        limits={"idle_timeout": SHORT, "first_byte_timeout": SHORT, "send_timeout": SHORT}, namespace=True),
    Row("12", "100 close their half first", connecting.half_close, (Bar("wrong", "=", 0),)),
    Row("13", "20 send and read seven bytes at a time", connecting.small_pieces, (Bar("wrong", "=", 0),)),
    Row("14", "5,000 short connections", connecting.churn,
        (Bar("failed", "=", 0), Bar("fds_back_s", "≤", 1, "s"), Bar("memory_mib", "≤", 1, "MiB"),
         Bar("per_second", "≥", {"thread": 2500, "green": 7000, "async": 7000})), room=False),
    Row("26", "300 errors full of control sequences", logs.evil,
        (Bar("controls", "=", 0), Bar("forged", "=", 0), Bar("log_in_attack", "≤", 16384, "bytes")), room=False),
    Row("28", "500 stalled TLS handshakes", handshakes.stalled_tls, (*gone_by(6), Bar("tracebacks", "=", 0)),
        servers=FEWER, attackers=500, kind="tls"),
    Row("30", "100,000 garbage PROXY headers", handshakes.proxy_garbage,
        (Bar("leaked", "=", 0), Bar("good_refused", "=", 0), Bar("silent_s", "≤", 5.5, "s"),
         Bar("tracebacks", "=", 0)), servers=NATIVE, attackers=100, kind="proxy", seconds=18.0),
    Row("31", "a Unix socket's path", listening.unix_path, (Bar("promises_broken", "=", 0),),
        servers=(*NATIVE, "dropin-threading", "stdlib-threading", "asyncio-streams"), kind="unix", honest="none",
        seconds=20.0),
    Row("32", "200,000 datagrams from 200 addresses", datagrams.flood,
        (Bar("answered_percent", "≥", {"green": 40, "async": 40}, "%"), Bar("uncounted", "=", 0)),
        attackers=200, kind="udp", honest="after"),
    Row("33", "3,000 datagrams that take a second each", datagrams.slow_handler,
        (Bar("threads", "≤", 68), Bar("growth_mib", "≤", 16, "MiB")), servers=FEWER, attackers=200, kind="udp",
        honest="after", seconds=24.0),
    Row("34", "datagrams of every size", datagrams.sizes, (Bar("shortened", "=", 0),), kind="udp"),
    Row("35", "a datagram in another server's name", datagrams.loop, (Bar("datagrams", "≤", 100),),
        kind="udp", honest="after", limits={"exempt": []}, pause=0.02, namespace=True),
    Row("37", "the listener is shut down from outside", listening.lost_listener, (Bar("noticed_s", "≤", 1, "s"),),
        honest="none"),
)  # fmt: skip

#: The one that has no server: see addresses.py.
TABLE_ROW = "A"
TABLE_TITLE = "1,000,000 addresses, each of which breaks a rule"
TABLE_BARS = (
    Bar("memory_mib", "≤", 64, "MiB"), Bar("remembered", "≤", 4 * 65_536), Bar("admit_us", "≤", 1, "µs"),
    Bar("leave_us", "≤", 1, "µs"), Bar("networks_us", "≤", 2, "µs"),
)  # fmt: skip


def to_hold(bars: tuple[Bar, ...], honest: str) -> str:
    """What a row asks for, in words."""
    said = []
    for bar in bars:
        unit = bar.unit and f" {bar.unit}"
        if isinstance(bar.value, Mapping):
            names: dict[float, list[str]] = {}
            for name, value in bar.value.items():
                names.setdefault(value, []).append(name)
            values = ", ".join(f"{number(value)}{unit} ({', '.join(which)})" for value, which in names.items())
        else:
            values = f"{number(bar.value)}{unit}"
        said.append(f"{word(bar.figure)} {bar.sign} {values}")
    if honest != "none":
        said.append(f"of the honest client {honest} it no request lost, and p99 ≤ 3 × that alone, or 20 ms")
    return "; ".join(said)


def judged(bars: tuple[Bar, ...], found: Found, name: str) -> list[str]:
    """What a server has missed; none if it has held."""
    return [text for bar in bars if (text := bar.missed(found, name))]


def judged_honest(alone: Mapping[str, Any] | None, attacked: Mapping[str, Any] | None) -> list[str]:
    """What the honest client has missed: no request may be lost, and its p99 may be three times as long as alone."""
    if alone is None or attacked is None:
        return []
    missed = []
    if attacked["lost"]:
        missed.append(f"{number(attacked['lost'])} honest requests lost")
    allowed = max(TIMES_ALONE * (alone["p99_ms"] or 0.0), LEAST_MS)
    if attacked["p99_ms"] is None or attacked["p99_ms"] > allowed:
        said = "none answered" if attacked["p99_ms"] is None else f"{number(attacked['p99_ms'])} ms"
        missed.append(f"{HONEST_WAIT} {said} > {number(allowed)} ms")
    return missed
