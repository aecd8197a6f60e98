"""Checkpoints of a run: whole or refused, the one before in reserve."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fwd2bot.errors import Fwd2BotError
from fwd2bot.training.checkpoints import LAST, NEW, PREVIOUS, Progress, checksum, load_progress, save_progress


def progress(step: int) -> Progress:
    tensors = {
        "model.weight": torch.arange(12.0).view(3, 4) + step,
        "model.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "optimizer.0.0.step": torch.tensor(float(step)),
        "optimizer.0.0.empty": torch.zeros(0),
    }
    return Progress(step=step, seconds=step / 4, tensors=tensors)


def assert_equal(found: Progress | None, step: int) -> None:
    assert found is not None
    assert (found.step, found.seconds) == (step, step / 4)
    wanted = progress(step).tensors
    assert found.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def damage(path: Path, how: str) -> None:
    """cut: the end is missing; empty; flip: one bit of the last tensor is another; text: no checkpoint at all."""
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[-1] ^= 1
    changed = {"cut": content[:-5], "empty": b"", "flip": content, "text": b"hello\n"}
    path.write_bytes(changed[how])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert load_progress(tmp_path) is None
    save_progress(tmp_path / "deep/checkpoint", progress(5))
    assert_equal(load_progress(tmp_path / "deep/checkpoint"), 5)


def test_the_newest_is_taken_and_one_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_progress(tmp_path, progress(step))
    assert_equal(load_progress(tmp_path), 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LAST, PREVIOUS])
    (tmp_path / LAST).unlink()  # killed between the two renamings
    assert_equal(load_progress(tmp_path), 2)


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "text"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_progress(tmp_path, progress(1))
    save_progress(tmp_path, progress(2))
    damage(tmp_path / LAST, how)
    assert_equal(load_progress(tmp_path), 1)
    told = capsys.readouterr().err
    assert told.startswith(f"fwd2bot: {tmp_path / LAST} is damaged (")
    assert told.endswith("going on from the checkpoint before it.\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize("how", ["cut", "empty", "flip", "text"])
def test_all_damaged_is_told_in_a_sentence(how: str, tmp_path: Path) -> None:
    save_progress(tmp_path, progress(1))
    save_progress(tmp_path, progress(2))
    for name in (LAST, PREVIOUS):
        damage(tmp_path / name, how)
    with pytest.raises(Fwd2BotError, match=f"is damaged .* and .* is damaged .*; remove {tmp_path} to start anew"):
        load_progress(tmp_path)


def test_a_half_written_new_one_is_not_read(tmp_path: Path) -> None:
    save_progress(tmp_path, progress(4))
    (tmp_path / NEW).write_bytes((tmp_path / LAST).read_bytes()[:50])
    assert_equal(load_progress(tmp_path), 4)
    save_progress(tmp_path, progress(5))
    assert_equal(load_progress(tmp_path), 5)


def test_one_without_a_checksum_is_read(tmp_path: Path) -> None:
    """As they were written at first."""
    save_file(progress(3).tensors, tmp_path / LAST, metadata={"step": "3", "seconds": "0.75"})
    assert_equal(load_progress(tmp_path), 3)


def test_one_without_a_step_is_damaged(tmp_path: Path) -> None:
    save_file(progress(3).tensors, tmp_path / LAST)
    with pytest.raises(Fwd2BotError, match="is damaged"):
        load_progress(tmp_path)


def test_checksum_counts_name_type_shape_and_content() -> None:
    base = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)}
    others = [
        {"a": torch.tensor([[1.0, 2.0]]), "c": torch.tensor(3)},
        {"a": torch.tensor([[1.0], [2.0]]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3, dtype=torch.int32)},
        {"a": torch.tensor([[1.0, 2.0000002]]), "b": torch.tensor(3)},
    ]
    assert len({checksum(one) for one in [base, *others]}) == 5
    assert checksum(dict(reversed(base.items()))) == checksum(base)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Fwd2BotError, match=r"cannot be written .*; make room and run again"):
        save_progress(tmp_path / "file/checkpoint", progress(1))


def test_tensors_are_saved_as_they_are_laid_out(tmp_path: Path) -> None:
    tensors = {"turned": torch.arange(6.0).view(2, 3).T}
    save_progress(tmp_path, Progress(step=1, seconds=0.0, tensors=tensors))
    assert torch.equal(load_file(tmp_path / LAST)["turned"], tensors["turned"])
