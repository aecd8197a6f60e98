"""The album's end points, and what stands before all of them: tokens, hosts, sizes, paths."""

import asyncio
import json
import shutil
from io import BytesIO

import numpy as np
import pytest
from fake_model import picture
from PIL import Image
from serving import HERE, chat, client_of, data_url, make_album, opened, told, until

from fwd2bot.errors import ImageError, StoreError
from fwd2bot.server import app
from fwd2bot.server.app import make_app
from fwd2bot.server.replies import Limits
from fwd2bot.server.served import Served

# The album.


def test_album_tells_its_figures(client):
    figures = client.get("/album").json()
    assert set(figures) == {"model", "num_tokens", "rows", "bytes_per_row", "image_bytes", "store"}
    assert (figures["model"], figures["rows"], figures["num_tokens"], figures["store"]) == ("fake", 3, 4, "album.store")


def test_images_come_page_by_page(client, tmp_path):
    whole = client.get("/album/images").json()
    assert whole["total"] == 3
    assert [one["image"] for one in whole["images"]] == ["fox.png", "more/flag.png", "sea.png"]
    assert whole["images"][1]["url"] == "fwd2bot://more/flag.png"
    shown = {name: whole["images"][0][name] for name in ("width", "height", "file_bytes", "row_bytes", "tokens")}
    figures, size = client.get("/album").json(), (tmp_path / "photos/fox.png").stat().st_size
    rows = {"row_bytes": figures["bytes_per_row"], "tokens": figures["num_tokens"]}
    assert shown == {"width": 16, "height": 16, "file_bytes": size, **rows}
    part = client.get("/album/images?offset=1&limit=1").json()
    assert part == {"total": 3, "images": whole["images"][1:2]}
    assert [one["image"] for one in client.get("/album/images?path=*/f*").json()["images"]] == ["more/flag.png"]
    assert client.get("/album/images?offset=9").json() == {"total": 3, "images": []}
    assert client.get("/album/images?path=*.png&offset=1&limit=1").json() == part
    assert client.get("/album/images?path=none*").json() == {"total": 0, "images": []}
    assert client.get("/album/images?path=[f]ox.png").json()["total"] == 0  # a bracket is itself, as in `--path`
    for wrong in ("limit=0", "limit=1001", "offset=-1", "limit=x", f"limit={'9' * 5000}"):
        assert "must be a whole number from" in told(client.get(f"/album/images?{wrong}"), 400)


def test_a_picture_is_shown_no_larger_than_asked(client, tmp_path):
    url = client.get("/album/images?path=more*").json()["images"][0]["picture"]
    assert url == "/album/picture?image=more%2Fflag.png"
    answer = client.get(f"{url}&size=16")
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(BytesIO(answer.content)) as image:
        assert image.size == (16, 16)
        assert image.getpixel((2, 2))[1] > image.getpixel((2, 2))[0] + 90  # green
    assert "from 16 to 1536" in told(client.get(f"{url}&size=9999"), 400)
    assert '"image" must be' in told(client.get("/album/picture"), 400)


def test_a_picture_that_may_not_be_shown_is_not(client, tmp_path):
    picture(tmp_path / "photos/sea.png", "white")
    assert "has changed since" in told(client.get("/album/picture?image=sea.png"), 404)
    (tmp_path / "photos/fox.png").rename(tmp_path / "fox.png")
    assert "is not there, or in no folder" in told(client.get("/album/picture?image=fox.png"), 404)
    (tmp_path / "photos/fox.png").symlink_to(tmp_path / "fox.png")  # the same bytes, outside
    assert "is not there, or in no folder" in told(client.get("/album/picture?image=fox.png"), 404)
    assert client.get("/album/images").json()["images"][0]["picture"] is None
    assert "did you mean 'fox.png'" in told(client.get("/album/picture?image=fix.png"), 404)


def test_an_end_of_its_path_names_no_image(client, served):
    """It would tell who guesses one that it is right."""
    row = served.album.store.get(["fox.png"])[0]
    for image in (row.path, "photos/fox.png", row.hash):
        assert served.album.store.find(image) == "fox.png"
        assert f"There is no image {image!r}" in told(client.get("/album/picture", params={"image": image}), 404)


@pytest.mark.parametrize("name", ["../album.store/x", "/etc/passwd", "..%2F..%2Fetc/passwd", "more/../../x", "a%00b"])
def test_only_names_of_the_album_are_pictures(client, name):
    told(client.get(f"/album/picture?image={name}"), 404)


def test_where_the_files_lie_is_not_told(client, tmp_path):
    (tmp_path / "photos/fox.png").unlink()
    for path, body in (
        ("/album/images", None),
        ("/album/picture?image=fox.png", None),
        ("/album/picture?image=none.png", None),
        ("/album/search", {"image": "none.png"}),
        ("/album/search", {"query": "a blue sea"}),
        ("/album/search", {"like": "../none.png"}),
        ("/v1/chat/completions", chat(url="fwd2bot://none.png")),
        ("/v1/chat/completions", chat(url="none.png")),
    ):
        answer = client.get(path) if body is None else client.post(path, json=body)
        assert str(tmp_path) not in answer.text


def test_where_the_files_lie_is_not_told_of_files_that_are_damaged(client, served, tmp_path):
    (tmp_path / "photos/sea.png").write_bytes(b"")
    asked = chat(url="sea.png")
    for answer in (client.get("/album/picture?image=sea.png"), client.post("/v1/chat/completions", json=asked)):
        assert told(answer, 400).startswith("sea.png is empty")
    shutil.rmtree(tmp_path / "album.store")
    said = told(client.post("/album/caption", json={"image": "sea.png"}), 500)
    assert said.startswith("There is no store at album.store")
    assert str(tmp_path) not in said


def test_a_store_that_is_away_is_a_sentence_and_answers_when_it_is_back(client, served, tmp_path):
    (tmp_path / "album.store").rename(tmp_path / "away")
    assert "album.store" in told(client.post("/album/caption", json={"image": "sea.png"}), 500)
    (tmp_path / "away").rename(tmp_path / "album.store")
    assert client.post("/album/caption", json={"image": "sea.png"}).json()["caption"] == "a blue picture"


def test_a_name_in_an_url_is_no_longer_than_names_are(client, served, monkeypatch):
    monkeypatch.setattr(served.album, "row", lambda name: 1 // 0)
    asked = chat(url="fwd2bot://" + "a" * 5000)
    assert "has 5,000 letters" in told(client.post("/v1/chat/completions", json=asked), 400)


def test_no_folder_given_no_picture_shown(tmp_path):
    with opened(tmp_path, images=[]) as served, client_of(served) as client:
        assert {one["picture"] for one in client.get("/album/images").json()["images"]} == {None}
        told(client.get("/album/picture?image=fox.png"), 404)


def test_search_by_text_by_picture_and_by_image(client):
    for body in ({"query": "a blue sea"}, {"like": data_url("blue")}, {"image": "sea.png"}):
        results = client.post("/album/search", json={**body, "top": 2}).json()["results"]
        assert len(results) == 2
        assert results[0]["image"] == "sea.png"
        assert results[0]["score"] == pytest.approx(1, abs=1e-4)
        listed = {one["image"]: one for one in client.get("/album/images").json()["images"]}
        assert results == [{**listed[one["image"]], "score": one["score"]} for one in results]
    near = client.post("/album/search", json={"image": "sea.png", "cutoff": 0.9}).json()["results"]
    assert [one["image"] for one in near] == ["sea.png"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, 'Give one of "query", "like", "image"'),
        ({"query": "a", "image": "b"}, 400, "Give one of"),
        ({"query": " "}, 400, '"query" must be a text'),
        ({"query": "a", "top": 0}, 400, '"top" must be a whole number from 1 to 1000'),
        ({"query": "a", "top": True}, 400, '"top" must be'),
        ({"query": "a", "cutoff": "x"}, 400, '"cutoff" must be a number'),
        ({"query": "a", "cut_off": 0.5}, 400, 'does not know the field "cut_off"'),
        ({"image": "fix.png"}, 404, "There is no image 'fix.png'"),
        ({"like": "data:image/png;base64,????"}, 400, "not base64"),
        ({"like": "data:text/html,x"}, 400, "looks like data:image/png"),
        ({"like": "data:image/png;base64,aGk="}, 400, "not a picture"),
        ({"like": "http://example.com/a.png"}, 400, "fetches nothing"),
        ({"query": "x" * 100_001}, 400, "at most 100,000"),
    ],
)
def test_a_search_that_cannot_be_done_is_told_in_a_sentence(client, body, status, says):
    assert says in told(client.post("/album/search", json=body), status)


def test_a_cutoff_that_is_no_number_of_json_is_told(client):
    body = b'{"query": "a", "cutoff": NaN}'
    assert "The body is not JSON" in told(client.post("/album/search", content=body), 400)


def test_caption_of_an_image(client):
    assert client.post("/album/caption", json={"image": "sea.png"}).json() == {
        "image": "sea.png",
        "caption": "a blue picture",
    }
    assert "There is no image" in told(client.post("/album/caption", json={"image": "x"}), 404)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b'{"image": "\\ud800"}', b'{"x\xed\xa0\x80": 1}']
)
def test_a_body_that_is_no_object_is_told(client, content):
    assert "The body is not" in told(client.post("/album/caption", content=content), 400)


# The page and its files.


def test_files_of_the_page_are_served_and_nothing_else(tmp_path, served, monkeypatch):
    (tmp_path / "web/js").mkdir(parents=True)
    (tmp_path / "web/index.html").write_text("<p>hi")
    (tmp_path / "web/js/a.js").write_text("1")
    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(app, "WEB", tmp_path / "web")
    with client_of(served) as client:
        first = client.get("/")
        assert (first.text, first.headers["content-type"]) == ("<p>hi", "text/html; charset=utf-8")
        assert first.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data: blob:;")
        assert client.get("/static/js/a.js").headers["content-type"].startswith("text/javascript")
        for path in ("/static/../secret", "/static/..%2Fsecret", "/static//etc/passwd", "/static/js", "/static/", "/x"):
            told(client.get(path), 404)
    assert "another method" in told(client.post("/"), 405)


# Who may ask.


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.0.0.2:8000", "localhost", "LOCALHOST:80", "[::1]:8000"])
def test_this_machine_may_ask(client, host):
    assert client.get("/album", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "", "[::2]"])
def test_a_name_that_was_pointed_at_this_machine_may_not(client, host):
    assert "is not this machine" in told(client.get("/album", headers={"host": host}), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_may_not_ask(client, headers):
    assert "another site" in told(client.post("/album/caption", json={"image": "sea.png"}, headers=headers), 403)
    assert client.get("/album", headers={"origin": HERE, "sec-fetch-site": "same-origin"}).status_code == 200


def test_a_token_is_asked_for_but_not_by_the_page_and_health(tmp_path):
    with opened(tmp_path, token="sesame", loopback=False) as served, client_of(served) as client:
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer sesam"},
            {"authorization": "sesame"},
        ):
            answer = client.get("/album", headers=headers)
            assert "Authorization: Bearer" in told(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/v1/models", "/album/picture?image=fox.png"):
            told(client.get(path), 401)
        assert client.get("/health").status_code == 200
        told(client.get("/static/none"), 404)
        allowed = {"authorization": "bearer sesame", "host": "album.example"}
        assert client.get("/album", headers=allowed).status_code == 200
        told(client.get("/album", headers={"authorization": "Bearer sésame".encode()}), 401)


def test_a_body_may_be_no_larger_than_the_limit(tmp_path):
    with opened(tmp_path, limits=Limits(body_bytes=1000)) as served, client_of(served) as client:
        assert client.post("/album/caption", json={"image": "sea.png"}).status_code == 200
        body = json.dumps({"image": "x" * 1000}).encode()
        assert "larger than 0 MiB" in told(client.post("/album/caption", content=body), 413)
        pieces = (body[place : place + 100] for place in range(0, len(body), 100))  # without a length
        told(client.post("/album/caption", content=pieces), 413)
        told(client.post("/album/caption", content=b"", headers={"content-length": "-1"}), 413)


def test_only_so_many_large_bodies_come_at_once(tmp_path):
    with opened(tmp_path, limits=Limits(large_bytes=100, large=1)) as served, client_of(served) as client:
        small, large = {"image": "sea.png"}, b'{"image": "sea.png"}' + b" " * 100
        assert client.post("/album/caption", content=large).status_code == 200
        assert served.large == 0
        served.large = 1  # another is on its way
        answer = client.post("/album/caption", content=large)
        assert "Too many large pictures" in told(answer, 429)
        assert answer.headers["retry-after"] == "1"
        told(client.post("/album/caption", content=iter([b"{}"])), 429)  # one that does not say how large it is
        assert client.post("/album/caption", json=small).status_code == 200
        assert served.large == 1


def test_a_picture_may_have_no_more_pixels_than_the_limit(tmp_path):
    with opened(tmp_path, limits=Limits(pixels=255)) as served, client_of(served) as client:
        assert "is too large (16 x 16" in told(client.post("/album/search", json={"like": data_url("red")}), 400)


def test_a_body_that_does_not_come_is_given_up(tmp_path):
    async def ask(served):
        sent = []

        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/album/caption", "headers": [(b"host", b"localhost")]}
        await make_app(served)({**scope, "query_string": b"", "http_version": "1.1"}, receive, send)
        return sent[0]["status"]

    with opened(tmp_path, limits=Limits(body_seconds=0.05)) as served:
        assert asyncio.run(ask(served)) == 408


def test_an_answer_that_takes_too_long_is_given_up(tmp_path):
    with opened(tmp_path, limits=Limits(seconds=0.2)) as served, client_of(served) as client:
        served.model.may_go_on.clear()
        assert "more than 0.2 s" in told(client.post("/v1/chat/completions", json=chat()), 504)
        served.model.may_go_on.set()
        until(lambda: not served.worker.running)


# Health and figures.


def test_while_it_stops_it_is_unwell_and_takes_nothing_new(client, served):
    assert client.get("/health").json() == {"status": "ok"}
    served.stopping = True
    assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "stopping"})
    answer = client.get("/album")
    assert "is stopping" in told(answer, 503)
    assert answer.headers["retry-after"] == "5"


def test_where_the_model_has_failed_it_is_unwell_and_asks_nothing_of_it(client, served):
    served.worker._answers.text = served.model.running = lambda *_: 1 // 0
    told(client.post("/v1/chat/completions", json=chat()), 500)
    until(lambda: not served.worker.alive)
    assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "failed"})
    assert "start the server again" in told(client.post("/v1/chat/completions", json=chat()), 503)
    assert client.get("/album/images").status_code == 200


def test_figures_for_prometheus(client):
    client.post("/v1/chat/completions", json=chat())
    client.get("/album/images?limit=0")
    client.get("/nothing")
    text = client.get("/metrics").text
    for line in (
        'fwd2bot_requests_total{route="/v1/chat/completions",status="200"} 1.0',
        'fwd2bot_requests_total{route="/album/images",status="400"} 1.0',
        'fwd2bot_requests_total{route="none",status="404"} 1.0',
        'fwd2bot_request_seconds_count{route="/v1/chat/completions"} 1.0',
        "fwd2bot_tokens_total 4.0",
        "fwd2bot_batch_steps_total 4.0",
        "fwd2bot_waiting 0.0",
    ):
        assert line in text.splitlines(), line


def test_a_mistake_of_ours_is_a_sentence_and_is_logged(client, served, monkeypatch, caplog):
    monkeypatch.setattr(served.album, "about", lambda: 1 // 0)
    assert "A mistake of ours (ZeroDivisionError)" in told(client.get("/album"), 500)
    assert "ZeroDivisionError" in caplog.text


def test_rows_of_another_model_are_not_served(tmp_path):
    from fake_model import FakeModel, OtherModel

    store = make_album(tmp_path)
    with pytest.raises(StoreError, match="written by fake"):
        Served.open(OtherModel(), store)
    with pytest.raises(ImageError, match="no folder"):
        Served.open(FakeModel(), store, images=[tmp_path / "none"])


def test_vectors_of_the_album_are_those_of_the_store(served):
    row = served.album.row("sea.png")
    assert served.album.search(row.vector, 1, None)["results"][0]["image"] == "sea.png"
    assert np.linalg.norm(row.vector) == pytest.approx(1)
