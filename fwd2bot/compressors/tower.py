"""What the tower's attention says of its patches, worked out again from hidden states: the tower itself keeps no map.

Shapes: B images, V patches, W width of the tower.
"""

from torch import Tensor

from fwd2bot.llava import Llava
from fwd2bot.losses import full_precision


def queries_and_keys(llava: Llava, states: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """What a layer of the tower makes of its input, heads side by side: (B, 1 + V, W) -> the same, twice."""
    block = llava.network.model.vision_tower.encoder.layers[layer]
    normed = block.layer_norm1(states)
    return full_precision(block.self_attn.q_proj(normed)), full_precision(block.self_attn.k_proj(normed))


def class_attention(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """The class token's attention to each patch, summed over heads: (B, 1 + V, W) twice -> (B, V)."""
    query, key = queries[:, :1].unflatten(2, (heads, -1)), keys.unflatten(2, (heads, -1))
    scores = (query * key).sum(-1) / key.shape[-1] ** 0.5  # (B, 1 + V, heads)
    attention: Tensor = scores.softmax(dim=1)[:, 1:].sum(-1)
    return attention


def largest_first(scores: Tensor) -> Tensor:
    """Places in descending order along the last axis; of equal scores the lower place comes first."""
    return scores.argsort(dim=-1, descending=True, stable=True)
