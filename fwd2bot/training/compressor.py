"""Everything that answers from pictures: LLaVA itself (`identity`), Fwd2Bot, and each rival that is trained.

One step: pictures -> tokens (pass 1) -> L_AR over questions (pass 2), and where the compressor embeds text, L_disc
between the mean tokens of pictures and captions (Eq. 4).
"""

import os
import random
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoTokenizer,
    CLIPModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from fwd2bot.checkpoint import base_folder, find_on_hub, save_model
from fwd2bot.compressors.base import AnswerBatch, Compressor, check_parts
from fwd2bot.compressors.catalogue import make_compressor, method_named
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import IGNORED, Encoded, template_named
from fwd2bot.errors import InputError
from fwd2bot.evaluation.metrics import recall_at
from fwd2bot.hub import ID, name_of
from fwd2bot.llava import Llava
from fwd2bot.losses import contrastive_loss, one_way_loss
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.feeds import Batch, Feed, FileFeed, WorldFeed, check_length, check_sources
from fwd2bot.training.language import answers_right
from fwd2bot.training.sentences import sentences
from fwd2bot.training.shapes import read_base
from fwd2bot.training.stage import Stage, accuracy
from fwd2bot.training.tower import image_processor
from fwd2bot.training.workload import Work

SAMPLES = 8
"""Questions that are answered each time figures are taken."""


class CompressorStage(Stage):
    """A compressor on a base; which parts of the base are trained with it is `train_parts`."""

    def __init__(self, config: TrainConfig, llava: Llava | None = None, feed: Feed | None = None) -> None:
        """llava: the base, where it is not to be read from `init`. feed: where the data is open already."""
        super().__init__(config)
        settings = CompressorConfig.from_dict(config.compressor)
        self.disc = _checked(config, settings)
        if llava is None:
            llava = assemble_llava(config.init) if "tower" in config.init else Llava.from_folder(self.base)
        self.compressor: Compressor = make_compressor(llava, settings)
        self.compressor.trainable(config.train_parts)
        self.compressor.train()
        if config.halves_base and self.in_bfloat16:
            llava.halve_matrices()
        llava.gradient_checkpointing = config.gradient_checkpointing
        if config.compile:
            llava.compile(dynamic=False)
        self.template = template_named(settings.template)
        self.feed = self._feed(llava) if feed is None else feed
        self.work = _work(config)

    @cached_property
    def base(self) -> Path:
        """Where the LLaVA of `init.base` is: looked for once, so what is trained on is what the result names."""
        return find_base(self.config.init["base"])

    def _feed(self, llava: Llava) -> Feed:
        if self.compressor.text_alone:
            return sentences(self.config)
        check_length(self.config, llava.tokenizer, self.template)
        if self.config.data["sources"]:
            return FileFeed(self.config, llava, self.template, contrastive=bool(self.disc))
        return WorldFeed(self.config, llava, self.template)

    def anew(self) -> "CompressorStage":
        torch.manual_seed(self.config.seed)  # of weights that are new, but not trained
        return CompressorStage(self.config, feed=self.feed)

    @property
    def module(self) -> nn.Module:
        return self.compressor

    @property
    def layers(self) -> list[nn.Module]:
        model = self.compressor.llava.network.model
        return [*model.language_model.layers, *model.vision_tower.encoder.layers]

    @property
    def varied(self) -> bool:
        """Batches of files differ in kind: pairs of image and caption have no pass 2, text alone has no pass 1.

        Without one of the losses, what only that one reads is never read.
        """
        both = self.config.losses.get("autoregressive") and self.disc
        return super().varied or bool(self.config.data["sources"]) or (self.compressor.embeds_text and not both)

    def batch(self, step: int) -> Batch:
        return self.feed.batch(step)

    def num_tokens(self, step: int) -> int | None:
        """The number of tokens of a step: one of those offered, at random (prefix training)."""
        counts = self.compressor.token_counts
        if len(counts) == 1 or self.compressor.config.compressor == "identity":
            return None
        return random.Random(f"{self.config.seed}:{step}").choice(counts)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Eq. 2 and Eq. 3, weighted, where the batch has what they are taken on; of several counts their mean."""
        self.compressor.progress = step / self.config.steps
        if not self.compressor.every_count:
            return self._losses_at(self.num_tokens(step), batch)
        found = [self._losses_at(count, batch) for count in self.compressor.token_counts]
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def _losses_at(self, count: int | None, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if batch.positives:
            return {"contrastive": self.disc * self._sentence_loss(batch)}
        images: Tensor | None = None
        if batch.answers is None:
            images = self._embedded(self.compressor.compress, batch.pixels, count, self.compressor.embed_rows)
        else:
            compress = partial(self.compressor.compress, questions=batch.questions)
            tokens = None if batch.pixels is None else self._cut(compress, batch.pixels, count)
            if weight := self.config.losses.get("autoregressive", 0.0):
                share = distributed.share((batch.answers.labels[:, 1:] != IGNORED).sum())
                losses["autoregressive"] = weight * self.compressor.answer_loss(tokens, batch.answers) * share
            if tokens is not None and self.disc and batch.captions:
                images = self.compressor.embed_rows(tokens)
        if self.disc and batch.captions:
            texts = self._embedded_texts(batch.captions, count)
            assert images is not None, "captions are of pictures"
            temperature = self.compressor.config.temperature
            images, texts = distributed.gathered(images), distributed.gathered(texts)
            loss = one_way_loss if self.compressor.one_way else contrastive_loss
            losses["contrastive"] = self.disc * loss(images, texts, temperature)
        return losses

    def _sentence_loss(self, batch: Batch) -> Tensor:
        """Each anchor against all positives, of which one is its own, and all negatives."""
        anchors, positives, negatives = (
            distributed.gathered(self._embedded_texts(texts, None))
            for texts in (batch.captions, batch.positives, batch.negatives)
        )
        return one_way_loss(anchors, torch.cat([positives, negatives]), self.compressor.config.temperature)

    def _cut(self, compress: Callable[..., Tensor], rows: Any, count: int | None) -> Tensor:
        """Tokens of pictures or texts. Those that can be cut are all made, the first few used: one shape of pass 1."""
        made = None if self.compressor.cuttable else count
        return compress(rows, num_tokens=made)[:, :count]

    def _embedded_texts(self, texts: Sequence[str], count: int | None) -> Tensor:
        return self._embedded(self.compressor.compress_text, texts, count, self.compressor.embed_text_rows)

    def _embedded(
        self, compress: Callable[..., Tensor], rows: Any, count: int | None, vectors: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Vectors (B, D) of pictures or texts, from the tokens that `compress` gives.

        More than this process's part of `batch_size` are done in pieces of it. Of each only the output is kept, and
        it is run again when its gradient comes: memory does not grow with the batch, and the gradient is that of one
        large batch. Source: gradient caching (Gao et al., 2021).
        """
        size = self.config.batch_size // distributed.count()

        def embed(piece: Any) -> Tensor:
            return vectors(self._cut(compress, piece, count))

        if len(rows) <= size:
            return embed(rows)
        pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
        return torch.cat([checkpoint(embed, piece, use_reentrant=False) for piece in pieces])

    def rows(self, batch: Batch) -> int:
        return distributed.count() * len(batch.captions if batch.answers is None else batch.answers.ids)

    def flops(self, batch: Batch) -> float | None:
        if self.work is None:
            return None
        loads = {load.name: load for load in self.work.loads}
        if batch.answers is None:
            load = loads["pairs"]
        elif batch.pixels is None:
            load = loads["text"]
        else:
            kinds = ("both", "conversations") if batch.captions else ("conversations", "both")
            load = next(loads[kind] for kind in kinds if kind in loads)
        text, labels = 1, 0
        if batch.answers is not None:
            text = batch.answers.ids.shape[1]
            labels = int((batch.answers.labels != IGNORED).sum()) * distributed.count()
        tokenizer = self.compressor.llava.tokenizer
        caption = max((len(ids) for ids in tokenizer(batch.captions)["input_ids"]), default=0) if load.pairs else 0
        parts = self.work.flops(load, text, caption=caption, labels=labels).values()
        return float(sum(part.forward + part.backward for part in parts))

    @torch.inference_mode()
    def answer_samples(self) -> list[dict[str, str]]:
        """The first question of some conversations, and what the model answers with the most tokens it can give.

        Those about pictures, where there are any.
        """
        if not self.compressor.answers:
            return []
        held_out: Batch | None = None
        for batch in self.feed.validation():
            if batch.answers is not None and (held_out is None or batch.pixels is not None):
                held_out = batch
            if held_out is not None and held_out.pixels is not None:
                break
        if held_out is None or held_out.answers is None:
            return []
        pixels, answers = held_out.pixels, held_out.answers
        rows = (answers.labels != IGNORED).any(dim=1).nonzero()[:SAMPLES, 0].tolist()  # some were cut before an answer
        if not rows:
            return []
        tokenizer = self.compressor.llava.tokenizer
        ids, labels = answers.ids[rows].tolist(), answers.labels[rows].tolist()
        turns = [_first_turn(*row) for row in zip(ids, labels, strict=True)]
        prompts = [Encoded(before, [IGNORED] * len(before), answers.image_position) for before, _ in turns]
        first = [held_out.questions[row] for row in rows]
        with self.autocast():
            tokens = None if pixels is None else self.compressor.compress(pixels[rows].to(self.device), first)
            asked = AnswerBatch.collate(prompts, tokenizer.pad_token_id).to(self.device)
            given = self.compressor.generate(tokens, asked, max_new_tokens=48)

        def text(ids: list[int]) -> str:
            return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

        return [
            {"question": question, "truth": text(truth), "answer": text(ids)}
            for question, (_, truth), ids in zip(first, turns, given, strict=True)
        ]

    def evaluate(self) -> dict[str, float]:
        """Exact answers by kind, each token given those before it (teacher forcing), and R@1 among all captions."""
        counts = self.compressor.token_counts
        shown = counts if len(counts) <= 3 else (counts[0], counts[-1])
        figures: dict[str, float] = {}
        for count in shown:
            found = self._evaluate_at(count)
            prefix = f"{count}/" if len(shown) > 1 else ""
            figures |= {prefix + name: value for name, value in found.items()}
        return figures

    def _evaluate_at(self, count: int) -> dict[str, float]:
        hits: dict[str, list[bool]] = {}
        pairs: list[tuple[Tensor, Tensor]] = []  # embeddings of pictures, or anchors, and of their captions
        end = self.compressor.llava.tokenizer.eos_token_id
        for batch in self.feed.validation():
            pixels = None if batch.pixels is None else batch.pixels.to(self.device)
            with self.autocast():
                tokens = None if pixels is None else self.compressor.compress(pixels, batch.questions, count)
                if self.disc and batch.captions and tokens is not None:
                    texts = self.compressor.compress_text(batch.captions, num_tokens=count)
                    pairs.append((self.compressor.embed_rows(tokens), self.compressor.embed_text_rows(texts)))
                if batch.positives:
                    anchors, texts = map(self.compressor.compress_text, (batch.captions, batch.positives))
                    pairs.append((self.compressor.embed_text_rows(anchors), self.compressor.embed_text_rows(texts)))
                if batch.answers is None or not self.compressor.answers:
                    continue
                answers = batch.answers.to(self.device)
                logits, labels = self.compressor.answer_logits(tokens, answers), answers.labels
            labelled = labels[:, 1:] != IGNORED
            predicted, wanted = logits[:, :-1][labelled].argmax(-1), labels[:, 1:][labelled]
            for kind, right in answers_right(predicted, wanted, labels, batch.kinds, end):
                hits.setdefault(kind, []).append(right)
        names = ("text_to_text",) if self.compressor.text_alone else ("text_to_image", "image_to_text")
        return {**(accuracy(hits) if hits else {}), **(_recall(pairs, names) if pairs else {})}

    def save(self, folder: Path) -> None:
        """A model folder; the base is written with it where it was trained, named where it was not."""
        save_model(folder, self.compressor, base=None if self.config.writes_base else self._base_name(folder))

    def _base_name(self, folder: Path) -> str:
        """How the model folder names a base that it does not hold: relative to itself, or a hub id with its commit."""
        return name_of(self.base) or os.path.relpath(self.base, folder)


def _checked(config: TrainConfig, settings: CompressorConfig) -> float:
    """The weight of L_disc. Raises InputError for what is wrong whatever the base: that may be long in coming."""
    method = method_named(settings.compressor)
    disc = config.losses.get("contrastive", 0.0) if method.embeds_text else 0.0
    if not (disc or config.losses.get("autoregressive")):
        raise InputError(f"losses leaves {settings.compressor} nothing to learn from; give autoregressive a weight.")
    if config.losses.get("autoregressive") and not method.answers:
        raise InputError(f"{settings.compressor} only embeds; leave autoregressive out of losses.")
    check_parts(config.train_parts)
    check_sources(config)
    return disc


def _recall(pairs: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> dict[str, float]:
    """R@1 among so many, in per cent, of image and text embeddings (B, D) that belong together row by row.

    names: of the search for images by texts, and of that for texts by images where it is wanted.
    """
    images, texts = (F.normalize(torch.cat(side).float(), dim=-1).cpu().numpy() for side in zip(*pairs, strict=True))
    found = recall_at(images, texts, range(len(texts)), ranks=(1,)).values()
    return {f"{name}_R@1_of_{len(texts)}": value for name, value in zip(names, found, strict=False)}


def _first_turn(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """What stands before the first answer, and that answer with its closing token."""
    learnt = [label != IGNORED for label in labels]
    start = learnt.index(True)
    stop = learnt.index(False, start) if False in learnt[start:] else len(ids)
    return ids[:start], ids[start:stop]


def _work(config: TrainConfig) -> Work | None:
    """The products of a step, where the shapes of the base and the method are known."""
    try:
        return Work(config, read_base(config.init))
    except InputError:
        return None


def find_base(given: str) -> Path:
    """The folder of the LLaVA of a model folder or of one of the hub. Raises InputError for what is neither."""
    if not Path(given).is_dir() and not ID.fullmatch(given):
        raise InputError(f"init.base is {given}, which is no folder; train that stage first.")
    return base_folder(Path(given) if Path(given).is_dir() else find_on_hub(given))


def assemble_llava(init: dict[str, str]) -> Llava:
    """A LLaVA from a tower that sees and a language model that speaks, joined by a new projector (as LLaVA is made)."""
    folders = {part: Path(init[part]) for part in ("tower", "language")}
    for part, path in folders.items():
        if not (path / "config.json").exists():
            raise InputError(f"init.{part} is {path}, which holds no trained model; train that stage first.")
    whole: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
    try:
        clip: Any = CLIPModel.from_pretrained(folders["tower"], **whole)
        language: Any = LlamaForCausalLM.from_pretrained(folders["language"], **whole)
    except OSError as error:
        raise InputError(
            f"init: {' '.join(str(error).split())} Weights are read from safetensors files alone."
        ) from error
    tokenizer: Any = AutoTokenizer.from_pretrained(folders["language"])
    if "<image>" not in tokenizer.get_vocab():
        raise InputError(f"init.language is {folders['language']}, whose tokenizer has no <image>: add that token.")
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
    )
    network: Any = LlavaForConditionalGeneration(config)
    network.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    network.model.language_model.load_state_dict(language.model.state_dict())
    network.lm_head.load_state_dict(language.lm_head.state_dict())
    network.tie_weights()
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    size = int(clip.config.vision_config.image_size)
    return Llava(network, tokenizer, image_processor(size))
