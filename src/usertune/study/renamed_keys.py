"""Old names of keys, which studies can still use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.study.files import KeyPath, read_setting, read_yaml

RENAMED_KEYS = {"micro_batch": "micro_batch_size", "loader_workers": "dataloader_num_workers"}
# The value of freeze_vision also has another form.
_PAIRS = {**RENAMED_KEYS, "freeze_vision": "freeze"}


def with_new_keys(training: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return training settings with current keys, and a message for each old key that names the new one."""
    settings, replacements = dict(training), {}
    for old, new in RENAMED_KEYS.items():
        if old in settings and new not in settings:
            settings[new] = settings.pop(old)
            replacements[old] = new
    if "freeze_vision" in settings and "freeze" not in settings:
        vision = settings.pop("freeze_vision")
        settings["freeze"] = {"vision": vision, "merger": vision}
        word = str(vision).lower()
        replacements["freeze_vision"] = f"freeze: {{vision: {word}, merger: {word}}}"
    messages = [f"training.{old} is an old key that still works; write {new}" for old, new in replacements.items()]
    return settings, messages


def with_new_report_keys(report: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the section `report` with current keys, and a message if it has the old one."""
    settings, count = dict(report), report.get("examples")
    if "samples" in settings or not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return settings, []
    del settings["examples"]
    settings["samples"] = "all" if count else "none"
    return settings, [f"report.examples is an old key that still works; write samples: {settings['samples']}"]


def with_latest_keys(
    config: Mapping[str, Any], files: Sequence[str | Path], command_line: Sequence[str]
) -> dict[str, Any]:
    """Return a merged configuration with one name per training key: the name in the latest file or setting.

    If a file sets ``micro_batch_size`` and a later file or ``--config`` sets ``micro_batch``, merging keeps both.
    If one file sets both, both stay and validation reports an error.
    """
    result = dict(config)
    for path, section in _training_sections(config):
        both = [(old, new) for old, new in _PAIRS.items() if old in section and new in section]
        if not both:
            continue
        sources = [*map(read_yaml, files), *map(read_setting, command_line)]
        for old, new in both:
            named = [{old, new} & set(_at(source, path)) for source in sources]
            named = [names for names in named if names]
            if named and all(len(names) == 1 for names in named):
                (latest,) = named[-1]
                result = _without(result, (*path, old if latest == new else new))
    return result


def _training_sections(config: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    experiments = config.get("experiments")
    names = experiments if isinstance(experiments, Mapping) else {}
    for path in (("training",), *(("experiments", str(name), "training") for name in names)):
        yield path, _at(config, path)


def _at(config: Any, path: KeyPath) -> Mapping[str, Any]:
    """Return the section at ``path``, or an empty one."""
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _without(config: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    if len(path) == 1:
        return {key: value for key, value in config.items() if key != path[0]}
    return {**config, path[0]: _without(config[path[0]], path[1:])}
