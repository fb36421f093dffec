"""Print a script that lets a shell complete usertune's commands, options and file names by the Tab key.

The script holds the words themselves, so pressing Tab starts no Python. Once for each shell, and again after an update
of usertune:

    bash   usertune completion bash > ~/.local/share/bash-completion/completions/usertune
    zsh    usertune completion zsh > a folder of $fpath, as the file _usertune
    fish   usertune completion fish > ~/.config/fish/completions/usertune.fish
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from usertune.cli import main

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``usertune completion``."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that completes")


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    # Not at the top: of all subcommands this one alone needs it.
    import shtab

    parser = main.whole_parser(with_arguments=True)
    for action in _actions(parser):
        if action.type is Path:
            # shtab reads this attribute, which argparse does not know.
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all arguments of a parser and of its subparsers."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
