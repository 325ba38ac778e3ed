"""Rights that are given up are gone, by the kernel's own account; and where one is left, nobody goes on."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from privileges_support import SECONDS, as_root, said_by

from jackfield.errors import StartError
from jackfield.supervisor.privileges import Privileges, is_root
from jackfield.supervisor.rights import Rights

NOBODY = pwd.getpwnam("nobody")
SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")


def reason(*arguments: Any, **options: Any) -> str:
    with pytest.raises(StartError) as caught:
        Privileges.look_up(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def unnamed() -> int:
    """A number that no user has."""
    taken = {one.pw_uid for one in pwd.getpwall()}
    return next(number for number in range(50_000, 60_000) if number not in taken)


def rights(**changes: Any) -> Rights:
    """Those of somebody who is nobody and may do nothing, with the changes."""
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    plain: dict[str, Any] = {"uids": (uid,) * 4, "gids": (gid,) * 4, "groups": (),
                             "capabilities": dict.fromkeys(SETS, 0), "no_new_privs": True}  # fmt: skip
    return Rights(**{**plain, **changes})


# --- who is meant -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid)])
def test_a_user_is_a_name_or_a_number(user: str) -> None:
    found = Privileges.look_up(user)
    assert (found.uid, found.gid, found.name, found.home) == (NOBODY.pw_uid, NOBODY.pw_gid, "nobody", NOBODY.pw_dir)
    assert found.no_new_privs and found.umask is None and str(found) == "user nobody"
    assert not Privileges.look_up(user, no_new_privs=False).no_new_privs


@pytest.mark.parametrize("by_name", [True, False])
def test_another_group_takes_the_place_of_the_users_own(by_name: bool) -> None:
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY.pw_gid))
    found = Privileges.look_up("nobody", group.gr_name if by_name else str(group.gr_gid))
    assert (found.uid, found.gid) == (NOBODY.pw_uid, group.gr_gid)


def test_a_number_without_a_name_needs_a_group() -> None:
    number = unnamed()
    assert f"user {number} is in no table of users that would tell its group" in reason(str(number))
    found = Privileges.look_up(str(number), "7")
    assert (found.uid, found.gid, found.name, found.home) == (number, 7, None, "/")
    assert str(found) == f"user {number}"


def test_nobody_is_asked_for_and_nothing_is_to_be_done() -> None:
    found = Privileges.look_up()
    assert (found.uid, found.gid, found.no_new_privs) == (None, None, False)
    found.drop()
    assert Privileges.look_up(no_new_privs=True).no_new_privs


@pytest.mark.parametrize(
    ("user", "group", "said"),
    [
        ("nobdy", None, "there is no user 'nobdy'; did you mean nobody?"),
        ("q8#", None, "there is no user 'q8#'; see `getent passwd`, or write a number"),
        ("", None, "there is no user ''"),
        ("a\0b", None, "there is no user 'a\\x00b'"),
        ("no\nbody", None, "there is no user 'no\\nbody'"),
        ("4294967295", None, "there is no user '4294967295'"),
        ("-1", None, "there is no user '-1'"),
        ("nobody", "daemn", "there is no group 'daemn'; did you mean daemon?"),
        ("nobody", "4294967295", "there is no group '4294967295'"),
        ("root", None, "user 'root' is root, who gives nothing up"),
        ("0", "1", "user '0' is root, who gives nothing up"),
        (None, "nogroup", "group 'nogroup' goes with a user"),
    ],
)
def test_who_is_not_there_is_told_in_one_line(user: str | None, group: str | None, said: str) -> None:
    assert said in reason(user, group)


# --- what is left -----------------------------------------------------------------------------------------------------


def test_what_the_kernel_tells_is_read_right() -> None:
    found = Rights.parse(Path("/proc/self/status").read_text())
    assert found.uids[:3] == os.getresuid() and found.gids[:3] == os.getresgid()
    assert len(found.uids) == len(found.gids) == 4
    assert sorted(found.groups) == sorted(os.getgroups())
    assert set(found.capabilities) == set(SETS)
    assert os.geteuid() != 0 or all(found.may(number) for number in (6, 7))


@pytest.mark.parametrize("field", ["Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs"])
def test_a_kernel_that_does_not_tell_is_not_believed(field: str) -> None:
    text = re.sub(rf"(?m)^{field}:.*\n", "", Path("/proc/self/status").read_text())
    with pytest.raises(StartError, match=f"does not tell {field}"):
        Rights.parse(text)


def left(now: Rights, *, bounding: bool = True, **options: Any) -> list[str]:
    return [*Privileges.look_up("nobody", **options).left_of(now, bounding=bounding)]


def test_nothing_is_left_of_one_who_has_nothing() -> None:
    assert left(rights()) == []


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(("kind", "name"), [("uids", "user"), ("gids", "group")])
def test_each_id_is_looked_at(kind: str, name: str, place: int) -> None:
    ids = [NOBODY.pw_uid if kind == "uids" else NOBODY.pw_gid] * 4
    ids[place] = 0
    assert left(rights(**{kind: tuple(ids)})) == [f"{name} ids {'/'.join(map(str, ids))}"]


@pytest.mark.parametrize("name", SETS)
def test_each_set_of_capabilities_is_looked_at(name: str) -> None:
    now = rights(capabilities={**dict.fromkeys(SETS, 0), name: 1 << 40})
    assert left(now) == [f"Cap{name} 10000000000"]
    # The bounding set takes a capability to empty, which a container may not give.
    assert left(now, bounding=False) == ([] if name == "Bnd" else [f"Cap{name} 10000000000"])


def test_groups_and_setuid_programs_are_looked_at() -> None:
    assert left(rights(groups=(0, 27))) == ["groups 0 27"]
    assert left(rights(no_new_privs=False)) == ["no_new_privs is not set"]
    assert left(rights(no_new_privs=False), no_new_privs=False) == []


# --- the drop ---------------------------------------------------------------------------------------------------------


def has_nothing(status: str, *, no_new_privs: bool = True) -> bool:
    found = Rights.parse(status)
    return found == rights(no_new_privs=no_new_privs)


@as_root
def test_everything_is_gone_and_does_not_come_back() -> None:
    said = said_by("""
os.setgroups([0, 4, 27])
drop("nobody")
note()
ways = {
    "setuid": lambda: os.setuid(0), "seteuid": lambda: os.seteuid(0), "setresuid": lambda: os.setresuid(0, 0, 0),
    "setgid": lambda: os.setgid(0), "setegid": lambda: os.setegid(0), "setgroups": lambda: os.setgroups([0]),
    "chroot": lambda: os.chroot("/"), "shadow": lambda: open("/etc/shadow").close(),
}
for name, way in ways.items():
    try:
        way()
    except PermissionError:
        ways[name] = "refused"
said["ways"] = [name for name, outcome in ways.items() if outcome != "refused"]
note("after")
""")
    assert "refused" not in said
    assert has_nothing(said["status"]) and has_nothing(said["after"])
    assert said["ways"] == []


@as_root
def test_processes_that_are_forked_and_threads_that_are_started_have_as_little() -> None:
    said = said_by("""
drop("nobody")
read, write = os.pipe()
if os.fork() == 0:
    with open("/proc/self/status", "rb") as status:
        os.write(write, status.read())
    os._exit(0)
os.wait()
said["child"] = os.read(read, 65536).decode()
def run():
    with open("/proc/thread-self/status") as status:
        said["thread"] = status.read()
thread = threading.Thread(target=run)
thread.start()
thread.join()
""")
    assert has_nothing(said["child"]) and has_nothing(said["thread"])


@as_root
def test_the_environment_is_the_new_users() -> None:
    said = said_by(
        'drop("nobody"); said.update(os.environ)', HOME="/root", USER="root", LOGNAME="root", XDG_RUNTIME_DIR="/run/0"
    )
    assert [said.get(name) for name in ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR")] == [
        NOBODY.pw_dir, "nobody", "nobody", None,
    ]  # fmt: skip
    said = said_by(f'drop("{unnamed()}", "7"); said.update(os.environ)', HOME="/root", USER="root")
    assert [said.get(name) for name in ("HOME", "USER")] == ["/", None]


@as_root
def test_the_umask_holds_with_and_without_a_user() -> None:
    for user in ("nobody", None):
        said = said_by(f"drop({user!r}, umask=0o027); said['umask'] = os.umask(0); note()")
        assert (said["umask"], said["euid"]) == (0o027, NOBODY.pw_uid if user else 0)


@as_root
def test_only_no_new_privs_is_set_where_only_that_is_asked_for() -> None:
    said = said_by("drop(None, no_new_privs=True); note()")
    assert said["euid"] == 0 and Rights.parse(said["status"]).no_new_privs


@as_root
def test_a_setuid_program_gains_nothing() -> None:
    """One that shows a file: may it read what is root's alone?"""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # unlike a test's own directory, which is closed to others
        program, secret = directory / "show", directory / "secret"
        shutil.copy(shutil.which("cat") or "", program)
        program.chmod(0o4755)
        secret.touch(0o600)
        command = ["sh", "-c", f"{program} {secret} 2>/dev/null"]
        forbidden, permitted = (
            said_by(f"drop('nobody', no_new_privs={wanted}); said['exit'] = os.spawnvp(os.P_WAIT, 'sh', {command})")
            for wanted in (True, False)
        )
    if permitted["exit"] != 0:
        pytest.skip("setuid programs gain nothing on this file system anyway (nosuid)")
    assert forbidden["exit"] != 0


@as_root
def test_its_memory_is_nobodys_to_read() -> None:
    """It may still have keys in it. As another process of the same user: /proc/PID/environ takes the right to trace."""
    if Path("/proc/sys/fs/suid_dumpable").read_text().strip() == "1":
        pytest.skip("this machine lets everybody look on purpose (fs.suid_dumpable=1)")
    said = said_by("""
plain = subprocess.Popen(["sleep", "20"], user=65534, group=65534, extra_groups=[])
drop("nobody")
for name, pid in ("own", os.getpid()), ("plain", plain.pid):
    said[name] = os.spawnvp(os.P_WAIT, "sh", ["sh", "-c", f"cat /proc/{pid}/environ >/dev/null 2>&1"])
plain.kill()
plain.wait()
""")
    # What that user started itself, it may look into: so it is not that nothing could be read.
    assert said["own"] != 0 and said["plain"] == 0


# --- refusals ---------------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize(
    ("forgotten", "found"),
    [
        ("set_groups", "groups 4 27"),  # CVE-2023-6507
        ("set_group", "group ids 0/0/0/0"),
        ("set_user", "user ids 0/0/0/0, setuid(0) works"),
        ("empty_bounding", "CapBnd "),
        ("empty_capabilities", "CapPrm "),
        ("forbid_new_privileges", "no_new_privs is not set"),
    ],
)
def test_what_is_forgotten_is_found(forgotten: str, found: str) -> None:
    """The broken case of each step: a kernel that says that it did it, and did not."""
    said = said_by(f"""
class Forgetful(Kernel):
    def {forgotten}(self, *_):
        pass

os.setgroups([4, 27])
ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: what a change of the user would take is kept
drop("nobody", kernel=Forgetful())
""")
    assert "rights were to be given up, and some are left: " in said["refused"]
    assert found in said["refused"] and said["refused"].endswith("; nothing is served")


@as_root
def test_a_right_that_is_kept_over_the_change_is_taken_as_well() -> None:
    said = said_by("ctypes.CDLL(None).prctl(8, 1, 0, 0, 0); drop('nobody'); note()")
    assert has_nothing(said["status"])


@as_root
def test_threads_are_a_refusal_and_nothing_has_happened() -> None:
    said = said_by("""
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
drop("nobody")
note()
end.set()
thread.join()
drop("nobody")
note("after")
""")
    assert "before threads start, and 2 are there" in said["refused"]
    assert Rights.parse(said["status"]).uids == (0, 0, 0, 0)
    assert has_nothing(said["after"])


@as_root
def test_who_is_not_root_becomes_nobody_else() -> None:
    other = next(one.pw_name for one in pwd.getpwall() if one.pw_uid not in (0, NOBODY.pw_uid))
    said = said_by(f"drop('nobody'); drop({other!r}); note()")
    assert f"only root can become user {other} (CAP_SETUID, CAP_SETGID), and this is user " in said["refused"]
    assert has_nothing(said["status"])


@as_root
def test_who_is_that_user_already_needs_no_right() -> None:
    said = said_by("drop('nobody', no_new_privs=False); note('first'); drop('nobody'); note()")
    assert "refused" not in said
    assert has_nothing(said["first"], no_new_privs=False) and has_nothing(said["status"])


CAPABLE = """
def capable(*numbers):
    bits = sum(1 << number for number in numbers)
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(bits, bits))
"""


@as_root
def test_root_without_the_capabilities_is_no_root() -> None:
    said = said_by(f"{CAPABLE}\ncapable(7, 8)\ndrop('nobody')")
    assert "and this is root without these; " in said["refused"]


@as_root
def test_the_bounding_set_stays_where_nobody_may_empty_it() -> None:
    """As in a container that keeps CAP_SETPCAP to itself."""
    said = said_by(f"{CAPABLE}\ncapable(6, 7)\nnote('before')\ndrop('nobody')\nnote()")
    assert "refused" not in said
    before, now = Rights.parse(said["before"]), Rights.parse(said["status"])
    assert now == rights(capabilities={**dict.fromkeys(SETS, 0), "Bnd": before.capabilities["Bnd"]})


@as_root
def test_groups_that_cannot_be_given_up_are_a_refusal() -> None:
    said = said_by("""
os.setgroups([4])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
drop("nobody", "65534")
""")
    assert "and this is that user with more groups or ids" in said["refused"]


@as_root
def test_what_a_user_namespace_does_not_let_have_is_a_refusal() -> None:
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=SECONDS, check=False).returncode:
        pytest.skip("no user namespace is to be had here (unshare -r)")
    refused = said_by("drop('nobody')", unshare)["refused"]
    assert "cannot become user nobody: groups: Operation not permitted; " in refused


def test_root_is_who_is_root_outside_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import builtins

    def with_map(text: str) -> bool:
        map_file = tmp_path / "uid_map"
        map_file.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: 0)
            patch.setattr(builtins, "open", lambda path, **options: map_file.open(**options))
            return is_root()

    assert with_map("         0          0 4294967295\n")
    assert with_map("0 0 1\n1 100000 65536\n")
    assert not with_map("0 1000 1\n1 100000 65536\n")
    assert not with_map("0 100000 65536\n")
