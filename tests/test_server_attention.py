"""The end point behind the attention view: what the model gives, and no more than the server may show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_model import picture
from tiny import tiny_compressor

from fwd2bot.checkpoint import save_model
from fwd2bot.engine import compress_images
from fwd2bot.images import read_image
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.store import Row, Store

pytest.importorskip("starlette", reason="needs starlette (pip install 'fwd2bot[serve]')")

QUESTION = "what is at the top left ?"


class Asked(NamedTuple):
    model: Fwd2Bot
    row: Row
    client: Any
    folder: Path

    def post(self, **body: Any) -> Any:
        return self.client.post("/album/attention", json=body)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Fwd2Bot:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, tiny_compressor(num_tokens=8, token_counts=(2, 8)))
    return load(folder, device="cpu")


@pytest.fixture
def asked(model: Fwd2Bot, tmp_path: Path) -> Iterator[Asked]:
    """A server whose store has two tokens an image, of eight that the model offers."""
    from starlette.testclient import TestClient

    from fwd2bot.server.app import make_app
    from fwd2bot.server.served import Served

    picture(tmp_path / "shown/fox.png", "red", "yellow")
    picture(tmp_path / "hidden/sea.png", "blue")
    folders = [tmp_path / "shown", tmp_path / "hidden"]
    compress_images(model, folders, tmp_path / "album.store", num_tokens=2)
    store = Store.open(tmp_path / "album.store")
    served = Served.open(model, store, images=[tmp_path / "shown"])
    try:
        with TestClient(make_app(served), base_url="http://127.0.0.1:8000") as client:
            yield Asked(model, store.get(["fox.png"])[0], client, tmp_path)
    finally:
        served.close()


def test_attention_is_that_of_the_model(asked: Asked) -> None:
    told = asked.post(image="fox.png", question=QUESTION).json()
    shown = read_image(asked.folder / "shown/fox.png")
    found = asked.model.attention(asked.row.tokens, QUESTION, shown)
    assert found.compress is not None
    assert (told["grid"], told["seen"], told["text"]) == ([4, 4], [1.0, 1.0], found.text)
    assert told["answer"] == pytest.approx(found.answer)
    assert [len(weights) for weights in told["compress"]] == [16, 16]
    for one, other in zip(told["compress"], found.compress, strict=True):
        assert one == pytest.approx(other)


def test_attention_without_a_question_is_that_of_the_caption(asked: Asked) -> None:
    told = asked.post(image="fox.png", question=None).json()
    assert told["text"] == asked.client.post("/album/caption", json={"image": "fox.png"}).json()["caption"]
    assert told["answer"] != asked.post(image="fox.png", question=QUESTION).json()["answer"]


@pytest.mark.parametrize("what", ["gone", "changed", "broken"])
def test_attention_of_a_picture_that_is_no_more_is_of_the_row_alone(asked: Asked, what: str) -> None:
    before = asked.post(image="fox.png", question=QUESTION).json()
    file = asked.folder / "shown/fox.png"
    if what == "gone":
        file.unlink()
    elif what == "changed":
        picture(file, "green")
    else:
        file.write_bytes(b"")
    told = asked.post(image="fox.png", question=QUESTION).json()
    assert told == {**before, "compress": None}


def test_picture_that_may_not_be_shown_is_not_looked_at(asked: Asked) -> None:
    assert asked.post(image="sea.png", question=QUESTION).json()["compress"] is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"image": "wolf.png"}, 404, "There is no image 'wolf.png'"),
        ({"question": "what ?"}, 400, '"image" must be a text'),
        ({"image": "fox.png", "question": " "}, 400, '"question" must be a text that is not empty'),
        ({"image": "fox.png", "question": "what ? " * 500}, 400, "this model has room for"),
    ],
)
def test_what_cannot_be_asked_is_told(asked: Asked, body: dict[str, Any], status: int, words: str) -> None:
    told = asked.post(**body)
    assert told.status_code == status
    assert words in told.json()["error"]["message"]
