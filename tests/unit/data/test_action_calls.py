"""Actions that are written as calls."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from usertune.data.action_calls import parse_call
from usertune.tasks.truth import DIRECTIONS, Truth

POINT = (336.0, 1267.0)
TEXT = st.text(st.characters(), max_size=30) | st.text("'\"\\,()=n\n x中", max_size=12)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("click(coordinates=(336, 1267), content='搜索')", Truth("click", point=POINT, element="搜索")),
        ('click(coordinates=(336,1267),content="it\'s")', Truth("click", point=POINT, element="it's")),
        ("click(coordinates=(336.5, -1), content='')", Truth("click", point=(336.5, -1.0), element="")),
        ("click(coordinates=(336, 1267))", Truth("click", point=POINT)),
        ("long_click(coordinates=(336, 1267), content='x')", Truth("long_press", point=POINT, element="x")),
        ("type(text='你好, (world)')", Truth("type", text="你好, (world)")),
        ("scroll(coordinates=(336, 1267), direction='up')", Truth("scroll", point=POINT, direction="up")),
        ("press_back()", Truth("press", key="back")),
        ("press_home()", Truth("press", key="home")),
        ("press_recent( )", Truth("press", key="recent")),
        ("press(key='enter')", Truth("press", key="enter")),
        ("wait()", Truth("wait")),
        (" finished()\n", Truth("finish")),
        # Not escaped, as from a writer that puts the text between quotes and no more.
        ("type(text='it's (5'), 6'')", Truth("type", text="it's (5'), 6'")),
        (r"type(text='C:\new\dir')", Truth("type", text=r"C:\new\dir")),
        (r"type(text='a\nb \'c\' \u4e2d')", Truth("type", text="a\nb 'c' 中")),
        ("type(text='a\nb')", Truth("type", text="a\nb")),
        (r"type(text='\U00110000')", Truth("type", text=r"\U00110000")),
    ],
)
def test_every_action_is_read(text: str, truth: Truth) -> None:
    assert parse_call(text) == truth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not an action of this format; the actions are click, long_click, type, scroll, press_back"),
        ("tap(coordinates=(1, 2))", "is not an action of this format"),
        ("click", "is not an action of this format"),
        ("click(coordinates=(1, 2), content='x'", "is not an action of this format"),
        ("click(coordinates=(1, 2)) or __import__('os').remove('canary')", "the arguments of click have another form"),
        ("__import__('os').remove('canary')", "is not an action of this format"),
        ("click(coordinates=(__import__('os').remove('canary'), 2), content='x')", "the arguments of click"),
        ("click(coordinates=[1, 2], content='x')", "the arguments of click have another form"),
        ("click(coordinates=(1e3, 2), content='x')", "the arguments of click"),
        ("click(coordinates=(nan, 2), content='x')", "the arguments of click"),
        ("click(coordinates=(1234567890123, 2), content='x')", "the arguments of click"),
        ("click(coordinates=(\u0661, 2), content='x')", "the arguments of click"),
        ("click(content='x', coordinates=(1, 2))", "the arguments of click"),
        ("scroll(coordinates=(1, 2), direction='sideways')", "the arguments of scroll"),
        ("scroll(coordinates=(1, 2))", "the arguments of scroll"),
        ("type(text=5)", "the arguments of type"),
        ("finished(status='ok')", "the arguments of finished"),
    ],
)
def test_another_form_is_refused_and_nothing_is_executed(
    text: str, message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("canary").touch()
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_call(text)
    assert pathlib.Path("canary").exists()


@settings(deadline=None)
@given(TEXT, st.integers(-(10**8), 10**8), st.integers(-(10**8), 10**8))
def test_a_text_that_python_quotes_comes_back(text: str, x: int, y: int) -> None:
    truth = parse_call(f"click(coordinates=({x}, {y}), content={text!r})")
    assert truth == Truth("click", point=(x, y), element=text)
    assert parse_call(f"type(text={text!r})").text == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\\"), max_size=30), st.sampled_from("'\""))
@example("'), content=('", "'")
def test_a_text_between_bare_quotes_comes_back(text: str, quote: str) -> None:
    assert parse_call(f"click(coordinates=(1, 2), content={quote}{text}{quote})").element == text


@settings(deadline=None)
@given(st.text(st.characters(), max_size=60) | st.text("click(ordnates=12, )'\"\\ypep_bsrolwfhd", max_size=60))
@example("click(" + "(" * 50)
def test_any_text_is_an_action_or_is_refused(text: str) -> None:
    try:
        truth = parse_call(text)
    except ValueError as error:
        json.dumps(str(error)).encode()
        assert len(str(error)) < 300
        return
    assert truth.direction in (None, *DIRECTIONS)


def test_a_long_text_is_read_in_time() -> None:
    for middle in ("'" * 100_000, "(" * 100_000, " " * 100_000, "\\" * 100_000, "\\'" * 100_000):
        assert parse_call(f"type(text='{middle}')").text is not None
