"""Catalogues of plug-ins: the name and the dotted path of each. A plug-in is imported only when it is used.

This keeps planning fast, and the code version of a step (see `usertune.runtime.code_version`) covers only the plug-ins
that the study chose.
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

_NEEDED = object()


@dataclass(frozen=True)
class Catalogue:
    """The plug-ins of one kind.

    Args:
        kind: their kind as shown in messages, such as "task".
        entries: name -> module and object, such as ``"usertune.tasks.text:TextTask"``.
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

    def constant(self, name: str, constant: str, default: Any = _NEEDED) -> Any:
        """Return a constant of a plug-in's module without importing the module, which may load torch or matplotlib.

        Args:
            name: name of the plug-in.
            constant: name of the constant; its value is a literal.
            default: value if the module has no such constant; without it, every module needs one.

        Raises:
            UserError: see `load`.
            ValueError: the module lacks a constant that it needs, or the value is not a literal.
        """
        file, constants = _constants(self.module(name))
        if constant not in constants:
            if default is not _NEEDED:
                return default
            raise ValueError(f"{file}: a {self.kind} needs the constant {constant}; see docs/extending.md")
        try:
            return ast.literal_eval(constants[constant])
        except ValueError:
            location = f"{file}:{constants[constant].lineno}"
            raise ValueError(f"{location}: {constant} must be a literal, since the module is not imported") from None

    def _entry(self, name: str) -> str:
        # A name read from a file can have any type, even an unhashable one.
        if not isinstance(name, str) or name not in self.entries:
            raise UserError(f"{self.kind}: {shown(name)} is not known; use one of: {', '.join(sorted(self.entries))}")
        return self.entries[name]


@cache
def _constants(module: str) -> tuple[str, dict[str, ast.expr]]:
    """Return the file of a module, and the values that its top level assigns to names."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found: dict[str, ast.expr] = {}
    for statement in ast.parse(Path(spec.origin).read_bytes()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
    return spec.origin, found
