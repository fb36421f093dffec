"""HTML pages that load nothing from the network and run only scripts that their content security policy names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from usertune.core import formatting

VENDOR = Path(__file__).with_name("vendor")
# In JSON these stand for themselves in strings only, so escaping them changes no value. "<" could end the script
# element or open a comment in it; the separators end a line in older JavaScript.
_ESCAPED = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"})


@dataclass(frozen=True)
class Package:
    """A front-end library as its package has it: ``usertune/reporting/vendor/packages.json``."""

    name: str
    version: str
    license: str
    license_text: str
    scripts: tuple[str, ...]
    styles: tuple[str, ...]


@cache
def vendored(name: str) -> Package:
    """Return a library whose files are copied from its package."""
    entry = json.loads((VENDOR / "packages.json").read_text(encoding="utf-8"))[name]
    texts = {Path(file).name: (VENDOR / name / Path(file).name).read_text(encoding="utf-8") for file in entry["files"]}
    of_kind = {kind: tuple(text for file, text in texts.items() if file.endswith(kind)) for kind in (".js", ".css")}
    return Package(name, entry["version"], entry["license"], texts["LICENSE"], of_kind[".js"], of_kind[".css"])


def template_text(name: str) -> str:
    """Return the text of a file in ``templates/``."""
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")


def render(
    template: str, context: Mapping[str, Any], styles: Sequence[str], scripts: Sequence[str] = (), images: str = "data:"
) -> str:
    """Return a page.

    Args:
        template: name of its template, which writes the policy ``policy``, the style sheets ``page_styles`` and the
            scripts ``page_scripts``.
        context: what else the template shows.
        styles: texts of its style sheets.
        scripts: texts of its scripts, in the order in which they run.
        images: sources of images that the page may show, as the policy writes them.
    """
    environment = Environment(
        loader=PackageLoader("usertune.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": breakable,
        "count": lambda value: formatting.NOT_AVAILABLE if value is None else f"{value:,}",
        "percent": lambda value: formatting.NOT_AVAILABLE if value is None else formatting.percent(value),
        "line": formatting.printable,
    }
    return environment.get_template(template).render(
        **context,
        page_styles=[Markup(text) for text in styles],  # noqa: S704 (files of this package)
        page_scripts=[Markup(text) for text in scripts],  # noqa: S704 (files of this package)
        policy=policy(styles, scripts, images),
    )


def policy(styles: Sequence[str], scripts: Sequence[str], images: str) -> Markup:
    """Return a content security policy that allows these style sheets and scripts, by their digests, and no others."""
    allowed = {"img-src": images, "style-src": _hashes(styles), "script-src": _hashes(scripts)}
    parts = [f"{name} {sources}" for name, sources in allowed.items() if sources]
    text = "; ".join(["default-src 'none'", *parts, "base-uri 'none'", "form-action 'none'"])
    return Markup(text)  # noqa: S704 (no text of a user)


def json_block(value: Any) -> Markup:
    """Return JSON for a ``script`` element: whatever the texts in it hold, the element ends after it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPED))  # noqa: S704 (escaped above)


def breakable(key: str) -> Markup:
    """Return a key as HTML in which lines may break after dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", key))


def _hashes(texts: Sequence[str]) -> str:
    digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
