"""Fwd2Bot (Sec. 3.2, 3.3): the language model compresses the visual tokens for itself.

    [BOS; visual tokens; prompt; summary embeddings] ── pass 1 ──> outputs at the summary embeddings
    [BOS; caption tokens; prompt; summary embeddings] ── the same ──> the caption's

Shapes: B rows, N content tokens, K summary tokens, D width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fwd2bot.adapters import COMPRESS, GENERATE
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava


class Fwd2BotCompressor(Compressor):
    """K outputs of the language model stand for the picture; with causal attention the first k are those of k."""

    stages: ClassVar[tuple[str, ...]] = (COMPRESS, GENERATE)
    text_stage = COMPRESS

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        self.summary_embeddings = nn.Parameter(initial_summary_embeddings(llava, config))
        self._image_prompt = self._ids(config.prompt)
        self._text_prompt = self._image_prompt if config.text_prompt is None else self._ids(config.text_prompt)

    @property
    def cuttable(self) -> bool:
        return self.config.attention == "causal"

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """Eq. 1: (B, 3, H, W) -> (B, K, D)."""
        visual_tokens = self.llava.visual_tokens(pixels)  # (B, V, D)
        return self._summarise(visual_tokens, None, self._image_prompt, num_tokens)

    def compress_text(self, texts: Sequence[str], num_tokens: int | None = None) -> Tensor:
        """The text branch of Eq. 3: B strings -> (B, K, D). Raises InputError when a text does not fit the context."""
        ids, mask = self._padded(texts)
        return self._summarise(self.llava.embed(ids), mask, self._text_prompt, num_tokens)

    def _summarise(self, content: Tensor, mask: Tensor | None, prompt: list[int], num_tokens: int | None) -> Tensor:
        """One pass over [BOS; content; prompt; summary embeddings]; `mask` (B, N) is False at padded content."""
        count = self.chosen_count(num_tokens)
        before = self._embedded([self.llava.tokenizer.bos_token_id], content)  # (B, 1, D)
        summary_embeddings = self._repeated(self.summary_embeddings[:count], content)  # (B, K, D)
        after = torch.cat([self._embedded(prompt, content), summary_embeddings], dim=1)
        rows = torch.cat([before, content, after], dim=1)  # (B, 1 + N + prompt + K, D)
        if mask is not None:
            ones = mask.new_ones
            mask = torch.cat([ones(before.shape[:2]), mask, ones(after.shape[:2])], dim=1)
        outputs = self.llava.run(
            rows,
            mask,
            self.text_stage,
            bidirectional=self.config.attention == "bidirectional",
            tokens=self.config.tokens,
        )
        return outputs[:, -count:]

    def _padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, N), padded on the right to a multiple of 24 (few shapes to compile), and their mask."""
        listed = self.llava.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        length = max(len(ids) for ids in listed)
        room = self.llava.context - len(self._text_prompt) - self.num_tokens - 1
        if length > room:
            raise InputError(f"A text of {length} tokens is too long; this model can embed {room} at once.")
        length = min(room, -(-length // 24) * 24)
        padded = [ids + [0] * (length - len(ids)) for ids in listed]
        device = self.llava.device
        lengths = torch.tensor([[len(ids)] for ids in listed], device=device)
        mask = torch.arange(length, device=device) < lengths
        return torch.tensor(padded, device=device, dtype=torch.long), mask

    def _ids(self, text: str) -> list[int]:
        """Without BOS."""
        ids: list[int] = self.llava.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _embedded(self, ids: list[int], like: Tensor) -> Tensor:
        """n ids -> (B, n, D)."""
        return self._repeated(self.llava.embed(torch.tensor(ids, device=like.device, dtype=torch.long)), like)

    @staticmethod
    def _repeated(rows: Tensor, like: Tensor) -> Tensor:
        """(n, D) -> (B, n, D)."""
        repeated: Tensor = rows.to(like.dtype).expand(len(like), -1, -1)
        return repeated


def initial_summary_embeddings(llava: Llava, config: CompressorConfig) -> Tensor:
    """H_r before training, (K, D): copies of the end-of-sequence embedding, or noise as strong as the vocabulary's.

    Source of "eos": AutoCompressors.
    """
    vocabulary: Tensor = llava.network.get_input_embeddings().weight.detach().float()
    if config.initial_embeddings == "eos":
        return vocabulary[llava.tokenizer.eos_token_id].expand(config.num_tokens, -1).clone()
    return torch.randn(config.num_tokens, llava.width, device=vocabulary.device) * vocabulary.std()
