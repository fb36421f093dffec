"""The linear patch embedding, beside the convolution that it replaces."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from usertune.models.families.catalogue import family_of
from usertune.models.loading import load_model
from usertune.models.patches import LinearPatches, linear_patches


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_linear_patches_agree_with_the_convolution(patches: int, seed: int) -> None:
    torch.manual_seed(seed)
    holder = nn.Module()
    holder.proj = nn.Conv3d(3, 32, (2, 16, 16), (2, 16, 16))
    inputs = torch.randn(patches, 3, 2, 16, 16)
    with torch.no_grad():
        expected = holder.proj(inputs)
        before = {name: value.data_ptr() for name, value in holder.named_parameters()}
        linear_patches(holder)
        found = holder.proj(inputs)
    assert isinstance(holder.proj, LinearPatches)
    assert {name: value.data_ptr() for name, value in holder.named_parameters()} == before
    assert found.shape == expected.shape
    # Sums of 1,536 products in float32, in another order.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_other_convolutions_are_left_alone() -> None:
    for other in (
        nn.Conv3d(3, 4, (2, 16, 16), (1, 16, 16)),
        nn.Conv3d(3, 4, (2, 16, 16), (2, 16, 16), padding=1),
        nn.Conv3d(4, 4, (2, 16, 16), (2, 16, 16), groups=2),
        nn.Linear(3, 4),
    ):
        holder = nn.Module()
        holder.proj = other
        linear_patches(holder)
        assert holder.proj is other
    linear_patches(nn.Module())


def test_a_loaded_tower_sees_what_its_convolution_sees(base: Path) -> None:
    model = load_model(base, "float32")
    embed = model.get_submodule(family_of(base).patch_embedding)
    convolution = nn.Conv3d(3, embed.proj.weight.shape[0], (2, 16, 16), (2, 16, 16))
    convolution.weight, convolution.bias = embed.proj.weight, embed.proj.bias
    pixels, grid = torch.randn(64, 1536), torch.tensor([[1, 8, 8]])
    with torch.no_grad():
        found = model.model.visual(pixels, grid_thw=grid).pooler_output
        embed.proj = convolution
        expected = model.model.visual(pixels, grid_thw=grid).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
