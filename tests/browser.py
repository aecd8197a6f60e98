"""A headless Chromium for tests of the page, and what every page of theirs must hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fake_server import Canned

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@contextmanager
def opened(browser: Any, address: str, *, refused: bool = False, **options: Any) -> Iterator[Any]:
    """The page at an address, in a window of its own. At the end it must have said no error, and asked nobody else.

    refused: the server is to refuse something, which the browser notes in the console.
    """
    context = browser.new_context(**{"viewport": DESK, "base_url": address, **options})
    context.set_default_timeout(60_000)
    said: list[str] = []
    asked: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto("/")
        yield page
        own = (address, "data:", "blob:" + address)
        assert [url for url in asked if not url.startswith(own)] == []
        assert asked
        assert [text for text in said if not (refused and "Failed to load resource" in text)] == []
    finally:
        context.close()


def names(page: Any) -> list[str]:
    """Of the tiles that are in the document, in reading order."""
    return list(page.locator(".tile .name").all_inner_texts())


def until(page: Any, script: str) -> None:
    """Waits for an expression to hold; playwright's own way is an eval, which the page's policy forbids."""
    for _ in range(1200):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {script}")


def wait_for_text(page: Any, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).first.wait_for()


def posted(canned: Canned, path: str) -> list[dict[str, Any]]:
    return [body for where, body in canned.asked if where == path]


def open_image(page: Any, name: str) -> None:
    page.get_by_role("option", name=name).click()
    wait_for_text(page, "#panel-title", name)


def ask(page: Any, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
