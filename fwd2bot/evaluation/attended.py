"""Fig. 4 in figures: what both passes attend to, and the plain LLaVA that the model was made of.

Shapes: B pictures, L layers of the language model, R rows that attend, V visual tokens, K summary tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwd2bot.attended import answer_attention, compression_attention
from fwd2bot.checkpoint import base_folder
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.world import Scene
from fwd2bot.data.world.patches import NOWHERE, patch_words
from fwd2bot.evaluation.analysis import CAPTION_LENGTH
from fwd2bot.evaluation.world import pictures
from fwd2bot.llava import Llava
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
            base=answer_attention(plain.compressor, visual[index], plain_texts[index]).cpu(),
            pass_1=compression_attention(model.compressor, shown[index : index + 1])[0].cpu(),
            pass_2=answer_attention(model.compressor, tokens[index], texts[index]).cpu(),
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
