"""Figure 3: how much training changed the weights, by layer and stage; Sec. 5, "Single vs. stage-specific LoRA".

    python runs/fig3.py        # 5 seconds on two cores
    python runs/fig3.py --model work/evidence/fwd2bot-16-0 --model work/evidence/single_lora-0

Numbers go to results/figures/fig3.json (there by kind of linear layer, too), the drawing to docs/figures/fig3.svg.
Scenes are not used: the figure is of the weights alone.
"""

import sys
from collections.abc import Sequence
from functools import partial

from fwd2bot.data.world import Scene
from fwd2bot.evaluation.analysis import change_norms
from fwd2bot.evaluation.drawing import draw_norms
from fwd2bot.evaluation.figures import Made, figure_main
from fwd2bot.model import Fwd2Bot


def make(models: Sequence[Fwd2Bot], _: Sequence[Scene]) -> Made:
    found = {model.name: change_norms(model) for model in models}
    return found, partial(draw_norms, found)


if __name__ == "__main__":
    sys.exit(figure_main(3, __doc__, make))
