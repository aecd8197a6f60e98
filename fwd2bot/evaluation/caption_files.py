"""Pictures with their captions, from the files in which COCO, Flickr30k, nocaps and TextCaps circulate.

Captioning and retrieval both stand on them. Source of the shapes: the data sets' own files, the splits of Karpathy and
Fei-Fei (2015), and the files that BLIP and CLIP_benchmark made of those.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fwd2bot.errors import InputError
from fwd2bot.evaluation.files import Row, read_json, read_json_list, read_text


@dataclass(frozen=True)
class Captioned:
    """A picture and what people wrote of it (nothing, where only a server has it); key: the data set's own id."""

    key: str
    image: Path
    captions: tuple[str, ...]


Reader = Callable[[Path, str], list[Captioned]]


def read_coco(folder: Path, split: str) -> list[Captioned]:
    """COCO by Karpathy's split, from any of the files that hold it; pictures below val2014/.

    Raises InputError where there is no such file, or one that is not what it should be.
    """
    return _first_there(
        folder,
        {
            "dataset_coco.json": lambda path: _karpathy(path, split, folder),
            f"coco_karpathy_{split}.json": lambda path: _blip(path, folder),
            f"coco_{split}_karpathy.json": lambda path: _coco_format(path, folder / "val2014"),
        },
    )


def read_flickr30k(folder: Path, split: str) -> list[Captioned]:
    """Flickr30k by Karpathy's split; pictures below flickr30k-images/. Raises InputError as `read_coco` does."""
    pictures = folder / "flickr30k-images"
    return _first_there(
        folder,
        {
            "dataset_flickr30k.json": lambda path: _karpathy(path, split, pictures),
            f"flickr30k_{split}_karpathy.txt": lambda path: _clip_benchmark(path, pictures),
        },
    )


def read_nocaps(folder: Path, split: str) -> list[Captioned]:
    """nocaps, the validation file with captions; pictures below val/. Raises InputError as `read_coco` does.

    Of test, below test/, the pictures alone are told.
    """
    if split == "test":
        return _first_there(folder, {"nocaps_test_image_info.json": lambda path: _uncaptioned(path, folder / split)})
    name = f"nocaps_{split}_4500_captions.json"
    return _first_there(folder, {name: lambda path: _coco_format(path, folder / split)})


def read_textcaps(folder: Path, split: str) -> list[Captioned]:
    """TextCaps; pictures below train_images/, as in TextVQA's archive. Raises InputError as `read_coco` does.

    Of test, below test_images/, the pictures alone are told.
    """
    pictures = folder / ("test_images" if split == "test" else "train_images")
    captioned = split != "test"
    return _first_there(
        folder, {f"TextCaps_0.1_{split}.json": lambda path: _textcaps(path, pictures, captioned=captioned)}
    )


def _coco_format(path: Path, pictures: Path) -> list[Captioned]:
    """COCO's own format: `images` with id and file_name, `annotations` with image_id and caption."""
    content = read_json(path)
    captions = _annotations(content)
    found = []
    for row in content.rows("images"):
        key = str(row.number("id"))
        found.append(_captioned(key, pictures / row.text("file_name"), captions.get(key, []), row.place))
    return _unique(found, path)


def _uncaptioned(path: Path, pictures: Path) -> list[Captioned]:
    """COCO's format without annotations."""
    rows = read_json(path).rows("images")
    return _unique([Captioned(str(row.number("id")), pictures / row.text("file_name"), ()) for row in rows], path)


def _first_there(folder: Path, readers: dict[str, Callable[[Path], list[Captioned]]]) -> list[Captioned]:
    for name, reader in readers.items():
        if (folder / name).exists():
            return reader(folder / name)
    raise InputError(f"{folder} has no {' or '.join(readers)}: docs/benchmarks.md says what to download.")


def _karpathy(path: Path, split: str, pictures: Path) -> list[Captioned]:
    """`images` with filename, split, sentences of raw, and where there are several folders a filepath."""
    found = []
    for row in read_json(path).rows("images"):
        if row.text("split") != split:
            continue
        name = row.text("filename")
        image = pictures / (row.text("filepath") if "filepath" in row.value else "") / name
        texts = [sentence.text("raw") for sentence in row.rows("sentences")]
        found.append(_captioned(_number(name), image, texts, row.place))
    if not found:
        raise InputError(f"{path} has no picture of the split {split!r}.")
    return _unique(found, path)


def _blip(path: Path, pictures: Path) -> list[Captioned]:
    """A list with the path of each `image`; the captions lie beside it, in COCO's format under the name *_gt.json."""
    captions = _annotations(read_json(path.with_name(f"{path.stem}_gt.json")))
    found = []
    for row in read_json_list(path):
        name = row.text("image")
        key = _number(name)
        found.append(_captioned(key, pictures / name, captions.get(key, []), row.place))
    return _unique(found, path)


def _clip_benchmark(path: Path, pictures: Path) -> list[Captioned]:
    """A head, then lines of `name.jpg,caption`; captions have commas of their own."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).split("\n")[1:], 2):
        name, comma, caption = line.partition(".jpg,")
        if comma:
            captions.setdefault(name + ".jpg", []).append(caption)
        elif line.strip():
            raise InputError(f"{path}, line {number} is no picture and caption, as in 12.jpg,A man waves .")
    found = [_captioned(_number(name), pictures / name, texts, str(path)) for name, texts in captions.items()]
    return _unique(found, path)


def _textcaps(path: Path, pictures: Path, *, captioned: bool) -> list[Captioned]:
    """`data` with a row a caption: image_id, image_name, caption_str; of test a row a picture, without the last."""
    names: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    for row in read_json(path).rows("data"):
        key = row.text("image_id")
        names[key] = row.text("image_name")
        if captioned:
            captions.setdefault(key, []).append(row.text("caption_str"))
    if not captioned:
        return [Captioned(key, pictures / f"{name}.jpg", ()) for key, name in names.items()]
    return [_captioned(key, pictures / f"{names[key]}.jpg", texts, str(path)) for key, texts in captions.items()]


def _annotations(content: Row) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for row in content.rows("annotations"):
        captions.setdefault(str(row.number("image_id")), []).append(row.text("caption"))
    return captions


def _number(name: str) -> str:
    """COCO's and Flickr30k's id of a picture: the number at the end of its file's name."""
    stem = Path(name).stem
    digits = re.search(r"\d+$", stem)
    return str(int(digits[0])) if digits else stem


def _captioned(key: str, image: Path, captions: list[str], place: str) -> Captioned:
    texts = tuple(text for text in captions if text.strip())
    if not texts:
        raise InputError(f"{place}: the picture {image.name} has no caption.")
    return Captioned(key, image, texts)


def _unique(found: list[Captioned], path: Path) -> list[Captioned]:
    if not found:
        raise InputError(f"{path} has no picture: fetch it again.")
    keys = set()
    for one in found:
        if one.key in keys:
            raise InputError(f"{path} has the picture {one.key} twice.")
        keys.add(one.key)
    return found
