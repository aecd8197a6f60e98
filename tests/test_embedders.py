"""E5-V's way of asking for one word, without training and with it, and VLM2Vec's, against plain transformers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import tiny_compressor

from fwd2bot.data.conversations import TEMPLATES
from fwd2bot.data.world.language import captions
from fwd2bot.data.world.samples import draw_triplet
from fwd2bot.data.world.scene import make_scene, near_duplicate
from fwd2bot.errors import InputError
from fwd2bot.evaluation.embedders import ModelEmbedder, OneWordEmbedder, as_embedder
from fwd2bot.evaluation.metrics import recall_at, similarities
from fwd2bot.losses import one_way_loss
from fwd2bot.model import Fwd2Bot
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.sentences import FileSentences, sentences

TEXTS = ["a fox on a red background", "stars", "how many stars are there ?"]
PICTURES = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue", "green")]
VICUNA = TEMPLATES["vicuna_v1"].before_image


def plain_state(llava, text: str, image: Image.Image | None = None) -> torch.Tensor:
    """The last hidden state at the last token of `text`, in plain transformers and alone: nothing is padded."""
    ids = [1]
    for one in llava.tokenizer(text, add_special_tokens=False)["input_ids"]:
        ids += [one] * (16 if one == 4 else 1)
    pixels = None if image is None else llava.pixels([image])
    with torch.inference_mode():
        states = llava.network.model(input_ids=torch.tensor([ids]), pixel_values=pixels).last_hidden_state
    return F.normalize(states[0, -1], dim=-1)


def check_against_plain(embedder, image_prompt: str, text_prompt: str) -> None:
    llava = embedder.model.compressor.llava
    images, texts = embedder.embed_images(PICTURES), embedder.embed_texts(TEXTS)
    assert images.dtype == texts.dtype == np.float32
    plain = [plain_state(llava, image_prompt, picture) for picture in PICTURES]
    np.testing.assert_allclose(images, torch.stack(plain).numpy(), rtol=1e-3, atol=1e-4)
    plain = [plain_state(llava, text_prompt.format(text)) for text in TEXTS]
    np.testing.assert_allclose(texts, torch.stack(plain).numpy(), rtol=1e-3, atol=1e-4)
    assert abs(images[0] - images[1]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1.0, rtol=1e-5)


ONE_WORD = (
    VICUNA + "<image>\nSummary above image in one word: ASSISTANT:",
    VICUNA + "{}\nSummary above sentence in one word: ASSISTANT:",
)


def test_a_llava_is_asked_for_one_word_as_plain_transformers_would():
    model = Fwd2Bot(tiny_compressor("identity", adapters="none", template="vicuna_v1"))
    embedder = as_embedder(model)
    assert isinstance(embedder, OneWordEmbedder)
    assert (embedder.num_tokens, embedder.vectors) == (16, "asked for one word")
    check_against_plain(embedder, *ONE_WORD)


def test_e5v_before_training_is_the_llava_asked_for_one_word():
    model = Fwd2Bot(tiny_compressor("e5v", stir=False, template="vicuna_v1"))
    embedder = as_embedder(model)
    assert type(embedder) is ModelEmbedder
    check_against_plain(embedder, *ONE_WORD)


def test_vlm2vec_before_training_is_the_last_token_of_picture_and_instruction():
    model = Fwd2Bot(tiny_compressor("vlm2vec", stir=False))
    check_against_plain(as_embedder(model), "<image> Find an image caption describing the given image.", "{}")


@pytest.mark.parametrize("name", ["average_pool", "fastv", "quecc"])
def test_tokens_of_every_method_are_read_by_its_own_answering_pass(name):
    """Alone and in a batch; the adapter that answers counts."""
    compressor = tiny_compressor(name)
    embedder = as_embedder(Fwd2Bot(compressor))
    images = embedder.embed_images(PICTURES)
    np.testing.assert_allclose(embedder.embed_images(PICTURES[1:2]), images[1:2], rtol=1e-3, atol=1e-4)
    texts = embedder.embed_texts(TEXTS)
    np.testing.assert_allclose(embedder.embed_texts(TEXTS[1:2]), texts[1:2], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        for parameter in compressor.own_parameters().values():
            parameter.zero_()
    assert abs(embedder.embed_texts(TEXTS) - texts).max() > 1e-3


def test_a_model_that_embeds_text_gives_its_own_vectors():
    model = Fwd2Bot(tiny_compressor(token_counts=(2, 4)))
    embedder = as_embedder(model, 2)
    assert (embedder.num_tokens, embedder.vectors) == (2, "its own")
    assert np.array_equal(embedder.embed_texts(TEXTS), model.embed(TEXTS, 2).numpy())
    assert np.array_equal(embedder.embed_images(PICTURES), model.embed(model.compress(PICTURES, 2)).numpy())
    with pytest.raises(InputError, match="2, 4 tokens an image, not 3"):
        as_embedder(model, 3)


@pytest.mark.parametrize("name", ["e5v", "vlm2vec"])
def test_what_only_embeds_answers_nothing(name):
    model = Fwd2Bot(tiny_compressor(name))
    tokens = model.compress(PICTURES)
    assert tokens.shape == (3, 1, model.width)
    assert not model.answers
    with pytest.raises(InputError, match="unsaved only embeds, so it answers no questions; take a fwd2bot model"):
        model.answer(tokens, ["what is it ?"] * 3)
    with pytest.raises(InputError, match=r"A text of \d+ tokens is too long; this model can embed \d+ at once"):
        model.embed(["fox " * 300])


def test_several_vectors_a_picture_count_by_the_nearest():
    """Picture 0 has one vector along each axis, picture 1 two that are worse; text 1 is nearer to picture 0 so."""
    images = np.array([[[1, 0], [0, 1]], [[0.8, 0.6], [0.6, 0.8]]], dtype=np.float32)
    texts = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    expected = np.array([[1, 1, 0.8], [0.8, 0.8, 1]], dtype=np.float32)
    np.testing.assert_allclose(similarities(images, texts), expected)
    np.testing.assert_allclose(similarities(texts, images), expected.T)
    found = recall_at(images, texts, [0, 1, 1], (1,))
    assert found == {"text_to_image_R@1": pytest.approx(200 / 3), "image_to_text_R@1": 50.0}


# Learning from text alone.


def test_one_way_loss_worked_by_hand():
    """Cosines 1, 0 and a wrong third text at 0.6; 0, 1 and 0.8; at temperature 0.5."""
    queries = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    first = math.log(math.exp(2) + 1 + math.exp(1.2)) - 2
    second = math.log(1 + math.exp(2) + math.exp(1.6)) - 2
    assert one_way_loss(queries, targets, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_triplets_of_the_world_say_the_same_and_nearly_the_same():
    whole = 0
    for index in range(40):
        scene = make_scene("train", index)
        anchor, positive, negative = draw_triplet("train", index)
        assert anchor == captions(scene)[0]
        assert negative == captions(near_duplicate(scene))[0] != anchor
        whole += positive not in captions(scene)[1:]
        assert draw_triplet("train", index) == (anchor, positive, negative)
    assert 8 < whole < 32


def sentence_run(path: Path, **more) -> TrainConfig:
    data = {"sources": [{"kind": "triplets", "path": str(path)}]}
    values = {"steps": 9, "batch_size": 2, "validation": 4, "losses": {"contrastive": 1.0}, "init": {"base": "x"}}
    return TrainConfig(stage="compressor", out=path.parent, **{**values, "data": data, **more})


def triplets_file(folder: Path, count: int = 40) -> Path:
    path = folder / "nli.csv"
    lines = [f'"a{number}, of NLI",p{number},n{number}' for number in range(count)]
    path.write_text("\n".join(["sent0,sent1,hard_neg", *lines]), "utf-8-sig")  # as Excel writes it
    return path


def test_a_file_of_triplets_is_shown_once_an_epoch_without_what_is_held_out(tmp_path):
    feed = FileSentences(sentence_run(triplets_file(tmp_path)))
    held = [text for batch in feed.validation() for text in batch.captions]
    assert len(held) == 4
    epochs = [[text for step in range(18 * epoch, 18 * (epoch + 1)) for text in feed.batch(step).captions]
              for epoch in (0, 1)]  # fmt: skip
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted({f"a{n}, of NLI" for n in range(40)} - set(held))
    assert epochs[0] != epochs[1]
    batch = feed.batch(5)
    numbers = [text.split(",")[0][1:] for text in batch.captions]
    assert batch.positives == [f"p{number}" for number in numbers]
    assert batch.negatives == [f"n{number}" for number in numbers]
    assert FileSentences(feed.config).batch(5) == batch


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("sent0,sent1\na,b", "has no column hard_neg; triplets are sent0, sent1, hard_neg"),
        ("sent0,sent1,hard_neg\na,b,c\na,b", r"Line 3 of .* lacks a text"),
        ("sent0,sent1,hard_neg\na,b,c", "has 1 triplets to learn from; a batch is 2"),
        (None, r"nli\.csv cannot be read: No such file"),
    ],
)
def test_files_of_another_kind_are_told(content, told, tmp_path):
    if content is not None:
        (tmp_path / "nli.csv").write_text(content)
    with pytest.raises(InputError, match=told):
        FileSentences(sentence_run(tmp_path / "nli.csv"))


def test_pictures_are_no_source_for_text_alone(tmp_path):
    pairs = {"kind": "captions", "path": "a.tar"}
    with pytest.raises(InputError, match=r"learns from text alone: data\.sources must be triplets"):
        sentences(sentence_run(tmp_path, data={"sources": [pairs]}))
    with pytest.raises(InputError, match="triplets stand alone"):
        sentence_run(tmp_path, data={"sources": [pairs, {"kind": "triplets", "path": "a.csv"}]})
