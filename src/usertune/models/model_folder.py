"""Check that a folder can be used as a base model, from small files and headers. Needs no torch.

Planning runs these checks, so that no job finds such a problem while it holds a GPU.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError, shown
from usertune.data.frames import DEFAULT_FRAME
from usertune.models.families.catalogue import FAMILIES, get_family
from usertune.models.family import Family
from usertune.models.recipe import Pixels
from usertune.models.tensor_files import Shapes, differences, is_lfs_pointer, tensor_shapes
from usertune.models.tensor_names import wrong_names

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


class ModelFolder:
    """A folder that should hold a model of a known family with its processor; the methods collect its problems.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self._pointers: list[str] = []

    def inspect(self) -> list[str]:
        """Return every problem that prevents use of the folder, with file names; [] if there is none."""
        if not (self.folder / "config.json").exists() and (hint := self._what_it_looks_like()):
            return [f"config.json is missing; {hint}"]
        config = self._json("config.json")
        if config is not None:
            self._check_config(config)
        self._check_tokenizer()
        if self.chat_template() is None:
            self._problem(
                "a chat template is missing: chat_template.jinja, chat_template.json, or in tokenizer_config.json"
            )
        if self.image_size() is None:
            self._problem("the image processor's preprocessor_config.json (or processor_config.json) is missing")
        self._check_weights(config or {})
        if self._pointers:
            self.problems.insert(
                0, f"Git LFS left pointers in place of {', '.join(self._pointers)}; fetch the files with: git lfs pull"
            )
        return list(dict.fromkeys(self.problems))

    def config_problems(self) -> list[str]:
        """Return the problems of config.json alone; [] if there are none."""
        config = self._json("config.json")
        if config is not None:
            self._check_config(config)
        return self.problems

    def weight_problems(self) -> list[str]:
        """Return the problems of config.json and the weights; [] if there are none."""
        config = self._json("config.json")
        if config is not None:
            self._check_config(config)
        self._check_weights(config or {})
        if self._pointers:
            self.problems.insert(0, f"Git LFS left pointers in place of {', '.join(self._pointers)}; run: git lfs pull")
        return list(dict.fromkeys(self.problems))

    def chat_template(self) -> str | None:
        """Return the text of the chat template that transformers would use, or None."""
        processor = self._json("processor_config.json", needed=False) or {}
        tokenizer = self._json("tokenizer_config.json", needed=False) or {}
        legacy = self._json("chat_template.json", needed=False) or {}
        candidates = [
            processor.get("chat_template"),
            legacy.get("chat_template"),
            self._text("chat_template.jinja"),
            tokenizer.get("chat_template"),
        ]
        return next((text for text in candidates if isinstance(text, str) and text), None)

    def missing_tokens(self, needed: Sequence[str]) -> list[str]:
        """Return the special tokens of ``needed`` that the tokenizer lacks. Reads the complete tokenizer.json."""
        tokenizer = self._json("tokenizer.json", needed=False) or {}
        config = self._json("tokenizer_config.json", needed=False) or {}
        listed = [*tokenizer.get("added_tokens", []), *config.get("added_tokens_decoder", {}).values()]
        known = {token.get("content") for token in listed if isinstance(token, dict)}
        return [token for token in needed if token not in known]

    def special_tokens(self) -> dict[str, str]:
        """Return the tokens that a chat template may use by name (``bos_token`` etc.)."""
        tokens = {}
        for name, token in (self._json("tokenizer_config.json", needed=False) or {}).items():
            text = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(text, str):
                tokens[name] = text
        return tokens

    def image_size(self) -> dict[str, int] | None:
        """Return the image processor's limits in pixels: ``min``, ``max`` and ``token`` (size of a visual token).

        None if there is no configuration of an image processor.
        """
        nested = (self._json("processor_config.json", needed=False) or {}).get("image_processor")
        images = nested if isinstance(nested, dict) else self._json("preprocessor_config.json", needed=False)
        # Without a known family, the limits of the first are checked, so that one message has all problems.
        family = self.family() or get_family(next(iter(FAMILIES)))
        return family.image_limits(images) if images is not None else None

    def family(self) -> Family | None:
        """Return the model's family; None if it is not known."""
        config = self._json("config.json", needed=False) or {}
        kind = config.get("model_type")
        return get_family(kind) if kind in tuple(FAMILIES) else None

    def _problem(self, text: str) -> None:
        self.problems.append(text)

    def _is_there(self, name: str) -> bool:
        """Whether a file exists and is not a Git LFS pointer. Notes pointers for `inspect`."""
        path = self.folder / name
        try:
            if not path.is_file():
                return False
            if is_lfs_pointer(path):
                self._pointers += [name] if name not in self._pointers else []
                return False
        except OSError as error:
            self._problem(f"{name} cannot be read: {error.strerror}")
            return False
        return True

    def _text(self, name: str) -> str | None:
        if not self._is_there(name):
            return None
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except OSError as error:
            self._problem(f"{name} cannot be read: {error.strerror}")
        except ValueError:
            self._problem(f"{name} is not UTF-8 text; fetch it again")
        return None

    def _json(self, name: str, needed: bool = True) -> dict[str, Any] | None:
        text = self._text(name)
        if text is None:
            if needed and name not in self._pointers:
                self._problem(f"{name} is missing")
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            self._problem(f"{name} is not valid JSON ({str(error)[:100]}); fetch it again")
            return None
        if not isinstance(value, dict):
            self._problem(f"{name} must be a JSON object")
            return None
        return value

    def _check_config(self, config: Mapping[str, Any]) -> None:
        kind = config.get("model_type")
        if kind not in tuple(FAMILIES):
            supported = ", ".join(sorted(FAMILIES))
            self._problem(f"config.json: the model is of type {shown(kind)}; supported: {supported}")
        elif config.get("quantization_config"):
            method = (config["quantization_config"] or {}).get("quant_method", "of some kind")
            self._problem(
                f"config.json: the weights are quantised ({method}) and can be neither trained nor compared here; "
                "use the original model"
            )
        elif (frame := get_family(kind).answer_frame) != DEFAULT_FRAME:
            # The parser would read other numbers as 0-1000, and the untrained model would seem to miss everything.
            self._problem(
                f"config.json: models of type {kind} answer in the frame {frame}; answers are read as {DEFAULT_FRAME}"
            )

    def _check_tokenizer(self) -> None:
        self._json("tokenizer_config.json")
        names = ("tokenizer.json",) if (self.folder / "tokenizer.json").exists() else ("vocab.json", "merges.txt")
        there = [name for name in names if self._is_there(name)]
        missing = [name for name in names if name not in there and name not in self._pointers]
        if missing:
            self._problem("the tokenizer's files are missing: tokenizer.json, or vocab.json and merges.txt")
        for name in there:
            # Planning does not parse tokenizer files: they have about 10 MB.
            if name.endswith(".json") and not _looks_like_an_object(self.folder / name):
                self._problem(f"{name} was cut short or is not JSON; fetch it again")

    def _check_weights(self, config: Mapping[str, Any]) -> None:
        if (self.folder / SINGLE).exists():
            files: dict[str, list[str] | None] = {SINGLE: None}
        elif (self.folder / INDEX).exists():
            files = self._indexed()
        else:
            self._problem(self._other_weights())
            return
        shapes: Shapes = {}
        complete = bool(files)
        for name, tensors in files.items():
            if not self._is_there(name):
                complete = False
                if name not in self._pointers:
                    self._problem(f"{name}, listed in {INDEX}, is missing; fetch it again")
                continue
            try:
                found = tensor_shapes(self.folder / name)
            except UserError as problem:
                complete = False
                self._problem(str(problem).removeprefix(f"{self.folder}/"))
                continue
            if absent := differences(set(tensors or ()) - found.keys(), ()):
                self._problem(f"{name} does not match {INDEX}: {absent}; fetch both again")
            shapes |= found
        family = self.family()
        if complete and family and not config.get("quantization_config"):
            self.problems += wrong_names(shapes, family, config)

    def _indexed(self) -> dict[str, list[str] | None]:
        """Return shard -> names of its tensors, from the index."""
        index = self._json(INDEX)
        if index is None:
            return {}
        names = index.get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
            self._problem(f"{INDEX} has no weight_map of tensors and files; fetch it again")
            return {}
        if "metadata" not in index:
            self._problem(f"{INDEX} has no metadata, without which transformers does not read it; fetch it again")
        shards: dict[str, list[str] | None] = {}
        for tensor, file in names.items():
            if Path(file).name != file:
                self._problem(f"{INDEX} names {shown(file)}, which is not a file of this folder")
                return {}
            tensors = shards.setdefault(file, [])
            assert tensors is not None
            tensors.append(tensor)
        return shards

    def _other_weights(self) -> str:
        others = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for path in self.folder.glob(pattern)
        )
        tensors = sorted(path.name for path in self.folder.glob("*.safetensors"))
        problem = f"the weights are missing: {SINGLE}, or {INDEX} with its files"
        if tensors:
            return f"{problem} (without the index {', '.join(tensors[:3])} cannot be used; fetch it again)"
        if others:
            return f"{problem} ({others[0]} has another format, which may run code; get the safetensors files)"
        return problem

    def _what_it_looks_like(self) -> str:
        if (self.folder / "adapter_config.json").exists():
            return "the folder holds an adapter; give the folder of its base model"
        below = [*self.folder.glob("*/config.json"), *self.folder.glob("snapshots/*/config.json")]
        return f"did you mean {below[0].parent}?" if below else ""


def weight_files(folder: Path) -> list[str]:
    """Return the files of a model's weights that transformers loads; [] if there are none, or the index is damaged."""
    if (folder / SINGLE).exists():
        return [SINGLE]
    try:
        names = json.loads((folder / INDEX).read_bytes())["weight_map"].values()
        return sorted({name for name in names if isinstance(name, str) and Path(name).name == name})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _looks_like_an_object(path: Path) -> bool:
    """Whether a file begins and ends as a JSON object does."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
        file.seek(max(0, path.stat().st_size - 64))
        end = file.read().rstrip()
    return start.startswith(b"{") and end.endswith(b"}")


def pixel_problems(limits: Mapping[str, int], pixels: Pixels) -> list[str]:
    """Describe contradictions between the study's pixel limits and the image processor's, which are the defaults.

    Args:
        limits: from `ModelFolder.image_size`.
        pixels: ``min`` and ``max`` of the study, None for the processor's own.
    """
    low, high, token = pixels.min, pixels.max, limits["token"]
    if high is not None and high < token:
        return [
            f"base_model.max_pixels is {high:,}, but the smallest image, one visual token, has {token:,} pixels; set "
            f"max_pixels to {token} or more"
        ]
    if high is not None and low is None and (largest := largest_enlarged(limits["min"], token)) > high:
        enough = high // 2
        while largest_enlarged(enough, token) > high:
            enough //= 2
        return [
            f"base_model.max_pixels is {high:,}, but the processor enlarges images below its own minimum of "
            f"{limits['min']:,} pixels, and rounding to full visual tokens makes that up to {largest:,}, more than "
            f"max_pixels; set min_pixels too, to {enough} or less, or max_pixels to {largest} or more"
        ]
    if low is not None and high is None and low > limits["max"]:
        return [
            f"base_model.min_pixels is {low:,}, above the processor's own maximum of {limits['max']:,} pixels, to which"
            f" it shrinks larger images; set max_pixels too, to {low} or more, or min_pixels to {limits['max']} or less"
        ]
    return []


def largest_enlarged(low: int, token: int) -> int:
    """Return the most pixels that an image can have after it is enlarged to the lower limit.

    The processor enlarges an image below that limit without regard to the upper limit, keeps its aspect ratio, and
    rounds both sides up to full visual tokens (``smart_resize`` in transformers). The result covers the aspect ratios
    of screens, up to 4 : 1.

    Args:
        low: the lower limit, in pixels.
        token: pixels of one visual token.
    """
    side = math.isqrt(token)
    forms = (4 ** (step / 500) for step in range(501))
    return token * max(
        math.ceil(math.sqrt(low * form) / side) * math.ceil(math.sqrt(low / form) / side) for form in forms
    )


def looks_like_a_folder(name: str, root: Path = Path()) -> str:
    """Say why a name of the form ``owner/name``, not in ``root``, may be a mistyped folder; "" if it is not."""
    owner, _, own = name.partition("/")
    if (root / owner).is_dir():
        return f"the folder {owner} is here{similar_folders(str(root / name))}"
    there = [folder for folder in _close_names(root / owner) if (root / folder / own).is_dir()]
    return f"the folder {there[0]}/{own} is here" if there else ""


def similar_folders(path: str) -> str:
    """Return a clause that lists folders with names like that of a missing path; "" if there are none."""
    wanted = Path(path).expanduser()
    while not wanted.parent.is_dir() and wanted.parent != wanted:
        wanted = wanted.parent
    found = [str(wanted.parent / name) for name in _close_names(wanted)]
    return f"; similar folders: {', '.join(found)}" if found else ""


def _close_names(path: Path) -> list[str]:
    """Return the names of the folders in a missing path's parent that are similar to its name."""
    try:
        folders = {entry.name.lower(): entry.name for entry in path.parent.iterdir() if entry.is_dir()}
    except OSError:
        return []
    return [folders[name] for name in difflib.get_close_matches(path.name.lower(), folders, n=3, cutoff=0.6)]
