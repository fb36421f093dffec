"""Norms, gated MLPs and rotations by position that pass over the activations less often than transformers' own.

Written as single operations, they compute what their parts do, but each part makes a tensor of the size of the
activations, keeps it for the backward pass, and makes more there. Functions of autograd that know the gradient make one
tensor in the forward pass and one or two in the backward pass, and keep only what they were called with. Values differ
from transformers' in the last digits, as results are rounded less often.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.activations import ACT2FN

from usertune.models.family import Family, RmsNorms


class RmsNorm(torch.autograd.Function):
    """Inputs over the root of their mean square (Zhang and Sennrich 2019), computed in float32.

    Arguments of ``apply``:
        inputs: shape (..., features).
        weight: shape (features,).
        epsilon: added to the mean square.
        offset: added to the weight.

    Returns:
        ``inputs / sqrt(mean(inputs²) + epsilon) * (weight + offset)``, in the wider number format of the two.
    """

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: float
    ) -> torch.Tensor:
        """See the class."""
        exact = _exact(inputs)
        size = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        factor = size.square_().div_(exact.shape[-1]).add_(epsilon).rsqrt_()
        context.save_for_backward(inputs, weight, factor)
        context.offset = offset
        return (exact * factor).mul_(_exact(weight) + offset).to(torch.promote_types(inputs.dtype, weight.dtype))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the arguments."""
        inputs, weight, factor = context.saved_tensors
        exact, of_outputs = _exact(inputs), _exact(gradients[0])
        of_inputs = of_weight = None
        if context.needs_input_grad[1]:
            of_weight = (of_outputs * exact).mul_(factor).flatten(0, -2).sum(0).to(weight.dtype)
        if context.needs_input_grad[0]:
            of_inputs = of_outputs * (_exact(weight) + context.offset)
            along = torch.linalg.vecdot(of_inputs, exact).unsqueeze(-1) * factor**3 / -exact.shape[-1]
            of_inputs = of_inputs.mul_(factor).addcmul_(exact, along).to(inputs.dtype)
        return of_inputs, of_weight, None, None


def _exact(values: torch.Tensor) -> torch.Tensor:
    """Return values in float32, unless they are wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class GatedProduct(torch.autograd.Function):
    """``silu(gate) * up`` (Shazeer 2020), of two tensors of the same shape and number format."""

    @staticmethod
    def forward(context: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """See the class."""
        context.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of the arguments."""
        gate, up = context.saved_tensors
        of_gate = gradients[0] * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, silu(gate).mul_(gradients[0])


class Rotation(torch.autograd.Function):
    """Rotates pairs of features by an angle for each position (Su et al. 2021), as transformers' ``rotate_half`` does.

    Arguments of ``apply``:
        inputs: shape (samples, heads, tokens, features).
        cosine, sine: of the angles, shapes that broadcast to (samples, heads, tokens, rotated); ``rotated`` is even.
            Features beyond the first ``rotated`` stay as they are. No gradients.

    Returns:
        The rotated inputs, same shape.
    """

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """See the class."""
        context.save_for_backward(cosine, sine)
        context.dtype = inputs.dtype
        return _rotated(inputs, cosine, sine, back=False)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the arguments."""
        cosine, sine = context.saved_tensors
        return _rotated(gradients[0], cosine, sine, back=True).to(context.dtype), None, None


def _rotated(inputs: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, back: bool) -> torch.Tensor:
    """Return ``inputs * cosine + rotate_half(inputs) * sine``, or the transposed map of it."""
    half, rotated = cosine.shape[-1] // 2, cosine.shape[-1]
    first, second = inputs[..., :half], inputs[..., half:rotated]
    sine_of_first, sine_of_second = sine[..., :half], sine[..., half:]
    if rotated == inputs.shape[-1]:
        outputs = inputs * cosine
    else:
        outputs = inputs.to(torch.promote_types(inputs.dtype, cosine.dtype), copy=True)
        outputs[..., :rotated].mul_(cosine)
    if back:
        outputs[..., :half].addcmul_(second, sine_of_second)
        outputs[..., half:rotated].addcmul_(first, sine_of_first, value=-1)
    else:
        outputs[..., :half].addcmul_(second, sine_of_first, value=-1)
        outputs[..., half:rotated].addcmul_(first, sine_of_second)
    return outputs


def fuse_layers(model: nn.Module, family: Family) -> None:
    """Make the layers of a language model compute the functions above; the vision tower stays as it is.

    MLPs with another activation function, and attention that rotates otherwise, keep transformers' way.

    Args:
        model: the model to train, with or without adapters.
        family: its family.
    """
    for path, layer in model.named_modules():
        name: str = type(layer).__name__
        if name == family.norms.module:
            layer.forward = partial(_normed, layer, family.norms)  # type: ignore[method-assign]
        elif name == family.gated_mlp and isinstance(layer.act_fn, type(ACT2FN["silu"])):
            layer.forward = partial(_gated, layer)  # type: ignore[method-assign]
        elif path.endswith(f".{family.attention}") and family.rotation in layer.forward.__code__.co_names:
            layer.forward = _calling(layer.forward, **{family.rotation: _rotate})  # type: ignore[method-assign]


def _normed(norm: Any, norms: RmsNorms, inputs: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = RmsNorm.apply(inputs, norm.weight, getattr(norm, norms.epsilon), norms.offset)
    return outputs


def _gated(mlp: Any, inputs: torch.Tensor) -> torch.Tensor:
    outputs: torch.Tensor = mlp.down_proj(GatedProduct.apply(mlp.gate_proj(inputs), mlp.up_proj(inputs)))
    return outputs


def _rotate(
    queries: torch.Tensor, keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    cosine, sine = cosine.unsqueeze(unsqueeze_dim), sine.unsqueeze(unsqueeze_dim)
    return Rotation.apply(queries, cosine, sine), Rotation.apply(keys, cosine, sine)


def _calling(method: MethodType, **functions: Any) -> MethodType:
    """Return a copy of a method that calls other functions by these names; other models keep those of its module."""
    found = method.__func__
    function = FunctionType(
        found.__code__, {**found.__globals__, **functions}, found.__name__, found.__defaults__, found.__closure__
    )
    function.__kwdefaults__ = found.__kwdefaults__
    return MethodType(function, method.__self__)
