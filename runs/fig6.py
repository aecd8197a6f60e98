"""Figure 6: scores with groups of 4 and of 8 summary tokens hidden; "What do the compressed tokens encode?".

    python runs/fig6.py        # 4 minutes on two cores; 16 beside a training

Scores by kind of question go to results/figures/fig6.json, their means to docs/figures/fig6.svg.
"""

import sys
from collections.abc import Sequence
from functools import partial

from fwd2bot.data.world import Scene
from fwd2bot.evaluation.analysis import hidden_scores
from fwd2bot.evaluation.drawing import draw_hidden
from fwd2bot.evaluation.figures import Made, figure_main, only
from fwd2bot.model import Fwd2Bot


def make(models: Sequence[Fwd2Bot], scenes: Sequence[Scene]) -> Made:
    scores = hidden_scores(only(models), scenes)
    return scores, partial(draw_hidden, scores)


if __name__ == "__main__":
    sys.exit(figure_main(6, __doc__, make))
