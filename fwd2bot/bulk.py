"""Compression by several workers, on one machine or on a cluster, through Ray Data: the one module that knows Ray.

Files are read by tasks and compressed by actors, with the engine's own code; only their rows come back, in the order of
the files, to this process, which alone writes the store. The steps are plain functions on Arrow tables:

    found files  --read_files-->  pixels of new contents  --compress_read-->  rows  --write_rows-->  store
"""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.engine import Model, open_or_create, pictures_for
from fwd2bot.errors import InputError, ModelError
from fwd2bot.ingest import CompressReport, Ingest, ReadFile, as_array, read_ahead
from fwd2bot.store import Row, Store
from fwd2bot.store.base import short
from fwd2bot.store.names import path_of, path_text

_FILE = [("name", pa.string()), ("path", pa.string())]
_CONTENT = [("hash", pa.string()), ("error", pa.string()), ("file_bytes", pa.int64()), ("modified", pa.int64())]
_CONTENT += [("width", pa.int32()), ("height", pa.int32())]
_PIXELS = [("columns", pa.int32()), ("rows", pa.int32()), ("pixels", pa.large_binary())]  # as decoded; None: known
FOUND = pa.schema(_FILE)
READ = pa.schema([*_FILE, *_CONTENT, *_PIXELS])
MADE = pa.schema([*_FILE, *_CONTENT, ("tokens", pa.large_binary()), ("vector", pa.large_binary())])
FILES_A_BLOCK = 1024


def compress_with_ray(
    source: str,
    paths: Iterable[str | Path],
    store_path: str | Path,
    *,
    workers: int,
    gpus: float = 0.0,
    num_tokens: int | None = None,
    quantisation: str | None = None,
    batch_size: int = 32,
) -> CompressReport:
    """`engine.compress_images` with `workers` copies of the model `source`, each with so many GPUs.

    Ray is started here unless `ray.init` has been called or RAY_ADDRESS names a cluster. Stopped at any time, run
    again: what was committed is not done again. Paths are those of the workers, too: a shared file system.

    Raises InputError, StoreError as `compress_images` does, and InputError where Ray is not installed.
    """
    if workers < 1 or batch_size < 1:
        raise InputError(f"Workers and batch must be at least 1, not {workers} and {batch_size}.")
    found = pictures_for(paths, store_path)
    data = _ray_data()
    from fwd2bot.model import load

    model = load(source, device="cpu")  # for its name, numbers of tokens and fingerprint; it compresses nothing here
    store = open_or_create(model, store_path, num_tokens=num_tokens, quantisation=quantisation)
    with store.writing():
        known = store.hashes()
        read = data.from_arrow(found_tables(found)).map_batches(
            partial(_read_task, known=_put(known)), batch_format="pyarrow", batch_size=batch_size
        )
        made = read.map_batches(
            _Worker,
            fn_constructor_args=(model.source, model.fingerprint, store.header.num_tokens, gpus > 0),
            batch_format="pyarrow",
            batch_size=batch_size,
            compute=data.ActorPoolStrategy(size=workers),
            num_gpus=gpus,
        )
        tables = made.iter_batches(batch_format="pyarrow", batch_size=None)
        return write_rows(model, store, tables, batch_size)


# The steps.


def found_tables(found: Sequence[tuple[str, str]]) -> list[pa.Table]:
    """Names and paths, as blocks that tasks share out among themselves; a path need not be UTF-8 (`path_text`)."""
    return [
        pa.table([[name for name, _ in part], [path_text(path) for _, path in part]], schema=FOUND)
        for part in (found[start : start + FILES_A_BLOCK] for start in range(0, len(found), FILES_A_BLOCK))
    ]


class Known:
    """The hashes as something that can be asked whether it holds one."""

    def __init__(self, sorted_hashes: NDArray[np.bytes_]) -> None:
        self._hashes = sorted_hashes

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, str)
        place = int(np.searchsorted(self._hashes, np.bytes_(key.encode())))
        return place < len(self._hashes) and bool(self._hashes[place] == key.encode())


def read_files(table: pa.Table, known: NDArray[np.bytes_]) -> pa.Table:
    """FOUND -> READ."""
    pairs = [(row["name"], path_of(row["path"])) for row in table.to_pylist()]
    rows: list[dict[str, Any]] = []
    for name, path, read in read_ahead(pairs, Known(known), len(pairs)):
        error = None if read.error is None else path_text(read.error)
        row: dict[str, Any] = {"name": name, "path": path_text(path), "hash": read.hash, "error": error}
        row["modified"] = read.modified
        if read.picture is not None:
            picture = read.picture
            row |= {"file_bytes": picture.file_bytes, "width": picture.width, "height": picture.height}
            columns, lines = picture.image.size
            row |= {"columns": columns, "rows": lines, "pixels": picture.image.tobytes()}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=READ)


def compress_read(table: pa.Table, model: Model, num_tokens: int) -> pa.Table:
    """READ -> MADE, with the tokens (K, D) and the vector (D) of what has pixels, in float32."""
    rows = table.to_pylist()
    new = [row for row in rows if row["pixels"] is not None]
    if new:
        images = [Image.frombytes("RGB", (row["columns"], row["rows"]), row["pixels"]) for row in new]
        tokens = model.compress(images, num_tokens=num_tokens)
        for row, row_tokens, vector in zip(new, as_array(tokens), as_array(model.embed(tokens)), strict=True):
            row |= {"tokens": row_tokens.tobytes(), "vector": vector.tobytes()}
    return pa.Table.from_pylist(rows, schema=MADE)


def write_rows(model: Model, store: Store, tables: Iterable[pa.Table], batch_size: int) -> CompressReport:
    """MADE -> the store, in bounded commits."""
    began = time.monotonic()
    ingest = Ingest(model, store, batch_size)
    try:
        for table in tables:
            for row in table.to_pylist():
                ingest.take(row["name"], path_of(row["path"]), _as_read(row, store.header.num_tokens))
        ingest.commit()
    except BaseException:  # Ctrl-C, a worker that cannot load the model: what has come is kept
        ingest.abandon()
        raise
    store.tidy()
    ingest.report.seconds = time.monotonic() - began
    return ingest.report


def _as_read(row: dict[str, Any], num_tokens: int) -> ReadFile:
    if row["tokens"] is None:
        error = None if row["error"] is None else path_of(row["error"])
        return ReadFile(hash=row["hash"], error=error, modified=row["modified"])
    made = Row(
        name=row["name"],
        hash=row["hash"],
        file_bytes=row["file_bytes"],
        modified=row["modified"],
        width=row["width"],
        height=row["height"],
        tokens=np.frombuffer(row["tokens"], dtype=np.float32).reshape(num_tokens, -1),
        vector=np.frombuffer(row["vector"], dtype=np.float32),
    )
    return ReadFile(hash=row["hash"], row=made)


# Ray.


class _Worker:
    """An actor with a model of its own. Raises ModelError where that is another one than the driver's."""

    def __init__(self, source: str, fingerprint: str, num_tokens: int, on_gpu: bool) -> None:
        from fwd2bot.model import load

        self._model, self._num_tokens = load(source, device="cuda" if on_gpu else "cpu"), num_tokens
        if self._model.fingerprint != fingerprint:
            raise ModelError(
                f"{source} is another model on the machine of a worker ({short(self._model.fingerprint)}) than here "
                f"({short(fingerprint)}): give all machines the same."
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        return compress_read(table, self._model, self._num_tokens)


def _read_task(table: pa.Table, known: Any) -> pa.Table:
    import ray

    return read_files(table, ray.get(known))


def _put(value: Any) -> Any:
    import ray

    return ray.put(value)


def _ray_data() -> Any:
    """Ray Data, with rows in the order of the files."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("Compression by several workers needs Ray: pip install 'fwd2bot[ray]'.") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return ray.data
