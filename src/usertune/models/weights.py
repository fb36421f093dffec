"""Checks of loaded weights: the base model, an adapter, a full model, a checkpoint.

transformers and PEFT fill missing tensors with random or zero values, and ignore unexpected ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn

from usertune.core.errors import FinalError, UserError
from usertune.models.tensor_files import Shapes, differences, is_computed


def check_loaded(info: Mapping[str, Any], model: nn.Module, folder: Path, advice: str) -> None:
    """Check the tensors that transformers reports as not loaded.

    Args:
        info: loading information of `from_pretrained`.
        model: the loaded model.
        folder: where it was loaded from.
        advice: what to do, for the message.

    Raises:
        FinalError: a tensor is missing, unexpected or of another shape, or tied weights differ.
    """
    mismatched = [_two_shapes(name, found, needed) for name, found, needed in info["mismatched_keys"]]
    _refuse(folder, differences(info["missing_keys"], _extra(info["unexpected_keys"]), mismatched), advice)
    if info["error_msgs"]:
        raise FinalError(f"{folder}: cannot be loaded: {'; '.join(map(str, info['error_msgs']))[:500]}; {advice}")
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise FinalError(
            f"{folder}: config.json says tie_word_embeddings, but lm_head.weight and the input embedding differ in the "
            f"weights (set tie_word_embeddings to false there if that is right); {advice}"
        )


def check_shapes(found: Shapes, model: nn.Module, folder: Path, advice: str) -> None:
    """Check before loading that a file's tensors are exactly those of a model or its adapter.

    Args:
        found: name -> shape of the tensors in the file.
        model: the model; if it has an adapter, only the adapter's tensors are needed.
        folder: where the file is.
        advice: what to do, for the message.

    Raises:
        FinalError: a tensor is missing, unexpected or of another shape.
    """
    needed = saved_shapes(model)
    tied = tied_names(model)
    missing = [name for name in needed if not found.keys() & tied.get(name, {name})]
    both = found.keys() & needed.keys()
    mismatched = [_two_shapes(name, found[name], needed[name]) for name in both if found[name] != needed[name]]
    _refuse(folder, differences(missing, _extra(found.keys() - needed.keys()), mismatched), advice)


def saved_shapes(model: nn.Module) -> Shapes:
    """Return name -> shape of the tensors that are saved: the adapter's if the model has one, otherwise all."""
    state = (
        get_peft_model_state_dict(model, save_embedding_layers=False)
        if isinstance(model, PeftModel)
        else model.state_dict()
    )
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def tied_names(model: nn.Module) -> dict[str, set[str]]:
    """Return name -> all names of the same parameter, for parameters with several; a file needs only one of them."""
    names = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].add(name)
    return {name: same for same in names.values() if len(same) > 1 for name in same}


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], folder: Path, advice: str) -> None:
    """Check that all weights are finite, in one pass and without a copy.

    Args:
        weights: their names and values.
        folder: where they were loaded from.
        advice: what to do, for the message.

    Raises:
        FinalError: some are not; the message names the first tensors.
    """
    bad = sorted(name for name, value in weights if not is_finite(value))
    if bad:
        raise FinalError(f"{folder}: {differences((), (), bad).replace('of another shape', 'not finite')}; {advice}")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all elements of a tensor are finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # aminmax returns NaN if any element is NaN. It needs no extra memory and a twentieth of the time of isfinite.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor.detach()))).all())


@contextmanager
def loading(folder: Path, advice: str) -> Iterator[None]:
    """Replace the libraries' errors about unreadable files by one that names the folder and says what to do.

    Raises:
        UserError: a file in the folder cannot be read.
    """
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded: {str(error)[:500]}; {advice}") from None


def _extra(names: Collection[str]) -> list[str]:
    return [name for name in names if not is_computed(name)]


def _two_shapes(name: str, found: Any, needed: Any) -> str:
    return f"{name}: {list(found)} in the file, {list(needed)} in the model"


def _refuse(folder: Path, problem: str, advice: str) -> None:
    if problem:
        raise FinalError(f"{folder}: these are not the weights of this model: {problem}; {advice}")
