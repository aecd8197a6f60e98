"""Figure 5: captions from 1, 2, 4, 8 and 16 summary tokens; "What do the compressed tokens encode?".

    python runs/fig5.py        # 2 minutes on two cores, beside a training, too

Rows are cut to their first tokens, also to numbers that the model never had in training; those are marked. Numbers go
to results/figures/fig5.json, the captions of three scenes to docs/figures/fig5.svg.
"""

import sys
from collections.abc import Sequence
from functools import partial

from fwd2bot.data.world import Scene
from fwd2bot.evaluation.analysis import caption_scores, captions_by_count
from fwd2bot.evaluation.drawing import draw_captions
from fwd2bot.evaluation.figures import Made, figure_main, only
from fwd2bot.model import Fwd2Bot

DRAWN = 3


def make(models: Sequence[Fwd2Bot], scenes: Sequence[Scene]) -> Made:
    model = only(models)
    texts = captions_by_count(model, scenes)
    counts = [
        {"tokens": count, "offered": count in model.token_counts, **caption_scores(scenes, told)}
        for count, told in texts.items()
    ]
    shown = scenes[:DRAWN]
    examples = {scene.name: {count: told[row] for count, told in texts.items()} for row, scene in enumerate(shown)}
    return {"counts": counts, "examples": examples}, partial(draw_captions, shown, texts, counts)


if __name__ == "__main__":
    sys.exit(figure_main(5, __doc__, make))
