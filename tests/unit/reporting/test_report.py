"""The report's content; how it looks in a browser is tested in tests/browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.support.stand_ins import MEASURED, StandInEngine
from tests.support.synthetic_study import browser_data_of
from usertune.core.errors import UserError
from usertune.core.hashing import digest, digest_file, step_fingerprint
from usertune.core.manifest import read_result
from usertune.evaluation.table_names import COSTS
from usertune.pipeline import steps
from usertune.reporting.figure_files import figure_files
from usertune.reporting.figures.catalogue import FIGURES
from usertune.reporting.sections.runs import cautions, effect_of, training_row
from usertune.reporting.sections.study import NONE, span_text
from usertune.runtime.code_version import code_version
from usertune.runtime.provenance import installed_versions
from usertune.study.load import study_from_config

Maker = Callable[..., Any]
TRAINING_USER = re.compile(r"data/user_[tv]")
HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> \x00\u202e"


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "circle", "rect", "path", "ellipse", "wbr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.texts and dict(self.tags[-1][1]).get("type") is None:
            self.texts[self.open[-1]].append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def policy(self, directive: str) -> set[str]:
        """The sources that the content security policy allows."""
        (text,) = (found["content"] or "" for name, found in self.tags if name == "meta" and "http-equiv" in found)
        return {source for part in text.split("; ") if part.startswith(directive) for source in part.split()[1:]}

    def digests(self, tag: str) -> set[str]:
        """The digests of the scripts or style sheets in the page, as a policy writes them."""
        found = (hashlib.sha256(text.encode()).digest() for text in self.texts[tag])
        return {f"'sha256-{base64.b64encode(digest).decode()}'" for digest in found}


def test_report_is_self_contained_and_well_formed(make_study: Maker) -> None:
    text = make_study(hostile=HOSTILE).report().read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    names = [name for name, _ in page.tags]
    scripts = [found.get("type") for name, found in page.tags if name == "script"]
    assert scripts == ["application/json", None, None, None]
    assert page.policy("script-src") == page.digests("script")
    assert page.policy("style-src") == page.digests("style")
    assert names.count("table") == 14
    for name, attributes in page.tags:
        assert not any(key.startswith("on") or key == "style" for key in attributes)
        for key in ("src", "href"):
            assert re.match(r"#|data:", attributes.get(key) or "#")
        if name == "img":
            assert attributes["alt"]
        if name == "th":
            assert attributes["scope"] in ("row", "col")
    assert "A &lt;b&gt;bold&lt;/b&gt; study" in text
    assert "<script>alert" not in text
    assert "\\u003cscript\\u003ealert(1)" in text
    assert "\x00" not in text


def test_the_report_counts_the_forms_of_answers(make_study: Maker) -> None:
    study = make_study(samples=20)
    rows = re.findall(r'<th scope="row">(?:not parsed: )?(\w+)</th>(.*?)</tr>', study.report().read_text(), re.S)
    counts = {form: re.findall(r"<td>([\d,]+)</td>", row) for form, row in rows if form in ("grounding_block", "none")}
    samples = pd.read_csv(study.root / "tables/samples.csv")
    expected = samples.groupby(["form", "experiment"]).size().unstack(fill_value=0)[list(study.experiments)]
    assert {form: [int(count) for count in row] for form, row in counts.items()} == expected.T.to_dict("list")
    assert expected.loc["none"].tolist()[0] > 0


def test_equal_inputs_give_equal_bytes(make_study: Maker) -> None:
    study = make_study()
    first = study.report().read_bytes()
    study.audit_file.unlink()
    assert study.report().read_bytes() == first


def test_the_manifest_of_the_report_has_its_lineage(make_study: Maker) -> None:
    study = make_study()
    page = study.report()
    text, manifest = page.read_text(encoding="utf-8"), read_result(study.root / steps.REPORT.manifest)
    outputs = [page, study.root / "study.yaml", study.root / "provenance.json"]
    outputs += [study.root / "tables" / name for name in COSTS]
    outputs += [study.root / "figures" / name for name in figure_files("cost_against_accuracy").values()]
    assert manifest["files"] == {path.name: digest_file(path) for path in outputs}
    figures = [read_result(path) for path in sorted((study.root / "figures").glob("*.manifest.json"))]
    data = [
        read_result(study.root / result_path) for result_path in study.results if result_path.startswith("data/user_")
    ]
    assert manifest["fingerprint"] == step_fingerprint(study.recipe(steps.REPORT.manifest), manifest["inputs"])
    assert manifest["inputs"] == {
        "audit": read_result(study.audit_file)["fingerprint"],
        "leakage": read_result(study.root / steps.LEAKAGE.manifest)["fingerprint"],
        "tables": read_result(study.root / steps.COMPARE.manifest)["fingerprint"],
        "figures": {figure["name"]: figure["fingerprint"] for figure in figures},
        "data": {user["user"]: digest([user["samples"], []]) for user in data},
    }
    assert [record["code"] for record in manifest["provenance"]] == [
        code_version("report", ("usertune.tasks.grounding", FIGURES.module("cost_against_accuracy")))
    ]
    for result_path in study.results:
        if result_path.startswith(
            ("data/user_", "predictions/", "checkpoints/", "scores/")
        ) and not TRAINING_USER.search(result_path):
            assert f'title="{read_result(study.root / result_path)["fingerprint"]}"' in text, result_path
    assert f'title="{manifest["fingerprint"]}"' in text


def test_screenshots_that_training_users_also_have_are_in_one_note(make_study: Maker) -> None:
    """In the synthetic study all users have the same twelve screenshots."""
    text = make_study().report().read_text(encoding="utf-8")
    (note,) = re.findall(r'<p id="leakage">(.*?)</p>', text)
    assert re.search(r"Of (\d+) test samples, \1 \(100.0 %\) show a screenshot that a training user also has", note)
    assert note.index("a training user") < note.index("a validation user") < note.index("validation samples")
    assert note.endswith("data/leakage.json.")


def test_the_time_of_the_answers_outlives_a_rerun_that_finds_them_all(make_study: Maker) -> None:
    study = make_study()

    def costs() -> str:
        study.report()
        return (study.root / "tables/cost.csv").read_text(encoding="utf-8")

    before_it = costs()
    assert before_it.count(f",{12 / 3600},") >= 3
    for result_path in [result_path for result_path in study.results if result_path.startswith("predictions/")]:
        (study.root / result_path).unlink()
    before = StandInEngine.generated
    study.make_all("predict", "score", "compare", "figure", "audit")
    assert StandInEngine.generated == before
    assert costs() == before_it


def test_the_report_says_what_was_done_with_what_and_when(make_study: Maker) -> None:
    study = make_study(changes={"experiments": {"lora": {"mode": "lora"}, "full_tuned": {"mode": "full"}}})
    text = study.report().read_text(encoding="utf-8")
    section = text[text.index('<section id="study"') : text.index('<section id="provenance"')]
    cells = [
        [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall("<tr.*?</tr>", section, re.S)
    ]
    rows = {row[0].strip(): row[1:] for row in cells}
    assert rows["train"] == ["t1,t2", "2", "24"]
    assert rows["validation"] == ["v1", "1", "12"]
    assert rows["test"] == ["1-2,10,ana", "4", "48"]
    assert rows["learning_rate differs"] == ["1e-4", "1e-5"]
    assert rows["epochs"] == ["1", "1"]
    assert rows["lora.rank"] == ["8", NONE]
    assert rows["micro_batch_size"] == ["1", "1"]
    assert rows["max_new_tokens"] == ["128", "128"]
    assert rows["base model"] == [str(study.root / "base")]
    assert rows["type"] == ["qwen3_vl"]
    assert rows["dataset.prompt.user"] == ["{text}"]
    assert rows["evaluation.thresholds"] == ["140, 70.5"]
    trained = read_result(study.root / "checkpoints/lora/manifest.json")["finished"]
    (scored,) = {read_result(path)["scored"][:16] for path in (study.root / "scores/lora").glob("*.json")}
    assert rows["lora"] == [span_text([trained]), "2026-03-04 10:00 UTC", span_text([scored])]
    assert study_from_config(yaml.safe_load((study.root / "study.yaml").read_text())) == study.study


def test_a_sample_of_text_alone_is_shown_without_a_screenshot(make_study: Maker) -> None:
    study = make_study()
    user = study.users[0]
    raw = study.dataset / f"user_{user}.jsonl"
    first, *rest = raw.read_text().splitlines()
    sample = json.loads(first)
    sample["messages"][0]["content"].pop(0)
    raw.write_text("\n".join([json.dumps(sample), *rest]))
    study.make_all("prepare", "leakage", "train", "predict", "score", "compare", "figure", "audit")
    text = study.report().read_text(encoding="utf-8")
    assert Page(text).open == []
    shown = browser_data_of(text)["samples"]
    alone = [identity for identity, picture in zip(shown["id"], shown["picture"], strict=True) if picture is None]
    assert alone == [sample["id"]]
    assert shown["size"][shown["id"].index(sample["id"])] is None


def test_skipped_samples_are_shown_with_their_reasons(make_study: Maker) -> None:
    study = make_study()
    text = study.report().read_text(encoding="utf-8")
    count = sum(
        read_result(study.root / result_path)["samples"]
        for result_path in study.results
        if result_path.startswith("data/user_")
    )
    assert f"No sample was skipped: all {count} samples of" in text
    assert 'id="skipped"' not in text
    trained = study.study.users.train[0]
    for user, name in ((study.users[0], "<b>bold</b>"), (trained, "missing")):
        with (study.dataset / f"user_{user}.jsonl").open("a") as raw:
            raw.writelines(json.dumps({"messages": [], f"{name}{number}": 1}) + "\n" for number in range(7))
        recipe = {**study.recipe(f"data/user_{user}.manifest.json"), "on_bad_sample": "skip"}
        study.make(f"data/user_{user}.manifest.json", recipe)
    study.make(steps.REPORT.manifest)
    text = (study.root / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert f"14 of {count + 14} samples, of 2 of {len(study.study.all_users)} users" in text
    assert f'<th scope="row">{trained}</th>\n        <td class="text">train</td>' in text
    assert "&lt;b&gt;bold&lt;/b&gt;0: unknown key" in text
    assert text.count("and 2 more; the user&#39;s manifest lists all") == 2


def test_differing_versions_are_flagged(make_study: Maker) -> None:
    pages = [make_study().report(), make_study("other", other_versions={"lora": {"transformers": "9.9"}}).report()]
    alike, text = (page.read_text(encoding="utf-8") for page in pages)
    assert text.count("differs:") == 1
    assert "9.9 (predict lora, train lora)" in text
    now = installed_versions()["transformers"]
    assert f"<li>training of lora: transformers 9.9 -&gt; {now}</li>" in text
    assert text.count("<li>") - alike.count("<li>") == 2
    assert ["other code or packages than the current ones" in page for page in (alike, text)] == [False, True]


def test_untrained_study_without_samples(make_study: Maker) -> None:
    text = make_study(experiments=["vanilla"]).report(samples="none").read_text(encoding="utf-8")
    assert "No experiment of this study is trained." in text
    assert text.count(">not used<") == 2, "train and validation users"
    assert 'id="samples"' not in text
    assert "samples-data" not in text
    assert text.count("<script") == 1
    assert "image/jpeg" not in text


def test_one_user(make_study: Maker) -> None:
    text = make_study(users=["7"]).report().read_text(encoding="utf-8")
    assert "n/a: needs 3 users" in text
    assert "(one user allows no test)" in text


def test_changed_or_missing_screenshots_are_refused(make_study: Maker) -> None:
    study = make_study()
    study.report()
    image = study.root / "dataset/images/1_0.png"
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"user 1, sample '1/0'.*changed since.*report.samples: texts"):
        study.report()
    image.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        study.report()
    assert study.report(samples="texts").exists()


def test_results_of_another_study_are_refused(make_study: Maker) -> None:
    study = make_study()
    study.report()
    with pytest.raises(UserError, match="full_tuned"):
        study.report(experiments=study.design["experiments"][:2])


@pytest.mark.parametrize(
    ("moved", "shown", "flagged"),
    [
        (0.0123, "1.23 %", False),
        (0.0, "did not move (0e+00)", True),
        (5e-7, "did not move (5e-07)", True),
        (None, "n/a", False),
    ],
)
def test_weights_that_did_not_move_are_flagged(moved: float | None, shown: str, flagged: bool) -> None:
    row = training_row("lora", {"weights_moved": moved})
    assert (row["moved"], row["not_moved"]) == (shown, flagged)


def test_experiments_that_answer_like_the_base_model_are_named_before_the_numbers(
    make_study: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "gives the answers of the base model" not in make_study("moved").report().read_text(encoding="utf-8")
    monkeypatch.setitem(MEASURED, "weights_moved", 0.0)
    monkeypatch.setitem(MEASURED, "attempts", 3)
    text = make_study("still").report().read_text(encoding="utf-8")
    summary = text[text.index('id="summary"') : text.index("<tbody>")]
    assert summary.count("gives the answers of the base model") == 2
    assert "lora gives" in summary
    assert "full_tuned gives" in summary
    assert text.count("<small>3 attempts</small>") == 2


def test_an_adapter_that_changes_no_answer_is_a_caution() -> None:
    trainings: dict[str, Any] = {"lora": {"weights_moved": 0.1}, "full": {"weights_moved": 0.1}, "old": {}}
    predictions = [
        {"experiment": "lora", "adapter_effect": {"probes": 4, "largest_change": 0.0}},
        {"experiment": "lora", "adapter_effect": None},
        {"experiment": "full", "adapter_effect": {"probes": 4, "largest_change": 1e-3}},
        {"experiment": "old"},
    ]
    assert [name for name, _ in cautions(trainings, predictions)] == ["lora"]


def test_of_many_adapters_the_one_that_changes_least_counts() -> None:
    batches = [
        {"experiment": "personal", "adapter_effect": {"probes": 6, "largest_change": change, "adapters": 6}}
        for change in (0.5, 0.0, 2.0)
    ]
    assert effect_of(batches) == batches[1]["adapter_effect"]
    assert effect_of(batches[::2]) == batches[0]["adapter_effect"]
    ((name, why),) = cautions({"personal": {"weights_moved": 0.1}}, batches)
    assert (name, why.split(";")[0]) == ("personal", "one of its adapters changes no answer")


def test_the_weights_that_are_used_and_their_loss_are_shown() -> None:
    manifest = {"steps": 90, "kept_step": 40, "final_validation_loss": 0.57, "kept_validation_loss": 0.44}
    row = training_row("full", {**manifest, "ended": "no lower validation loss in 2 validations"})
    assert (row["steps"], row["kept"], row["loss"], row["last_loss"]) == (
        "90",
        "weights of step 40",
        "0.4400",
        "last 0.5700",
    )
    assert row["ended_early"] == "no lower validation loss in 2 validations"
    for rest in ({"kept_step": 90, "ended": "after all steps"}, {}):
        row = training_row("full", {"steps": 90, "final_validation_loss": 0.57, **rest})
        assert (row["kept"], row["loss"], row["last_loss"], row["ended_early"]) == ("", "0.5700", "", "")


def test_an_early_stop_is_in_the_report(make_study: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEASURED, "kept_step", 20)
    monkeypatch.setitem(MEASURED, "kept_validation_loss", 0.4)
    monkeypatch.setitem(MEASURED, "ended", "no lower validation loss in 1 validation")
    text = make_study().report(samples="none").read_text(encoding="utf-8")
    assert text.count("30<small>weights of step 20</small>") == 2
    assert text.count("0.4000<small>last 0.5000</small>") == 2
    assert "full_tuned was stopped early: no lower validation loss in 1 validation." in text
