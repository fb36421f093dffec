"""A study is read, or refused with file, line, key, value and what is allowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from usertune.core.errors import UserError
from usertune.study.load import load_study, schema_text, study_from_config
from usertune.study.renamed_keys import RENAMED_KEYS
from usertune.study.schema.study import Study

REPOSITORY = Path(__file__).resolve().parents[3]
GOOD = {
    "name": "small",
    "dataset": {"root": "data"},
    "users": {"train": "3-5", "validation": 6, "test": "1-2"},
    "base_model": {"path": "base"},
    "experiments": {"vanilla": {"mode": "vanilla"}, "lora": {"mode": "lora", "training": {"epochs": 2}}},
    "training": {"batch_size": 4, "lora": {"rank": 8}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return config


def message_of(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        study_from_config(config)
    return str(caught.value)


def test_the_shipped_study_and_all_in_configs_are_valid() -> None:
    for file in [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "configs").glob("*.yaml"))]:
        assert isinstance(load_study([file]), Study)


def test_every_key_of_the_study_is_explained_in_the_shipped_file() -> None:
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    written = {key for section in config.values() if isinstance(section, dict) for key in section}
    for section, model in (
        ("dataset", Study.model_fields["dataset"].annotation),
        ("base_model", Study.model_fields["base_model"].annotation),
        ("training", Study.model_fields["training"].annotation),
        ("evaluation", Study.model_fields["evaluation"].annotation),
        ("report", Study.model_fields["report"].annotation),
    ):
        assert set(model.model_fields) <= set(config[section]), section  # type: ignore[union-attr]
    assert written


def test_the_schema_file_is_the_one_of_the_typed_study() -> None:
    text = (REPOSITORY / "schemas" / "study.schema.json").read_text()
    assert text == schema_text(), "run: make schema"
    assert json.loads(text)["$schema"].startswith("https://json-schema.org/")


def test_experiments_inherit_training_and_override_it() -> None:
    study = study_from_config(GOOD)
    training = study.experiments["lora"].training
    assert training is not None
    assert (training.epochs, training.batch_size, training.lora.rank, training.lora.alpha) == (2, 4, 8, 32)
    assert study.experiments["vanilla"].training is None


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        ({}, {}, (True, False)),
        ({"freeze_vision": True}, {}, (True, True)),
        ({"freeze_vision": False}, {}, (False, False)),
        ({"freeze_vision": False}, {"freeze": {"vision": True}}, (True, False)),
        ({"freeze": {"merger": False}}, {"freeze_vision": True}, (True, True)),
        ({"freeze": {"merger": True}}, {"freeze": {"vision": False}}, (False, True)),
    ],
)
def test_freeze_and_its_older_key(
    shared: dict[str, Any], own: dict[str, Any], expected: tuple[bool, bool], caplog: pytest.LogCaptureFixture
) -> None:
    config = {**GOOD, "training": shared, "experiments": {"full": {"mode": "full", "training": own}}}
    training = study_from_config(config).experiments["full"].training
    assert training is not None
    assert (training.freeze.vision, training.freeze.merger) == expected
    older = sum("freeze_vision" in keys for keys in (shared, own))
    assert caplog.text.count("write freeze: {vision: ") == older


MICRO, WORKERS = RENAMED_KEYS


@pytest.mark.parametrize(
    ("files", "settings", "expected", "older"),
    [
        (["training: {micro_batch: 2, loader_workers: 3}"], [], (2, 3), set(RENAMED_KEYS)),
        (
            ["training: {micro_batch_size: 4, dataloader_num_workers: 1}"],
            ["training={micro_batch: 2}"],
            (2, 1),
            {MICRO},
        ),
        (["training: {micro_batch: 4, loader_workers: 1}"], ["training={micro_batch_size: 2}"], (2, 1), {WORKERS}),
        (["training: {micro_batch_size: 4}", "training: {micro_batch: 2}"], [], (2, 2), {MICRO}),
        (["training: {micro_batch: 4}"], ["experiments={lora: {training: {micro_batch: 2}}}"], (2, 2), {MICRO}),
        (
            ["training: {micro_batch_size: 4}\nexperiments: {lora: {training: {micro_batch_size: 1}}}"],
            ["training={micro_batch: 4}", "experiments={lora: {training: {micro_batch: 2, loader_workers: 5}}}"],
            (2, 5),
            {MICRO, WORKERS},
        ),
    ],
)
def test_older_keys_work_wherever_they_are_set(
    files: list[str],
    settings: list[str],
    expected: tuple[int, int],
    older: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = [tmp_path / "study.yaml", *(tmp_path / f"{number}.yaml" for number in range(len(files)))]
    for path, text in zip(paths, [yaml.safe_dump(GOOD | {"training": {}}), *files], strict=True):
        path.write_text(text)
    training = load_study(paths, settings).experiments["lora"].training
    assert training is not None
    assert (training.micro_batch_size, training.dataloader_num_workers) == expected
    assert set(caplog.messages) == {
        f"training.{old} is an old key that still works; write {RENAMED_KEYS[old]}" for old in older
    }


@pytest.mark.parametrize(("count", "samples"), [(0, "none"), (6, "all")])
def test_the_older_key_of_the_report_works(count: int, samples: str, caplog: pytest.LogCaptureFixture) -> None:
    assert study_from_config(changed("report", {"examples": count})).report.samples == samples
    assert caplog.messages == [f"report.examples is an old key that still works; write samples: {samples}"]
    for settings in ({"examples": -1}, {"examples": 2, "samples": "all"}):
        assert "report.examples: unknown key" in message_of(changed("report", settings))


def test_a_file_with_both_names_of_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(changed("training", {"micro_batch": 2, "micro_batch_size": 4})))
    with pytest.raises(UserError, match=r"training\.micro_batch: unknown key; did you mean 'micro_batch_size'\?"):
        load_study([path])


def test_freeze_and_its_older_key_do_not_go_together() -> None:
    message = message_of(changed("training", {"freeze": {"vision": True}, "freeze_vision": True}))
    assert "training.freeze_vision: unknown key" in message
    assert "training.freeze.vision: 'x'" in message_of(changed("training.freeze_vision", "x"))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("dataset.rot", "x", ["dataset.rot", "unknown key", "did you mean 'root'"]),
        ("dataset.on_bad_sample", "skipp", ["dataset.on_bad_sample", "'skipp'", "'error' or 'skip'"]),
        ("dataset.frame", "pixel", ["dataset.frame", "'pixel'", "'relative_1000', 'relative_1' or 'pixels'"]),
        ("dataset.prompt.user", "<image>{text}", ["user: '<image>' is in the text", '"type": "image"']),
        ("dataset.root", "data/{user}", ["dataset.root", "Snakemake uses for placeholders", "symbolic link"]),
        ("dataset.root", "<path>", ["dataset.root", "Snakemake uses for placeholders"]),
        ("dataset.root", "-data", ["dataset.root", "write ./ before it"]),
        ("dataset.root", "a\0b", ["dataset.root", "control character"]),
        ("results", "results\n", ["results", "line break"]),
        ("results", "a{b", ["results", "Snakemake uses for placeholders"]),
        ("results", "~/results", ["results", "write the full path"]),
        ("base_model.path", "<path>", ["base_model.path", "Snakemake uses for placeholders"]),
        ("users.tets", 1, ["users.tets", "did you mean 'test'"]),
        ("users.test", "3-1", ["users.test", "counts backwards"]),
        ("users.validation", "5-6", ["user 5 is in both train and validation"]),
        ("users.test", [], ["at least one user"]),
        ("base_model.dtype", "fp16", ["base_model.dtype", "'fp16'", "'bfloat16' or 'float32'"]),
        ("base_model.max_pixels", 0, ["base_model.max_pixels", "greater than 0"]),
        ("experiments.lora.mode", "lorra", ["experiments.lora.mode", "'vanilla', 'lora', 'full' or 'prior'"]),
        ("experiments.lora.training.epoch", 1, ["experiments.lora.training.epoch", "did you mean 'epochs'"]),
        ("experiments.vanilla.training", {"epochs": 1}, ["experiments.vanilla", "not trained"]),
        ("experiments.Bad Name", {"mode": "full"}, ["'Bad Name' is not a safe name"]),
        ("experiments.name", {"mode": "full", "moed": 1}, ["experiments.name.moed", "did you mean 'mode'"]),
        ("experiments.users", {"mode": "full", "training": {"epoch": 1}}, ["did you mean 'epochs'"]),
        ("experiments.report", {"mode": "full"}, ["'report' is the name of a workflow step"]),
        ("training.learning_rat", 1, ["training.learning_rat", "did you mean 'learning_rate'"]),
        ("training.learning_rate", -1, ["training.learning_rate", "-1", "greater than 0"]),
        ("training.micro_batch_size", 3, ["batch_size (4) must be a multiple of micro_batch_size (3)"]),
        ("training.lora.rnk", 1, ["training.lora.rnk", "did you mean 'rank'"]),
        ("evaluation.batchsize", 1, ["evaluation.batchsize", "did you mean 'batch_size'"]),
        ("evaluation.thresholds", [140, 140], ["listed twice"]),
        ("evaluation.thresholds", [140, 140.0000001], ["listed twice"]),
        ("report.titel", "x", ["report.titel", "did you mean 'title'"]),
        ("report.figures.lost_curves", {}, ["report.figures.lost_curves", "did you mean 'loss_curves'"]),
        ("report.figures.loss_curves.colors", {}, ["report.figures.loss_curves.colors", "did you mean 'colours'"]),
        ("report.figures.loss_curves.colours.lora", "red", [".colours.lora: 'red' is not", "six hexadecimal digits"]),
        ("report.figures.loss_curves.colours.lora", None, [".colours.lora: None", "in quotes", "comment"]),
        ("report.figures.loss_curves.colours.lora", "#12345g", [".colours.lora: '#12345g' is not a colour"]),
        ("report.figures.loss_curves.colours.full", "#123456", [".colours.full: no such experiment", "vanilla, lora"]),
        ("[key]", None, ["[key]: unknown key"]),
        ("experiments.[key]", {"mode": "full"}, ["experiments.[key]: '[key]' is not a safe name"]),
        ("reprt", {}, ["reprt", "did you mean 'report'"]),
        ("train_user", 1, ["did you mean 'train_users'"]),
    ],
)
def test_a_mistake_names_key_value_and_remedy(path: str, value: Any, expected: list[str]) -> None:
    message = message_of(changed(path, value))
    assert all(part in message for part in expected), message


def test_a_missing_key_is_named() -> None:
    config = {key: value for key, value in GOOD.items() if key != "dataset"}
    assert "dataset: this key is required" in message_of(config)


def test_a_shared_mistake_is_reported_once() -> None:
    message = message_of(changed("training.epochs", "many"))
    assert "(1 problem)" in message


def test_the_line_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(changed("dataset.rot", "x"), sort_keys=False))
    line = file.read_text().splitlines().index("  rot: x") + 1
    with pytest.raises(UserError, match=f"study.yaml:{line}: dataset.rot"):
        load_study([file])


@pytest.mark.parametrize(("name", "colour"), [("full", "#123456"), ("lora", "blue")])
def test_the_line_of_a_wrong_colour_is_named(tmp_path: Path, name: str, colour: str) -> None:
    file = tmp_path / "study.yaml"
    config = changed("report.figures.accuracy_by_user.colours", {"vanilla": "#000000", name: colour})
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    lines = file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if text.startswith(f"        {name}: "))
    key = f"report.figures.accuracy_by_user.colours.{name}"
    with pytest.raises(UserError, match=rf"\(1 problem\):\n  .*study.yaml:{line}: {key}: "):
        load_study([file])


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(GOOD) + "name: again\n")
    with pytest.raises(UserError, match="name was already set in line"):
        load_study([file])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found NoneType"),
        (b"- 1", "found list"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"name: 2020-99-99", "not valid YAML"),
        (b"name: !!int", "not valid YAML"),
        (b"name: !!bool x", "not valid YAML"),
        (b"name: !!timestamp x", "not valid YAML"),
        (b"name: " + b"1" * 5000, "not valid YAML"),
        (b"name: 0x" + b"f" * 5000, "more than 18 digits"),
        (b"name: " + b"[" * 3000, "not valid YAML: nested too deep"),
        (b"name: " + b"[" * 3000 + b"]" * 3000, "not valid YAML: nested too deep"),
        (b"name: " + b"[" * 30 + b"]" * 30, "study.yaml:1: name: "),
        (b"name: &name [*name]", "an alias contains itself"),
        (b"name: &name {name: *name}", "an alias contains itself"),
        (b"name: &name {<<: *name}", "an alias contains itself"),
        (b"name: &name [*name, !!int]", "not valid YAML"),
        (b"test_users: &name [*name]", "an alias contains itself"),
        (b"name: " + b"x" * 1_000_001, "at most 1,000,000 bytes, and this file has 1,000,007"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_study([file])


def test_users_can_be_overridden_at_the_top_level() -> None:
    assert study_from_config({**GOOD, "test_users": "1"}).users.test == ("1",)
    assert "users: user 3 is in both train and test" in message_of({**GOOD, "test_users": 3})


def test_aliases_of_reasonable_size_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    shared = "training: &shared {epochs: 2}\n"
    own = "experiments: {one: {mode: lora, training: *shared}, two: {mode: full, training: {<<: *shared, seed: 3}}}\n"
    rest = {key: value for key, value in GOOD.items() if key not in ("training", "experiments")}
    file.write_text(shared + own + yaml.safe_dump(rest))
    study = load_study([file])
    assert [experiment.training and experiment.training.epochs for experiment in study.experiments.values()] == [2, 2]


@pytest.mark.parametrize("name", ["folder", "missing/study.yaml", "x" * 300, "a\0b", "link"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UserError, match=r"cannot be read|no such file|null byte"):
        load_study([tmp_path / name])


def test_an_empty_section_of_an_experiment_is_no_section() -> None:
    study = study_from_config(changed("experiments.lora.training", None))
    assert study.experiments["lora"].training == study.training.model_copy(update={"learning_rate": 1e-4})


def test_the_learning_rate_is_that_of_the_mode_unless_the_study_says_one() -> None:
    def rates(shared: Any, **own: Any) -> list[Any]:
        experiments = {mode: {"mode": mode, "training": own.get(mode)} for mode in ("lora", "full")}
        study = study_from_config({**GOOD, "training": shared, "experiments": experiments})
        again = study_from_config(json.loads(study.model_dump_json()))
        assert again == study
        return [experiment.training and experiment.training.learning_rate for experiment in study.experiments.values()]

    assert rates({}) == rates({"learning_rate": None}) == [1e-4, 1e-5]
    assert rates({"learning_rate": 3e-5}) == [3e-5, 3e-5]
    assert rates({"learning_rate": 3e-5}, lora={"learning_rate": 2e-4}) == [2e-4, 3e-5]
    assert rates({"learning_rate": 3e-5}, full={"learning_rate": None}) == [3e-5, 1e-5]


def test_a_long_mistake_has_a_short_message() -> None:
    config = changed("name", "x y" * 100_000)
    config["x" * 100_000] = ["x" * 100_000] * 5
    assert max(map(len, message_of(config).splitlines())) < 500


@pytest.mark.parametrize(("key", "value"), [("keep", "best"), ("early_stopping", 3)])
def test_what_goes_by_the_validation_loss_needs_validation_users(key: str, value: Any) -> None:
    assert getattr(_training(changed(f"training.{key}", value)), key) == value
    config = {**changed(f"training.{key}", value), "users": {"train": "3-5", "test": "1-2"}}
    assert f"validation is empty, but experiment 'lora' has {key}: {value}, which needs" in message_of(config)


def _training(config: Any, experiment: str = "lora") -> Any:
    return study_from_config(config).experiments[experiment].training


def test_the_warm_up_is_a_share_of_the_steps_or_a_number_of_them() -> None:
    assert (_training(GOOD).warmup, _training(GOOD).warmup_steps) == (0.03, None)
    assert _training(changed("training.warmup_steps", 20)).warmup_steps == 20
    both = message_of(changed("training", {"warmup": 0.1, "warmup_steps": 20}))
    assert "warmup (0.1, a share of the steps) and warmup_steps (20) set the same thing; keep one of them" in both
    assert "training.warmup: " in message_of(changed("training.warmup", 1))


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        ({"warmup_steps": 20}, {"warmup": 0.1}, (0.1, None)),
        ({"warmup": 0.1}, {"warmup_steps": 20}, (0.03, 20)),
        ({"warmup_steps": 20}, {"warmup_steps": None}, (0.03, None)),
    ],
)
def test_an_experiments_own_warm_up_counts(
    shared: dict[str, Any], own: dict[str, Any], expected: tuple[float, int | None]
) -> None:
    config = {**changed("training", shared), "experiments": {"lora": {"mode": "lora", "training": own}}}
    assert (_training(config).warmup, _training(config).warmup_steps) == expected


def test_options_that_the_format_does_not_have_are_refused() -> None:
    message = message_of(changed("dataset.options", {"colum": "user"}))
    assert "dataset.options.colum: unknown option; those of the format messages are: file, " in message
