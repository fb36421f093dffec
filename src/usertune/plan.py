"""What is looked at while jobs are planned: that the sources are there, and the state of the raw images."""

from __future__ import annotations

from pathlib import Path

from usertune.base_model import check_local, is_local, model_files
from usertune.data.messages import describe_available, image_references, image_stats, user_file
from usertune.errors import UserError
from usertune.fingerprint import digest, digest_file
from usertune.study import SPLITS, Study
from usertune.users import format_users


def check_sources(study: Study) -> None:
    """Check that the dataset, every user's raw file and a local base model are there.

    Raises:
        UserError: something is missing; the message names the key of the study and says what to do.
    """
    root = Path(study.dataset.root)
    if not root.is_dir():
        hint = " (the demo's screens are drawn by: make demo-data)" if study.name == "demo" else ""
        raise UserError(f"dataset.root: the folder {root} does not exist{hint}")
    for split in SPLITS:
        missing = [user for user in getattr(study.users, split) if not user_file(root, user).is_file()]
        if missing:
            raise UserError(
                f"users.{split}: no raw data in {root} for user {format_users(missing)}; {describe_available(root)}"
            )
    if is_local(study.base_model.path):
        check_local(study.base_model.path)


def base_model_sources(study: Study) -> list[str]:
    """Return the files of a local base model, or nothing when it is a hub name."""
    path = study.base_model.path
    if not is_local(path):
        return []
    folder = Path(path).expanduser()
    return [str(folder / name) for name in model_files(folder)]


def watched_images(study: Study, user: str) -> str:
    """Return a digest of the state of a user's raw images, as far as the study watches them."""
    root = Path(study.dataset.root)
    if study.dataset.watch_images == "never":
        return "not watched"
    if study.dataset.watch_images == "stat":
        return digest(image_stats(root, user))
    paths = {reference: root / reference for reference in image_references(user_file(root, user))}
    return digest({name: digest_file(path) for name, path in paths.items() if path.is_file()})
