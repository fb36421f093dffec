"""Catalogues of plug-ins: the name of each, and where it is. A plug-in is imported when it is used, not before.

So a catalogue does not import its entries: planning stays quick, and the code version of a step (see
`usertune.runtime.code_version`) counts the plug-ins that its study chose, not all that there are.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError, shown


@dataclass(frozen=True)
class Catalogue:
    """The plug-ins of one kind.

    Args:
        kind: what they are, for messages, such as "task".
        entries: name -> dotted path of the module, a colon, and the object in it: ``"usertune.tasks.text:TextTask"``.
    """

    kind: str
    entries: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def load(self, name: str) -> Any:
        """Import a plug-in and return it.

        Raises:
            UserError: there is no plug-in of this name; the message lists those that exist.
        """
        module, _, attribute = self._entry(name).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def module(self, name: str) -> str:
        """Return the dotted path of a plug-in's module.

        Raises:
            UserError: see `load`.
        """
        return self._entry(name).partition(":")[0]

    def constant(self, name: str, constant: str) -> Any:
        """Return a constant of a plug-in's module without importing the module, which may need torch or matplotlib.

        Args:
            name: name of the plug-in.
            constant: name of the constant; its value is a literal.

        Raises:
            UserError: see `load`.
            ValueError: the module has no such constant, or its value is not a literal.
        """
        file, constants = _constants(self.module(name))
        if constant not in constants:
            raise ValueError(f"{file}: a {self.kind} needs the constant {constant}; see docs/extending.md")
        try:
            return ast.literal_eval(constants[constant])
        except ValueError:
            place = f"{file}:{constants[constant].lineno}"
            raise ValueError(f"{place}: {constant} must be a literal, since the module is not imported") from None

    def _entry(self, name: str) -> str:
        # A name from a file may be anything, also something that cannot be looked up.
        if not isinstance(name, str) or name not in self.entries:
            raise UserError(f"{self.kind}: {shown(name)} is not known; use one of: {', '.join(sorted(self.entries))}")
        return self.entries[name]


@cache
def _constants(module: str) -> tuple[str, dict[str, ast.expr]]:
    """Return the file of a module, and the values that it assigns to names at its top level."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found: dict[str, ast.expr] = {}
    for statement in ast.parse(Path(spec.origin).read_bytes()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
    return spec.origin, found
