"""The command ``usertune``: imports the module of the subcommand that was typed, no other, and runs it."""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import usertune
from usertune.runtime.environment import problem

# The catalogue of subcommands. Each is a module with `add_arguments(parser)` and `run(arguments)`; its docstring is
# what --help shows.
COMMANDS = {
    "status": "usertune.cli.status",
    "explain": "usertune.cli.explain",
    "audit": "usertune.cli.audit",
    "check": "usertune.cli.check",
    "import": "usertune.cli.import_",
    "export": "usertune.cli.export",
    "compare": "usertune.cli.compare",
    "serve": "usertune.cli.serve",
    "track": "usertune.cli.track",
    "users": "usertune.cli.users",
    "survey": "usertune.cli.survey",
    "show": "usertune.cli.show",
    "schema": "usertune.cli.schema",
    "demo": "usertune.cli.demo",
    "completion": "usertune.cli.completion",
}
DESCRIPTION = """\
See how far a study is, why a result is stale, and whether results and data hold.

Snakemake runs a study (snakemake --profile local); these commands read it. They write nothing, but for import,
export, survey, show, schema and demo. Each has a --help of its own:

    usertune status --help
"""


class Parser(argparse.ArgumentParser):
    """A parser that shows a docstring as it is written, and answers a mistake with one line.

    Args:
        prog: the command as people type it.
        description: the docstring.
        options: further arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **options: Any) -> None:
        shown = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, None, description, formatter_class=shown, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line: what is wrong, what may have been meant, where help is."""
        head, _, words = message.partition("unrecognized arguments: ")
        if words and not head:
            message += did_you_mean(words.split()[0], self._option_string_actions)
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def main() -> None:
    """Run the subcommand that the command line names, and leave with its exit code."""
    if said := problem():
        sys.exit(said)
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        from usertune.runtime import step_main

        command = import_module(COMMANDS[words[0]])
        parser = Parser(f"usertune {words[0]}", command.__doc__)
        add_arguments(parser, words[0])
        step_main.run(parser, command.run, words[1:])
        return
    everything = whole_parser()
    if not words:
        everything.print_help()
        everything.exit(2)
    if not words[0].startswith("-"):
        everything.error(f"no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; commands: {', '.join(COMMANDS)}")
    everything.parse_args(words)


def whole_parser(with_arguments: bool = False) -> argparse.ArgumentParser:
    """Return a parser that knows all subcommands.

    Args:
        with_arguments: import the modules of all subcommands, so that their arguments are known too.
    """
    parser = Parser("usertune", DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"usertune {usertune.__version__}")
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        subcommand = subcommands.add_parser(name, help=summary(module))
        if with_arguments:
            add_arguments(subcommand, name)
    return parser


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments of a subcommand, and those that all subcommands have."""
    import_module(COMMANDS[name]).add_arguments(parser)
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write messages and errors to this file")


def summary(module: str) -> str:
    """Return the first sentence of a module's docstring; the module is read, not imported."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"{module} is in the catalogue of commands, and there is no such module")
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


def did_you_mean(word: str, known: Any) -> str:
    """Return a question that names what is spelt almost like ``word``; nothing where nothing is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
