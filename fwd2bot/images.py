"""Files and folders to RGB pictures. Every kind of broken file becomes an ImageError of one sentence."""

import hashlib
import math
import os
import stat
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fwd2bot.errors import ImageError, InputError

# fmt: off
EXTENSIONS = frozenset({
    ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
    ".heic", ".heif",  # not read, and so listed as such: a telephone's pictures must not be missed in silence
})
# Only decoders of plain pictures: Pillow's others read documents, or start programs (EPS starts Ghostscript).
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "TGA",
)
# fmt: on
MAX_PIXELS = 120_000_000  # a 108-megapixel telephone passes, a decompression bomb does not
MAX_BYTES = 1 << 30
MAX_RATIO = 100  # of the sides: models scale the shorter side up, and the longer one with it
# No model here looks at more than this many pixels a side, so larger pictures are shrunk by a whole factor as they
# are read: a folder of 12-megapixel photographs then needs a quarter of the memory and half of the time.
ENOUGH = 768
MOST = 16 * ENOUGH**2
"""Pixels of a picture that is kept: 28 MB. Of one longer than 4:1 the shorter side may then have less than ENOUGH; such
pictures are shown to a model whole, with all of their length in its input."""
_LARGE = 24_000_000
_one_large_at_a_time = threading.Semaphore(1)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file that was read: the picture in RGB, the content hash of the bytes, and the sizes of the original."""

    image: Image.Image
    hash: str
    file_bytes: int
    width: int
    height: int


def read_image(path: str | Path) -> Image.Image:
    """The picture in a file, as RGB: turned as its EXIF says, on white where transparent, the first frame of many.

    A picture of more than twice ENOUGH pixels on its shorter side is shrunk by a whole factor, to at least ENOUGH, and
    one of more than MOST pixels to no more.

    Raises ImageError where the file is not there, may not be read, or is not a whole picture of a known kind.
    """
    return decode(read_bytes(path), str(path)).image


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file. Raises ImageError where it is not there, not a file, may not be read, or is empty."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)
            raise ImageError(f"{path} is a folder, not a picture.")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would wait for ever
            raise ImageError(f"{path} is not a file (a pipe, a socket or a device).")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{path} is larger than {MAX_BYTES >> 30} GiB: no picture that can be read.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} is not there: check the path.") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read: permission denied.") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path} cannot be read: {_reason(error)}.") from None
    if not content:
        raise ImageError(f"{path} is empty (0 bytes).")
    return content


def content_hash(content: bytes) -> str:
    """The key of a picture: SHA-256 over the bytes of its file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture from the bytes of its file; `name` stands in the errors.

    Raises ImageError where the bytes are not a whole picture of a known kind, or a far too large one.
    """
    try:
        with Image.open(BytesIO(content), formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(_too_large(name, f"{width} x {height}", max_pixels))
            if max(width, height) > MAX_RATIO * min(width, height):
                sides = f"{width} x {height}, and one side may be {MAX_RATIO} times the other"
                raise ImageError(f"{name} is too narrow ({sides}): cut it into pieces first.")
            image.draft("RGB", (min(width, 2 * ENOUGH), min(height, 2 * ENOUGH)))  # JPEG alone heeds it
            with _one_large_at_a_time if image.width * image.height > _LARGE else nullcontext():
                picture, turned = _small_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture of a kind that can be read (PNG, JPEG, WebP ...).") from None
    except Image.DecompressionBombError:
        raise ImageError(_too_large(name, "huge", max_pixels)) from None
    except MemoryError:
        raise ImageError(f"{name} is too large for the memory of this machine.") from None
    except Exception as error:  # decoders of damaged files raise nearly everything: OSError, SyntaxError, struct.error
        raise ImageError(f"{name} is damaged or cut short: {_reason(error)}.") from None
    if turned:
        width, height = height, width
    return Picture(image=picture, hash=content_hash(content), file_bytes=len(content), width=width, height=height)


def find_images(paths: Iterable[str | Path]) -> list[tuple[str, str]]:
    """Every picture that the paths name, as (name, absolute path), sorted by name: 300 bytes of memory a picture.

    A folder is searched to its depths for files with a picture's extension, hidden ones left out; a picture in it is
    named by its path below the folder. A file that is given itself is always taken, whatever it is called, and
    named by its last part. Where two pictures would get one name, the folders that they lie in are put before it,
    as many as are needed. A path that is not there, or a folder that may not be read, stays in the list: reading it
    says what is wrong.

    Raises InputError where a path is empty (that would mean the current folder).
    """
    found: dict[str, str] = {}
    for given in map(_given, paths):
        for path in _walk(given) if os.path.isdir(given) else [given]:  # noqa: PTH112 (is_dir() raises on some)
            below = path.removeprefix(given).lstrip(os.sep) or Path(_absolute(given)).name
            found.setdefault(_absolute(path), below.replace(os.sep, "/"))
    return sorted((_printable(name), path) for path, name in _without_clashes(found).items())


def longer_name(name: str, path: str | Path) -> str:
    """The name with one more of the folders that the file lies in: 1.png -> summer/1.png."""
    parts = Path(path).parts
    wanted = len(Path(name).parts) + 1
    return _printable(Path(*parts[-wanted:]).as_posix().lstrip("/"))


def _given(path: str | Path) -> str:
    if not str(path).strip():
        raise InputError("An empty path was given: name a file or a folder ('.' for the current one).")
    return str(Path(path))


def _walk(folder: str) -> Iterator[str]:
    """Files with a picture's extension below a folder, and the folders that may not be read."""
    refused: list[str] = []
    for root, folders, files in os.walk(folder, onerror=lambda error: refused.append(str(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:  # noqa: PTH122 (a million)
                yield os.path.join(root, name)  # noqa: PTH118
    yield from refused


def _without_clashes(found: dict[str, str]) -> dict[str, str]:
    while True:
        times = Counter(found.values())
        longer = {path: longer_name(name, path) if times[name] > 1 else name for path, name in found.items()}
        if longer == found:
            return found
        found = longer


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (resolve() would follow links, and names are what was given)


def _printable(name: str) -> str:
    """A name that any store and terminal can hold: composed letters, and no byte that is not UTF-8."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _small_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """And whether it was lying on its side."""
    image.load()
    upright, turned = _upright(image)
    picture = _rgb(upright)
    factor = max(min(picture.size) // ENOUGH, math.ceil(math.sqrt(picture.width * picture.height / MOST)))
    return picture.reduce(factor) if factor > 1 else picture, turned


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture that was opened elsewhere as one that is read here: turned as its EXIF says, on white, RGB."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # as in `_upright`
        turned = False
    return _rgb(_upright(image)[0] if turned else image)


def opened(picture: Any) -> Image.Image:
    """A picture that was opened elsewhere, or a path, as `read_image` gives it.

    Raises ImageError where it cannot be read, InputError for what is neither.
    """
    if isinstance(picture, str | Path):
        return read_image(picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"A picture is a PIL image or a path here, not {type(picture).__name__}; see Image.fromarray.")
    try:
        picture.load()
    except Exception as error:  # Pillow's readers raise of all kinds for a damaged file
        raise ImageError(f"A picture that was opened cannot be read: {_reason(error)}") from error
    return upright_rgb(picture)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(image), orientation in range(5, 9)
    except Exception:  # a damaged EXIF block spoils nothing but the rotation
        return image.copy(), False


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow to RGB: transparency on white, and more than 8 bits a channel scaled, not clipped."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        whole = image.convert("RGBA")
        white = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(white, whole).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating grey to RGB. Floats are taken from 0 to 1, or to 255 where they exceed 1."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode == "F":
        top = 1.0 if values.max(initial=0) <= 1 else 255.0
    else:
        top = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
    grey = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _too_large(name: str, size: str, max_pixels: int) -> str:
    limit = max_pixels // 1_000_000
    return f"{name} is too large ({size}; at most {limit} million pixels): make it smaller first."


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:100] or type(error).__name__
