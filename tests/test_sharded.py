"""A spread model, by one process: checkpoints, damage, another model, a full disk. More in test_distributed.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_feeds import files, sources
from tiny_runs import config
from torch import Tensor

from fwd2bot.errors import Fwd2BotError
from fwd2bot.training import sharded
from fwd2bot.training.compressor import CompressorStage
from fwd2bot.training.distributed import full
from fwd2bot.training.loop import Job, build_stage
from fwd2bot.training.sharded import LAST, PREVIOUS, load_shards, save_shards

__all__ = ["files"]


def tensors(value: float) -> dict[str, Tensor]:
    one = torch.tensor(value)
    return {"weight": one.expand(3, 2).contiguous(), "count": one, "half": one.expand(4).bfloat16()}


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def loaded(folder: Path) -> tuple[tuple[int, float] | None, dict[str, Tensor]]:
    found = tensors(0.0)
    return load_shards(folder, found), found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save_shards(tmp_path, step, 10.0 * step, tensors(float(step)))
    return tmp_path


def damage(path: Path) -> None:
    [file] = path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_newest_is_read_and_no_file_is_a_pickle(folder: Path) -> None:
    told, found = loaded(folder)
    assert told == (2, 20.0)
    torch.testing.assert_close(found, tensors(2.0), rtol=0, atol=0)
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    assert loaded(folder / "none")[0] is None


def test_a_damaged_one_leaves_the_one_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder / LAST)
    told, found = loaded(folder)
    assert told == (1, 10.0)
    torch.testing.assert_close(found, tensors(1.0), rtol=0, atol=0)
    assert "has changed since it was written); going on from the checkpoint before it." in capsys.readouterr().err
    damage(folder / PREVIOUS)
    with pytest.raises(Fwd2BotError, match=r"last is damaged .*previous is damaged .* to start anew"):
        loaded(folder)


def test_one_of_another_model_is_refused(folder: Path) -> None:
    for other in ({"weight": torch.zeros(2, 3)}, {**tensors(0.0), "weight": torch.zeros(3, 3)}):
        with pytest.raises(Fwd2BotError, match="is of another model; remove it or take another `out`"):
            load_shards(folder, other)


def test_state_that_the_checkpoint_lacks_is_taken_out(folder: Path) -> None:
    found = {**tensors(0.0), "optimizer.0.0.step": torch.zeros(())}
    assert load_shards(folder, found) == (2, 20.0)
    assert found.keys() == tensors(0.0).keys()
    with pytest.raises(Fwd2BotError, match="is of another model"):
        load_shards(folder, {**tensors(0.0), "model.weight": torch.zeros(())})


@pytest.fixture
def job(files: Path, tmp_path: Path, tiny_base: Path) -> Callable[[], Job]:
    """Makes a spread run on files, again and again the same."""
    (tmp_path / "out").mkdir()
    data = {"sources": sources(files), "length": 96}
    settings = config("fwd2bot", tmp_path / "out", tiny_base, sharded=True, data=data)
    return lambda: Job(build_stage(settings), settings)


def test_a_weight_may_have_its_first_gradient_after_a_stop(job: Callable[[], Job]) -> None:
    whole, stopped = job(), job()
    batches = [whole.stage.batch(step) for step in range(20)]
    pairs = next(batch for batch in batches if batch.answers is None)  # they have no pass 2
    talk = next(batch for batch in batches if batch.answers is not None and batch.pixels is not None)
    for one in (whole, stopped):
        one.step(pairs, 3)
    stopped.save(4, 1.0)
    resumed = job()
    assert resumed.resume() == (4, 1.0)
    for one in (whole, resumed):
        one.step(talk, 4)
    for name, parameter in whole.named.items():
        torch.testing.assert_close(full(resumed.named[name]), full(parameter), rtol=0, atol=0)


def test_the_result_is_whole_and_opens_no_data_again(job: Callable[[], Job]) -> None:
    trained = job()
    trained.step(trained.stage.batch(0), 0)
    result = trained.result()
    assert isinstance(trained.stage, CompressorStage)
    assert isinstance(result, CompressorStage)
    assert result.feed is trained.stage.feed
    weights = dict(result.module.named_parameters())
    for name, parameter in trained.named.items():
        torch.testing.assert_close(weights[name], full(parameter), rtol=0, atol=0)


def test_what_cannot_be_written_is_told_and_the_old_one_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharded, "save", full)
    with pytest.raises(Fwd2BotError, match=r"last cannot be written \(.*No space left on device\); make room"):
        save_shards(folder, 3, 30.0, tensors(3.0))
    assert loaded(folder)[0] == (2, 20.0)
