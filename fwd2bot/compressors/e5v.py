"""E5-V: the language model is asked for one word, and what it would begin to say is the vector.

    [chat: visual tokens; "Summary above image in one word:"] ── the pass ──> output at the last token
    [chat: text; "Summary above sentence in one word:"]       ── the same ──> the text's

It is trained on text alone (`training/sentences.py`); pictures are embedded because the prompts bring both into one
space. No vector answers a question. Source: arXiv 2407.12580.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fwd2bot.adapters import COMPRESS
from fwd2bot.compressors.base import Compressor
from fwd2bot.data.conversations import ChatTemplate, template_named

IMAGE_PROMPT = "Summary above image in one word:"
TEXT_PROMPT = "{}\nSummary above sentence in one word:"


class E5V(Compressor):
    """One vector a picture or a text; there is nothing to choose, so `num_tokens` does not count."""

    text_alone = True
    stages: ClassVar[tuple[str, ...]] = (COMPRESS,)
    prompts: ClassVar[tuple[str, str]] = (IMAGE_PROMPT, TEXT_PROMPT)
    """What is asked about a picture, and about the text that stands for {}."""

    @property
    def num_tokens(self) -> int:
        return 1

    @property
    def token_counts(self) -> tuple[int, ...]:
        return (1,)

    @property
    def chat(self) -> ChatTemplate:
        """What the prompts stand in."""
        return template_named(self.config.template)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 1, D)."""
        self.chosen_count(num_tokens)
        visual_tokens = self.llava.visual_tokens(pixels)  # (B, V, D)
        return self.last_states(visual_tokens, [self.prompts[0]] * len(pixels), self.chat, COMPRESS)[:, None]

    def compress_text(self, texts: Sequence[str], num_tokens: int | None = None) -> Tensor:
        """B strings -> (B, 1, D). Raises InputError when a text does not fit the context."""
        self.chosen_count(num_tokens)
        asked = [self.prompts[1].format(text) for text in texts]
        return self.last_states(None, asked, self.chat, COMPRESS)[:, None]
