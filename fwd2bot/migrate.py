"""A store for another model: its rows are compressed again from their files, in a new store beside it.

The old store answers until the new one takes its place, and is kept.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from fwd2bot.engine import Model, Progress, open_or_create
from fwd2bot.errors import ImageError, InputError, StoreError
from fwd2bot.ingest import Ingest
from fwd2bot.store import Store
from fwd2bot.store.disk import translated
from fwd2bot.store.swap import beside, free_name, real_folder, replace_folder


@dataclass(kw_only=True)
class MigrateReport:
    """What became of the images. `failed` holds (name, reason): their rows are in `aside`, the old store, alone."""

    store: str
    images: int = 0  # that the new store has
    failed: list[tuple[str, str]] = field(default_factory=list)
    aside: str = ""
    seconds: float = 0.0


def migrate(
    model: Model,
    path: str | Path,
    *,
    num_tokens: int | None = None,
    quantisation: str | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> MigrateReport:
    """Rows have as many tokens, kept in the same way, as the old ones, where nothing else is asked.

    A model that does not give so many gives what it gives by itself.

    Stopped at any time, run again: what was compressed is not done again, and the old store is as it was. A file that
    has changed since is taken as it is now.

    Raises StoreError where the store cannot be read or written, or a migration to another model was begun; InputError
    where its rows are this model's already, or the model makes no such rows; ImageError where no file is there.
    """
    if batch_size < 1:
        raise InputError(f"The batch must hold at least 1 picture, not {batch_size}.")
    old = Store.open(real_folder(Path(path)))
    half = beside(old.path, "migrating")
    if num_tokens is None:
        held = old.header.num_tokens
        num_tokens = held if held in model.token_counts else model.num_tokens
    quantisation = quantisation or old.header.quantisation
    _check_new(model, old, num_tokens, quantisation)
    began = time.monotonic()
    with old.writing():
        new = _begun(model, half, num_tokens, quantisation)
        with new.writing():
            _forget_deleted(old, new)
            found = [(row.name, row.path) for row in old.listing()]
            ingest = Ingest(model, new, batch_size)
            report = MigrateReport(store=str(path), failed=ingest.run(found, progress).failed)
            new.tidy()
            report.images = len(new.names())
            if not report.images:
                raise ImageError(f"Of the {len(found):,} images of {path} no file is there: it stays as it is.")
            with translated(old.path, "written"):
                report.aside = str(free_name(old.path, "before"))
                replace_folder(half, old.path, Path(report.aside))
    report.seconds = time.monotonic() - began
    return report


def _check_new(model: Model, old: Store, num_tokens: int, quantisation: str) -> None:
    header = old.header
    there = (header.fingerprint, header.num_tokens, header.quantisation)
    if there == (model.fingerprint, num_tokens, quantisation):
        raise InputError(f"The rows of {old.path} were written by {model.name} as it is: there is nothing to migrate.")
    if not old.names():
        raise InputError(f"{old.path} is empty: make a new store with `fwd2bot compress`.")


def _forget_deleted(old: Store, new: Store) -> None:
    """What was deleted since the migration began leaves the new store, too; another picture may have its name."""
    owners = ((row, old.owner(row.name)) for row in new.listing())
    gone = [row.name for row, owner in owners if owner is None or (owner[0] != row.hash and owner[1] != row.path)]
    if gone:
        new.remove(gone)
        new.tidy(erase=True)


def _begun(model: Model, half: Path, num_tokens: int, quantisation: str) -> Store:
    try:
        return open_or_create(model, half, num_tokens=num_tokens, quantisation=quantisation)
    except StoreError as error:
        raise StoreError(f"{error} Or delete {half}, which an earlier `fwd2bot migrate` began.") from error
