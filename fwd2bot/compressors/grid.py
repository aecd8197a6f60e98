"""Visual tokens as the square map on which they stand.

Shapes: B rows, V tokens in raster order, C channels.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from fwd2bot.losses import full_precision


def as_map(tokens: Tensor) -> Tensor:
    """(B, V, C) -> (B, C, rows, columns)."""
    side = math.isqrt(tokens.shape[1])
    cells: Tensor = tokens.transpose(1, 2).unflatten(2, (side, side))
    return cells


def resized(tokens: Tensor, side: int, mode: str = "bilinear") -> Tensor:
    """(B, V, C) -> (B, side^2, C) by interpolation between the centres of cells, without antialiasing."""
    cells = F.interpolate(full_precision(as_map(tokens)), size=(side, side), mode=mode, align_corners=False)
    return cells.flatten(2).transpose(1, 2).to(tokens.dtype)


def windows(tokens: Tensor, side: int) -> Tensor:
    """(B, V, C) -> (B, side^2, V / side^2, C): the tokens of each square window; all in raster order."""
    window = math.isqrt(tokens.shape[1]) // side
    cut: Tensor = tokens.unflatten(1, (side, window, side, window))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
