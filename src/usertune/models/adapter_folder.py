"""Check that a folder holds an adapter for a base model, from small files and headers. Needs no torch.

PEFT puts adapters where adapter_config.json says and ignores what the file holds beside them, so what both say is
compared with each other and with the base model's layers.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from usertune.core.errors import UserError, shown
from usertune.models.adapter_names import PREFIX, peft_names
from usertune.models.family import Family
from usertune.models.tensor_files import Shapes, differences, tensor_shapes

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# All that loading an adapter reads.
ADAPTER_FILES = (CONFIG, TENSORS)
# 2U1's trainer pickles here what it trained beside the adapter.
BESIDE = "non_lora_state_dict.bin"
LARGEST_CONFIG = 10_000_000

# Options that only say how the adapter was trained or saved.
_NO_EFFECT = frozenset(
    ("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
     "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "eva_config",
     "lora_ga_config", "ensure_weight_tying")
)  # fmt: skip
# Options that PEFT applies and that are checked here.
_APPLIED = frozenset(
    ("peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "rank_pattern",
     "alpha_pattern", "layers_to_transform", "layers_pattern", "modules_to_save", "bias", "init_lora_weights",
     "fan_in_fan_out")
)  # fmt: skip
# Beginnings of adapters that leave the base model's weights as they are; the others subtract something from them.
_PLAIN_INIT = (True, False, None, "gaussian", "orthogonal", "true", "false")
MERGE = "merge the adapter into its base model where it was trained, and give the merged model, with mode: full"


class AdapterFolder:
    """A folder that should hold an adapter; `inspect` collects its problems.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {}

    def inspect(self, base: Shapes | None, family: Family | None) -> list[str]:
        """Return every problem that prevents use of the adapter, with file names; [] if there is none.

        Args:
            base: name -> shape of the base model's tensors; None if they are not known, then they are not compared.
            family: the base model's family; None if it is not known.
        """
        problems = [*self._read_config(), *self._beside()]
        shapes = self._tensors(problems)
        if self.config:
            problems += _config_problems(self.config)
        # The tensors of an adapter of another kind would only repeat what the options say.
        if shapes is not None and self.config and not problems:
            problems += _tensor_problems(shapes, self.config, base, family)
        return problems

    def trained_on(self) -> str | None:
        """Return what adapter_config.json calls the base model; None if it does not."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    def _read_config(self) -> Iterator[str]:
        path = self.folder / CONFIG
        if not path.is_file():
            yield f"{CONFIG} is missing{_what_it_looks_like(self.folder)}"
            return
        try:
            if path.stat().st_size > LARGEST_CONFIG:
                raise ValueError("it is too large")
            config = json.loads(path.read_bytes())
        except OSError as error:
            yield f"{CONFIG} cannot be read: {error.strerror}"
        except (ValueError, RecursionError) as error:
            yield f"{CONFIG} is not valid JSON ({str(error)[:100]}); save the adapter again"
        else:
            if isinstance(config, dict) and config:
                self.config = config
            else:
                yield f"{CONFIG} must be a JSON object with the adapter's settings; save the adapter again"

    def _tensors(self, problems: list[str]) -> Shapes | None:
        """Return PEFT's name -> shape of the adapter's tensors; None with a problem."""
        path = self.folder / TENSORS
        if not path.is_file():
            # Without a configuration, the folder is probably no adapter at all.
            if (self.folder / CONFIG).is_file():
                problems.append(f"{TENSORS} is missing{_other_format(self.folder)}")
            return None
        try:
            shapes = tensor_shapes(path)
            names = peft_names(shapes)
        except UserError as error:
            problems.append(str(error).removeprefix(f"{self.folder}/"))
            return None
        except ValueError as error:
            problems.append(f"{TENSORS}: {error}")
            return None
        return {names[name]: shape for name, shape in shapes.items()}

    def _beside(self) -> Iterator[str]:
        path = self.folder / BESIDE
        if not path.is_file():
            return
        count = _tensors_in_pickle(path)
        if count == 0:
            return
        what = "further weights" if count is None else f"{count} further tensor{'s' * (count > 1)}"
        yield (
            f"{BESIDE} holds {what} that were trained beside the adapter, in a format that may run code, so it is not "
            f"read; {MERGE} (2U1: src/merge_lora_weights.py). If nothing but the adapter was trained, move the file "
            "away"
        )


def adapter_tensor_names(folder: Path) -> dict[str, str]:
    """Return name in the file -> PEFT's name of an adapter's tensors.

    Raises:
        UserError: the file cannot be read.
        ValueError: it holds several adapters.
    """
    return peft_names(tensor_shapes(folder / TENSORS))


def _tensors_in_pickle(path: Path) -> int | None:
    """Return how many tensors a file of torch.save holds, from its table of contents; None if it cannot be told.

    Nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(re.fullmatch(r"[^/]+/data/\d+", name) is not None for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _what_it_looks_like(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return "; the folder seems to hold a complete model: write mode: full"
    below = sorted(folder.glob(f"*/{CONFIG}"))
    return f"; did you mean {', '.join(str(path.parent) for path in below[:3])}?" if below else ""


def _other_format(folder: Path) -> str:
    if (folder / "adapter_model.bin").is_file():
        return (
            " (adapter_model.bin is a pickle, which may run code; load it where it was trained, and save it with "
            "save_pretrained(FOLDER, safe_serialization=True))"
        )
    shards = sorted(path.name for path in folder.glob("adapter_model*.safetensors"))
    return f" (found {', '.join(shards[:3])}; save the adapter as one file)" if shards else "; save the adapter again"


def _config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of an adapter that PEFT would apply in another way than this study, or not at all."""
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"{CONFIG}: peft_type is {shown(kind)}; only LORA adapters can be used: {MERGE}"
        return
    for key, value in config.items():
        if key not in _NO_EFFECT | _APPLIED and value not in (None, False, {}, [], ""):
            yield f"{CONFIG}: {shown(key)} is {shown(value)}, which is not supported; {MERGE}"
    if config.get("bias") not in ("none", None):
        yield f"{CONFIG}: bias is {shown(config['bias'])}; trained biases are not supported; {MERGE}"
    if config.get("fan_in_fan_out"):
        yield f"{CONFIG}: fan_in_fan_out is {shown(config['fan_in_fan_out'])}, but linear layers store (out, in)"
    begun = config.get("init_lora_weights")
    if begun not in _PLAIN_INIT:
        yield (
            f"{CONFIG}: init_lora_weights is {shown(begun)}, which changes the base model's weights when the adapter "
            f"is loaded; convert it to plain LoRA (path_initial_model_for_weight_conversion of PEFT), or {MERGE}"
        )
    yield from _number_problems(config)


def _number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    ranks = {"r": config.get("r"), **_pattern(config, "rank_pattern")}
    for key, rank in ranks.items():
        if not isinstance(rank, int) or isinstance(rank, bool) or rank <= 0:
            yield f"{CONFIG}: {key} is {shown(rank)}; the rank must be a whole number above 0"
    for key, alpha in {"lora_alpha": config.get("lora_alpha"), **_pattern(config, "alpha_pattern")}.items():
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
            yield f"{CONFIG}: {key} is {shown(alpha)}, with which the adapter has no effect; it must be above 0"
    targets = config.get("target_modules")
    if not ((isinstance(targets, str) and targets) or _is_list_of_names(targets)):
        yield f"{CONFIG}: target_modules is {shown(targets)}; the names of the adapted layers are needed"
    saved = config.get("modules_to_save")
    if saved and not _is_list_of_names(saved):
        yield f"{CONFIG}: modules_to_save is {shown(saved)}; a list of names is needed"
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), str):
            try:
                re.compile(config[key])
            except (re.error, RecursionError, OverflowError) as error:
                yield f"{CONFIG}: {key} is {shown(config[key])}, which is no regular expression ({error})"


def _pattern(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return {f"{key}.{name}": value for name, value in found.items()} if isinstance(found, dict) else {}


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _tensor_problems(
    shapes: Shapes, config: Mapping[str, Any], base: Shapes | None, family: Family | None
) -> Iterator[str]:
    """Yield how an adapter's tensors differ from its configuration and from the base model's layers."""
    pairs, others = _pairs(shapes)
    if strange := sorted(name for name in others if re.search(r"\.lora_(?!embedding)", name)):
        yield f"{TENSORS}: {_named(strange)}: not parts of a plain LoRA adapter; {MERGE}"
        return
    embeddings = sorted({module for module in (*pairs, *others) if family and _is_embedding(module, family)})
    if embeddings or any("lora_embedding" in name for name in others):
        found = embeddings or sorted(others)
        yield f"{TENSORS}: {_named(found)}: the embedding or the head was trained, which is not supported; {MERGE}"
        return
    if half := sorted(
        f"{module}.lora_{'B' if 'A' in pair else 'A'}" for module, pair in pairs.items() if len(pair) < 2
    ):
        yield f"{TENSORS}: {_named(half)}: missing, although its other half exists; save the adapter again"
    if not pairs:
        yield f"{TENSORS} holds no adapter ({_named(sorted(shapes)) or 'no tensor'}); save the adapter again"
        return
    yield from _ranks(pairs, config)
    if base is not None:
        layers = _layers(base)
        yield from _against_base(pairs, layers, config)
        yield from _saved_modules(others, base, config)


def _pairs(shapes: Shapes) -> tuple[dict[str, dict[str, tuple[int, ...]]], Shapes]:
    """Return module -> shapes of its A and B, and the other tensors, both without PEFT's prefix."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    others: Shapes = {}
    for name, shape in shapes.items():
        plain = name.removeprefix(PREFIX)
        if match := re.fullmatch(r"(.+)\.lora_(A|B)\.weight", plain):
            pairs.setdefault(match[1], {})[match[2]] = shape
        else:
            others[plain] = shape
    return pairs, others


def _is_embedding(module: str, family: Family) -> bool:
    name = module.removeprefix("model.").removesuffix(".weight")
    return name in {part.removesuffix(".weight") for part in (family.embedding, family.head)}


def _ranks(pairs: Mapping[str, Mapping[str, tuple[int, ...]]], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the layers whose tensors have another rank than the configuration says."""
    wrong = []
    for module, pair in pairs.items():
        rank = _of_pattern(config.get("rank_pattern") or {}, module, config["r"])
        if len(pair) == 2 and not (pair["A"][:1] == (rank,) and pair["B"][-1:] == (rank,)):
            wrong.append(f"{module}: A {list(pair['A'])}, B {list(pair['B'])}, but the rank is {rank}")
    if wrong:
        yield f"{TENSORS} does not match {CONFIG}: {differences((), (), wrong)}; save the adapter again"


def _of_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that the end of a module's name matches, as PEFT does."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return default


def _layers(base: Shapes) -> Shapes:
    """Return complete module name -> shape (out, in) of the base model's linear layers, and others with weights."""
    found = {}
    for name, shape in base.items():
        if name.endswith(".weight") and len(shape) >= 2:
            found[_complete_name(name.removesuffix(".weight"))] = shape
    return found


def _complete_name(name: str) -> str:
    # Some files leave out the first part.
    return name if name.startswith(("model.", "lm_head")) else f"model.{name}"


def _against_base(
    pairs: Mapping[str, Mapping[str, tuple[int, ...]]], layers: Shapes, config: Mapping[str, Any]
) -> Iterator[str]:
    if foreign := sorted(module for module in pairs if module not in layers):
        yield (
            f"{TENSORS}: {len(foreign)} of {len(pairs)} adapted layers are not in the base model ({_named(foreign)}); "
            "was it trained on another model?"
        )
        return
    convolutions = sorted(module for module in pairs if len(layers[module]) != 2)
    if convolutions:
        yield f"{TENSORS}: {_named(convolutions)}: adapters of convolutions are not supported; {MERGE}"
        return
    wrong = [
        f"{module}: A {list(pair['A'])} and B {list(pair['B'])} for a layer of {list(layers[module])}"
        for module, pair in pairs.items()
        if len(pair) == 2 and (pair["B"][:1], pair["A"][1:]) != (layers[module][:1], layers[module][1:])
    ]
    if wrong:
        yield f"{TENSORS} does not fit the base model: {differences((), (), wrong)}; was it trained on another model?"
        return
    if str(config["target_modules"]).lower() == "all-linear":
        return
    expected = {module for module in layers if _is_target(module, config)}
    if difference := differences(expected - pairs.keys(), pairs.keys() - expected):
        yield f"{TENSORS} does not hold the layers that {CONFIG} names (target_modules): {difference}"


def _is_target(module: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT puts an adapter into a module (`check_target_module_exists` in peft/tuners/tuners_utils.py)."""
    targets, excluded = config["target_modules"], config.get("exclude_modules") or []
    if _matches(excluded, module):
        return False
    saved = config.get("modules_to_save") or []
    if any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module) for name in saved):
        return False
    if not _matches(targets, module):
        return False
    numbers = config.get("layers_to_transform")
    if isinstance(targets, str) or numbers in (None, []):
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
            return int(match[1]) in ([numbers] if isinstance(numbers, int) else numbers)
    return False


def _matches(names: object, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return isinstance(names, list) and any(module == name or module.endswith(f".{name}") for name in names)


def _saved_modules(others: Shapes, base: Shapes, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the tensors of ``modules_to_save`` differ from those that the base model has there."""
    saved = config.get("modules_to_save") or []
    complete = {
        name if name.startswith(("model.", "lm_head")) else f"model.{name}": shape for name, shape in base.items()
    }
    needed = {
        name: shape
        for name, shape in complete.items()
        if any(module == own or module.endswith(f".{own}") for own in saved for module in _parents(name))
    }
    wrong = [
        f"{name}: {list(others[name])} in the file, {list(needed[name])} in the base model"
        for name in others.keys() & needed.keys()
        if others[name] != needed[name]
    ]
    if problem := differences(needed.keys() - others.keys(), others.keys() - needed.keys(), wrong):
        yield f"{TENSORS}: tensors beside the adapter do not match modules_to_save and the base model: {problem}"


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
