"""The compressors by name, a line a method, with what is known of it without its class. No torch.

The classes, `fwd2bot methods` and docs/training.md say what stands here. A class is imported when it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError

if TYPE_CHECKING:
    from fwd2bot.compressors.base import Compressor
    from fwd2bot.llava import Llava

LLAVA_GRID = 24
"""Visual tokens a side of LLaVA-1.5's grid."""


def squares(grid: int) -> Sequence[int]:
    return [side**2 for side in range(1, grid + 1)]


def whole_windows(grid: int) -> Sequence[int]:
    """Squares whose side divides the grid's."""
    return [side**2 for side in range(1, grid + 1) if grid % side == 0]


def divisors(grid: int) -> Sequence[int]:
    """Runs of equal length along the raster."""
    return [count for count in range(1, grid**2 + 1) if grid**2 % count == 0]


def from_one(grid: int) -> Sequence[int]:
    return range(1, grid**2 + 1)


def from_two(grid: int) -> Sequence[int]:
    return range(2, grid**2 + 1)


def left_by_the_tower(grid: int) -> Sequence[int]:
    """iLLaVA's tower has merged 368 of 729 tokens away."""
    return range(1, grid**2 - round(grid**2 * 368 / 729) + 1)


def up_to_256(grid: int) -> Sequence[int]:
    return range(1, min(256, grid**2) + 1)


def every_token(grid: int) -> Sequence[int]:
    return [grid**2]


def one_alone(_: int) -> Sequence[int]:
    return [1]


@dataclass(frozen=True)
class Method:
    """What a method is.

    class_name: of its class, in the module of the method's name. source: arXiv id; None: of no paper.
    trained: it has weights of its own, or is defined by a training; a method without works on any LLaVA as it is.
    needs_question: what an answer is read from depends on the question, in compress() or later.
    storable: the tokens are there before any question, and the same for each.
    embeds_text: compress_text() and embed_rows() give comparable vectors.
    answers: questions can be answered from the tokens; else they are vectors to search by, and nothing more.
    counts: the numbers of tokens that it can give on a grid of so many visual tokens a side; None: any.
    """

    class_name: str
    source: str | None
    counts: Callable[[int], Sequence[int]] | None = None
    trained: bool = False
    needs_question: bool = False
    storable: bool = True
    embeds_text: bool = False
    answers: bool = True

    def can_give(self, count: int, grid: int) -> bool:
        return self.counts is None or count in self.counts(grid)

    def token_counts(self, grid: int) -> list[int] | str:
        """The numbers of tokens that it can give: a list, or a range in words."""
        if self.counts is None:
            return "any"
        counts = self.counts(grid)
        return f"{counts[0]} to {counts[-1]}" if isinstance(counts, range) else list(counts)

    def told_counts(self, grid: int) -> str:
        """The same in words."""
        counts = self.token_counts(grid)
        return counts if isinstance(counts, str) else ", ".join(map(str, counts))

    def facts(self) -> dict[str, Any]:
        """As `fwd2bot methods` tells them, on LLaVA-1.5's grid."""
        return {
            "trained": self.trained,
            "needs_question": self.needs_question,
            "storable": self.storable,
            "token_counts": self.token_counts(LLAVA_GRID),
            "source": self.source,
        }


CATALOGUE = {
    "fwd2bot": Method("Fwd2BotCompressor", "2503.21757", trained=True, embeds_text=True),
    "identity": Method("Identity", "2310.03744", every_token),
    "average_pool": Method("AveragePool", None, squares),
    "downsample": Method("Downsample", None, squares),
    "single_forward": Method("SingleForward", "2503.21757", trained=True, embeds_text=True),
    "compress_only": Method("CompressOnly", "2307.06945", trained=True, embeds_text=True),
    "prumerge": Method("PruMerge", "2403.15388", from_two),
    "prumerge_plus": Method("PruMergePlus", "2403.15388", from_two),
    "visionzip": Method("VisionZip", "2412.04467", from_two),
    "core": Method("Core", "2511.14072", from_one),
    "token_packer": Method("TokenPacker", "2407.02392", whole_windows, trained=True),
    "matryoshka_multimodal": Method("MatryoshkaMultimodal", "2405.17430", whole_windows, trained=True),
    "matryoshka_query": Method("MatryoshkaQuery", "2405.19315", up_to_256, trained=True),
    "token_shuffle": Method("TokenShuffle", "2504.17789", whole_windows, trained=True),
    "quecc": Method("QueCC", "2411.03312", whole_windows, trained=True, needs_question=True, storable=False),
    "fastv": Method("FastV", "2403.06764", from_one, needs_question=True, storable=False),
    "v2drop": Method("V2Drop", "2509.01552", from_one, storable=False),
    "illava": Method("ILLaVA", "2412.06263", left_by_the_tower, needs_question=True, storable=False),
    "text_interaction": Method("TextInteraction", "2409.01162", from_one, needs_question=True, storable=False),
    "visual_context_compressor": Method(
        "VisualContextCompressor", "2406.20092", divisors, trained=True, storable=False
    ),
    "e5v": Method("E5V", "2407.12580", one_alone, trained=True, embeds_text=True, answers=False),
    "vlm2vec": Method("VLM2Vec", "2410.05160", one_alone, trained=True, embeds_text=True, answers=False),
}


def make_compressor(llava: "Llava", config: CompressorConfig) -> "Compressor":
    """Puts the method that `config.compressor` names on a backbone.

    Raises InputError for an unknown name, and for a number of tokens that the method cannot give on this backbone.
    """
    name = method_named(config.compressor).class_name
    module = import_module(f"fwd2bot.compressors.{config.compressor}")
    compressor: Compressor = getattr(module, name)(llava, config)
    return compressor


def method_named(compressor: str) -> Method:
    """Raises InputError for an unknown name."""
    if compressor not in CATALOGUE:
        raise InputError(f"There is no compressor {compressor!r}; the compressors are {', '.join(CATALOGUE)}.")
    return CATALOGUE[compressor]
