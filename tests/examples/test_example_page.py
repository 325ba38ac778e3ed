"""docs/examples.md, and what each example says of itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from examples_page import BEGIN, END, EXAMPLES, PAGE, commands, docstring, filled, sentence

#: What is no handler, so that the command has nothing to serve.
OTHERS = {"notes_client.py", "notes_server.py", "ping.py", "test_line_protocol.py"}

by_example = pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)


def what_is_missing(path: Path) -> list[str]:
    """What an example does not say, and what it says that is not so."""
    text, missing = docstring(path), []
    first = commands(text)[0]
    if not re.match(rf"(python|python -m pytest) examples/{path.name}\b", first):
        missing.append(f"the command that runs {path.name}, before anything else")
    if path.name in OTHERS:
        return missing
    served = re.search(r"jackfield serve --app-dir\s+examples\s+(\w+):(\w+)", text)
    classes = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    if not served or served[1] != path.stem or served[2] not in classes:
        missing.append("the command jackfield serve with its handler")
    mode = re.search(r"\bMode\s+(\w+)", text)
    if not mode or mode[1] not in ("thread", "green", "async"):
        missing.append("the mode, and why")
    elif (mode[1] == "green") != ('mode="green"' in path.read_text()):
        missing.append("the mode in which it serves")
    if len(commands(text)) < 2:
        missing.append("the command that talks to it")
    return missing


@by_example
def test_each_says_how_it_is_run_and_talked_to_and_in_which_mode_and_why(path: Path) -> None:
    assert what_is_missing(path) == []


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text() == filled(PAGE.read_text()), "write it anew: python tests/examples/examples_page.py"


def test_what_an_example_does_not_say_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    whole = (
        '"""A thing.\n\n    python examples/thing.py [ADDRESS]\n    curl it\n\n``jackfield serve --app-dir examples '
        'thing:Thing`` too. Mode green, as it waits.\n"""\n\nclass Thing: ...\n\nserve(mode="green")\n'
    )
    path.write_text(whole)
    assert what_is_missing(path) == []
    for old, new in [
        ("examples/thing.py", "examples/other.py"), ("thing:Thing", "thing:Other"), ("Mode green", "In green"),
        ('mode="green"', ""), ("    curl it\n", ""),
    ]:  # fmt: skip
        path.write_text(whole.replace(old, new))
        assert len(what_is_missing(path)) == 1, old


def test_a_page_that_is_out_of_date_is_found_out() -> None:
    stale = f"# Examples\n\n{BEGIN}\nnone\n{END}\nthe rest\n"
    assert filled(stale) != stale and filled(stale).endswith(f"{END}\nthe rest\n")
    assert sentence("One, e.g.\nthis. Two.") == "One, e.g."
    with pytest.raises(ValueError, match="there has to be one"):
        filled("# Examples\n")
