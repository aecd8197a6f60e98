"""The attention that the backbone's layers call, and who sees whom.

It is torch's fused kernel, but plain matrix products to train on a CPU, whose fused kernel is slow
backwards: over 16 rows of 165 and of 75 positions (4 heads of 64, bfloat16, one core) plain products take 0.6 and 0.3
of its time. They keep T x T weights for backward, so only short rows use them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "fwd2bot"
SHORT = 1024


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers asks of an attention: query (B, heads, T, d) -> (B, T, heads, d); the mask is True = seen."""
    trains = torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"
    if not trains or key.shape[2] > SHORT:
        outputs: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **options
        )
        return outputs
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is None and causal:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    groups = getattr(module, "num_key_value_groups", 1)
    return _products(query, repeat_kv(key, groups), repeat_kv(value, groups), attention_mask, scaling), None


def _products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(2, 3)  # (B, heads, T, T)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    return (weights @ value).transpose(1, 2)


@torch.no_grad()
def weights(
    module: Any,
    hidden: Tensor,
    *,
    rows: Tensor | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """What rows attend to in a layer's attention, the mean over its heads: hidden (B, T, D) -> (B, R, T).

    hidden is what the attention is given; rows (B, R): those that attend (None: all); rope: cosines and sines (B, T, d)
    (None: the layer has no positions); allowed (B, R, T): True = seen (None: all).
    """
    asking = hidden if rows is None else taken(hidden, rows)
    query, key = (
        part.unflatten(2, (-1, module.head_dim)).transpose(1, 2)
        for part in (module.q_proj(asking), module.k_proj(hidden))
    )
    if rope is not None:
        key = _turned(key, *rope)
        query = _turned(
            query, *(part if rows is None else taken(part.expand(len(hidden), -1, -1), rows) for part in rope)
        )
    key = repeat_kv(key, getattr(module, "num_key_value_groups", 1))
    scores = (query * module.head_dim**-0.5) @ key.transpose(2, 3)  # (B, heads, R, T)
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None], float("-inf"))
    shares: Tensor = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return shares.mean(dim=1)


def taken(rows: Tensor, places: Tensor) -> Tensor:
    """The rows (B, T, D) at places (B, R), one list for each element: (B, R, D)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def _turned(part: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions as in Llama: (B, heads, T, d)."""
    low, high = part.chunk(2, dim=-1)
    return part * cosines[:, None] + torch.cat([-high, low], dim=-1) * sines[:, None]


def register() -> str:
    """Tells transformers about it; gives the name to put in `attn_implementation`."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def count_positions(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T): the number of real tokens before each token."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def allowed_pairs(mask: Tensor, bidirectional: bool = False) -> Tensor:
    """(B, T) -> (B, 1, T, T): which query sees which key. A padded query sees itself, so that no softmax is empty."""
    length = mask.shape[1]
    pairs = torch.ones(length, length, dtype=torch.bool, device=mask.device)
    causal = pairs if bidirectional else pairs.tril()
    own = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & mask[:, None, :]) | own)[:, None]


def independent_turns(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and positions with which each turn sees what is shared and itself, as if it were the only one.

    turns (B, T): the turn a token belongs to, from 1, turn by turn; 0 for what all share, which comes first.
    Gives (B, 1, T, T), True where a row sees a column, and positions (B, T).
    """
    index = torch.arange(turns.shape[1], device=turns.device)
    seen = (turns[:, None, :] == 0) | (turns[:, None, :] == turns[:, :, None])
    changed = F.pad(turns[:, 1:] != turns[:, :-1], (1, 0))
    start = torch.where(changed, index, 0).cummax(dim=1).values
    shared = (turns == 0).sum(dim=1, keepdim=True)
    positions = torch.where(turns == 0, index, shared + index - start)
    return (seen & (index[:, None] >= index))[:, None], positions
