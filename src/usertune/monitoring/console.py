"""Consoles of `rich` for the terminal and for files."""

from __future__ import annotations

from typing import IO

from rich.console import Console


class _Screen(Console):
    """A console that never hides the cursor: a program that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def console_of(stream: IO[str], no_color: bool = False, width_of_files: int | None = None) -> Console:
    """Return the console of a stream; what it prints is never interpreted as markup.

    Args:
        stream: such as ``sys.stdout``.
        no_color: use no colours. ``NO_COLOR`` in the environment does the same.
        width_of_files: width of tables if the stream is no terminal; default: 80.
    """
    if hasattr(stream, "reconfigure"):
        # A character that the terminal cannot show must not end the program.
        stream.reconfigure(errors="backslashreplace")
    width = None if stream.isatty() else width_of_files
    return _Screen(file=stream, width=width, highlight=False, markup=False, emoji=False, no_color=no_color or None)
