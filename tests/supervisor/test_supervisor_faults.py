"""Workers that die, hang, leak, or never begin, and a supervisor that dies: who is served meanwhile, what follows."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from supervised import MODES, Supervised, children, cpu_seconds, descriptors, session, state, until

from jackfield.supervisor.policy import BURST

pytestmark = pytest.mark.slow

# -- a worker that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_only_the_connections_of_a_worker_that_is_killed_break(number: int, tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=3) as program, program.clients(60) as clients:
        of = {client: int(client.ask("pid") or 0) for client in clients}
        victim = of[clients[0]]
        os.kill(victim, number)
        name = signal.Signals(number).name
        program.logged(rf"worker \d \(process {victim}\) died after .* by {name}\b")
        until(lambda: len(program.workers) == 3 and victim not in program.workers, "there are three again")
        for client, pid in of.items():
            if pid == victim:
                assert client.hear() is None
            else:
                assert client.ask("pid") == str(pid)
        assert program.ask("say on") == "on"
        assert not [pid for pid in children(program.pid) if state(pid) == "Z"]
        assert program.end() == 0


def test_nobody_is_refused_while_the_only_worker_is_replaced(tmp_path: Path) -> None:
    with Supervised(tmp_path, "green", workers=1) as program:
        for _ in range(5):
            victim = int(program.ask("pid") or 0)
            os.kill(victim, signal.SIGKILL)
            assert program.ask("say on") == "on"  # it waits in the queue until there is another
        assert program.end() == 0


def test_deaths_of_workers_that_had_a_client_end_nobody(tmp_path: Path) -> None:
    """What was of use is no reason to give up: eight deaths of the only worker, within few seconds, end nobody."""
    with Supervised(tmp_path, "thread", workers=1) as program:
        for _ in range(8):
            # A list of children may miss one while another goes (proc(5)).
            victim = until(lambda: program.workers, "one is there")[0]
            until(lambda pid=victim: time.monotonic() - _since(pid) > 0.4, "its first sign of life")  # type: ignore[misc]
            assert program.ask("pid") == str(victim)
            until(lambda pid=victim: time.monotonic() - _since(pid) > 1.2, "it has shown it")  # type: ignore[misc]
            os.kill(victim, signal.SIGKILL)
            program.until_replaced(victim)
        assert "Giving up" not in program.log and program.log.count(" died after ") == 8, program.log
        assert program.ask("say on") == "on"
        assert program.end() == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_a_client_that_ends_each_worker_it_comes_to_does_not_have_it_fork_without_end(
    workers: int, tmp_path: Path
) -> None:
    """It comes again at once. Ten forks in four seconds at most, those of the start among them, as where none can live;
    the first of them without a pause; and nobody gives up."""
    with Supervised(tmp_path, "thread", workers=workers) as program:
        began, first = time.monotonic(), cpu_seconds(program.pid)
        seen: set[int] = set()
        deaths = 0
        while time.monotonic() - began < 4:
            with program.client() as client:
                client.tell("kill 9")
                client.socket.settimeout(max(0.01, 4 - (time.monotonic() - began)))
                with contextlib.suppress(TimeoutError):
                    deaths += client.hear() is None
            seen.update(children(program.pid))
        assert len(seen) <= 10, (seen, program.log)
        assert deaths >= BURST, "it was there at once a few times"
        assert cpu_seconds(program.pid) - first < 1.0, "ten per cent of a processor would be 0.4 s; forks cost more"
        program.logged(r"ERROR .*: workers die too often: from now on one is replaced every 3 s")
        until(lambda: program.ask("say on") == "on", "others are served, once the last of them has had its way")
        assert program.end() == 0
        assert program.log.count("workers die too often") == 1 and "Giving up" not in program.log
        assert re.search(r"died after .* by SIGKILL, with 1 connection$", program.log, re.MULTILINE), program.log


def _since(pid: int) -> float:
    """When a process was started, in monotonic seconds (proc(5), field 22 of stat; CLOCK_BOOTTIME is the same here)."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return ticks / os.sysconf("SC_CLK_TCK") - boot


def test_one_that_is_frozen_is_replaced_and_the_others_serve(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, worker_timeout=1.0) as program:
        frozen = program.workers[0]
        os.kill(frozen, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(20):
            with program.client() as client:
                assert client.ask("pid") != str(frozen)
        program.logged(rf"process {frozen}\) gave no sign of life for 1 s")
        until(lambda: state(frozen) == "" and len(program.workers) == 2, "it is replaced")
        assert 0.5 < time.monotonic() - began < 15
        assert program.end() == 0


@pytest.mark.parametrize(
    ("mode", "word", "where"),
    [("green", "spin", "spin_without_end"), ("async", "spin", "spin_without_end"), ("green", "block", "handle")],
)
def test_one_that_hangs_is_killed_and_its_stack_is_in_the_log(
    mode: str, word: str, where: str, tmp_path: Path
) -> None:
    with (
        Supervised(tmp_path, mode, workers=2, worker_timeout=1.0, level="ERROR") as program,
        program.client() as client,
    ):
        assert client.ask(word) == "begun"
        assert client.hear() is None
        program.logged(rf'supervised_program\.py", line \d+ in {where}')
        program.logged("gave no sign of life for 1 s: killed, with its stack")
        until(lambda: len(program.workers) == 2, "it is replaced")
        assert program.ask("say on") == "on"
        assert program.end() == 0


@pytest.mark.parametrize("mode", ["serial", "thread", "process"])
def test_a_handler_that_takes_its_time_is_no_hang(mode: str, tmp_path: Path) -> None:
    with Supervised(tmp_path, mode, workers=1, worker_timeout=0.5) as program, program.client() as client:
        assert client.ask("work 2") == "begun"
        assert (client.hear() or "").startswith("done")
        assert "sign of life" not in program.log
        assert program.end() == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_drain_that_takes_its_time_is_no_hang(mode: str, tmp_path: Path) -> None:
    """Its loop turns while it waits for those who finish."""
    with Supervised(tmp_path, mode, workers=1, worker_timeout=0.5) as program, program.client() as client:
        assert client.ask("work 2") == "begun"
        program.send(signal.SIGTERM)
        assert (client.hear() or "").startswith("done")
        assert program.wait() == 0
        assert "sign of life" not in program.log


def test_all_are_stopped_together_and_go_on_together(tmp_path: Path) -> None:
    """Ctrl-Z, the freezer of a container: nobody gave a sign of life, and nobody was to."""
    with Supervised(tmp_path, "thread", workers=2, worker_timeout=1.0) as program, program.client() as client:
        pid = client.ask("pid")
        everyone = [program.pid, *program.workers]
        for one in everyone:
            os.kill(one, signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 2.5, "longer than their time")
        for one in everyone:
            os.kill(one, signal.SIGCONT)
        assert client.ask("pid") == pid
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 0.5, "it has looked at them")
        assert client.ask("pid") == pid and [program.pid, *program.workers] == everyone
        assert "sign of life" not in program.log
        assert program.end() == 0


# -- workers that cannot live ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_that_do_not_live_end_it(workers: int, tmp_path: Path) -> None:
    """They say that they are ready, and die: ten forks at most in the first four seconds, and no use of processors."""
    with Supervised(tmp_path, "thread", workers=workers, plan="die", wait=False) as program:
        first = until(lambda: children(program.pid) and cpu_seconds(program.pid), "a worker begins")
        began, last = time.monotonic(), first
        seen: set[int] = set()
        while program.process.poll() is None and time.monotonic() - began < 4:
            seen.update(children(program.pid))
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                last = cpu_seconds(program.pid)  # with that of the workers that have ended
            time.sleep(0.005)
        assert len(seen) <= 10, seen
        assert last - first < 1.0, "ten per cent of a processor would be 0.4 s; forks cost more where they are slow"
        code = program.wait()
        assert code in (1, 3)  # with several, one may have died before all were ready
        assert time.monotonic() - began < 30
        if code == 1:
            assert "CRITICAL jackfield.supervisor: the workers do not live" in program.log
        assert session(program.pid) == []


def test_one_that_never_begins_is_told_in_one_line(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=3, plan="raise", wait=False) as program:
        assert program.wait() == 3
        assert program.said[-1] == "not started: RuntimeError: it is not well at all"
        assert session(program.pid) == []


def test_one_that_hangs_while_it_loads_has_its_time(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, plan="hang", start_timeout=1.0, wait=False) as program:
        assert program.wait() == 3
        assert program.said[-1] == "not started: not ready after 1 s"
        assert re.search(r'supervised_program\.py", line \d+ in make_servers', program.log), program.log
        assert session(program.pid) == []


def test_a_reload_that_cannot_begin_leaves_the_old_ones(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, start_timeout=1.0) as program, program.client() as client:
        pid = client.ask("pid")
        before = program.workers
        for plan, why in (("raise", "RuntimeError: it is not well at all"), ("hang", "not ready after 1 s")):
            program.plan.write_text(plan)
            assert program.reload() == "reloaded False"
            program.logged(f"ERROR jackfield.supervisor: the reload failed, and those that serve go on: {why}\n")
            assert client.ask("pid") == pid and program.ask("say on") == "on"
            until(lambda: program.workers == before, "none of the new ones stays")
        program.plan.write_text("serve")
        assert program.reload() == "reloaded True"
        assert program.end() == 0


def test_no_descriptors_left_is_no_end(tmp_path: Path) -> None:
    """The machine has no room for another worker: those that are there serve, and it is tried again."""
    with Supervised(tmp_path, "thread", workers=2) as program:
        limit = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
        # Enough for what poll(2) is given, which is EINVAL otherwise, and too few for one more.
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, (5, limit[1]))
        victim = program.workers[0]
        os.kill(victim, signal.SIGKILL)
        program.logged("no worker can be started: Too many open files; tried again every 1 s")
        assert program.ask("say on") == "on"
        assert program.reload() == "reloaded False"
        program.logged("the reload failed, and those that serve go on: no worker can be started: Too many open files")
        resource.prlimit(program.pid, resource.RLIMIT_NOFILE, limit)
        until(lambda: len(program.workers) == 2, "there are two again")
        assert program.log.count("tried again") == 1
        assert program.end() == 0


# -- workers that are worn out ---------------------------------------------------------------------------------------


def test_one_that_takes_too_much_memory_is_replaced(tmp_path: Path) -> None:
    with (
        Supervised(tmp_path, "thread", workers=1, recycling={"max_rss": 200 << 20}) as program,
        program.client() as client,
    ):
        old = client.ask("pid")
        assert client.ask("leak 250") == "kept"
        program.logged(rf"worker 1 \(process {old}\) is replaced: it takes \d+ MiB of memory")
        until(lambda: program.ask("pid") != old, "another serves")
        assert client.ask("pid") == old  # who was there stays
        client.socket.close()
        until(lambda: state(int(old or 0)) == "", "the old one ends with its last connection")
        assert program.end() == 0


def test_connects_through_twenty_replacements_are_all_served(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=4, recycling={"max_accepts": 3}) as program:
        pids: set[str | None] = set()
        began = time.monotonic()
        while len(pids) < 25 and time.monotonic() - began < 50:
            pids.add(program.ask("pid"))
        assert len(pids) >= 25 and None not in pids
        assert program.log.count("is replaced: it has taken") >= 20
        assert program.end() == 0


def test_one_that_is_old_is_replaced(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, recycling={"lifetime": 1.0}) as program:
        first = program.workers
        until(lambda: program.ask("say on") == "on" and not set(first) & set(program.workers), "both are replaced")
        assert program.end() == 0
    ages = [int(age) for age in re.findall(r"is replaced: it is (\d+) s old", program.log)]
    assert len(ages) >= 2 and "ERROR" not in program.log


def test_nobody_is_left_of_a_worker_that_had_a_process_for_each_client(tmp_path: Path) -> None:
    with Supervised(tmp_path, "process", workers=2) as program, program.clients(8) as clients:
        of = {client: int(client.ask("pid") or 0) for client in clients}
        victim = next(pid for pid in program.workers if children(pid))
        orphans = children(victim)
        os.kill(victim, signal.SIGKILL)
        for client, pid in of.items():
            if pid in orphans:
                assert client.hear() is None
            else:
                assert client.ask("pid") == str(pid)
        until(lambda: not any(map(state, orphans)), "the processes of its clients have ended")
        assert program.ask("say on") == "on"
        for client in clients:
            client.socket.close()
        assert program.end() == 0
        assert session(program.pid) == []


# -- a supervisor that dies, and what is around it -------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_workers_without_a_supervisor_finish_and_end(mode: str, tmp_path: Path) -> None:
    with Supervised(tmp_path, mode, workers=2, graceful_timeout=20.0) as program, program.client() as client:
        assert client.ask("work 1") == "begun"
        os.kill(program.pid, signal.SIGKILL)
        program.process.wait()
        assert (client.hear() or "").startswith("done")
        until(lambda: session(program.pid) == [], "the workers have ended")
        with pytest.raises(ConnectionRefusedError):
            program.client()


def test_workers_without_a_supervisor_cut_who_does_not_finish(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2, graceful_timeout=1.0) as program, program.client() as client:
        assert client.ask("hang") == "begun"
        os.kill(program.pid, signal.SIGKILL)
        began = time.monotonic()
        program.process.wait()
        assert client.hear() is None
        until(lambda: session(program.pid) == [], "the workers have ended")
        assert 0.9 < time.monotonic() - began < 15


def test_a_full_disk_for_the_log_ends_nobody(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full, Supervised(tmp_path, "thread", workers=2, stderr=full) as program:
        for _ in range(3):
            victim = program.workers[0]
            os.kill(victim, signal.SIGKILL)
            program.until_replaced(victim, 2)
            assert program.ask("say on") == "on"
        assert program.reload() == "reloaded True"
        assert program.end() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of its own")
def test_a_disk_that_is_full_for_a_while_ends_nobody(tmp_path: Path) -> None:
    """A real one: workers die, hang, are reloaded and scaled while nothing can be written, and the log goes on when
    there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        with (
            open(disk / "log", "ab") as log,
            Supervised(tmp_path, "green", workers=2, worker_timeout=1.0, stderr=log) as program,
        ):
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(1 << 20))
            size = (disk / "log").stat().st_size
            with program.client() as client:
                assert client.ask("spin") == "begun"
                assert client.hear() is None  # killed, though its stack has nowhere to go
            for _ in range(3):
                victim = program.workers[0]
                os.kill(victim, signal.SIGKILL)
                program.until_replaced(victim, 2)
                assert program.ask("say on") == "on"
            before = set(program.workers)
            assert program.reload() == "reloaded True"
            until(lambda: not before & set(program.workers), "nobody wonders at the end of those who retire")
            program.send(signal.SIGTTIN)
            until(lambda: len(program.workers) == 3, "one more")
            assert program.ask("say on") == "on"
            with open(disk / "log", "rb") as written:
                assert len(written.read()) <= size + 4096, "what was left of a page"
            filler.unlink()
            victim = program.workers[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda: f"(process {victim}) died" in (disk / "log").read_text(errors="replace"), "it goes on")
            assert program.end() == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_worker_has_nothing_of_the_supervisor_or_its_siblings(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=4) as program:
        links = [_sockets(pid) for pid in program.workers]
        for number, mine in enumerate(links):
            for other in links[number + 1 :]:
                # The listener is what they have together.
                assert len(mine & other) == 1, (mine, other)
        of_supervisor = _sockets(program.pid)
        assert all(len(mine & of_supervisor) == 1 for mine in links)
        assert program.end() == 0


def _sockets(pid: int) -> set[str]:
    return {what for what in descriptors(pid).values() if what.startswith("socket:")}


def test_the_processor_is_left_alone_by_those_who_wait(tmp_path: Path) -> None:
    with Supervised(tmp_path, "thread", workers=2) as program:
        began, before = time.monotonic(), cpu_seconds(program.pid)
        until(lambda: time.monotonic() - began > 1, "a second")
        assert cpu_seconds(program.pid) - before < 0.1
        assert program.end() == 0
