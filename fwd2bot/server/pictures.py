"""Pictures from outside the store: sent as data URLs, or files below the folders that the server may show.

Nothing is ever fetched.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from fwd2bot.errors import ImageError
from fwd2bot.images import Picture, decode, read_bytes
from fwd2bot.server.replies import RequestError

THUMBNAIL = (16, 1536)
"""The least and the most pixels of a side that may be asked for."""


class Folders:
    """The folders whose files may be shown and read, and nothing that only a link in them leads to."""

    def __init__(self, folders: Sequence[str | Path]) -> None:
        """Raises ImageError where one is not there."""
        self.folders = [Path(folder).resolve() for folder in folders]
        for given, folder in zip(folders, self.folders, strict=True):
            if not folder.is_dir():
                raise ImageError(f"{given} is no folder, so no pictures can be shown from it.")

    def find(self, path: str | Path) -> Path | None:
        """The file, its links followed, where it lies below one of the folders; a relative path begins in one."""
        for folder in self.folders:
            try:
                real = (folder / path).resolve(strict=True)
                if real.is_file() and any(real.is_relative_to(one) for one in self.folders):
                    return real
            except (OSError, ValueError, RuntimeError):  # not there; a null byte; a circle of links
                continue
        return None


def picture_of(url: str, folders: Folders, max_pixels: int) -> Picture:
    """The picture of a data URL, a file:// URL, or a path below the folders.

    Raises RequestError where it is of another kind or not there, ImageError where it is no picture.
    """
    scheme = url[:20].partition(":")[0].lower() if ":" in url[:20] else ""
    if scheme == "data":
        return decode(_data(url), "The picture", max_pixels)
    if scheme in ("http", "https"):
        raise RequestError(400, "This server fetches nothing from the net: send the picture as a data URL.")
    if scheme not in ("", "file"):
        raise RequestError(400, f"{url[:80]!r} cannot be read: give a fwd2bot://, data: or file:// URL.")
    path = _path(url) if scheme == "file" else url
    found = folders.find(path) if path else None
    if found is None:
        raise RequestError(404, f"There is no picture {path[:200]!r} below the folders that this server may read.")
    return decode(content_of(found, path), path, max_pixels)


def content_of(path: Path, name: str) -> bytes:
    """Of a file that the asker knows by a name. Raises ImageError, which says nothing of where it lies."""
    try:
        return read_bytes(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from None


def thumbnail(picture: Picture, size: int) -> bytes:
    """A JPEG no larger than so many pixels a side."""
    image = picture.image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _path(url: str) -> str:
    """Of a file:// URL of this machine; else nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half of an address in brackets
        return ""
    return unquote(parts.path) if parts.netloc in ("", "localhost") else ""


def _data(url: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise RequestError(400, "A data URL of a picture looks like data:image/png;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "The data URL is not base64: encode the picture's file anew.") from None
