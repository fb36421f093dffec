"""Studies as nobody should write them, as values and as YAML files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.mutations import FRAGMENTS, changed_bytes, changed_value, values
from usertune.core.errors import UserError
from usertune.core.hashing import canonical_json
from usertune.core.users import batch_label
from usertune.evaluation.recipe import ScoreRecipe
from usertune.study.load import load_study, study_from_config
from usertune.study.schema.study import Study

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "configs").glob("*.yaml"))]
STUDIES = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES]
OVERRIDES = {"test_users": 3, "train_users": ["4-5", "bob"], "validation_users": "6"}
STUDIES.append({**STUDIES[0], **OVERRIDES})
SMALL = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "3-5", "test": ["1-2", "bob"]},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}, "lora": {"mode": "lora", "training": {"epochs": 2}}},
    "training": {"batch_size": 4, "lora": {"rank": 8}},
}
KEYS = sorted({key for study in STUDIES for key in study} | set(Study.model_fields))
# Experiments called like keys of a study, with mistakes in them.
NAMED_LIKE_KEYS = st.builds(
    lambda name, key, value: {**STUDIES[0], "experiments": {name: {"mode": "full", key: value}}},
    st.sampled_from(KEYS),
    st.sampled_from(["training", "moed", "max_new_tokens"]),
    values | st.just({"epoch": 1, "lora": {"rnk": 1}}),
)
YAML_PIECES = st.sampled_from(
    [piece.decode("utf-8", errors="replace") for piece in FRAGMENTS]
    + [f"{key}: " for key in KEYS]
    + ["\n", "\n  ", "a"]
)
LONGEST_LINE = 1500


def study_or_refusal(make: Callable[[], Study]) -> Study | None:
    """Return a study that holds together, or None if it was refused as it should be."""
    try:
        study = make()
    except UserError as error:
        assert max(map(len, str(error).splitlines())) < LONGEST_LINE
        return None
    # What the workflow does with every study before a job can start.
    assert canonical_json(study.model_dump(mode="json"))
    assert Study.model_validate_json(study.model_dump_json()).model_dump() == study.model_dump()
    assert study_from_config(study.model_dump(mode="json")).model_dump() == study.model_dump()
    assert len(set(study.all_users)) == len(study.all_users)
    assert [user for batch in study.test_batches for user in batch] == list(study.users.test)
    assert len({batch_label(batch) for batch in study.test_batches}) == len(study.test_batches)
    assert ScoreRecipe(step="score", task="grounding", thresholds=study.evaluation.thresholds)
    for name, experiment in study.experiments.items():
        assert study.max_new_tokens(name) > 0
        assert (experiment.trained or experiment.trained_on_folds) == (experiment.training is not None)
    return study


def load_bytes(content: bytes) -> Study:
    # In its folder, to which its paths are relative.
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        file = Path("study.yaml")
        file.write_bytes(content)
        return load_study([file])


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(st.characters(), max_size=5), values, max_size=6))
def test_any_configuration_is_refused_with_a_message(config: dict[str, Any]) -> None:
    study_or_refusal(lambda: study_from_config(config))


@given(st.sampled_from(STUDIES).flatmap(changed_value) | NAMED_LIKE_KEYS)
@example({**STUDIES[0], "experiments": {"name": {"mode": "full", "moed": 1}}})
def test_a_changed_study_is_read_or_refused(config: dict[str, Any]) -> None:
    study_or_refusal(lambda: study_from_config(config))


def _holds_users_unlike_written(config: Any) -> bool:
    """Whether a user list holds a boolean or a float, which is read from a file as it is written (``no``, ``1e3``)."""
    if not isinstance(config, dict):
        return False
    lists = [config.get(key) for key in OVERRIDES]
    lists += config["users"].values() if isinstance(config.get("users"), dict) else ()
    return any(isinstance(user, bool | float) for user in _flat(lists))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


@given(changed_value(SMALL))
@example({**SMALL, "users": {"train": False, "test": ["1-2", "bob"]}})
def test_a_study_means_the_same_in_a_file(config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    try:
        content = text.encode("utf-8")
        meant = yaml.safe_load(text)
    except (UnicodeEncodeError, ValueError, yaml.YAMLError):
        # PyYAML cannot read back all that it writes.
        content, meant = b"", None
    from_file = study_or_refusal(lambda: load_bytes(content))
    if meant is None:
        assert from_file is None
    elif not _holds_users_unlike_written(meant):
        assert from_file == study_or_refusal(lambda: study_from_config(meant))


@given(st.sampled_from(FILES).flatmap(lambda file: changed_bytes(file.read_bytes())))
def test_a_damaged_file_is_read_or_refused(content: bytes) -> None:
    study_or_refusal(lambda: load_bytes(content))


@given(st.binary(max_size=200) | st.lists(YAML_PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode("utf-8")))
def test_any_file_is_refused_with_a_message(content: bytes) -> None:
    assert study_or_refusal(lambda: load_bytes(content)) is None


@given(st.lists(changed_value(SMALL), min_size=2, max_size=3))
def test_files_are_merged_or_refused(configs: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.yaml" for number in range(len(configs))]
        for file, config in zip(files, configs, strict=True):
            file.write_bytes(yaml.safe_dump(config).encode("utf-8", errors="replace"))
        study_or_refusal(lambda: load_study(files))
