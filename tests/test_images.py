"""Every kind of picture and of broken file."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fwd2bot.errors import ImageError, InputError
from fwd2bot.images import ENOUGH, MAX_PIXELS, MOST, content_hash, decode, find_images, longer_name, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large, and ends after its header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def half_red(mode: str = "RGB", size: tuple[int, int] = (8, 4)) -> Image.Image:
    """Red on the left, white on the right."""
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("P", "a.png"), ("P", "a.gif"), ("CMYK", "a.tif"), ("RGB", "a.webp"), ("YCbCr", "a.tif")],
)
def test_read_image_gives_rgb_of_the_same_colours_for_every_mode(tmp_path: Path, mode: str, name: str) -> None:
    half_red(mode).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    image = read_image(tmp_path / name)
    assert image.mode == "RGB"
    assert image.size == (8, 4)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(half_red(), dtype=int)).max() <= 2


def test_read_image_of_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    half_red("CMYK", (64, 32)).save(tmp_path / "a.jpg", quality=95)
    pixels = np.asarray(read_image(tmp_path / "a.jpg"), dtype=int)
    assert np.abs(pixels[16, 4] - RED).max() < 20
    assert np.abs(pixels[16, 60] - WHITE).max() < 20


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image_puts_transparency_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 2))
    image.convert(mode).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == [[0, 0, 0]] * 2 + [[255, 255, 255]] * 2


def test_read_image_puts_a_transparent_palette_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(read_image(tmp_path / "a.png"))[0].tolist() == [[255, 255, 255], [255, 0, 0]]


@pytest.mark.parametrize(("kind", "top"), [(np.uint16, 65535), (np.float32, 1.0), (np.int32, 65535)])
def test_read_image_scales_deep_grey_and_does_not_clip(tmp_path: Path, kind: type, top: float) -> None:
    values = (np.linspace(0, 1, 5)[None] * top).astype(kind)
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = np.asarray(read_image(tmp_path / "a.tif"), dtype=int)
    assert np.abs(pixels[0, :, 0] - [0, 64, 128, 191, 255]).max() <= 1


def test_read_image_turns_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    half_red(size=(64, 32)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.size == (32, 64)
    assert np.abs(np.asarray(image, dtype=int)[4, 16] - RED).max() < 20  # what was left is on top
    picture = decode((tmp_path / "a.jpg").read_bytes(), "a.jpg")
    assert (picture.width, picture.height) == (32, 64)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (1538, 1537)), (3, (1538, 1537)), (8, (1537, 1538))])
def test_sides_of_a_picture_that_is_nearly_square_are_told_as_they_are(
    tmp_path: Path, name: str, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (1538, 1537)).save(tmp_path / name, exif=exif)
    picture = decode((tmp_path / name).read_bytes(), name)
    assert (picture.width, picture.height) == size
    assert picture.image.width == picture.image.height  # shrunk, they are alike


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_read_image_reads_on_when_the_exif_is_damaged(tmp_path: Path) -> None:
    half_red().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert read_image(tmp_path / "a.jpg").size == (8, 4)


def test_read_image_takes_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.tif", "b.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, green, blue = read_image(tmp_path / name).getpixel((1, 1))
        assert red > 240
        assert max(green, blue) < 15


def test_read_image_of_one_pixel(tmp_path: Path) -> None:
    Image.new("1", (1, 1), 1).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").size == (1, 1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_read_image_shrinks_a_large_picture_by_a_whole_factor(tmp_path: Path, name: str) -> None:
    half_red(size=(4 * ENOUGH, 3 * ENOUGH)).save(tmp_path / name)
    picture = decode((tmp_path / name).read_bytes(), name)
    assert min(picture.image.size) >= ENOUGH
    assert max(picture.image.size) <= 2 * ENOUGH
    assert (picture.width, picture.height) == (4 * ENOUGH, 3 * ENOUGH)
    assert abs(picture.image.width / picture.image.height - 4 / 3) < 0.01


@pytest.mark.parametrize(("size", "kept"), [((70_000, 700), (23_334, 234)), ((1535, 6139), (1535, 6139))])
def test_a_long_picture_is_kept_small(size: tuple[int, int], kept: tuple[int, int]) -> None:
    """A file of 8 KB would take 150 MB; none that is no longer than 4:1 is shrunk for it."""
    buffer = BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    picture = decode(buffer.getvalue(), "long.png")
    assert (picture.width, picture.height) == size
    assert picture.image.size == kept
    assert kept[0] * kept[1] <= MOST


def test_decode_hashes_the_bytes_of_the_file() -> None:
    buffer = BytesIO()
    half_red().save(buffer, "PNG")
    picture = decode(buffer.getvalue(), "a")
    assert picture.hash == content_hash(buffer.getvalue())
    assert picture.file_bytes == len(buffer.getvalue())


def broken(folder: Path) -> dict[str, Path]:
    half_red(size=(200, 200)).save(folder / "whole.png")
    half_red(size=(200, 200)).save(folder / "whole.jpg")
    content = {
        "truncated.png": (folder / "whole.png").read_bytes()[:150],
        "truncated.jpg": (folder / "whole.jpg").read_bytes()[:700],
        "empty.png": b"",
        "text.png": b"this is no picture\n" * 20,
        "bomb.png": png_header(20_000, 20_000),
        "larger.png": png_header(MAX_PIXELS // 10_000 + 1, 10_000),
        "header.png": png_header(100, 100),
        "narrow.png": png_header(3, 301),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, part in content.items():
        (folder / name).write_bytes(part)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    return {name: folder / name for name in [*content, "pipe.png", "folder.png", "missing.png"]}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("truncated.png", "damaged or cut short"),
        ("truncated.jpg", "damaged or cut short"),
        ("empty.png", "empty"),
        ("text.png", "not a picture"),
        ("bomb.png", "too large"),
        ("larger.png", "too large"),
        ("narrow.png", "too narrow"),
        ("header.png", "damaged or cut short"),
        ("postscript.png", "not a picture"),
        ("pipe.png", "not a file"),
        ("folder.png", "is a folder"),
        ("missing.png", "not there"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_read_image_says_what_is_wrong_in_one_sentence(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        read_image(broken(tmp_path)[name])
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_image_says_when_permission_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    half_red().save(tmp_path / "a.png")
    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read what it likes
    with pytest.raises(ImageError, match="permission denied"):
        read_image(tmp_path / "a.png")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_find_images_names_by_the_path_below_the_folder_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "p/b.JPG", "p/a/c.png", "p/a/notes.txt", "p/.hidden.png", "p/.git/x.png", "p/a/d.jpeg")
    found = find_images([tmp_path / "p"])
    assert [name for name, _ in found] == ["a/c.png", "a/d.jpeg", "b.JPG"]
    assert found[0][1] == str(tmp_path / "p/a/c.png")


def test_find_images_takes_a_file_that_is_given_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "photo.dat")
    assert find_images([tmp_path / "photo.dat", tmp_path / "missing.png"]) == [
        ("missing.png", str(tmp_path / "missing.png")),
        ("photo.dat", str(tmp_path / "photo.dat")),
    ]


def test_find_images_takes_a_file_once_when_it_is_given_twice(tmp_path: Path) -> None:
    touch(tmp_path, "p/a/1.png")
    assert [name for name, _ in find_images([tmp_path / "p", tmp_path / "p/a"])] == ["a/1.png"]


def test_find_images_puts_folders_before_names_that_clash(tmp_path: Path) -> None:
    touch(tmp_path, "x/summer/1.png", "x/winter/1.png", "x/winter/2.png", "y/winter/1.png")
    folders = [tmp_path / "x/summer", tmp_path / "x/winter", tmp_path / "y/winter"]
    assert [name for name, _ in find_images(folders)] == ["2.png", "summer/1.png", "x/winter/1.png", "y/winter/1.png"]


def test_find_images_of_an_empty_folder_is_empty(tmp_path: Path) -> None:
    assert find_images([tmp_path]) == []


def test_find_images_refuses_an_empty_path() -> None:
    with pytest.raises(InputError, match="empty path"):
        find_images([""])


def test_find_images_survives_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")).touch()
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    [(name, path)] = find_images([tmp_path])
    assert name.encode() == b"a\\xff.png"
    assert Path(path).exists()


def test_find_images_lists_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root may read every folder")
    touch(tmp_path, "p/closed/1.png", "p/2.png")
    (tmp_path / "p/closed").chmod(0)
    found = dict(find_images([tmp_path / "p"]))
    assert list(found) == ["2.png", "closed"]
    with pytest.raises(ImageError, match="permission denied"):
        read_image(found["closed"])
    (tmp_path / "p/closed").chmod(0o700)


def test_longer_name_stops_at_the_root() -> None:
    assert longer_name("1.png", "/a/b/1.png") == "b/1.png"
    assert longer_name("a/b/1.png", "/a/b/1.png") == "a/b/1.png"
