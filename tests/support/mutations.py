"""What is done to good input to make it bad: to its bytes, and to its values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HOSTILE_TEXTS = (
    "",
    " ",
    "..",
    "/etc/passwd",
    "../../x",
    "-rf",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "<script>alert(1)</script>",
    "{wildcards.user}",
    "{text}",
    "%s%n",
    "a\0b",
    "a\nb",
    "a\rb",
    "\ud800",
    "\u202egpj.exe",
    "\uff11",
    "x" * 5000,
    "1-3",
    "1-999999999999",
    "nan",
    "1e400",
    "null",
    "lora",
    "vanilla",
)
# What parsers of JSON and YAML trip over. Python refuses to read an integer of more than 4,300 digits.
FRAGMENTS = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\t", b" ", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b"[", b"]", b"{", b"}", b":", b",", b'"', b"'", b"\\", b"#", b"- ", b": ", b"? ", b"%", b"|\n"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1" * 5000, b"-7", b"0x" + b"f" * 4000, b"2020-99-99"),
    *(
        b"[" * 1100,
        b'{"a":' * 1100,
        b"\\ud800",
        b"\\u0000",
        b"\\n",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!int ",
        b"!!set ",
        b"!!x ",
    ),
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**400)])
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(HOSTILE_TEXTS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def changed_bytes(draw: st.DrawFn, original: bytes) -> bytes:
    """Return ``original`` after up to five cuts, overwritten bytes, insertions, removals or repetitions."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["cut", "overwrite", "insert", "insert bytes", "remove", "repeat"])):
            case "cut":
                del content[start:]
            case "overwrite":
                content[start : start + 1] = draw(st.binary(min_size=1, max_size=1))
            case "insert":
                content[start:start] = draw(st.sampled_from(FRAGMENTS))
            case "insert bytes":
                content[start:start] = draw(st.binary(max_size=8))
            case "remove":
                del content[start:end]
            case "repeat":
                content[end:end] = content[start:end]
    return bytes(content)


@st.composite
def changed_value(draw: st.DrawFn, original: Any, replacements: st.SearchStrategy[Any] = values) -> Any:
    """Return a copy of nested lists and dicts in which up to three items were replaced, removed, renamed or added."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        items = list(_items(value))
        if not items:
            return value
        container, key = draw(st.sampled_from(items))
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "swap"])):
            case "replace":
                container[key] = draw(replacements)
            case "remove":
                del container[key]
            case "rename" if isinstance(container, dict):
                container[draw(st.text(max_size=8) | st.sampled_from(_keys(original)))] = container.pop(key)
            case "swap":
                other, other_key = draw(st.sampled_from(items))
                container[key] = copy.deepcopy(other[other_key])
            case _:
                addition = draw(replacements)
                if isinstance(container, list):
                    container.insert(key, addition)
                else:
                    container[draw(st.text(max_size=8) | st.sampled_from(_keys(original)))] = addition
    return value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every item of a nested value, as its container and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _items(inner)


def _keys(value: Any) -> list[str]:
    return sorted({key for container, key in _items(value) if isinstance(container, dict)})
