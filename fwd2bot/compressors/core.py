"""CORE-style merging: one token an object, the mean of the patches that belong to it. A stand-in, not CORE.

CORE (arXiv 2511.14072, no public code) finds the objects by a trained Mask2Former head on four levels of a ConvNeXt
tower. LLaVA's CLIP has no such head, and `compress` sees nothing but pixels, so the masks here are found in the tower's
own patches, without training, by their density peaks (Rodriguez and Laio, 2014; distance: one minus cosine): an object
is a patch in a dense place that is far from every denser one. What follows is CORE's, as its abstract and summaries of
it tell: each patch belongs to one mask, a mask is merged into one token, tokens stand in the order of their masks'
centres, rows first. Background is the masks that fall on it. As many masks are taken as tokens are asked for, which is
CORE's fixed rate.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fwd2bot.attention import taken
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.tower import largest_first
from fwd2bot.losses import cosines, full_precision

NEIGHBOURS = 5
"""Patches that a patch's density is taken over."""


class Core(Compressor):
    """K tokens of the tower, each the mean of a mask."""

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        count = self.chosen_count(num_tokens)
        (states,) = self.llava.tower_states(pixels, [self.llava.num_tower_layers])
        features = states[:, 1:]  # (B, V, width of the tower)
        masks = find_masks(full_precision(features), count)  # (B, V)
        return self.llava.project(merge_masks(features, masks, count))


def find_masks(features: Tensor, count: int) -> Tensor:
    """(B, V, W) -> (B, V): the number, below `count`, of the mask that each patch belongs to; no mask is empty."""
    distances = 1.0 - cosines(features, features)  # (B, V, V)
    near = distances.topk(min(NEIGHBOURS + 1, distances.shape[1]), largest=False).values[..., 1:]  # without itself
    density = (-near.mean(-1)).exp()  # (B, V)
    rank = largest_first(density).argsort(dim=1)
    denser = rank[:, None, :] < rank[:, :, None]  # (B, V, V): patch j is denser than i
    apart = distances.masked_fill(~denser, torch.inf).amin(-1)
    apart = torch.where(rank == 0, distances.amax(-1), apart)  # the densest of all has none above it
    centres = largest_first(density * apart)[:, :count]  # (B, K)
    masks = taken(distances, centres).argmin(dim=1)  # (B, V)
    return masks.scatter(1, centres, torch.arange(count, device=masks.device).expand_as(centres))


def merge_masks(features: Tensor, masks: Tensor, count: int) -> Tensor:
    """(B, V, W) and the mask of each patch (B, V) -> (B, K, W): means, by row and then column of the mask's centre."""
    belongs = F.one_hot(masks, count).to(torch.promote_types(features.dtype, torch.float32))  # (B, V, K)
    shares = (belongs / belongs.sum(dim=1, keepdim=True)).transpose(1, 2)  # (B, K, V)
    side = round(features.shape[1] ** 0.5)
    places = torch.arange(side**2, device=features.device)
    rows, columns = ((shares * axis).sum(-1) for axis in (places // side, places % side))  # (B, K) each
    order = columns.argsort(dim=1, stable=True)
    order = order.gather(1, rows.gather(1, order).argsort(dim=1, stable=True))
    return taken(shares @ full_precision(features), order).to(features.dtype)
