"""LLaVA's training files: `llava_v1_5_mix665k.json`, CC3M-595K's `chat.json`, LCS-558K's `blip_laion_cc_sbu_558k.json`.

    [{"id": ..., "image": "coco/train2017/000000033471.jpg", "conversations": [{"from": "human", "value": ...}, ...]}]

The file is read once in full, a piece at a time, and every entry checked; what stays in memory is where each one lies,
29 bytes. A record is then read from the file as it is asked for, and the pages of the file are the system's to
keep, once for all processes.

What these files have that a reader must know, and the rule taken here:
- an entry without `image` is text alone; its words are left as they are;
- `<image>` stands before or after a question, and is taken out of every question and answer about a picture;
- a conversation may begin with the model, or end with a question: the first turn is left out until a person speaks,
  as in LLaVA, and so is a last question without an answer;
- an entry of which nothing is left is left out, and counted in `left_out`;
- ids repeat and may be numbers: a record's key is its id and its place in the file, "33471#12" (the first is #0);
- a picture on disk may have another extension than the file says (OCR-VQA): the others are looked for.
"""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.records import Kind, Record, Source
from fwd2bot.errors import ImageError, InputError
from fwd2bot.images import read_image

PLACEHOLDER = "<image>"
OTHER_EXTENSIONS = (".jpg", ".png", ".gif", ".jpeg", ".webp", ".JPG", ".PNG", ".GIF", ".JPEG")
PIECE = 4 << 20  # bytes read at once
LONGEST = 32 << 20  # bytes of an entry; what has no end by then has none
_BLANK = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()
_LAYOUT = "the layout is that of llava_v1_5_mix665k.json"


class LlavaJson(Source):
    """The records of a file of LLaVA's, with its pictures below the folder `images`.

    `pairs`: every entry is a picture with a caption, which is its first answer, and there are no turns; so CC3M-595K
    and LCS-558K are meant. One without a picture or a caption is left out. `seed` says which caption is taken where
    `attach_captions` finds several.

    Raises InputError where the file is not there, or not of this layout: the entry, the field and the remedy.
    """

    def __init__(
        self,
        path: Path | str,
        images: Path | str,
        *,
        name: str | None = None,
        pairs: bool = False,
        seed: int = 0,
    ) -> None:
        self.path, self.images = Path(path), Path(images)
        self.name = self.path.stem if name is None else name
        self.pairs = pairs
        self.seed = seed
        self.left_out = 0
        self._captions: dict[str, str] = {}  # file name -> captions, one a line
        self._read()

    def _read(self) -> None:
        numbers, starts, sizes, lengths = array("i"), array("q"), array("i"), array("i")
        kinds, names = bytearray(), array("Q")
        for number, (start, size, entry) in enumerate(_entries(self.path)):
            record = self._record(number, entry)
            if not (record.paired if self.pairs else record.turns):
                self.left_out += 1
                continue
            numbers.append(number)
            starts.append(start)
            sizes.append(size)
            words = [record.caption or ""] if self.pairs else [part for turn in record.turns for part in turn]
            lengths.append(sum(map(len, words)))
            kinds.append(_kind(record))
            names.append(0 if record.image is None else _number(_file_name(record.image)))
        if not kinds:
            raise InputError(f"{self.path} has no conversation with an answer in it: {_LAYOUT}.")
        self._numbers, self._starts = np.array(numbers, np.int32), np.array(starts, np.int64)
        self._sizes, self._lengths = np.array(sizes, np.int32), np.array(lengths, np.int32)
        self._kinds, self._names = np.array(kinds, np.uint8), np.array(names, np.uint64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Record:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(int(self._starts[index]))
                entry = json.loads(file.read(int(self._sizes[index])))
        except (OSError, ValueError, RecursionError):
            raise InputError(
                f"{self.path} is no longer the file that it was when it was opened: leave it as it is while it is "
                "read, and start again."
            ) from None
        return self._record(int(self._numbers[index]), entry)

    def picture(self, record: Record) -> Image.Image:
        assert record.image is not None, f"{record.key} has no picture"
        path = self.images / record.image
        try:
            return read_image(path)
        except ImageError:
            other = _with_another_extension(path)
            if other is None:
                raise
            return read_image(other)

    def text_lengths(self) -> NDArray[np.int32]:
        return self._lengths

    def kinds(self) -> NDArray[np.uint8]:
        return self._kinds

    def pictures(self) -> NDArray[np.uint64]:
        """By file name: a picture has several records."""
        return self._names

    def attach_captions(self, path: Path | str, held_out: Path | str | None = None) -> int:
        """Give records captions of COCO's `captions_*.json`, by the file name of their picture; gives how many have.

        Of several captions a record takes one, always the same for its place in the file and the seed: the records
        about one picture mostly take different ones. Several files can be attached one after the other.

        held_out: Karpathy's `dataset_coco.json`; pictures of its splits val and test get none (train2017 has most of
        them).

        Raises InputError where a file is not there or not of its layout, or has captions for no picture here.
        """
        found = _coco_captions(Path(path), frozenset() if held_out is None else _held_out(Path(held_out)))
        mine = np.isin(self._names, np.array([_number(name) for name in found], np.uint64))
        mine &= (self._kinds & Kind.IMAGE) > 0
        if not mine.any():
            theirs = next(iter(found), "none")
            raise InputError(
                f"{path} has captions for no picture of {self.path} (they are matched by file name; it has {theirs}, "
                "for one): attach the captions of the split that the pictures are of, such as train2017."
            )
        self._captions.update(found)
        self._kinds[mine] |= np.uint8(Kind.CAPTION)
        return int(((self._kinds & Kind.CAPTION) > 0).sum())

    def _record(self, number: int, entry: Any) -> Record:
        """Raises InputError for an entry that is not of the layout."""
        image = _image(self.path, number, entry)
        turns = _turns(self.path, number, entry, has_image=image is not None)
        caption = None
        if self.pairs:
            caption, turns = (turns[0][1].strip() or None if turns else None), ()
        if image is not None and _file_name(image) in self._captions:
            choices = self._captions[_file_name(image)].split("\n")
            caption = choices[_number(f"{self.seed} {number}") % len(choices)]
        own = entry.get("id")
        key = f"#{number}" if own is None else f"{own}#{number}"
        return Record(key=key, image=image, turns=turns, caption=caption)


def _kind(record: Record) -> Kind:
    return (
        (Kind.IMAGE if record.image is not None else Kind(0))
        | (Kind.TURNS if record.turns else Kind(0))
        | (Kind.CAPTION if record.caption is not None else Kind(0))
    )


def _image(path: Path, number: int, entry: Any) -> str | None:
    if not isinstance(entry, dict):
        raise _wrong(path, number, "", f"it is {_short(entry)}, not an object")
    image = entry.get("image")
    if image is not None and (not isinstance(image, str) or not image.strip()):
        raise _wrong(path, number, "image", f"it is {_short(image)}; give one path below the folder of images")
    return image


def _turns(path: Path, number: int, entry: dict[str, Any], has_image: bool) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs, from the first that a person says to the last that is answered."""
    said = entry.get("conversations")
    if not isinstance(said, list):
        raise _wrong(path, number, "conversations", f"it is {_short(said)}, not a list of turns")
    texts: list[str] = []
    for place, turn in enumerate(said):
        field = f"conversations[{place}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise _wrong(path, number, field, f"it is {_short(turn)}; a turn has 'from' and 'value', a text")
        speaker = turn.get("from")
        if speaker not in ("human", "gpt"):
            raise _wrong(path, number, f"{field}.from", f"it is {_short(speaker)}, not 'human' or 'gpt'")
        if not texts and speaker == "gpt":
            continue
        if (speaker == "human") != (len(texts) % 2 == 0):
            raise _wrong(path, number, f"{field}.from", f"{speaker!r} speaks twice; the two take turns")
        texts.append(_words(turn["value"], has_image))
    return tuple(zip(texts[::2], texts[1::2], strict=False))


def _words(text: str, has_image: bool) -> str:
    """A turn's text without the placeholder; half of a surrogate pair, which no tokenizer reads, is U+FFFD."""
    if has_image and PLACEHOLDER in text:
        text = text.replace(PLACEHOLDER, "").strip()
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with_another_extension(path: Path) -> Path | None:
    """The same picture under another extension, where there is nothing under this one."""
    if os.path.lexists(path):
        return None
    others = (path.parent / (path.stem + extension) for extension in OTHER_EXTENSIONS)
    return next((other for other in others if os.path.isfile(other)), None)  # noqa: PTH113 (is_file() raises on some)


def _held_out(path: Path) -> frozenset[int]:
    """COCO's numbers of the pictures that Karpathy's split keeps for figures."""
    try:
        return frozenset(int(one["cocoid"]) for one in _load(path)["images"] if one["split"] in ("val", "test"))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} has no images with cocoid and split: it must be Karpathy's dataset_coco.json."
        ) from None


def _coco_captions(path: Path, held_out: Container[int]) -> dict[str, str]:
    """File name -> its captions, one a line."""
    content = _load(path)
    layout = "the layout is that of COCO's captions_train2017.json"
    try:
        names = {image["id"]: _file_name(image["file_name"]) for image in content["images"]}
        captions: dict[str, list[str]] = {}
        for row in content["annotations"]:
            text = " ".join(_words(row["caption"], has_image=False).split())
            if text and row["image_id"] not in held_out:
                captions.setdefault(names[row["image_id"]], []).append(text)
    except KeyError as error:
        raise InputError(f"{path} has no {error} where one is needed: {layout}.") from None
    except (TypeError, AttributeError):
        raise InputError(f"{path} has no images with a file name and annotations with a caption: {layout}.") from None
    return {name: "\n".join(texts) for name, texts in captions.items()}


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole JSON ({error}): fetch it again.") from None


def _file_name(image: str) -> str:
    return image.rpartition("/")[2]


def _number(text: str) -> int:
    """64 bits that hang on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class _Text:
    """A file as text, a piece at a time. A character is a byte (Latin-1; JSON's own signs are ASCII), so the place of
    a character is its offset in the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.text, self.at = "", 0
        self.start = 0  # of `text` in the file

    def sign(self) -> str:
        """The next character that is not blank, which is not taken; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            assert blank is not None, "the pattern matches nothing, too"
            self.at = blank.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[int, int, Any] | None:
        """(offset, bytes, value) of what begins here, which is taken; None where it has no end."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                break
            except (ValueError, RecursionError):
                if len(self.text) - self.at > LONGEST or not self.more():
                    return None
        raw = self.text[self.at : end]
        start, self.at = self.start + self.at, end
        return start, len(raw), value if raw.isascii() else json.loads(raw.encode("latin-1"))

    def more(self) -> bool:
        piece = self.file.read(PIECE)
        self.start, self.text, self.at = self.start + self.at, self.text[self.at :] + piece.decode("latin-1"), 0
        return bool(piece)


def _entries(path: Path) -> Iterator[tuple[int, int, Any]]:
    """(offset, bytes, entry) of each entry of a list in a JSON file. Raises InputError where it is not one."""
    number = 0
    try:
        with path.open("rb") as file:
            text = _Text(file)
            if file.read(len(_BOM)) == _BOM:
                text.start = len(_BOM)
            else:
                file.seek(0)
            if text.sign() != "[":
                raise InputError(f"{path} is not a list in JSON (it begins with {text.sign()!r}): {_LAYOUT}.")
            text.at += 1
            if text.sign() == "]":
                return
            while True:
                yield _entry(path, number, text)
                number += 1
                sign = text.sign()
                text.at += 1
                if sign == "]":
                    break
                if sign != ",":
                    what = "the file ends there" if not sign else f"{sign!r} follows"
                    raise _wrong(path, number - 1, "", f"{what}, where a comma or the end of the list must stand")
            if text.sign():
                raise InputError(f"{path} goes on behind the end of its list: fetch it again.")
    except OSError as error:
        raise _unreadable(path, error) from None


def _entry(path: Path, number: int, text: _Text) -> tuple[int, int, Any]:
    if text.sign() != "{":
        raise _wrong(path, number, "", f"it begins with {text.sign()!r}, not as an object does")
    try:
        found = text.value()
    except ValueError:
        raise _wrong(path, number, "", "it is not UTF-8") from None
    if found is None:
        raise _wrong(path, number, "", "it is not whole JSON")
    return found


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror or error}; check the path.")


def _wrong(path: Path, number: int, field: str, problem: str) -> InputError:
    place = f"entry {number} (the first is 0)" + (f", field {field}" if field else "")
    return InputError(f"{path}, {place}: {problem}; {_LAYOUT}. Mend the entry, or fetch the file again.")


def _short(value: Any) -> str:
    if value is None:
        return "not there"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
