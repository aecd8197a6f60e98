"""MQT: place codes by hand, what the queries see, prefixes (which the contract of all compressors tests, too)."""

import math

import torch
import torch.nn.functional as F
from tiny import tiny_compressor, tiny_pixels

from fwd2bot.compressors.matryoshka_query import Resampler, place_codes


def resampler():
    torch.manual_seed(0)
    made = Resampler(6, 24, 10).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made, torch.randn(2, 16, 24).double()


def test_place_codes_are_sines_and_cosines_of_column_then_row():
    codes = place_codes(16, 8)
    assert codes.shape == (256, 8)
    column = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    row = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    torch.testing.assert_close(codes[2 * 16 + 3], torch.tensor(column + row))


def test_queries_that_say_nothing_take_the_mean_of_all_values():
    made, patches = resampler()
    with torch.no_grad():
        made.attention.in_proj_weight[:24] = 0
        made.attention.in_proj_bias[:24] = 0
    mean = made.value_norm(patches).mean(1) @ made.attention.in_proj_weight[48:].T + made.attention.in_proj_bias[48:]
    expected = made.attention.out_proj(mean) @ made.projection
    torch.testing.assert_close(made(patches, 6), expected[:, None].expand(-1, 6, -1))


def test_queries_attend_to_pictures_and_places():
    made, patches = resampler()
    places = made.codes.T.reshape(1, 24, 16, 16)
    places = F.interpolate(places, size=(4, 4), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    queries = made.query_norm(made.query_embeddings + made.codes[:6]).expand(2, -1, -1)
    seen, _ = made.attention(queries, made.key_norm(patches + places), made.value_norm(patches))
    torch.testing.assert_close(made(patches, 6), seen @ made.projection)


def test_the_order_of_patches_counts_by_their_places_alone():
    made, patches = resampler()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(made(patches[:, order], 6), made(patches, 6), atol=1e-3)
    made.codes.zero_()
    torch.testing.assert_close(made(patches[:, order], 6), made(patches, 6))


def test_fewer_tokens_are_the_first_of_many():
    compressor, pixels = tiny_compressor("matryoshka_query", num_tokens=6, token_counts=(1, 3, 6)), tiny_pixels(2)
    whole = compressor.compress(pixels)
    for count in (1, 3):
        torch.testing.assert_close(compressor.compress(pixels, num_tokens=count), whole[:, :count])


def test_resampler_starts_as_published():
    made = Resampler(64, 64, 400)
    assert abs(made.query_embeddings.std().item() - 0.02) < 0.001
    assert abs(made.projection.std().item() - 0.05) < 0.001
    assert abs(made.attention.out_proj.weight.std().item() - 0.02) < 0.001  # torch's own would be 0.07
    assert made.attention.num_heads == 16
