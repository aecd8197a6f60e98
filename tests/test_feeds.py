"""Batches from files: what each kind holds, what becomes of broken pictures, and large batches of pairs."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import config, settings, written

from fwd2bot.data import shards
from fwd2bot.data.world import captions, make_scene
from fwd2bot.data.world.writers import write_world
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.model import load
from fwd2bot.training import run
from fwd2bot.training.compressor import CompressorStage
from fwd2bot.training.feeds import Batch, FileFeed
from fwd2bot.training.loop import batches, build_stage

ROOT = Path(__file__).parent.parent
IMAGES = 40


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations about pictures, some without a picture; captions of a third of them; pairs in a tar file."""
    folder = tmp_path_factory.mktemp("files")
    write_world(folder, IMAGES, "train", size=48)
    entries = json.loads((folder / "llava_conversations.json").read_text())
    for entry in entries[::5]:
        del entry["image"]
        entry["conversations"][0]["value"] = entry["conversations"][0]["value"].removeprefix("<image>\n")
    (folder / "talk.json").write_text(json.dumps(entries))
    told = [{"id": number, "file_name": make_scene("train", number).name} for number in range(1, IMAGES, 3)]
    said = [{"image_id": one["id"], "caption": captions(make_scene("train", one["id"]))[1]} for one in told]
    (folder / "coco.json").write_text(json.dumps({"images": told, "annotations": said}))
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(IMAGES):
            scene = make_scene("train", number)
            parts = {"png": (folder / "images" / scene.name).read_bytes(), "txt": captions(scene)[0].encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def sources(files: Path) -> list[dict[str, Any]]:
    talk = {"kind": "conversations", "path": str(files / "talk.json"), "images": str(files / "images")}
    pairs = {"kind": "captions", "path": str(files / "00000.tar")}
    return [{**talk, "captions": str(files / "coco.json")}, pairs]


def stage_on(files: Path, out: Path, base: Path, **more: Any) -> CompressorStage:
    out.mkdir(exist_ok=True)
    data = {"sources": sources(files), "length": 96, **more.pop("data", {})}
    stage = build_stage(config("fwd2bot", out, base, data=data, **more))
    assert isinstance(stage, CompressorStage)
    return stage


def what(batch: Batch) -> tuple[bool, bool, bool]:
    return batch.pixels is not None, batch.answers is not None, bool(batch.captions)


def test_every_kind_of_batch_holds_what_its_losses_need(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    stage = stage_on(files, tmp_path / "out", tiny_base, contrastive_batch=4)
    taken = {what(batch): set(stage.losses(batch, 0)) for batch in (stage.batch(step) for step in range(40))}
    assert taken == {
        (True, True, True): {"autoregressive", "contrastive"},
        (True, True, False): {"autoregressive"},
        (False, True, False): {"autoregressive"},
        (True, False, True): {"contrastive"},
    }


def test_pairs_come_from_a_json_file_too(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    pairs = {"kind": "captions", "path": str(files / "cc3m_pairs.json"), "images": str(files / "images")}
    stage = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs]})
    batch = stage.batch(0)
    assert what(batch) == (True, False, True)
    assert set(batch.captions) <= {captions(make_scene("train", number))[0] for number in range(IMAGES)}


def test_pairs_come_in_batches_of_their_own_size(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    stage = stage_on(files, tmp_path / "out", tiny_base, contrastive_batch=6)
    for batch in (stage.batch(step) for step in range(20)):
        rows = len(batch.captions) if batch.answers is None else len(batch.answers.ids)
        assert rows == (6 if batch.answers is None else 2)
        assert batch.pixels is None or len(batch.pixels) == rows


def test_a_batch_of_files_depends_on_its_step_alone(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    first, second = (stage_on(files, tmp_path / name, tiny_base) for name in ("a", "b"))
    kept = [first.batch(step) for step in range(12)]
    for step in reversed(range(12)):
        again = second.batch(step)
        assert again.captions == kept[step].captions
        assert what(again) == what(kept[step])
        if again.pixels is not None:
            assert torch.equal(again.pixels, kept[step].pixels)
        if again.answers is not None:
            assert torch.equal(again.answers.ids, kept[step].answers.ids)


def test_large_batches_of_pairs_have_the_gradient_of_one_batch(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    """In fp64, with the layers recomputed, too, and without."""
    gradients = []
    for size, recompute in ((8, False), (2, False), (2, True), (4, True)):
        more = {"batch_size": size, "contrastive_batch": 8, "gradient_checkpointing": recompute, "validation": 8}
        stage = stage_on(files, tmp_path / f"{size}-{recompute}", tiny_base, **more)
        stage.compressor.double()
        pairs = next(batch for batch in (stage.batch(step) for step in range(40)) if batch.answers is None)
        # The tiny batches of other stages hold other records: the same pairs for all.
        if not gradients:
            shared = pairs
        loss = stage.losses(shared, 0)["contrastive"]
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in stage.module.named_parameters() if p.grad is not None})
    whole = gradients[0]
    assert len(whole) > 10
    for cached in gradients[1:]:
        assert cached.keys() == whole.keys()
        for name, gradient in cached.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-14)


def test_held_out_records_are_never_trained_on(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    stage = stage_on(files, tmp_path / "out", tiny_base, validation=4)
    held = [batch.captions for batch in stage.feed.validation() if batch.answers is None]
    trained = {caption for step in range(80) for caption in stage.batch(step).captions}
    assert held
    assert not trained & {caption for captions_of in held for caption in captions_of}


def test_pictures_held_out_are_in_no_other_record(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    entries = [entry for entry in json.loads((files / "llava_conversations.json").read_text()) if "image" in entry]
    again = [{**entry, "id": f"again-{entry['id']}"} for entry in entries]
    (tmp_path / "twice.json").write_text(json.dumps(entries + again))
    talk = {"kind": "conversations", "path": str(tmp_path / "twice.json"), "images": str(files / "images")}
    stage = stage_on(files, tmp_path / "out", tiny_base, validation=6, data={"sources": [talk]})
    assert isinstance(stage.feed, FileFeed)
    (held,) = stage.feed.held_out
    shown = {held[index].image for index in range(len(held))}
    trained = {source[index].image for step in range(60) for source, index in stage.feed.sampler.at(step).records}
    assert len(shown) >= 5
    assert not shown & trained


def test_pictures_held_out_of_one_source_are_in_no_other(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    talk = {"kind": "conversations", "path": str(files / "llava_conversations.json"), "images": str(files / "images")}
    pairs = {"kind": "captions", "path": str(files / "cc3m_pairs.json"), "images": str(files / "images")}
    stage = stage_on(files, tmp_path / "out", tiny_base, validation=4, data={"sources": [talk, pairs]})
    assert isinstance(stage.feed, FileFeed)
    shown = {Path(str(held[index].image)).name for held in stage.feed.held_out for index in range(len(held))}
    records = [one for step in range(60) for one in stage.feed.sampler.at(step).records]
    trained = {Path(str(source[index].image)).name for source, index in records}
    assert len(shown) >= 4
    assert len(trained) >= IMAGES // 2
    assert not shown & trained


def test_the_share_of_broken_records_that_is_allowed_is_of_tar_files_too(
    files: Path, tmp_path: Path, tiny_base: Path
) -> None:
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        for number in range(1200):
            scene = make_scene("train", number % IMAGES)
            for suffix, content in {"png": (files / "images" / scene.name).read_bytes(), "txt": b"a fox"}.items():
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = 0 if suffix == "txt" and number % 20 == 0 else len(content)
                tar.addfile(member, io.BytesIO(content))
    pairs = {"kind": "captions", "path": str(tmp_path / "1.tar")}
    with pytest.raises(InputError, match="60 of 1200 pictures cannot be used"):
        stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs]})
    stage = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs], "broken": 0.2})
    assert isinstance(stage.feed, FileFeed)
    assert sum(len(source) for source in stage.feed.held_out) == 4


def test_captions_are_no_longer_than_conversations(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    pairs = {"kind": "captions", "path": str(files / "cc3m_pairs.json"), "images": str(files / "images")}
    whole = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs]}).batch(0).captions
    stage = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs], "length": 7})
    cut = stage.batch(0).captions
    tokenizer = stage.compressor.llava.tokenizer
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in cut]
    assert max(lengths) == 7
    assert all(text.startswith(part) for text, part in zip(whole, cut, strict=True))


def test_what_is_left_out_is_told_and_listed_once(
    files: Path, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (files / "00000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    pairs = {"kind": "captions", "path": str(tmp_path / "cut.tar")}
    for _ in range(2):
        stage_on(files, tmp_path / "out", tiny_base, data={"sources": [pairs]})
        assert "cut.tar are left out: " in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out/broken.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) >= 1
    assert any("cut short" in row["reason"] for row in rows)


def test_a_workers_mistake_is_the_sentence_alone(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    talk = {"kind": "conversations", "path": str(files / "llava_conversations.json"), "images": str(tmp_path)}
    stage = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [talk]}, workers=1)
    with pytest.raises(InputError, match=r"^No picture of llava_conversations can be read"):
        next(batches(stage, stage.config, 0))


def test_a_worker_that_is_killed_is_a_sentence_about_memory(
    files: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does it where /dev/shm is full."""
    stage = stage_on(files, tmp_path / "out", tiny_base, workers=1)
    monkeypatch.setattr(stage, "batch", lambda step: os.kill(os.getpid(), signal.SIGBUS))
    with pytest.raises(Fwd2BotError, match=r"was killed, for want of memory .*/dev/shm.* lower workers"):
        next(batches(stage, stage.config, 0))


def test_a_batch_does_not_touch_the_models_device(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    """A worker is forked when the model is on its GPU already, which no fork may use."""
    stage = stage_on(files, tmp_path / "out", tiny_base)
    stage.compressor.to("meta")
    shown = [batch.pixels for step in range(12) if (batch := stage.batch(step)).pixels is not None]
    assert {(pixels.device.type, pixels.dtype) for pixels in shown} == {("cpu", torch.float32)}


def rows_of(batches: Iterable[Batch]) -> list[int]:
    return [len(batch.captions) if batch.answers is None else len(batch.answers.ids) for batch in batches]


@torch.no_grad()
def test_figures_are_taken_on_every_record_held_out(
    files: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_on(files, tmp_path / "out", tiny_base, batch_size=4, validation=4)
    held = list(stage.feed.validation())
    assert rows_of(held) == [1, 2, 1, 4]  # text alone, with a picture, with its captions, too; pairs
    figures = stage.evaluate()
    assert figures["4/text_to_image_R@1_of_5"] >= 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rows_of(stage.feed.validation()) == [1, 2, 1, 2, 2]
    assert stage.evaluate() == pytest.approx(figures)


def test_pairs_are_no_figures_without_their_loss(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    stage = stage_on(files, tmp_path / "out", tiny_base, losses={"autoregressive": 1.0})
    assert all(batch.answers is not None for batch in stage.feed.validation())


def test_where_records_of_tar_files_lie_is_read_once(
    files: Path, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage_on(files, tmp_path / "out", tiny_base).batch(1)
    monkeypatch.delattr(shards, "_scan")
    again = stage_on(files, tmp_path / "out", tiny_base).batch(1)
    assert again.captions == first.captions


def broken_files(files: Path, folder: Path, number: int) -> tuple[dict[str, Any], str]:
    """The conversations with one picture broken, and its name."""
    folder.mkdir()
    for path in (files / "images").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    lost = make_scene("train", number).name
    (folder / lost).write_bytes(b"no picture")
    return {"kind": "conversations", "path": str(files / "talk.json"), "images": str(folder)}, lost


@torch.no_grad()
def test_a_broken_picture_held_out_is_listed_and_left_out(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    talk, lost = broken_files(files, tmp_path / "broken", IMAGES - 1)  # the record behind it, from the front, has none
    stage = stage_on(files, tmp_path / "out", tiny_base, validation=4, data={"sources": [talk]})
    for _ in range(3):
        held = list(stage.feed.validation())
        assert rows_of(held) == [1, 2]
        assert all(batch.pixels is None or len(batch.pixels) == len(batch.questions) for batch in held)
    assert stage.evaluate()
    (row,) = [json.loads(line) for line in (tmp_path / "out/broken.jsonl").read_text().splitlines()]
    assert lost in row["reason"]
    assert isinstance(stage.feed, FileFeed)
    assert stage.feed.damage.total == 0  # the same few again and again would not be the share of all


def test_a_broken_picture_is_listed_and_replaced(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    talk, lost = broken_files(files, tmp_path / "broken", 7)
    stage = stage_on(files, tmp_path / "out", tiny_base, data={"sources": [talk]}, losses={"autoregressive": 1.0})
    for step in range(40):
        batch = stage.batch(step)
        assert batch.pixels is None or len(batch.pixels) == 2
    (row,) = [json.loads(line) for line in (tmp_path / "out/broken.jsonl").read_text().splitlines()]
    assert lost in row["reason"]


def test_nothing_but_broken_pictures_ends_in_a_sentence(files: Path, tmp_path: Path, tiny_base: Path) -> None:
    talk = {"kind": "conversations", "path": str(files / "llava_conversations.json"), "images": str(tmp_path)}
    with pytest.raises(InputError, match="No picture of llava_conversations can be read"):
        stage_on(files, tmp_path / "out", tiny_base, data={"sources": [talk]}).batch(0)


def test_a_run_on_files_trains_evaluates_and_is_whole_after_a_stop(
    files: Path, tmp_path: Path, tiny_base: Path
) -> None:
    data = {"sources": sources(files), "length": 96}
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, data=data, contrastive_batch=4, steps=8))
    folder = run(path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"autoregressive", "contrastive"} <= {name for line in lines for name in line}
    assert any("val/1/answers" in line for line in lines)
    assert (folder / "done.json").exists()


@pytest.mark.parametrize("what", ["fwd2bot", "average_pool", "identity"])
def test_a_run_on_conversations_without_captions(what: str, files: Path, tmp_path: Path, tiny_base: Path) -> None:
    """LLaVA's own second stage, and every compressor on LLaVA-665k alone."""
    talk = {**sources(files)[0], "captions": None}
    data = {"sources": [talk], "length": 96}
    folder = run(written(tmp_path, settings(what, tmp_path / "out", tiny_base, data=data)))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "autoregressive" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4, 5, 6]
    assert not any("contrastive" in line for line in lines)


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_the_recipe_for_llava_runs_with_less_of_everything(
    size: str, files: Path, tmp_path: Path, tiny_base: Path
) -> None:
    """All that the file says is kept, but for sizes and places; then the model answers from its tokens."""
    values = yaml.safe_load((ROOT / f"configs/llava-1.5-{size}.yaml").read_text("utf-8"))
    values |= {"out": str(tmp_path / "out"), "init": {"base": str(tiny_base)}, "workers": 2}
    values |= {"batch_size": 4, "contrastive_batch": 8, "steps": 6, "validation": 8}
    values |= {"checkpoint_every": 2, "evaluate_every": 3}
    held = tmp_path / "dataset_coco.json"
    held.write_text(json.dumps({"images": [{"cocoid": 1, "split": "test"}]}))
    talk = {**sources(files)[0], "captions_held_out": str(held)}
    places = {"conversations": talk, "captions": sources(files)[1]}
    values["data"]["length"] = 320
    values["data"]["sources"] = [{**one, **places[one["kind"]]} for one in values["data"]["sources"]]
    folder = run(written(tmp_path, values))
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {3, 6}
    assert all(sample["question"] and sample["truth"] for sample in samples)
    model = load(folder)
    tokens = model.compress([Image.new("RGB", (64, 48), "red")])
    assert tuple(tokens.shape[1:]) == (16, 32)
    assert len(model.answer(tokens, ["What is it?"])) == 1
