"""What is attended to, against transformers' eager kernel and cases worked by hand; the view of one image."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny import tiny_compressor, tiny_llava
from torch import Tensor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from fwd2bot.attended import answer_attention, compression_attention, watching
from fwd2bot.data.conversations import encode_conversation, template_named
from fwd2bot.data.world import make_scene
from fwd2bot.errors import InputError
from fwd2bot.evaluation.world import pictures
from fwd2bot.llava import LANGUAGE_LAYERS, Llava
from fwd2bot.model import Fwd2Bot
from fwd2bot.preprocessing import seen_part

SCENES = [make_scene("test", index) for index in range(2)]


def eager_attention(llava: Llava, rows: Tensor) -> Tensor:
    """transformers' own weights, mean over heads: (T, D) -> (L, T, T)."""
    language = llava.network.model.language_model
    kept = language.config._attn_implementation
    language.set_attn_implementation("eager")
    found = language(inputs_embeds=rows[None], output_attentions=True).attentions
    language.set_attn_implementation(kept)
    return torch.stack([weights[0].mean(dim=0) for weights in found])


def test_attention_of_an_answer_is_that_of_the_eager_kernel(plain: Fwd2Bot) -> None:
    llava, config = plain.compressor.llava, plain.compressor.config
    tokens = plain.compress(pictures(SCENES[:1]))[0]
    found = answer_attention(plain.compressor, tokens, "a fox")
    turns = [(config.caption_question, "a fox")]
    ids = encode_conversation(llava.tokenizer, template_named(config.template), turns, has_image=True).ids
    text, count = llava.embed(torch.tensor(ids)), len(tokens)
    prompt = len(encode_conversation(llava.tokenizer, template_named(config.template), [(turns[0][0], None)], True).ids)
    expected = eager_attention(llava, torch.cat([text[:1], tokens, text[1:]]))
    expected = expected[:, prompt + count - 1 : len(ids) + count - 1, 1 : 1 + count]
    assert found.shape == (2, len(ids) - prompt, count)
    torch.testing.assert_close(found, expected)


def test_attention_of_pass_1_is_that_of_the_eager_kernel() -> None:
    model = Fwd2Bot(tiny_compressor(adapters="none", stir=False))
    llava, compressor = model.compressor.llava, model.compressor
    shown = pictures(SCENES)
    found = compression_attention(model.compressor, shown)
    assert found.shape == (2, 2, 4, 16)
    for index in range(2):
        visual = llava.visual_tokens(llava.pixels(shown))[index]
        ids = llava.tokenizer(compressor.config.prompt, add_special_tokens=False)["input_ids"]
        before, after = (llava.embed(torch.tensor(part)) for part in ([llava.tokenizer.bos_token_id], ids))
        rows = torch.cat([before, visual, after, compressor.own_parameters()["summary_embeddings"]])
        torch.testing.assert_close(found[index], eager_attention(llava, rows)[:, -4:, 1:17])


@pytest.mark.parametrize("masked", [False, True])
def test_rows_that_ask_for_nothing_attend_to_all_alike(masked: bool) -> None:
    """Queries of zero: row r sees r + 1 rows, each for 1 / (r + 1); the first is padding where there is a mask."""
    llava = tiny_llava()
    with torch.no_grad():
        for layer in llava.network.get_submodule(LANGUAGE_LAYERS):
            layer.self_attn.q_proj.weight.zero_()
    rows = torch.randn(1, 5, llava.width)
    mask = torch.tensor([[False, True, True, True, True]]) if masked else None
    with watching(llava, slice(1, 5)) as layers:
        llava.run(rows, mask)
    expected = torch.ones(5, 5).tril()
    expected[1:, 0] = not masked
    expected = (expected / expected.sum(dim=1, keepdim=True))[1:]
    for found in layers:
        torch.testing.assert_close(found[0], expected)
    assert len(layers) == 2


def test_rows_sum_to_one_and_watching_leaves_nothing(model: Fwd2Bot) -> None:
    pixels = model.compressor.llava.pixels(pictures(SCENES))
    before = model.compressor.compress(pixels)
    with watching(model.compressor.llava, slice(None)) as layers:
        torch.testing.assert_close(model.compressor.compress(pixels), before)
    assert [part.shape[1] == part.shape[2] for part in layers] == [True, True]
    torch.testing.assert_close(layers[0].sum(-1), torch.ones(layers[0].shape[:2]))
    model.compressor.compress(pixels)
    assert len(layers) == 2


def test_pass_1_attends_by_its_own_adapter() -> None:
    """With the adapter of pass 1 on the queries taken away, the weights are others; that of pass 2 does not matter."""
    model = Fwd2Bot(tiny_compressor())
    found = [compression_attention(model.compressor, pictures(SCENES))]
    first = model.compressor.llava.network.get_submodule(LANGUAGE_LAYERS)[0].self_attn.q_proj
    for name in ("generate", "compress"):
        with torch.no_grad():
            first.low_ranks()[name].up.zero_()
        found.append(compression_attention(model.compressor, pictures(SCENES)))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[1], found[2])


def test_a_model_without_pass_1_is_told(plain: Fwd2Bot) -> None:
    with pytest.raises(InputError, match="does not compress by its language model"):
        compression_attention(plain.compressor, pictures(SCENES))


def test_view_means_over_layers_and_rows_of_the_answer_to_the_question(model: Fwd2Bot) -> None:
    (shown,) = pictures(SCENES[:1])
    tokens = model.compress([shown])[0]
    question = "how many stars are there ?"
    found = model.attention(tokens.numpy(), question, shown)
    assert found.grid == (4, 4)
    assert found.seen == (1.0, 1.0)
    assert found.text == model.answer(tokens[None], [question])[0]
    asked = answer_attention(model.compressor, tokens, found.text, question)
    torch.testing.assert_close(torch.tensor(found.answer), asked.mean(dim=1).mean(dim=0))
    drawn = compression_attention(model.compressor, [shown])[0]
    torch.testing.assert_close(torch.tensor(found.compress), drawn.sum(dim=0) / 2)
    assert not torch.allclose(asked, answer_attention(model.compressor, tokens, found.text))


def test_view_without_a_picture_is_of_the_row_alone_and_without_a_question_a_caption(model: Fwd2Bot) -> None:
    tokens = model.compress(pictures(SCENES[:1]))[0]
    found = model.attention(tokens, None, None)
    assert found.compress is None
    assert found.text == model.caption(tokens[None])[0]
    assert found.answer == pytest.approx(
        answer_attention(model.compressor, tokens, found.text).mean(dim=(0, 1)).tolist()
    )


def test_view_of_a_shorter_row_watches_as_many_tokens(model: Fwd2Bot) -> None:
    (shown,) = pictures(SCENES[:1])
    found = model.attention(model.compress([shown], num_tokens=2)[0], None, shown)
    drawn = compression_attention(model.compressor, [shown])[0, :, :2].mean(dim=0)
    assert len(found.answer) == 2
    torch.testing.assert_close(torch.tensor(found.compress), drawn)


@pytest.mark.parametrize(
    ("crop", "size", "seen"),
    [
        (False, (300, 200), (1.0, 1.0)),
        (False, (100, 1000), (1.0, 0.4)),  # four of its widths
        (True, (300, 200), (0.75, 1.5 * 0.75)),  # padded to a square, of which 96 of 128 rows of pixels are kept
        (True, (100, 1000), (10 * 0.75, 0.75)),
    ],
)
def test_seen_part_is_what_is_left_of_the_padded_square(
    crop: bool, size: tuple[int, int], seen: tuple[float, float]
) -> None:
    processor = SimpleNamespace(
        do_center_crop=crop,
        do_pad=crop,
        size=SimpleNamespace(shortest_edge=128),
        crop_size=SimpleNamespace(width=96, height=96),
    )
    assert seen_part(processor, size) == pytest.approx(seen)


def test_seen_part_is_what_the_processor_keeps() -> None:
    """A picture whose middle alone is white gives white pixels, and above and below it those of the padding."""
    llava = tiny_llava()
    square = {"height": 32, "width": 32}
    llava.image_processor = LlavaImageProcessorPil(size={"shortest_edge": 48}, crop_size=square, do_pad=True)
    shown = Image.new("RGB", (300, 120), "black")
    across, down = seen_part(llava.image_processor, shown.size)
    assert across < 1 < down
    margin = 8  # of the resampling
    left = (300 - round(across * 300)) // 2 - margin
    shown.paste("white", (left, 0, 300 - left, 120))
    seen = llava.pixels([shown])[0, 0]
    assert float(seen.std(dim=1).max()) < 1e-3
    white = (seen[:, 0] > (seen[0, 0] + seen[16, 0]) / 2).tolist()
    first, last = (round(32 * share) for share in ((down - 1) / 2 / down, (down + 1) / 2 / down))
    assert white == [first <= row < last for row in range(32)]
    shown.paste("black", (left, 0, left + 3 * margin, 120))
    assert float(llava.pixels([shown])[0, 0].std(dim=1).max()) > 1e-2
