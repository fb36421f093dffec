"""Adapters whose products are added in place, with fewer passes over the activations than PEFT's layers need.

PEFT computes an adapter's outputs, scales them and adds them to those of the frozen layer: two more tensors of the size
of the outputs in the forward pass, and two in the backward pass. A multiplication of matrices can add to what is there,
so here it does, with the adapter's B scaled instead of its outputs. The products are the same; sums are rounded less
often.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch.nn.functional import linear


class AdaptedProduct(torch.autograd.Function):
    """The outputs of a frozen linear layer with a LoRA adapter (Hu et al. 2021).

    Arguments of ``apply``, with any leading dimensions of ``inputs``:
        inputs: the layer's inputs, shape (..., inputs).
        dropped: the adapter's inputs, if dropout changed them, same shape; None: ``inputs``.
        weight, bias: of the layer, shapes (outputs, inputs) and (outputs,); no gradients. The bias may be None.
        down, up: weight A of the adapter, shape (rank, inputs), and weight B times its factor, shape (outputs, rank).

    Returns:
        ``inputs @ weight.T + bias + dropped @ down.T @ up.T``, shape (..., outputs).
    """

    @staticmethod
    def forward(
        context: Any,
        inputs: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
    ) -> torch.Tensor:
        """See the class."""
        adapted = (inputs if dropped is None else dropped).flatten(0, -2)
        hidden = adapted @ down.T
        outputs = linear(inputs.flatten(0, -2), weight, bias).addmm_(hidden, up.T)
        context.save_for_backward(adapted, hidden, weight, down, up)
        context.shape, context.has_dropout = inputs.shape, dropped is not None
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the arguments."""
        adapted, hidden, weight, down, up = context.saved_tensors
        of_outputs = gradients[0].flatten(0, -2)
        of_hidden = of_outputs @ up
        of_down = of_hidden.T @ adapted
        # (rank, tokens) x (tokens, outputs): several times faster on a CPU than the transposed product.
        of_up = (hidden.T @ of_outputs).T
        of_inputs = of_dropped = None
        if context.needs_input_grad[0]:
            of_inputs = of_outputs @ weight
            if not context.has_dropout:
                of_inputs.addmm_(of_hidden, down)
            of_inputs = of_inputs.view(context.shape)
        if context.has_dropout and context.needs_input_grad[1]:
            of_dropped = (of_hidden @ down).view(context.shape)
        return of_inputs, of_dropped, None, None, of_down, of_up


def fuse_adapters(model: nn.Module) -> None:
    """Make the linear layers of a model with one adapter compute `AdaptedProduct`; a model without is left as it is.

    Layers of another kind, and those whose adapter has a bias or is a variant of LoRA, keep PEFT's own way.
    """
    for layer in model.modules():
        if type(layer) is not Linear or type(layer.get_base_layer()) is not nn.Linear:
            continue
        names = list(layer.lora_A)
        if len(names) == 1 and not layer.lora_variant and not layer.lora_bias[names[0]] and not layer.fan_in_fan_out:
            layer.forward = partial(_adapted, layer, names[0])  # type: ignore[method-assign]


def _adapted(layer: Linear, name: str, inputs: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters or layer.merged:
        outputs: torch.Tensor = type(layer).forward(layer, inputs)
        return outputs
    kind = inputs.device.type
    # PEFT's layers are cast by autocast; products that add in place are not.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
    inputs = inputs.to(dtype)
    dropped = layer.lora_dropout[name](inputs)
    base: nn.Linear = layer.get_base_layer()
    found: torch.Tensor = AdaptedProduct.apply(
        inputs,
        None if dropped is inputs else dropped,
        base.weight.to(dtype),
        None if base.bias is None else base.bias.to(dtype),
        layer.lora_A[name].weight.to(dtype),
        (layer.lora_B[name].weight * layer.scaling[name]).to(dtype),
    )
    return found
