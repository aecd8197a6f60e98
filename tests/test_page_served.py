"""The page on the real server, with the bundled model and the sample album."""

from typing import Any

import pytest
from browser import ask, names, open_image, opened, until, wait_for_text
from screenshots import GONE, served_album

from fwd2bot.model import bundled_names

pytest.importorskip("starlette", reason="needs starlette (pip install 'fwd2bot[serve]')")
pytest.importorskip("uvicorn", reason="needs uvicorn (pip install 'fwd2bot[serve]')")


def test_album_is_searched_asked_and_looked_at(browser: Any) -> None:
    if "emoji-world" not in bundled_names():
        pytest.skip("needs the bundled model emoji-world")
    with served_album() as address, opened(browser, address) as page:
        wait_for_text(page, "#count", "24 images")
        page.get_by_role("option", name=GONE).locator(".gone", has_text="a ").wait_for()
        page.locator(".tile img.here").nth(5).wait_for()
        page.get_by_label("Search by words").fill("four lions and a crown")
        until(page, "document.querySelector('.score')?.textContent > '0'")
        assert names(page)[0] == "crown.png"
        open_image(page, "crown.png")
        wait_for_text(page, "#file-size", "192 × 192")
        wait_for_text(page, "#caption", "lion")
        ask(page, "what is at the top left?")
        page.get_by_role("button", name="Where it looked").click()
        wait_for_text(page, "#asked", "what is at the top left? — lion")
        assert page.get_by_role("radio").count() == 16 + 2
        assert page.evaluate("[veil.width, veil.height]") == [12, 12]
