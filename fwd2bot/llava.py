"""The backbone: a transformers LLaVA (CLIP tower, projector, Llama-type language model), architecture unchanged.

It walks the layers itself, so that no layer is run whose output
nobody reads, no mask is made where none is needed, and the stage of the adapters stands in one place.

Shapes: B rows, T positions, V visual tokens, D width of the language model.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer, LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from fwd2bot import adapters, attention
from fwd2bot.decoding import Cache, KeyValues, RunningBatch
from fwd2bot.errors import ModelError
from fwd2bot.preprocessing import ImageProcessor, image_processor, within_reason
from fwd2bot.reduction import Reduction, Rows

LANGUAGE_LAYERS = "model.language_model.layers"
VISION_LAYERS = "model.vision_tower.encoder.layers"
PARTS: dict[str, tuple[str, ...]] = {
    "vision": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector",),
    "language": ("model.language_model", "lm_head"),
}


class Llava(nn.Module):
    """`LlavaForConditionalGeneration`, its tokenizer and its image processor behind six methods."""

    def __init__(
        self,
        network: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        processor: ImageProcessor,
    ) -> None:
        super().__init__()
        network.set_attn_implementation(attention.register())
        self.network: Any = network
        self.tokenizer: Any = tokenizer
        self.image_processor: Any = processor
        self.gradient_checkpointing = False
        self._run_layer: Callable[..., Tensor] = _run_layer
        self._run_block: Callable[..., Tensor] = _run_block
        config: Any = network.config
        if not isinstance(config.vision_feature_layer, int) or config.vision_config.model_type != "clip_vision_model":
            raise ModelError("This LLaVA has no CLIP tower that is read at one layer; take a LLaVA-1.5 model.")
        if config.vision_feature_select_strategy != "default":
            raise ModelError("This LLaVA reads its tower's class token with the patches; take a LLaVA-1.5 model.")
        self.tokenizer.backend_tokenizer.no_padding()  # a tokenizer.json may ask for either
        self.tokenizer.backend_tokenizer.no_truncation()

    @classmethod
    def from_folder(cls, name: str | Path, dtype: torch.dtype = torch.float32) -> "Llava":
        """Loads a folder in the transformers layout, or a hub id. Raises ModelError when it is not a LLaVA."""
        disable_progress_bar()
        try:
            loaded: Any = LlavaForConditionalGeneration.from_pretrained(
                name, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(name)
            processor = image_processor(name)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{name} cannot be loaded as a LLaVA-1.5 model of transformers: {reason}") from error
        network, report = loaded
        if report["missing_keys"]:
            raise ModelError(f"{name} lacks weights of a LLaVA, such as {sorted(report['missing_keys'])[0]}.")
        return cls(network, tokenizer, processor).eval()

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Writes the folder that `from_folder` reads, without adapters; `dtype` is that of the file."""
        folder.mkdir(parents=True, exist_ok=True)
        state = adapters.without_adapters(self.network.state_dict())
        state = {path: tensor.to(dtype or tensor.dtype) for path, tensor in state.items()}
        disable_progress_bar()
        self.network.save_pretrained(folder, state_dict=state)
        if dtype is not None:
            _set_saved_dtype(folder / "config.json", dtype)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    @property
    def width(self) -> int:
        return int(self.network.config.text_config.hidden_size)

    @property
    def tower_width(self) -> int:
        return int(self.network.config.vision_config.hidden_size)

    @property
    def context(self) -> int:
        """The most positions that the language model can take."""
        return int(self.network.config.text_config.max_position_embeddings)

    @property
    def grid(self) -> int:
        """Visual tokens stand on a square of this side."""
        vision = self.network.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)

    @property
    def num_visual_tokens(self) -> int:
        return self.grid**2

    @property
    def num_tower_layers(self) -> int:
        """How many layers of the tower are run: layer -2 needs all but the last."""
        layer, layers = self.network.config.vision_feature_layer, len(self.network.model.vision_tower.encoder.layers)
        return int(layer if layer >= 0 else layers + 1 + layer)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.network.lm_head.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.network.lm_head.weight.device
        return device

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        configured = self.network.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        return frozenset(int(token) for token in [*listed, self.tokenizer.eos_token_id] if token is not None)

    def part(self, name: str) -> list[nn.Parameter]:
        """The base's own parameters of "vision", "projector" or "language"."""
        modules = [self.network.get_submodule(path) for path in PARTS[name]]
        adapted = {id(parameter) for parameter in adapters.adapter_parameters(self.network).values()}
        return [p for module in modules for p in module.parameters() if id(p) not in adapted]

    def halve_matrices(self) -> None:
        """Keep the matrices of layers, projector, patches and head in bfloat16; adapters, norms and embeddings stay.

        Autocast computes the same numbers with them, without a copy of each in every pass.
        """
        kept = self.network.get_input_embeddings().weight
        for module in self.network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module.weight is not kept:
                module.weight.data = module.weight.data.to(torch.bfloat16)

    def compile(self, **options: Any) -> None:
        """torch.compile for a layer of the tower and one of the language model; all layers share the code.

        `generate` stays as it is. Options are torch.compile's; but rows differ in length from step to step, so the
        language model's shapes are always dynamic: after 8 static ones torch would go on uncompiled.
        """
        self._run_layer = torch.compile(_run_layer, **{**options, "dynamic": True})
        self._run_block = torch.compile(_run_block, **options)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures -> (B, 3, H, W), as `prepared`, in the model's dtype where the model is."""
        return self.prepared(images).to(self.device, self.dtype)

    def prepared(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures -> (B, 3, H, W), resized and normalised as the model's own preprocessing says.

        float32 in host memory, whatever the model is: a forked process, which must not touch the GPU, may ask for it.
        Every processor takes a part of them: a model on a GPU, which is the faster, waits for this.
        """
        if not images:
            side = int(self.network.config.vision_config.image_size)
            return torch.empty(0, 3, side, side)
        threads = min(len(images), os.cpu_count() or 1)
        size = -(-len(images) // threads)
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(self._prepared, parts)))

    def _prepared(self, images: Sequence[Image.Image]) -> Tensor:
        padded = bool(self.image_processor.do_pad)
        shown = [within_reason(image.convert("RGB"), padded=padded) for image in images]
        inputs = self.image_processor(shown, return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = inputs["pixel_values"]
        return pixels

    def visual_tokens(
        self,
        pixels: Tensor,
        appended: Tensor | None = None,
        stage: str | None = None,
        *,
        run_block: Callable[[int, nn.Module, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """H_v: (B, 3, H, W) -> (B, V, D). Layer -2 of CLIP (as configured), class token dropped, projected.

        With `appended` (K, width of the tower), these K rows join the patches in the tower, and only they are
        given: (B, K, D). `run_block` stands in place of a layer of the tower: its number, itself, what it gets.
        """
        with adapters.stage(stage):
            features = deque(self._tower(pixels.to(self.dtype), appended, run_block), maxlen=1).pop()
        if appended is not None:
            features = features[:, -len(appended) :]
        else:
            features = features[:, 1:]
        return self.project(features)

    def tower_states(self, pixels: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Hidden states of the tower, each (B, 1 + V, width of the tower), class token first.

        Level 0 is what enters its first layer, level i the output of the i-th; LLaVA reads level `num_tower_layers`.
        """
        states = list(self._tower(pixels.to(self.dtype)))
        return [states[level] for level in levels]

    def project(self, features: Tensor) -> Tensor:
        """The projector: (..., width of the tower) -> (..., D)."""
        tokens: Tensor = self.network.model.multi_modal_projector(features)
        return tokens

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        embeddings: Tensor = self.network.model.language_model.embed_tokens(ids)
        return embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) after the final norm -> (..., vocabulary)."""
        logits: Tensor = self.network.lm_head(hidden)
        return logits

    def run(
        self,
        embeddings: Tensor,
        mask: Tensor | None = None,
        stage: str | None = None,
        *,
        bidirectional: bool = False,
        tokens: str = "final_norm",
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """One pass of the language model: (B, T, D) -> (B, T, D) after the final norm ("pre_norm": before it).

        `mask` (B, T) is True at real tokens; padding may stand anywhere, positions count real tokens only. None
        says that nothing is padded, and is faster. Outputs at padding mean nothing. Causal rows padded on the right
        need no mask: no real token sees what follows it. `allowed` (B, 1, T, T), True where a row sees a column, stands
        in place of the mask; see `independent_turns`. With a `reduction` the image's rows are those that it leaves.
        """
        if positions is None:
            positions = attention.count_positions(mask) if mask is not None else _range(embeddings)
        positions = positions.expand(len(embeddings), -1)
        if allowed is None and mask is not None:
            allowed = attention.allowed_pairs(mask, bidirectional)
        rows = Rows(hidden=embeddings, positions=positions, allowed=allowed, mask=mask, reduction=reduction)
        hidden = self._forward(rows, stage, bidirectional=bidirectional)
        return self._final_norm(hidden) if tokens == "final_norm" else hidden

    @torch.inference_mode()
    def generate(
        self,
        embeddings: Tensor,
        mask: Tensor | None = None,
        stage: str | None = None,
        *,
        max_new_tokens: int = 64,
        positions: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> list[list[int]]:
        """Greedy answers to B rows of embeddings (B, T, D): lists of token ids without the closing token.

        Each row stops at its own end; once half of the rows have, they leave the batch.
        """
        ids, last, cache = self.prefill(
            embeddings, mask, stage, room=max_new_tokens, positions=positions, reduction=reduction
        )
        return self._decode(ids, last, stage, cache, max_new_tokens)

    def running(self, stage: str | None = None) -> RunningBatch:
        """An empty batch that rows join and leave between two tokens."""
        return RunningBatch(self, stage)

    def prefill(
        self,
        embeddings: Tensor,
        mask: Tensor | None,
        stage: str | None,
        *,
        room: int,
        positions: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> tuple[Tensor, Tensor, Cache]:
        """The first token (B,) of each answer, the position (B, 1) of what it follows, and the keys up to there.

        room: how many tokens may follow. Padding goes to the left.
        """
        if positions is None:
            positions = attention.count_positions(mask) if mask is not None else _range(embeddings)
        positions = positions.expand(len(embeddings), -1)
        if mask is not None:
            order = mask.to(torch.uint8).argsort(dim=1, stable=True)  # padding to the left, real tokens in their order
            embeddings = embeddings.gather(1, order[..., None].expand_as(embeddings))
            mask, positions = mask.gather(1, order), positions.gather(1, order)
            reduction = None if reduction is None else reduction.moved(order)
        cache = Cache(len(self.network.model.language_model.layers), room)
        allowed = None if mask is None else attention.allowed_pairs(mask)
        rows = Rows(hidden=embeddings, positions=positions, allowed=allowed, mask=mask, reduction=reduction)
        hidden = self._forward(rows, stage, cache=cache)
        return self._likeliest(hidden), positions[:, -1:], cache

    def next_tokens(self, ids: Tensor, positions: Tensor, stage: str | None, cache: KeyValues) -> Tensor:
        """What follows the newest tokens (B,), at positions (B, 1), of rows whose keys are in the cache: (B,)."""
        rows = Rows(hidden=self.embed(ids[:, None]), positions=positions)
        return self._likeliest(self._forward(rows, stage, cache=cache))

    def _likeliest(self, hidden: Tensor) -> Tensor:
        return self.logits(self._final_norm(hidden[:, -1])).argmax(-1)

    def _decode(
        self, ids: Tensor, positions: Tensor, stage: str | None, cache: Cache, max_new_tokens: int
    ) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in range(len(ids))]
        rows = list(range(len(ids)))  # which answer each row of the batch belongs to
        open_rows = set(rows)
        for step in range(max_new_tokens):
            for row, token in zip(rows, ids.tolist(), strict=True):
                if token in self.stop_ids:
                    open_rows.discard(row)
                elif row in open_rows:
                    answers[row].append(token)
            if not open_rows or step == max_new_tokens - 1:
                break
            if 2 * len(open_rows) <= len(rows):
                kept = torch.tensor([index for index, row in enumerate(rows) if row in open_rows], device=ids.device)
                rows = [row for row in rows if row in open_rows]
                ids, positions = ids[kept], positions[kept]
                cache.keep(kept)
            positions = positions + 1
            ids = self.next_tokens(ids, positions, stage, cache)
        return answers

    def _forward(
        self, rows: Rows, stage: str | None, *, bidirectional: bool = False, cache: KeyValues | None = None
    ) -> Tensor:
        """Through all layers: (B, T, D) before the final norm."""
        configured = self.network.config.text_config._attn_implementation
        assert configured == attention.NAME, f"{configured} attention is not causal without a mask; leave ours in place"
        language = self.network.model.language_model
        # Without a mask the attention is causal by itself; only the bidirectional pass must say that it is not.
        options: dict[str, Any] = {"is_causal": False} if bidirectional else {}
        run_layer = self._run_layer if cache is None else _run_layer
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        rope, previous = language.rotary_emb(rows.hidden, rows.positions), rows.hidden
        with adapters.stage(stage):
            for index, layer in enumerate(language.layers):
                reduced = rows.before(index, language.layers, previous, rope)
                if reduced is not rows:
                    rows, rope = reduced, language.rotary_emb(reduced.hidden, reduced.positions)
                allowed = rows.allowed if cache is None else cache.allowed(index, rows)
                call = partial(run_layer, layer, allowed=allowed, rope=rope, cache=cache, options=options)
                previous = rows.hidden
                if recompute:
                    contexts = partial(adapters.recompute_in_stage, stage)
                    recomputed: Tensor = checkpoint(call, previous, use_reentrant=False, context_fn=contexts)
                    rows = replace(rows, hidden=recomputed)
                else:
                    rows = replace(rows, hidden=call(previous))
        return rows.hidden

    def _tower(
        self,
        pixels: Tensor,
        appended: Tensor | None = None,
        run_block: Callable[[int, nn.Module, Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """What enters the first layer, and what each layer gives."""
        tower = self.network.model.vision_tower
        hidden: Tensor = tower.embeddings(pixels)
        if appended is not None:
            hidden = torch.cat([hidden, appended.to(hidden.dtype).expand(len(hidden), -1, -1)], dim=1)
        hidden = tower.pre_layrnorm(hidden)
        yield hidden
        for index, block in enumerate(tower.encoder.layers[: self.num_tower_layers]):
            hidden = self._run_block(block, hidden) if run_block is None else run_block(index, block, hidden)
            yield hidden

    def _final_norm(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.network.model.language_model.norm(hidden)
        return normed


def _run_layer(
    layer: nn.Module,
    hidden: Tensor,
    allowed: Tensor | None,
    rope: tuple[Tensor, Tensor],
    cache: KeyValues | None,
    options: dict[str, Any],
) -> Tensor:
    """One layer of the language model. A function of its own, because it is what torch.compile compiles."""
    outputs: Tensor = layer(hidden, attention_mask=allowed, position_embeddings=rope, past_key_values=cache, **options)
    return outputs


def _run_block(block: nn.Module, hidden: Tensor) -> Tensor:
    """One layer of the tower."""
    outputs: Tensor = block(hidden, None)
    return outputs


def _range(embeddings: Tensor) -> Tensor:
    return torch.arange(embeddings.shape[1], device=embeddings.device)[None]


def _set_saved_dtype(config: Path, dtype: torch.dtype) -> None:
    """transformers writes the dtype of the model in memory; the file's dtype is ours to say, in every sub-config."""
    name = str(dtype).removeprefix("torch.")
    content = json.loads(config.read_text("utf-8"))
    for part in (content, content.get("text_config", {}), content.get("vision_config", {})):
        if "dtype" in part:
            part["dtype"] = name
    config.write_text(json.dumps(content, indent=2) + "\n")
