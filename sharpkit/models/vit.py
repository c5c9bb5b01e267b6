"""A vision transformer for small images: Dosovitskiy et al. (2021), "An Image is Worth 16x16 Words".

`vit-s16` has the widths of ViT-S (Touvron et al. 2021, table 1: 384 wide, 12 deep, 6 heads) and patches of 4x4 pixels:
patches of 16x16, which its name counts on images of 224x224, would leave 4 of an image of 32x32. A class token is read
out, as in the paper; others average. Positions are learned. There is no dropout and no stochastic depth.

Initial weights are those of DeiT (Touvron et al. 2021): truncated normal with standard deviation 0.02 for linear
layers, patches, class token and positions; biases are zero. The paper's code starts from a read-out of zeros, through
which the first gradient reaches no other weight.

Attention is written out. The fused kernels behind `scaled_dot_product_attention` have no second derivative, which
curvature and other double backward passes need, and to forbid them takes a context around every call, outside the
model. With 65 tokens the fused kernels save little.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpkit.models.blocks import image_channels

_PATCH = 4


class Attention(nn.Module):
    """Self-attention with several heads.

    Args:
        width: Of a token.
        heads: Number of heads; the width is shared out among them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        queries, keys, values = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (self.scale * queries @ keys.transpose(-2, -1)).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention and a perceptron of one hidden layer, each after layer norm and added to its input (equations 2 and 3).

    Args:
        width: Of a token.
        heads: Number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, encoder blocks and a linear read-out of the class token.

    Args:
        shape: (C, H, W) of one image; the sides are multiples of the patch.
        classes: Outputs.
        patch: Side of a patch in pixels.
        width: Of a token.
        depth: Number of blocks.
        heads: Number of heads.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        channels, height, length = shape
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (height // patch) * (length // patch), width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        self._initialise()

    def _initialise(self) -> None:
        for tensor in (self.class_token, self.positions):
            nn.init.trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def vit_s16(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the vision transformer ViT-S with patches of 4x4 pixels for small images.

    Dosovitskiy et al. (2021), section 3.1. 21,342,346 parameters.
    """
    image_channels("vit-s16", shape, smallest=_PATCH, multiple=_PATCH)
    return VisionTransformer(shape, classes, _PATCH, 384, 12, 6)
