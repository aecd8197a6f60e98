import math

import pytest
import torch
from tiny_runs import config
from torch import tensor

from fwd2bot.losses import IGNORED, autoregressive_loss, contrastive_loss, one_way_loss
from fwd2bot.training.projector import ProjectorStage


def contrastive_by_loops(images, texts, temperature):
    """Eq. 3 in plain Python over lists of floats."""

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    size, total = len(images), 0.0
    for k in range(size):
        to_texts = [math.exp(cosine(images[k], texts[j]) / temperature) for j in range(size)]
        to_images = [math.exp(cosine(images[j], texts[k]) / temperature) for j in range(size)]
        total += -math.log(to_texts[k] / sum(to_texts)) - math.log(to_images[k] / sum(to_images))
    return total / size


def test_contrastive_loss_is_two_log_b_when_all_cosines_are_equal():
    same = torch.ones(5, 3)
    assert contrastive_loss(same, 7 * same, 0.05).item() == pytest.approx(2 * math.log(5), rel=1e-6)


def test_contrastive_loss_worked_by_hand_for_two():
    # cosines: image 1 with the texts 1, 0.6; image 2 with them 0, 0.8
    images, texts = tensor([[2.0, 0.0], [0.0, 3.0]]), tensor([[1.0, 0.0], [0.6, 0.8]])
    rows = math.log(1 + math.exp(0.6 - 1)) + math.log(1 + math.exp(0 - 0.8))
    columns = math.log(1 + math.exp(0 - 1)) + math.log(1 + math.exp(0.6 - 0.8))
    assert contrastive_loss(images, texts, 1.0).item() == pytest.approx((rows + columns) / 2, rel=1e-6)
    assert rows != pytest.approx(columns, rel=0.02)  # one direction taken twice would be seen


def test_contrastive_loss_and_gradients_equal_loops_in_float64():
    torch.manual_seed(0)
    images, texts = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = contrastive_loss(images, texts, 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(contrastive_by_loops(images.tolist(), texts.tolist(), 0.3), rel=1e-12)
    for leaf in (images, texts):
        for i in range(3):
            for j in range(4):
                shifted = []
                for step in (1e-6, -1e-6):
                    moved = {id(one): one.tolist() for one in (images, texts)}
                    moved[id(leaf)][i][j] += step
                    shifted.append(contrastive_by_loops(moved[id(images)], moved[id(texts)], 0.3))
                assert leaf.grad[i, j].item() == pytest.approx((shifted[0] - shifted[1]) / 2e-6, abs=1e-8)


def test_contrastive_loss_does_not_feel_lengths():
    torch.manual_seed(1)
    images, texts = torch.randn(4, 6), torch.randn(4, 6)
    stretched = contrastive_loss(images * tensor([[3.0], [0.1], [1.0], [9.0]]), texts, 0.1)
    torch.testing.assert_close(stretched, contrastive_loss(images, texts, 0.1))


def test_contrastive_loss_computes_in_float32_for_bfloat16():
    torch.manual_seed(2)
    images, texts = torch.randn(4, 6).bfloat16(), torch.randn(4, 6).bfloat16()
    loss = contrastive_loss(images, texts, 0.02)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive_loss(images.float(), texts.float(), 0.02))


def test_losses_of_cosines_are_the_same_under_autocast():
    torch.manual_seed(3)
    images, texts = torch.randn(6, 64, requires_grad=True), torch.randn(6, 64)
    for loss in (contrastive_loss, one_way_loss):
        expected = loss(images, texts, 0.02)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(images, texts, 0.02)
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(one, images)[0] for one in (found, expected)))


def test_scores_of_a_patchs_words_are_the_same_under_autocast(tmp_path, tiny_base):
    stage = ProjectorStage(config("projector", tmp_path, tiny_base))
    patches, words = torch.randn(2, 16, 32), stage.words[2]
    scores = stage._scores(patches, words)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(stage._scores(patches, words), scores)
    close = torch.cosine_similarity(patches[0, 0], words, dim=-1) / 0.05
    torch.testing.assert_close(scores[0, 0], close, atol=1e-4, rtol=1e-4)


def test_autoregressive_loss_worked_by_hand():
    # Two rows, three positions, two words; position t speaks of label t + 1.
    logits = torch.zeros(2, 3, 2)
    logits[0, 0] = tensor([1.0, 0.0])  # label 1 of row 0 is word 1
    logits[0, 1] = tensor([0.0, 2.0])  # label 2 of row 0 is word 1
    logits[1, 1] = tensor([5.0, 0.0])  # label 2 of row 1 is word 0
    logits[:, 2] = tensor([9.0, -9.0])  # the last position speaks of nothing
    labels = tensor([[0, 1, 1], [1, IGNORED, 0]])
    expected = [math.log(1 + math.exp(1)), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-5))]
    loss = autoregressive_loss(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_autoregressive_loss_is_zero_with_gradients_when_nothing_is_labelled():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = autoregressive_loss(logits, torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()
    assert autoregressive_loss(torch.empty(0, 4), torch.empty(0, dtype=torch.long)).item() == 0
