"""The world in the official layouts of captioning, retrieval and SugarCrepe, so that what scores them scores the world.

    coco/        dataset_coco.json, val2014/
    flickr30k/   dataset_flickr30k.json, flickr30k-images/
    nocaps/      nocaps_val_4500_captions.json, val/
    textcaps/    TextCaps_0.1_val.json, train_images/
    sugarcrepe/  replace_obj.json and six others, val2017/

Every scene comes with its near duplicate, so that a search is hard. Pictures are PNG whatever their names end in.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from fwd2bot.data.world.language import captions, describe, enumerate_words
from fwd2bot.data.world.render import render
from fwd2bot.data.world.scene import PATTERNS, PLACES, SIGN, Scene, Thing, near_duplicate
from fwd2bot.data.world.sprites import object_names

_SIDE = 192
_Named = Sequence[tuple[str, Scene]]


def write_caption_benchmarks(out: Path, scenes: Sequence[Scene]) -> None:
    """Write the five folders below `out`, of twice as many pictures as scenes. Raises OSError."""
    shown = [one for scene in scenes for one in (scene, near_duplicate(scene))]
    pictures = [Image.fromarray(render(scene, size=_SIDE)) for scene in shown]
    for folder, prefix, files in (
        ("coco/val2014", "COCO_val2014_", _coco),
        ("flickr30k/flickr30k-images", "", _flickr30k),
        ("nocaps/val", "", _nocaps),
        ("textcaps/train_images", "", _textcaps),
        ("sugarcrepe/val2017", "", _sugarcrepe),
    ):
        place = out / folder
        place.mkdir(parents=True, exist_ok=True)
        named = [(f"{prefix}{number:012d}.jpg", scene) for number, scene in enumerate(shown, 1)]
        for (name, _), picture in zip(named, pictures, strict=True):
            picture.save(place / name, format="PNG")
        for name, content in files(named).items():
            (place.parent / name).write_text(json.dumps(content), encoding="utf-8")


def _coco(named: _Named) -> dict[str, Any]:
    rows = [{**row, "filepath": "val2014", "cocoid": number} for number, row in enumerate(_karpathy_rows(named), 1)]
    return {"dataset_coco.json": {"dataset": "coco", "images": rows}}


def _flickr30k(named: _Named) -> dict[str, Any]:
    return {"dataset_flickr30k.json": {"dataset": "flickr30k", "images": _karpathy_rows(named)}}


def _karpathy_rows(named: _Named) -> list[dict[str, Any]]:
    return [
        {
            "filename": name,
            "imgid": number,
            "split": "test",
            "sentids": list(range(5 * number, 5 * number + 5)),
            "sentences": [
                {"tokens": text.split(), "raw": text, "imgid": number, "sentid": 5 * number + at}
                for at, text in enumerate(captions(scene))
            ],
        }
        for number, (name, scene) in enumerate(named)
    ]


def _nocaps(named: _Named) -> dict[str, Any]:
    images = [
        {"id": number, "open_images_id": Path(name).stem, "file_name": name, "domain": "in-domain"}
        for number, (name, _) in enumerate(named)
    ]
    texts = [(number, text) for number, (_, scene) in enumerate(named) for text in captions(scene)]
    annotations = [{"id": at, "image_id": number, "caption": text} for at, (number, text) in enumerate(texts)]
    return {"nocaps_val_4500_captions.json": {"images": images, "annotations": annotations}}


def _textcaps(named: _Named) -> dict[str, Any]:
    rows = [
        {
            "image_id": Path(name).stem,
            "image_name": Path(name).stem,
            "image_path": f"train/{name}",
            "caption_id": 5 * number + at,
            "caption_str": text,
            "reference_strs": captions(scene),
            "set_name": "val",
        }
        for number, (name, scene) in enumerate(named)
        for at, text in enumerate(captions(scene))
    ]
    return {"TextCaps_0.1_val.json": {"dataset_name": "textcaps", "data": rows}}


def _sugarcrepe(named: _Named) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = {f"{kind}.json": {} for kind in NEGATIVES}
    for number, (name, scene) in enumerate(named):
        for kind in NEGATIVES:
            pair = negative_pair(scene, kind)
            if pair is not None:
                row = {"filename": name, "caption": pair[0], "negative_caption": pair[1]}
                files[f"{kind}.json"][str(number)] = row  # as in swap_obj, a number may be missing
    return files


def negative_pair(scene: Scene, kind: str) -> tuple[str, str] | None:
    """A caption that is true and one that is not, of SugarCrepe's `kind`; None where the scene has none."""
    changed = NEGATIVES[kind](scene, random.Random(f"{kind} {scene.seed}"))
    if changed is None:
        return None
    pattern = kind != "add_att"
    return _say(scene, pattern=pattern), _say(changed, pattern=True)


def _say(scene: Scene, *, pattern: bool) -> str:
    parts = [f"{describe(thing, size=True)} at the {PLACES[thing.place]}" for thing in scene.things]
    return f"{enumerate_words(parts)} on a {scene.pattern + ' ' if pattern else ''}{scene.colour} background"


def _replace_object(scene: Scene, rng: random.Random) -> Scene | None:
    old = _thing(scene, rng)
    return None if old is None else _with(scene, [old], [replace(old, name=_absent(scene, rng))])


def _replace_attribute(scene: Scene, rng: random.Random) -> Scene | None:
    old = _thing(scene, rng)
    if old is None:
        return None
    return _with(scene, [old], [replace(old, size="small" if old.size == "large" else "large")])


def _replace_relation(scene: Scene, rng: random.Random) -> Scene:
    old = rng.choice(scene.things)
    return _with(scene, [old], [replace(old, place=_free(scene, rng))])


def _swap_objects(scene: Scene, rng: random.Random) -> Scene | None:
    pairs = [(a, b) for a in scene.things for b in scene.things if a.name < b.name]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return _with(scene, [first, second], [replace(first, place=second.place), replace(second, place=first.place)])


def _swap_attributes(scene: Scene, rng: random.Random) -> Scene | None:
    sized = [thing for thing in scene.things if thing.name != SIGN]
    pairs = [(a, b) for a in sized for b in sized if a.size < b.size]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return _with(scene, [first, second], [replace(first, size=second.size), replace(second, size=first.size)])


def _add_object(scene: Scene, rng: random.Random) -> Scene:
    new = replace(scene.things[0], name=_absent(scene, rng), place=_free(scene, rng), text=None)
    return _with(scene, [], [new])


def _add_attribute(scene: Scene, rng: random.Random) -> Scene:
    return replace(scene, pattern=rng.choice([one for one in PATTERNS if one != scene.pattern]))


NEGATIVES: dict[str, Callable[[Scene, random.Random], Scene | None]] = {
    "replace_obj": _replace_object,
    "replace_att": _replace_attribute,
    "replace_rel": _replace_relation,
    "swap_obj": _swap_objects,
    "swap_att": _swap_attributes,
    "add_obj": _add_object,
    "add_att": _add_attribute,
}
"""SugarCrepe's files, and the change of a scene's record that makes the caption of each wrong."""


def _with(scene: Scene, old: list[Thing], new: list[Thing]) -> Scene:
    things = [thing for thing in scene.things if thing not in old] + new
    return replace(scene, things=tuple(sorted(things, key=lambda thing: thing.place)))


def _thing(scene: Scene, rng: random.Random) -> Thing | None:
    """Anything but a sign, whose size no caption tells."""
    things = [thing for thing in scene.things if thing.name != SIGN]
    return rng.choice(things) if things else None


def _absent(scene: Scene, rng: random.Random) -> str:
    return rng.choice([name for name in object_names() if scene.count(name) == 0])


def _free(scene: Scene, rng: random.Random) -> int:
    """A place where nothing stands; a scene of the world has at most six things."""
    return rng.choice([place for place in range(9) if scene.at(place) is None])
