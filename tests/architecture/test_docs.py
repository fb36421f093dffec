"""What the README and the docs show is what the program takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from usertune.data.readers.catalogue import get_reader
from usertune.data.readers.messages import parse_line
from usertune.study.load import study_from_config
from usertune.tasks.catalogue import get_task
from usertune.tasks.truth import Truth

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        found += [
            (page.name, text) for text in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)
        ]
    return found


def test_every_sample_shown_is_a_good_sample() -> None:
    shown = blocks("json")
    assert {name for name, _ in shown} == {"README.md", "data.md"}
    for _, text in shown:
        sample = parse_line(json.dumps(json.loads(text)), "7", 1)
        answer = "".join(part["text"] for part in sample.messages[-1]["content"])
        assert get_task("grounding").target_from_answer(answer) == {"point": [311, 541]}


def test_the_entries_of_androidcontrol_shown_are_read(tmp_path: Path) -> None:
    ((name, text),) = blocks("jsonl")
    assert name == "data.md"
    # Each entry begins at a line of its own.
    entries = [json.loads(f"{{{entry}") for entry in text.strip().removeprefix("{").split("\n{")]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    found = [sample for _, sample in get_reader("androidcontrol", tmp_path).read("all")]
    tap = Truth("click", point=(540, 210))
    assert [getattr(sample, "truth", sample) for sample in found] == [Truth("open_app", text="Mail"), tap, tap]


def test_every_study_shown_is_a_valid_study() -> None:
    shown = blocks("yaml")
    assert shown
    for _, text in shown:
        assert study_from_config(yaml.safe_load(text)).experiments


def test_the_prompts_shown_name_a_form_of_answer_that_is_read() -> None:
    shown = [text for name, text in blocks("yaml") if name == "README.md"]
    shown.append((REPOSITORY / "configs" / "qwen3-vl-8b.yaml").read_text())
    for text in shown:
        _, form = study_from_config(yaml.safe_load(text)).dataset.prompt.user.split("{text}")
        answer = form[form.index("```") :]
        assert answer == "```grounding\n[x, y]\n```"
        assert get_task("grounding").parse(answer.replace("x, y", "311, 541")) == (311, 541)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
