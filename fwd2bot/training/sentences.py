"""Triplets of texts, which E5-V learns from: an anchor, a text that says the same, and one that nearly does."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fwd2bot.data.world.samples import draw_triplet
from fwd2bot.errors import InputError
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.feeds import Batch, Feed
from fwd2bot.training.stage import step_indices, validation_indices

COLUMNS = ("sent0", "sent1", "hard_neg")
Triplet = tuple[str, str, str]


class WorldSentences(Feed):
    """Captions of the generated world and of its near duplicates."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def batch(self, step: int) -> Batch:
        return _batch([draw_triplet("train", index) for index in step_indices(self.config, step)])

    def validation(self) -> Iterator[Batch]:
        for indices in validation_indices(self.config):
            yield _batch([draw_triplet("val", index) for index in indices])


class FileSentences(Feed):
    """A file's triplets, shuffled anew in every epoch; some, evenly spread, are kept for figures.

    Raises InputError as `read_triplets`, and where there are fewer than a batch.
    """

    def __init__(self, config: TrainConfig) -> None:
        path = Path(config.data["sources"][0]["path"])
        rows = read_triplets(path)
        held = set(np.linspace(0, len(rows) - 1, min(config.validation, len(rows) // 10)).round().astype(int).tolist())
        self.config, self.size = config, config.contrastive_batch or config.batch_size
        self.rows = [row for number, row in enumerate(rows) if number not in held]
        self.held_out = [rows[number] for number in sorted(held)]
        if len(self.rows) < self.size:
            raise InputError(f"{path} has {len(self.rows):,} triplets to learn from; a batch is {self.size:,}.")

    def batch(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self.rows) // self.size)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.rows))
        chosen = order[place * self.size : (place + 1) * self.size].tolist()
        return _batch([self.rows[number] for number in distributed.part(chosen)])

    def validation(self) -> Iterator[Batch]:
        size = self.config.batch_size
        for first in range(0, len(self.held_out) - size + 1, size):
            yield _batch(self.held_out[first : first + size])


def sentences(config: TrainConfig) -> Feed:
    """Where the triplets of a run come from. Raises InputError where its sources are no triplets."""
    kinds = {source["kind"] for source in config.data["sources"]}
    if kinds - {"triplets"}:
        raise InputError("This method learns from text alone: data.sources must be triplets, or empty for the world's.")
    return FileSentences(config) if kinds else WorldSentences(config)


def read_triplets(path: Path) -> list[Triplet]:
    """Of a CSV file with `COLUMNS`. Raises InputError where it cannot be read, or a line lacks one of the texts."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := set(COLUMNS) - set(reader.fieldnames or ()):
                raise InputError(f"{path} has no column {min(lacking)}; triplets are {', '.join(COLUMNS)}.")
            rows = []
            for row in reader:
                anchor, positive, negative = ((row[name] or "").strip() for name in COLUMNS)
                if not (anchor and positive and negative):
                    raise InputError(f"Line {reader.line_num} of {path} lacks a text; each has {', '.join(COLUMNS)}.")
                rows.append((anchor, positive, negative))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no CSV file of text"
        raise InputError(f"{path} cannot be read: {reason}.") from error
    return rows


def _batch(rows: Sequence[Triplet]) -> Batch:
    anchors, positives, negatives = (list(column) for column in zip(*rows, strict=True))
    return Batch(None, None, anchors, [], [], positives, negatives)
