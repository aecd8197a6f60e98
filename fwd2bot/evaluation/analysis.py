"""What a trained model learnt (Sec. 5): its change of the weights, its captions from few tokens, what each token holds.

Everything is measured on a model as it is; nothing is trained.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from fwd2bot.adapters import LowRank, StageLinear
from fwd2bot.data.world import Scene
from fwd2bot.data.world.language import NUMBERS, plural
from fwd2bot.data.world.scene import SIGN
from fwd2bot.data.world.sprites import object_names
from fwd2bot.errors import InputError
from fwd2bot.evaluation.world import answer_scores, blanks, pictures
from fwd2bot.llava import LANGUAGE_LAYERS
from fwd2bot.model import Fwd2Bot

COUNTS = (1, 2, 4, 8, 16)
"""Numbers of tokens in Fig. 5."""
GROUPS = (4, 8)
"""How many neighbouring tokens are hidden at a time in Fig. 6."""
CAPTION_LENGTH = 128


def change_norms(model: Fwd2Bot) -> dict[str, Any]:
    """Fig. 3: Frobenius norms of dW = scale * B A in the language model.

    `norms`: by adapter, for each layer the norm of all its changes together; `kinds`: the same by kind of linear layer;
    `weights`: for each layer the norm of the weights that are changed;
    `cosines`: of the two stages' changes, layer by layer, where each stage has its own adapter (1: the same change, 0:
    unrelated). Raises InputError for a model without adapters there.
    """
    squares: dict[str, dict[str, list[float]]] = {}  # adapter -> kind -> layers
    layers = list(model.compressor.llava.network.get_submodule(LANGUAGE_LAYERS))
    products, weights = [0.0] * len(layers), [0.0] * len(layers)
    for index, layer in enumerate(layers):
        for path, module in layer.named_modules():
            if isinstance(module, StageLinear):
                weights[index] += float(module.weight.detach().double().square().sum())
                changes = module.low_ranks()
                for name, change in changes.items():
                    by_kind = squares.setdefault(name, {}).setdefault(path.rpartition(".")[2], [0.0] * len(layers))
                    by_kind[index] += dot(change, change)
                if len(changes) == 2:
                    products[index] += dot(*changes.values())
    if not squares:
        raise InputError(f"{model.name} has no adapters in its language model, so there is no change to show.")
    totals = {name: [sum(layer) for layer in zip(*kinds.values(), strict=True)] for name, kinds in squares.items()}
    norms = {name: _roots(total) for name, total in totals.items()}
    result: dict[str, Any] = {
        "norms": norms,
        "kinds": {name: {kind: _roots(layers) for kind, layers in kinds.items()} for name, kinds in squares.items()},
        "weights": _roots(weights),
    }
    if len(norms) == 2:
        pairs = zip(products, *norms.values(), strict=True)
        result["cosines"] = [product / (one * other or 1.0) for product, one, other in pairs]
    return result


@torch.no_grad()
def dot(one: LowRank, other: LowRank) -> float:
    """The sum over all entries of dW * dW', without either: <B A, B' A'> = sum((B^T B') * (A A'^T))."""
    ups = one.up.double().T @ other.up.double()  # (R, R)
    downs = one.down.double() @ other.down.double().T  # (R, R)
    return one.scale * other.scale * float((ups * downs).sum())


def _roots(squares: Sequence[float]) -> list[float]:
    return [square**0.5 for square in squares]


def captions_by_count(model: Fwd2Bot, scenes: Sequence[Scene]) -> dict[int, list[str]]:
    """Fig. 5: a caption of every scene from each number of tokens in `COUNTS` that the model can give.

    A model whose rows can be cut gives all of them: the rows are cut to their first tokens, also where it was never
    trained with so few. Others give the numbers that they offer. Raises InputError where there is none.
    """
    if model.cuttable:
        whole = model.compress(pictures(scenes))
        rows = {count: whole[:, :count] for count in COUNTS if count <= model.num_tokens}
    else:
        rows = {count: model.compress(pictures(scenes), count) for count in COUNTS if count in model.token_counts}
    if not rows:
        counts = ", ".join(map(str, COUNTS))
        raise InputError(f"{model.name} gives none of {counts} tokens an image: take a model that does.")
    return {count: model.caption(tokens, max_new_tokens=CAPTION_LENGTH) for count, tokens in rows.items()}


def caption_scores(scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, float]:
    """Of one caption for each scene, in per cent over all of them, and the mean number of words.

    named: share of the scenes' things that are named; not_there: share of the named things that are not there. Things
    of one name count one by one: the second of two is named where the caption tells of two.
    """
    there = named = right = 0
    for scene, text in zip(scenes, texts, strict=True):
        things, told = Counter(thing.name for thing in scene.things), named_things(text)
        there, named, right = there + things.total(), named + told.total(), right + (things & told).total()
    words = sum(len(text.split()) for text in texts) / len(texts)
    return {"named": 100.0 * right / there, "not_there": 100.0 * (named - right) / (named or 1), "words": words}


def named_things(text: str) -> Counter[str]:
    """Which things a text names, and how many of each: "two foxes and a key" -> fox 2, key 1."""
    names, pattern = _vocabulary()
    found: Counter[str] = Counter()
    for number, name in pattern.findall(text.lower()):
        found[names[name]] += NUMBERS.index(number) if number else 1
    return found


@cache
def _vocabulary() -> tuple[dict[str, str], re.Pattern[str]]:
    """Singulars and plurals with their singular, and what finds them, the longest first, after a number or without."""
    names = {form: name for name in (*object_names(), SIGN) for form in (plural(name), name)}
    forms = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return names, re.compile(rf"\b(?:({'|'.join(NUMBERS[1:])}) )?({forms})\b")


def hidden_scores(model: Fwd2Bot, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Fig. 6: exact match by kind of question, in per cent, and the mean, with groups of summary tokens hidden.

    `none`: nothing is hidden; `groups`: what is hidden, the `first` token of `size`, counted from 1, and its `scores`;
    `blank`: a grey picture, what can be guessed. Raises InputError for a model of too few tokens.
    """
    count = model.num_tokens
    sizes = [size for size in GROUPS if size < count]
    if not sizes:
        raise InputError(f"{model.name} has {count} tokens an image: too few to hide {GROUPS[0]} of them.")
    groups = [
        {"size": size, "first": first + 1, "scores": answer_scores(model, scenes, keep=without(count, first, size))}
        for size in sizes
        for first in range(0, count, size)
    ]
    return {
        "none": answer_scores(model, scenes),
        "groups": groups,
        "blank": answer_scores(model, scenes, show=blanks),
    }


def without(count: int, first: int, size: int) -> list[bool]:
    """Which of `count` tokens stay where `size` of them are hidden from `first` on, counted from 0."""
    return [not first <= place < first + size for place in range(count)]
