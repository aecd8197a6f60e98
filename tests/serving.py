"""A server with the model that sees colours, over an album of three pictures; in this process or on a port."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from fake_model import COLOURS, FakeModel, picture
from PIL import Image

from fwd2bot.engine import compress_images
from fwd2bot.server.app import make_app
from fwd2bot.server.run import Stoppable, address, bind
from fwd2bot.server.served import Served
from fwd2bot.store import Store

HERE = "http://127.0.0.1:8000"


def make_album(folder: Path) -> Store:
    """photos/ beside album.store: fox.png is red, sea.png blue, more/flag.png green and yellow."""
    picture(folder / "photos/fox.png", "red")
    picture(folder / "photos/sea.png", "blue")
    picture(folder / "photos/more/flag.png", "green", "yellow")
    compress_images(FakeModel(), [folder / "photos"], folder / "album.store")
    return Store.open(folder / "album.store")


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Served]:
    """A server that nobody can reach yet."""
    model = FakeModel()
    served = Served.open(model, make_album(folder), **{"images": [folder / "photos"], **options})
    try:
        yield served
    finally:
        model.may_go_on.set()
        served.close()


@contextmanager
def client_of(served: Served, **headers: str) -> Iterator[Any]:
    """Asks it in this process; `client.model` is its model."""
    from starlette.testclient import TestClient

    with TestClient(make_app(served), base_url=HERE, headers=headers) as client:
        yield client


@contextmanager
def on_a_port(served: Served) -> Iterator[str]:
    """Its address, while it serves on a free port."""
    listening = bind("127.0.0.1", 0)
    server = Stoppable(served)
    began = threading.Event()
    thread = threading.Thread(target=server.serve_on, args=(listening, began.set))
    thread.start()
    assert began.wait(30)
    try:
        yield address(listening)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def data_url(colour: str, other: str | None = None, kind: str = "PNG") -> str:
    """A picture of one colour, or of another in its right half."""
    image = Image.new("RGB", (16, 16), tuple(255 * part for part in COLOURS[colour]))
    if other is not None:
        image.paste(tuple(255 * part for part in COLOURS[other]), (8, 0, 16, 16))
    buffer = BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def chat(question: str = "each ?", url: str = "fwd2bot://fox.png", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion about one picture."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"model": "fake", "messages": [{"role": "user", "content": content}], **fields}


def told(answer: Any, status: int) -> str:
    """The sentence of an error."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    message: str = error["message"]
    assert message.endswith((".", "?", "...")) or "'" in message
    return message


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
