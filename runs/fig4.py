"""Figure 4: what the plain LLaVA and both passes attend to, over the picture; "How does the model behavior change?".

    python runs/fig4.py        # 2 minutes on two cores; 6 beside a training

Means over 100 scenes go to results/figures/fig4.json, the maps of three scenes to docs/figures/fig4.svg.
"""

import sys
from collections.abc import Sequence
from functools import partial

from fwd2bot.data.world import Scene
from fwd2bot.evaluation.attended import attention_figures, plain_llava, watched
from fwd2bot.evaluation.drawing import draw_attention
from fwd2bot.evaluation.figures import Made, figure_main, only
from fwd2bot.model import Fwd2Bot

DRAWN = 3


def make(models: Sequence[Fwd2Bot], scenes: Sequence[Scene]) -> Made:
    model = only(models)
    grid = model.compressor.llava.grid
    seen = list(watched(model, plain_llava(model), scenes))
    return attention_figures(seen, grid), partial(draw_attention, seen[:DRAWN], grid)


if __name__ == "__main__":
    sys.exit(figure_main(4, __doc__, make))
