"""The main job on the sample album: compress, delete the pictures, then answer, caption and search from the rows."""

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from fwd2bot.cli.commands import load_model
from fwd2bot.cli.output import ProgressLine, note
from fwd2bot.errors import InputError
from fwd2bot.store import Store
from fwd2bot.wording import duration, plural

if TYPE_CHECKING:
    from fwd2bot.engine import Model

SHOWN_QUESTIONS = 9
SHOWN_CAPTIONS = 2
SHOWN_SEARCHES = 1
SHOWN_RESULTS = 3
COLUMNS = (18, 33, 13, 13)  # picture, question, answer, truth: 80 with the spaces between


@dataclass(kw_only=True)
class Album:
    """The sample pictures, with questions and captions that were written about them."""

    folder: Path
    questions: list[dict[str, str]]
    captions: dict[str, list[str]]

    @classmethod
    def read(cls, folder: Path) -> "Album":
        """Raises InputError where the album is not there, or not whole."""
        try:
            questions = [json.loads(line) for line in (folder / "questions.jsonl").read_text("utf-8").splitlines()]
            lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]
            captions = {line["image"]: line["captions"] for line in lines}
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"The sample album is not whole in {folder} ({error}): install fwd2bot again.") from None
        return cls(folder=folder, questions=questions, captions=captions)


class Watch:
    """How long each part took, and how many things it did."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, int, str]] = []

    @contextmanager
    def part(self, name: str, count: int, unit: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.parts.append((name, time.monotonic() - began, count, unit))

    def show(self) -> None:
        for name, seconds, count, unit in self.parts:
            rate = f"{count / max(seconds, 1e-9):,.0f} a second" if count > 1 else ""
            print(f"{name:9}{plural(count, unit):>14} {duration(seconds):>9}   {rate}".rstrip())


def run_demo(options: argparse.Namespace) -> int:
    with as_file(files("fwd2bot") / "bundled" / "album") as folder, tempfile.TemporaryDirectory() as temporary:
        album = Album.read(folder)
        store_path = Path(options.store or Path(temporary, "album.store"))
        watch = Watch()
        note("loading the model ...")
        with watch.part("load", 1, "model"):
            model = load_model(options)
        store = _compress(model, album, store_path, Path(temporary, "album"), watch)
        _ask(model, store, album, watch)
        _caption(model, store, album, watch)
        _search(model, store, album, watch)
        _title("times")
        watch.show()
        _next(album.folder, options.store)
    return 0


def _compress(model: "Model", album: Album, store_path: Path, copy: Path, watch: Watch) -> Store:
    from fwd2bot.engine import compress_images

    shutil.copytree(album.folder, copy)
    with watch.part("compress", len(album.captions), "picture"):
        report = compress_images(model, [copy], store_path, progress=ProgressLine("compressed", "images"))
    shutil.rmtree(copy)
    store = Store.open(store_path)
    info = store.info()
    _title("compress", "compress album --store album.store")
    there = f", {report.present} were there already" if report.present else ""
    print(f"{plural(report.added, 'picture')} added to the store{there}.")
    print(f"a picture  {info.image_bytes // info.rows:>7,} bytes as a file, on average")
    print(f"its row    {info.bytes_per_row:>7,} bytes: {info.num_tokens} tokens of {info.width} numbers, and a vector")
    print("The copies that were compressed are deleted: all below comes from the rows.")
    return store


def _ask(model: "Model", store: Store, album: Album, watch: Watch) -> None:
    from fwd2bot.engine import ask

    with watch.part("ask", len(album.questions), "question"):
        pairs = [(one["image"], one["question"]) for one in album.questions]
        answers = [reply.text or "" for reply in ask(model, store, pairs)]
    right = sum(_same(said, one["answer"]) for said, one in zip(answers, album.questions, strict=True))
    _title("ask", "ask QUESTION --store album.store --image NAME")
    _table("picture", "question", "answer", "truth")
    for place in _varied(album.questions):
        one, said = album.questions[place], answers[place]
        _table(one["image"], one["question"], said, one["answer"])
    print(f"{right} of all {len(answers)} questions about the album are answered right.")


def _caption(model: "Model", store: Store, album: Album, watch: Watch) -> None:
    from fwd2bot.engine import caption

    with watch.part("caption", len(album.captions), "picture"):
        replies = list(caption(model, store, album.captions))
    _title("caption", "caption --store album.store --image NAME")
    for reply in replies[:SHOWN_CAPTIONS]:
        print(reply.image)
        print(_wrapped("model:", reply.text or reply.error or ""))
        print(_wrapped("truth:", album.captions[reply.image][0]))


def _search(model: "Model", store: Store, album: Album, watch: Watch) -> None:
    from fwd2bot.engine import search, search_like

    queries = [(captions[2 % len(captions)], image) for image, captions in album.captions.items()]
    like = list(album.captions)[-1]
    with watch.part("search", len(queries), "text"):
        found = search(model, store, [text for text, _ in queries], top=SHOWN_RESULTS)
    similar = search_like(model, store, album.folder / like, top=SHOWN_RESULTS)
    first = sum(name == image for one, (_, image) in zip(found, queries, strict=True) for name, _ in one.results[:1])
    _title("search", "search TEXT --store album.store")
    for one, (text, image) in list(zip(found, queries, strict=True))[-SHOWN_SEARCHES:]:
        print(_cut(f'"{text}"', 79).rstrip())
        if one.error is not None:  # the model embeds no text
            print(_wrapped("none:", one.error))
        for name, score in one.results:
            print(f"  {score:5.2f}  {name}{'   <- the text is about this one' if name == image else ''}")
    print(f"{first} of {len(queries)} such texts find their picture first.")
    _title("search like a picture", f"search --like {like} --store album.store")
    for name, score in similar.results:
        print(f"  {score:5.2f}  {name}")


def _next(album: Path, store: str | None) -> None:
    program = _program()
    kept = shlex.quote(store or "album.store")
    pictures = shlex.quote(_short(album))
    first = [] if store else [f"{program} compress {pictures} --store {kept}"]
    shown = "" if store else f" --images {pictures}"  # of a store that is kept the pictures are deleted
    _title("try next")
    for line in [
        *first,
        f'{program} ask "what is at the top left?" --store {kept} --all',
        f'{program} search "a lion" --store {kept} --top 3',
        f"{program} serve {kept}{shown}   # a page to look at, http://127.0.0.1:8000",
        f"{program} --help",
    ]:
        print(line)


def _varied(questions: list[dict[str, str]]) -> list[int]:
    """Places of questions of different kinds about different pictures."""
    places: list[int] = []
    kinds: set[str] = set()
    images: set[str] = set()
    for place, one in enumerate(questions):
        kind = one.get("kind", one["question"])
        if kind not in kinds and one["image"] not in images and len(one["question"]) <= COLUMNS[1]:
            places.append(place)
            kinds.add(kind)
            images.add(one["image"])
    return places[:SHOWN_QUESTIONS]


def _table(*cells: str) -> None:
    print(" ".join(_cut(cell, width) for cell, width in zip(cells, COLUMNS, strict=True)).rstrip())


def _same(said: str, truth: str) -> bool:
    return said.strip(" .").casefold() == truth.strip(" .").casefold()


def _title(text: str, command: str = "") -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"\n{bold}{text}{plain}" + (f"   $ fwd2bot {command}" if command else ""))


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 3] + "...").ljust(width)


def _wrapped(label: str, text: str) -> str:
    return fill(text, 79, initial_indent=f"  {label} ", subsequent_indent=" " * (len(label) + 3), max_lines=2)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def _program() -> str:
    """How the user can call this program again from where he is."""
    if shutil.which("fwd2bot"):
        return "fwd2bot"
    beside = Path(sys.executable).parent / "fwd2bot"
    if beside.exists():
        return shlex.quote(_short(beside))
    return f"{shlex.quote(_short(Path(sys.executable)))} -m fwd2bot"
