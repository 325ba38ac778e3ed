"""Files, the environment and flags: what each key may say, and which of them holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from cli_support import Server, run
from configuration_support import KEYS, in_toml, resolved, samples, told, words_of
from hypothesis import given
from hypothesis import strategies as st

from jackfield.address import parse_address
from jackfield.admission import Rate
from jackfield.cli.app import build_parser
from jackfield.cli.arguments import Parser, Switch, UsageError
from jackfield.cli.configuration import Key, level_of, reread
from jackfield.cli.configuration.printing import as_toml
from jackfield.cli.configuration.values import toml_text, value_of_file


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_flag_can_be_said_by_a_flag_the_environment_and_a_file(key: Key, tmp_path: Path) -> None:
    """Each alone has the same value, and its origin; and of all three the stronger one holds."""
    switch = key.is_switch
    first, second = ("true", "true") if switch else samples(key)
    if key.name == "config":
        (tmp_path / first).write_text("")
        first = second = str(tmp_path / first)
    dest = key.dest
    by_flag = resolved(tmp_path, None, *words_of(key, first))
    by_variable = resolved(tmp_path, None, **{key.variable: first})
    value = getattr(by_flag.servers[0], dest)
    assert value != key.default
    assert getattr(by_variable.servers[0], dest) == value
    assert (by_flag.servers[0].origins[dest].kind, by_variable.servers[0].origins[dest].kind) == ("flag", "environment")
    assert (by_flag.servers[0].origins[dest].text, by_variable.servers[0].origins[dest].text) == (
        key.flag,
        key.variable,
    )
    over = resolved(tmp_path, None, *words_of(key, first), **{key.variable: "0" if switch else second})
    assert (getattr(over.servers[0], dest), over.servers[0].origins[dest].kind) == (value, "flag")
    if not key.in_files:
        return
    written = "true" if switch else in_toml(key, first)
    by_file = resolved(tmp_path, f"# a comment\n{key.name} = {written}\n")
    assert getattr(by_file.servers[0], dest) == value
    assert by_file.servers[0].origins[dest].text == f"{tmp_path}/jackfield.toml:2"
    over = resolved(tmp_path, None, **{key.variable: "0" if switch else second})
    assert over.servers[0].origins[dest].kind == "environment"
    assert (getattr(over.servers[0], dest) == value) is (not switch and first == second)
    if isinstance(key.action, Switch | argparse.BooleanOptionalAction):
        off = resolved(tmp_path, None, f"--no-{key.flag[2:]}")
        assert (getattr(off.servers[0], dest), off.servers[0].origins[dest].kind) == (False, "flag")
    if key.of_server:
        inside = resolved(tmp_path, f"[[server]]\n{key.name} = {written}\n")
        assert getattr(inside.servers[0], dest) == value


def test_that_test_would_miss_no_flag_and_can_fail(tmp_path: Path) -> None:
    """Its keys are the flags of the program's own parser; and a key that nobody says has its default."""
    _, named = build_parser(["serve"])
    dests = {action.dest for action in named["serve"]._actions} - {"help"}
    assert dests == {key.dest for key in KEYS} and len(KEYS) > 50
    nothing = resolved(tmp_path)
    assert all(
        getattr(nothing.servers[0], key.dest) == key.default for key in KEYS if key.name not in ("verbose", "quiet")
    )
    assert {origin.kind for origin in nothing.servers[0].origins.values()} == {"default"}


def test_a_file_of_every_kind_of_value(tmp_path: Path) -> None:
    """The example of the design, with both ways to write a key of a group."""
    configured = resolved(
        tmp_path,
        """
        handler = "chat:Handler"
        bind = ["tcp://[::]:9999", "tls://[::]:8443"]
        mode = "green"
        max_connections = 10000
        idle_timeout = "5m"
        write_timeout = 1.5
        message_timeout = 0
        max_datagram = "8k"
        accept_rate = "100/s,200"
        deny = "192.0.2.1, 198.51.100.0/24"
        tls_min = "1.3"
        [tls]
        cert = "fullchain.pem" # a file
        key = 'privkey.pem'
        alpn = ["h2", "http/1.1"]
        [proxy_protocol]
        mode = "auto"
        allow_from = ["10.0.0.0/8"]
        """,
    )
    options = configured.servers[0]
    assert options.target == "chat:Handler" and options.mode == "green" and options.max_connections == 10000
    assert options.bind == [parse_address("tcp://[::]:9999"), parse_address("tls://[::]:8443")]
    assert (options.idle_timeout, options.write_timeout, options.message_timeout) == (300.0, 1.5, None)
    assert options.max_datagram == 8192 and options.accept_rate == Rate(100, burst=200)
    assert options.deny == ["192.0.2.1", "198.51.100.0/24"]
    assert (options.tls_cert, options.tls_key, options.tls_min) == ("fullchain.pem", "privkey.pem", "1.3")
    assert options.tls_alpn == ["h2", "http/1.1"]
    assert (options.proxy_protocol, options.proxy_allow_from) == ("auto", ["10.0.0.0/8"])
    assert options.origins["tls_key"].text.endswith("jackfield.toml:15")
    assert options.origins["proxy_protocol"].text.endswith("jackfield.toml:18")


def test_the_environment(tmp_path: Path) -> None:
    options = resolved(
        tmp_path, None,
        JACKFIELD_BIND=":1 tls://:8443?alpn=h2,http/1.1", JACKFIELD_ALLOW="10.0.0.0/8,::1",
        JACKFIELD_REUSE_PORT="off", JACKFIELD_VERBOSE="2", JACKFIELD_NAME="", JACKFIELD_PROXY_PROTOCOL="v2",
    ).servers[0]  # fmt: skip
    assert options.bind == [parse_address(":1"), parse_address("tls://:8443?alpn=h2,http/1.1")]
    assert options.allow == ["10.0.0.0/8", "::1"] and options.proxy_protocol == "v2"
    assert options.reuse_port is False and options.verbose == 2
    assert options.origins["name"].kind == "default"


def test_a_variable_that_is_nearly_ours_was_meant_to_be(tmp_path: Path) -> None:
    near = told(tmp_path, None, JACKFIELD_MAX_CONECTIONS="5")
    assert near == ["JACKFIELD_MAX_CONECTIONS: there is no such key; did you mean JACKFIELD_MAX_CONNECTIONS?"]
    assert told(tmp_path, None, JACKFIELD_MAX_CONNECTIONS="x") == [
        "JACKFIELD_MAX_CONNECTIONS: 'x' is not a whole number of at least 1"
    ]
    (secret,) = told(tmp_path, None, JACKFIELD_TLS_PASSWORD="secret99")
    assert secret.startswith("JACKFIELD_TLS_PASSWORD: a secret has no place here") and "secret99" not in secret
    # What Kubernetes makes of a service called jackfield, and what is anybody's.
    others = {"JACKFIELD_PORT": "tcp://10.0.0.1:9999", "JACKFIELD_SERVICE_HOST": "10.0.0.1", "JACKFIELD_PURE": "1",
              "JACKFIELD_PORT_9999_TCP": "tcp://10.0.0.1:9999"}  # fmt: skip
    assert told(tmp_path, None, **others) == []


def test_several_servers_take_what_stands_above_them_and_are_told_apart(tmp_path: Path) -> None:
    text = (
        "mode = 'thread'\n[[server]]\nname = 'a'\nbind = ':1'\n[server.tls]\ncert = 'a.pem'\n[[server]]\nname = 'b'\n"
    )
    a, b = resolved(tmp_path, text + "bind = ':2'\nmode = 'green'\n", "--idle-timeout", "5s").servers
    assert (a.name, a.mode, a.tls_cert, a.idle_timeout) == ("a", "thread", "a.pem", 5.0)
    assert (b.name, b.mode, b.tls_cert, b.idle_timeout) == ("b", "green", None, 5.0)
    assert a.origins["tls_cert"].text.endswith("jackfield.toml:6")
    assert b.origins["mode"].text.endswith("jackfield.toml:10")
    assert told(tmp_path, text) == ["server b has no bind: each of several has to say where it listens"]
    same = told(tmp_path, text.replace("'b'", "'a'") + "bind = ':2'\n")
    assert same == ["jackfield.toml:8: two servers are called a, the other at jackfield.toml:3"]
    assert told(tmp_path, "bind = ':3'\n" + text + "bind = ':2'\n") == [
        "jackfield.toml:1: bind is another for each of the 2 servers: write it below [[server]]"
    ]
    for words, place in ((["-b", ":3"], "--bind"), (["--name", "c"], "--name"), (["a:B"], "TARGET")):
        assert told(tmp_path, text + "bind = ':2'\n", *words) == [
            f"{place} goes with one server, and the file has 2: name another file with --config"
        ]
    assert told(tmp_path, text + "bind = ':2'\n", JACKFIELD_HANDLER="a:B")[0].startswith("JACKFIELD_HANDLER goes with")
    # One server may be written as a table, too, and then takes flags as any.
    one = resolved(tmp_path, "[server]\nname = 'a'\nbind = ':1'\n", "-b", ":5").servers
    assert [(options.name, options.bind) for options in one] == [("a", [parse_address(":5")])]


def test_a_word_of_the_command_line_goes_before_the_level_of_a_file(tmp_path: Path) -> None:
    assert level_of(resolved(tmp_path, "").process) == "info"
    assert level_of(resolved(tmp_path, "log_level = 'error'").process) == "error"
    assert level_of(resolved(tmp_path, None, "-v").process) == "debug"
    assert level_of(resolved(tmp_path, None, "-v", "--log-level", "info").process) == "info"
    assert level_of(resolved(tmp_path, "quiet = true").process) == "warning"


def test_what_is_printed_means_the_same_when_it_is_read(tmp_path: Path) -> None:
    """With a value for each key that may have one; no two of which need to go together here."""
    lines = [
        f"{key.name} = {'true' if key.is_switch else in_toml(key, samples(key)[0])}" for key in KEYS if key.in_files
    ]  # fmt: skip
    first = resolved(tmp_path, "\n".join(lines))
    assert {origin.kind for name, origin in first.servers[0].origins.items() if name != "config"} == {"file"}
    again = resolved(tmp_path, as_toml(first))
    for key in KEYS:
        assert getattr(again.servers[0], key.dest) == getattr(first.servers[0], key.dest), key.name
    servers = "".join(f"[[server]]\nname = '{name}'\nbind = ':{port}'\n" for name, port in (("a", 1), ("b", 2)))
    two = resolved(tmp_path, "log_level = 'debug'\n" + servers)
    both = resolved(tmp_path, as_toml(two))
    for before, after in zip(two.servers, both.servers, strict=True):
        assert all(getattr(before, key.dest) == getattr(after, key.dest) for key in KEYS)
    # The broken case: a value that was changed on the way.
    changed = resolved(tmp_path, as_toml(two).replace('"a"', '"c"'))
    assert changed.servers[0].name != two.servers[0].name


@given(st.text() | st.integers() | st.booleans() | st.floats(0, 1e12) | st.lists(st.text(max_size=5)))
def test_a_printed_value_is_toml(value: Any) -> None:
    import tomllib

    text = toml_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # no file can have it
    assert tomllib.loads(f"a = {text}")["a"] == value


def test_a_type_of_ones_own_says_itself_whether_it_takes_numbers() -> None:
    """No list of flags: what reads digits as something else is refused a number."""
    parser = Parser(prog="x", add_help=False)
    octal = Key("octal", parser.add_argument("--octal", type=lambda text: int(text, 8)), False)
    plain = Key("plain", parser.add_argument("--plain", type=int), False)
    assert value_of_file(parser, plain, 27) == 27 and value_of_file(parser, octal, "27") == 0o27
    with pytest.raises(UsageError, match="27 is a number"):
        value_of_file(parser, octal, 27)
    with pytest.raises(UsageError, match="without quotes"):
        value_of_file(parser, plain, "27")


def test_what_a_file_says_of_the_program_holds_for_its_complaints(tmp_path: Path) -> None:
    (tmp_path / "jackfield.toml").write_text("verbose = 1\ncolor = 'always'\nbind = 'unix:nowhere/s'\n")
    done = run("serve", cwd=tmp_path)
    assert done.returncode == 3 and b"Traceback" in done.stderr and b"\x1b[31m" in done.stderr


def test_more_connections_than_descriptors_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "jackfield.toml").write_text("bind = '127.0.0.1:0'\nmax_connections = 99999999\n")
    with Server(cwd=tmp_path) as server:
        said = [line for line in server.said if "jackfield.toml:2: 99999999 connections need more descriptors" in line]
        assert len(said) == 1 and " warning " in said[0]
        assert server.end() == 0


@pytest.mark.parametrize("changed", ["idle_timeout = 5\nmode = 'green'\n", "bind = ':2'\nuser = 'nobody'\n"])
def test_a_supervisor_has_what_its_next_workers_are_to_be(changed: str, tmp_path: Path, caplog: Any) -> None:
    """No server runs here, so all that is about a server may change, but the sockets; nor may the process."""
    configured = resolved(tmp_path, "bind = ':1'\n", "-c", str(tmp_path / "jackfield.toml"))
    assert reread(configured, []) is configured
    (tmp_path / "jackfield.toml").write_text("bind = ':1'\n" + changed if "bind" not in changed else changed)
    with caplog.at_level("INFO"):
        new = reread(configured, [])
    options = new.servers[0]
    assert options.bind == [parse_address(":1")] and new.process.user is None
    if "bind" in changed:
        assert (options.mode, options.idle_timeout) == ("auto", configured.servers[0].idle_timeout)
        assert caplog.messages == [f"{tmp_path}/jackfield.toml: needs a restart: bind, user"]
    else:
        assert (options.mode, options.idle_timeout) == ("green", 5.0)
        assert caplog.messages == [f"{tmp_path}/jackfield.toml: changed: mode, idle_timeout"]
    (tmp_path / "jackfield.toml").write_text("allow_file = 'nowhere'\n")
    assert reread(new, []) is new
    assert "still as it was" in caplog.messages[-1]
