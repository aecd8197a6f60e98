"""E5-V and VLM2Vec in the loop: what they learn from, and what comes out."""

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import config, settings, written

import fwd2bot
from fwd2bot.errors import InputError
from fwd2bot.losses import one_way_loss
from fwd2bot.training import run
from fwd2bot.training.compressor import CompressorStage

ALONE = {"losses": {"contrastive": 1.0}}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["e5v", "vlm2vec"])
def test_a_run_gives_a_model_that_embeds(name, tmp_path, tiny_base):
    folder = run(written(tmp_path, settings(name, tmp_path / name, tiny_base, steps=2, evaluate_every=2, **ALONE)))
    told = (folder / "metrics.jsonl").read_text()
    assert ("text_to_text_R@1_of_4" in told) == (name == "e5v")
    assert ("image_to_text_R@1_of_4" in told) == (name == "vlm2vec")
    model = fwd2bot.load(folder, device="cpu")
    assert (model.num_tokens, model.answers, model.compressor.config.compressor) == (1, False, name)
    assert model.embed(["a fox"]).norm().item() == pytest.approx(1.0, rel=1e-5)


def test_e5v_sees_texts_alone_and_contrasts_them_one_way(tmp_path, tiny_base):
    stage = CompressorStage(config("e5v", tmp_path, tiny_base, **ALONE))
    batch = stage.batch(0)
    assert batch.pixels is None
    assert len(batch.captions) == len(batch.positives) == len(batch.negatives) == 2
    (loss,) = stage.losses(batch, 0).values()
    with torch.no_grad():
        sides = [stage.compressor.compress_text(texts)[:, 0] for texts in (batch.captions, batch.positives)]
        negatives = stage.compressor.compress_text(batch.negatives)[:, 0]
    expected = F.cross_entropy(
        F.normalize(sides[0], dim=-1) @ F.normalize(torch.cat([sides[1], negatives]), dim=-1).T / 0.05, torch.arange(2)
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(one.grad is not None for one in stage.compressor.parameters() if one.requires_grad)


def test_vlm2vec_goes_from_pictures_to_texts_alone(tmp_path, tiny_base):
    stage = CompressorStage(config("vlm2vec", tmp_path, tiny_base, **ALONE))
    batch = stage.batch(0)
    losses = stage.losses(batch, 0)
    with torch.no_grad():
        images = stage.compressor.compress(batch.pixels)[:, 0]
        texts = stage.compressor.compress_text(batch.captions)[:, 0]
    assert set(losses) == {"contrastive"}
    torch.testing.assert_close(losses["contrastive"], one_way_loss(images, texts, 0.02))


def test_what_only_embeds_cannot_learn_to_answer(tmp_path, tiny_base):
    with pytest.raises(InputError, match="e5v only embeds; leave autoregressive out of losses"):
        CompressorStage(config("e5v", tmp_path, tiny_base))


def test_triplets_teach_no_other_method(tmp_path, tiny_base):
    (tmp_path / "a.csv").touch()
    data = {"sources": [{"kind": "triplets", "path": str(tmp_path / "a.csv")}]}
    with pytest.raises(InputError, match="triplets are for methods that learn from text alone"):
        CompressorStage(config("vlm2vec", tmp_path, tiny_base, data=data, **ALONE))
