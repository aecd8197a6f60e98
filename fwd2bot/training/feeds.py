"""Where a compressor's batches come from: the generated world, or files of others. Either is a function of the step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fwd2bot.compressors.base import AnswerBatch
from fwd2bot.data.conversations import IGNORED, ChatTemplate, encode_conversation
from fwd2bot.data.llava_json import LlavaJson
from fwd2bot.data.records import Damage, Kind, Record, Source, Subset, of_kind
from fwd2bot.data.shards import Shards, find_shards
from fwd2bot.data.world.samples import draw_sample
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.sampler import PAIR, Sampler
from fwd2bot.training.stage import pad_to, scene_pixels, step_indices, turn_numbers, validation_indices

Row = tuple[Record, Image.Image | None]
BROKEN = "broken.jsonl"
"""Beside the checkpoints: pictures that could not be read, and what was left out."""


class Batch(NamedTuple):
    """What one step learns from.

    pixels (B, 3, H, W), None for text alone; answers: a conversation a row, None for pairs; captions: one a row, none
    where there are none; kinds: of each conversation's questions, for figures; questions: the first of each. Of text
    alone (`sentences.py`) positives say the same as the captions, and negatives nearly do.
    """

    pixels: Tensor | None
    answers: AnswerBatch | None
    captions: list[str]
    kinds: list[list[str]]
    questions: list[str]
    positives: Sequence[str] = ()
    negatives: Sequence[str] = ()


class Feed(ABC):
    """Batches for training, and those that figures are taken on."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """Of a step: this process's part."""

    @abstractmethod
    def validation(self) -> Iterator[Batch]:
        """What training never sees, the same in every process."""


class WorldFeed(Feed):
    """Scenes of the generated world: every batch has conversations and captions, in rows of one length."""

    def __init__(self, config: TrainConfig, llava: Llava, template: ChatTemplate) -> None:
        self.config, self.tokenizer, self.template = config, llava.tokenizer, template
        self.image = int(llava.network.config.vision_config.image_size)
        self.shares = {name: config.data[name] for name in ("turns", "captioning", "listing")}

    def batch(self, step: int) -> Batch:
        return self._batch("train", step_indices(self.config, step), **self.shares)

    def validation(self) -> Iterator[Batch]:
        for indices in validation_indices(self.config):
            yield self._batch("val", indices, turns=8)

    def _batch(self, split: str, indices: Sequence[int], **shares: Any) -> Batch:
        samples = [draw_sample(split, index, **shares) for index in indices]
        turns = [sample.turns for sample in samples]
        encoded = [encode_conversation(self.tokenizer, self.template, one, has_image=True) for one in turns]
        length = int(self.config.data["length"])
        ids = pad_to([one.ids for one in encoded], length, self.tokenizer.pad_token_id)
        labels = pad_to([one.labels for one in encoded], length, IGNORED)
        place = encoded[0].image_position or 0
        numbers = turn_numbers(labels, self.tokenizer.eos_token_id, torch.tensor([[place]]))
        pixels = scene_pixels([sample.scene for sample in samples], self.image)
        captions = [sample.caption for sample in samples]
        answers = AnswerBatch(ids, labels, place, turns=numbers)
        return Batch(pixels, answers, captions, [one.kinds for one in samples], [one[0][0] for one in turns])


class FileFeed(Feed):
    """Records of files, as the sampler deals them: conversations, pairs of image and caption, or both at once.

    A picture that cannot be read is listed in `broken.jsonl` beside the checkpoints, and another record takes its
    place; too many of them end the run. Some records of each source are kept for figures, and no other record of their
    pictures is trained on; every process takes the figures on all of them but those with a broken picture, kind by
    kind, with no more in a batch than it trains on.

    Raises InputError where a source cannot be read, or nothing is left to learn from.
    """

    def __init__(self, config: TrainConfig, llava: Llava, template: ChatTemplate, *, contrastive: bool) -> None:
        self.config, self.llava, self.template = config, llava, template
        self.contrastive = contrastive
        opened = [open_source(entry, config) for entry in config.data["sources"]]
        parts = _held_out([source for source, _ in opened], config.validation)
        self.sampler = Sampler(
            [(train, weight) for (train, _), (_, weight) in zip(parts, opened, strict=True)],
            batch_size=config.batch_size,
            pairs=config.contrastive_batch or config.batch_size,
            seed=config.seed,
            autoregressive=bool(config.losses.get("autoregressive")),
            contrastive=contrastive,
        )
        self.held_out = [held for _, held in parts]
        self.damage = Damage(float(config.data["broken"]), path=config.out / BROKEN)
        self.held_damage = Damage(1.0, path=_listed(config))  # the same pictures again and again: not judged

    def batch(self, step: int) -> Batch:
        kind, records = self.sampler.at(step)
        return self._batch(kind, [self._readable(source, index) for source, index in distributed.part(records)])

    def validation(self) -> Iterator[Batch]:
        size = self.config.batch_size // distributed.count()
        for held in self.held_out:
            for kind in map(Kind, sorted(set(held.kinds().tolist()))):
                if kind == PAIR and not self.contrastive:
                    continue
                chosen = of_kind(held, kind)
                for first in range(0, len(chosen), size):
                    found = [self._row(held, int(index), self.held_damage) for index in chosen[first : first + size]]
                    if rows := [row for row in found if row is not None]:
                        yield self._batch(kind, rows)

    def _readable(self, source: Source, index: int) -> Row:
        """The record with its picture, or the next of the source that has one."""
        for place in range(index, index + len(source)):
            row = self._row(source, place % len(source), self.damage)
            if row is not None:
                return row
        raise InputError(f"No picture of {source.name} can be read: look at {self.damage.path}.")

    def _row(self, source: Source, index: int, damage: Damage) -> Row | None:
        """The record with its picture; None where it should have one that cannot be read."""
        record = source[index]
        if record.image is None:
            return record, None
        picture = damage.picture(source, record)
        return None if picture is None else (record, picture)

    def _batch(self, kind: Kind, rows: list[Row]) -> Batch:
        pictures = [picture for _, picture in rows if picture is not None]
        pixels = self.llava.prepared(pictures) if pictures else None
        length = int(self.config.data["length"])
        captions = [self._cut(record.caption or "", length) for record, _ in rows] if Kind.CAPTION in kind else []
        if kind == PAIR:
            return Batch(pixels, None, captions, [], [])
        encoded = [
            encode_conversation(self.llava.tokenizer, self.template, record.turns, has_image=pixels is not None)
            for record, _ in rows
        ]
        cut = [one._replace(ids=one.ids[:length], labels=one.labels[:length]) for one in encoded]
        answers = AnswerBatch.collate(cut, self.llava.tokenizer.pad_token_id)
        kinds = [["answers"] * len(record.turns) for record, _ in rows]
        return Batch(pixels, answers, captions, kinds, [record.turns[0][0] for record, _ in rows])

    def _cut(self, text: str, length: int) -> str:
        """No more tokens of a caption than of a conversation."""
        if len(text.encode(errors="replace")) <= length:
            return text
        tokens = self.llava.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return text if len(tokens.ids) <= length else text[: tokens.offsets[length - 1][1]]


def open_source(entry: dict[str, Any], config: TrainConfig) -> tuple[Source, float]:
    """A source of `data.sources` with its weight. Where the records of tar files lie is kept in `out`, for when the
    run goes on, and what is left out of them is listed there. Raises InputError where it cannot be read."""
    if entry["kind"] == "triplets":
        raise InputError("data.sources: triplets are for methods that learn from text alone (e5v); take other sources.")
    pairs = entry["kind"] == "captions"
    if pairs and entry["images"] is None:
        damage = Damage(float(config.data["broken"]), path=_listed(config))
        source: Shards | LlavaJson = Shards(entry["path"], cache=config.out / "shards", damage=damage)
        where = f"{config.out / BROKEN} lists them"
    else:
        source = LlavaJson(entry["path"], entry["images"], pairs=pairs, seed=config.seed)
        if not pairs and entry["captions"] is not None:
            source.attach_captions(entry["captions"], entry["captions_held_out"])
        where = "they have no answer, or no picture and caption where a pair is meant"
    if source.left_out:
        distributed.tell(f"{source.left_out:,} records of {entry['path']} are left out: {where}.")
    return source, float(entry["weight"])


def _listed(config: TrainConfig) -> Path | None:
    """For what every process meets: one lists it."""
    return config.out / BROKEN if distributed.leads() else None


def check_sources(config: TrainConfig) -> None:
    """Raises InputError where a file or folder of `data.sources` is not there."""
    for entry in config.data.get("sources", []):
        if entry["kind"] == "captions" and entry["images"] is None:
            find_shards(entry["path"])
            continue
        for part in ("path", "images", "captions", "captions_held_out"):
            if entry.get(part) and not Path(entry[part]).exists():
                raise InputError(f"data.sources: {entry[part]} is not there ({part} of {entry['kind']}); check it.")


def check_length(config: TrainConfig, tokenizer: Any, template: ChatTemplate) -> None:
    """Raises InputError where rows of `data.length` are too short for any answer about a picture."""
    shortest = len(encode_conversation(tokenizer, template, [("a", "a")], has_image=True).ids)
    if (length := int(config.data["length"])) < shortest:
        raise InputError(
            f"data.length is {length}; with the template {template.name} a question with its answer takes {shortest} "
            "tokens and more."
        )


def _held_out(sources: Sequence[Source], count: int) -> list[tuple[Source, Source]]:
    """Of each source what is trained on, and `count` records, evenly spread, that are not; never more than a tenth.

    Nor are records of the pictures of these, whichever source has them.
    """
    counts = [min(count, len(source) // 10) for source in sources]
    held = [
        np.unique(np.linspace(0, len(source) - 1, few).round().astype(np.int64)) if few else np.arange(0)
        for source, few in zip(sources, counts, strict=True)
    ]
    pictures = [source.pictures() for source in sources]
    shown = [all_of[those] for all_of, those in zip(pictures, held, strict=True) if all_of is not None]
    seen = np.unique(np.concatenate(shown)) if shown else np.empty(0, np.uint64)
    parts: list[tuple[Source, Source]] = []
    for source, those, all_of in zip(sources, held, pictures, strict=True):
        kept = np.setdiff1d(np.arange(len(source)), those)
        if all_of is not None:
            kept = kept[~np.isin(all_of[kept], seen[seen > 0])]
        parts.append((Subset(source, kept), Subset(source, those)))
    return parts
