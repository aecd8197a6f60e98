"""The page for everybody: keyboard, telephone, both themes, less motion; and what it says when it is refused."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from browser import PHONE, ask, open_image, opened, wait_for_text
from fake_server import ANSWER, WEB, Canned, serving

Open = Callable[..., Any]


def test_keyboard_alone_opens_asks_and_closes(visit: Open) -> None:
    page = visit()
    wait_for_text(page, "#count", "24 images")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#grid").get_attribute("aria-activedescendant") == "tile-2"
    page.keyboard.press("Enter")
    wait_for_text(page, "#panel-title", "cake.png")
    page.keyboard.type("what?")
    page.keyboard.press("Enter")
    wait_for_text(page, ".words", ANSWER)
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()
    assert page.evaluate("document.activeElement.id") == "grid"
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    wait_for_text(page, "#panel-title", "2 images")
    assert page.locator('.tile[aria-selected="true"]').count() == 2


def test_telephone_has_no_sideways_scroll_and_the_panel_covers_it(visit: Open) -> None:
    page = visit(viewport=PHONE, has_touch=True)
    wide = "document.documentElement.scrollWidth"
    page.locator(".tile img.here").first.wait_for()
    assert page.evaluate(wide) == 390
    page.get_by_role("option", name="camel.png").locator(".check").tap()
    page.get_by_role("option", name="cake.png").locator(".check").tap()
    wait_for_text(page, "#chosen-count", "2 selected")
    assert not page.locator("#panel").is_visible()
    page.locator("#chosen-open").tap()
    assert page.locator("#panel").bounding_box() == {"x": 0, "y": 0, **PHONE}
    assert page.evaluate("document.getElementById('main').inert")
    ask(page, "what is there, and " * 20)
    wait_for_text(page, ".words", ANSWER)
    assert page.evaluate(wide) == 390
    page.get_by_role("button", name="Close").tap()
    assert not page.evaluate("document.getElementById('main').inert")
    page.get_by_label("Search by words").fill("car")
    page.locator("#cutoff-field").wait_for()
    assert page.evaluate(wide) == 390


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(visit: Open, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    open_image(page, "crown.png")
    script = """(names) => names.map((name) => {
        const probe = document.body.appendChild(document.createElement("i"));
        probe.style.color = `var(--${name})`;
        return getComputedStyle(probe).color;
    })"""
    colours = ["text", "soft", "accent", "bad", "ground", "paper", "sunk", "accent-text", "accent-wash", "bad-wash"]
    light = dict(zip(colours, map(luminance, page.evaluate(script, colours)), strict=True))
    pairs = [(text, ground) for text in ("text", "soft", "accent") for ground in ("ground", "paper", "sunk")]
    pairs += [("accent-text", "accent"), ("accent", "accent-wash"), ("text", "accent-wash"), ("bad", "bad-wash")]
    for one, other in pairs:
        high, low = sorted((light[one], light[other]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)
    assert (light["ground"] > 0.5) == (scheme == "light")
    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.5) == (scheme == "light")


def test_reduced_motion_stops_what_moves(visit: Open) -> None:
    for wish, name in (("no-preference", "pulse"), ("reduce", "none")):
        page = visit(Canned(pause=0.3), reduced_motion=wish)
        open_image(page, "crown.png")
        ask(page, "what?")
        page.locator(".words.waiting").wait_for()
        moving = "getComputedStyle(document.querySelector('.words'), '::after').animationName"
        assert page.evaluate(moving) == name


def test_everything_to_press_has_a_name(visit: Open) -> None:
    page = visit()
    open_image(page, "crown.png")
    page.get_by_role("button", name="Attention").click()
    page.get_by_role("radio").first.wait_for()
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input")].filter((one) =>
        !(one.ariaLabel || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)""")
    assert nameless == []


# Refusals.


def test_token_is_asked_for_and_kept_in_the_tab(visit: Open) -> None:
    page = visit(Canned(token="sesame"), refused=True)
    page.get_by_label("Token", exact=True).fill("wrong")
    page.get_by_role("button", name="Enter").click()
    wait_for_text(page, "#gate-text", "That token was refused.")
    page.get_by_label("Token", exact=True).fill("sesame")
    page.keyboard.press("Enter")
    page.locator(".tile img.here").nth(5).wait_for()
    assert page.locator(".tile img").first.get_attribute("src").startswith("blob:")
    open_image(page, "crown.png")
    ask(page, "what?")
    wait_for_text(page, ".words", ANSWER)
    page.reload()
    page.locator(".tile img.here").nth(5).wait_for()
    assert not page.locator("#gate").is_visible()


def test_token_that_is_not_given_is_told(visit: Open) -> None:
    page = visit(Canned(token="sesame"), refused=True)
    page.get_by_role("button", name="Cancel").click()
    wait_for_text(page, "#error", "The album asks for a token: reload the page to enter it.")


def test_refusal_is_a_sentence_in_the_page(visit: Open) -> None:
    page = visit(refused=True)
    page.get_by_label("Search by words").fill("refuse")
    wait_for_text(page, "#error", "The text is too long: write a shorter one.")
    assert page.locator("#error").get_attribute("role") == "alert"
    page.get_by_role("button", name="Dismiss").click()
    assert not page.locator("#error").is_visible()


def test_answer_that_breaks_off_is_told(visit: Open) -> None:
    page = visit(Canned(breaks=True))
    open_image(page, "crown.png")
    ask(page, "what?")
    wait_for_text(page, ".words.failed", "The answer broke off: is the server still running?")


def test_words_of_a_model_are_never_markup(visit: Open) -> None:
    canned = Canned(gone=frozenset({"crown.png"}))
    canned.captions["crown.png"] = "<img src=x onerror=alert(1)>"
    page = visit(canned)
    open_image(page, "crown.png")
    wait_for_text(page, "#caption", canned.captions["crown.png"])
    wait_for_text(page, ".gone", canned.captions["crown.png"])


def test_server_that_is_gone_is_told(browser: Any) -> None:
    with ExitStack() as server:
        address = server.enter_context(serving(Canned()))
        with opened(browser, address, refused=True) as page:
            wait_for_text(page, "#count", "24 images")
            server.close()
            page.get_by_label("Search by words").fill("fox")
            wait_for_text(page, "#error", "The server cannot be reached: is it still running?")


# The files.


def test_page_needs_nothing_from_elsewhere() -> None:
    found = {path.name: path.read_text("utf-8") for path in WEB.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= set(found)
    for name, text in found.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
    assert not re.findall(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", found["index.html"])
    uses = r"""(?:src|href)="/static/([\w.]+)"|from "\./([\w.]+)"|url\("([\w.]+)"\)"""
    used = {"".join(names) for names in re.findall(uses, "\n".join(found.values()))}
    assert used | {"index.html"} == set(found)


def test_files_are_short() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in WEB.iterdir()}
    assert max(lengths.values()) <= 450
