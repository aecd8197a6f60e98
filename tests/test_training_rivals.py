"""Rivals in the loop: their own weights learn, M3 learns at all scales, and what is not counted is not told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import config

from fwd2bot.errors import InputError
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.loop import build_stage
from fwd2bot.training.plan import make_plan

OWN = ("token_packer", "matryoshka_query", "token_shuffle", "compress_only")


def run_of(name: str, folder: Path, base: Path, **more: Any) -> TrainConfig:
    settings = {"compressor": name, "num_tokens": 4, "rank": 2, "alpha": 4.0, "template": "short", **more}
    return config("average_pool", folder / "out", base, compressor=settings)


@pytest.mark.parametrize("name", OWN)
def test_own_weights_of_a_rival_learn(name: str, tmp_path: Path, tiny_base: Path) -> None:
    stage: Any = build_stage(run_of(name, tmp_path, tiny_base))
    trained = [parameter for parameter in stage.compressor.parameters() if parameter.requires_grad]
    added = {id(parameter) for parameter in stage.compressor.added_parameters().values()}
    assert added
    assert added <= {id(parameter) for parameter in trained}
    optimizer = torch.optim.AdamW(trained, lr=0.003)
    batch, losses = stage.batch(0), []
    for _ in range(8):
        loss = stage.losses(batch, 0)["autoregressive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_step_of_m3_is_the_mean_over_its_scales(tmp_path: Path, tiny_base: Path) -> None:
    stage: Any = build_stage(run_of("matryoshka_multimodal", tmp_path, tiny_base, token_counts=[1, 4]))
    batch = stage.batch(0)
    apart = [
        stage.compressor.answer_loss(stage.compressor.compress(batch.pixels, num_tokens=count), batch.answers)
        for count in (1, 4)
    ]
    assert not torch.allclose(*apart)
    torch.testing.assert_close(stage.losses(batch, 0)["autoregressive"], sum(apart) / 2)


def test_what_a_rival_computes_is_not_guessed(tmp_path: Path, tiny_base: Path) -> None:
    run = run_of("token_packer", tmp_path, tiny_base)
    stage = build_stage(run)
    assert stage.flops(stage.batch(0)) is None
    with pytest.raises(InputError, match=r"A plan can be made for fwd2bot, .*; what token_packer computes is not"):
        make_plan(run)
