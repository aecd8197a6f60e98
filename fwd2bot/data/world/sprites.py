"""The pictures of things and letters that scenes are drawn with.

A `Sprites` holds square RGBA pictures by name and can give each at any size. `default_sprites()` is the bundled sheet
(Noto Color Emoji, SIL Open Font License 1.1); another artist's set or a test's own drawings are passed to `render`.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).parent / "sprites"
TILE = 64
COLUMNS = 16
LETTERS = "BCDFGHJKLMNPRSTVWXYZ"


@cache
def object_names() -> tuple[str, ...]:
    """Names of all things that scenes can hold, in the sheet's order."""
    return tuple((FOLDER / "names.txt").read_text(encoding="utf-8").split("\n")[:-1])


class Sprites:
    """Premultiplied pictures by name, scaled on demand and kept.

    `tiles`: name -> RGBA picture (square); `letters`: letter -> greyscale mask.
    """

    def __init__(self, tiles: dict[str, Image.Image], letters: dict[str, Image.Image]) -> None:
        self.tiles = tiles
        self.letters = letters
        self._scaled: dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def scaled(self, name: str, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Colour times alpha (size, size, 3) in 0..255 and what remains of the background (size, size, 1) in 0..1."""
        key = (name, size)
        if key not in self._scaled:
            tile = self.tiles[name].convert("RGBa").resize((size, size), Image.Resampling.BOX, reducing_gap=None)
            if size > TILE // 3:
                tile = self.tiles[name].convert("RGBa").resize((size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(tile, dtype=np.float32)
            self._scaled[key] = (pixels[..., :3].copy(), 1.0 - pixels[..., 3:] / 255.0)
        return self._scaled[key]

    def sign(self, text: str, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A white board with a black rim and the letters of `text` side by side, as `scaled` gives it."""
        key = ("sign:" + text, size)
        if key not in self._scaled:
            if len(self._scaled) > 20_000:
                self._scaled.clear()
            rim = max(1, size // 16)
            top = size // 8
            board = Image.new("L", (size, size - 2 * top), 0)
            board.paste(255, (rim, rim, size - rim, size - 2 * top - rim))
            width = (size - 2 * rim - 2) // len(text) - 1
            height = size - 2 * top - 2 * rim - 2 * max(1, size // 12)
            for place, character in enumerate(text):
                glyph = self.letters[character].resize((width, height), Image.Resampling.BICUBIC)
                left = (size - len(text) * (width + 1) + 1) // 2 + place * (width + 1)
                board.paste(0, (left, (board.height - height) // 2), glyph)
            colour = np.zeros((size, size, 3), dtype=np.float32)
            rest = np.ones((size, size, 1), dtype=np.float32)
            colour[top : size - top] = np.asarray(board, dtype=np.float32)[..., None]
            rest[top : size - top] = 0.0
            self._scaled[key] = (colour, rest)
        return self._scaled[key]


@cache
def default_sprites() -> Sprites:
    """The bundled set."""
    with Image.open(FOLDER / "objects.png") as picture:
        sheet = picture.convert("RGBA")
    with Image.open(FOLDER / "letters.png") as picture:
        strip = picture.convert("L")
    tiles = {}
    for number, name in enumerate(object_names()):
        left, top = number % COLUMNS * TILE, number // COLUMNS * TILE
        tiles[name] = sheet.crop((left, top, left + TILE, top + TILE))
    letters = {letter: strip.crop((32 * n, 0, 32 * n + 32, 48)) for n, letter in enumerate(LETTERS)}
    return Sprites(tiles, letters)
