"""The state of a study's sources when jobs are planned: raw data with their images, and a local base model."""

from __future__ import annotations

from pathlib import Path

from usertune.core.hashing import digest, file_states
from usertune.data.raw_data import RawData
from usertune.data.readers.catalogue import get_reader
from usertune.models.base_folder import is_local, model_files
from usertune.study.schema.study import Study


def raw_data_of(study: Study) -> RawData:
    """Return the current raw data of a study."""
    dataset, root = study.dataset, Path(study.dataset.root)
    return RawData(root, get_reader(dataset.format, root, dataset.options), dataset.watch_images)


def base_model_sources(study: Study) -> list[str]:
    """Return the files of a local base model; none for a hub name."""
    path = study.base_model.path
    if not is_local(path):
        return []
    folder = Path(path).expanduser()
    return [str(folder / name) for name in model_files(folder)]


def base_model_state(study: Study) -> str:
    """Return a digest of sizes and times of a local base model's files; empty for a hub name.

    Snakemake alone does not notice a large file that is replaced by one with an older time.
    """
    if not is_local(study.base_model.path):
        return ""
    folder = Path(study.base_model.path).expanduser()
    return digest(file_states(folder, model_files(folder)))
