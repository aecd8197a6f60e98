"""What a model attends to (Fig. 4): in pass 1, in pass 2, and the plain LLaVA that it was made of.

The fused kernel gives no weights, so they are computed again beside it, for the rows that are asked for.

Shapes: B pictures, L layers of the language model, R rows that attend, V visual tokens, K summary tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fwd2bot.adapters import COMPRESS
from fwd2bot.attention import taken, weights
from fwd2bot.checkpoint import base_folder
from fwd2bot.compressors.base import AnswerBatch
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import IGNORED, encode_conversation, template_named
from fwd2bot.data.world import Scene
from fwd2bot.data.world.patches import NOWHERE, patch_words
from fwd2bot.errors import InputError
from fwd2bot.evaluation.analysis import CAPTION_LENGTH
from fwd2bot.evaluation.world import pictures
from fwd2bot.llava import LANGUAGE_LAYERS, Llava
from fwd2bot.model import Fwd2Bot, find_model


def plain_llava(model: Fwd2Bot) -> Fwd2Bot:
    """The LLaVA that a saved model was made of, before it learnt to compress: every visual token, the same template."""
    own = model.compressor.config
    config = CompressorConfig(
        compressor="identity", adapters="none", template=own.template, caption_question=own.caption_question
    )
    llava = Llava.from_folder(base_folder(find_model(model.source)), model.compressor.llava.dtype)
    plain = make_compressor(llava, config).requires_grad_(False).eval().to(model.compressor.llava.device)
    return Fwd2Bot(plain, name=f"the base of {model.name}")


@contextmanager
def watching(llava: Llava, rows: slice) -> Iterator[list[Tensor]]:
    """Within the block each layer of the language model adds what these rows attend to: (B, R, T), mean over heads."""
    found: list[Tensor] = []

    def look(layer: Any, inputs: tuple[Tensor], options: dict[str, Any]) -> None:
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
def compression_attention(model: Fwd2Bot, images: Sequence[Image.Image]) -> Tensor:
    """What each summary token drew on in pass 1: (B, L, K, V). Raises InputError for a model without such a pass."""
    compressor, llava = model.compressor, model.compressor.llava
    if COMPRESS not in compressor.stages:
        raise InputError(f"{model.name} does not compress by its language model, so there is nothing to watch there.")
    with watching(llava, slice(-compressor.num_tokens, None)) as layers:
        compressor.compress(llava.pixels(images))
    return torch.stack(layers, dim=1)[..., 1 : 1 + llava.num_visual_tokens]  # BOS stands before the picture


@torch.inference_mode()
def answer_attention(model: Fwd2Bot, tokens: Tensor, text: str) -> Tensor:
    """What the rows that gave a caption attended to among the picture's rows: tokens (K, D) -> (L, R, K).

    `text` is what the model generated from them; each of its tokens, and the closing one, was given by one row.
    """
    compressor, llava = model.compressor, model.compressor.llava
    config = compressor.config
    turns = [(config.caption_question, text)]
    encoded = encode_conversation(llava.tokenizer, template_named(config.template), turns, has_image=True)
    position, count = encoded.image_position or 0, len(tokens)
    first = next(index for index, label in enumerate(encoded.labels) if label != IGNORED) + count
    with watching(llava, slice(first - 1, len(encoded.ids) + count - 1)) as layers:
        compressor.answer_logits(tokens[None], AnswerBatch.collate([encoded], 0).to(tokens.device))
    return torch.stack(layers, dim=1)[0, ..., position : position + count]


def spread(shares: Tensor) -> Tensor:
    """Over how many of V places weights (..., V) are spread, in per cent of V: 100 where all are equal.

    The exponential of their entropy: so many equal weights have the same.
    """
    shares = shares / shares.sum(dim=-1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1)
    return 100.0 * entropy.exp() / shares.shape[-1]


def shown_things(scene: Scene, grid: int) -> Tensor:
    """Which visual tokens stand on a thing: (grid * grid,) bool."""
    return patch_words(scene, grid)[:, 2] != NOWHERE


def picture_figures(found: Tensor, things: Tensor) -> Tensor:
    """Figures in per cent of what rows attended to, found (L, R, V), with the patches of things (V,) bool: (4, L).

    The share of all attention that fell on the picture; the spread over its tokens, of all rows together and of a
    single one; the share of what fell on the picture that fell on things.
    """
    together = found.mean(dim=1)  # (L, V)
    on_picture = together.sum(dim=-1)
    on_things = together[:, things].sum(dim=-1) / on_picture
    return torch.stack([100.0 * on_picture, spread(together), spread(found).mean(dim=1), 100.0 * on_things])


PICTURE_FIGURES = ("on_picture", "spread", "spread_of_one", "on_things")


class Watched(NamedTuple):
    """A scene with what was attended to: base (L, R, V), pass_1 (L, K, V), pass_2 (L, R', K), all on the CPU."""

    scene: Scene
    base: Tensor
    pass_1: Tensor
    pass_2: Tensor


def watched(model: Fwd2Bot, plain: Fwd2Bot, scenes: Sequence[Scene]) -> Iterator[Watched]:
    """Both models while they caption the scenes, one after the other. Raises as `compression_attention`."""
    shown = pictures(scenes)
    tokens, visual = model.compress(shown), plain.compress(shown)
    texts = model.caption(tokens, max_new_tokens=CAPTION_LENGTH)
    plain_texts = plain.caption(visual, max_new_tokens=CAPTION_LENGTH)
    for index, scene in enumerate(scenes):
        yield Watched(
            scene=scene,
            base=answer_attention(plain, visual[index], plain_texts[index]).cpu(),
            pass_1=compression_attention(model, shown[index : index + 1])[0].cpu(),
            pass_2=answer_attention(model, tokens[index], texts[index]).cpu(),
        )


def attention_figures(seen: Sequence[Watched], grid: int) -> dict[str, Any]:
    """Fig. 4 in figures, means over scenes in per cent, a value a layer.

    base: what generated tokens of the plain LLaVA attended to; pass_1: the summary tokens; both `PICTURE_FIGURES`.
    pass_2: what generated tokens attended to in summary token after summary token. things: share of the visual tokens
    that stand on things, what `on_things` would be by chance.
    """
    things = [shown_things(one.scene, grid) for one in seen]
    base = [picture_figures(one.base, there) for one, there in zip(seen, things, strict=True)]
    first = [picture_figures(one.pass_1, there) for one, there in zip(seen, things, strict=True)]
    second = [100.0 * one.pass_2.mean(dim=1) for one in seen]  # (L, K)
    return {
        "things": 100.0 * float(torch.stack(things).float().mean()),
        "base": _named(base),
        "pass_1": _named(first),
        "pass_2": torch.stack(second).mean(dim=0).tolist(),
    }


def _named(rows: list[Tensor]) -> dict[str, list[float]]:
    return dict(zip(PICTURE_FIGURES, torch.stack(rows).mean(dim=0).tolist(), strict=True))
