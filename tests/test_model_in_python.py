"""What a user does with model and store in Python beyond asking: pictures of all kinds, training, threads."""

import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from store_rows import make_row, new_store
from tiny import tiny_compressor

from fwd2bot import adapters
from fwd2bot import model as model_module
from fwd2bot.answering import Asked
from fwd2bot.checkpoint import load_model, save_model
from fwd2bot.engine import ask, caption, compress_images, match, search
from fwd2bot.errors import ImageError, InputError, ModelError
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, tiny_compressor(token_counts=(1, 2, 4)))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Fwd2Bot:
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.fixture
def photos(images: list[Image.Image], tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


def test_an_opened_picture_is_read_as_its_file_is(model: Fwd2Bot, tmp_path: Path) -> None:
    """Transparency is on white, 16 bits are scaled, a photograph stands as its EXIF says."""
    random = np.random.default_rng(0)
    clear = np.zeros((20, 24, 4), dtype=np.uint8)
    clear[:8, :8] = (200, 30, 60, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(random.integers(0, 65535, (20, 24), dtype=np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "turned.png", exif=exif)
    for name in ("clear.png", "deep.png", "turned.png"):
        with Image.open(tmp_path / name) as picture:
            found = model.compress([picture])
        torch.testing.assert_close(found, model.compress([tmp_path / name]))
    torch.testing.assert_close(
        model.compress([tmp_path / "clear.png"]),
        model.compress([Image.alpha_composite(Image.new("RGBA", (24, 20), "white"), Image.fromarray(clear))]),
    )


def test_a_damaged_picture_that_was_opened_is_an_image_error(model: Fwd2Bot, photos: Path) -> None:
    content = (photos / "0.png").read_bytes()
    (photos / "0.png").write_bytes(content[: len(content) // 2])
    with Image.open(photos / "0.png") as picture, pytest.raises(ImageError, match="cannot be read"):
        model.compress([picture])


def test_vectors_of_rows_that_are_cut(model: Fwd2Bot, images: list[Image.Image]) -> None:
    tokens = model.compress(images)
    assert torch.equal(model.embed(tokens, 2), model.embed(tokens[:, :2]))
    assert torch.equal(model.embed(tokens, 4), model.embed(tokens))
    assert not torch.allclose(model.embed(tokens, 2), model.embed(tokens), atol=1e-3)
    for count in (0, 5):
        with pytest.raises(InputError, match="Rows of 4 tokens give no vectors of"):
            model.embed(tokens, count)
    whole = Fwd2Bot(tiny_compressor())
    with pytest.raises(InputError, match="leave num_tokens out"):
        whole.embed(whole.compress(images), 2)


def test_something_can_be_trained_on_tokens_and_vectors(model: Fwd2Bot, images: list[Image.Image]) -> None:
    tokens = model.compress(images)
    for given in (tokens.mean(dim=1), model.embed(tokens), model.embed(["a fox", "a star"])):
        probe = torch.nn.Linear(model.width, 1)
        probe(given).sum().backward()
        assert probe.weight.grad is not None
        given -= given.mean(dim=0)


def test_a_loaded_model_can_be_trained_and_given_adapters(
    folder: Path, images: list[Image.Image], tmp_path: Path
) -> None:
    loaded = load(folder, "cpu")
    before = loaded.compress(images)
    parameters = loaded.compressor.trainable()
    torch.testing.assert_close(loaded.compress(images), before, rtol=1e-4, atol=1e-4)
    loaded.compressor.compress(loaded.prepare(images)).square().sum().backward()
    reached = {id(one) for one in parameters if one.grad is not None}
    of_pass_1 = [one for name, one in adapters.adapter_parameters(loaded.compressor).items() if "compress" in name]
    assert of_pass_1
    assert {id(one) for one in of_pass_1} <= reached

    other = tiny_compressor(token_counts=(1, 2, 4))
    with torch.no_grad():
        for parameter in adapters.adapter_parameters(other).values():
            parameter.mul_(-2)
    adapters.save_adapter(other, "compress", tmp_path / "other")
    loaded = load(folder, "cpu")
    adapters.load_adapter(loaded.compressor, "compress", tmp_path / "other")
    plain = load_model(folder)
    adapters.load_adapter(plain, "compress", tmp_path / "other")
    found = loaded.compress(images)
    torch.testing.assert_close(found, Fwd2Bot(plain).compress(images), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)


def test_a_loaded_model_can_be_given_other_numbers(folder: Path, images: list[Image.Image]) -> None:
    loaded = load(folder, "cpu")
    before = loaded.compress(images)
    loaded.compressor.to(torch.float64)
    found = loaded.compress(images)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), before, rtol=1e-3, atol=1e-3)


def test_default_numbers_of_torch_change_no_vectors(model: Fwd2Bot) -> None:
    expected = model.embed(["a fox"])
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(model.embed(["a fox"]), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_model_and_store_go_to_other_processes(
    model: Fwd2Bot, images: list[Image.Image], photos: Path, tmp_path: Path
) -> None:
    again: Fwd2Bot = ForkingPickler.loads(ForkingPickler.dumps(model))
    assert torch.equal(again.compress(images), model.compress(images))
    assert again.fingerprint == model.fingerprint
    compress_images(model, [photos], tmp_path / "s.store")
    store: Store = ForkingPickler.loads(ForkingPickler.dumps(Store.open(tmp_path / "s.store")))
    assert [found.results for found in search(again, store, ["a fox"])] == [
        found.results for found in search(model, Store.open(tmp_path / "s.store"), ["a fox"])
    ]


def test_a_model_whose_files_are_others_by_now_is_not_saved(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "mine", tiny_compressor(token_counts=(1, 2, 4)))
    loaded = load(tmp_path / "mine", "cpu")
    weights = next((tmp_path / "mine").rglob("*.safetensors"))
    weights.write_bytes((next(folder.rglob(weights.name))).read_bytes())
    with pytest.raises(ModelError, match="changed since the model was loaded"):
        loaded.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_path_names_a_folder_before_a_bundled_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_module.find_model(Path("emoji-world")) == model_module.BUNDLED / "emoji-world"
    load(folder, "cpu").save_pretrained("emoji-world")
    assert model_module.find_model(Path("./emoji-world")) == Path("emoji-world")
    assert model_module.find_model("emoji-world") == model_module.BUNDLED / "emoji-world"
    assert load(Path("emoji-world"), "cpu").source == str(tmp_path / "emoji-world")


def test_sizes_that_cannot_be(model: Fwd2Bot, images: list[Image.Image]) -> None:
    for size in (0, -1):
        with pytest.raises(InputError, match="A batch cannot have"):
            model.batch_size = size
    assert model.batch_size == 32
    assert model.prepare([]).shape == (0, 3, 16, 16)
    with pytest.raises(InputError, match="take a smaller max_new_tokens"):
        model.caption(model.compress(images[:1]), max_new_tokens=model.context)
    with pytest.raises(InputError, match="One row of tokens"):
        model.attention(model.compress(images[:1]))


def test_an_answer_of_no_tokens_ends(model: Fwd2Bot, images: list[Image.Image]) -> None:
    running = model.running()
    tokens = model.compress(images[:1])
    prompt = model.prompt([("what ?", None)], tokens.shape[1])
    (answer,) = running.join([Asked(tokens=tokens[0], prompt=prompt, max_new_tokens=0)])
    for _ in range(3):
        running.step()
    assert len(running) == 0
    assert answer.finish is not None


def test_threads_look_at_their_own_passes(model: Fwd2Bot, images: list[Image.Image]) -> None:
    tokens = model.compress(images)
    expected = [model.attention(row, "where is the fox ?", image) for row, image in zip(tokens, images, strict=True)]
    failed: list[object] = []

    def look(number: int) -> None:
        for _ in range(6):
            try:
                found = model.attention(tokens[number], "where is the fox ?", images[number])
            except Exception as error:
                failed.append(error)
                return
            if not np.allclose(found.compress or [], expected[number].compress or [], atol=1e-5):
                failed.append(number)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# Stores.


def test_any_iterable_of_rows_paths_and_names_will_do(model: Fwd2Bot, photos: Path, tmp_path: Path) -> None:
    compress_images(model, photos.glob("*.png"), tmp_path / "s.store")
    store = Store.open(tmp_path / "s.store")
    assert len(store) == 5
    store.remove({"0.png", "1.png"})
    assert store.names() == ["2.png", "3.png", "4.png"]
    rows = new_store(tmp_path / "rows.store")
    rows.add(make_row(name) for name in "abc")
    assert rows.names() == ["a", "b", "c"]


def test_a_path_names_an_image(model: Fwd2Bot, photos: Path, tmp_path: Path) -> None:
    compress_images(model, [photos], tmp_path / "s.store")
    store = Store.open(tmp_path / "s.store")
    assert store.get([Path("0.png")])[0].name == "0.png"  # type: ignore[list-item]  # what users give


def test_threads_that_write_through_one_store_lose_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.store")
    failed: list[Exception] = []

    def write(part: int) -> None:
        try:
            for number in range(12):
                store.add([make_row(f"{part}/{number}")])
        except Exception as error:
            failed.append(error)

    for around in (False, True):
        threads = [threading.Thread(target=write, args=(part + 3 * around,)) for part in range(3)]
        if around:
            with store.writing():
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        else:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert failed == []
    wanted = {f"{part}/{number}" for part in range(6) for number in range(12)}
    assert set(Store.open(store.path).names()) == wanted
    assert len(Store.open(store.path)) == len(wanted)
    for row in Store.open(store.path).get(sorted(wanted)):
        assert np.array_equal(row.vector, store.get([row.name])[0].vector)


def test_a_vector_of_no_numbers_finds_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.store")
    store.add([make_row("a")])
    with pytest.raises(InputError, match="A vector to search by holds numbers that are none"):
        store.search(np.full(store.header.width, np.nan, dtype=np.float32))


def test_one_text_is_no_list_of_texts(model: Fwd2Bot, photos: Path, tmp_path: Path) -> None:
    compress_images(model, [photos], tmp_path / "s.store")
    store = Store.open(tmp_path / "s.store")
    with pytest.raises(InputError, match="'red' is no list of queries"):
        search(model, store, "red")
    with pytest.raises(InputError, match="'red' is no list of texts"):
        match(model, photos / "0.png", "red")
    with pytest.raises(InputError, match="is no list of images"):
        list(caption(model, store, "0.png"))
    with pytest.raises(InputError, match="is no list of questions"):
        list(ask(model, store, "what"))  # type: ignore[arg-type]  # what users give
    (found,) = search(model, store, [None])  # type: ignore[list-item]  # what users give
    assert found.error == "A query is a text, not a NoneType."
