"""The patch embedding of a vision tower, computed as a linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear


class LinearPatches(nn.Module):
    """A convolution whose kernel covers its whole input, computed as the matrix product that it is.

    The weights keep the convolution's names and shapes, so checkpoints do not change. A convolution of this kind is
    several times slower than the product: on CPUs, and on GPUs with torch 2.9 (pytorch #174051).

    Args:
        convolution: the convolution, with its weights.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, shape (patches, features, 1, 1, 1), of patches (patches, channels, time, y, x)."""
        return linear(patches.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def linear_patches(patch_embed: nn.Module) -> None:
    """Replace the convolution of a patch embedding, ``patch_embed.proj``, by `LinearPatches`.

    Other modules, of which an input could be larger than the kernel, are left as they are.
    """
    projection = getattr(patch_embed, "proj", None)
    if (
        isinstance(projection, nn.Conv3d)
        and projection.kernel_size == projection.stride
        and projection.padding == (0, 0, 0)
        and projection.dilation == (1, 1, 1)
        and projection.groups == 1
    ):
        patch_embed.proj = LinearPatches(projection)


def patch_embedding(model: nn.Module) -> str:
    """Return how a model computes its patch embedding: "linear" or "convolution"."""
    return "linear" if any(isinstance(module, LinearPatches) for module in model.modules()) else "convolution"
