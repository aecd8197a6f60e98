"""The world benchmark: an all-knowing model scores 100, and a tiny random one runs through all of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import tiny_compressor
from torch import Tensor
from world_reader import answer

import fwd2bot
from fwd2bot.data.world import KINDS, Scene, captions, make_scene
from fwd2bot.data.world.scene import SIGN, held_out
from fwd2bot.data.world.sprites import object_names
from fwd2bot.data.world.writers import PICTURE
from fwd2bot.evaluation.embedders import Embedder, as_embedder
from fwd2bot.evaluation.world import (
    WorldQuestions,
    answer_scores,
    blanks,
    gallery,
    main,
    pictures,
    retrieval_scores,
    run_world,
    scene_vectors,
)
from fwd2bot.model import Fwd2Bot

KNOWN = {*object_names(), SIGN}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Oracle:
    """Knows the scenes by their pictures, and answers from the records."""

    embeds_text = True
    compressor = SimpleNamespace(needs_question=False)
    compress_for_questions = Fwd2Bot.compress_for_questions

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = list(scenes)
        self.seen = {np.asarray(picture).tobytes(): row for row, picture in enumerate(pictures(scenes))}
        self.counts: set[int | None] = set()

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Tensor:
        self.counts.add(num_tokens)
        rows = [self.seen.get(np.asarray(image).tobytes(), -1) for image in images]
        return torch.tensor(rows, dtype=torch.float32).view(-1, 1, 1)

    def answer(self, tokens: Tensor, questions: Sequence[str], *, keep: Sequence[bool] | None = None) -> list[str]:
        rows = tokens.flatten().int().tolist()
        return [
            answer(question, self.scenes[row], KNOWN).upper() if row >= 0 else "yes"
            for row, question in zip(rows, questions, strict=True)
        ]


def test_an_all_knowing_model_scores_100_across_batches() -> None:
    scenes = [make_scene("test", index) for index in range(105)]
    oracle: Any = Oracle(scenes)
    scores = answer_scores(oracle, scenes, 4)
    assert scores == {**dict.fromkeys(sorted(KINDS), 100.0), "mean": 100.0}
    assert oracle.counts == {4}


def test_blank_pictures_show_nothing_of_the_scene() -> None:
    scenes = [make_scene("test", index) for index in range(60)]
    oracle: Any = Oracle(scenes)
    scores = answer_scores(oracle, scenes, show=blanks)
    assert 20 < scores["exist"] < 80
    assert scores["where"] == scores["count_all"] == scores["reading"] == 0.0


def test_mean_is_over_kinds_not_over_questions() -> None:
    """Reading is asked of a third of the scenes, and counts a tenth all the same."""
    scenes = [make_scene("test", index) for index in range(60)]
    oracle: Any = Oracle(scenes)
    knows = oracle.answer

    def illiterate(tokens: Tensor, questions: Sequence[str], *, keep: Sequence[bool] | None = None) -> list[str]:
        return [
            "" if "sign" in q and len(a) == 2 else a for q, a in zip(questions, knows(tokens, questions), strict=True)
        ]

    oracle.answer = illiterate
    scores = answer_scores(oracle, scenes)
    assert scores["reading"] == 0.0
    assert scores["mean"] < 95


def test_pictures_are_those_that_a_disk_would_hold() -> None:
    (picture,) = pictures([make_scene("test", 3)])
    assert (picture.size, picture.mode) == ((PICTURE, PICTURE), "RGB")


def test_gallery_alternates_scenes_and_their_near_duplicates() -> None:
    scenes = gallery(20)
    assert len(scenes) == len({scene.name for scene in scenes}) == 20
    for scene, other in zip(scenes[::2], scenes[1::2], strict=True):
        assert sum(thing not in other.things for thing in scene.things) <= 1
        assert not any(held_out(thing.name, thing.place) for thing in scene.things)
    asked = {make_scene("test", index).name for index in range(1000)}
    assert not asked & {scene.name for scene in scenes}


def test_retrieval_of_perfect_vectors_is_complete() -> None:
    images = np.eye(4, dtype=np.float32)
    found = retrieval_scores(images, images.repeat(5, axis=0))
    assert set(found.values()) == {100.0}
    assert len(found) == 6


def test_retrieval_counts_five_texts_an_image() -> None:
    """Of image 0's five captions, two are nearer to image 1."""
    images = np.eye(2, dtype=np.float32)
    texts = images.repeat(5, axis=0)
    texts[3:5] = [0.6, 0.8]
    found = retrieval_scores(images, texts)
    assert found["text_to_image_R@1"] == pytest.approx(80.0)
    assert found["image_to_text_R@1"] == 100.0


def test_vectors_of_a_model_are_unit_and_in_order(folder: Path) -> None:
    model = fwd2bot.load(folder, device="cpu")
    scenes = gallery(4)
    images, texts = scene_vectors(as_embedder(model, 2), scenes)
    assert (images.shape, texts.shape) == ((4, model.width), (20, model.width))
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(texts[7:8], model.embed([captions(scenes[1])[2]], num_tokens=2).numpy(), atol=1e-5)
    np.testing.assert_allclose(
        images[2:3], model.embed(model.compress(pictures(scenes[2:3]), num_tokens=2)).numpy(), atol=1e-5
    )


def figures_of(folder: Path, out: Path, **more: Any) -> dict[str, Any]:
    asked = {"num_tokens": None, "images": 4, "progress": lambda *_: lambda *_: None, **more}
    (result,) = run_world(fwd2bot.load(folder, device="cpu"), out, **asked)
    found: dict[str, Any] = result["figures"]
    return found


def test_a_caption_of_several_scenes_has_one_vector() -> None:
    class Drifting(Embedder):
        """Every batch comes out a rounding apart."""

        fingerprint = ""
        batches = 0

        def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
            return np.ones((len(images), 1), np.float32)

        def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
            self.batches += 1
            return np.array([[len(text) + self.batches / 1000] for text in texts], np.float32)

    scenes = gallery(40)
    texts = [text for scene in scenes for text in captions(scene)]
    vectors = scene_vectors(Drifting(), [*scenes, *scenes])[1]
    assert (vectors[: len(texts)] == vectors[len(texts) :]).all()
    assert vectors[: len(texts), 0].round().tolist() == [len(text) for text in texts]


@pytest.mark.parametrize("num_tokens", [None, 2])
def test_a_random_model_runs_through_everything(num_tokens: int | None, folder: Path, tmp_path: Path) -> None:
    figures = figures_of(folder, tmp_path, num_tokens=num_tokens)
    assert list(figures) == ["test", "composition", "blank", "retrieval"]
    for part in ("test", "composition", "blank"):
        assert {*figures[part]} <= {*KINDS, "mean"}
        assert all(0.0 <= score <= 100.0 for score in figures[part].values())
    assert {name.split("@")[1] for name in figures["retrieval"]} == {"1", "5", "10"}


def test_a_base_has_no_retrieval(tiny_base: Path, tmp_path: Path) -> None:
    assert list(figures_of(tiny_base, tmp_path, images=2)) == ["test", "composition", "blank"]


def test_world_run_that_was_stopped_goes_on_from_its_answers(folder: Path, tmp_path: Path) -> None:
    """Half of the answers are there, and say what the scenes show; more pictures begin anew."""
    benchmark = WorldQuestions("test", 4)
    rows = {key: {"question_id": key, "text": question.answer} for key, _, question in benchmark.asked}
    nothing = figures_of(folder, tmp_path)["test"]["mean"]
    path = tmp_path / "world-4/world-test.jsonl"
    assert {json.loads(line)["question_id"] for line in path.read_text().splitlines()} == set(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows.values()][::2]))
    resumed = figures_of(folder, tmp_path)["test"]["mean"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    assert nothing < resumed < figures_of(folder, tmp_path)["test"]["mean"] == 100.0
    assert figures_of(folder, tmp_path, images=2)["test"]["mean"] == pytest.approx(nothing, abs=20)


def test_grey_picture_is_asked_each_question_once_and_answers_for_all() -> None:
    blank, shown = WorldQuestions("blank", 60), WorldQuestions("test", 60)
    assert len(blank.asked) == len(shown.asked) == len(shown.samples()) > len(blank.samples())
    assert len({sample.image for sample in blank.samples()}) == 1
    assert {sample.text for sample in blank.samples()} == {sample.text for sample in shown.samples()}
    assert blank.score({sample.key: "yes" for sample in blank.samples()}) == shown.score(
        {sample.key: "yes" for sample in shown.samples()}
    )
    assert blank.score({sample.key: "yes" for sample in blank.samples()})["exist"] > 20


def test_world_questions_are_answered_as_a_person_would_ask_them(folder: Path, tmp_path: Path) -> None:
    """The benchmark, picture files and all, gives what the model gives in memory."""
    model, scenes = fwd2bot.load(folder, device="cpu"), [make_scene("composition", index) for index in range(4)]
    assert figures_of(folder, tmp_path)["composition"] == answer_scores(model, scenes)


def test_command_writes_the_result_with_its_origin(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results/world/tiny.json"
    assert main(["--model", str(folder), "--tokens", "1", "--images", "2", "--gallery", "2", "--out", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == result
    assert (result["model"], result["num_tokens"], result["images"], result["gallery"]) == ("tiny-fwd2bot", 1, 2, 2)
    assert result["fingerprint"].startswith("sha256:")
    assert {"commit", "command", "machine", "seconds", "figures"} <= set(result)


@pytest.mark.parametrize(("arguments", "code"), [(["--tokens", "3"], 2), (["--model", "nowhere"], 4)])
def test_command_tells_a_mistake_with_its_exit_code(
    arguments: list[str], code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(folder), "--images", "2", "--gallery", "2", *arguments]) == code
    assert capsys.readouterr().err.startswith("fwd2bot: ")


def test_odd_or_no_gallery_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--images", "0"], ["--gallery", "3"], ["--gallery", "0"]):
        assert main(["--model", str(folder), *arguments]) == 2
        assert "must be" in capsys.readouterr().err


def test_a_method_that_needs_the_question_compresses_for_each() -> None:
    model = Fwd2Bot(tiny_compressor("quecc"))
    shown, texts = pictures([make_scene("test", 0), make_scene("test", 1)]), ["what is it ?", "how many ?", "where ?"]
    rows = model.compress_for_questions(shown)([0, 1, 1], texts)
    alone = [model.compress([shown[row]], questions=[text])[0] for row, text in zip([0, 1, 1], texts, strict=True)]
    torch.testing.assert_close(rows, torch.stack(alone))
    assert not torch.allclose(rows[1], rows[2])
