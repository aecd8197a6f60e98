"""VisionZip against plain loops."""

import torch
import torch.nn.functional as F
from tiny import tiny_compressor, tiny_pixels

from fwd2bot.compressors.tower import class_attention
from fwd2bot.compressors.visionzip import contextual_count, zip_tokens


def zipped_by_hand(states, keys, attention, dominant, contextual):
    """One picture, by the definition; states and keys with the class token."""
    best = sorted(range(len(attention)), key=lambda j: -attention[j])[: dominant - 1]
    chosen = [0, *sorted(1 + j for j in best)]
    rest = [j for j in range(len(states)) if j not in chosen]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    groups = {target: [] for target in targets}
    for other in (j for j in rest if j not in targets):
        cosines = [float(F.cosine_similarity(keys[other], keys[target], dim=0)) for target in targets]
        groups[targets[cosines.index(max(cosines))]].append(states[other])
    sums = [states[t] + (sum(group) / len(group) if group else 0) for t, group in groups.items()]
    return torch.stack([*(states[j] for j in chosen), *sums])


def test_dominant_rows_are_kept_and_contextual_rows_are_target_plus_mean():
    torch.manual_seed(1)
    states, keys = torch.randn(3, 12, 4, dtype=torch.float64), torch.randn(3, 12, 2, dtype=torch.float64)
    attention = torch.rand(3, 11, dtype=torch.float64)
    for dominant, contextual in ((1, 1), (4, 3), (5, 7)):  # of the last every target stands alone
        zipped = zip_tokens(states, keys, attention, dominant, contextual)
        for row in range(3):
            expected = zipped_by_hand(states[row], keys[row], attention[row].tolist(), dominant, contextual)
            torch.testing.assert_close(zipped[row], expected)


def test_attention_of_the_class_token_is_a_sum_over_heads():
    queries, keys = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    queries[0, 0] = torch.tensor([1.0, 0.0, 0.0, 2.0])  # two heads of two
    keys[0, 1] = torch.tensor([1.0, 5.0, 0.0, 1.0])
    keys[0, 2] = torch.tensor([3.0, 0.0, 7.0, -1.0])
    root = 2**0.5
    heads = [torch.tensor([0.0, 1.0, 3.0]) / root, torch.tensor([0.0, 2.0, -2.0]) / root]
    expected = sum(head.softmax(0) for head in heads)[1:]
    torch.testing.assert_close(class_attention(queries, keys, 2)[0], expected)


def test_tokens_read_attention_and_keys_of_the_last_layer_that_is_run():
    compressor, pixels, seen = tiny_compressor("visionzip"), tiny_pixels(2), {}
    tower = compressor.llava.network.model.vision_tower
    layer = tower.encoder.layers[1].self_attn
    hooks = [
        getattr(layer, name).register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
        for name in ("q_proj", "k_proj")
    ]
    states = tower(pixels, output_hidden_states=True).hidden_states[2]
    for hook in hooks:
        hook.remove()
    attention = class_attention(seen["q_proj"], seen["k_proj"], 2)
    mean_keys = (seen["k_proj"][..., :12] + seen["k_proj"][..., 12:]) / 2
    for row in range(2):
        expected = zipped_by_hand(states[row], mean_keys[row], attention[row].tolist(), 3, 1)
        tokens = compressor.llava.network.model.multi_modal_projector(expected)
        torch.testing.assert_close(compressor.compress(pixels)[row], tokens, rtol=1e-4, atol=1e-5)


def test_split_of_the_numbers_that_are_published():
    assert [contextual_count(count) for count in (64, 128, 192, 16, 4, 2)] == [10, 20, 30, 2, 1, 1]
