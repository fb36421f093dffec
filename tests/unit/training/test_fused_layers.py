"""Fused norms, gated MLPs and rotations by position: their gradients, and how exact they are in bfloat16.

That models compute what transformers computes is in tests/unit/models/test_family_training.py, for each family.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb as rotate_some
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm, apply_rotary_pos_emb

from usertune.training.fused_layers import GatedProduct, RmsNorm, Rotation


def _some(*shape: int, trained: bool = True) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(trained)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("trained", [True, False])
def test_the_gradients_of_a_norm(offset: float, trained: bool) -> None:
    assert gradcheck(RmsNorm.apply, (_some(2, 3, 4), _some(4, trained=trained), 1e-3, offset))
    assert gradcheck(RmsNorm.apply, (_some(2, 3, 4, trained=False), _some(4), 1e-3, offset))


def test_the_gradients_of_a_gated_product() -> None:
    assert gradcheck(GatedProduct.apply, (_some(2, 3, 4), _some(2, 3, 4)))


@pytest.mark.parametrize("rotated", [6, 4])
def test_the_gradients_of_a_rotation(rotated: int) -> None:
    angles = (_some(1, 1, 3, rotated, trained=False), _some(1, 1, 3, rotated, trained=False))
    assert gradcheck(Rotation.apply, (_some(2, 2, 3, 6), *angles))


def _norm(kind: type[Qwen3VLTextRMSNorm | Qwen3_5RMSNorm], weight: torch.Tensor) -> Callable[..., torch.Tensor]:
    norm: Callable[..., torch.Tensor] = kind(len(weight), eps=1e-6)
    norm.weight.data = weight  # type: ignore[attr-defined]
    return norm


def _cases() -> dict[str, tuple[tuple[torch.Tensor, ...], Callable[..., torch.Tensor], Callable[..., torch.Tensor]]]:
    """Return name -> arguments in float64, transformers' way and the fused one."""
    weight = torch.randn(64, dtype=torch.float64)
    angle = torch.randn(1, 9, 32, dtype=torch.float64).repeat(1, 1, 2)
    rotation = (_some(1, 3, 9, 64), angle.cos(), angle.sin())
    some = (_some(1, 3, 9, 96), angle.cos(), angle.sin())
    return {
        "norm": (
            (_some(9, 64), weight),
            lambda inputs, weight: _norm(Qwen3VLTextRMSNorm, weight)(inputs),
            lambda inputs, weight: RmsNorm.apply(inputs, weight, 1e-6, 0.0),
        ),
        "norm with an offset": (
            (_some(9, 64), weight),
            lambda inputs, weight: _norm(Qwen3_5RMSNorm, weight)(inputs),
            lambda inputs, weight: RmsNorm.apply(inputs, weight, 1e-6, 1.0),
        ),
        "gated product": (
            (_some(9, 64), _some(9, 64)),
            lambda gate, up: torch.nn.functional.silu(gate) * up,
            GatedProduct.apply,
        ),
        "rotation": (rotation, lambda *given: apply_rotary_pos_emb(given[0], *given)[0], Rotation.apply),
        "rotation of some": (some, lambda *given: rotate_some(given[0], *given)[0], Rotation.apply),
    }


@pytest.mark.parametrize("case", list(_cases()))
def test_in_bfloat16_they_are_at_least_about_as_exact_as_transformers(case: str) -> None:
    exact, theirs, fused = _cases()[case]
    towards = torch.randn_like(exact[0])

    def found(way: Callable[..., torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = exact[0].detach().to(dtype).requires_grad_()
        outputs = way(inputs, *(value.detach().to(dtype) for value in exact[1:]))
        assert outputs.dtype == dtype
        (gradient,) = torch.autograd.grad(outputs, inputs, towards.to(dtype))
        return outputs.double(), gradient.double()

    for right, one, other in zip(
        found(fused, torch.float64), found(theirs, torch.bfloat16), found(fused, torch.bfloat16), strict=True
    ):
        assert 0 < float((other - right).norm()) < 1.1 * float((one - right).norm())
