"""The page in a real browser, on a fake server with canned answers: what a user does, and what the page then shows."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import ask, names, open_image, posted, until, wait_for_text
from fake_server import ALBUM, ANSWER, Canned

Open = Callable[..., Any]


def dropped(page: Any, event: str, file: Path) -> None:
    """A file dropped on the page, or pasted into it."""
    content = base64.b64encode(file.read_bytes()).decode()
    script = """([event, content, name]) => {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], name, { type: "image/png" }));
        const made = event === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent(event, { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(made);
    }"""
    page.evaluate(script, [event, content, file.name])


# The album.


def test_album_is_shown_with_its_pictures_and_figures(visit: Open) -> None:
    page = visit()
    page.locator(".tile img.here").nth(23).wait_for()
    assert names(page) == sorted(path.name for path in ALBUM.glob("*.png"))
    assert page.locator("#count").inner_text() == "24 images"
    assert page.locator("#facts").inner_text() == "canned · 4 tokens, 9.2 KB an image"
    assert page.locator("#about").inner_text() == "album.store"


def test_large_album_has_few_tiles_and_reaches_its_last(visit: Open) -> None:
    canned = Canned(count=100_000)
    page = visit(canned)
    wait_for_text(page, "#count", "100,000 images")
    page.locator("#grid").focus()
    page.keyboard.press("End")
    page.get_by_role("option", name=canned.name(99_999)).wait_for()
    assert page.locator(".tile").count() < 100
    assert page.locator("#tile-99999").get_attribute("aria-posinset") == "100000"
    page.evaluate("document.getElementById('scroller').scrollTop = 1e9 / 2")  # the browser stops at the end
    assert page.locator("#tile-99999").bounding_box()["y"] < 800
    page.keyboard.press("Home")
    page.get_by_role("option", name="airplane.png", exact=True).wait_for()


def test_album_taller_than_a_browser_can_scroll_goes_in_longer_steps(visit: Open) -> None:
    page = visit(Canned(count=2_000_000))
    page.locator("#grid").focus()
    page.keyboard.press("End")  # before there is anything
    wait_for_text(page, "#count", "2,000,000 images")
    page.keyboard.press("End")
    page.locator("#tile-1999999").wait_for()
    box = page.locator("#tile-1999999").bounding_box()
    assert box["y"] + box["height"] <= 800
    page.keyboard.press("ArrowUp")
    until(page, "document.querySelector('.tile.active').id === 'tile-1999992'")
    assert page.evaluate("document.getElementById('grid').clientHeight") <= 8e6


def test_path_narrows_the_album(visit: Open) -> None:
    page = visit(Canned(count=72))
    page.get_by_label("Path").fill("002/*")
    wait_for_text(page, "#count", "24 images there")
    assert all(name.startswith("002/") for name in names(page))
    page.get_by_label("Path").fill("none/*")
    wait_for_text(page, "#nothing", "No path fits none/*.")


def test_empty_album_says_what_to_do(visit: Open) -> None:
    page = visit(Canned(count=0))
    wait_for_text(page, "#nothing", "The album is empty: add pictures with fwd2bot compress.")


def test_picture_that_is_gone_shows_its_caption(visit: Open) -> None:
    canned = Canned(gone=frozenset({"crown.png"}))
    page = visit(canned)
    tile = page.get_by_role("option", name="crown.png")
    tile.get_by_text(canned.captions["crown.png"]).wait_for()
    assert tile.locator("img").count() == 0
    assert posted(canned, "/album/caption") == [{"image": "crown.png"}]


def test_captions_are_written_of_what_is_in_sight(visit: Open) -> None:
    canned = Canned(count=2400)
    canned.gone = frozenset(map(canned.name, range(canned.count)))
    canned.may_caption.clear()
    page = visit(canned)
    page.get_by_role("option", name=canned.name(0), exact=True).wait_for()
    page.locator("#grid").focus()
    page.keyboard.press("End")
    last = page.get_by_role("option", name=canned.name(2399))
    last.wait_for()
    canned.may_caption.set()
    last.get_by_text(canned.captions[canned.files[-1].name]).wait_for()
    first, *others = (body["image"] for body in posted(canned, "/album/caption"))
    assert first in map(canned.name, range(100)), "it was begun before"
    assert others[0] == canned.name(2399)
    assert set(others) <= set(names(page))


# The search.


def test_words_find_images_with_their_scores(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    page.get_by_label("Search by words").fill("car")
    until(page, "document.querySelectorAll('.score:not(:empty)').length > 2")
    found = canned.search({"query": "car", "top": 200})["results"]
    assert names(page) == [one["image"] for one in found]
    assert page.locator(".score").all_inner_texts() == [f"{one['score']:.2f}" for one in found]
    assert posted(canned, "/album/search") == [{"query": "car", "top": 200}]
    page.get_by_label("Search by words").fill("")
    wait_for_text(page, "#count", "24 images")


def test_cutoff_hides_what_scores_less(visit: Open) -> None:
    page = visit()
    page.get_by_label("Search by words").fill("car")
    until(page, "document.querySelectorAll('.score:not(:empty)').length > 2")
    page.get_by_label("Score at least").fill("0.75")
    until(page, "document.querySelectorAll('.tile').length === 2")
    assert page.locator(".score").all_inner_texts() == ["0.80", "0.75"]
    assert re.fullmatch(r"2 of \d+", page.locator("#count").inner_text())
    page.get_by_label("Score at least").fill("0.9")
    wait_for_text(page, "#nothing", "No image scores 0.90 or more: lower the cut-off.")


@pytest.mark.parametrize("how", ["drop", "paste", "pick"])
def test_picture_finds_images_like_it(visit: Open, how: str) -> None:
    canned = Canned()
    page = visit(canned)
    wait_for_text(page, "#count", "24 images")
    file = ALBUM / "pizza.png"
    if how == "pick":
        page.locator("#file").set_input_files(file)
    else:
        dropped(page, how, file)
    wait_for_text(page, "#count", "the nearest first")
    assert names(page)[:2] == ["target.png", "sunflower.png"]
    (body,) = posted(canned, "/album/search")
    assert base64.b64decode(body["like"].partition("base64,")[2]) == file.read_bytes()
    assert page.locator("#query-name").inner_text() == "pizza.png"
    page.get_by_role("button", name="Leave this search").click()
    wait_for_text(page, "#count", "24 images")


def test_large_picture_is_sent_smaller(visit: Open, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (1000, 1100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    canned = Canned()
    page = visit(canned)
    page.locator("#file").set_input_files(tmp_path / "large.png")
    wait_for_text(page, "#count", "the nearest first")
    (body,) = posted(canned, "/album/search")
    assert body["like"].startswith("data:image/jpeg;base64,")
    assert len(body["like"]) < (tmp_path / "large.png").stat().st_size


def test_dragging_shows_where_to_drop(visit: Open) -> None:
    page = visit()
    wait_for_text(page, "#count", "24 images")
    dropped(page, "dragover", ALBUM / "pizza.png")
    assert page.get_by_text("Drop the picture").is_visible()
    dropped(page, "dragleave", ALBUM / "pizza.png")
    assert not page.get_by_text("Drop the picture").is_visible()


def test_more_like_this_searches_by_a_stored_image(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    page.get_by_role("button", name="More like this").click()
    wait_for_text(page, "#count", "the nearest first")
    assert posted(canned, "/album/search") == [{"image": "crown.png", "top": 200}]
    assert names(page)[0] == "crown.png"


# The panel.


def test_opened_image_shows_caption_bytes_and_tokens(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    wait_for_text(page, "#caption", canned.captions["crown.png"])
    size = (ALBUM / "crown.png").stat().st_size
    assert page.locator("#row-size").inner_text() == "9.2 KB, 4 tokens"
    assert page.locator("#file-size").inner_text() == f"{size / 1000:.1f} KB, 192 × 192"


def test_result_of_a_search_shows_its_bytes(visit: Open) -> None:
    page = visit()
    page.get_by_label("Search by words").fill("crown")
    until(page, "document.querySelectorAll('.tile').length === 1")
    open_image(page, "crown.png")
    wait_for_text(page, "#file-size", "192 × 192")
    assert page.locator("#row-size").inner_text() == "9.2 KB, 4 tokens"


def test_answer_streams_about_the_image(visit: Open) -> None:
    canned = Canned(pause=0.3)
    page = visit(canned)
    open_image(page, "crown.png")
    ask(page, "what is at the top left?")
    until(page, "/^a lion,? ?(and)?$/.test(document.querySelector('.words')?.textContent)")
    until(page, f"document.querySelector('.words').textContent === '{ANSWER}'")
    wait_for_text(page, "#announcer", ANSWER)
    (body,) = posted(canned, "/v1/chat/completions")
    image = {"type": "image_url", "image_url": {"url": "fwd2bot://crown.png"}}
    content = [image, {"type": "text", "text": "what is at the top left?"}]
    assert body == {"model": "canned", "stream": True, "messages": [{"role": "user", "content": content}]}


def test_several_images_are_asked_one_by_one_and_have_their_own_log(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    ask(page, "one?")
    wait_for_text(page, ".words", ANSWER)
    for name in ("camel.png", "cake.png"):
        page.get_by_role("option", name=name).click(modifiers=["Control"])
    wait_for_text(page, "#panel-title", "3 images")
    size = sum((ALBUM / f"{name}.png").stat().st_size for name in ("crown", "camel", "cake"))
    wait_for_text(page, "#sum", f"Rows 27.6 KB, 12 tokens; files {size / 1000:.1f} KB")
    assert page.locator(".entry").count() == 0
    ask(page, "three?")
    until(page, "document.querySelectorAll('.answer .link').length === 3")
    assert page.locator(".who").all_inner_texts() == ["crown.png", "camel.png", "cake.png"]
    asked = [body["messages"][0]["content"][0]["image_url"]["url"] for body in posted(canned, "/v1/chat/completions")]
    assert sorted(asked[1:]) == [f"fwd2bot://{name}" for name in ("cake.png", "camel.png", "crown.png")]
    for name in ("camel.png", "cake.png"):
        page.get_by_role("button", name=f"Leave out {name}").click()
    assert page.locator(".asked-bubble").all_inner_texts() == ["one?"]


def test_full_server_is_asked_again(visit: Open) -> None:
    canned = Canned(full=1)
    page = visit(canned, refused=True)
    open_image(page, "crown.png")
    ask(page, "what?")
    wait_for_text(page, ".words", ANSWER)
    assert len(posted(canned, "/v1/chat/completions")) == 2


def test_answer_can_be_stopped(visit: Open) -> None:
    page = visit(Canned(pause=0.5))
    open_image(page, "crown.png")
    ask(page, "what?")
    wait_for_text(page, ".words", "a")
    page.get_by_role("button", name="Stop").click()
    page.locator(".words.stopped").wait_for()
    page.get_by_role("button", name="Ask", exact=True).wait_for()


# The attention.


def brightest(page: Any) -> list[int]:
    """Places of the veil through which the picture is seen best."""
    alphas = page.evaluate("""() => {
        const veil = document.getElementById("veil");
        const pixels = veil.getContext("2d").getImageData(0, 0, veil.width, veil.height).data;
        return Array.from({ length: pixels.length / 4 }, (_, place) => pixels[4 * place + 3]);
    }""")
    return [place for place, alpha in enumerate(alphas) if alpha == min(alphas)]


def test_attention_is_drawn_token_by_token_and_together(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    page.get_by_role("button", name="Attention").click()
    page.get_by_role("radio", name="All tokens together").wait_for()
    assert brightest(page) == [0, 1, 2, 3]
    page.get_by_role("radio", name="As the answer used them").click()
    assert brightest(page) == [3]
    page.get_by_role("radio", name="Summary token 3, 30% of what the answer used").click()
    assert brightest(page) == [2]
    page.keyboard.press("ArrowLeft")
    assert brightest(page) == [1]
    assert page.locator("#reading").inner_text() == "Token 2 drew on what is bright. The answer used it for 20%."
    over, under = page.locator("#veil").bounding_box(), page.locator("#picture").bounding_box()
    assert over == pytest.approx(under, abs=1)
    assert posted(canned, "/album/attention") == [{"image": "crown.png", "question": None}]
    page.get_by_role("button", name="Attention").click()
    assert not page.locator("#veil").is_visible()


def test_attention_behind_an_answer_is_that_of_its_question(visit: Open) -> None:
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    ask(page, "what is at the top left?")
    page.get_by_role("button", name="Where it looked").click()
    wait_for_text(page, "#asked", f"what is at the top left? — {ANSWER}")
    assert posted(canned, "/album/attention") == [{"image": "crown.png", "question": "what is at the top left?"}]


def test_attention_that_is_asked_for_twice_is_that_of_the_second(visit: Open) -> None:
    """The first, which is given up, does not give up the second."""
    canned = Canned()
    page = visit(canned)
    open_image(page, "crown.png")
    ask(page, "what is at the top left?")
    canned.may_attend.clear()
    page.get_by_role("button", name="Where it looked").click()
    page.wait_for_timeout(200)
    page.get_by_role("button", name="Where it looked").click()
    page.wait_for_timeout(200)
    canned.may_attend.set()
    wait_for_text(page, "#asked", f"what is at the top left? — {ANSWER}")
    assert len(posted(canned, "/album/attention")) == 2


def test_attention_without_a_picture_shows_what_the_answer_used(visit: Open) -> None:
    page = visit(Canned(gone=frozenset({"crown.png"})))
    open_image(page, "crown.png")
    page.get_by_role("button", name="Attention").click()
    wait_for_text(page, "#reading", "The picture is gone")
    assert page.get_by_role("radio").count() == 4
    assert not page.locator("#veil").is_visible()
