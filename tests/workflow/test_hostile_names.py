"""Names from strangers: those of users are refused, all others are only ever names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.workplace import Workplace, refused

pytestmark = pytest.mark.workflow

# Every character with a meaning for shells, for Snakemake's quoting, for CSV or for HTML, and letters of others.
STRANGE = "a b'c\"$(touch pwned)`touch pwned`;&|*?[d]!#%s\\ ,=: \u00fc\u4e2d\U0001f600"
HOSTILE_TEXTS = (
    "$(touch pwned)",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "`touch pwned`",
    'first line\nsecond line, "quoted"',
    "<script>alert('pwned')</script>",
    "{wildcards.user} {text} <results>",
    "=1+1",
    "007",
    "NA",
    "\u202e\u4e2d\U0001f600",
)


def _replace_texts(file: Path, texts: tuple[str, ...]) -> None:
    """Give a user's first sample once for each text, as its id, its episode and its instruction."""
    sample = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
    screenshot = sample["messages"][0]["content"][0]
    (file.parent / screenshot["image"]).rename(file.parent / f"{file.stem} {STRANGE}.png")
    screenshot["image"] = f"{file.stem} {STRANGE}.png"
    lines = []
    for number, text in enumerate(texts):
        for part in sample["messages"][0]["content"]:
            if part["type"] == "text":
                part["text"] = f"Where is {text}?"
        lines.append(json.dumps({**sample, "id": text, "episode": text, "step": number}) + "\n")
    file.write_text("".join(lines), encoding="utf-8")


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


HOSTILE_USERS = ("../x", "$(touch pwned)", "a b", "`touch pwned`", "{user}", "\u0430lice")
# Old and new text of the study, and the key that is refused.
HOSTILE_FOLDERS = (
    ("results: results", 'results: "a{user}b"', "results"),
    ("  root: data", '  root: "<data>"', "dataset.root"),
    ("results: results", "results: -x", "results"),
    ("  root: data", '  root: "data\\0"', "dataset.root"),
)


def test_hostile_users_and_folders_that_the_workflow_cannot_name_are_refused_before_any_job(
    workplace: Workplace,
) -> None:
    variants = workplace.variants(len(HOSTILE_USERS) + len(HOSTILE_FOLDERS))
    expected = []
    for variant, name in zip(variants, HOSTILE_USERS, strict=False):
        line = variant.replace("  test: 1-2", f"  test: [1, {json.dumps(name)}]")
        expected.append(f"study.yaml:{line}: users.test: {name!r} is not a user id")
    for variant, (old, new, key) in zip(variants[len(HOSTILE_USERS) :], HOSTILE_FOLDERS, strict=True):
        expected.append(f"study.yaml:{variant.replace(old, new)}: {key}: ")
    for arguments in (("--dry-run",), ()):
        for output, said in zip(refused(variants, *arguments), expected, strict=True):
            assert said in output
    assert not list(workplace.folder.rglob("pwned"))


def test_a_hostile_user_on_the_command_line_is_refused(workplace: Workplace) -> None:
    code, output = workplace.snakemake("--dry-run", "--config", "test_users=../x")
    assert code != 0
    assert "users.test: '../x' is not a user id" in output
    assert "Traceback" not in output


def test_a_hostile_study_runs_and_nothing_in_it_does(workplace: Workplace) -> None:
    results = workplace.folder / f"results {STRANGE}"
    workplace.data.rename(workplace.folder / STRANGE)
    workplace.replace("  root: data", f"  root: {json.dumps(STRANGE, ensure_ascii=False)}")
    workplace.replace("results: results", f"results: {json.dumps(results.name, ensure_ascii=False)}")
    workplace.replace("report:\n", "report:\n  title: '{wildcards.user} $(touch pwned)'\n")
    for user in "12":
        _replace_texts(workplace.folder / STRANGE / f"user_{user}.jsonl", HOSTILE_TEXTS)
    workplace.run("vanilla")
    for user in "12":
        rows = _rows(results / f"scores/vanilla/user_{user}.csv")
        assert [(row["id"], row["episode"], row["step"]) for row in rows] == [
            (text, text, str(number)) for number, text in enumerate(HOSTILE_TEXTS)
        ]
        assert {row["user"] for row in rows} == {user}
    predictions = json.loads((results / "predictions/vanilla/users_1-2.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in predictions["predictions"]] == [*HOSTILE_TEXTS, *HOSTILE_TEXTS]
    assert "Nothing to be done" in workplace.run("vanilla")
    assert not list(workplace.folder.rglob("pwned"))
    assert not (Path.cwd() / "pwned").exists()
