"""Load models and processors, choose the weights to train, and apply trained weights to the base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn

from usertune.models.adapter_names import peft_name, peft_names
from usertune.models.families.catalogue import family_of, get_family
from usertune.models.family import Family
from usertune.models.patches import linear_patches
from usertune.models.recipe import FreezeSettings, LoraSettings, Pixels, StartWeights
from usertune.models.tensor_files import tensor_shapes
from usertune.models.weights import check_finite, check_loaded, check_shapes, loading
from usertune.runtime import job_record
from usertune.runtime.memory import return_freed_memory

# What to do about unusable weights of the base model, and of an experiment.
GET_BASE_AGAIN = "base_model.path needs a complete model: download or copy it again"
TRAIN_AGAIN = "if usertune trained them, delete this folder to train the experiment again; otherwise save them again"


def load_processor(folder: str | Path, pixels: Pixels) -> Any:
    """Return the processor of a local model folder, with the study's pixel limits.

    Args:
        folder: the base model's folder.
        pixels: fewest and most pixels of an image after resizing; None keeps the processor's setting.
    """
    return family_of(folder).load_processor(Path(folder), pixels)


def load_model(folder: str | Path, dtype: str, advice: str = GET_BASE_AGAIN, target: torch.device | None = None) -> Any:
    """Load the weights of a local model folder as ``dtype`` ("float32" or "bfloat16").

    Args:
        folder: the model's folder.
        dtype: number format of the loaded weights.
        advice: what to do if the weights cannot be used.
        target: the device to load them to, a file's tensors one by one; None: the CPU.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or not finite, or a file is damaged.
    """
    job_record.count_model_load()
    return_freed_memory()
    folder = Path(folder)
    with loading(folder, advice):
        family = family_of(folder)
        model, info = getattr(transformers, family.model_class).from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            # Wrong shapes then go to the loading information, like missing tensors.
            ignore_mismatched_sizes=True,
            **({"device_map": {"": target}} if target is not None and target.type != "cpu" else {}),
        )
    check_loaded(info, model, folder, advice)
    check_finite(model.named_parameters(), folder, advice)
    linear_patches(model.get_submodule(family.patch_embedding))
    return model


def load_without_weights(folder: str | Path, dtype: str) -> Any:
    """Return the model of a local folder with parameters that nobody has written: they take no memory until then."""
    family = family_of(folder)
    model_class = getattr(transformers, family.model_class)
    config = model_class.config_class.from_pretrained(str(folder), local_files_only=True)
    # Buffers, such as frequencies of rotary embeddings, are in no file; they are computed.
    with init_empty_weights(include_buffers=False):
        model = model_class(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # On the CPU and not "meta", because accelerate knows parameters by their addresses.
            empty = torch.empty_like(parameter, device="cpu", dtype=getattr(torch, dtype))
            setattr(module, name, nn.Parameter(empty))
    model.tie_weights()
    linear_patches(model.get_submodule(family.patch_embedding))
    return model


def load_adapter(model: nn.Module, folder: str | Path) -> PeftModel:
    """Apply a saved adapter to a base model, for inference.

    Raises:
        UserError: its tensors do not match its adapter_config.json or are not finite, or a file is missing or damaged.
    """
    folder = Path(folder)
    with loading(folder, TRAIN_AGAIN):
        adapted = get_peft_model(model, read_adapter_config(folder))
    fill_adapter(adapted, folder)
    return adapted


def read_adapter_config(folder: Path) -> PeftConfig:
    """Return the settings of a saved adapter, for inference."""
    config = PeftConfig.from_pretrained(str(folder), inference_mode=True)
    # PEFT warns if the base model is in another folder now. Which base model it is, the manifests say.
    config.base_model_name_or_path = None
    return config


def fill_adapter(adapted: PeftModel, folder: Path) -> None:
    """Give a model's adapter the tensors of a saved one with the same settings.

    Raises:
        UserError: the tensors do not match the adapter or are not finite, or a file is missing or damaged.
    """
    with loading(folder, TRAIN_AGAIN):
        shapes = tensor_shapes(folder / SAFETENSORS_WEIGHTS_NAME)
        names = peft_names(shapes)
        check_shapes({names[name]: shape for name, shape in shapes.items()}, adapted, folder, TRAIN_AGAIN)
        saved = load_peft_weights(str(folder), device="cpu")
        tensors = {peft_name(name): tensor for name, tensor in saved.items()}
        check_finite(tensors.items(), folder, TRAIN_AGAIN)
        set_peft_model_state_dict(adapted, tensors)


def load_start(
    base_folder: str | Path, start: StartWeights | None, dtype: str, target: torch.device | None = None
) -> Any:
    """Return the model that an experiment's own weights are put on; the same in training and prediction.

    An adapter to start from is added to the base model as its training saw it, in ``dtype``. Each sum is taken in
    float32 and rounded once, one layer after another, so that it needs no more memory than the model.

    Args:
        base_folder: the base model's folder.
        start: the trained weights to start from; None for the base model.
        dtype: number format of the weights, "float32" or "bfloat16".
        target: the device for complete weights, see `load_model`; an adapter to start from is added on the CPU.

    Raises:
        UserError: the weights cannot be used, see `load_model` and `load_adapter`.
    """
    if start is None:
        return load_model(base_folder, dtype, target=target)
    if start.mode == "full":
        return load_model(start.folder, dtype, TRAIN_AGAIN, target)
    adapted: Any = load_adapter(load_model(base_folder, dtype), start.folder)
    for layer in [module for module in adapted.modules() if isinstance(module, LoraLayer)]:
        base: Any = layer.get_base_layer()
        base.float()
        with loading(Path(start.folder), TRAIN_AGAIN):
            layer.merge(safe_merge=True)
        base.to(getattr(torch, dtype))
    return adapted.unload()


def prepare_for_training(model: Any, settings: LoraSettings | FreezeSettings) -> nn.Module:
    """Choose the weights that an experiment trains, and check that the others are frozen.

    Args:
        model: the base model.
        settings: `LoraSettings` add adapters to the language model's linear layers; `FreezeSettings` train the language
            model and the parts of the vision tower that they do not freeze.

    Returns:
        The model to train, with its adapters if it has any.

    Raises:
        RuntimeError: see `check_frozen`.
    """
    family = get_family(model.config.model_type)
    if isinstance(settings, LoraSettings):
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            # PEFT matches this against complete module names.
            target_modules=family.adapted_modules,
            task_type="CAUSAL_LM",
        )
        adapted: Any = get_peft_model(model, lora)
        # With each adapter, PEFT would write a model card without content.
        adapted.create_or_update_model_card = lambda *_: None
        check_frozen(adapted, family, {"vision": True, "merger": True})
        return adapted
    freeze = settings.model_dump()
    for name, parameter in model.named_parameters():
        part = family.vision_part(name)
        parameter.requires_grad_(part is None or not freeze[part])
    check_frozen(model, family, freeze)
    return model


def check_frozen(model: nn.Module, family: Family, freeze: Mapping[str, bool]) -> None:
    """Check that the frozen parts of the vision tower are not trained and have no adapter.

    Args:
        model: the model to train.
        family: its family.
        freeze: whether ``vision`` (the tower without its mergers) and ``merger`` are frozen.

    Raises:
        RuntimeError: a frozen parameter requires a gradient, a frozen part has an adapter, a part was not found, or no
            parameter is trained.
    """
    for part in ("vision", "merger"):
        found = {name: value for name, value in model.named_parameters() if family.vision_part(name) == part}
        if not found:
            raise RuntimeError(
                f"no {part} weights were found under model.{family.vision}; this is not a {family.title} model"
            )
        trained = [name for name, value in found.items() if value.requires_grad or "lora_" in name]
        if freeze[part] and trained:
            raise RuntimeError(f"the {part} weights are not frozen: {', '.join(trained[:3])}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RuntimeError("no parameter is trained")


def load_for_prediction(
    base_folder: str | Path,
    mode: str,
    weights_folder: str | Path | None,
    dtype: str,
    start: StartWeights | None = None,
) -> nn.Module:
    """Return an experiment's model, ready for generation on the visible GPU or the CPU.

    Args:
        base_folder: the base model's folder.
        mode: "vanilla", "lora" (weights_folder holds an adapter) or "full" (weights_folder holds a complete model).
        weights_folder: what training saved; None for vanilla.
        dtype: number format of the weights, "float32" or "bfloat16".
        start: weights that the training started from; None for the base model.

    Raises:
        UserError: the weights cannot be used, see `load_model` and `load_adapter`.
    """
    if mode == "full" and weights_folder:
        model: nn.Module = load_model(weights_folder, dtype, TRAIN_AGAIN, device())
    else:
        model = load_start(base_folder, start, dtype, device())
    if mode == "lora" and weights_folder:
        model = load_adapter(model, weights_folder)
    return model.to(device()).eval()


def plain_model(model: Any) -> Any:
    """Return the model that adapters are on, or the model itself if it has none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def device() -> torch.device:
    """Return the first visible GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on `device`, and all else as it is."""
    return {key: value.to(device()) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def device_name() -> str:
    """Return the model of the visible GPU, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def used_gpus() -> list[str]:
    """Return the UUID of this process's GPU, as nvidia-smi writes it; [] on the CPU."""
    if not torch.cuda.is_available():
        return []
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"]
