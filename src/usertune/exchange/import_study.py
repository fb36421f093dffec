"""Write a commented study for raw data that were looked at."""

from __future__ import annotations

import json
import os
import re
import secrets
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError
from usertune.core.formatting import printable
from usertune.core.users import format_users
from usertune.exchange.look import Look, look_at
from usertune.models.base_folder import is_local
from usertune.study.load import load_study

BASE_MODEL = "Qwen/Qwen3-VL-2B-Instruct"
WIDTH = 100
# With fewer users there is none to validate on, with a single one none to train on.
ENOUGH_TO_VALIDATE, ENOUGH_TO_TRAIN = 10, 2


def import_study(source: Path, file: Path | None, wanted: str | None = None, base_model: str = BASE_MODEL) -> str:
    """Look at raw data and write a study for them.

    Args:
        source: file or folder with the raw data.
        file: the study to write; None for the name of the source, in the working directory.
        wanted: name of the format; None to try all.
        base_model: ``base_model.path`` of the study.

    Returns:
        What was found, and the next command, for people.

    Raises:
        UserError: the data are not recognised, or the file exists.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", source.resolve().stem).strip("-_")[:40] or "study"
    file = Path(f"{name}.yaml") if file is None else file
    if file.exists() or file.is_symlink():
        raise UserError(f"--to {file}: the file exists; name another one")
    if not file.parent.is_dir():
        raise UserError(f"--to {file}: the folder {file.parent} does not exist")
    look = look_at(source, wanted)
    _write(file, study_text(name, look, base_model, file.parent))
    return "\n".join([*_summary(look), f"wrote {file}; run it by: snakemake --profile local --configfile {file}"])


def _write(file: Path, text: str) -> None:
    """Write the study if it is valid; a file that another process wrote since is kept."""
    temporary = file.with_name(f".{file.stem}.{secrets.token_hex(4)}.yaml")
    try:
        temporary.write_text(text, encoding="utf-8")
        load_study([temporary])
        try:
            os.link(temporary, file)
        except FileExistsError:
            raise UserError(f"--to {file}: the file exists; name another one") from None
        except OSError:
            # The file system has no links.
            temporary.rename(file)
    except UserError as error:
        raise UserError(str(error).replace(str(temporary), str(file))) from None
    finally:
        temporary.unlink(missing_ok=True)


def study_text(name: str, look: Look, base_model: str, folder: Path) -> str:
    """Return the study.

    Args:
        name: its name.
        look: what was found.
        base_model: folder or hub name of the base model.
        folder: the folder of the study's file, to which paths are relative.
    """
    model = _path(Path(base_model).expanduser(), folder) if is_local(base_model) else base_model
    lines = [
        "# Written by usertune import. config.yaml of the repository explains every key.",
        *_comment("\n".join(_summary(look))),
        "",
        f"name: {_text(name)}",
        "",
        "dataset:",
        *_dataset(look, folder),
        "",
        *_users(look),
        "",
        "base_model:",
        "  # A folder with a model and its processor, or a name on the hub; revision is its commit, tag or branch.",
        f"  path: {_text(model)}",
        *([] if is_local(base_model) else ["  revision: main"]),
        "",
        *_experiments(look),
    ]
    return "\n".join(lines) + "\n"


def _dataset(look: Look, folder: Path) -> Iterator[str]:
    found, trial = look.found, look.trial
    yield f"  format: {look.format}"
    yield f"  root: {_text(_path(found.root, folder))}"
    if found.options:
        yield from _comment(found.notes.get("options", ""), "  ")
        yield "  options:"
        yield from (f"    {key}: {_text(value)}" for key, value in found.options.items())
    asked = f" It does not ask for {', '.join(trial.not_asked)}, which are left out." if trial.not_asked else ""
    yield from _comment(f"What the model is asked for.{asked}", "  ")
    yield f"  task: {look.task}"
    warning = "" if look.is_decided else "NOT DECIDED by the data; check it before you train. "
    yield from _comment(f"{warning}Frame of the coordinates: {look.decided}.", "  ")
    yield f"  frame: {look.frame}"
    if trial.problems:
        bad = trial.looked_at - trial.good
        yield from _comment(
            f"Samples that cannot be used, such as {bad} of the {trial.looked_at} that were looked at, are left out "
            "and listed in the report; error ends the run instead.",
            "  ",
        )
        yield "  on_bad_sample: skip"


def _users(look: Look) -> Iterator[str]:
    count = len(look.users)
    yield "users:"
    if count < ENOUGH_TO_TRAIN:
        keys = "dataset.options.user names the key of a sample that says whose it is"
        how = f"{keys} (or an app, a platform, ...)" if look.format != "messages" else "each needs its samples"
        yield from _comment(
            f"The data name no users, so all samples are for evaluation. To train, split them between users: {how}; "
            "then train: 80 %, test: rest, and an experiment of mode lora.",
            "  ",
        )
        yield f"  test: {_text(format_users(look.users))}"
        return
    yield from _comment(
        "Shares of the users, drawn by seed; a user's samples stay together. Lists (1-3,7) work too.", "  "
    )
    if count >= ENOUGH_TO_VALIDATE:
        yield from ("  train: 80 %", "  validation: 10 %", "  test: rest")
    else:
        yield from ("  train: 50 %", "  test: rest")
    yield "  seed: 0"


def _experiments(look: Look) -> Iterator[str]:
    yield "experiments:"
    yield "  # The model as it is."
    yield from ("  vanilla:", "    mode: vanilla")
    if len(look.users) >= ENOUGH_TO_TRAIN:
        yield "  # Low-rank adapters on the language model."
        yield from ("  lora:", "    mode: lora")


def _summary(look: Look) -> list[str]:
    """Return what was found, for people."""
    found, trial = look.found, look.trial
    lines = [
        f"format: {look.format} ({printable(found.reason)})",
        f"{_count(len(look.users), 'user')}, {_count(look.samples, 'sample')}, {_count(look.images, 'image')}",
        f"frame: {look.frame} ({look.decided})" + ("" if look.is_decided else " - NOT DECIDED, check it"),
    ]
    if look.others:
        lines.append(f"{', '.join(look.others)} would read it too; --format chooses")
    lines += [f"{key}: {note}" for key, note in found.notes.items()]
    if trial.contradiction:
        lines.append(f"contradiction: {trial.contradiction}")
    if trial.problems:
        lines.append(f"{trial.looked_at - trial.good} of {trial.looked_at} samples looked at cannot be used:")
        lines += [f"  {printable(problem)}" for problem in trial.problems]
    return lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _comment(text: str, indent: str = "") -> Iterator[str]:
    for paragraph in text.splitlines():
        for line in textwrap.wrap(printable(paragraph), WIDTH, break_long_words=False, break_on_hyphens=False):
            yield f"{indent}# {line}"


def _text(value: Any) -> str:
    """Return a value in YAML, which reads JSON."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", value)
    reserved = isinstance(value, str) and value.lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return value if plain and not reserved else json.dumps(value, ensure_ascii=True)


def _path(path: Path, folder: Path) -> str:
    """Return a path as a study in ``folder`` has it: relative if it lies below, else absolute."""
    relative = os.path.relpath(path.absolute(), folder.absolute())
    return str(path.absolute()) if Path(relative).parts[:1] == (os.pardir,) else relative
