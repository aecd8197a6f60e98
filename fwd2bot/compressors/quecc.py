"""QueCC: features of several layers of the tower, compressed for a question that the language model has read. Trained.

Source: Li et al. (2024), arXiv 2411.03312, and github.com/locuslab/llava-token-compression. Levels 12, 16, 22 and 23 of
the 23 layers that LLaVA-1.5 runs of its tower are read, the same shares of another's. The question is read alone,
without a template; in a conversation it is the first one. Published with a projector that is trained, too; here that
stays as it is unless `train_parts` names it.

Shapes: B pictures, V visual tokens, K = g * g tokens, s * s visual tokens in the window of each, C width of the tower.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fwd2bot.adapters import GENERATE
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.grid import windows
from fwd2bot.compressors.token_packer import packed_levels
from fwd2bot.data.conversations import ChatTemplate, encode_conversation
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava

BARE = ChatTemplate(name="bare", before_image="", after_image="", question="{}", answer="")


class QueCC(Compressor):
    """Published with 36, 16, 4 and 1 tokens of 576. K is a square whose side divides the grid.

    Raises InputError for another number, and for more than one.
    """

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        if len(config.token_counts) > 1:
            raise InputError("quecc gives one number of tokens only; leave token_counts empty.")
        self.side = math.isqrt(config.num_tokens)
        self.levels = packed_levels(llava.num_tower_layers)
        width, window = llava.tower_width, llava.grid // self.side
        self.text = nn.Sequential(nn.Linear(llava.width, width), _norm(width))
        self.mixed = _layers(width, width)
        self.pooled = nn.Conv2d(width, width, window, window, groups=width)
        self.keys, self.values = (_layers(len(self.levels) * width, width) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, math.gcd(8, width), batch_first=True)
        self.to(llava.device)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) and B questions -> (B, K, D). Raises InputError where there is not a question for each."""
        self.chosen_count(num_tokens)
        if questions is None or len(questions) != len(pixels):
            count = 0 if questions is None else len(questions)
            raise InputError(
                f"quecc compresses for a question: give one for each of {len(pixels)} pictures, not {count}."
            )
        levels = [one[:, 1:].to(self.dtype) for one in self.llava.tower_states(pixels, self.levels)]  # each (B, V, C)
        memory = torch.cat(levels, dim=-1)
        asked = levels[-1] + self.text(self.read(questions).to(self.dtype))[:, None]  # (B, V, C)
        grid = self.mixed(asked).transpose(1, 2).unflatten(2, (self.llava.grid, self.llava.grid))
        queries = self.pooled(grid).flatten(2).transpose(1, 2)  # (B, K, C)
        compressed = self._attend(queries, self.keys(memory), self.values(memory))
        return self.llava.project(compressed.to(self.llava.dtype))

    @property
    def dtype(self) -> torch.dtype:
        return self.pooled.weight.dtype

    @torch.no_grad()
    def read(self, questions: Sequence[str]) -> Tensor:
        """The language model's output at the end of each question, (B, D); nothing is learnt through it."""
        tokenizer = self.llava.tokenizer
        listed = [encode_conversation(tokenizer, BARE, [(one, None)], has_image=False).ids for one in questions]
        length = max(len(ids) for ids in listed)
        padded = torch.tensor([ids + [0] * (length - len(ids)) for ids in listed], device=self.llava.device)
        hidden = self.llava.run(self.llava.embed(padded), stage=GENERATE)  # padded on the right: no mask is needed
        return hidden[torch.arange(len(listed)), [len(ids) - 1 for ids in listed]]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each query reads its own window only: (B, K, C), (B, V, C), (B, V, C) -> (B, K, C)."""
        seen = (windows(rows, self.side).flatten(0, 1) for rows in (keys, values))  # (B K, s * s, C) each
        read, _ = self.attention(queries.flatten(0, 1)[:, None], *seen, need_weights=False)
        out: Tensor = read.view_as(queries)
        return out


def _layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs), _norm(outputs))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)
