from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_llava, tiny_pixels

from fwd2bot import attention
from fwd2bot.reduction import Kept, Reduction, Rows, highest, mean_rows


class Given:
    """A reducer that keeps the rows it is told to, one list for each element."""

    def __init__(self, layer, places, **changes):
        self.counts, self.places, self.changes = {layer: len(places[0])}, torch.tensor(places), changes

    def keep(self, seen, count):
        self.seen = seen
        return Kept(self.places, **self.changes)


def reduction(reducer, image, last):
    return Reduction(reducer, torch.tensor(image), torch.tensor(last))


def before(rows, layer=1):
    return rows.before(layer, [SimpleNamespace()] * 2, rows.hidden, None)


def test_average_tokens_are_those_that_papers_quote():
    assert mean_rows(576, 32, {2: 288}) == 306  # FastV
    assert mean_rows(576, 32, {2: 72}) == 103.5  # LLaVolta, heavy
    assert mean_rows(576, 32, {3: 288, 17: 144, 22: 1}) == (3 * 576 + 14 * 288 + 5 * 144 + 10) / 32  # V2Drop


def test_each_element_loses_its_own_rows():
    hidden = torch.arange(12.0).view(2, 6, 1)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 5] = False
    image = [[1, 2, 3], [1, 2, 3]]
    rows = Rows(
        hidden=hidden,
        positions=torch.arange(6).expand(2, -1),
        allowed=allowed,
        mask=mask,
        reduction=reduction(Given(1, [[0, 2], [1, 2]]), image, [5, 4]),
    )
    assert before(rows, layer=0) is rows
    after = before(rows)
    assert after.hidden[..., 0].tolist() == [[0, 1, 3, 4, 5], [6, 8, 9, 10, 11]]
    assert after.positions.tolist() == [[0, 1, 3, 4, 5], [0, 2, 3, 4, 5]]
    assert after.mask.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert torch.equal(after.allowed, torch.ones(2, 1, 5, 5, dtype=torch.bool).tril())
    assert after.reduction.image.tolist() == [[1, 2], [1, 2]]
    assert after.reduction.last.tolist() == [4, 3]


def test_columns_that_a_row_does_not_see_go_with_their_rows():
    allowed = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    allowed[0, 0, 3, 0] = allowed[0, 0, 3, 2] = True
    rows = Rows(
        hidden=torch.zeros(1, 4, 1),
        positions=torch.arange(4)[None],
        allowed=allowed,
        reduction=reduction(Given(1, [[1]]), [[1, 2]], [3]),
    )
    assert before(rows).allowed[0, 0].tolist() == [[False] * 3, [False] * 3, [True, True, False]]


def test_rows_that_stay_may_become_others():
    changes = {"hidden": torch.tensor([[[7.0], [8.0]]]), "positions": torch.tensor([[2, 3]])}
    rows = Rows(
        hidden=torch.zeros(1, 5, 1),
        positions=torch.arange(5)[None],
        reduction=reduction(Given(1, [[0, 2]], **changes), [[1, 2, 3]], [4]),
    )
    after = before(rows)
    assert after.hidden[0, :, 0].tolist() == [0, 7, 8, 0]
    assert after.positions.tolist() == [[0, 2, 3, 4]]


def test_the_row_that_speaks_stays_and_masked_rows_go_first():
    mask = torch.tensor([[True, False, True, True, True]])
    given = Given(1, [[0]])
    rows = Rows(
        hidden=torch.zeros(1, 5, 1),
        positions=torch.arange(5)[None],
        mask=mask,
        reduction=reduction(given, [[1, 2, 3, 4]], [4]),
    )
    before(rows)
    ranked = given.seen.ranked(torch.tensor([[9.0, 5.0, 5.0, 1.0]]))  # ties: the earlier first
    assert ranked.tolist() == [[3, 1, 2, 0]]
    assert highest(ranked, 3).places.tolist() == [[1, 2, 3]]


def test_other_orders_take_the_places_with_them():
    moved = reduction(None, [[1, 2], [1, 2]], [3, 2]).moved(torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]]))
    assert moved.image.tolist() == [[1, 2], [2, 3]]
    assert moved.last.tolist() == [3, 3]


@pytest.mark.parametrize("masked", [False, True])
def test_weights_are_those_of_transformers(masked):
    llava, eager = tiny_llava(), tiny_llava()
    eager.network.set_attn_implementation("eager")
    language, rows = llava.network.model.language_model, torch.tensor([[6, 3], [2, 5]])
    hidden = torch.randn(2, 7, llava.width)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :2] = not masked
    positions = torch.arange(7).expand(2, -1)
    expected = eager.network.model.language_model(
        inputs_embeds=hidden, attention_mask=mask.long(), position_ids=positions, output_attentions=True
    ).attentions[0]
    layer, allowed = language.layers[0], mask[:, None] & (torch.arange(7) <= rows[..., None])
    rope = language.rotary_emb(hidden, positions)
    found = attention.weights(layer.self_attn, layer.input_layernorm(hidden), rows=rows, rope=rope, allowed=allowed)
    torch.testing.assert_close(found, attention.taken(expected.mean(dim=1), rows), rtol=1e-4, atol=1e-5)


def test_weights_of_the_tower_are_those_of_transformers():
    llava, eager, pixels = tiny_llava(), tiny_llava(), tiny_pixels(2)
    eager.network.set_attn_implementation("eager")
    expected = eager.network.model.vision_tower(pixels, output_attentions=True).attentions[1].mean(dim=1)
    (before,) = llava.tower_states(pixels, [1])
    block = llava.network.model.vision_tower.encoder.layers[1]
    found = attention.weights(block.self_attn, block.layer_norm1(before))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
