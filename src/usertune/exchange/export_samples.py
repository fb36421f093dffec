"""Export the prepared samples of a study as another trainer reads them."""

from __future__ import annotations

import re
from pathlib import Path

from usertune.core.files import write_text
from usertune.core.formatting import printable
from usertune.data.export import FOLDER, ImagePaths, write_split
from usertune.data.writer import Writer
from usertune.data.writers.catalogue import WRITERS
from usertune.exchange.current import freshness_of, require_current
from usertune.exchange.new_folder import new_folder, require_replaceable
from usertune.pipeline import steps
from usertune.study.files import SPLITS
from usertune.study.schema.study import Study


def export_samples(study: Study, kind: str, folder: Path, copy_images: bool = False, force: bool = False) -> str:
    """Write the splits of a study, each as one file, with what the trainer needs to read them.

    Args:
        study: the study; all its users are prepared.
        kind: name of a format in `WRITERS`.
        folder: the folder to write.
        copy_images: whether images are copied into the folder, rather than named by their absolute path.
        force: whether to replace an earlier export.

    Returns:
        What was written, for people.

    Raises:
        UserError: a user's samples are missing, stale or modified, the format cannot express a sample, or the folder
            cannot be written.
    """
    writer: Writer = WRITERS.load(kind)()
    require_replaceable(folder.absolute(), force)
    freshness = freshness_of(study)
    template = steps.PREPARE.manifest
    splits = {split: getattr(study.users, split) for split in SPLITS if getattr(study.users, split)}
    paths = {split: [template.format(user=user) for user in users] for split, users in splits.items()}
    require_current(freshness, (path for own in paths.values() for path in own), "snakemake check --profile local")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", study.name)
    files = {split: f"{split}.jsonl" for split in splits}
    about: dict[str, object] = {"study": study.name, "format": kind, "splits": {}}
    with new_folder(folder, force, about) as hidden:
        images = ImagePaths(Path(study.dataset.root), hidden / FOLDER if copy_images else None)
        written = {
            split: write_split(writer, [freshness.folder / path for path in own], images, hidden / files[split])
            for split, own in paths.items()
        }
        about["splits"] = written
        for file, text in writer.further_files(name, files).items():
            write_text(hidden / file, text)
        counts = [f"| {split} | {own['users']:,} | {own['samples']:,} |" for split, own in written.items()]
        write_text(hidden / "README.md", _readme(study, writer, counts, writer.usage(name, files)))
    total = sum(own["samples"] for own in written.values())
    how = "copied" if copy_images else "named by their paths"
    return (
        f"{folder}: {total:,} samples for {writer.title} in {', '.join(files.values())}; {len(images):,} images, {how}"
    )


def _readme(study: Study, writer: Writer, counts: list[str], usage: str) -> str:
    lines = [
        f"# Samples of the study {printable(study.name)} for {writer.title}",
        "",
        "The same samples, texts and splits as in usertune; coordinates are 0-1000 on each axis.",
        "",
        "| split | users | samples |",
        "|---|---:|---:|",
        *counts,
        "",
        usage,
    ]
    return "\n".join(lines)
