"""A guard finds every change of its file, and gives small damage back."""

import random
from pathlib import Path

import pytest

from fwd2bot.store.parity import Guard

SIZES = [0, 1, 63, 64, 65, 500, 4096, 12_831, 300_001]


def guarded(folder: Path, size: int, *, copy: bool = False) -> tuple[Guard, bytes]:
    content = random.Random(size).randbytes(size)
    (folder / "f").write_bytes(content)
    (folder / "guard").write_bytes(Guard.of(folder, "f", copy=copy, plain=[(70, size - 70)]).to_bytes())
    return Guard.read(folder / "guard"), content


def heals(guard: Guard, folder: Path, content: bytes) -> bool:
    bad = guard.damaged(folder)
    assert bad
    (folder / "healed").unlink(missing_ok=True)
    if not guard.heal(folder, bad, folder / "healed"):
        assert not (folder / "healed").exists()
        return False
    assert (folder / "healed").read_bytes() == content
    return True


@pytest.mark.parametrize("size", SIZES)
def test_a_file_as_it_was_is_not_damaged(tmp_path, size):
    guard, _ = guarded(tmp_path, size)
    assert guard.damaged(tmp_path) == []


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_flipped_byte_is_found_and_given_back(tmp_path, size):
    guard, content = guarded(tmp_path, size)
    for at in {0, size // 2, size - 1}:
        (tmp_path / "f").write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert guard.damaged(tmp_path) == [at // guard.block]
        assert heals(guard, tmp_path, content)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_behind_the_end_are_found_and_cut(tmp_path, size):
    guard, content = guarded(tmp_path, size)
    (tmp_path / "f").write_bytes(content + b"more")
    assert heals(guard, tmp_path, content)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_copy_gives_back_all_also_of_a_file_that_is_gone(tmp_path, size):
    guard, content = guarded(tmp_path, size, copy=True)
    (tmp_path / "f").write_bytes(content[: size // 2])
    assert heals(guard, tmp_path, content)
    (tmp_path / "f").unlink()
    assert heals(guard, tmp_path, content)


def test_as_many_blocks_in_a_row_as_there_are_groups_are_given_back_and_no_more(tmp_path):
    guard, content = guarded(tmp_path, 3_000_000)
    groups, block = guard.parity.shape
    assert (groups, block) == (12, 4096)
    for blocks, fine in ((groups, True), (groups + 1, False)):
        hurt = bytearray(content)
        hurt[8 * block : (8 + blocks) * block] = bytes(blocks * block)
        (tmp_path / "f").write_bytes(hurt)
        assert guard.damaged(tmp_path) == list(range(8, 8 + blocks))
        assert heals(guard, tmp_path, content) is fine


def test_a_guard_of_a_large_file_is_small(tmp_path):
    guard, content = guarded(tmp_path, 3_000_000)
    assert len(guard.to_bytes()) < len(content) / 50


@pytest.mark.parametrize("at", [0, 5, 40, 70, 200, -1])
def test_a_damaged_guard_says_so(tmp_path, at):
    content = bytearray(guarded(tmp_path, 4000)[0].to_bytes())
    content[at] ^= 1
    (tmp_path / "guard").write_bytes(content)
    with pytest.raises(ValueError, match=r"check|Expecting|delimiter|Invalid|decode"):
        Guard.read(tmp_path / "guard")


@pytest.mark.parametrize("size", [500, 12_831, 300_001])
def test_a_file_can_be_read_while_plain_bytes_alone_are_hurt(tmp_path, size):
    guard, content = guarded(tmp_path, size)
    guard = Guard.read(tmp_path / "guard", parity=False)
    assert guard.can_be_read(tmp_path)
    for at, fine in ((0, False), (size // 2, True), (size - 1, False), (69, False), (size - 70, False)):
        (tmp_path / "f").write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert guard.can_be_read(tmp_path) is fine
    for other in (content[:-1], content + b"x"):
        (tmp_path / "f").write_bytes(other)
        assert not guard.can_be_read(tmp_path)
    (tmp_path / "f").unlink()
    assert not guard.can_be_read(tmp_path)
