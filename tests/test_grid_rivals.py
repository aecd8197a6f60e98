"""Rivals that work on windows of the grid: downsample, TokenPacker, M3, Token-Shuffle."""

import pytest
import torch
from tiny import tiny_compressor, tiny_llava, tiny_pixels

from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.grid import resized, windows
from fwd2bot.compressors.token_packer import Packer, packed_levels
from fwd2bot.compressors.token_shuffle import Shuffle
from fwd2bot.errors import InputError


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def numbered(side):
    """(1, side^2, 1): 0, 1, 2, ... squared."""
    return torch.arange(float(side**2))[None, :, None] ** 2


def squared(*numbers):
    return torch.tensor([float(number) for number in numbers]) ** 2


def test_windows_are_squares_in_raster_order():
    cut = windows(torch.arange(16)[None, :, None], 2)[0, ..., 0]
    assert cut.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


# Downsample.


def test_resizing_by_two_is_the_mean_by_three_the_middle_by_four_the_middle_four():
    close(resized(numbered(4), 2)[0, 1, 0], squared(2, 3, 6, 7).mean())
    assert resized(numbered(9), 3)[0, :, 0].tolist() == squared(10, 13, 16, 37, 40, 43, 64, 67, 70).tolist()
    close(resized(numbered(8), 2)[0, 2, 0], squared(41, 42, 49, 50).mean())
    assert torch.equal(resized(numbered(5), 5), numbered(5))


def test_resizing_by_a_broken_number_weighs_the_four_around():
    # rows and columns of the output lie at 1/6, 3/2 and 17/6 of 0 ... 3
    above, below = (5 * squared(0, 4) + squared(1, 5)) / 6
    close(resized(numbered(4), 3)[0, 0, 0], (5 * above + below) / 6)
    close(resized(numbered(4), 3)[0, 4, 0], squared(5, 6, 9, 10).mean())


def test_downsample_reads_the_middle_where_average_pool_takes_the_mean():
    pixels = tiny_pixels(2)
    visual_tokens = tiny_llava().visual_tokens(pixels)
    close(tiny_compressor("downsample").compress(pixels), tiny_compressor("average_pool").compress(pixels))
    one = tiny_compressor("downsample", num_tokens=1).compress(pixels)[:, 0]
    close(one, visual_tokens[:, [5, 6, 9, 10]].mean(1))


# TokenPacker.


def packer(width=16, out=6):
    torch.manual_seed(0)
    made = Packer(width, out).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made, torch.randn(1, 36, width).double(), torch.randn(1, 36, 4 * width).double()


def test_each_query_attends_to_its_own_window():
    made, patches, levels = packer()
    keys, values = made.keys(levels)[0], made.values(levels)[0]
    for number, window in enumerate(windows(torch.arange(36)[None, :, None], 2)[0, ..., 0]):
        middle = patches[0, window[4]]  # of 3 x 3
        query = made.query_norm(made.query(middle))[None]
        expected = made.out(made.attention(query, keys[window], values[window])[0])
        close(made(patches, levels, 2)[0, number], expected[0])


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_patch_changes_its_own_cell_alone(side):
    made, patches, levels = packer()
    before = made(patches, levels, side)
    for patch in (0, 14, 35):
        other_patches, other_levels = patches.clone(), levels.clone()
        other_patches[:, patch] += 1.0
        other_levels[:, patch] += 1.0
        changed = (made(other_patches, other_levels, side) - before).abs().amax(-1)[0] > 1e-9
        window = 6 // side
        cell = patch // 6 // window * side + patch % 6 // window
        assert changed.nonzero().flatten().tolist() == [cell]


def test_levels_of_the_tower_are_those_of_llava_and_the_same_shares_elsewhere():
    assert packed_levels(23) == [12, 16, 22, 23]
    assert packed_levels(5) == [2, 3, 4, 5]
    compressor, pixels = tiny_compressor("token_packer"), tiny_pixels(2)
    states = compressor.llava.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    levels = torch.cat([states[level][:, 1:] for level in (1, 1, 1, 2)], dim=-1)
    close(compressor.compress(pixels), compressor.packer(states[2][:, 1:], levels, 2))


def test_packer_norms_what_is_attended_to():
    made, patches, levels = Packer(64, 6), 5 + torch.randn(1, 9, 64), 5 + torch.randn(1, 9, 256)
    for rows in (made.query_norm(made.query(patches)), made.keys(levels), made.values(levels)):
        assert rows.mean(dim=-1).abs().max() < 1e-5
        assert rows.square().mean() > 0.9  # not yet normed, weights of 0.02 would give less than 0.1


def test_packer_starts_as_published():
    made = Packer(64, 128)
    assert made.out[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not made.keys[0].bias.any()
    assert made.query.bias is None
    assert made.attention.num_heads == 8


# M3.


def test_coarse_scales_are_the_finer_ones_pooled():
    compressor, pixels = (
        tiny_compressor("matryoshka_multimodal", num_tokens=16, token_counts=(1, 4, 16)),
        tiny_pixels(2),
    )
    fine, middle, coarse = (compressor.compress(pixels, num_tokens=count) for count in (16, 4, 1))
    assert torch.equal(fine, compressor.llava.visual_tokens(pixels))
    close(windows(fine, 2).mean(2), middle)
    close(middle.mean(1), coarse[:, 0])


# Token-Shuffle.


def shuffle(width, window):
    """It takes the first channels, and mixes nothing."""
    made = Shuffle(width, window)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.narrow.weight.copy_(torch.eye(width)[: made.narrow.out_features])
    return made


def test_neighbours_become_channels():
    tokens = torch.stack([torch.arange(16.0), *torch.rand(3, 16)], dim=1)[None]  # (1, 16, 4)
    fused = shuffle(4, 4)(tokens, 2)[0]
    assert fused.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_channels_that_the_window_does_not_divide_are_cut_in_turn():
    tokens = torch.zeros(1, 9, 11)
    tokens[0, :, 0], tokens[0, :, 1] = torch.arange(9.0), 10 + torch.arange(9.0)
    fused = shuffle(11, 9)(tokens, 1)[0, 0]
    assert fused.tolist() == [*range(9), 10, 11]


def test_shuffle_adds_what_its_blocks_say():
    made, tokens = shuffle(4, 4), torch.rand(1, 4, 4)
    with torch.no_grad():
        made.blocks[0][2].bias.fill_(2.0)
        made.blocks[1][2].bias.fill_(0.5)
    close(made(tokens, 1)[0, 0], tokens[0, :, 0] + 2.5)


def test_token_shuffle_refuses_what_it_cannot_lay_side_by_side():
    with pytest.raises(InputError, match="token_shuffle gives one number of tokens only"):
        tiny_compressor("token_shuffle", token_counts=(1, 4))
    llava = tiny_llava()
    llava.network.config.text_config.hidden_size = 8
    with pytest.raises(InputError, match="cannot lay 16 tokens side by side in 8 channels; take more"):
        make_compressor(llava, CompressorConfig(compressor="token_shuffle", num_tokens=1, adapters="none"))
