"""Where a compressor's batches come from: the generated world, or files of others. Either is a function of the step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fwd2bot.compressors.base import AnswerBatch
from fwd2bot.data.conversations import IGNORED, ChatTemplate, encode_conversation
from fwd2bot.data.llava_json import LlavaJson
from fwd2bot.data.records import Damage, Kind, Record, Source, Subset
from fwd2bot.data.shards import Shards
from fwd2bot.data.world.samples import draw_sample
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.sampler import PAIR, Sampler
from fwd2bot.training.stage import pad_to, scene_pixels, step_indices, turn_numbers, validation_indices


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
        """What training never sees, in whole batches."""


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
    place; too many of them end the run. Some records of each source are kept for figures.

    Raises InputError where a source cannot be read, or nothing is left to learn from.
    """

    def __init__(self, config: TrainConfig, llava: Llava, template: ChatTemplate, *, contrastive: bool) -> None:
        self.config, self.llava, self.template = config, llava, template
        opened = [open_source(entry, config.seed) for entry in config.data["sources"]]
        parts = [_held_out(source, config.validation) for source, _ in opened]
        self.sampler = Sampler(
            [(train, weight) for (train, _), (_, weight) in zip(parts, opened, strict=True)],
            batch_size=config.batch_size,
            pairs=config.contrastive_batch or config.batch_size,
            seed=config.seed,
            autoregressive=bool(config.losses.get("autoregressive")),
            contrastive=contrastive,
        )
        self.held_out = [held for _, held in parts]
        self.damage = Damage(float(config.data["broken"]), path=config.out / "broken.jsonl")

    def batch(self, step: int) -> Batch:
        kind, records = self.sampler.at(step)
        return self._batch(kind, [self._readable(source, index) for source, index in distributed.part(records)])

    def validation(self) -> Iterator[Batch]:
        size = self.config.batch_size
        for held in self.held_out:
            for kind in sorted(set(held.kinds().tolist())):
                chosen = np.flatnonzero(held.kinds() == kind)
                for first in range(0, len(chosen) - size + 1, size):
                    rows = [self._readable(held, int(index)) for index in chosen[first : first + size]]
                    yield self._batch(Kind(kind), rows)

    def _readable(self, source: Source, index: int) -> tuple[Record, Image.Image | None]:
        """The record with its picture, or the next of the source that has one."""
        for place in range(index, index + len(source)):
            record = source[place % len(source)]
            if record.image is None:
                return record, None
            picture = self.damage.picture(source, record)
            if picture is not None:
                return record, picture
        raise InputError(f"No picture of {source.name} can be read: look at {self.damage.path}.")

    def _batch(self, kind: Kind, rows: list[tuple[Record, Image.Image | None]]) -> Batch:
        pictures = [picture for _, picture in rows if picture is not None]
        pixels = self.llava.pixels(pictures).cpu() if pictures else None
        captions = [record.caption or "" for record, _ in rows] if Kind.CAPTION in kind else []
        if kind == PAIR:
            return Batch(pixels, None, captions, [], [])
        length = int(self.config.data["length"])
        encoded = [
            encode_conversation(self.llava.tokenizer, self.template, record.turns, has_image=pixels is not None)
            for record, _ in rows
        ]
        cut = [one._replace(ids=one.ids[:length], labels=one.labels[:length]) for one in encoded]
        answers = AnswerBatch.collate(cut, self.llava.tokenizer.pad_token_id)
        kinds = [["answers"] * len(record.turns) for record, _ in rows]
        return Batch(pixels, answers, captions, kinds, [record.turns[0][0] for record, _ in rows])


def open_source(entry: dict[str, Any], seed: int) -> tuple[Source, float]:
    """A source of `data.sources` with its weight. Raises InputError where it cannot be read."""
    if entry["kind"] == "triplets":
        raise InputError("data.sources: triplets are for methods that learn from text alone (e5v); take other sources.")
    if entry["kind"] == "captions":
        pairs = entry["images"]
        source: Source = Shards(entry["path"]) if pairs is None else LlavaJson(entry["path"], pairs, pairs=True)
    else:
        source = LlavaJson(entry["path"], entry["images"], seed=seed)
        if entry["captions"] is not None:
            source.attach_captions(entry["captions"])
    return source, float(entry["weight"])


def _held_out(source: Source, count: int) -> tuple[Source, Source]:
    """What is trained on, and `count` records, evenly spread, that are not; never more than a tenth."""
    count = min(count, len(source) // 10)
    held = np.unique(np.linspace(0, len(source) - 1, count).round().astype(np.int64)) if count else np.arange(0)
    kept = np.setdiff1d(np.arange(len(source)), held)
    return Subset(source, kept), Subset(source, held)
