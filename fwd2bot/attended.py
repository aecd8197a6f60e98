"""What a model attends to (Fig. 4): the summary tokens in pass 1, and an answer in pass 2.

The fused kernel gives no weights, so they are computed again beside it, for the rows that are asked for.

Shapes: B pictures, L layers of the language model, R rows that attend, V visual tokens, K summary tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fwd2bot.adapters import COMPRESS
from fwd2bot.attention import taken, weights
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.data.conversations import IGNORED, encode_conversation, template_named
from fwd2bot.errors import InputError
from fwd2bot.llava import LANGUAGE_LAYERS, Llava
from fwd2bot.preprocessing import seen_part


@contextmanager
def watching(llava: Llava, rows: slice) -> Iterator[list[Tensor]]:
    """Within the block each layer of the language model adds what these rows attend to: (B, R, T), mean over heads."""
    found: list[Tensor] = []
    ours = get_ident()

    def look(layer: Any, inputs: tuple[Tensor], options: dict[str, Any] | None = None) -> None:
        if get_ident() != ours or options is None:  # another thread's pass through the same layers
            return
        (hidden,) = inputs  # (B, T, D)
        length = hidden.shape[1]
        asked = torch.arange(length, device=hidden.device)[rows].expand(len(hidden), -1)
        allowed = None
        if options["attention_mask"] is not None:
            allowed = taken(options["attention_mask"].expand(len(hidden), -1, -1, -1)[:, 0], asked)
        elif options.get("is_causal", True):
            allowed = torch.arange(length, device=hidden.device) <= asked[..., None]
        normed, rope = layer.input_layernorm(hidden), options["position_embeddings"]
        found.append(weights(layer.self_attn, normed, rows=asked, rope=rope, allowed=allowed))

    layers = llava.network.get_submodule(LANGUAGE_LAYERS)
    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def compression_attention(
    compressor: Compressor, images: Sequence[Image.Image], num_tokens: int | None = None
) -> Tensor:
    """What each summary token drew on in pass 1: (B, L, K, V). Raises InputError for a model without such a pass."""
    llava = compressor.llava
    if COMPRESS not in compressor.stages:
        raise InputError("This model does not compress by its language model, so there is nothing to watch there.")
    count = compressor.num_tokens if num_tokens is None else num_tokens
    with watching(llava, slice(-count, None)) as layers:
        compressor.compress(llava.pixels(images), num_tokens=count)
    return torch.stack(layers, dim=1)[..., 1 : 1 + llava.num_visual_tokens]  # BOS stands before the picture


@torch.inference_mode()
def answer_attention(compressor: Compressor, tokens: Tensor, text: str, question: str | None = None) -> Tensor:
    """What the rows that gave an answer attended to among the picture's rows: tokens (K, D) -> (L, R, K).

    `text` is what the model generated from them (question None: the caption); each of its tokens, and the closing one,
    was given by one row. Raises InputError for a method that leaves rows out on the way: each layer has others.
    """
    llava, config = compressor.llava, compressor.config
    if compressor.inside:
        raise InputError(f"{config.compressor} reduces while it answers: each layer has other rows.")
    turns = [(config.caption_question if question is None else question, text)]
    encoded = encode_conversation(llava.tokenizer, template_named(config.template), turns, has_image=True)
    position, count = encoded.image_position or 0, len(tokens)
    first = next(index for index, label in enumerate(encoded.labels) if label != IGNORED) + count
    with watching(llava, slice(first - 1, len(encoded.ids) + count - 1)) as layers:
        compressor.answer_logits(tokens[None], AnswerBatch.collate([encoded], 0).to(tokens.device))
    return torch.stack(layers, dim=1)[0, ..., position : position + count]


@dataclass(frozen=True, kw_only=True)
class View:
    """What there is to draw of one image and one question; weights are means over layers, heads and generated tokens.

    compress: for each of K summary tokens the weights of V visual tokens in pass 1, row by row of the grid; None where
    there was no picture. seen: the shares of its width and of its height, both in the middle, that the grid lies over;
    more than 1 where the picture was padded.
    answer: the weights of the K summary tokens in pass 2, while `text` was written.
    """

    grid: tuple[int, int]
    seen: tuple[float, float]
    compress: list[list[float]] | None
    answer: list[float]
    text: str


def view(compressor: Compressor, tokens: Tensor, question: str, text: str, picture: Image.Image | None) -> View:
    """The view of one row of tokens (K, D), and of the text that they gave to a question.

    Raises as `answer_attention`, and with a picture as `compression_attention`.
    """
    llava = compressor.llava
    drawn = None
    if picture is not None:
        drawn = compression_attention(compressor, [picture], len(tokens))[0].mean(dim=0).tolist()
    return View(
        grid=(llava.grid, llava.grid),
        seen=(1.0, 1.0) if picture is None else seen_part(llava.image_processor, picture.size),
        compress=drawn,
        answer=answer_attention(compressor, tokens, text, question).mean(dim=(0, 1)).tolist(),
        text=text,
    )
