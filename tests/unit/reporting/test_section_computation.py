"""The report names results that were computed in several ways."""

from __future__ import annotations

from typing import Any

import pytest

from usertune.reporting.sections.computation import computation_notes


def _predictions(*sizes: int | None, dtype: str = "bfloat16") -> list[dict[str, Any]]:
    return [{"experiment": "lora", "recipe": {"dtype": dtype}, "batch_sizes": [size]} for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "shown"), [((32, 16), "of up to 16, 32 samples"), ((32, None), "of up to 32 and of unknown size samples")]
)
def test_answers_of_several_batch_sizes_are_named_under_bfloat16(sizes: Any, shown: str) -> None:
    (note,) = computation_notes({}, _predictions(*sizes))
    assert note.startswith(f"lora: its answers were generated in batches {shown} under bfloat16")


def test_one_batch_size_and_float32_need_no_note() -> None:
    assert computation_notes({}, _predictions(32, 32)) == []
    assert computation_notes({}, _predictions(32, 16, dtype="float32")) == []
    old = [{"experiment": "lora", "recipe": {"dtype": "bfloat16"}}]
    assert computation_notes({"lora": {}}, old) == [], "results of older releases"


def test_attempts_that_computed_in_several_ways_are_named() -> None:
    way = {"micro_batch_size": 8, "processes": 1}
    manifest = {"computed_with": [way, {**way, "micro_batch_size": 4}], "recipe": {"dtype": "bfloat16"}}
    (note,) = computation_notes({"lora": manifest}, [])
    assert "in several ways (micro_batch_size 8; micro_batch_size 4); under bfloat16 that changes the weights" in note
    assert computation_notes({"lora": {"computed_with": [way]}}, []) == []
    older = {"computed_with": [way, {**way, "patch_embedding": "linear"}]}
    (note,) = computation_notes({"lora": older}, [])
    assert "(patch_embedding of an older release; patch_embedding linear); that changes the last digits" in note


def test_answers_of_a_server_are_named_with_its_versions_and_what_its_adapters_were_compared_with() -> None:
    def batch(version: str, disagreement: float, same: int) -> dict[str, Any]:
        effect = {"probes": 4, "largest_change": 2.0, "disagreement": disagreement, "bound": 0.5}
        return {
            "experiment": "lora",
            "recipe": {},
            "system_fingerprints": [version],
            "adapter_effect": {**effect, "identical_answers": [same, 4]},
        }

    versions, checked = computation_notes({}, [batch("v2", 0.125, 4), batch("v1", 0.25, 3), batch("v1", 0.25, 3)])
    assert versions == "lora: its answers are of several versions of the server: v1, v2."
    assert "at most 0.25 from those of the same models in transformers (bound 0.5), and 7 of 8 answers" in checked
    (checked,) = computation_notes({}, [batch("v1", 0.25, 3)])
    assert "3 of 4 answers are identical" in checked
    assert computation_notes({}, [{"experiment": "lora", "recipe": {}, "adapter_effect": None}]) == []
