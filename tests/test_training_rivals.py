"""Rivals in the loop: their own weights learn, M3 learns at all scales, and what is not counted is not told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import config
from torch.nn.functional import normalize

from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.errors import InputError
from fwd2bot.model import Fwd2Bot
from fwd2bot.training import compressor as training
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


@pytest.mark.parametrize("losses", [{"autoregressive": 1.0}, {"contrastive": 1.0}, {}])
@pytest.mark.parametrize("name", [name for name, method in CATALOGUE.items() if method.embeds_text and method.answers])
def test_what_a_loss_leaves_without_a_gradient_is_announced(
    name: str, losses: dict[str, float], tmp_path: Path, tiny_base: Path
) -> None:
    """Several processes wait for all gradients, unless `varied` says that some may not come."""
    run = run_of(name, tmp_path, tiny_base)
    stage: Any = build_stage(replace(run, losses=losses or {"autoregressive": 1.0, "contrastive": 1.0}))
    sum(stage.losses(stage.batch(0), 0).values()).backward()
    trained = [parameter for parameter in stage.compressor.parameters() if parameter.requires_grad]
    missing = [parameter for parameter in trained if parameter.grad is None]
    assert stage.varied or not missing
    if not losses:
        assert not stage.varied


@pytest.mark.parametrize("name", [name for name, method in CATALOGUE.items() if method.embeds_text])
def test_vectors_of_training_are_those_of_searching(
    name: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss compares what `Fwd2Bot.embed` will give for the same pictures and texts."""
    answers = CATALOGUE[name].answers
    loss = "contrastive_loss" if answers else "one_way_loss"
    compared: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(training, loss, lambda first, second, _: compared.append((first, second)) or first.sum())
    run = run_of(name, tmp_path, tiny_base, num_tokens=4 if answers else 1, token_scale=0.5)
    stage: Any = build_stage(replace(run, losses={"autoregressive": float(answers), "contrastive": 1.0}))
    stage.compressor.eval()
    batch = stage.batch(0)
    model = Fwd2Bot(stage.compressor)
    with torch.no_grad():
        stage.losses(batch, 0)
        ((first, second),) = compared
        tokens = stage.compressor.compress(batch.pixels) if not batch.positives else None
    texts = batch.captions if tokens is not None else batch.positives
    torch.testing.assert_close(normalize(second[: len(texts)]), model.embed(texts), rtol=1e-4, atol=1e-5)
    anchors = batch.captions if tokens is None else tokens
    torch.testing.assert_close(normalize(first), model.embed(anchors), rtol=1e-4, atol=1e-5)


def test_a_rival_in_stages_is_told_how_far_the_training_is(tmp_path: Path, tiny_base: Path) -> None:
    """LLaVolta's pools come one after the other."""
    run = run_of("visual_context_compressor", tmp_path, tiny_base, num_tokens=8, schedule=[[1, 2], [1, 8]])
    stage: Any = build_stage(replace(run, steps=4))
    batch, counts = stage.batch(0), []
    for step in range(4):
        stage.losses(batch, step)
        counts.append(dict(stage.compressor.counts))
    assert counts == [{1: 2}, {1: 2}, {1: 8}, {1: 8}]


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
