"""The work of a training: kinds of step, what learns, passes of a step with their FLOPs and bytes. No torch.

It follows `training/compressor.py` and the compressors line by line; `tests/test_plan.py` compares it with them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from fwd2bot.compressors.catalogue import method_named
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.costs import (
    FLOAT,
    HALF,
    Flops,
    Head,
    LanguagePass,
    TowerPass,
    contrast_bytes,
    contrast_flops,
)
from fwd2bot.training.shapes import Base, ends, size

METHODS = ("fwd2bot", "identity", "average_pool", "single_forward")
"""Those whose products are counted here."""
COMPOSITION = {"both": 364_100, "conversations": 260_510, "text": 40_688}
"""Assumed of a file of conversations, in these proportions: about a picture with captions (COCO's), about another, text
alone. Source: LLaVA-665k, as counted in the issues of LLaVA's repository (number 657)."""
CAPTION_TOKENS = 48
"""Assumed of the longest caption in a batch; the text branch pads to a multiple of 24."""
LABELLED = 0.5
"""Assumed share of the text that a label stands on; for memory, all of it."""
WORKSPACE = 10**9
"""Bytes for the driver's context and the workspaces of kernels, an estimate."""


@dataclass(frozen=True)
class Load:
    """One kind of step, over all GPUs: pictures, rows of pass 2, pairs of L_disc. cached: the pairs are more than a
    batch, so all are embedded once without a graph, and again, a batch at a time, when the gradients are known."""

    name: str
    share: float
    images: int
    conversations: int
    pairs: int
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU that holds `rows` of a step."""

    rows: int
    parts: dict[str, int]
    activations: dict[str, int]
    """With gradient checkpointing and without it; one of them is in `parts`."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class Work:
    """A configuration with the shapes of its base: what is trained, and what its passes are.

    Raises InputError for settings that no compressor can have, for a method that is not counted here, and where a step
    would teach nothing.
    """

    def __init__(self, config: TrainConfig, base: Base) -> None:
        method = CompressorConfig.from_dict(config.compressor)
        method_named(method.compressor)
        if method.compressor not in METHODS:
            raise InputError(
                f"A plan can be made for {', '.join(METHODS)}; what {method.compressor} computes is not counted."
            )
        self.config, self.method, self.base = config, method, base
        self.language_trained = "language" in config.train_parts or method.adapters == "full"
        self.rank = method.rank if method.adapters in ("stage", "single") else 0
        self.tokens = base.tower.patches if method.compressor == "identity" else method.num_tokens
        self.own = method.compressor in ("fwd2bot", "single_forward")
        """It has summary embeddings, and so embeds text."""
        self.single = method.compressor == "single_forward"
        text_prompt = method.prompt if method.text_prompt is None else method.text_prompt
        self.prompts = tuple(count_tokens(text, base.tokenizer) for text in (method.prompt, text_prompt))
        self.loads = self._loads()
        """The kinds of step that teach something."""

    def _loads(self) -> list[Load]:
        config, batch = self.config, self.config.batch_size
        answers, embeds = bool(config.losses.get("autoregressive")), bool(config.losses.get("contrastive")) and self.own
        shares = self._shares(answers, embeds) if config.data["sources"] else {"both": 1.0 * (answers or embeds)}
        if not any(shares.values()):
            raise InputError(
                f"losses leaves {self.method.compressor} nothing to learn from; give autoregressive a weight."
            )
        many = config.contrastive_batch or batch
        pairs = {"both": batch * embeds, "pairs": many}
        return [
            Load(
                name=name,
                share=share / sum(shares.values()),
                images={"pairs": many, "text": 0}.get(name, batch),
                conversations=0 if name == "pairs" else batch * answers,
                pairs=pairs.get(name, 0),
                cached=pairs.get(name, 0) > batch,
            )
            for name, share in shares.items()
            if share
        ]

    def _shares(self, answers: bool, embeds: bool) -> dict[str, float]:
        """Of the kinds of step, as `Sampler` deals them: conversations in their proportions, and so many pairs that
        L_disc is as frequent as L_AR."""
        shares = dict.fromkeys(("both", "pairs", "conversations", "text"), 0.0)
        sources = self.config.data["sources"]
        for source in sources:
            if source["kind"] != "conversations":
                continue
            parts = dict(COMPOSITION)
            if source["captions"] is None:
                parts = {"conversations": parts["both"] + parts["conversations"], "text": parts["text"]}
            parts = {name: count for name, count in parts.items() if answers or (embeds and name == "both")}
            for name, count in parts.items():
                shares[name] += source["weight"] * count / sum(parts.values())
        if embeds and any(source["kind"] == "captions" for source in sources):
            shares["pairs"] = shares["conversations"] + shares["text"] or shares["both"] or 1.0
        return shares

    def trained(self) -> dict[str, int]:
        """Parameters that learn, by part."""
        parts = dict.fromkeys(self.config.train_parts) | (dict.fromkeys(["language"]) if self.language_trained else {})
        if unknown := sorted(parts.keys() - self.base.parameters.keys()):
            raise InputError(f"{unknown[0]!r} is no part of the base; the parts are {', '.join(self.base.parameters)}.")
        found = {part: self.base.parameters[part] for part in parts}
        found |= {name: self.rank * count for name, count in self._adapters().items()}
        if self.own:
            found["summary embeddings"] = self.tokens * self.base.language.width
        if self.single:
            found["tower embeddings"] = self.tokens * self.base.tower.width
        return found

    def _adapters(self) -> dict[str, int]:
        """Parameters of each adapter, of rank 1."""
        if not self.rank:
            return {}
        language = self.base.language.layers * ends(self.base.language.matrices)
        tower = self.base.tower.layers_run * ends(self.base.tower.matrices)
        if self.method.adapters == "single":
            return {"shared LoRA": language + tower * self.single}
        compress = tower if self.single else language if self.own else 0
        return {**({"compress LoRA": compress} if compress else {}), "generate LoRA": language}

    def optimizer_bytes(self) -> int:
        """AdamW keeps two numbers a parameter, Muon one; Muon takes the matrices of layers (`optimizers.py`)."""
        trained, matrices = self.trained(), 0
        if self.config.optimizer == "muon":
            language, tower = self.base.language, self.base.tower
            matrices = sum(count for name, count in trained.items() if name.endswith("LoRA"))
            matrices += language.layers * size(language.matrices) if "language" in trained else 0
            matrices += tower.layers * size(tower.matrices) if "vision" in trained else 0
        return FLOAT * (2 * sum(trained.values()) - matrices)

    def tower(self, rows: int) -> TowerPass:
        appended = self.tokens if self.single else 0
        return TowerPass(
            base=self.base,
            rows=rows,
            trained="vision" in self.config.train_parts,
            projector="projector" in self.config.train_parts,
            appended=appended,
            rank=self.rank if appended else 0,
            autocast=self.config.autocast,
            halved=self.config.halves_base,
        )

    def passes(self, load: Load, text: int, caption: int, rows: int = 0) -> dict[str, LanguagePass]:
        """Those of the language model; of `rows` of each instead of the load's own."""
        found = {}
        norm = self.method.tokens == "final_norm"
        if self.own and not self.single and load.images:
            positions = 1 + self.base.tower.patches + self.prompts[0] + self.tokens
            found["pass 1"] = self._pass("compress", rows or load.images, positions, thin=True, final_norm=norm)
        if self.single and load.pairs:
            positions = 1 + self.prompts[0] + 2 * self.tokens
            found["pass 1"] = self._pass("generate", rows or load.pairs, positions, thin=True, final_norm=norm)
        if load.pairs:
            stage = "generate" if self.single else "compress"
            positions = 1 + 24 * math.ceil(caption / 24) + self.prompts[1] + self.tokens
            found["text branch"] = self._pass(stage, rows or load.pairs, positions, masked=True, final_norm=norm)
        if load.conversations:
            parts = {"vision", "projector"} & set(self.config.train_parts)
            below = self.language_trained or bool(load.images and (self.own or parts))
            positions = text + self.tokens * bool(load.images)
            masked = not self.config.data["sources"]  # turns of the generated world do not see each other
            many = rows or load.conversations
            found["pass 2"] = self._pass("generate", many, positions, masked=masked, learns_below=below)
        return found

    def _pass(self, stage: str, rows: int, positions: int, **how: bool) -> LanguagePass:
        return LanguagePass(
            language=self.base.language,
            rows=rows,
            positions=positions,
            adapter="shared" if self.method.adapters == "single" else stage,
            rank=self.rank,
            trained=self.language_trained,
            autocast=self.config.autocast,
            halved=self.config.halves_base,
            **how,
        )

    def head(self, labels: int) -> Head:
        return Head(
            language=self.base.language,
            labels=labels,
            trained=self.language_trained,
            autocast=self.config.autocast,
            halved=self.config.halves_base,
        )

    def flops(
        self, load: Load, text: int, *, caption: int = CAPTION_TOKENS, labels: int | None = None
    ) -> dict[str, Flops]:
        """Of one step, over all GPUs. labels: tokens with one, if it is known."""
        recompute = self.config.gradient_checkpointing
        found = {"tower": self.tower(load.images).flops()} if load.images else {}
        found |= {name: one.flops(recompute) for name, one in self.passes(load, text, caption).items()}
        for name, one in found.items():
            if load.cached and name != "pass 2":  # embedded once without a graph, then with one
                found[name] = Flops(one.forward, one.backward, one.again + one.forward)
        if load.conversations:
            count = round(LABELLED * text * load.conversations) if labels is None else labels
            found["logits"] = self.head(count).flops()
        if load.pairs:
            found["contrast"] = contrast_flops(load.pairs, self.base.language.width)
        return found

    def activations(
        self, load: Load, rows: int, text: int, *, checkpointing: bool, caption: int = CAPTION_TOKENS
    ) -> int:
        """Bytes that autograd keeps of a step's passes."""
        passes = self.passes(load, text, caption, rows).values()
        kept = sum(one.kept().total(checkpointing) for one in passes)
        if not checkpointing:
            copies = {one.adapter: one.shared_copies() for one in passes}.values()
            kept += self.base.language.layers * (sum(adapter for adapter, _ in copies) + max(own for _, own in copies))
        return kept + (self.tower(rows).kept().total(checkpointing=False) if load.images else 0)

    def memory(self, load: Load, rows: int, gpus: int) -> Memory:
        """At a step's peak, on a GPU with `rows` of it, each as long as it may be."""
        text, checkpointing = int(self.config.data["length"]), self.config.gradient_checkpointing
        trained = sum(self.trained().values())
        own = sum(count for name, count in self.trained().items() if name not in self.base.parameters)
        passes = self.passes(load, text, CAPTION_TOKENS, rows).values()
        layer = max(one.at_work(checkpointing) for one in passes)
        head = self.head(rows * text if load.conversations else 0)
        scores = head.kept() + head.gradients() if load.conversations else 0
        # What a step is worked off in pieces of, is here at once as pictures and vectors.
        images, pairs = (math.ceil(load.images / gpus), load.pairs) if load.cached else (rows, rows * gpus)
        kept = {on: self.activations(load, rows, text, checkpointing=on) for on in (True, False)}
        holders = gpus if self.config.sharded else 1
        parts = {
            "base": math.ceil(self.base_bytes() / holders),
            "adapters and embeddings, float32": math.ceil(FLOAT * own / holders),
            "gradients": math.ceil(FLOAT * trained / holders),
            f"{self.config.optimizer}'s state": math.ceil(self.optimizer_bytes() / holders),
            "weights gathered from other GPUs": self.gathered_bytes() if holders > 1 else 0,
            "activations": kept[checkpointing],
            "logits, or a layer in backward": max(scores, layer),
            "pictures": FLOAT * images * self.base.tower.channels * self.base.tower.image**2 if load.images else 0,
            "contrastive batch": contrast_bytes(pairs, self.base.language.width) if load.pairs else 0,
            "workspace": WORKSPACE,
            "gradients on their way to other GPUs": FLOAT * trained if gpus > 1 and holders == 1 else 0,
        }
        return Memory(rows=rows, parts=parts, activations={"with": kept[True], "without": kept[False]})

    def gathered_bytes(self) -> int:
        """Of a sharded model's weights that one GPU holds whole: two layers, and all that is in none."""
        towers = (self.base.language, self.base.tower)
        layers = sum(one.layers * size(one.matrices) for one in towers)
        outside = sum(self.base.parameters.values()) - layers
        return (HALF if self.config.autocast else FLOAT) * (2 * size(self.base.language.matrices) + outside)

    def base_bytes(self) -> int:
        """Of the base in memory."""
        return FLOAT * sum(self.base.parameters.values()) - HALF * self.base.matrices * self.config.halves_base

    def host_bytes(self) -> int:
        """Of a process's own memory, outside the GPU, while it reads the base: all of it in float32."""
        return FLOAT * sum(self.base.parameters.values())

    def weight_bytes(self, load: Load) -> int:
        """Bytes of weights that one GPU reads and writes in a step, whatever the batch.

        Autocast reads a float32 weight, writes a half and reads that; backward reads the half again.
        """
        own = size(self.base.language.matrices) * self.base.language.layers
        forward, backward = (FLOAT + 2 * HALF, HALF) if self.config.autocast else (FLOAT, FLOAT)
        if self.config.halves_base:
            forward = HALF
        pieces = load.pairs // self.config.batch_size if load.cached else 1
        once = forward * (1 + self.config.gradient_checkpointing + load.cached) + backward
        return own * once * pieces * len(self.passes(load, 1, 1))

    def disk(self) -> dict[str, int]:
        """Bytes of a checkpoint, of the model folder, and of the base's files."""
        trained, parameters = self.trained(), self.base.parameters
        written = sum(count for name, count in trained.items() if name not in parameters)
        whole = sum(parameters.values())
        if self.config.writes_base:
            written += whole
        return {
            "checkpoint": FLOAT * sum(trained.values()) + self.optimizer_bytes(),
            "model": FLOAT * written,
            "base": self.base.file_bytes * whole,
        }


def count_tokens(text: str, tokenizer: Path | None) -> int:
    """By the base's tokenizer, where there is one; else 4 characters a token."""
    if tokenizer is None:
        return math.ceil(len(text) / 4)
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # what tokenizers raises has no type of its own
        raise InputError(f"{tokenizer} cannot be read ({error}); save or download it again.") from error
    return len(loaded.encode(text, add_special_tokens=False).ids)
