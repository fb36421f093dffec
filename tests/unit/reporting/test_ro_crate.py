"""The provenance for machines is an RO-Crate; its own library reads it completely, and nothing in it is private."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from rocrate.rocrate import ROCrate

from usertune.core.files import write_json
from usertune.core.hashing import digest, digest_bytes, digest_file
from usertune.evaluation import table_names
from usertune.reporting.recipe import ReportRecipe
from usertune.reporting.ro_crate import METADATA_NAME, crate_of, link_as_crate
from usertune.runtime.provenance import UNKNOWN, current_provenance

DATE = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)
MODES = {"vanilla": "vanilla", "lora": "lora", "full": "full"}
FIGURES = ("accuracy_by_user", "loss_curves")
PATHS = (
    "report.html",
    *(f"tables/{name}" for name in table_names.TABLES),
    *(f"figures/{name}.{ending}" for name in FIGURES for ending in ("svg", "pdf", "png")),
)
HOSTILE = 'A "study" of </script><script>alert(1)</script>\nin \\two lines, für 用户 \u202e \x00 {"@id": "./"}'


def record(device: str = "NVIDIA H200", **changes: Any) -> dict[str, Any]:
    versions = {"python": "3.11.9", "usertune": "0.1.0", "torch": "2.14.1+cu128", "numpy": "2.4.6"}
    machine = {"system": "Linux-6.1-x86_64", "processor": "Processor 9", "cores": 16, "memory_gib": 128.0}
    revision = {"commit": "c" * 40, "dirty": False, "changed_files": []}
    own = {"code": "88abcdef88abcdef", "versions": versions, "revision": revision, "machine": machine}
    return {**own, "device": device, **changes}


def fingerprint_of(step: str, *parts: str) -> str:
    return digest([step, *parts])


def study(names: list[str], users: list[str]) -> tuple[ReportRecipe, dict[str, Any]]:
    """Return recipe and lineage of a study with predictions for two users at a time."""
    experiments = {}
    for name in names:
        batches = {user: str(number // 2) for number, user in enumerate(users)}
        chains = {
            user: {
                "prepare": fingerprint_of("prepare", user),
                "predict": fingerprint_of("predict", name, batches[user]),
                "score": fingerprint_of("score", name, user),
            }
            for user in users
        }
        trained = name != "vanilla"
        train = fingerprint_of("train", name) if trained else None
        experiments[name] = {
            "lineage": {"base_model": fingerprint_of("base_model"), "train": train, "users": chains},
            "provenance": {"train": [record()] if trained else [], "predict": [record()]},
        }
    recipe = ReportRecipe.model_validate(
        {
            "step": "report",
            "study": "demo",
            "title": "The demo",
            "users": users,
            "experiments": [{"name": name, "mode": MODES.get(name, "lora")} for name in names],
            "task": "grounding",
            "thresholds": [140],
        }
    )
    origin = {
        "fingerprint": fingerprint_of("compare"),
        "study_sha256": fingerprint_of("study"),
        "experiments": experiments,
        "provenance": [record("cpu")],
    }
    return recipe, origin


def digests() -> dict[str, str]:
    return {path: digest_bytes(path.encode()) for path in PATHS}


def entities(metadata: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {entity["@id"]: entity for entity in metadata["@graph"]}
    assert len(found) == len(metadata["@graph"]), "an id is used twice"
    return found


def ids(value: Any) -> list[str]:
    return [item["@id"] for item in (value if isinstance(value, list) else [value])]


def values(found: dict[str, dict[str, Any]], owner: dict[str, Any], key: str = "additionalProperty") -> dict[str, Any]:
    """Return the properties that an entity refers to, as {name: value}."""
    return {found[entity_id]["name"]: found[entity_id]["value"] for entity_id in ids(owner[key])}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder of results with the metadata of a study and its files."""
    for path in PATHS:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(path)
    write_json(tmp_path / "provenance.json", crate_of(*study(list(MODES), ["1", "2", "10"]), digests()))
    link_as_crate(tmp_path / "provenance.json")
    return tmp_path


def test_the_base_model_is_named_with_its_commit() -> None:
    recipe, origin = study(list(MODES), ["1"])
    base = {
        "recipe": {"path": "Qwen/Qwen3-VL-8B-Instruct", "revision": "main"},
        "output": fingerprint_of("base_model"),
        "about": {"model_type": "qwen3_vl", "commit": "0" * 40, "parameters": 8_767_123_696},
    }
    plain, named = (entities(crate_of(recipe, origin, digests(), DATE, model)) for model in (None, base))
    entity_id = ids(named["#model/lora"]["isBasedOn"])[0]
    assert named[entity_id]["name"] == "Base model Qwen/Qwen3-VL-8B-Instruct"
    assert named[entity_id]["version"] == "0" * 40
    assert values(named, named[entity_id]) == {"model type": "qwen3_vl", "parameters": 8_767_123_696}
    assert named[entity_id]["identifier"] == plain[entity_id]["identifier"]
    assert entity_id in ids(named["#action/predict/vanilla"]["object"])


def test_actions_say_when_they_were() -> None:
    times = {"lora": {"train": ["2026-11-27T10:00:00+00:00"], "predict": ["2026-11-27T11:00:00+00:00", "2026-11-28"]}}
    found = entities(crate_of(*study(list(MODES), ["1"]), digests(), DATE, times=times))
    spans = {name: (found[name].get("startTime"), found[name].get("endTime")) for name in found if "action" in name}
    assert spans["#action/train/lora"] == (None, "2026-11-27T10:00:00+00:00")
    assert spans["#action/predict/lora"] == ("2026-11-27T11:00:00+00:00", "2026-11-28")
    assert spans["#action/predict/full"] == (None, None)


def test_the_folder_of_results_opens_as_a_crate_with_every_file(results: Path) -> None:
    crate = ROCrate(results)
    assert sorted(unquote(entity.id) for entity in crate.data_entities) == sorted(PATHS)
    for entity in crate.data_entities:
        path = results / unquote(entity.id)
        assert entity["sha256"] == digest_file(path)
        assert entity.source.samefile(path)
        assert entity["description"]
    formats = {Path(entity.id).suffix: entity["encodingFormat"] for entity in crate.data_entities}
    assert formats[".csv"] == "text/csv"
    assert formats[".svg"] == "image/svg+xml"
    assert formats[".html"] == "text/html"
    assert crate.name == "The demo"
    assert crate.root_dataset["identifier"]["value"] == fingerprint_of("study")
    assert crate.root_dataset["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"


def test_every_reference_leads_to_an_entity(results: Path) -> None:
    metadata = json.loads((results / METADATA_NAME).read_text())
    found = entities(metadata)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [value["@id"]]
        return [entity_id for item in value for entity_id in references(item)] if isinstance(value, list) else []

    named = {entity_id for entity in found.values() for value in entity.values() for entity_id in references(value)}
    assert named - found.keys() == {"https://w3id.org/ro/crate/1.1"}
    # Nothing hangs loose either, but for the descriptor, which nothing refers to.
    assert found.keys() - named == {METADATA_NAME}


def test_the_lineage_of_an_experiment_and_user_is_found(results: Path) -> None:
    crate = ROCrate(results)
    score = crate.get("#score/lora/10")
    assert score["value"] == fingerprint_of("score", "lora", "10")
    samples, answers = score["valueReference"]
    assert samples["value"] == fingerprint_of("prepare", "10")
    assert answers["value"] == fingerprint_of("predict", "lora", "1")
    assert score in crate.get("#action/compare")["object"]

    (prediction,) = [action for action in crate.get_by_type("CreateAction") if answers in action["result"]]
    assert samples in prediction["object"]
    model = prediction["object"][0]
    (training,) = [action for action in crate.get_by_type("CreateAction") if action["result"] == model]
    assert model["identifier"]["value"] == fingerprint_of("train", "lora")
    assert training["object"]["identifier"]["value"] == fingerprint_of("base_model")


def test_each_experiment_has_its_actions_and_the_comparison_made_the_files() -> None:
    found = entities(crate_of(*study(list(MODES), ["1", "2"]), digests(), DATE))
    actions = [entity_id for entity_id, entity in found.items() if entity["@type"] == "CreateAction"]
    assert sorted(actions) == sorted(ids(found["./"]["mentions"]))
    assert sorted(actions) == [
        "#action/compare",
        "#action/predict/full",
        "#action/predict/lora",
        "#action/predict/vanilla",
        "#action/train/full",
        "#action/train/lora",
    ]
    assert sorted(ids(found["#action/compare"]["result"])) == sorted(PATHS)
    assert values(found, found["#action/compare"])["comparison"] == fingerprint_of("compare")
    assert values(found, found["#action/train/full"])["training of full"] == fingerprint_of("train", "full")
    first_of = {name: ids(found[f"#action/predict/{name}"]["object"])[0] for name in MODES}
    assert (
        first_of["vanilla"]
        == ids(found["#action/train/lora"]["object"])[0]
        == ids(found["#model/full"]["isBasedOn"])[0]
    )
    assert found[first_of["vanilla"]]["name"] == "Base model"
    assert (first_of["lora"], first_of["full"]) == ("#model/lora", "#model/full")


def test_software_and_machine_of_an_action_are_told() -> None:
    dirty = {"commit": "d" * 40, "dirty": True, "changed_files": ["src/usertune/train.py", "rules/train.smk"]}
    recipe, origin = study(["vanilla", "lora"], ["1"])
    origin["experiments"]["lora"]["provenance"]["train"] = [record(), record("NVIDIA A100", revision=dirty)]
    found = entities(crate_of(recipe, origin, digests(), DATE))

    clean, changed = (found[entity_id] for entity_id in ids(found["#action/train/lora"]["instrument"]))
    assert clean["@type"] == changed["@type"] == "SoftwareApplication"
    assert (clean["name"], clean["softwareVersion"]) == ("usertune", "0.1.0")
    assert values(found, clean) == {"git commit": "c" * 40, "uncommitted changes": False}
    assert values(found, changed) == {
        "git commit": "d" * 40,
        "uncommitted changes": True,
        "files that differ from the commit": ["src/usertune/train.py", "rules/train.smk"],
    }
    packages = {
        found[entity_id]["name"]: found[entity_id]["softwareVersion"]
        for entity_id in ids(clean["softwareRequirements"])
    }
    assert packages == {"python": "3.11.9", "torch": "2.14.1+cu128", "numpy": "2.4.6"}
    assert "pkg:pypi/torch@2.14.1%2Bcu128" in ids(clean["softwareRequirements"])
    # One entity for each package and version, whoever used it.
    software = [entity["name"] for entity in found.values() if entity["@type"] == "SoftwareApplication"]
    assert sorted(software) == ["numpy", "python", "torch", "usertune", "usertune"]

    made = [found[entity_id] for entity_id in ids(found["#action/train/lora"]["additionalProperty"])]
    machines = [values(found, entity, "valueReference") for entity in made if entity["name"] == "made with"]
    assert [machine["device"] for machine in machines] == ["NVIDIA H200", "NVIDIA A100"]
    assert machines[0] == {
        "code of the step": "88abcdef88abcdef",
        "device": "NVIDIA H200",
        "processor": "Processor 9",
        "processor cores": 16,
        "memory in GiB": 128.0,
        "operating system": "Linux-6.1-x86_64",
    }


def test_equal_studies_have_equal_metadata_and_only_the_date_differs() -> None:
    recipe, origin = study(list(MODES), ["1", "2"])
    once = json.dumps(crate_of(recipe, origin, digests(), DATE))
    files_in_another_order = dict(reversed(digests().items()))
    again = json.dumps(crate_of(deepcopy(recipe), deepcopy(origin), files_in_another_order, DATE))
    assert once == again
    same_moment = DATE.astimezone(timezone(timedelta(hours=5)))
    assert json.dumps(crate_of(recipe, origin, digests(), same_moment)) == once
    later = json.dumps(crate_of(recipe, origin, digests(), DATE + timedelta(days=1)))
    assert later != once
    assert later.replace("2026-11-24T18:30:00+00:00", "2026-11-23T18:30:00+00:00") == once


def test_the_date_is_now_unless_told() -> None:
    found = entities(crate_of(*study(["vanilla"], ["1"]), digests()))
    published = datetime.fromisoformat(found["./"]["datePublished"])
    assert published.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - published) < timedelta(minutes=1)


def test_texts_survive_as_data_whatever_they_hold(tmp_path: Path) -> None:
    recipe, origin = study(["vanilla", HOSTILE], ["1", HOSTILE])
    write_json(tmp_path / METADATA_NAME, crate_of(recipe.model_copy(update={"title": HOSTILE}), origin, {}, DATE))
    crate = ROCrate(tmp_path)
    assert crate.name == HOSTILE
    assert len(crate.get_by_type("CreateAction")) == 4
    (score,) = [
        entity
        for entity in crate.get_by_type("PropertyValue")
        if entity["value"] == fingerprint_of("score", HOSTILE, HOSTILE)
    ]
    assert score["name"] == f"score of user {HOSTILE} with {HOSTILE}"
    assert [entity["value"] for entity in score["valueReference"]] == [
        fingerprint_of("prepare", HOSTILE),
        fingerprint_of("predict", HOSTILE, "0"),
    ]


def test_names_that_run_into_each_other_stay_apart() -> None:
    recipe, origin = study(["a/b", "a"], ["c", "b/c"])
    found = entities(crate_of(recipe, origin, {}, DATE))
    scores = [entity["value"] for entity in found.values() if str(entity.get("name")).startswith("score of")]
    assert sorted(scores) == sorted(
        fingerprint_of("score", name, user) for name in ("a/b", "a") for user in ("c", "b/c")
    )


def test_a_study_without_trained_experiments() -> None:
    found = entities(crate_of(*study(["vanilla"], ["1"]), digests(), DATE))
    assert sorted(ids(found["./"]["mentions"])) == ["#action/compare", "#action/predict/vanilla"]
    assert not any(entity_id.startswith(("#model", "#train")) for entity_id in found)


def test_what_is_unknown_is_left_out_but_every_action_has_a_software() -> None:
    recipe, origin = study(["vanilla", "lora"], ["1"])
    origin["provenance"] = [record(revision=None)]
    origin["experiments"]["vanilla"]["provenance"]["predict"] = [UNKNOWN]
    origin["experiments"]["lora"]["provenance"]["train"] = []
    found = entities(crate_of(recipe, origin, digests(), DATE))
    without_revision = found[ids(found["#action/compare"]["instrument"])[0]]
    assert without_revision["softwareVersion"] == "0.1.0"
    assert without_revision["description"] == "usertune at unknown revision"
    assert "additionalProperty" not in without_revision
    for action in ("#action/predict/vanilla", "#action/train/lora"):
        (lost,) = ids(found[action]["instrument"])
        assert found[lost] == {
            "@id": lost,
            "@type": "SoftwareApplication",
            "name": "usertune",
            "description": "usertune at unknown revision",
        }


def test_a_large_study_is_small_and_quick_to_describe() -> None:
    recipe, origin = study(["vanilla", "lora", "full"], [str(user) for user in range(1, 84)])
    for experiment in origin["experiments"].values():
        for user, own in experiment["lineage"]["users"].items():
            own["predict"] = fingerprint_of("predict", user)
    started = time.process_time()
    metadata = crate_of(recipe, origin, digests(), DATE)
    assert time.process_time() - started < 1
    assert len(json.dumps(metadata, indent=2)) < 1_000_000


def test_only_facts_of_the_machine_that_results_depend_on_are_published() -> None:
    recipe, origin = study(["vanilla"], ["1"])
    private = {**record()["machine"], "host": "node-of-the-institute", "folder": "/home/somebody"}
    origin["provenance"] = [current_provenance("report"), record(machine=private)]
    text = json.dumps(
        crate_of(recipe.model_copy(update={"dataset": {"root": "/data/private"}}), origin, digests(), DATE)
    )
    assert current_provenance("report")["code"] in text
    for folder in (Path.home(), Path.cwd(), Path(sys.prefix), Path(__file__).parent):
        assert str(folder) not in text
    for word in ("node-of-the-institute", "/home/somebody", "/data/private"):
        assert word not in text


def test_the_link_follows_new_metadata_and_replaces_what_was_there(results: Path) -> None:
    link = results / METADATA_NAME
    assert link.readlink() == Path("provenance.json")
    write_json(results / "provenance.json", {"new": True})
    link_as_crate(results / "provenance.json")
    assert json.loads(link.read_text()) == {"new": True}
    link.unlink()
    link.write_text("a copy, as tools make that know no links")
    link_as_crate(results / "provenance.json")
    assert link.readlink() == Path("provenance.json")
    assert [path.name for path in results.iterdir() if path.name.endswith(".tmp")] == []


def test_a_link_that_cannot_be_made_is_reported_and_fails_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (results / METADATA_NAME).unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as without_links:
        without_links.setattr(Path, "symlink_to", refuse)
        link_as_crate(results / "provenance.json")
    assert "cannot be made a link to provenance.json" in caplog.text
    (results / METADATA_NAME).mkdir()
    link_as_crate(results / "provenance.json")
    assert (results / METADATA_NAME).is_dir()
    assert [path.name for path in results.iterdir() if path.name.endswith(".tmp")] == []


def test_planning_a_study_does_not_import_the_library() -> None:
    code = "import sys, usertune.pipeline.layout, usertune.checks.audit; sys.exit('rocrate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
