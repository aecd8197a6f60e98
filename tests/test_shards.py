"""Tar shards of pictures with captions: layouts, order, cache, and every way in which they can be broken."""

import json
import os
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fwd2bot.data import shards as module
from fwd2bot.data.records import Damage, Record
from fwd2bot.data.shards import Shards, find_shards
from fwd2bot.errors import ImageError, InputError

Member = tuple[str, bytes]


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (3, 2), (shade, 0, 255 - shade)).save(file, "PNG")
    return file.getvalue()


def sample(number: int, caption: str = "", **fields: Any) -> list[Member]:
    """The three members that img2dataset writes of a picture; its shade is the number."""
    caption = caption or f"picture {number}"
    row = json.dumps({"url": "http://x", "caption": caption, "key": f"{number:09}", **fields}).encode()
    return [(f"{number:09}.jpg", png(number % 256)), (f"{number:09}.json", row), (f"{number:09}.txt", caption.encode())]


def shard(path: Path, *members: Member, how: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=how) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def many(folder: Path, shards: int, each: int) -> Path:
    for number in range(shards):
        members = [member for n in range(each) for member in sample(number * each + n)]
        shard(folder / f"{number:05}.tar", *members)
    return folder


def shade(source: Shards, index: int) -> int:
    pixel = source.picture(source[index]).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def test_records_have_caption_and_picture(tmp_path: Path) -> None:
    source = Shards(many(tmp_path, shards=3, each=4), name="cc3m")
    assert len(source) == 12
    for number in range(12):
        record = source[number]
        assert (record.key, record.caption) == (f"0000{number // 4}/{number:09}", f"picture {number}")
        assert (record.turns, record.paired) == ((), True)
        assert shade(source, number) == number
    assert source.damage.listed() == []


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", *sample(1, "a fox"), *sample(2, "Élodie's 🦊"), *sample(3, " x \n"))
    source = Shards(path)
    assert [source[n].caption for n in range(3)] == ["a fox", "Élodie's 🦊", "x"]
    assert source.text_lengths().tolist() == [5, 10, 1]
    assert source.text_lengths().dtype == np.int32
    assert source.kinds().tolist() == [5, 5, 5]


def test_index_counts_from_both_ends_and_no_further(tmp_path: Path) -> None:
    source = Shards(many(tmp_path, shards=2, each=2))
    assert source[-1] == source[3]
    with pytest.raises(IndexError):
        source[4]
    with pytest.raises(IndexError):
        source[-5]


@pytest.mark.parametrize("how", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_any_tar_format_are_found(tmp_path: Path, how: int) -> None:
    folder = "é" * 60 + "/" + "long" * 30
    members = [(f"{folder}/{name}", content) for name, content in sample(7)]
    source = Shards(shard(tmp_path / "0.tar", *members, how=how)) if how != tarfile.USTAR_FORMAT else None
    if source is None:  # USTAR has no room for such names
        source = Shards(shard(tmp_path / "0.tar", *((f"a/{name}", content) for name, content in sample(7)), how=how))
    assert source[0].key.endswith("/000000007")
    assert shade(source, 0) == 7


def test_members_of_a_key_may_stand_apart_and_in_any_order(tmp_path: Path) -> None:
    one, two = sample(1), sample(2)
    source = Shards(shard(tmp_path / "0.tar", one[2], two[1], two[0], one[0], two[2], one[1], ("readme", b"hello")))
    assert [source[n].caption for n in range(2)] == ["picture 1", "picture 2"]
    assert [shade(source, n) for n in range(2)] == [1, 2]


@pytest.mark.parametrize("text", [None, b"", b" \n"])
def test_caption_of_the_json_stands_in_for_the_text(tmp_path: Path, text: bytes | None) -> None:
    picture, row, _ = sample(4, "from json")
    members = [picture, row] if text is None else [picture, row, ("000000004.txt", text)]
    source = Shards(shard(tmp_path / "0.tar", *members))
    assert source[0].caption == "from json"
    assert source.text_lengths().tolist() == [9]


@pytest.mark.parametrize("extension", ["PNG", "webp", "jpeg"])
def test_picture_may_have_any_extension(tmp_path: Path, extension: str) -> None:
    (_, content), *texts = sample(9)
    source = Shards(shard(tmp_path / "0.tar", (f"000000009.{extension}", content), *texts))
    assert shade(source, 0) == 9


def test_caption_that_is_not_utf8_is_read_with_a_mark(tmp_path: Path) -> None:
    source = Shards(shard(tmp_path / "0.tar", sample(1)[0], ("000000001.txt", b"caf\xe9")))
    assert source[0].caption == "caf\ufffd"


def test_key_that_is_not_utf8_is_spelt_out(tmp_path: Path) -> None:
    members = [(name.replace("000000001", "\udce9"), content) for name, content in sample(1)]
    assert Shards(shard(tmp_path / "0.tar", *members))[0].key == "0/\\udce9"


def test_keys_have_the_path_where_shards_share_a_name(tmp_path: Path) -> None:
    paths = [shard(tmp_path / folder / "0.tar", *sample(1)) for folder in ("a", "b")]
    source = Shards(paths)
    assert [source[n].key for n in range(2)] == [f"{tmp_path}/{folder}/0/000000001" for folder in ("a", "b")]


def test_a_folder_a_pattern_and_a_list_name_the_same_shards(tmp_path: Path) -> None:
    many(tmp_path, shards=3, each=1)
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "._00000.tar").write_text("a Mac's own")
    wanted = [tmp_path / f"0000{number}.tar" for number in range(3)]
    assert find_shards(tmp_path) == wanted
    assert find_shards(f"{tmp_path}/{{00000..00002}}.tar") == wanted
    assert find_shards([str(wanted[0]), tmp_path, wanted[2]]) == wanted


def test_pattern_may_have_two_ranges_and_keeps_zeros(tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"p{part}" / f"{number:02}.tar", *sample(1)) for part in (1, 2) for number in (9, 10)]
    assert find_shards(f"{tmp_path}/p{{1..2}}/{{09..10}}.tar") == paths


def test_order_has_every_record_once_and_depends_on_seed_and_epoch(tmp_path: Path) -> None:
    source = Shards(many(tmp_path, shards=4, each=10), window=5)
    orders = [source.order(seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (-1, 0))]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert source.order(0, 0).tolist() == orders[0]


def test_order_takes_no_record_further_than_the_window(tmp_path: Path) -> None:
    source = Shards(many(tmp_path, shards=4, each=10), window=5)
    furthest, rows = 0, set()
    for epoch in range(20):
        order = source.order(0, epoch)
        means = [np.flatnonzero(order // 10 == shard).mean() for shard in range(4)]
        row = np.argsort(means).tolist()
        rows.add(tuple(row))
        apart = [abs(place - (10 * row.index(index // 10) + index % 10)) for place, index in enumerate(order.tolist())]
        furthest = max(furthest, *apart)
    assert furthest == 3  # shifts are 0 to 4, and of two that fall on one place the earlier stays before
    assert len(rows) > 10


def test_order_of_a_window_of_one_reads_shards_through(tmp_path: Path) -> None:
    order = Shards(many(tmp_path, shards=3, each=4), window=1).order(0, 0).reshape(3, 4)
    assert (np.diff(order, axis=1) == 1).all()


def test_progress_is_told_a_shard_at_a_time(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    Shards(many(tmp_path, shards=3, each=1), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_headers_are_read_once_where_there_is_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "cc3m", shards=2, each=3)
    shard(folder / "00001.tar", *sample(3), sample(4)[0])
    first = Shards(folder, cache=tmp_path / "cache")
    monkeypatch.setattr(module, "_scan", lambda path: pytest.fail(f"{path} was read again"))
    second = Shards(folder, cache=tmp_path / "cache")
    assert [second[n] for n in range(4)] == [first[n] for n in range(4)]
    assert second.text_lengths().tolist() == first.text_lengths().tolist()
    assert second.damage.listed() == first.damage.listed() == [("shards", "00001/000000004", "has no caption")]
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".npz", ".npz"]


@pytest.mark.parametrize("spoilt", ["shard", "cache"])
def test_headers_are_read_again_where_shard_or_cache_is_another(tmp_path: Path, spoilt: str) -> None:
    path = shard(tmp_path / "0.tar", *sample(1))
    Shards(path, cache=tmp_path / "cache")
    if spoilt == "shard":
        shard(path, *sample(2, "another picture"))
        os.utime(path, ns=(1, 1))
    else:
        (kept,) = (tmp_path / "cache").iterdir()
        kept.write_bytes(kept.read_bytes()[:200])
    wanted = "another picture" if spoilt == "shard" else "picture 1"
    assert Shards(path, cache=tmp_path / "cache")[0].caption == wanted


def test_cache_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", *sample(1))
    with pytest.raises(InputError, match=r"0.tar cannot be written, to keep where records lie: .*; choose another"):
        Shards(path, cache=path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (sample(1)[:1], "has no caption"),
        (sample(1)[1:], "has no picture"),
        ([sample(1)[0], ("000000001.json", b'{"caption": null}')], "has no caption"),
        ([sample(1)[0], ("000000001.json", b'{"caption": "a fo')], "has no caption"),
        ([sample(1)[0], ("000000001.json", b"[" * 100_000)], "has no caption"),
        ([("000000001.jpg", b""), *sample(1)[1:]], "the picture has 0 bytes"),
        ([("000000001.a.jpg", b"x"), ("000000001.a.txt", b"x")], "has no picture"),
    ],
)
def test_what_has_no_partner_is_left_out_and_counted(tmp_path: Path, members: list[Member], reason: str) -> None:
    damage = Damage(path=tmp_path / "missing.jsonl")
    source = Shards(shard(tmp_path / "0.tar", *members, *sample(2)), name="web", damage=damage)
    assert [source[n].key for n in range(len(source))] == ["0/000000002"]
    assert damage.listed() == [("web", "0/000000001", reason)]
    assert (damage.total, damage.failed) == (2, 1)
    assert len((tmp_path / "missing.jsonl").read_text().splitlines()) == 1


def test_too_many_without_partner_are_an_input_error(tmp_path: Path) -> None:
    members = [member for number in range(20) for member in sample(number)[: 1 if number % 4 == 0 else 3]]
    path = shard(tmp_path / "0.tar", *members)
    assert len(Shards(path, damage=Damage(limit=0.06, after=20))) == 15
    with pytest.raises(InputError, match=r"^5 of 20 pictures cannot be used \(25 %; .* shards 0/000000000: has no cap"):
        Shards(path, damage=Damage(limit=0.04, after=20))


def test_shard_that_is_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    folder = many(tmp_path, shards=2, each=6)
    path = folder / "00001.tar"
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = [member.offset for member in tar]
    cuts = {"in a header": starts[9] + 100, "in a picture": starts[9] + 520, "between members": starts[9]}
    for where, size in cuts.items():
        path.write_bytes(content[:size])
        source = Shards(folder)
        assert [source[n].caption for n in range(len(source))] == [f"picture {n}" for n in range(9)], where
        reason = "the shard is cut short or damaged behind 3 records; fetch it again"
        assert source.damage.listed() == [("shards", "00001/(end)", reason)]


def test_shard_with_rubbish_between_members_is_read_up_to_there(tmp_path: Path) -> None:
    path = many(tmp_path, shards=1, each=6) / "00000.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = [member.offset for member in tar][12]
    content[start : start + 512] = b"\x07" * 512
    path.write_bytes(content)
    source = Shards(path)
    assert len(source) == 4
    assert source.damage.failed == 1


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x1f\x8b" + bytes(2000), b"x" * 5000])
def test_file_that_is_no_tar_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"0.tar is no tar file \(.*\); fetch it again, or leave it out\."):
        Shards(path)


@pytest.mark.parametrize("members", [[], [("a.csv", b"1")], [("1.b.jpg", b"x"), ("1.b.txt", b"x")]])
def test_shards_without_a_record_are_an_input_error(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(InputError, match=r"no picture with a caption in .*0.tar: members must be named as 0001.jpg"):
        Shards(shard(tmp_path / "0.tar", *members))


def test_shard_without_a_record_is_passed_over_among_others(tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"{number}.tar", *(sample(number) if number % 2 else [])) for number in range(5)]
    source = Shards(paths)
    assert [source[n].key for n in range(len(source))] == ["1/000000001", "3/000000003"]
    assert sorted(source.order(0, 0).tolist()) == [0, 1]


def test_shard_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    many(tmp_path, shards=2, each=1)
    with pytest.raises(InputError, match=r"00002.tar and 1 more cannot be found among 4 shards: fetch it, or leave"):
        Shards(f"{tmp_path}/{{00000..00003}}.tar")


def test_folder_without_shards_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no .tar file in it: give the folder that img2dataset wrote"):
        Shards(tmp_path)


@pytest.mark.parametrize("paths", [[], "{00005..00003}.tar"])
def test_no_shard_is_an_input_error(paths: Any) -> None:
    with pytest.raises(InputError, match="No shard was given: name tar files"):
        Shards(paths)


def test_window_below_one_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="window is 0 records; it must be at least 1"):
        Shards(shard(tmp_path / "0.tar", *sample(1)), window=0)


def test_picture_that_is_broken_is_an_image_error(tmp_path: Path) -> None:
    source = Shards(shard(tmp_path / "0.tar", ("1.jpg", b"<html>"), ("1.txt", b"a fox"), *sample(2)))
    with pytest.raises(ImageError, match=r"0.tar, picture 1, is not a picture of a kind"):
        source.picture(source[0])
    assert shade(source, 1) == 2


def test_shard_that_is_gone_while_it_is_read_is_told(tmp_path: Path) -> None:
    source = Shards(shard(tmp_path / "0.tar", *sample(1)))
    record = source[0]
    (tmp_path / "0.tar").unlink()
    with pytest.raises(InputError, match=r"0.tar is no longer the file that it was"):
        source[0]
    with pytest.raises(ImageError, match=r"0.tar, picture 000000001, cannot be read: No such file or directory\."):
        source.picture(record)


def test_shard_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", *sample(1))
    source = Shards(path)
    record = source[0]
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(InputError, match=r"0.tar is no longer the file that it was"):
        source[0]
    with pytest.raises(ImageError, match=r"picture 000000001, is cut short: 8 of \d+ bytes are there\."):
        source.picture(record)


def test_path_may_have_the_signs_that_stand_in_records(tmp_path: Path) -> None:
    source = Shards(shard(tmp_path / "a@1+2" / "0@3+4.tar", *sample(5)))
    assert shade(source, 0) == 5
    assert isinstance(source[0], Record)
