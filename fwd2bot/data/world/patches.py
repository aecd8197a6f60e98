"""What each patch of a picture shows, in words: the generator knows, and training may use it.

Three words a patch: of a thing its name, its size and its place; of a sign a letter, "sign" and its place; of the
background its colour, its pattern and nothing.
"""

import random
from typing import Any

import torch
from torch import Tensor

from fwd2bot.data.world.scene import COLOURS, PATTERNS, PLACES, SIGN, UNIT, Scene
from fwd2bot.data.world.sprites import LETTERS, object_names

SHOWN = (*COLOURS, *object_names(), *LETTERS.lower(), *LETTERS.lower())
"""What a patch can show. A sign's two letters are kept apart: written, the second is another token than the first."""
FIRST_THING, FIRST_LETTER = len(COLOURS), len(COLOURS) + len(object_names())
SIZES = ("small", "large", SIGN, *PATTERNS)
NOWHERE = len(PLACES)
"""The place of background, after those of `PLACES`."""
_OF_NAME = {name: FIRST_THING + number for number, name in enumerate(object_names())}


def patch_words(scene: Scene, grid: int) -> Tensor:
    """Numbers in `SHOWN`, `SIZES` and `PLACES` for each patch, row by row: (grid * grid, 3).

    A thing owns the patches whose centre lies within the middle nine tenths of its box.
    """
    words = torch.empty(grid, grid, 3, dtype=torch.long)
    words[..., 0] = list(COLOURS).index(scene.colour)
    words[..., 1] = SIZES.index(scene.pattern)
    words[..., 2] = NOWHERE
    centres = (torch.arange(grid) + 0.5) * UNIT / grid
    for thing in scene.things:
        reach = 0.45 * thing.side
        owned = ((centres - thing.y).abs() <= reach)[:, None] & ((centres - thing.x).abs() <= reach)
        if thing.text:
            left, right = (LETTERS.index(letter) for letter in thing.text)
            right += len(LETTERS)
            words[owned & (centres < thing.x)] = torch.tensor([FIRST_LETTER + left, SIZES.index(SIGN), thing.place])
            words[owned & (centres >= thing.x)] = torch.tensor([FIRST_LETTER + right, SIZES.index(SIGN), thing.place])
        else:
            words[owned] = torch.tensor([_OF_NAME[thing.name], SIZES.index(thing.size), thing.place])
    return words.flatten(0, 1)


def few_patches(scene: Scene, grid: int, count: int, rng: random.Random) -> list[tuple[int, int, int]]:
    """`count` patches in any order, each thing shown by a few of them: a picture for a reader of words alone."""
    kinds = sorted(set(map(tuple, patch_words(scene, grid).tolist())))
    things = [kind for kind in kinds if kind[0] >= FIRST_THING]
    patches = [kind for kind in things for _ in range(rng.randint(1, max(1, min(6, count // len(things)))))]
    patches += [kinds[0]] * (count - len(patches))  # the background, whose words come first in `SHOWN`
    rng.shuffle(patches)
    return patches


def patch_token_ids(tokenizer: Any) -> list[list[list[int]]]:
    """The tokens of every word that `patch_words` may give, by column; [] for no place.

    A sign's right letter is the token that continues a word, since its two letters are written as one.
    """
    alone = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in (*SHOWN, *SIZES, *PLACES)]
    shown, sizes, places = alone[: len(SHOWN)], alone[len(SHOWN) : -len(PLACES)], alone[-len(PLACES) :]
    for number in range(len(SHOWN) - len(LETTERS), len(SHOWN)):
        shown[number] = [tokenizer.convert_tokens_to_ids(SHOWN[number])]
    return [shown, sizes, [*places, []]]
