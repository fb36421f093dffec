"""Loading Qwen3-VL, choosing which weights are trained, and putting trained weights back on the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from usertune import job_record

ADAPTED_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# PEFT matches a string against whole module names; the vision tower is model.visual and so stays out.
ADAPTED_MODULES = rf"model\.language_model\..*\.({'|'.join(ADAPTED_LAYERS)})"


def load_processor(folder: str | Path, pixels: Mapping[str, int | None]) -> Any:
    """Load the processor of a local model folder.

    Args:
        folder: the base model's folder.
        pixels: ``min`` and ``max`` pixels of an image after resizing; None keeps the processor's setting.
    """
    processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    size = dict(processor.image_processor.size)
    if pixels["min"] is not None:
        size["shortest_edge"] = pixels["min"]
    if pixels["max"] is not None:
        size["longest_edge"] = pixels["max"]
    processor.image_processor.size = size
    return processor


def load_model(folder: str | Path, dtype: str) -> Qwen3VLForConditionalGeneration:
    """Load the weights of a local model folder as ``dtype`` ("float32" or "bfloat16"), on the CPU."""
    job_record.count_model_load()
    return Qwen3VLForConditionalGeneration.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, use_safetensors=True
    )


def prepare_for_training(model: Qwen3VLForConditionalGeneration, mode: str, training: Mapping[str, Any]) -> nn.Module:
    """Choose the weights that an experiment trains, and check that the vision tower is treated as asked.

    Args:
        model: the base model.
        mode: "lora" adds adapters to the language model's linear layers; "full" trains the language model.
        training: the recipe's training settings; ``lora`` (rank, alpha, dropout) or ``freeze_vision`` is read.
    """
    if mode == "lora":
        lora = training["lora"]
        settings = LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=ADAPTED_MODULES,
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, settings)
        check_vision_is_frozen(adapted)
        return adapted
    model.requires_grad_(True)
    if training["freeze_vision"]:
        model.model.visual.requires_grad_(False)
        check_vision_is_frozen(model)
    return model


def check_vision_is_frozen(model: nn.Module) -> None:
    """Check that nothing in the vision tower or its mergers is trained or carries an adapter.

    Raises:
        RuntimeError: a vision parameter requires a gradient, an adapter sits on the vision tower, no vision
            parameter was found, or nothing at all is trained.
    """
    vision = {name: value for name, value in model.named_parameters() if "visual" in name.split(".")}
    trained = [name for name, value in vision.items() if value.requires_grad or "lora_" in name]
    if not vision:
        raise RuntimeError("no vision tower was found at model.visual; this is not a Qwen3-VL model")
    if trained:
        raise RuntimeError(f"the vision tower is not frozen: {', '.join(trained[:3])}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RuntimeError("no parameter is trained")


def load_for_prediction(base_folder: str | Path, mode: str, weights_folder: str | Path | None, dtype: str) -> nn.Module:
    """Load an experiment's model, ready for generation on the CPU or the visible GPU.

    Args:
        base_folder: the base model's folder.
        mode: "vanilla", "lora" (adapter put on the base) or "full" (weights_folder holds a whole model).
        weights_folder: what training saved; None for vanilla.
        dtype: number format of the weights.
    """
    model: nn.Module = load_model(weights_folder if mode == "full" and weights_folder else base_folder, dtype)
    if mode == "lora":
        model = PeftModel.from_pretrained(model, str(weights_folder))
    return model.to(device()).eval()


def device() -> torch.device:
    """Return the first visible GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Return the model of the visible GPU, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def used_gpus() -> list[str]:
    """Return the UUID of the GPU that this process computes on, as nvidia-smi writes it; [] on the CPU."""
    if not torch.cuda.is_available():
        return []
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"]
