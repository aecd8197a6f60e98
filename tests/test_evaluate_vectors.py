"""Captions, retrieval and SugarCrepe of the world from end to end: vectors on the disk, resumed, refused, scored."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_evaluate import PICTURES, Questions, Told, model, questions, quick, take, world

import fwd2bot
from fwd2bot.errors import InputError
from fwd2bot.evaluation.captions import PROMPT
from fwd2bot.evaluation.embedders import Embedder
from fwd2bot.evaluation.runner import open_benchmarks, run_benchmarks
from fwd2bot.model import Fwd2Bot

__all__ = ["model", "questions", "quick", "world"]


@pytest.mark.parametrize("names", ["coco_captions,textcaps", "flickr30k_retrieval,nocaps_retrieval:val,sugarcrepe"])
def test_a_random_model_runs_through_the_world(names: str, model: Fwd2Bot, world: Path, tmp_path: Path) -> None:
    benchmarks = open_benchmarks(names, world)
    results = list(run_benchmarks(model, benchmarks, tmp_path / "out", num_tokens=2, progress=Told()))
    assert [result["benchmark"] for result in results] == [one.partition(":")[0] for one in names.split(",")]
    for result, benchmark in zip(results, benchmarks, strict=True):
        assert benchmark.metric in result["figures"]
        assert all(0.0 <= figure <= 1000.0 for figure in result["figures"].values())
    if "captions" in names:
        assert (results[0]["prompt"], results[0]["tokeniser"]) == (PROMPT, "fwd2bot.evaluation.ptb")
        assert results[0]["METEOR"] == "not computed: Java is not installed"


def test_vectors_are_those_of_the_model(model: Fwd2Bot, world: Path, tmp_path: Path) -> None:
    (benchmark,) = open_benchmarks("coco_retrieval", world)
    told = Told()
    take(model, benchmark, tmp_path / "out", num_tokens=2, progress=told)
    images = np.load(tmp_path / "out/coco_retrieval-test.images.npy")
    texts = np.load(tmp_path / "out/coco_retrieval-test.texts.npy")
    expected = model.embed(model.compress(benchmark.images(), 2)).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-5)
    once = list(dict.fromkeys(benchmark.texts()))
    np.testing.assert_allclose(texts, model.embed(once, 2).numpy(), atol=1e-5)
    assert [line for line in told.lines if line[2] == line[3]] == [
        ("embedded", "images", PICTURES, PICTURES),
        ("embedded", "texts", len(once), len(once)),
    ]


def test_killed_embedding_goes_on_and_a_broken_picture_is_listed(
    model: Fwd2Bot, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (benchmark,) = open_benchmarks("coco_retrieval", world)
    broken = benchmark.images()[3]
    assert isinstance(broken, Path)
    broken.write_text("no picture")
    compress, calls = model.compress, [0]

    def dies(images: Sequence[Any], num_tokens: int | None = None) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return compress(images, num_tokens)

    monkeypatch.setattr(model, "compress", dies)
    with pytest.raises(KeyboardInterrupt):
        take(model, benchmark, tmp_path / "out")
    told = Told()
    result = take(model, benchmark, tmp_path / "out", progress=told)
    assert told.lines[0] == ("embedded", "images", 2, 3)  # of six, three were done; the broken one is tried again
    (failed,) = result["failed"]
    assert failed["error"].startswith(f"{broken} is not a picture")


def test_vectors_that_were_cut_short_are_refused(model: Fwd2Bot, world: Path, tmp_path: Path) -> None:
    (benchmark,) = open_benchmarks("coco_retrieval", world)
    take(model, benchmark, tmp_path / "out")
    path = tmp_path / "out/coco_retrieval-test.images.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(InputError, match=r"images\.npy has 5 vectors, and there are 6 now"):
        take(model, benchmark, tmp_path / "out")
    for size in (path.stat().st_size // 2, 40, 0):
        os.truncate(path, size)
        with pytest.raises(InputError, match=r"images\.npy is damaged"):
            take(model, benchmark, tmp_path / "out")
        assert path.stat().st_size == size


def test_a_base_is_asked_for_one_word_and_the_result_tells_so(
    tiny_base: Path, world: Path, tmp_path: Path, model: Fwd2Bot
) -> None:
    (benchmark,) = open_benchmarks("sugarcrepe", world)
    result = take(fwd2bot.load(tiny_base, device="cpu"), benchmark, tmp_path / "base")
    assert (result["vectors"], result["num_tokens"]) == ("asked for one word", 16)
    assert take(model, benchmark, tmp_path / "ours")["vectors"] == "its own"


class Flat(Embedder):
    """Two vectors a picture; every picture is nearest to the text "b"."""

    name, fingerprint, vectors, width, vectors_an_image = "flat", "sha256:0", "made up", 2, 2

    def embed_images(self, images: Sequence[Image.Image]) -> Any:
        return np.tile(np.eye(2, dtype=np.float32), (len(images), 1, 1))

    def embed_texts(self, texts: Sequence[str]) -> Any:
        return np.array([[1.0, 0.0] if "b" in text else [0.6, 0.8] for text in texts], dtype=np.float32)


def test_several_vectors_a_picture_are_kept_and_scored(world: Path, tmp_path: Path) -> None:
    retrieval, sugarcrepe = open_benchmarks("coco_retrieval,sugarcrepe", world)
    result = take(Flat(), retrieval, tmp_path / "out")
    assert np.load(tmp_path / "out/coco_retrieval-test.images.npy").shape == (PICTURES, 2, 2)
    assert result["figures"]["text_to_image_R@1"] == 0.0
    assert (result["num_tokens"], result["vectors"]) == (None, "made up")
    pairs = [pair for pair in sugarcrepe.pairs if pair.kind == "replace_obj"]
    right = ["b" in pair.caption and "b" not in pair.negative for pair in pairs]
    figures = take(Flat(), sugarcrepe, tmp_path / "out")["figures"]
    assert figures["replace_obj"] == pytest.approx(100 * sum(right) / len(right))


@pytest.mark.parametrize("of", ["images", "texts"])
def test_vectors_of_no_numbers_are_told(of: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN on the disk means that a vector is not there yet, or that its picture could not be read."""
    (benchmark,) = open_benchmarks("coco_retrieval", world)
    embed = getattr(Flat, f"embed_{of}")

    def overflowing(self: Flat, part: Sequence[Any]) -> Any:
        made = embed(self, part)
        made[-1] = np.nan
        return made

    monkeypatch.setattr(Flat, f"embed_{of}", overflowing)
    with pytest.raises(InputError, match=r"no finite numbers for .*: try --dtype float32"):
        take(Flat(), benchmark, tmp_path / "out")


def test_answers_that_may_not_be_written_are_told(
    model: Fwd2Bot, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(model, questions, tmp_path / "out")
    file, opened = next((tmp_path / "out").glob("*.jsonl")), Path.open

    def refused(self: Path, *rest: Any, **more: Any) -> Any:
        if self == file:
            raise PermissionError(13, "Permission denied")
        return opened(self, *rest, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(InputError, match=r"jsonl cannot be written or read: Permission denied; name another --out"):
        take(model, questions, tmp_path / "out")


def test_a_text_that_stands_twice_is_embedded_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (retrieval,) = open_benchmarks("coco_retrieval", world)
    texts = ["ab", "b", *["ab", "b"] * (len(retrieval.texts()) // 2 - 1)]
    seen: list[str] = []
    embed_texts = Flat.embed_texts
    monkeypatch.setattr(retrieval, "texts", lambda: texts)
    monkeypatch.setattr(Flat, "embed_texts", lambda self, part: seen.extend(part) or embed_texts(self, part))
    scored: list[Any] = []
    monkeypatch.setattr(retrieval, "score", lambda images, vectors: scored.append(vectors) or {})
    take(Flat(), retrieval, tmp_path / "out")
    assert seen == ["ab", "b"]
    np.testing.assert_array_equal(scored[0], embed_texts(Flat(), texts))


def test_what_only_embeds_is_refused_before_anything_runs(questions: Questions, world: Path, tmp_path: Path) -> None:
    benchmarks = [*open_benchmarks("sugarcrepe", world), questions]
    with pytest.raises(InputError, match="flat only embeds, and questions asks questions; take a fwd2bot model"):
        list(run_benchmarks(Flat(), benchmarks, tmp_path / "out", progress=Told()))
    assert not (tmp_path / "out").exists()
