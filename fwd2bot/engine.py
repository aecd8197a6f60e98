"""The jobs that a user has: compress pictures into a store, ask, caption, search and match.

Only `compress_images`, `search_like` and `match` open pictures; all others answer from rows.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.errors import ImageError, InputError, StoreError, check_list, check_many
from fwd2bot.images import find_images, read_image
from fwd2bot.ingest import CompressReport, Ingest, as_array
from fwd2bot.store import DEFAULT_QUANTISATION, Store
from fwd2bot.store.filters import EVERYTHING, Filter

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64  # rows that are answered from at once
Progress = Callable[[int, int], None]  # done, of how many
Item = TypeVar("Item")
Result = TypeVar("Result")


class Model(Protocol):
    """What the jobs need of `fwd2bot.load(...)`."""

    batch_size: int

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def token_counts(self) -> Sequence[int]: ...
    @property
    def cuttable(self) -> bool: ...
    @property
    def storable(self) -> bool: ...
    def prepare(self, images: Sequence[Image.Image]) -> Any: ...
    def compress(self, images: Any, num_tokens: int | None = None) -> "Tensor": ...
    def answer(self, tokens: Any, questions: Sequence[str]) -> list[str]: ...
    def caption(self, tokens: Any) -> list[str]: ...
    def embed(self, inputs: Any, num_tokens: int | None = None) -> "Tensor": ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer or a caption; or why there is none."""

    image: str
    question: str = ""
    text: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest images to a query, best first, as (name, cosine); or why there are none."""

    query: str
    results: list[tuple[str, float]] = field(default_factory=list)
    error: str | None = None


def compress_images(
    model: Model,
    paths: Iterable[str | Path],
    store_path: str | Path,
    *,
    num_tokens: int | None = None,
    quantisation: str | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> CompressReport:
    """Compress every picture that is not in the store yet; make the store where there is none.

    A picture that cannot be read is listed, and the rest goes on. Stopped at any time, run again: what was committed
    (every 256 rows or 30 seconds) is not done again.

    Raises InputError where there is no picture at all or the model does not offer `num_tokens`; ImageError where a new
    store is asked for and no path is there; StoreError where the store is of another model, of another number of
    tokens, or cannot be written.
    """
    if batch_size < 1:
        raise InputError(f"The batch must hold at least 1 picture, not {batch_size}.")
    found = pictures_for(paths, store_path)
    store = open_or_create(model, store_path, num_tokens=num_tokens, quantisation=quantisation)
    began = time.monotonic()
    with store.writing():
        report = Ingest(model, store, batch_size).run(found, progress)
        store.tidy()
    if progress is not None:
        progress(len(found), len(found))
    report.seconds = time.monotonic() - began
    return report


def pictures_for(paths: Iterable[str | Path], store_path: str | Path) -> list[tuple[str, str]]:
    """What is to be compressed into a store: names and paths. Raises InputError, ImageError as `compress_images`."""
    check_many(paths, "paths")
    paths = list(paths)
    found = find_images(paths)
    if not found:
        raise InputError(f"There are no pictures in {', '.join(map(str, paths)) or 'nothing'}: give folders or files.")
    if not Store.exists(store_path) and not any(os.path.lexists(path) for _, path in found):
        raise ImageError(f"{paths[0]} is not there: check the path.")
    return found


def open_or_create(
    model: Model, path: str | Path, *, num_tokens: int | None = None, quantisation: str | None = None
) -> Store:
    """The store for this model's rows. Raises StoreError or InputError as `compress_images` does."""
    if not model.storable:
        raise InputError(
            f"{model.name} makes no rows to keep that answer any question: take a model that compresses once (fwd2bot)."
        )
    if not Store.exists(path):
        count = model.num_tokens if num_tokens is None else num_tokens
        _check_count(model, count)
        return Store.create(
            path,
            fingerprint=model.fingerprint,
            model=model.name,
            source=model.source,
            num_tokens=count,
            width=model.width,
            quantisation=quantisation or DEFAULT_QUANTISATION,
        )
    store = Store.open(path)
    store.check(model.fingerprint, model.name)
    for what, wanted, there in (
        ("{} tokens an image", num_tokens, store.header.num_tokens),
        ("tokens as {}", quantisation, store.header.quantisation),
    ):
        if wanted not in (None, there):
            raise StoreError(
                f"{path} holds {what.format(there)}, not {wanted}: leave the option out, or compress into a new store."
            )
    return store


def ask(
    model: Model,
    store: Store,
    questions: Iterable[tuple[str, str]],
    *,
    num_tokens: int | None = None,
) -> Iterator[Reply]:
    """Answers to (image, question) pairs, in order, from rows alone.

    An unknown image, an empty question or one that is too long is a Reply with an error; the rest goes on.
    Raises StoreError where the rows are another model's; InputError where they cannot be cut to `num_tokens`.
    """
    check_many(questions, "questions")
    count = _rows_count(model, store, num_tokens)

    def answer(pairs: Sequence[tuple[str, str]]) -> list[str]:
        tokens = _tokens(store, [image for image, _ in pairs], count)
        return model.answer(tokens, [_asked(question) for _, question in pairs])

    for (image, question), text, error in _each(answer, questions):
        yield Reply(image=image, question=question, text=text, error=error)


def caption(model: Model, store: Store, images: Iterable[str], *, num_tokens: int | None = None) -> Iterator[Reply]:
    """A caption of each image, in order, from rows alone. Errors as in `ask`."""
    check_many(images, "images")
    count = _rows_count(model, store, num_tokens)

    def captions(names: Sequence[str]) -> list[str]:
        return model.caption(_tokens(store, names, count))

    for image, text, error in _each(captions, images):
        yield Reply(image=image, text=text, error=error)


def search(
    model: Model,
    store: Store,
    queries: Iterable[str],
    *,
    top: int = 10,
    wanted: Filter = EVERYTHING,
    exact: bool = False,
) -> list[Found]:
    """The nearest images to each text, of those that `wanted` lets through, from rows alone.

    An empty or too long text is a Found with an error.

    `exact`: every row is compared, also in a store of very many (`Store.search_many`).

    Raises StoreError where the rows are another model's; InputError where `top` is below 1.
    """
    check_many(queries, "queries")
    count = _rows_count(model, store, None)

    def embed(texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return list(as_array(model.embed([_asked(text, "query") for text in texts], num_tokens=count)))

    embedded = list(_each(embed, queries))
    vectors = [vector for _, vector, _ in embedded if vector is not None]
    results = iter(store.search_many(np.stack(vectors), top, wanted=wanted, exact=exact) if vectors else [])
    return [
        Found(query=query, error=error) if vector is None else Found(query=query, results=next(results))
        for query, vector, error in embedded
    ]


def search_like(
    model: Model,
    store: Store,
    path: str | Path,
    *,
    top: int = 10,
    wanted: Filter = EVERYTHING,
    exact: bool = False,
) -> Found:
    """The nearest images to a picture in a file. Raises ImageError where it cannot be read, and as `search` does."""
    count = _rows_count(model, store, None)
    tokens = model.compress([read_image(path)], num_tokens=count)
    [results] = store.search_many(as_array(model.embed(tokens)), top, wanted=wanted, exact=exact)
    return Found(query=str(path), results=results)


def match(
    model: Model, path: str | Path, texts: Sequence[str], *, num_tokens: int | None = None
) -> list[tuple[str, float]]:
    """Texts with their cosine to a picture in a file, best first; equal scores keep their order.

    Raises ImageError where the picture cannot be read; InputError where a text is empty or too long, or the model
    does not offer `num_tokens`.
    """
    check_list(texts, "texts")
    count = model.num_tokens if num_tokens is None else num_tokens
    _check_count(model, count)
    picture = as_array(model.embed(model.compress([read_image(path)], num_tokens=count)))[0]
    scores: list[float] = []
    for start in range(0, len(texts), CHUNK):
        part = [_asked(text, "text") for text in texts[start : start + CHUNK]]
        vectors = as_array(model.embed(part, num_tokens=count)).astype(np.float64)
        scores += (vectors @ picture.astype(np.float64)).round(9).tolist()
    return sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])


# Answering.


def _each(
    job: Callable[[Sequence[Item]], Sequence[Result]], items: Iterable[Item]
) -> Iterator[tuple[Item, Result | None, str | None]]:
    """(item, result, error) of each, done a chunk at a time; one by one where something in a chunk is refused."""
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield from _chunk(job, chunk)
            chunk = []
    if chunk:
        yield from _chunk(job, chunk)


def _chunk(
    job: Callable[[Sequence[Item]], Sequence[Result]], chunk: Sequence[Item]
) -> list[tuple[Item, Result | None, str | None]]:
    try:
        return [(item, result, None) for item, result in zip(chunk, job(chunk), strict=True)]
    except InputError as error:
        if len(chunk) == 1:
            return [(chunk[0], None, str(error))]
        half = len(chunk) // 2
        return [*_chunk(job, chunk[:half]), *_chunk(job, chunk[half:])]


def _asked(text: str, what: str = "question") -> str:
    if not isinstance(text, str):
        raise InputError(f"A {what} is a text, not a {type(text).__name__}.")
    if not text.strip():
        raise InputError(f"The {what} is empty: write a {what}.")
    return text


def _rows_count(model: Model, store: Store, num_tokens: int | None) -> int:
    """How many tokens of each row are read. Raises StoreError, InputError where model, rows and number do not fit."""
    store.check(model.fingerprint, model.name)
    held = store.header.num_tokens
    if num_tokens is None or num_tokens == held:
        return held
    if num_tokens < held:
        _check_count(model, num_tokens)
        if not model.cuttable:
            raise InputError(f"{model.name} cannot read a part of a row: leave out the number of tokens ({held} here).")
    return num_tokens


def _check_count(model: Model, count: int) -> None:
    if count not in model.token_counts:
        raise InputError(f"{model.name} gives {_listed(sorted(model.token_counts))} tokens an image, not {count}.")


def _listed(counts: Sequence[int]) -> str:
    if len(counts) > 2 and list(counts) == list(range(counts[0], counts[-1] + 1)):
        return f"{counts[0]} to {counts[-1]}"
    *most, last = map(str, counts)
    return f"{', '.join(most)} or {last}" if most else last


def _tokens(store: Store, images: Sequence[str], count: int) -> NDArray[np.float32]:
    """(B, K, D) of these images, each read once."""
    names = [store.find(image) for image in images]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    rows = [row.tokens for row in store.get(list(places), num_tokens=count) if row.tokens is not None]
    return np.stack(rows)[[places[name] for name in names]]
