"""What a pass costs: matrix products, and the bytes that autograd keeps for backward. Plain arithmetic, no torch.

Products are counted as torch's FlopCounterMode counts them: 2 FLOPs a multiply and add, causal attention in full, and
four products in the backward of attention. Bytes are those of torch's own layers under the fused attention kernel;
torch.compile keeps less. `tests/test_plan.py` compares both with a training step.

N rows x positions, D width, H hidden, r rank of the adapters.
"""

from dataclasses import dataclass

from fwd2bot.training.shapes import Base, Language, ends, size

FLOAT, HALF = 4, 2  # bytes


@dataclass(frozen=True)
class Flops:
    """Of the products of a step: forward, backward, and forward once more where something is computed again."""

    forward: int = 0
    backward: int = 0
    again: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.again

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward, self.again + other.again)


@dataclass(frozen=True)
class Kept:
    """Bytes for backward. layer: inside one layer, with `copies` of its weights in half width that each pass makes
    anew. inputs: what stands between the layers. ends: before and behind them. rope: angles, which all layers read.
    pairs: which place sees which; a layer that is to be computed again needs them again. layers: how many."""

    layer: int = 0
    copies: int = 0
    inputs: int = 0
    ends: int = 0
    rope: int = 0
    pairs: int = 0
    layers: int = 0

    def total(self, checkpointing: bool) -> int:
        """With checkpointing only what stands between the layers; what is inside comes back one layer at a time."""
        between = self.inputs + self.pairs if checkpointing else self.layers * (self.layer + self.copies)
        return self.ends + self.rope + between


@dataclass(frozen=True, kw_only=True)
class LanguagePass:
    """`rows` of `positions` through the language model.

    adapter, rank: its name and rank (0: there is none). trained: the model's own weights learn. learns_below: the rows
    want a gradient. masked: seen pairs are given, so that keys and values of grouped heads are repeated. thin: the
    stream between the layers is in half width, since it begins with visual tokens. final_norm: is read, too. halved:
    the model's matrices are in half width.
    """

    language: Language
    rows: int
    positions: int
    adapter: str = ""
    rank: int = 0
    trained: bool = False
    learns_below: bool = True
    masked: bool = False
    thin: bool = False
    autocast: bool = True
    final_norm: bool = True
    halved: bool = False

    @property
    def places(self) -> int:
        return self.rows * self.positions

    def flops(self, checkpointing: bool) -> Flops:
        m, n = self.language, self.places
        own, adapter = size(m.matrices), self.rank * ends(m.matrices)
        attention = 2 * 2 * self.rows * self.positions**2 * m.queries
        forward = m.layers * (2 * n * (own + adapter) + attention)
        learnt = adapter + own * self.trained
        backward = m.layers * (2 * n * (own + adapter + learnt) + 2 * attention)
        if not self.learns_below:  # nobody asks for the gradient of the first layer's input
            backward -= 2 * n * (size(m.matrices[:3]) + 3 * self.rank * m.width)
        # What is computed again stops before the layer's last product: its inputs are all that is missing.
        last = 2 * n * (self.rank * m.width if self.rank else m.hidden * m.width)
        again = forward - m.layers * last if checkpointing else 0
        return Flops(forward, backward, again)

    def kept(self) -> Kept:
        m, n, number = self.language, self.places, HALF if self.autocast else FLOAT
        stream = HALF if self.thin and self.autocast else FLOAT
        norm = FLOAT * m.width + FLOAT + stream * m.width * self.trained
        keys = m.queries if self.masked else m.keys
        heads = number * (2 * m.queries + 2 * keys) + FLOAT * m.heads  # with queries, outputs and log-sums
        feed_forward = 3 * number * m.hidden  # gate, its activation, up
        inputs = self._linear_inputs() + 7 * number * self.rank
        pairs = self.rows * self.positions**2 if self.masked else 0
        return Kept(
            layer=n * (2 * norm + heads + feed_forward + inputs) + number * pairs,
            copies=self._copies(),
            inputs=m.layers * n * m.width * stream,
            ends=n * norm if self.final_norm else 0,
            rope=2 * n * m.head_dim * stream,
            pairs=pairs,
            layers=m.layers,
        )

    def _linear_inputs(self) -> int:
        """A number of bytes a place: inputs of linear layers whose weights, or adapters, learn."""
        m, users = self.language, bool(self.rank) + self.trained
        if not users:
            return 0
        if self.autocast:  # each of query, key, value, gate, up makes its own copy of the norm's output
            return HALF * (5 * users * m.width + m.hidden)
        return FLOAT * (2 * m.width + m.hidden)

    def _copies(self) -> int:
        """Frozen weights of full width, and an adapter's that read half width, are copied anew by every pass."""
        m = self.language
        if not self.autocast:
            return 0
        outs = sum(out for _, out in m.matrices)
        own = 0 if self.trained or self.halved else size(m.matrices)
        return HALF * (own + self.rank * (outs + m.queries + m.hidden))

    def shared_copies(self) -> tuple[int, int]:
        """Of a layer: copies of the adapter's other weights, and of the model's own where they learn; autocast makes
        them once for all passes."""
        m = self.language
        return HALF * 5 * self.rank * m.width * self.autocast, HALF * size(m.matrices) * self.trained * self.autocast

    def at_work(self, checkpointing: bool) -> int:
        """About what the backward of one layer holds beside what forward kept: gradients in the feed-forward part and
        around it; with checkpointing, all that is inside the layer."""
        number = HALF if self.autocast else FLOAT
        gradients = self.places * (3 * number * self.language.hidden + 3 * FLOAT * self.language.width)
        inside = self.kept().layer + self.kept().copies + sum(self.shared_copies())
        return gradients + inside * checkpointing


@dataclass(frozen=True, kw_only=True)
class TowerPass:
    """Pictures through tower and projector, each trained or not.

    appended: rows that join the patches, and are then all that is projected; with an adapter of this rank.
    """

    base: Base
    rows: int
    trained: bool = False
    projector: bool = False
    appended: int = 0
    rank: int = 0
    autocast: bool = True
    halved: bool = False

    @property
    def learns(self) -> bool:
        return self.trained or self.appended > 0

    @property
    def positions(self) -> int:
        return self.base.tower.patches + 1 + self.appended

    @property
    def projected(self) -> int:
        return self.appended or self.base.tower.patches

    def flops(self) -> Flops:
        t, n = self.base.tower, self.rows * self.positions
        own, adapter = size(t.matrices), self.rank * ends(t.matrices)
        patches = 2 * self.rows * t.patches * t.pixels * t.width
        attention = 2 * 2 * self.rows * self.positions**2 * t.width
        layers = t.layers_run * (2 * n * (own + adapter) + attention)
        first, second = (
            2 * self.rows * self.projected * inner * outer for inner, outer in self.base.projector_matrices
        )
        backward = 0
        if self.learns:
            learnt = adapter + own * self.trained
            backward += t.layers_run * (2 * n * (own + adapter + learnt) + 2 * attention)
            backward += patches * self.trained + first + second
        if self.projector:
            backward += first + second + (0 if self.learns else second)
        return Flops(patches + layers + first + second, backward)

    def kept(self) -> Kept:
        t, n, number = self.base.tower, self.rows * self.positions, HALF if self.autocast else FLOAT
        width, outside = self.base.language.width, 0
        copied = self.autocast and not self.halved
        copies = HALF * size(self.base.projector_matrices) if copied and (self.learns or self.projector) else 0
        if self.projector:
            outside += self.rows * self.projected * number * (t.width + 2 * width) + copies
        elif self.learns:
            outside += self.rows * self.projected * number * width + copies
        if not self.learns:
            return Kept(ends=outside)
        if self.trained and self.autocast:  # pixels and weights of the patches
            outside += HALF * t.pixels * (self.rows * t.patches + t.width)
        norms = 2 * (FLOAT * t.width + 2 * FLOAT)
        inputs = HALF * 4 * t.width if self.autocast else FLOAT * 2 * t.width
        rest = number * (4 * t.width + 3 * t.hidden + 6 * self.rank) + FLOAT * t.heads
        return Kept(
            layer=n * (norms + inputs + rest),
            copies=HALF * (size(t.matrices) * copied + self.rank * ends(t.matrices)) if self.autocast else 0,
            ends=outside + n * (FLOAT * t.width + 2 * FLOAT),
            layers=t.layers_run,
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """The vocabulary's scores of `labels` tokens, and their loss."""

    language: Language
    labels: int
    trained: bool = False
    autocast: bool = True
    halved: bool = False

    def flops(self) -> Flops:
        product = 2 * self.labels * self.language.width * self.language.vocabulary
        return Flops(product, product * (2 if self.trained else 1))

    def kept(self) -> int:
        """Log-probabilities, and the head's weights in half width."""
        m = self.language
        copy = HALF * m.width * m.vocabulary if self.autocast and (m.tied or not self.halved) else 0
        hidden = (HALF if self.autocast else FLOAT) * self.labels * m.width if self.trained else 0
        return FLOAT * self.labels * m.vocabulary + copy + hidden

    def gradients(self) -> int:
        """Of the scores, at the begin of backward."""
        return (FLOAT + HALF if self.autocast else FLOAT) * self.labels * self.language.vocabulary


def contrast_flops(pairs: int, width: int) -> Flops:
    """The cosines of every picture with every text."""
    return Flops(2 * pairs**2 * width, 4 * pairs**2 * width)


def contrast_bytes(pairs: int, width: int) -> int:
    """The vectors of both sides with their gradients, and three matrices of scores."""
    return FLOAT * (4 * pairs * width + 3 * pairs**2)
