"""Whatever is sent, the answer is one, or a sentence about what is wrong with it: never a mistake of ours."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import chat, client_of, data_url, opened

from fwd2bot.server.messages import KNOWN, WITHOUT_EFFECT

TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "fake",
        "fox.png",
        "fwd2bot://fox.png",
        "fwd2bot://",
        "data:,",
        "file:///",
        "user",
        "assistant",
        "text",
        "image_url",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "/v1/chat/completions": sorted(KNOWN | WITHOUT_EFFECT.keys()),
    "/v1/embeddings": ["model", "input", "encoding_format", "dimensions"],
    "/album/search": ["query", "like", "image", "top", "cutoff"],
    "/album/caption": ["image"],
}
SOUND = {
    "/v1/chat/completions": chat("?"),
    "/v1/embeddings": {"model": "fake", "input": "red"},
    "/album/search": {"query": "red"},
    "/album/caption": {"image": "fox.png"},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("album")) as served, client_of(served) as client:
        yield client


@pytest.mark.parametrize("path", FIELDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fields_of_any_kind(client, path, data):
    changed = data.draw(st.dictionaries(st.sampled_from(FIELDS[path]), VALUES, min_size=1, max_size=2))
    answer = client.post(path, json={**SOUND[path], **changed})
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200 and not answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.json()["error"]["message"]


@settings(max_examples=60, deadline=None)
@given(parts=VALUES)
def test_messages_of_any_kind(client, parts):
    for messages in (parts, [parts], [{"role": "user", "content": parts}], [{"role": "user", "content": [parts]}]):
        answer = client.post("/v1/chat/completions", json={"model": "fake", "messages": messages})
        assert answer.status_code < 500, answer.text


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pictures_with_any_byte_changed(client, data):
    head, _, content = data_url(
        "red", "blue", data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]))
    ).partition(",")
    picture = bytearray(base64.b64decode(content))
    for place in data.draw(st.lists(st.integers(0, len(picture) - 1), max_size=4)):
        picture[place] = data.draw(st.integers(0, 255))
    cut = picture[: data.draw(st.integers(0, len(picture)))]
    url = f"{head},{base64.b64encode(cut).decode()}"
    assert client.post("/album/search", json={"like": url}).status_code in (200, 400)
