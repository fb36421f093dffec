"""The commands that the README, the docs, the profiles and the programs show, and running them as dry runs."""

from __future__ import annotations

import ast
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.forked_snakemake import run_each
from usertune.cli.main import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (
    *(REPOSITORY / name for name in ("README.md", "results/README.md", "demo/base/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
)
# A command in a comment.
SOURCES = (
    *(REPOSITORY / name for name in ("Snakefile", "config.yaml")),
    *sorted(REPOSITORY.glob("configs/*.yaml")),
    *sorted(REPOSITORY.glob("profiles/*/config.yaml")),
    *sorted(REPOSITORY.glob("envs/*.yaml")),
    *sorted(REPOSITORY.glob("rules/*.smk")),
)
# Where it is in the docstring of a program.
PROGRAMS = (
    *sorted(REPOSITORY.glob("scripts/*.py")),
    *sorted(REPOSITORY.glob("benchmarks/*.py")),
    *sorted(REPOSITORY.glob("src/usertune/cli/*.py")),
)
IN_CODE = r"(?:snakemake|usertune(?= [a-z])|python3? (?:scripts|benchmarks)/\w+\.py)"
IN_PROSE = re.compile(rf"`({IN_CODE}(?: [^`]+)?)`")
# Where a sentence may begin with "usertune".
NAME = IN_CODE.replace("[a-z]", rf"(?:{'|'.join(COMMANDS)})\b")
IN_COMMENT = re.compile(rf"^(?:#.*?[: ] *|# +)({NAME} .*)$", re.MULTILINE)
# With its continuation lines: after a backslash, or indented more.
IN_DOCSTRING = re.compile(rf"^    ((?:make [a-z-]+ && )?{NAME}.*(?:\n      +\S.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One command as it is shown; ``words`` are its arguments without comments."""

    page: str
    text: str

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.text, comments=True))


def commands() -> list[Command]:
    """Return every command line that a person may copy, in the order of the documents."""
    found = []
    for page in PAGES:
        name = page.relative_to(REPOSITORY).as_posix()
        text = page.read_text()
        for block in re.findall(r"^( *)```console\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            found += [Command(name, line) for line in _lines(block[1])]
        found += [Command(name, text) for text in IN_PROSE.findall(text)]
    for source in SOURCES:
        name = source.relative_to(REPOSITORY).as_posix()
        text = source.read_text()
        found += [Command(name, text) for text in IN_PROSE.findall(text)]
        found += [Command(name, text) for text in IN_COMMENT.findall(text) if "`" not in text]
    for program in PROGRAMS:
        name = program.relative_to(REPOSITORY).as_posix()
        docstring = ast.get_docstring(ast.parse(program.read_text())) or ""
        found += [Command(name, text.replace("\\\n", " ")) for text in IN_DOCSTRING.findall(docstring)]
    return [command for command in found if command.words]


def _lines(block: str) -> list[str]:
    """Return the commands of a console block: where some lines begin with a prompt, those alone."""
    lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
    prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return prompted or [line for line in lines if line and not line.startswith("#")]


def run_snakemake(folder: Path, runs: list[tuple[str, ...]]) -> list[tuple[int, str]]:
    """Run Snakemake with each list of arguments, one after the other; return exit codes and what was said."""
    environment = {key: value for key, value in os.environ.items() if key != "SNAKEMAKE_PROFILE"}
    # For stand-ins of programs that are not here.
    environment["PATH"] = os.pathsep.join([str(folder / "bin"), environment["PATH"]])
    return run_each(runs, folder, {**environment, "CUDA_VISIBLE_DEVICES": ""})
