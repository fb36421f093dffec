"""Find the base model and write its manifest, before any job requests a GPU."""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.files import read_json
from usertune.core.hashing import digest, digest_file, file_states
from usertune.core.manifest import step_manifest, write_result
from usertune.core.step_names import BASE_MODEL
from usertune.models.base_folder import as_recorded, is_local, model_files
from usertune.models.families.catalogue import family_of, recorded_module
from usertune.models.hub import cached_models, cached_snapshot, download, hub_cache, is_offline
from usertune.models.model_folder import ModelFolder, looks_like_a_folder, pixel_problems, similar_folders
from usertune.models.recipe import BaseModelRecipe, Pixels
from usertune.models.tensor_files import shapes_in
from usertune.runtime.provenance import current_provenance

logger = logging.getLogger(__name__)


def check_base_model(path: str, revision: str | None, pixels: Pixels) -> None:
    """Check during planning that a base model can be used, as far as this machine has its files.

    Reads small files and headers, no weights. For a hub name, checks the cached copy, and only if the hub client is
    offline.

    Args:
        path: ``base_model.path`` of the study.
        revision: ``base_model.revision``.
        pixels: fewest and most pixels of an image.

    Raises:
        UserError: the folder is missing or incomplete; one message lists all problems.
    """
    if is_local(path):
        check_local(path, pixels)
        return
    snapshot = cached_snapshot(path, revision, os.environ)
    if snapshot is None and revision is None and (hint := looks_like_a_folder(path)):
        raise UserError(
            f"base_model.path: {path} is not a folder, but looks like one: {hint}; if it is a name on the hub, set "
            "base_model.revision: main"
        )
    if not is_offline(os.environ):
        return
    if snapshot is None:
        raise UserError(
            f"base_model.path: {path} is neither a folder here nor a hub model in the cache {hub_cache(os.environ)}, "
            f"and HF_HUB_OFFLINE forbids downloading it{_similar(path)}"
        )
    _check_snapshot(path, snapshot, pixels)


def check_local(path: str, pixels: Pixels) -> None:
    """Check that a local base model can be used, without loading it.

    Raises:
        UserError: the folder or a file in it is missing or damaged, or it holds another kind of model.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        form = "" if path.count("/") == 1 else "; a name on the hub has the form owner/name"
        what = "a file; give the folder that holds it" if folder.is_file() else f"not a folder{_similar(path)}{form}"
        raise UserError(f"base_model.path: {path} is {what}")
    _check_folder(path, folder, pixels, "")


def _check_snapshot(name: str, snapshot: Path, pixels: Pixels) -> None:
    advice = f"complete the cached copy on a machine with a network: hf download {name}"
    _check_folder(f"{name} ({snapshot})", snapshot, pixels, f"\n  {advice}")


def _check_folder(name: str, folder: Path, pixels: Pixels, advice: str) -> None:
    model = ModelFolder(folder)
    problems = model.inspect()
    limits = model.image_size()
    if limits is not None:
        problems += pixel_problems(limits, pixels)
    if len(problems) == 1 and problems[0].startswith("base_model."):
        raise UserError(f"{problems[0]} (base_model.path: {name})")
    if len(problems) == 1:
        raise UserError(f"base_model.path: {name}: {problems[0]}{advice}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"base_model.path: {name} cannot be used ({len(problems)} problems):\n{listed}{advice}")


def _similar(path: str) -> str:
    """Return a clause that lists similar names: folders here, and models in the hub's cache."""
    close = difflib.get_close_matches(path, cached_models(os.environ), n=3, cutoff=0.6)
    return similar_folders(path) + (f"; similar models in the hub's cache: {', '.join(close)}" if close else "")


def describe_base_model(recipe: BaseModelRecipe, manifest_file: str | Path, path: str | None = None) -> dict[str, Any]:
    """Find the base model (download it if it is a hub name) and write its manifest.

    Args:
        recipe: the model, and how the study uses it.
        manifest_file: JSON object to write: the local folder, the result of `about_model`, and the digest of every
            file.
        path: the folder relative to the working directory, or the hub name; by default the recipe's.

    Returns:
        The manifest. Its ``output`` depends only on the files' content, so a copy is the same model.

    Raises:
        UserError: the model cannot be found, downloaded or used.
    """
    path = path or recipe.path
    if is_local(path):
        folder = Path(path).expanduser()
        check_local(path, recipe.pixels)
    else:
        # Before the weights, which may have many gigabytes.
        check_family(download(path, recipe.revision, _similar(path), ("config.json",)), path)
        folder = download(path, recipe.revision, _similar(path))
        _check_snapshot(path, folder, recipe.pixels)
    # Imported here: planning, which also uses this module, needs no templates.
    from usertune.models.chat_template import ChatTemplate

    model = ModelFolder(folder)
    family = family_of(folder)
    marks = family.markers
    if missing := model.missing_tokens((marks.turn_start, marks.turn_end, marks.image)):
        raise UserError(f"base_model.path: {path}: the tokenizer has no {', '.join(missing)}; fetch its files again")
    template = ChatTemplate(model.chat_template() or "", marks, model.special_tokens())
    checked = template.check(recipe.thinking)
    files = {}
    names = model_files(folder)
    state = file_states(folder, names)
    for name in names:
        logger.info("reading %s", folder / name)
        files[name] = digest_file(folder / name)
    content = digest(files)
    about = about_model(folder)
    manifest = {
        **step_manifest(recipe, {"model_files": content}, output=content),
        "folder": as_recorded(folder, manifest_file),
        "about": about,
        "model_files": files,
        "model_state": state,
        "chat_template": checked,
        "provenance": [current_provenance(BASE_MODEL, plug_ins=recorded_module({"about": about}))],
        "files": {},
    }
    write_result(manifest_file, manifest)
    return manifest


def check_family(folder: Path, name: str) -> None:
    """Check that a model is of a known family and not quantised, from its config.json alone.

    Args:
        folder: the model's folder, which may lack all other files.
        name: the model as the study names it.

    Raises:
        UserError: it is not; the message lists the known families.
    """
    if problems := ModelFolder(folder).config_problems():
        raise UserError(f"base_model.path: {name}: {'; '.join(problems)}")


def about_model(folder: Path) -> dict[str, Any]:
    """Return a model's ``model_type``, ``parameters`` (count of numbers in its files) and ``commit`` on the hub.

    Parameters and commit are None if unknown. The hub client names a snapshot's folder by its commit, and writes a
    metadata file into folders that it downloads to (``local_dir``).
    """
    commit = folder.name if folder.parent.name == "snapshots" else None
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    with suppress(OSError, ValueError):
        commit = commit or note.read_text(encoding="utf-8").split("\n")[0].strip()
    known = commit if commit and re.fullmatch("[0-9a-f]{40}", commit) else None
    parameters = None
    with suppress(UserError):
        parameters = sum(math.prod(shape) for shape in shapes_in(folder).values())
    return {
        "model_type": read_json(folder / "config.json").get("model_type"),
        "parameters": parameters,
        "commit": known,
    }
