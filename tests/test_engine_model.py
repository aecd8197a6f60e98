"""The jobs with a real model, tiny and random: what comes from a row is what comes from the tokens in memory."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_compressor

from fwd2bot.checkpoint import save_model
from fwd2bot.engine import ask, caption, compress_images, search, search_like
from fwd2bot.errors import InputError
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.store import QUANTISERS, Store
from fwd2bot.store.quantise import quantiser

NAMES = [f"{place}.png" for place in range(5)]
QUESTIONS = ["what ?", "how many foxes are there on a red background ?", "x", "where is the fox", "what ?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Fwd2Bot:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, tiny_compressor(token_counts=(1, 2, 4)))
    return load(folder)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in NAMES]


@pytest.fixture(params=sorted(QUANTISERS))
def stored(request: pytest.FixtureRequest, model: Fwd2Bot, images: list[Image.Image], tmp_path: Path) -> Store:
    (tmp_path / "p").mkdir()
    for name, image in zip(NAMES, images, strict=True):
        image.save(tmp_path / "p" / name)
    compress_images(model, [tmp_path / "p"], tmp_path / "s", quantisation=request.param, batch_size=2)
    shutil.rmtree(tmp_path / "p")
    return Store.open(tmp_path / "s")


def rounded(store: Store, tokens: torch.Tensor) -> np.ndarray:
    """Tokens in memory, with the precision of the store."""
    codec = quantiser(store.header.quantisation)
    return codec.decode(codec.encode(tokens.numpy()))


def test_a_row_holds_the_tokens_of_the_picture(model: Fwd2Bot, images: list[Image.Image], stored: Store) -> None:
    tokens = model.compress(images).numpy()
    rows = np.stack([row.tokens for row in stored.get(NAMES)])
    assert (np.abs(rows - tokens) <= quantiser(stored.header.quantisation).tolerance(tokens) + 1e-5).all()
    vectors = np.stack([row.vector for row in stored.get(NAMES)])
    exact = model.embed(torch.from_numpy(tokens)).numpy()
    assert (np.abs(vectors - exact) <= stored.header.vector_quantiser.tolerance(exact) * 2 + 1e-5).all()


def test_answers_from_rows_equal_answers_from_tokens(model: Fwd2Bot, images: list[Image.Image], stored: Store) -> None:
    rows = np.stack([row.tokens for row in stored.get(NAMES)])
    replies = list(ask(model, stored, zip(NAMES, QUESTIONS, strict=True)))
    assert [reply.text for reply in replies] == model.answer(rows, QUESTIONS)
    assert [reply.text for reply in caption(model, stored, NAMES)] == model.caption(rows)


def test_answers_from_the_beginning_of_rows_equal_those_of_a_shorter_compression(
    model: Fwd2Bot, images: list[Image.Image], stored: Store
) -> None:
    rows = np.stack([row.tokens for row in stored.get(NAMES, num_tokens=2)])
    np.testing.assert_allclose(rows, rounded(stored, model.compress(images, num_tokens=2)), rtol=0.02, atol=1e-4)
    replies = ask(model, stored, zip(NAMES, QUESTIONS, strict=True), num_tokens=2)
    assert [reply.text for reply in replies] == model.answer(rows, QUESTIONS)
    with pytest.raises(InputError, match="gives 1, 2 or 4 tokens an image, not 3"):
        list(ask(model, stored, [("0.png", "x")], num_tokens=3))


def test_search_from_rows_equals_cosines_of_their_vectors(
    model: Fwd2Bot, images: list[Image.Image], stored: Store, tmp_path: Path
) -> None:
    vectors = np.stack([row.vector for row in stored.get(NAMES)])
    cosines = (model.embed(["a fox"]).numpy() @ vectors.T)[0]
    [found] = search(model, stored, ["a fox"], top=3)
    assert [name for name, _ in found.results] == [NAMES[place] for place in np.argsort(-cosines)[:3]]
    np.testing.assert_allclose([score for _, score in found.results], np.sort(cosines)[::-1][:3], atol=1e-4)
    images[3].save(tmp_path / "query.png")
    assert search_like(model, stored, tmp_path / "query.png").results[0] == ("3.png", pytest.approx(1, abs=0.01))


def test_a_text_that_is_too_long_leaves_the_others_their_results(model: Fwd2Bot, stored: Store) -> None:
    found = search(model, stored, ["a fox", "x " * 400, "red"], top=1)
    assert [len(one.results) for one in found] == [1, 0, 1]
    assert "too long" in (found[1].error or "")


def test_compress_refuses_a_model_that_reduces_while_it_answers(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    inside = Fwd2Bot(tiny_compressor("fastv", num_tokens=4, adapters="none"), name="inside")
    with pytest.raises(InputError, match="inside makes no rows to keep"):
        compress_images(inside, [tmp_path / "a.png"], tmp_path / "s")
