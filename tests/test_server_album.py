"""The store behind a server: rows that are added while it runs, and names that fit a pattern."""

import asyncio
import threading
import unicodedata
from shutil import rmtree

from fake_model import picture
from serving import client_of, opened, told, until

from fwd2bot.engine import compress_images
from fwd2bot.errors import StoreError
from fwd2bot.server import album
from fwd2bot.server.app import make_app
from fwd2bot.store import Store


def add_sun(served, folder):
    picture(folder / "new/sun.png", "yellow")
    compress_images(served.model, [folder / "new"], folder / "album.store")


def renewed(client, served):
    """The rows that the album tells once no store is being read anew."""
    rows = client.get("/album").json()["rows"]
    until(served.album._renewal.done)
    return rows


def test_rows_that_are_added_while_it_runs_are_there_once_the_album_is_asked(client, served, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "REST", 0)
    monkeypatch.setattr(album, "PATIENCE", 60)
    assert client.get("/album").json()["rows"] == 3
    before = served.album.store
    add_sun(served, tmp_path)
    told(client.post("/album/caption", json={"image": "sun.png"}), 404)
    assert client.get("/album").json()["rows"] == 4
    assert client.post("/album/caption", json={"image": "sun.png"}).json()["caption"] == "a yellow picture"
    assert served.album.store is not before


def test_rows_that_were_added_before_it_served_are_there(client, served, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "PATIENCE", 60)
    add_sun(served, tmp_path)
    assert client.get("/album").json()["rows"] == 4


def test_an_album_that_nobody_wrote_to_is_not_opened_again(client, served, monkeypatch):
    monkeypatch.setattr(album, "REST", 0)
    assert renewed(client, served) == 3
    before = served.album.store
    monkeypatch.setattr(Store, "open", lambda path: 1 // 0)
    assert renewed(client, served) == 3
    assert served.album.store is before


def test_nobody_waits_while_a_store_is_read_anew(client, served, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "PATIENCE", 0.01)
    add_sun(served, tmp_path)
    go_on, began, opened, kind = threading.Event(), threading.Event(), [], type(served.album.store)

    def search(store, *given):
        if threading.current_thread().name.startswith("fwd2bot renewal"):
            opened.append(store)
            began.set()
            assert go_on.wait(60)
        return Store.search(store, *given)

    monkeypatch.setattr(kind, "search", search)
    before = served.album.store
    assert client.get("/album").json()["rows"] == 3
    assert began.wait(60)
    assert client.post("/album/caption", json={"image": "sea.png"}).json()["caption"] == "a blue picture"
    assert client.post("/album/search", json={"query": "blue"}).json()["results"][0]["image"] == "sea.png"
    assert client.get("/album").json()["rows"] == 3
    assert served.album.store is before
    go_on.set()
    until(lambda: served.album.store is not before)
    assert opened == [served.album.store], "once, and it has been searched"
    assert client.get("/album").json()["rows"] == 4


def test_a_store_that_is_written_to_all_day_is_read_anew_now_and_then(client, served, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "REST", 1e6)
    renewed(client, served)
    add_sun(served, tmp_path)
    assert renewed(client, served) == 3
    served.album._rest = 0.0  # a while later
    renewed(client, served)
    assert client.get("/album").json()["rows"] == 4


def test_a_store_that_cannot_be_read_anew_goes_on_as_it_was(client, served, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(album, "REST", 0)
    rmtree(tmp_path / "album.store/_versions")
    assert renewed(client, served) == 3
    Store.create(tmp_path / "other.store", fingerprint="x", model="other", num_tokens=4, width=8)
    rmtree(tmp_path / "album.store")
    (tmp_path / "other.store").rename(tmp_path / "album.store")
    assert renewed(client, served) == 3
    assert "rows of another kind now" in caplog.text


def test_a_row_that_is_damaged_opens_nothing_again(client, served, monkeypatch):
    renewed(client, served)

    def damaged(names):
        raise StoreError("The row is damaged.")

    monkeypatch.setattr(served.album.store, "get", damaged)
    monkeypatch.setattr(Store, "open", lambda path: 1 // 0)
    assert told(client.post("/album/caption", json={"image": "sea.png"}), 500) == "The row is damaged."


def test_files_that_were_tidied_away_are_opened_again(client, served, tmp_path):
    def gone(names):
        raise StoreError("a file is gone")

    served.album.store.get = gone
    assert client.post("/album/caption", json={"image": "sea.png"}).json()["caption"] == "a blue picture"
    rmtree(tmp_path / "album.store")
    served.album.store.get = gone
    assert "There is no store at" in told(client.post("/album/caption", json={"image": "sea.png"}), 500)
    Store.create(tmp_path / "album.store", fingerprint="x", model="other", num_tokens=4, width=8)
    assert "rows of another kind now" in told(client.post("/album/caption", json={"image": "sea.png"}), 500)


def test_names_are_compared_once_a_pattern_and_others_have_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "BLOCK", 2)
    monkeypatch.setattr(album, "REST", 0)
    monkeypatch.setattr(album, "PATIENCE", 60)
    with opened(tmp_path) as served:
        asked, kind = [], type(served.album.store)

        def names(store, start=0, end=None):
            asked.append((start, end))
            return Store.names(store, start, end)

        monkeypatch.setattr(kind, "names", names)

        async def both():
            page = served.album.images(0, 9, "*s*")
            other = asyncio.ensure_future(served.album.read(lambda: asked.append("other")))
            return await page, await other

        with client_of(served) as client:
            assert client.get("/album/images?path=*f*").json()["total"] == 2
            assert asked == [(0, 2), (2, 4), (0, 1), (1, 2)]
            asked.clear()
            assert client.get("/album/images?path=*f*&offset=1").json()["images"][0]["image"] == "more/flag.png"
            assert asked == [(1, 2)]
            asked.clear()
            page, _ = asyncio.run(both())
            assert [one["image"] for one in page["images"]] == ["sea.png"]
            assert asked == [(0, 2), "other", (2, 4), (2, 3)]
            picture(tmp_path / "new/fan.png", "white")
            compress_images(served.model, [tmp_path / "new"], tmp_path / "album.store")
            assert client.get("/album").json()["rows"] == 4
            assert client.get("/album/images?path=*f*").json()["total"] == 3


def test_names_are_no_longer_compared_for_who_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "BLOCK", 1)
    with opened(tmp_path) as served:
        begun, go_on, asked = threading.Event(), threading.Event(), []

        def names(store, start=0, end=None):
            asked.append(start)
            begun.set()
            go_on.wait(5)
            return Store.names(store, start, end)

        monkeypatch.setattr(type(served.album.store), "names", names)

        async def ask():
            left = asyncio.get_running_loop().run_in_executor(None, begun.wait)
            first = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive():
                if not first:
                    await left
                return first.pop() if first else {"type": "http.disconnect"}

            async def send(message):
                pass

            scope = {"type": "http", "method": "GET", "path": "/album/images", "headers": [(b"host", b"localhost")]}
            await make_app(served)({**scope, "query_string": b"path=*", "http_version": "1.1"}, receive, send)
            go_on.set()
            await served.album.read(lambda: None)

        asyncio.run(ask())
        assert asked == [0]


def test_names_are_found_as_macos_writes_them(tmp_path, served, client, monkeypatch):
    monkeypatch.setattr(album, "PATIENCE", 60)
    picture(tmp_path / "new/caf\u00e9.png", "white")
    compress_images(served.model, [tmp_path / "new"], tmp_path / "album.store")
    assert client.get("/album").json()["rows"] == 4
    for name in ("caf\u00e9.png", apart := unicodedata.normalize("NFD", "caf\u00e9.png")):
        assert client.post("/album/caption", json={"image": name}).json()["image"] == "caf\u00e9.png"
        assert client.get("/album/images", params={"path": f"*{name}"}).json()["total"] == 1
    assert apart != "caf\u00e9.png"
