"""Take the README's pictures of the page: `python tools/screenshots.py`, into docs/figures/.

The server runs on a copy of the sample album with the bundled model, one picture deleted; the browser is the system's
Chromium. Needs playwright.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chromium import NoChromiumError, chromium
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
ALBUM = ROOT / "fwd2bot/bundled/album"
OUT = ROOT / "docs/figures"
LIMIT = 150_000
GONE = "cake.png"
SCALE = 1.5
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def served_album() -> Iterator[str]:
    """The address of `fwd2bot serve` on the sample album, one of whose pictures is gone.

    Raises SystemExit where it does not start.
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "fwd2bot"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ALBUM, Path(folder, "album"))
        compress = [*program, "compress", "album", "--store", "album.store"]
        subprocess.run(compress, cwd=folder, env=environ, check=True, capture_output=True)
        Path(folder, "album", GONE).unlink()
        serve = [*program, "serve", "album.store", "--images", "album", "--port", "0"]
        with subprocess.Popen(serve, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            try:
                told = server.stderr.readline()
                address = re.search(r"http://[\d.:]+", told)
                if address is None:
                    raise SystemExit(f"the server does not start: {told}{server.stderr.read()}")
                yield address[0]
            finally:
                server.terminate()


@contextmanager
def page_of(browser: "Browser", address: str, **options: Any) -> "Iterator[Page]":
    context = browser.new_context(device_scale_factor=SCALE, **options)
    context.set_default_timeout(120_000)
    try:
        page = context.new_page()
        page.goto(address)
        page.locator(".tile img.here").nth(3).wait_for()
        page.get_by_role("option", name=GONE).locator(".gone", has_text="a ").wait_for()
        yield page
    finally:
        context.close()


def ask(page: "Page", question: str, answers: int) -> None:
    """Waits until so many answers stand there in all."""
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".answer .link").nth(answers - 1).wait_for()


def choose(page: "Page", *names: str) -> None:
    first, *others = (page.get_by_role("option", name=name) for name in names)
    first.click()
    for other in others:
        other.click(modifiers=["Control"])


def look(page: "Page") -> None:
    """One image: a question, and the attention behind the answer."""
    choose(page, "camera.png")
    page.locator("#caption", has_text=re.compile(r"\w+ \w+")).wait_for()
    ask(page, "what is at the top left?", 1)
    page.get_by_role("button", name="Where it looked").click()
    page.get_by_role("radio", name="As the answer used them").click()


def find(page: "Page") -> None:
    """A search with a cut-off, and a question about three of its results."""
    page.get_by_label("Search by words").fill("two cars on orange")
    page.locator("#cutoff-field").wait_for()
    page.get_by_label("Score at least").fill("0.15")
    page.locator(".score", has_text="0.").nth(2).wait_for()
    names = page.locator(".tile .name").all_inner_texts()
    choose(page, *names[:3])
    ask(page, "what is at the center?", 3)


def taken(page: "Page") -> Image.Image:
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # pictures fade in
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def side_by_side(pictures: list[Image.Image], gap: int = 24) -> Image.Image:
    width = sum(one.width for one in pictures) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (width, pictures[0].height), "white")
    for place, one in enumerate(pictures):
        whole.paste(one, (place * (one.width + gap), 0))
    return whole


def write(picture: Image.Image, path: Path) -> None:
    """As WebP, in the best quality that fits."""
    for quality in range(90, 30, -5):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= LIMIT:
            break
    path.write_bytes(buffer.getvalue())
    print(f"{path}: {buffer.tell():,} bytes")


def main() -> int:
    try:
        with served_album() as address, chromium() as browser:
            for scheme in ("light", "dark"):
                with page_of(browser, address, viewport=DESK, color_scheme=scheme) as page:
                    look(page)
                    write(taken(page), OUT / f"page-{scheme}.webp")
            with page_of(browser, address, viewport=DESK, color_scheme="light") as page:
                find(page)
                write(taken(page), OUT / "page-search.webp")
            with page_of(browser, address, viewport=PHONE, has_touch=True) as page:
                shown = [taken(page)]
                look(page)
                shown.append(taken(page))
                write(side_by_side(shown), OUT / "page-phone.webp")
    except NoChromiumError as error:
        raise SystemExit(f"The page {error}.") from None
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
