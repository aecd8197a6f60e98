import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_compressor

from fwd2bot import model as model_module
from fwd2bot.checkpoint import save_model
from fwd2bot.errors import ImageError, InputError, ModelError
from fwd2bot.model import Fwd2Bot, load

QUESTIONS = ["what ?", "how many foxes are there on a red background ?", "x", "where is the fox", "what ?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-world"
    save_model(folder, tiny_compressor(token_counts=(1, 2, 4)))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.fixture(scope="module")
def tokens(model, images):
    return model.compress(images)


def test_says_what_it_is(model, folder):
    assert (model.name, model.num_tokens, model.token_counts, model.width) == ("tiny-world", 4, (1, 2, 4), 32)
    assert model.storable
    assert model.embeds_text
    assert model.cuttable
    assert model.fingerprint.startswith("sha256:")


def test_compresses_pictures_and_paths_alike(model, images, tokens, tmp_path):
    images[1].save(tmp_path / "one.png")
    torch.testing.assert_close(model.compress([str(tmp_path / "one.png"), images[0]]), tokens[[1, 0]])


def test_compresses_to_fewer_tokens(model, images, tokens):
    torch.testing.assert_close(model.compress(images, num_tokens=2), tokens[:, :2], rtol=1e-4, atol=1e-5)


def test_a_batch_gives_what_each_gives_alone(model, images, tokens, monkeypatch):
    answers = model.answer(tokens, QUESTIONS, max_new_tokens=8)
    captions = model.caption(tokens, max_new_tokens=8)
    for size in (1, 2):
        monkeypatch.setattr(model, "batch_size", size)
        torch.testing.assert_close(model.compress(images), tokens, rtol=1e-4, atol=1e-5)
        assert model.answer(tokens, QUESTIONS, max_new_tokens=8) == answers
        assert model.caption(tokens, max_new_tokens=8) == captions
        vectors = torch.stack([model.embed([question])[0] for question in QUESTIONS])
        torch.testing.assert_close(model.embed(QUESTIONS), vectors, rtol=1e-4, atol=1e-5)


def test_answers_are_about_the_rows_in_their_order(model, tokens):
    questions = [QUESTIONS[1]] * 5
    answers = model.answer(tokens, questions, max_new_tokens=8)
    assert model.answer(tokens.flip(0), questions, max_new_tokens=8) == answers[::-1]
    assert len(set(answers)) > 1


def test_tokens_of_a_store_are_answered_as_those_in_memory(model, tokens):
    stored = tokens.numpy().astype(np.float32)
    assert model.answer(stored, QUESTIONS) == model.answer(tokens, QUESTIONS)
    assert torch.equal(model.embed(stored), model.embed(tokens))


def test_vectors_have_unit_norm_and_are_the_means(model, tokens):
    vectors = model.embed(tokens)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(tokens.mean(1), dim=-1))
    torch.testing.assert_close(model.embed(QUESTIONS).norm(dim=-1), torch.ones(5))


def test_folded_adapters_change_nothing(model, images, tokens, folder):
    from fwd2bot.checkpoint import load_model

    plain = Fwd2Bot(load_model(folder))
    torch.testing.assert_close(plain.compress(images), tokens, rtol=1e-4, atol=1e-4)
    assert plain.answer(tokens, QUESTIONS, max_new_tokens=8) == model.answer(tokens, QUESTIONS, max_new_tokens=8)


def test_hidden_tokens_change_answers(model, tokens):
    answers = model.answer(tokens, QUESTIONS, max_new_tokens=8)
    assert model.answer(tokens, QUESTIONS, keep=[True] * 4, max_new_tokens=8) == answers
    assert model.answer(tokens, QUESTIONS, keep=[False, True, True, True], max_new_tokens=8) != answers


def test_nothing_gives_nothing(model):
    empty = model.compress([])
    assert empty.shape == (0, 4, 32)
    assert model.answer(empty, []) == model.caption(empty) == []
    assert model.embed(empty).shape == model.embed([]).shape == (0, 32)


def test_rows_in_a_list_and_counts_that_are_no_int_will_do(model, images, tokens):
    assert model.caption([*tokens], max_new_tokens=8) == model.caption(tokens, max_new_tokens=8)
    assert torch.equal(model.embed([*tokens]), model.embed(tokens))
    assert torch.equal(model.compress(images, 2.0), model.compress(images, np.int64(2)))


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (lambda model, rows: model.answer(rows[:1], [None]), "The questions hold a NoneType"),
        (lambda model, rows: model.answer(rows[:1], {"a": 1}), "A dict is no list of questions"),
        (lambda model, rows: model.answer(rows[:1], ["what ?"], max_new_tokens=-1), "cannot have -1 tokens"),
        (lambda model, rows: model.embed(["a", 3]), "The texts hold a int"),
        (lambda model, rows: model.embed(text for text in ["a"]), "A generator is no list of texts"),
        (lambda model, rows: model.embed([None]), "this list holds something else"),
        (lambda model, rows: model.caption(None), "this NoneType holds something else"),
        (lambda model, rows: model.caption(5), "Tokens have the shape"),
        (lambda model, rows: model.compress(Image.new("RGB", (8, 8))), "A Image is no list of pictures"),
        (lambda model, rows: model.compress(torch.zeros(1, 3, 5, 5)), r"Pixels .* not float32 of \(1, 3, 5, 5"),
        (lambda model, rows: model.compress(torch.zeros(1, 3, 16, 16).byte()), "Pixels are floats .* not uint8"),
        (lambda model, rows: model.compress(torch.zeros(3, 16, 16)), "Pixels are floats"),
    ],
)
def test_what_is_of_another_kind_is_told_in_a_sentence(model, tokens, job, words):
    with pytest.raises(InputError, match=words):
        job(model, tokens)


def test_no_gradients_are_kept(model, tokens):
    assert not tokens.requires_grad
    assert not model.embed(["a fox"]).requires_grad


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, tokens: model.answer(tokens, ["a"]), "There are 1 questions to 5 rows"),
        (lambda model, tokens: model.answer(tokens, ["a", " ", "b", "c", "d"]), "The question is empty"),
        (
            lambda model, tokens: model.answer(tokens, ["fox " * 300] * 5),
            r"has \d+ tokens, and this model has room for",
        ),
        (lambda model, tokens: model.answer(tokens, ["a"] * 5, keep=[True]), "keep has 1 values for 4 tokens"),
        (
            lambda model, tokens: model.answer(tokens[0], ["a"] * 4),
            r"the shape \(pictures, tokens, 32\) here, not \(4, 32\)",
        ),
        (lambda model, tokens: model.embed(np.zeros((2, 4, 8))), r"not \(2, 4, 8\)"),
        (lambda model, tokens: model.embed("a fox"), "'a fox' is no list of texts; put it in a list"),
        (lambda model, tokens: model.compress("fox.png"), "'fox.png' is no list of pictures"),
        (lambda model, tokens: model.answer(tokens, "abcde"), "'abcde' is no list of questions"),
        (lambda model, tokens: model.compress([np.zeros((8, 8, 3))]), "a PIL image or a path here, not ndarray"),
        (lambda model, tokens: model.answer(tokens * np.nan, ["a"] * 5), "hold numbers that are none"),
        (lambda model, tokens: model.embed(["a", ""]), "A text to embed is empty"),
        (lambda model, tokens: model.embed(["fox " * 300]), "A text of"),
        (lambda model, tokens: model.answer(tokens, ["a \udcff"] * 5), r"'a \\udcff' has a character that is none"),
        (lambda model, tokens: model.embed(["\ud800"]), "has a character that is none in UTF-8"),
        (lambda model, tokens: model.compress([], num_tokens=3), "gives 1, 2, 4 tokens an image, not 3"),
    ],
    ids=[
        "count",
        "empty",
        "long",
        "keep",
        "rank",
        "width",
        "string",
        "path",
        "question",
        "array",
        "nan",
        "no text",
        "long text",
        "bytes asked",
        "bytes",
        "tokens",
    ],
)
def test_bad_input_is_one_sentence(model, tokens, call, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        call(model, tokens)
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_picture_is_an_image_error(model, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError):
        model.compress([tmp_path / "text.png"])


def test_average_pooling_says_that_it_embeds_no_text():
    model = Fwd2Bot(tiny_compressor("average_pool"), name="pooled")
    with pytest.raises(InputError, match="pooled does not embed text"):
        model.embed(["a fox"])


def test_a_model_in_memory_has_no_fingerprint():
    with pytest.raises(ModelError, match="not saved, so it has no fingerprint"):
        assert Fwd2Bot(tiny_compressor()).fingerprint


def test_a_folder_that_is_written_anew_has_no_fingerprint_of_the_model_before(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    known, late = load(tmp_path / "model"), load(tmp_path / "model")
    before = known.fingerprint
    save_model(tmp_path / "model", tiny_compressor(token_counts=(1, 2, 4), prompt="in a word"))
    with pytest.raises(ModelError, match="model has changed since the model was loaded; load it again"):
        assert late.fingerprint
    assert known.fingerprint == before
    assert load(tmp_path / "model").fingerprint not in (before, "")


def test_loads_by_bundled_name(folder, monkeypatch):
    monkeypatch.setattr(model_module, "BUNDLED", folder.parent)
    assert model_module.bundled_names() == ["tiny-world"]
    assert load("tiny-world").name == "tiny-world"
    with pytest.raises(ModelError, match=r"no model 'tiny': .* a bundled one \(tiny-world\)"):
        load("tiny")


def test_only_owner_and_name_are_looked_for_on_the_hub(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(model_module.checkpoint, "find_on_hub", lambda name: asked.append(name) or folder)
    assert load("someone/some-model").name == "someone/some-model"
    for name in ("nothing", "../nothing", "./a/b", "a/b/c", "/tmp/no-such-model"):
        with pytest.raises(ModelError, match="There is no model"):
            load(name)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelError, match="is a file, not a model"):
        load(f"{folder.name}/config.json")
    assert asked == ["someone/some-model"]


def test_a_model_has_a_name():
    with pytest.raises(InputError, match="named by a text or a path, not NoneType"):
        load(None)


def test_dtypes_and_devices(folder):
    half = load(folder, device="cpu", dtype="bfloat16")
    assert half.compress([Image.new("RGB", (9, 9))]).dtype == torch.bfloat16
    assert half.embed(["a fox"]).dtype == torch.float32
    with pytest.raises(InputError, match="'int8' is no dtype here; the dtypes are float32"):
        load(folder, dtype="int8")
    for device in ("gpu", "cuda:99", "meta"):
        with pytest.raises(InputError, match=f"The device '{device}' cannot be used here"):
            load(folder, device=device)
