"""PruMerge and PruMerge+: outliers, picks and merging, against plain loops and numbers worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_compressor, tiny_llava, tiny_pixels

from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.prumerge import merge, outlier_ratio
from fwd2bot.compressors.prumerge_plus import spread_places
from fwd2bot.errors import InputError


def merged_by_hand(features, keys, attention, chosen, neighbours):
    """One picture, by the definition."""
    patches = range(len(features))
    rows = []
    for i in chosen:
        cosines = {j: float(F.cosine_similarity(keys[i], keys[j], dim=0)) for j in patches if j != i}
        nearest = sorted(cosines, key=cosines.__getitem__, reverse=True)[:neighbours]
        rows.append(features[i] + sum(attention[j] * features[j] for j in nearest))
    rows.append(sum(attention[j] * features[j] for j in patches if j not in chosen))
    return torch.stack(rows)


def test_outliers_are_above_the_upper_fence_of_the_whole_batch():
    attention = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 8.0]])
    # Q1 1, Q3 3.25, fence 6.625; a fence of the second row alone would be 8.375
    assert outlier_ratio(attention) == 1 / 8
    attention[1, 3] = 6.5  # the fence stays
    assert outlier_ratio(attention) == 0.0


def test_neighbours_are_32_of_the_576_patches_of_llava(monkeypatch):
    import fwd2bot.compressors.prumerge as module

    asked = []
    monkeypatch.setattr(module, "merge", lambda *all_: asked.append(all_[-1]) or merge(*all_))
    for image in (96, 32):  # 24 x 24, 8 x 8 patches of 4
        llava = tiny_llava(image=image)
        config = CompressorConfig(compressor="prumerge", num_tokens=4, adapters="none")
        make_compressor(llava, config).compress(torch.zeros(1, 3, image, image))
    assert asked == [32, 3]


def test_merging_is_that_of_the_definition():
    torch.manual_seed(0)
    features, keys = torch.randn(2, 7, 4, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    attention = torch.rand(2, 7, dtype=torch.float64)
    chosen = torch.tensor([[5, 0], [2, 6]])
    merged = merge(features, keys, attention, chosen, 3)
    for row in range(2):
        expected = merged_by_hand(features[row], keys[row], attention[row], chosen[row].tolist(), 3)
        torch.testing.assert_close(merged[row], expected)


def seen_by_transformers(llava, pixels):
    """Patches of layer -2; queries and keys of the layer after it, as that layer itself computes them."""
    seen = {}
    attention = llava.network.model.vision_tower.encoder.layers[-1].self_attn
    hooks = [
        getattr(attention, name).register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name in ("q_proj", "k_proj")
    ]
    states = llava.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    for hook in hooks:
        hook.remove()
    return states, seen["q_proj"], seen["k_proj"]


@pytest.mark.parametrize(("name", "count"), [("prumerge", 4), ("prumerge_plus", 6)])
def test_tokens_are_those_of_the_definition(name, count):
    compressor, pixels = tiny_compressor(name, num_tokens=count), tiny_pixels(2)
    states, queries, keys = seen_by_transformers(compressor.llava, pixels)
    scores = queries @ keys.transpose(1, 2) / math.sqrt(24)
    attention = scores.softmax(-1)[:, 0, 1:]
    for row in range(2):
        order = attention[row].argsort(descending=True).tolist()
        chosen = order[:3] if name == "prumerge" else [*order[:3], 4, 12]  # 16 // 2 = 8: from 4 on, every eighth
        expected = merged_by_hand(states[row, 1:], keys[row, 1:], attention[row], chosen, 1)
        tokens = compressor.llava.network.model.multi_modal_projector(expected)
        torch.testing.assert_close(compressor.compress(pixels)[row], tokens, rtol=1e-4, atol=1e-5)


def test_spread_places_are_in_the_middle_of_their_steps():
    assert spread_places(576, 72).tolist() == list(range(4, 576, 8))
    assert spread_places(16, 3).tolist() == [2, 7, 12]
    assert spread_places(16, 15).tolist() == list(range(15))
    assert spread_places(16, 0).tolist() == []


def test_a_spread_place_may_be_one_that_is_chosen_already():
    compressor = tiny_compressor("prumerge_plus", num_tokens=4)
    attention = torch.zeros(2, 16)
    attention[0, 8], attention[0, 3], attention[1, 15], attention[1, 1] = 3.0, 2.0, 5.0, 4.0
    assert compressor.choose(attention, 3).tolist() == [[8, 3, 8], [15, 1, 8]]


def test_a_base_that_reads_its_last_layer_is_an_input_error():
    llava = tiny_llava()
    llava.network.config.vision_feature_layer = -1
    with pytest.raises(InputError, match="prumerge needs a layer of the tower after the one that is read"):
        make_compressor(llava, CompressorConfig(compressor="prumerge"))
