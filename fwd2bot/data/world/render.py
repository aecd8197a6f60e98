"""The picture of a scene: background, then things in reading order. NumPy only, about 0.3 ms at 96 x 96."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from fwd2bot.data.world.scene import COLOURS, UNIT, Scene
from fwd2bot.data.world.sprites import Sprites, default_sprites


@cache
def _noise(size: int) -> NDArray[np.float32]:
    """A fixed bank of speckles, twice the picture's side, from which a scene's seed takes a window."""
    cells = np.random.Generator(np.random.PCG64(7)).integers(-42, 43, (UNIT, UNIT))
    scale = max(1, size // 48)
    grid = np.kron(cells, np.ones((scale, scale)))
    return np.tile(grid, (2 * size // grid.shape[0] + 1,) * 2).astype(np.float32)


@cache
def _slope(size: int) -> NDArray[np.float32]:
    return np.linspace(0.0, 1.0, size, dtype=np.float32)


def _background(scene: Scene, size: int) -> NDArray[np.float32]:
    colour = np.array(COLOURS[scene.colour], dtype=np.float32)
    canvas = np.empty((size, size, 3), dtype=np.float32)
    canvas[:] = colour
    if scene.pattern == "gradient":
        slope = _slope(size)[:, None] if scene.seed % 2 else _slope(size)[None, :]
        if scene.seed % 4 >= 2:
            slope = 1.0 - slope
        towards = 255.0 if colour.sum() < 640 else 150.0
        canvas += (slope * (0.45 if towards == 255.0 else 0.8))[..., None] * (towards - colour)
    elif scene.pattern == "speckled":
        left, top = scene.seed % size, scene.seed // size % size
        canvas += _noise(size)[top : top + size, left : left + size, None]
    return canvas


def render(scene: Scene, *, size: int = UNIT, sprites: Sprites | None = None) -> NDArray[np.uint8]:
    """The picture, (size, size, 3) RGB."""
    sprites = sprites or default_sprites()
    scale = size / UNIT
    canvas = _background(scene, size)
    for thing in scene.things:
        side = round(thing.side * scale)
        left, top = round((thing.x - thing.side / 2) * scale), round((thing.y - thing.side / 2) * scale)
        left, top = min(max(left, 0), size - side), min(max(top, 0), size - side)
        colour, rest = sprites.sign(thing.text, side) if thing.text else sprites.scaled(thing.name, side)
        window = canvas[top : top + side, left : left + side]
        window *= rest
        window += colour
    return np.clip(canvas, 0, 255).astype(np.uint8)
