"""Pictures with captions in tar files, as img2dataset and webdataset write them: `00000.tar` holds `000000012.jpg`,
`000000012.txt` and `000000012.json`.

The headers of a shard are read once; what stays in memory is where each picture and caption lies, some 40 bytes a
record. Both are then read from where they lie, in any order, and nothing is unpacked. With a `cache` folder the
headers are read once for all runs. Only tar files that are not compressed can be read so.

A record is a picture with a caption: the first member of its key with a picture's extension, and `.txt`, or `caption`
in `.json` where there is none. What has only one of the two is left out and counted, and so is the end of a shard that
was cut short.
"""

import hashlib
import itertools
import json
import os
import re
import tarfile
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.records import Damage, Kind, Record, Source
from fwd2bot.errors import ImageError, InputError
from fwd2bot.images import EXTENSIONS, MAX_BYTES, decode

WINDOW = 4096  # records; 120 MB of pictures as CC3M's are
MAX_TEXT = 1 << 20  # bytes of a caption, or of what goes with it
_BLOCK = 512  # bytes; a tar file is made of these, and ends with empty ones
_FORMAT = 1  # of a cached index
_ENTRY = np.dtype(
    [
        ("image", "<i8"),  # offset in the shard, bytes
        ("image_size", "<i4"),
        ("text", "<i8"),
        ("text_size", "<i4"),
        ("length", "<i4"),  # of the caption, in characters
        ("json", "?"),  # the caption stands in a .json
    ]
)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # a key has no dot, as in webdataset


@dataclass(frozen=True, kw_only=True)
class _Index:
    """A shard's records: `entries` (N,) of _ENTRY, `keys` (N,) in UTF-8; `lost` holds (key, reason)."""

    entries: NDArray[Any]
    keys: NDArray[np.bytes_]
    lost: list[tuple[str, str]]


class Shards(Source):
    """The records of tar files: a list of them, a folder with them, or a pattern such as `cc3m/{00000..00331}.tar`.

    What was left out is in `damage`, which is the index's own: pictures that are broken show when they are read.
    `progress` is told (shards, of so many) while headers are read; `window` is how far `order` takes neighbours apart.

    Raises InputError where a shard is not there or no tar file, where there is no record in any, where the cache
    cannot be written, where the window is below 1, and where more was left out than `damage` allows (None: 1 % of 1000
    records or more).
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        *,
        name: str = "shards",
        cache: Path | str | None = None,
        damage: Damage | None = None,
        window: int = WINDOW,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if window < 1:
            raise InputError(f"The window is {window} records; it must be at least 1.")
        self.name, self.window = name, window
        self.paths = find_shards(paths)
        self.damage = Damage() if damage is None else damage
        self._indices: list[_Index] = []
        for number, path in enumerate(self.paths, 1):
            self._indices.append(_index(path, None if cache is None else Path(cache)))
            if progress is not None:
                progress(number, len(self.paths))
        self._starts = [0, *itertools.accumulate(len(index.entries) for index in self._indices)]
        self._names = _shard_names(self.paths)
        self._count_lost()
        if not len(self):
            raise InputError(
                f"There is no picture with a caption in {self.paths[0]}{' or the others' if self.paths[1:] else ''}: "
                "members must be named as 0001.jpg with 0001.txt or 0001.json are."
            )

    def _count_lost(self) -> None:
        lost = 0
        for name, index in zip(self._names, self._indices, strict=True):
            for key, reason in index.lost:
                self.damage.broken(self.name, f"{name}/{key}", reason)
            lost += len(index.lost)
        self.damage.seen(len(self) + lost)

    @property
    def left_out(self) -> int:
        """What their headers tell; a shard that is cut short counts as one."""
        return sum(len(index.lost) for index in self._indices)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        shard = bisect_right(self._starts, index) - 1
        path, place = self.paths[shard], index - self._starts[shard]
        entry = self._indices[shard].entries[place]
        key = f"{self._names[shard]}/{self._indices[shard].keys[place].decode()}"
        try:
            content = _read(path, int(entry["text"]), int(entry["text_size"]))
            caption = _caption(content, bool(entry["json"]))
        except OSError:
            caption = ""
        if not caption:
            raise InputError(
                f"{path} is no longer the file that it was when its headers were read: leave it as it is while it is "
                "read, and start again."
            )
        return Record(key=key, image=f"{path}@{entry['image']}+{entry['image_size']}", caption=caption)

    def picture(self, record: Record) -> Image.Image:
        assert record.image is not None, f"{record.key} has no picture"
        path, _, place = record.image.rpartition("@")
        start, size = map(int, place.split("+"))
        name = f"{path}, picture {record.key.rpartition('/')[2]},"
        try:
            content = _read(Path(path), start, size)
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror or error}.") from None
        if len(content) < size:
            raise ImageError(f"{name} is cut short: {len(content)} of {size} bytes are there.")
        return decode(content, name).image

    def text_lengths(self) -> NDArray[np.int32]:
        return np.concatenate([index.entries["length"] for index in self._indices]).astype(np.int32)

    def kinds(self) -> NDArray[np.uint8]:
        return np.full(len(self), int(Kind.IMAGE | Kind.CAPTION), np.uint8)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Shards in random order, and in it no record further than `window` from its place: a disk reads nearly on."""
        bits = np.random.Philox(np.random.SeedSequence([abs(seed), int(seed < 0), epoch]))  # same in every version
        shards = np.argsort(bits.random_raw(len(self.paths)), kind="stable")
        starts = self._starts
        row = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
        shifts = bits.random_raw(len(row)) % np.uint64(self.window)
        return row[np.argsort(np.arange(len(row)) + shifts.astype(np.int64), kind="stable")]


def find_shards(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """The tar files that a folder, a pattern, a path, or a list of these names, in order and each once.

    Raises InputError where one is not there, or a folder has none.
    """
    found: dict[Path, None] = {}
    for given in [paths] if isinstance(paths, Path | str) else paths:
        if os.path.isdir(given):  # noqa: PTH112 (is_dir() raises on some)
            inside = sorted(path for path in Path(given).glob("*.tar") if not path.name.startswith("."))
            if not inside:
                raise InputError(f"{given} has no .tar file in it: give the folder that img2dataset wrote.")
            found.update(dict.fromkeys(inside))
        else:
            found.update(dict.fromkeys(map(Path, _expand(str(given)))))
    if not found:
        raise InputError("No shard was given: name tar files, a folder, or a pattern such as cc3m/{00000..00331}.tar.")
    missing = [path for path in found if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more} cannot be found among {len(found)} shards: fetch it, or leave it out.")
    return list(found)


def _expand(pattern: str) -> list[str]:
    """a{08..10}.tar -> a08.tar, a09.tar, a10.tar"""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [
        f"{pattern[: braces.start()]}{number}{rest}" for number in numbers for rest in _expand(pattern[braces.end() :])
    ]


def _shard_names(paths: list[Path]) -> list[str]:
    """What stands before a key: the shard's name, or its path where names repeat."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(size)


def _caption(content: bytes, is_json: bool) -> str:
    """The caption in a member; empty where there is none."""
    if not is_json:
        return content.decode("utf-8", "replace").strip()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    caption = value.get("caption") if isinstance(value, dict) else None
    return caption.encode("utf-8", "replace").decode().strip() if isinstance(caption, str) else ""


def _index(path: Path, cache: Path | None) -> _Index:
    if cache is None:
        return _scan(path)
    status = path.stat()
    stamp = json.dumps([_FORMAT, str(path.resolve()), status.st_size, status.st_mtime_ns])
    file = cache / f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}.npz"
    found = _cached(file, stamp)
    if found is None:
        found = _scan(path)
        _keep(file, stamp, found)
    return found


def _cached(file: Path, stamp: str) -> _Index | None:
    """None where it is not there, of another state of the shard, or damaged: then the shard is read."""
    try:
        with file.open("rb") as content, np.load(content) as arrays:
            if str(arrays["stamp"]) != stamp:
                return None
            lost = [(str(key), str(reason)) for key, reason in arrays["lost"]]
            return _Index(entries=arrays["entries"], keys=arrays["keys"], lost=lost)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _keep(file: Path, stamp: str, index: _Index) -> None:
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    lost = np.array(index.lost, np.str_).reshape(-1, 2)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as out:
            np.savez(out, stamp=np.array(stamp), entries=index.entries, keys=index.keys, lost=lost)
        unfinished.replace(file)
    except OSError as error:
        raise InputError(
            f"{file.parent} cannot be written, to keep where records lie: {error.strerror or error}; choose another "
            "folder, or none."
        ) from None


def _scan(path: Path) -> _Index:
    """Reads the headers of a shard, and its captions."""
    try:
        with path.open("rb") as file:
            samples, whole = _samples(path, file)
            rows: list[tuple[str, tuple[int, ...]]] = []
            lost: list[tuple[str, str]] = []
            for key, members in samples.items():
                row, reason = _row(file, members)
                if reason:
                    lost.append((key, reason))
                else:
                    rows.append((key, row))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the path.") from None
    if not whole:
        lost.append(("(end)", f"the shard is cut short or damaged behind {len(rows)} records; fetch it again"))
    entries = np.array([row for _, row in rows], _ENTRY)
    keys = np.array([key.encode() for key, _ in rows], np.bytes_)
    return _Index(entries=entries, keys=keys, lost=lost)


Members = dict[str, tuple[int, int]]
"""Of one key: "image", "txt" and "json" -> (offset, bytes)."""


def _samples(path: Path, file: BinaryIO) -> tuple[dict[str, Members], bool]:
    """The members of each key, and whether the shard is whole: it has its end, and nothing else before that."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    samples: dict[str, Members] = {}
    end = 0
    try:
        shard = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closing it would not close the file)
    except tarfile.TarError as error:
        raise InputError(f"{path} is no tar file ({error}); fetch it again, or leave it out.") from None
    while True:
        try:
            member = shard.next()
        except (tarfile.TarError, ValueError):
            return samples, False
        if member is None:
            break
        end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK if member.isreg() else member.offset_data
        if member.offset_data + member.size > size:
            return samples, False
        named = _MEMBER.fullmatch(member.name)
        if named is not None and member.isreg() and not member.issparse():
            key = named[1].encode("utf-8", "backslashreplace").decode()
            kind = named[2].lower()
            kind = "image" if f".{kind}" in EXTENSIONS else kind
            if os.path.splitext(kind)[1] in EXTENSIONS:  # noqa: PTH122 (c.d.png is `d.png` of c, and no picture of it)
                samples.setdefault(key, {})
            if kind in ("image", "txt", "json"):
                samples.setdefault(key, {}).setdefault(kind, (member.offset_data, member.size))
    file.seek(end)
    return samples, file.read(_BLOCK) == bytes(_BLOCK)


def _row(file: BinaryIO, members: Members) -> tuple[tuple[int, ...], str]:
    """An _ENTRY, or why there is none."""
    if "image" not in members:
        return (), "has no picture"
    image, image_size = members["image"]
    if not 0 < image_size <= MAX_BYTES:
        return (), f"the picture has {image_size} bytes"
    for kind in ("txt", "json"):
        text, text_size = members.get(kind, (0, 0))
        if 0 < text_size <= MAX_TEXT:
            file.seek(text)
            caption = _caption(file.read(text_size), is_json=kind == "json")
            if caption:
                return (image, image_size, text, text_size, len(caption), kind == "json"), ""
    return (), "has no caption"
