"""Answers are read alike by every release of Python.

Before Python 3.11.5, `re` matches some patterns wrongly in which a possessive quantifier follows a group, and says
nothing (https://github.com/python/cpython/issues/106052). An atomic group, ``(?>(...)?)`` for ``(...)?+``, means the
same and is right in all of them.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usertune.tasks.points.examples import EXAMPLES
from usertune.tasks.points.forms import read

SOURCES = Path(__file__).resolve().parents[3] / "src"
POSSESSIVE = r"(?:[?*+]|\{\d*,?\d*\})\+"
AFTER_A_GROUP, AT_THE_START = re.compile(rf"(?<!\\)\){POSSESSIVE}"), re.compile(POSSESSIVE)
# `.ci/run` names one.
NAMED = "USERTUNE_OTHER_PYTHON"
OTHERS = (*(f"python3.{minor}" for minor in range(11, 20)), "/usr/bin/python3")
# Reads texts, a JSON list, with the sources of its argument.
READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from usertune.tasks.points.forms import read
json.dump([read(text) for text in json.load(sys.stdin)], sys.stdout)
"""


def broken_patterns(source: str) -> Iterator[int]:
    """Yield the lines of texts in which a possessive quantifier follows a group, or a value of an f-string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and AFTER_A_GROUP.search(node.value):
            yield node.lineno
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    yield from [node.lineno] if AT_THE_START.match(text.value) else []


@pytest.mark.parametrize(
    ("pattern", "broken"),
    [
        ('r"(?:ab)?+"', True),
        ('r"(a|b)*+c"', True),
        ('r"(a){0,4}+"', True),
        ('rf"{NUMBER}?+"', True),
        ('rf"{NUMBER}{{2}}+"', True),
        ('r"(?>(?:ab)?)[0-9]++\\s*+\\)?+"', False),
        ('rf"{NUMBER}(?>{PERCENT}?)"', False),
    ],
)
def test_broken_patterns_are_found(pattern: str, broken: bool) -> None:
    assert bool(list(broken_patterns(pattern))) == broken


def test_no_pattern_is_one_that_older_releases_match_wrongly() -> None:
    found = [f"{file}:{line}" for file in SOURCES.rglob("*.py") for line in broken_patterns(file.read_text("utf-8"))]
    assert not found, "write an atomic group, (?>(...)?) for (...)?+"


def _version(python: str) -> str:
    done = subprocess.run([python, "-V"], capture_output=True, text=True)
    return "" if done.returncode else done.stdout.split()[1]


def other_python() -> str:
    """Return a Python of another release than this one."""
    if named := os.environ.get(NAMED):
        return named
    own = sys.version.split()[0]
    for python in filter(None, map(shutil.which, OTHERS)):
        version = _version(python)
        if version and version != own and tuple(map(int, version.split(".")[:2])) >= (3, 11):
            return python
    pytest.skip(f"there is no other Python from 3.11 on; {NAMED} can name one")


def test_another_release_of_python_reads_every_example_alike() -> None:
    texts = [example.text for example in EXAMPLES]
    words = [other_python(), "-I", "-c", READER, str(SOURCES)]
    done = subprocess.run(words, input=json.dumps(texts), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(zip(texts, json.loads(done.stdout), strict=True))
    assert found == {text: json.loads(json.dumps(read(text))) for text in texts}
