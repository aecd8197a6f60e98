"""OpenAI's end points, asked by OpenAI's own client through a socket."""

import json
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import openai
import pytest
from serving import chat, client_of, data_url, on_a_port, opened, until

from fwd2bot.engine import ask
from fwd2bot.server import run
from fwd2bot.server.messages import IGNORED, WITHOUT_EFFECT
from fwd2bot.server.replies import Limits

QUESTION = "each ?"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("album"), token="sesame", batch=4, queue=6) as served:
        yield served


@pytest.fixture(scope="module")
def address(served):
    with on_a_port(served) as address:
        yield address


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0, timeout=60) as client:
        yield client


def said(client, **fields):
    return client.chat.completions.create(**chat(**fields)).choices[0].message.content


def test_models_are_the_one(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "fwd2bot"
    with pytest.raises(openai.NotFoundError, match="There is no model 'other' here; the model is 'fake'"):
        client.models.retrieve("other")


def test_an_answer_is_that_of_ask(client, served):
    for name in served.album.store.names():
        [reply] = ask(served.model, served.album.store, [(name, QUESTION)])
        answer = client.chat.completions.create(**chat(QUESTION, f"fwd2bot://{name}", temperature=0))
        choice = answer.choices[0]
        assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", reply.text, "stop")
        assert (answer.model, answer.object) == ("fake", "chat.completion")
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2 + 4, 4, 10)


def test_a_stream_says_the_same_piece_by_piece(client):
    whole = said(client, url="fwd2bot://more/flag.png")
    chunks = list(
        client.chat.completions.create(
            **chat(url="fwd2bot://more/flag.png", stream=True, stream_options={"include_usage": True})
        )
    )
    *spoken, last, usage = chunks
    pieces = [chunk.choices[0].delta.content for chunk in spoken]
    assert "".join(pieces) == whole == "green yellow green yellow"
    assert len(pieces) == 1 + 4
    assert spoken[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage.total_tokens) == ([], 10)
    assert len({chunk.id for chunk in chunks}) == 1


def test_pictures_may_be_stored_sent_or_in_a_folder(client, served):
    folder = served.album.folders.folders[0]
    for url in (
        "fwd2bot://more%2Fflag.png",
        "fwd2bot://flag.png",  # any end of its name
        data_url("green", "yellow"),
        data_url("green", "yellow", "WEBP"),
        f"file://{folder}/more/flag.png",
        f"file://localhost{folder}/more/flag.png",
        f"{folder}/more/flag.png",
        "more/flag.png",
    ):
        assert said(client, url=url) == "green yellow green yellow", url


def test_the_end_of_an_answer(client):
    short = client.chat.completions.create(**chat(max_tokens=2)).choices[0]
    assert (short.message.content, short.finish_reason) == ("red red", "length")
    assert said(client, max_completion_tokens=1) == "red"
    stopped = client.chat.completions.create(**chat(stop=["ed re"])).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("r", "stop")


def test_a_conversation_has_its_history(client):
    picture, text = chat()["messages"][0]["content"]
    messages = [
        {"role": "user", "content": [text, picture]},
        {"role": "assistant", "content": "red red red red"},
        {"role": "user", "content": [{"type": "text", "text": "colour ?"}]},
    ]
    answer = client.chat.completions.create(model="fake", messages=messages)
    assert answer.choices[0].message.content == "red"
    assert answer.usage.prompt_tokens == 2 + 4 + 2 + 4
    messages[2]["content"] = [text, picture]  # a client that sends it again
    assert client.chat.completions.create(model="fake", messages=messages).choices[0].message.content.startswith("red ")


def user(*parts):
    return {"role": "user", "content": list(parts)}


SHOWN, OTHER = (
    {"type": "image_url", "image_url": {"url": f"fwd2bot://{name}.png"}} for name in ("fox", "sea")
)  # fmt: skip
TEXT = {"type": "text", "text": "?"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 0.7}, '"temperature" can only be 0 here'),
        ({"n": 2}, '"n" can only be 1'),
        ({"response_format": {"type": "json_object"}}, '"response_format" can only be'),
        ({"tools": [{"type": "function"}]}, '"tools" can only be'),
        ({"logprobs": True}, '"logprobs" can only be false'),
        ({"wishes": 1}, 'does not know the field "wishes"'),
        ({"max_tokens": 0}, '"max_tokens" must be a whole number from 1 to 100'),
        ({"max_completion_tokens": 1.5}, '"max_completion_tokens" must be'),
        ({"max_tokens": 99}, "too long; shorten it"),
        ({"stop": ["a"] * 5}, "up to four"),
        ({"stop": ""}, "none of them empty"),
        ({"stream": "yes"}, '"stream" must be true or false'),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "system", "content": "be brief"}, user(SHOWN, TEXT)]}, "no place for a system message"),
        ({"messages": [user(SHOWN, TEXT), user(TEXT)]}, "user and assistant in turns"),
        ({"messages": [user(SHOWN, TEXT), {"role": "assistant", "content": "a"}]}, "last message must be the user's"),
        ({"messages": [user(TEXT)]}, "No message shows a picture"),
        ({"messages": [user(SHOWN, OTHER, TEXT)]}, "shows 2 pictures"),
        ({"messages": [user(SHOWN, {"type": "input_audio"})]}, 'are of type "text"'),
        ({"messages": [user({"type": "image_url", "image_url": {}}, TEXT)]}, 'needs {"image_url"'),
        ({"messages": [{"role": "user", "content": 3}]}, "must be a text, or a list of parts"),
        ({"messages": [user(SHOWN, {"type": "text", "text": "x" * 100_001})]}, "at most 100,000 are read"),
        ({"messages": [{"role": "user", "content": [3]}]}, 'are of type "text"'),
        ({"model": None}, '"model" is missing; the model is'),
        ({"model": "other"}, "There is no model 'other' here"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(client, fields, says):
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body={**chat("?"), **fields}, cast_to=object)
    assert refused.value.status_code == (404 if fields.get("model") else 400)
    assert says in refused.value.body["message"]
    assert refused.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("fwd2bot://fix.png", 404, "did you mean 'fox.png'"),
        ("fwd2bot://", 400, "is no stored image"),
        ("https://example.com/fox.png", 400, "fetches nothing from the net"),
        ("HTTP://example.com/fox.png", 400, "fetches nothing from the net"),
        ("ftp://example.com/fox.png", 400, "give a fwd2bot://"),
        ("file:///etc/passwd", 404, "There is no picture '/etc/passwd' below the folders"),
        ("file://elsewhere/etc/passwd", 404, "There is no picture"),
        ("../secret.png", 404, "There is no picture '../secret.png'"),
        ("more/../../secret.png", 404, "There is no picture"),
        ("link.png", 404, "There is no picture"),
        ("inside.png", 200, "red"),
        ("more", 404, "There is no picture 'more'"),
        ("a\0b", 404, "There is no picture"),
        ("file://[::1", 404, "There is no picture"),
        ("file://elsewhere/fox.png", 404, "There is no picture"),
    ],
)
def test_pictures_that_may_not_be_read_are_refused(client, served, url, status, says):
    folder = served.album.folders.folders[0]
    (folder.parent / "secret.png").write_bytes((folder / "fox.png").read_bytes())
    for link, target in (("link.png", "../secret.png"), ("inside.png", "fox.png")):
        if not (folder / link).is_symlink():
            (folder / link).symlink_to(target)
    if status == 200:
        assert said(client, question="?", url=url) == says
        return
    with pytest.raises(openai.APIStatusError) as refused:
        said(client, question="?", url=url)
    assert refused.value.status_code == status
    assert says in refused.value.body["message"]


def test_fields_without_effect_change_nothing(client):
    fields = {name: values[0] for name, values in WITHOUT_EFFECT.items()} | dict.fromkeys(IGNORED)
    body = {**chat(), **fields, "max_tokens": None, "stop": None, "stream": False}
    answer = client.post("/chat/completions", body=body, cast_to=dict)
    assert answer["choices"][0]["message"]["content"] == "red red red red"


def test_embeddings_are_unit_vectors_as_numbers_or_base64(client, served):
    texts = ["a red fox", "the blue sea"]
    expected = served.model.embed(texts).numpy()
    for encoding in ("float", "base64", None):
        options = {} if encoding is None else {"encoding_format": encoding}
        found = client.embeddings.create(model="fake", input=texts, **options)
        vectors = [one.embedding for one in found.data]
        if encoding == "base64":
            import base64

            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert ([one.index for one in found.data], found.usage.prompt_tokens) == ([0, 1], 6)


def test_embeddings_of_pictures_and_texts_come_in_their_order(client, served):
    inputs = [data_url("blue"), "red", "fwd2bot://sea.png"]
    sent, text, stored = (one.embedding for one in client.embeddings.create(model="fake", input=inputs).data)
    np.testing.assert_allclose(stored, served.album.row("sea.png").vector, atol=1e-6)
    np.testing.assert_allclose(sent, stored, atol=1e-3)
    np.testing.assert_allclose(text, served.model.embed(["red"])[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input": []}, "a list of 1 to 256"),
        ({"input": [1, 2]}, '"input" must be a text'),
        ({"input": ["a", " "]}, '"input" must be a text'),
        ({"input": ["a"] * 257}, "a list of 1 to 256"),
        ({"input": "a", "encoding_format": "hex"}, '"encoding_format" must be'),
        ({"input": "a", "dimensions": 3}, "Vectors have 8 numbers here"),
    ],
)
def test_embeddings_that_cannot_be_made_are_refused(client, fields, says):
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/embeddings", body={"model": "fake", **fields}, cast_to=object)
    assert says in refused.value.body["message"]


def test_embeddings_of_many_pictures_take_no_longer_than_one_answer_may(tmp_path):
    with opened(tmp_path, limits=Limits(seconds=0.3)) as served, client_of(served) as client:
        slow, at_once = served.model.compress, time.monotonic()

        def compress(*given, **options):
            time.sleep(0.1)
            return slow(*given, **options)

        served.model.compress = compress
        refused = client.post("/v1/embeddings", json={"model": "fake", "input": [data_url("red")] * 60})
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "timeout")
        assert time.monotonic() - at_once < 3


def test_without_the_token_nothing_is_told(address):
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="guess", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="Say the server's token"),
    ):
        client.models.list()


def test_a_full_server_says_when_to_come_again(client, served):
    served.model.may_go_on.clear()
    answers, threads = [], []
    for count in range(1 + 6):  # the first is held before its second word, so nobody joins it
        threads.append(threading.Thread(target=lambda: answers.append(said(client))))
        threads[-1].start()
        until(lambda wanted=count + 1: served.worker.running + served.worker.waiting == wanted)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError, match="The server is full") as refused:
            client.chat.completions.create(**chat(stream=stream))
        assert int(refused.value.response.headers["retry-after"]) >= 1
    served.model.may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert answers == ["red red red red"] * 7


@pytest.mark.parametrize("stream", [False, True])
def test_an_asker_that_goes_away_frees_its_place(address, served, stream):
    served.model.may_go_on.clear()
    with openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0, timeout=1.0) as client:
        with pytest.raises(openai.APITimeoutError):
            for _ in client.chat.completions.create(**chat(stream=stream)):
                pass
        assert served.worker.running == 1
    until(lambda: served.requests == 0)
    before = served.worker.tokens
    served.model.may_go_on.set()
    until(lambda: served.worker.running == 0)
    assert served.worker.tokens <= before + 1


def test_code_of_the_documents_runs(address, capsys, monkeypatch):
    text = (Path(__file__).parent.parent / "docs/serving.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for old, new in (
        ("http://127.0.0.1:8000", address),
        ("SECRET", "sesame"),
        ("emoji-world", "fake"),
        ("crown", "fox"),
    ):
        assert old in code
        code = code.replace(old, new)
    names = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out == "red"
    assert len(names["vector"]) == 8


def test_who_connects_and_asks_for_nothing_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SILENCE", 0.5)
    with opened(tmp_path) as served, on_a_port(served) as address:
        host, port = address.removeprefix("http://").split(":")

        def connected(said):
            connection = socket.create_connection((host, int(port)), timeout=30)
            connection.sendall(said)
            return connection

        asked = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        silent, half, asking = connected(b""), connected(asked[:-2]), connected(asked)
        again = connected(asked + asked[:-2])
        served.model.may_go_on.clear()
        body = json.dumps(chat()).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        running = connected(head.encode() + body)

        def told(connection):
            said = connection.recv(1000)
            while not said.endswith(b"}"):
                said += connection.recv(1000) or b"}"
            return said

        for _ in range(10):
            assert told(asking).startswith(b"HTTP/1.1 200")
            time.sleep(0.1)
            asking.sendall(asked)
        assert told(again).startswith(b"HTTP/1.1 200")
        for one in (silent, half, again):
            with suppress(ConnectionResetError):
                assert one.recv(1000) == b""
        served.model.may_go_on.set()
        assert told(running).startswith(b"HTTP/1.1 200")
        for one in (silent, half, again, asking, running):
            one.close()


def test_who_does_not_take_a_streamed_answer_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SILENCE", 0.5)
    with opened(tmp_path) as served, on_a_port(served) as address:
        served.model.answer = lambda tokens, questions: ["x" * (20 << 20) + " and more"]  # than the system holds
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(chat(stream=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head.encode() + body)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            assert served.requests == 1
            until(lambda: served.requests == 0)
            with suppress(ConnectionResetError):
                while said := connection.recv(1 << 20):
                    assert b"[DONE]" not in said


def test_a_stopping_server_finishes_what_runs(tmp_path):
    with opened(tmp_path) as served, on_a_port(served) as address:
        served.model.may_go_on.clear()
        answers = []
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0, timeout=60) as client:
            thread = threading.Thread(target=lambda: answers.append(said(client)))
            thread.start()
            until(lambda: served.worker.running == 1)
            served.stopping = True
            with pytest.raises(openai.InternalServerError, match="is stopping"):
                said(client)
            served.model.may_go_on.set()
            thread.join(30)
        assert answers == ["red red red red"]


def test_an_error_in_a_stream_is_one_of_its_events(tmp_path):
    with opened(tmp_path) as served, client_of(served) as client:
        served.worker._answers.text = lambda answer: 1 // 0
        events = client.post("/v1/chat/completions", json=chat(stream=True)).text.split("\n\n")
        assert '"type": "server_error"' in events[-2]
        assert "[DONE]" not in events[-2]
