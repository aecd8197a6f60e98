"""The attention that the backbone's layers call: torch's fused kernel, but plain matrix products to train on a CPU.

The CPU's fused kernel is slow backwards: over 16 rows of 165 and of 75 positions (4 heads of 64, bfloat16, one core)
plain products take 0.6 and 0.3 of its time. They keep T x T weights for backward, so only short rows use them.
"""

from typing import Any

import torch
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


def register() -> str:
    """Tells transformers about it; gives the name to put in `attn_implementation`."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
