"""The file: where it is looked for, and what in it is refused, in one line with its place."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import ENVIRONMENT, SECONDS
from configuration_support import KEYS, PARSER, resolved, spoken, told
from hypothesis import given
from hypothesis import strategies as st

from jackfield.cli.arguments import UsageError
from jackfield.cli.configuration import resolve
from jackfield.cli.configuration.files import find_document, read_document
from jackfield.cli.configuration.values import value_of_file


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_connections = '100'", "max_connections: '100' is a text: write 100 without quotes"),
        ("max_connections = 0", "max_connections: '0' is not a whole number of at least 1"),
        ("max_connections = 1.5", "max_connections: '1.5' is not a whole number of at least 1"),
        ("max_connections = true", 'max_connections: true is a boolean: write "N" in quotes, as for --max-connections'),
        ("max_connections = [1]", 'max_connections: it has one value, and this is a list: write "N" in quotes'),
        ("max_connections = 1979-05-27", "max_connections: datetime.date(1979, 5, 27) is a date or time: write"),
        ("idle_timeout = '5'", "idle_timeout: '5' is a text: write 5 without quotes"),
        ("idle_timeout = '5M'", "idle_timeout: no duration: '5M': write e.g. 500ms"),
        ("idle_timeout = nan", "idle_timeout: no duration: 'nan'"),
        ("idle_timeout = -1", "idle_timeout: no duration: '-1'"),
        ("umask = 27", 'umask: 27 is a number: write "MODE" in quotes, as for --umask'),
        ("reuse_port = 1", "reuse_port: 1 is a number: write true or false, without quotes"),
        ("reuse_port = 'yes'", "reuse_port: 'yes' is a text: write true or false, without quotes"),
        ("mode = 'gren'", "mode: no 'gren'; did you mean green?"),
        ("tls_min = 1.2", "1.2 is a number: write one of"),
        ("bind = ':99999'", "bind: "),
        ("bind = [':1', 2]", "bind: 2 is a number"),
        ("verbose = -1", "verbose: -1 is no number of times: write 0, 1 or 2"),
        ("max_connectons = 1", "there is no key max_connectons; did you mean max_connections?"),
        ("[tls]\ncret = 'a'", "there is no key tls.cret; did you mean tls_cert?"),
        ("[nothing]", "there is no key nothing; "),
        ("target = 'a:B'", "there is no key target; did you mean handler?"),
        ("config = 'a'", "config: a file cannot name another"),
        ("tls_password = 'secret99'", "tls_password: a secret has no place here: write it to a file of its own"),
        ("admin_token = 'secret99'", "admin_token: a secret has no place here"),
        (
            "tls_key = '-----BEGIN PRIVATE KEY-----secret99'",
            "tls_key: this is a key or certificate itself, not shown here",
        ),
        ("bind = 'tls://:8443?password=secret99'", "bind: there is a password in it, not shown here"),
        ("bind = ['tcp://me:secret99@host:1']", "bind: there is a password in it, not shown here"),
        ("tls_key = 'a'\n[tls]\nkey = 'b'", "tls_key is there already, at jackfield.toml:1: leave one of them out"),
        ("server = []", "server is no table: write [[server]] and the keys below it"),
        ("server = 'a'", "server is no table: write [[server]]"),
        ("[[server]]\nlog_level = 'info'", "log_level is about the whole process: write it above the first [[server]]"),
        ("[server]\nuser = 'nobody'", "user is about the whole process: write it above the first [server]"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_its_place(line: str, said: str, tmp_path: Path) -> None:
    problems = told(tmp_path, line)
    assert len(problems) == 1, problems
    number = line.count("\n") + 1
    assert problems[0].startswith(f"jackfield.toml:{number}: ")
    assert said in problems[0]
    assert "\n" not in problems[0] and "secret99" not in problems[0]


def test_all_problems_can_be_had_at_once_and_the_first_ends_a_start(tmp_path: Path) -> None:
    text = "max_connections = 0\nidle_timeout = 'x'\nnoting = 1\n"
    assert len(told(tmp_path, text, JACKFIELD_BACKLOG="many")) == 4
    with pytest.raises(UsageError, match=r"jackfield\.toml:1: max_connections"):
        resolved(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a = [", "jackfield.toml: no TOML: "),
        (b"mode = 'green'\nmode = 'async'\n", "jackfield.toml: no TOML: "),
        (b"a = '\xff'", "jackfield.toml:1: no TOML: a byte that is no UTF-8"),
        (b"a = " + b"[" * 20000, "jackfield.toml: no configuration: it is nested too deep"),
        (b"a = " + b"9" * 5000, "jackfield.toml: Exceeds the limit"),
        (b"#" * (1 << 20) + b"\n", "jackfield.toml is no configuration: it is larger than 1 MiB"),
    ],
)
def test_what_is_no_toml_is_one_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "jackfield.toml").write_bytes(text)
    problems = told(tmp_path)
    assert len(problems) == 1 and problems[0].startswith(said) and "\n" not in problems[0]


@given(st.text(), st.booleans())
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory: Any, text: str, in_pyproject: bool) -> None:
    folder = tmp_path_factory.mktemp("any")
    name = "pyproject.toml" if in_pyproject else "jackfield.toml"
    (folder / name).write_text(f"[tool.jackfield]\n{text}" if in_pyproject else text, "utf-8", "surrogatepass")
    problems: list[str] = []
    resolve(spoken(), problems.append, {}, str(folder))
    assert not [problem for problem in problems if not problem]


@given(st.recursive(
    st.booleans() | st.integers(-10, 99999) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
))  # fmt: skip
def test_any_value_of_any_key_is_taken_or_refused(value: Any) -> None:
    for key in KEYS:
        try:
            read = value_of_file(PARSER, key, value)
        except UsageError as error:
            assert str(error)
        else:
            assert read is not value or isinstance(value, bool | str | int | list)


def test_where_a_file_is_looked_for(tmp_path: Path) -> None:
    assert find_document(None, str(tmp_path)) is None
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert find_document(None, str(tmp_path)) is None
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x' # not for jackfield\n[tool.jackfield]\nname = 'y'\n"
    )
    document = find_document(None, str(tmp_path))
    assert document is not None and document.table == {"name": "y"}
    assert document.place(("name",)).endswith("pyproject.toml:4")
    (tmp_path / "jackfield.toml").write_text("name = 'z'")
    document = find_document(None, str(tmp_path))
    assert document is not None and document.table == {"name": "z"}
    (tmp_path / "other.toml").write_text("name = 'named'")
    assert resolved(tmp_path, None, "-c", str(tmp_path / "other.toml")).servers[0].name == "named"
    assert resolved(tmp_path, None, JACKFIELD_CONFIG=str(tmp_path / "other.toml")).servers[0].name == "named"
    assert resolved(tmp_path, None, "-c", "/dev/null").servers[0].name is None
    with pytest.raises(UsageError, match=r"cannot read the configuration .*: No such file"):
        resolved(tmp_path, None, "-c", str(tmp_path / "nothing.toml"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_document(str(tmp_path))
    (tmp_path / "pyproject.toml").write_text("[tool]\n")
    with pytest.raises(UsageError, match=r"has no \[tool\.jackfield\]"):
        read_document(str(tmp_path / "pyproject.toml"))


def test_several_servers_in_a_project_have_their_lines(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\n[tool.jackfield]\nmode = 'thread'\n[[tool.jackfield.server]]\nname = 'a'\nbind = ':1'\n"
        "[tool.jackfield.server.tls]\ncert = 'a.pem'\n[[tool.jackfield.server]]\nname = 'b'\nbind = ':2'\n"
        "[tool.other]\nname = 'y'\n"
    )
    a, b = resolved(tmp_path).servers
    lines = [options.origins[name].text.rpartition(":")[2] for options, name in
             ((a, "mode"), (a, "name"), (a, "tls_cert"), (b, "name"), (b, "bind"))]  # fmt: skip
    assert (a.name, a.tls_cert, b.name, b.tls_cert) == ("a", "a.pem", "b", None)
    assert lines == ["4", "6", "9", "11", "12"]


def test_what_is_wrong_with_the_project_of_others_is_not_ours_to_say(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[broken")
    assert find_document(None, str(tmp_path)) is None
    (tmp_path / "pyproject.toml").write_text("[broken # jackfield")
    with pytest.raises(UsageError, match="no TOML"):
        find_document(None, str(tmp_path))


def test_without_a_file_nothing_is_imported_that_reads_one(tmp_path: Path) -> None:
    """tomllib is milliseconds; the broken case is a file."""
    script = (
        "import argparse, sys; from jackfield.cli.configuration import resolve;"
        " resolve(argparse.Namespace(spoken=()), environment={}); print('tomllib' in sys.modules)"
    )

    def imports() -> bytes:
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            timeout=SECONDS,
            check=True,
            env=ENVIRONMENT,
        )
        return done.stdout.strip()

    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert imports() == b"False"
    (tmp_path / "jackfield.toml").write_text("")
    assert imports() == b"True"


def _configurations() -> list[Any]:
    """The blocks of TOML in the documentation."""
    found = []
    for page in sorted((Path(__file__).parents[2] / "docs").glob("*.md")):
        for number, block in enumerate(re.findall(r"(?ms)^```toml\n(.*?)^```", page.read_text())):
            found.append(pytest.param(block, id=f"{page.name}:{number}"))
    return found


@pytest.mark.parametrize("text", _configurations())
def test_what_the_documentation_writes_is_a_configuration(text: str, tmp_path: Path) -> None:
    assert told(tmp_path, text) == []
    assert told(tmp_path, text + "\nno_such_key = 1\n") != []


def test_the_documentation_has_some() -> None:
    assert len(_configurations()) >= 2
