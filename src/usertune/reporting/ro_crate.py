"""The provenance of a study's results for machines: RO-Crate metadata, which makes the folder of results a crate.

It follows the profile Process Run Crate 0.5, which builds on RO-Crate 1.1: an action made each result with a software.
Ids are made of what they name, so equal studies have equal metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from usertune.core.files import replacement
from usertune.core.hashing import digest
from usertune.core.step_names import BASE_MODEL, COMPARE, PREDICT, PREPARE, SCORE, TRAIN, TRAIN_FOLDS
from usertune.evaluation import table_names
from usertune.evaluation.lineage import SOURCE
from usertune.evaluation.recipe import Experiment
from usertune.reporting.recipe import ReportRecipe
from usertune.runtime.provenance import UNKNOWN, describe_revision

logger = logging.getLogger(__name__)

CRATE_VERSION = "1.1"
PROFILE_VERSION = "0.5"
PROFILE = f"https://w3id.org/ro/wfrun/process/{PROFILE_VERSION}"
# Defines sha256, which the context of RO-Crate 1.1 lacks.
PROFILE_CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
METADATA_NAME = "ro-crate-metadata.json"

# The specification demands a license and allows a text; usertune knows of none and must not invent one.
LICENSE = "Not specified. Whoever ran the study decides how its results may be used."
REPORT = "report.html"
STUDY = "study.yaml"
FILE_DESCRIPTIONS = {
    **table_names.DESCRIPTIONS,
    STUDY: "The study: data, splits, base model and the settings of every experiment, with every default written out",
    REPORT: "The comparison in one file: tables, figures, samples, and where the numbers come from",
}
# Written out, since Python's module mimetypes answers by what the machine has installed.
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tex": "text/x-tex",
    ".yaml": "application/yaml",
}
FIGURE_FORMATS = {".pdf": "PDF", ".png": "PNG", ".svg": "SVG"}
UNKNOWN_FORMAT = "application/octet-stream"
# How many digits of a digest an id holds.
ID_DIGITS = 16


def crate_of(
    recipe: ReportRecipe,
    lineage: Mapping[str, Any],
    digests: Mapping[str, str],
    published: datetime | None = None,
    base_model: Mapping[str, Any] | None = None,
    times: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> dict[str, Any]:
    """Return the RO-Crate metadata (JSON-LD) of a study's results.

    Args:
        recipe: what the report says and shows.
        lineage: what `usertune.evaluation.lineage.lineage_of` found.
        digests: SHA-256 of tables, figures and report, by their place in the folder of results.
        published: when the report was written, with its time zone; now unless told.
        base_model: the manifest of the base model, which says where it was and which commit of the hub it is.
        times: for each experiment when it was trained and predicted, see `usertune.reporting.sections.study.times_of`.

    Returns:
        The root dataset, with its files; an action for each experiment's training (if it was trained) and prediction,
        and one for the comparison; what these used and made. The fingerprints of experiment ``lora`` and user ``7``
        are found from the entity ``#score/lora/7``: its ``value`` is that of the score, its ``valueReference`` leads
        to those of the predictions and of the prepared samples. Equal arguments give equal metadata.

    Raises:
        KeyError: ``lineage`` lacks an experiment of the recipe.
    """
    date = (published or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    crate = ROCrate(version=CRATE_VERSION)
    crate.metadata.extra_contexts.append(PROFILE_CONTEXT)
    files = [_file(crate, place, digests[place]) for place in sorted(digests)]
    actions = []
    if base_model:
        _describe_base_model(crate, base_model)
    for experiment in recipe.experiments:
        actions.extend(_experiment(crate, experiment, lineage["experiments"][experiment.name]))
    for name, steps in (times or {}).items():
        for step, known in steps.items():
            action = crate.get(_id("action", step, name))
            # A training's time is that of its end; it may have been interrupted, and resumed.
            if len(known) > 1:
                action["startTime"] = known[0]
            action["endTime"] = known[-1]
    actions.append(_comparison(crate, recipe, lineage, files, date))
    _describe_root(crate, recipe, lineage, actions, date)
    metadata: dict[str, Any] = crate.metadata.generate()
    return metadata


def link_as_crate(provenance_file: Path) -> None:
    """Make the folder of ``provenance_file`` a crate: tools look for its metadata under one name, which leads there.

    Where the file system has no links, the folder stays without, and the metadata can be opened by their own name.
    """
    link = provenance_file.with_name(METADATA_NAME)
    try:
        with replacement(link) as temporary:
            temporary.symlink_to(provenance_file.name)
    except OSError as error:
        logger.warning(
            "%s: cannot be made a link to %s (%s); RO-Crate tools need a copy", link, provenance_file.name, error
        )


def _describe_root(
    crate: ROCrate, recipe: ReportRecipe, lineage: Mapping[str, Any], actions: Sequence[ContextEntity], date: str
) -> None:
    study = recipe.study
    experiments = ", ".join(f"{item.name} ({item.kind})" for item in recipe.experiments)
    profile = _entity(
        crate, PROFILE, "CreativeWork", {"name": "Process Run Crate", "version": PROFILE_VERSION, "url": PROFILE}
    )
    root = crate.root_dataset
    root["name"] = recipe.title or study or "Comparison of experiments"
    root["description"] = (
        f"Results of the study {study}: the experiments {experiments}, compared on {len(recipe.users)} test users."
    )
    root["datePublished"] = date
    root["license"] = LICENSE
    root["conformsTo"] = profile
    root["mentions"] = list(actions)
    if lineage["study_sha256"]:
        root["identifier"] = _fingerprint(crate, _id("study"), f"study {study}", lineage["study_sha256"])


def _file(crate: ROCrate, place: str, sha256: str) -> Any:
    path = PurePosixPath(place)
    if path.suffix in FIGURE_FORMATS:
        description = f"Figure: {path.stem.replace('_', ' ')}, as {FIGURE_FORMATS[path.suffix]}"
    else:
        description = FILE_DESCRIPTIONS.get(path.name, "A result of the study")
    return crate.add_file(
        dest_path=place,
        properties={
            "name": place,
            "description": description,
            "encodingFormat": FORMATS.get(path.suffix, UNKNOWN_FORMAT),
            "sha256": sha256,
        },
    )


def _experiment(crate: ROCrate, experiment: Experiment, found: Mapping[str, Any]) -> list[ContextEntity]:
    """Return the actions of one experiment: its training, if it was trained, and its prediction."""
    name, fingerprints = experiment.name, found["lineage"]
    label = f"{name} (mode {experiment.kind})"
    if fingerprints[BASE_MODEL] is None:
        source = _from_elsewhere(crate, name, fingerprints[SOURCE]) if SOURCE in fingerprints else None
        return [_prediction(crate, name, label, source, found)]
    base = _base_model(crate, fingerprints[BASE_MODEL])
    if SOURCE in fingerprints:
        weights = _from_elsewhere(crate, name, fingerprints[SOURCE])
        weights["isBasedOn"] = base
        return [_prediction(crate, name, label, weights, found)]
    folds = fingerprints.get(TRAIN_FOLDS, {})
    if not fingerprints[TRAIN] and not folds:
        return [_prediction(crate, name, label, base, found)]
    trained, on = fingerprints[TRAIN], "the base model, on the training users"
    if folds:
        # The fingerprint of each is in the manifest of the tables.
        trained = digest(folds)
        on = "the base model or trained weights, on folds of the test users' own samples"
    fingerprint = _fingerprint(crate, _id(TRAIN, name), f"training of {name}", trained)
    model = _entity(
        crate,
        _id("model", name),
        "CreativeWork",
        {"name": f"Model of {name}", "isBasedOn": base, "identifier": fingerprint},
    )
    training = _action(
        crate,
        _id("action", TRAIN, name),
        {
            "name": f"Training of {name}",
            "description": f"Trained the experiment {label}, from {on}.",
            "object": base,
            "result": model,
        },
        [fingerprint],
        found["provenance"][TRAIN],
    )
    return [training, _prediction(crate, name, label, model, found)]


def _from_elsewhere(crate: ROCrate, name: str, source: Mapping[str, Any]) -> ContextEntity:
    """Return the entity of what an experiment takes from elsewhere, with the digest of each of its files."""
    properties: dict[str, Any] = {
        "name": f"{name}: {source['name']}",
        "description": "What the experiment uses and does not make itself",
        "identifier": _compact(
            _fingerprint(crate, _id(SOURCE, name, sha256[:ID_DIGITS]), file, sha256)
            for file, sha256 in source["sha256"].items()
        ),
    }
    return _entity(crate, _id(SOURCE, name), "CreativeWork", properties)


def _describe_base_model(crate: ROCrate, manifest: Mapping[str, Any]) -> None:
    """Add the base model with what its manifest says of it: the study's name for it, and its commit on the hub."""
    entity = _base_model(crate, manifest["output"])
    entity["name"] = f"Base model {manifest['recipe']['path']}"
    about = manifest.get("about", {})
    if about.get("commit"):
        entity["version"] = about["commit"]
    known = {"model type": about.get("model_type"), "parameters": about.get("parameters")}
    if found := [_property(crate, name, value) for name, value in known.items() if value is not None]:
        entity["additionalProperty"] = _compact(found)


def _base_model(crate: ROCrate, fingerprint: str) -> ContextEntity:
    digits = fingerprint[:ID_DIGITS]
    if found := crate.get(_id("base-model", digits)):
        return found
    properties = {
        "name": "Base model",
        "description": "The model that the study began with; its fingerprint is that of its files' content",
        "identifier": _fingerprint(crate, _id("base-model", digits, "fingerprint"), "base model", fingerprint),
    }
    return _entity(crate, _id("base-model", digits), "CreativeWork", properties)


def _prediction(
    crate: ROCrate, name: str, label: str, model: ContextEntity | None, found: Mapping[str, Any]
) -> ContextEntity:
    samples: list[ContextEntity] = []
    # Users who were predicted in one job share a fingerprint.
    answers: dict[str, ContextEntity] = {}
    for user, own in found["lineage"]["users"].items():
        prepared, predicted = own[PREPARE], own[PREDICT]
        own_samples = _fingerprint(
            crate, _id(PREPARE, user, prepared[:ID_DIGITS]), f"prepared samples of user {user}", prepared
        )
        own_answers = _fingerprint(
            crate, _id(PREDICT, name, predicted[:ID_DIGITS]), f"predictions with {name}", predicted
        )
        score = _fingerprint(crate, _id(SCORE, name, user), f"score of user {user} with {name}", own[SCORE])
        score["valueReference"] = [own_samples, own_answers]
        samples.append(own_samples)
        answers[predicted] = own_answers
    return _action(
        crate,
        _id("action", PREDICT, name),
        {
            "name": f"Prediction with {name}",
            "description": f"Predicted the test users' samples with the experiment {label}.",
            "object": [*([model] if model else []), *samples],
            "result": _compact(answers.values()),
        },
        list(answers.values()),
        found["provenance"][PREDICT],
    )


def _comparison(
    crate: ROCrate, recipe: ReportRecipe, lineage: Mapping[str, Any], files: Sequence[Any], date: str
) -> ContextEntity:
    scores = [
        crate.get(_id(SCORE, experiment.name, user))
        for experiment in recipe.experiments
        for user in lineage["experiments"][experiment.name]["lineage"]["users"]
    ]
    return _action(
        crate,
        _id("action", COMPARE),
        {
            "name": "Comparison of the experiments",
            "description": "Compared the scores of all experiments and users, drew the figures and wrote the report.",
            "endTime": date,
            "object": _compact(scores),
            "result": _compact(files),
        },
        [_fingerprint(crate, _id(COMPARE), "comparison", lineage["fingerprint"])],
        lineage["provenance"],
    )


def _action(
    crate: ROCrate,
    identifier: str,
    properties: Mapping[str, Any],
    fingerprints: Sequence[ContextEntity],
    records: Sequence[Mapping[str, Any]],
) -> ContextEntity:
    """Add an action that was made with what the records say (see `usertune.runtime.provenance`)."""
    records = records or [UNKNOWN]
    # By id, since records of several machines can name the same software.
    software = {entity.id: entity for entity in (_software(crate, record) for record in records)}
    return _entity(
        crate,
        identifier,
        "CreateAction",
        {
            **properties,
            "instrument": _compact(software.values()),
            "additionalProperty": _compact([*fingerprints, *(_circumstances(crate, record) for record in records)]),
        },
    )


def _software(crate: ROCrate, record: Mapping[str, Any]) -> ContextEntity:
    """Add usertune as a record knows it: version, git revision, and the packages that it ran with."""
    revision, versions = record["revision"], record["versions"]
    known = []
    if revision:
        known.append(_property(crate, "git commit", revision["commit"]))
        known.append(_property(crate, "uncommitted changes", revision["dirty"]))
        if revision["changed_files"]:
            known.append(_property(crate, "files that differ from the commit", _compact(revision["changed_files"])))
    packages = [_package(crate, name, str(version)) for name, version in versions.items() if name != "usertune"]
    properties: dict[str, Any] = {"name": "usertune", "description": f"usertune at {describe_revision(revision)}"}
    if "usertune" in versions:
        properties["softwareVersion"] = str(versions["usertune"])
    if known:
        properties["additionalProperty"] = known
    if packages:
        properties["softwareRequirements"] = _compact(packages)
    identifier = _id("usertune", digest([revision, versions])[:ID_DIGITS])
    return _entity(crate, identifier, "SoftwareApplication", properties)


def _package(crate: ROCrate, name: str, version: str) -> ContextEntity:
    described = {"name": name, "softwareVersion": version}
    if name == "python":
        described["url"] = "https://www.python.org/"
        return _entity(crate, _id("python", version), "SoftwareApplication", described)
    # A package URL (https://github.com/package-url/purl-spec) names a release wherever it is had from.
    identifier = f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='')}@{quote(version, safe='')}"
    return _entity(crate, identifier, "SoftwareApplication", described)


def _circumstances(crate: ROCrate, record: Mapping[str, Any]) -> ContextEntity:
    """Add what one record says in words, with its device and machine as properties of their own."""
    machine = record["machine"]
    named = {
        "code of the step": record["code"],
        "device": record["device"],
        "processor": machine.get("processor"),
        "processor cores": machine.get("cores"),
        "memory in GiB": machine.get("memory_gib"),
        "operating system": machine.get("system"),
    }
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items()) or "unknown packages"
    words = f"{describe_revision(record['revision'])}, {packages}, on {record['device']}"
    properties = {
        "name": "made with",
        "value": words,
        "valueReference": [_property(crate, name, value) for name, value in named.items() if value is not None],
    }
    return _entity(crate, _id("made-with", digest(record)[:ID_DIGITS]), "PropertyValue", properties)


def _fingerprint(crate: ROCrate, identifier: str, name: str, value: str) -> ContextEntity:
    """Add a fingerprint: the SHA-256 by which usertune knows a result."""
    return _entity(
        crate, identifier, "PropertyValue", {"name": name, "propertyID": "usertune fingerprint", "value": value}
    )


def _property(crate: ROCrate, name: str, value: Any) -> ContextEntity:
    identifier = _id(name.replace(" ", "-"), digest(value)[:ID_DIGITS])
    return _entity(crate, identifier, "PropertyValue", {"name": name, "value": value})


def _entity(crate: ROCrate, identifier: str, kind: str, properties: Mapping[str, Any]) -> ContextEntity:
    """Add an entity; one of the same id takes its place, and is equal, since an id names all that differs."""
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))


def _id(*parts: str) -> str:
    """Return the id of an entity inside the crate; parts cannot run into each other, whatever they hold."""
    return "#" + "/".join(quote(part, safe="") for part in parts)


def _compact(values: Iterable[Any]) -> Any:
    """Return the values, or the only one by itself, as the specification asks of lists."""
    listed = list(values)
    return listed[0] if len(listed) == 1 else listed
