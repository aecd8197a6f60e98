"""The two losses of the paper as plain functions on tensors: L_AR (Eq. 2) and L_disc (Eq. 3).

Shapes: B images, T text, D width, C vocabulary, N predictions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a token that no loss counts."""


def autoregressive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 2: mean of -log p(label) over the labels that are not `IGNORED`. No label at all gives zero.

    Logits (N, C) stand beside the labels (N,) that they predict: what comes out at position t, by label t + 1.
    """
    counted = (labels != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(full_precision(logits), labels, reduction="sum") / counted


def contrastive_loss(image_embeddings: Tensor, text_embeddings: Tensor, temperature: float) -> Tensor:
    """Eq. 3: image to text and text to image, cosine over temperature, summed over both directions, mean over B.

    Row k of both (B, D) belongs together. When every cosine is equal the loss is 2 log B.
    """
    scores = cosines(image_embeddings, text_embeddings) / temperature  # (B, B): row an image, column a text
    partners = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, partners) + F.cross_entropy(scores.T, partners)


def one_way_loss(queries: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Half of Eq. 3, as E5-V and VLM2Vec learn: each query (B, D) against all targets (M, D), mean over B.

    Target k belongs to query k; those after the first B are wrong for every query.
    """
    scores = cosines(queries, targets) / temperature  # (B, M)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """(..., n, D) and (..., m, D) -> (..., n, m). Autocast, which would round them to two digits, is off for them."""
    with torch.autocast(rows.device.type, enabled=False):
        return F.normalize(full_precision(rows), dim=-1) @ F.normalize(full_precision(others), dim=-1).mT


def full_precision(values: Tensor) -> Tensor:
    """float32 where they are less precise; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
