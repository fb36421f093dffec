"""A trained experiment as a folder for a hub: what was measured, nothing of this machine, nothing that is stale."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from tests.support.auditing import LORA, with_changes
from tests.support.synthetic_study import SyntheticStudy
from usertune.core.errors import UserError
from usertune.core.hashing import digest_file
from usertune.core.manifest import read_result
from usertune.exchange.export_model import HubFolder, export_model
from usertune.study.load import load_study

REPOSITORY = Path(__file__).resolve().parents[3]
OUT = Path("out/lora")


def export(study: SyntheticStudy, **options: Any) -> str:
    return export_model(study.study, HubFolder(**{"experiment": "lora", "folder": OUT, **options}))


def weights() -> Path:
    return Path(LORA).parent / str(read_result(LORA)["weights_folder"])


def texts() -> dict[str, str]:
    return {path.name: path.read_text() for path in OUT.iterdir() if path.suffix != ".safetensors"}


def test_the_folder_has_weights_card_study_and_citation(complete: SyntheticStudy) -> None:
    said = export(complete)
    assert said.startswith("out/lora: the adapter of lora, processor, model card and study (")
    names = {"weights.safetensors", "README.md", "study.yaml", "CITATION.cff", "usertune-export.json"}
    assert {path.name for path in OUT.iterdir()} == names
    assert digest_file(OUT / "weights.safetensors") == digest_file(weights() / "weights.safetensors")
    assert (OUT / "README.md").read_text() != "weights"


def test_the_card_has_the_numbers_and_intervals_of_the_report(complete: SyntheticStudy) -> None:
    export(complete, license="apache-2.0", base_name="Qwen/Qwen3-VL-8B-Instruct")
    card = ModelCard.load(OUT / "README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["license"], data["library_name"]) == (
        "Qwen/Qwen3-VL-8B-Instruct",
        "apache-2.0",
        "peft",
    )
    row = pd.read_csv("tables/summary.csv").set_index("experiment").loc["lora"]
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["click_accuracy"].metric_value == row["click_accuracy"]
    found = results["click_accuracy"].metric_args
    assert (found["low"], found["high"], found["confidence"]) == (
        row["click_accuracy_low"],
        row["click_accuracy_high"],
        0.95,
    )
    assert all(math.isfinite(result.metric_value) for result in results.values())
    table = Path("tables/summary.md").read_text().partition("\n\n")[0]
    assert table in card.text
    assert "| train users | 2, with 6 samples |" in card.text
    assert "This model is the row `lora`." in card.text


def test_an_unknown_license_and_a_local_base_model_are_said_so(complete: SyntheticStudy) -> None:
    export(complete)
    data = ModelCard.load(OUT / "README.md").data.to_dict()
    assert data["license"] == "unknown"
    assert "base_model" not in data
    assert "for `base`, trained by the study `synthetic`" in texts()["README.md"]


def test_no_path_of_this_machine_leaves_it(complete: SyntheticStudy, tmp_path: Path) -> None:
    export(complete)
    for name, text in texts().items():
        for private in (str(tmp_path), str(Path.home()) + "/"):
            assert private not in text, name
    study = yaml.safe_load(texts()["study.yaml"])
    assert (study["dataset"]["root"], study["results"]) == ("data", "results/synthetic")


def test_a_folder_in_a_prompt_stops_the_export(complete: SyntheticStudy) -> None:
    study = with_changes(complete, report={"title": f"See {Path.cwd()}/notes"})
    study.make_all("audit", "report")
    with pytest.raises(UserError, match=r"^study\.yaml would name the folder .* of this machine; remove it from"):
        export(study)
    assert not any(Path("out").iterdir())


def test_the_study_in_the_folder_is_the_study(complete: SyntheticStudy) -> None:
    export(complete)
    for name in ("base", "data"):
        (OUT / name).mkdir()
    again = load_study([OUT / "study.yaml"])
    assert (again.users, again.experiments, again.evaluation) == (
        complete.study.users,
        complete.study.experiments,
        complete.study.evaluation,
    )


def test_folders_that_libraries_wrote_are_replaced_by_the_name(complete: SyntheticStudy) -> None:
    from usertune.exchange.export_model import _without_folders

    OUT.mkdir(parents=True)
    (OUT / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/home/me/base", "r": 8}))
    (OUT / "tokenizer.json").write_text("not JSON for us")
    _without_folders(OUT, "owner/name")
    assert json.loads((OUT / "adapter_config.json").read_text()) == {"base_model_name_or_path": "owner/name", "r": 8}


def test_a_full_model_is_exported_whole(complete: SyntheticStudy) -> None:
    assert "the weights of full_tuned" in export(complete, experiment="full_tuned")
    assert ModelCard.load(OUT / "README.md").data.to_dict()["library_name"] == "transformers"


def test_merging_says_how_far_it_moved_the_model(complete: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge_adapter(settings: Any, samples: list[Any], folder: Path) -> dict[str, Any]:
        assert (settings.mode, settings.weights_folder.resolve()) == ("lora", weights().resolve())
        assert len(samples) == 3
        (folder / "model.safetensors").write_text("merged")
        return {"probes": 3, "largest_change": 0.000012, "bound": 1e-3}

    monkeypatch.setitem(sys.modules, "usertune.inference.merge", SimpleNamespace(merge_adapter=merge_adapter))
    assert "merged weights of lora" in export(complete, merge=True)
    assert (
        "On 3 samples, log-probabilities of the expected answers' tokens moved by up to 1.2e-05" in texts()["README.md"]
    )
    assert ModelCard.load(OUT / "README.md").data.to_dict()["library_name"] == "transformers"
    with pytest.raises(UserError, match="--merge: full_tuned has no adapter"):
        export(complete, experiment="full_tuned", merge=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (LORA, r"checkpoints/lora/manifest\.json: "),
        ("tables/summary.csv", r"tables/manifest\.json: tables/summary\.csv: "),
        ("tables/summary.md", r"tables/manifest\.json: tables/summary\.md: "),
        ("dataset/user_t1.jsonl", r"data/user_t1\.manifest\.json: "),
    ],
)
def test_a_modified_or_stale_result_is_refused(complete: SyntheticStudy, spoil: str, said: str) -> None:
    Path(spoil).write_bytes(Path(spoil).read_bytes() + b" ")
    with pytest.raises(
        UserError, match=rf"^{said}(?s:.*)not what the study says; make them by: snakemake --profile local$"
    ):
        export(complete)
    assert not OUT.exists()


def test_modified_weights_are_refused(complete: SyntheticStudy) -> None:
    (weights() / "weights.safetensors").write_text("other")
    with pytest.raises(UserError, match=r"weights\.safetensors: the file was edited or cut short"):
        export(complete)
    assert not OUT.exists()


def test_other_settings_are_refused(complete: SyntheticStudy) -> None:
    study = with_changes(complete, training={"epochs": 7})
    with pytest.raises(UserError, match=r"training\.epochs: 1\.0 -> 7\.0"):
        export(study)


@pytest.mark.parametrize("name", ["vanilla", "other"])
def test_only_trained_experiments_can_be_exported(complete: SyntheticStudy, name: str) -> None:
    with pytest.raises(
        UserError, match=f"^--experiment {name}: experiments of this study with weights of their own: lora, full_tuned$"
    ):
        export(complete, experiment=name)


def test_texts_of_the_study_have_no_meaning_in_the_card(complete: SyntheticStudy) -> None:
    from usertune.reporting.model_card import _cell

    assert _cell("a|b\n<script>[x](y)") == r"a\|b\\n\<script\>\[x\](y)"


def test_the_citation_is_that_of_the_repository(complete: SyntheticStudy) -> None:
    export(complete)
    own, cited = (yaml.safe_load((path / "CITATION.cff").read_text()) for path in (REPOSITORY, OUT))
    assert {key: cited[key] for key in cited if key != "message"} == {
        key: own[key] for key in cited if key != "message"
    }
