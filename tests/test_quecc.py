import math

import pytest
import torch
from tiny import tiny_compressor, tiny_pixels
from tiny_runs import COMPRESSOR, config, untrained_base

from fwd2bot.compressors.grid import windows
from fwd2bot.errors import InputError
from fwd2bot.training.compressor import CompressorStage

ASKED = ["what is it ?", "how many stars are there ?"]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_each_query_has_the_window_of_the_grid_below_it():
    grid = torch.arange(16).view(1, 16, 1)  # 4 x 4
    seen = [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    assert windows(grid, tiny_compressor("quecc").side)[..., 0].tolist() == seen


def test_attention_is_softmax_over_the_window_of_each_query():
    compressor = tiny_compressor("quecc", dtype=torch.float64)
    queries, keys, values = (torch.randn(2, length, 24, dtype=torch.float64) for length in (4, 16, 16))
    module = compressor.attention
    asked, held, said = (
        rows @ weight.T + bias
        for rows, weight, bias in zip(
            (queries, keys, values), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
        )
    )
    found = torch.empty(2, 4, 24, dtype=torch.float64)
    for row in range(2):
        for token, window in enumerate([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]):
            for head in range(8):
                part = slice(3 * head, 3 * head + 3)
                scores = [float(asked[row, token, part] @ held[row, place, part]) / math.sqrt(3) for place in window]
                shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
                found[row, token, part] = sum(
                    share * said[row, place, part] for share, place in zip(shares, window, strict=True)
                )
    close(compressor._attend(queries, keys, values), module.out_proj(found))


def test_tokens_depend_on_the_question_of_their_own_row():
    compressor, pixels = tiny_compressor("quecc"), tiny_pixels(1).expand(2, -1, -1, -1)
    tokens = compressor.compress(pixels, ASKED)
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-3)
    close(compressor.compress(pixels, ASKED[::-1]), tokens.flip(0))


def test_a_question_is_read_with_bos_alone_to_its_end():
    compressor = tiny_compressor("quecc")
    llava, states = compressor.llava, compressor.read(ASKED)
    for state, question in zip(states, ASKED, strict=True):
        ids = [[1, *llava.tokenizer(question, add_special_tokens=False)["input_ids"]]]
        close(llava.run(llava.embed(torch.tensor(ids)), stage="generate")[0, -1], state)


def test_queries_are_windows_of_what_was_added_and_mixed():
    compressor, pixels = tiny_compressor("quecc"), tiny_pixels(2)
    seen = []
    attend = compressor._attend
    compressor._attend = lambda *rows: seen.append(rows) or attend(*rows)
    compressor.compress(pixels, ASKED)
    queries, keys, _ = seen[0]
    low, high = (one[:, 1:] for one in compressor.llava.tower_states(pixels, [1, 2]))
    mixed = compressor.mixed(high + compressor.text(compressor.read(ASKED))[:, None])
    weight, bias = compressor.pooled.weight[:, 0], compressor.pooled.bias  # (C, 2, 2)
    second = sum(weight[:, row, column] * mixed[:, 4 * row + 2 + column] for row in range(2) for column in range(2))
    close(queries[:, 1], second + bias)
    close(keys, compressor.keys(torch.cat([low, low, low, high], dim=-1)))  # levels 12, 16, 22, 23 of 23: of 2


def test_everything_that_is_attended_to_or_added_is_normed():
    compressor = tiny_compressor("quecc", stir=False)
    for part, width in (("text", 32), ("mixed", 24), ("keys", 96), ("values", 96)):
        rows = 5 + 3 * getattr(compressor, part)(torch.randn(7, width))  # mean 5, deviation 3
        close(rows.mean(dim=-1), torch.full((7,), 5.0))
        torch.testing.assert_close(rows.std(dim=-1, correction=0), torch.full((7,), 3.0), rtol=0.01, atol=0.0)


def test_one_question_for_each_picture_is_asked_for():
    compressor = tiny_compressor("quecc")
    with pytest.raises(InputError, match="give one for each of 2 pictures, not 0"):
        compressor.compress(tiny_pixels(2))
    with pytest.raises(InputError, match="give one for each of 2 pictures, not 1"):
        compressor.compress(tiny_pixels(2), ASKED[:1])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_tokens": 9}, "quecc gives 1, 4, 16 tokens on this base's grid of 4 x 4, not 9"),
        ({"num_tokens": 8}, "quecc gives 1, 4, 16 tokens on this base's grid of 4 x 4, not 8"),
        ({"token_counts": (1, 4)}, "quecc gives one number of tokens only"),
    ],
)
def test_numbers_of_tokens_that_cannot_be_are_an_input_error(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_compressor("quecc", **settings)


def test_the_question_teaches_the_language_model_nothing():
    compressor = tiny_compressor("quecc")
    compressor.trainable(["language"])
    compressor.compress(tiny_pixels(2), ASKED).sum().backward()
    assert all(parameter.grad is None for parameter in compressor.llava.part("language"))
    assert all(parameter.grad is not None for parameter in compressor.added_parameters().values())


def test_training_steps_ask_the_first_question(tmp_path, monkeypatch):
    monkeypatch.setitem(COMPRESSOR, "quecc", {**COMPRESSOR["average_pool"], "compressor": "quecc", "num_tokens": 1})
    stage = CompressorStage(config("quecc", tmp_path / "out", untrained_base(tmp_path)))
    batch, asked = stage.batch(0), []
    compress = stage.compressor.compress
    monkeypatch.setattr(
        stage.compressor,
        "compress",
        lambda *given, **named: asked.append(named["questions"]) or compress(*given, **named),
    )
    sum(stage.losses(batch, 0).values()).backward()
    tokenizer = stage.compressor.llava.tokenizer
    assert asked == [batch.questions]
    assert len(batch.questions) == len(batch.pixels)
    for ids, question in zip(batch.answers.ids.tolist(), batch.questions, strict=True):
        assert question.lower() in tokenizer.decode(ids).lower().partition("assistant:")[0]
    assert stage.compressor.pooled.weight.grad.abs().sum() > 0
