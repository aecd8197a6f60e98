"""The seam of sources, and how broken pictures are counted, listed and tolerated."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.records import Damage, Kind, Record, Source, Subset, of_kind
from fwd2bot.errors import ImageError, InputError

RED = (255, 0, 0)


class Six(Source):
    """Two conversations about pictures (one with a caption), a text, two captioned pictures, one of them broken."""

    name = "six"
    records = (
        Record(key="a", image="a.png", turns=(("what?", "a fox"),)),
        Record(key="b", image="b.png", turns=(("what?", "a cake"),), caption="a red cake"),
        Record(key="c", turns=(("why?", "so it is"), ("really?", "yes"))),
        Record(key="d", image="d.png", caption="a camel"),
        Record(key="e", image="broken", caption="a snake"),
        Record(key="f", image="f.png", turns=(("where?", "left"),)),
    )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def picture(self, record: Record) -> Image.Image:
        if record.image == "broken":
            raise ImageError("broken is damaged or cut short.")
        return Image.new("RGB", (2, 2), RED)

    def text_lengths(self) -> NDArray[np.int32]:
        return np.array([10, 11, 22, 7, 7, 10], np.int32)

    def kinds(self) -> NDArray[np.uint8]:
        return np.array([3, 7, 2, 5, 5, 3], np.uint8)


class Ordered(Six):
    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return np.array([5, 0, 4, 1, 3, 2])


def test_record_says_whether_the_contrastive_loss_can_be_taken() -> None:
    assert [record.paired for record in Six.records] == [False, True, False, True, True, False]


def test_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Six.records[0].caption = "a hound"


def test_subset_has_the_chosen_records_and_their_figures() -> None:
    subset = Subset(Six(), np.array([4, 1]), name="two")
    assert [subset[index].key for index in range(len(subset))] == ["e", "b"]
    assert (subset.name, Subset(Six(), np.array([0])).name) == ("two", "six")
    assert subset.text_lengths().tolist() == [7, 11]
    assert subset.kinds().tolist() == [5, 7]
    assert subset.picture(subset[1]).getpixel((0, 0)) == RED


def test_of_kind_finds_what_has_this_and_nothing_else() -> None:
    assert of_kind(Six(), Kind.IMAGE | Kind.TURNS).tolist() == [0, 5]
    assert of_kind(Six(), Kind.IMAGE | Kind.TURNS | Kind.CAPTION).tolist() == [1]
    assert of_kind(Six(), Kind.TURNS).tolist() == [2]


def test_order_of_a_subset_is_its_sources_without_the_others() -> None:
    subset = Subset(Ordered(), np.array([1, 2, 5]))
    order = subset.order(0, 0)
    assert order is not None
    assert [subset[index].key for index in order] == ["f", "b", "c"]
    assert Subset(Six(), np.array([1])).order(0, 0) is None


def test_damage_gives_pictures_and_none_for_what_is_broken(tmp_path: Path) -> None:
    damage = Damage(path=tmp_path / "run" / "missing.jsonl")
    source = Six()
    pictures = [damage.picture(source, record) for record in source.records if record.image]
    assert [picture is not None for picture in pictures] == [True, True, True, False, True]
    assert (damage.total, damage.failed) == (5, 1)
    assert damage.listed() == [("six", "e", "broken is damaged or cut short.")]
    rows = [json.loads(line) for line in (tmp_path / "run" / "missing.jsonl").read_text().splitlines()]
    assert rows == [{"source": "six", "key": "e", "reason": "broken is damaged or cut short."}]


def test_damage_lists_a_picture_once_and_counts_it_each_time(tmp_path: Path) -> None:
    damage = Damage(path=tmp_path / "missing.jsonl")
    for _ in range(3):
        damage.picture(Six(), Six.records[4])
    assert (damage.total, damage.failed, len(damage.listed())) == (3, 3, 1)
    assert len((tmp_path / "missing.jsonl").read_text().splitlines()) == 1


def test_damage_tolerates_the_share_with_its_chance_and_not_one_more(tmp_path: Path) -> None:
    damage = Damage(limit=0.04, after=10, path=tmp_path / "missing.jsonl")
    for number in range(25):  # 1 is expected, give or take 1
        damage.seen()
        if number >= 20:
            damage.broken("web", f"{number}", f"{number}.jpg is not there: check the path.")
    with pytest.raises(InputError) as raised:
        damage.broken("web", "7", "7.jpg is empty (0 bytes).")
    assert str(raised.value) == (
        "6 of 25 pictures cannot be used (24 %; at most 4 % may be missing): web 20: 20.jpg is not there: check the "
        "path; web 21: 21.jpg is not there: check the path; web 22: 22.jpg is not there: check the path; all are "
        f"listed in {tmp_path / 'missing.jsonl'}; fetch them again, or allow for a larger share."
    )


def test_damage_of_half_the_share_ends_none_of_many_runs() -> None:
    """Of 200 counters, as many as 8 processes of 8 workers have when they were started three times."""
    for counter in range(200):
        damage = Damage(limit=0.01)
        for broken in np.random.default_rng(counter).random(2000) < 0.005:
            damage.seen()
            if broken:
                damage.broken("web", "1", "is gone.")


def test_damage_waits_for_enough_pictures_and_then_tells() -> None:
    damage = Damage(limit=0.05, after=4)
    for number in range(3):
        damage.seen()
        damage.broken("web", f"{number}", "is gone.")
    with pytest.raises(InputError, match=r"^3 of 4 pictures .* web 0: is gone; web 1: is gone; web 2: is gone; fetch"):
        damage.seen()


def test_damage_of_no_limit_raises_at_the_first() -> None:
    damage = Damage(limit=0, after=0)
    damage.seen(5)
    with pytest.raises(InputError, match="1 of 5 pictures"):
        damage.broken("web", "1", "is gone.")


@pytest.mark.parametrize("limit", [-0.1, 1.5, float("nan")])
def test_share_that_is_none_is_an_input_error(limit: float) -> None:
    with pytest.raises(InputError, match=f"share of broken pictures is {limit}; it must be between 0 and 1"):
        Damage(limit=limit)


def test_list_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    damage = Damage(path=tmp_path / "file" / "missing.jsonl")
    damage.seen()
    with pytest.raises(InputError, match=r"missing.jsonl cannot be written, .*; choose another path"):
        damage.broken("web", "1", "is gone.")


def test_damage_counts_right_from_many_threads(tmp_path: Path) -> None:
    damage = Damage(limit=1, path=tmp_path / "missing.jsonl")

    def read(thread: int) -> None:
        for number in range(200):
            damage.seen()
            damage.broken("web", f"{thread}-{number}", "is gone.")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (damage.total, damage.failed) == (800, 800)
    rows = [json.loads(line) for line in (tmp_path / "missing.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == 800
