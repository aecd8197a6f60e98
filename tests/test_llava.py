import json
import os
import threading

import pytest
import torch
from PIL import Image
from tiny import tiny_llava, tiny_pixels
from tokenizers import Tokenizer
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from fwd2bot.attention import independent_turns
from fwd2bot.data.conversations import TEMPLATES, encode_conversation
from fwd2bot.errors import ModelError
from fwd2bot.llava import Llava

STOP = 40


@pytest.fixture(scope="module")
def llava():
    return tiny_llava()


@pytest.fixture(scope="module")
def rows(llava):
    """(3, 7, D), as strong as the vocabulary's embeddings."""
    return llava.embed(torch.randint(5, 300, (3, 7), generator=torch.Generator().manual_seed(0))).detach()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_visual_tokens_are_those_of_transformers(llava):
    pixels = tiny_pixels(2)
    expected = torch.stack(list(llava.network.get_image_features(pixels).pooler_output))
    close(llava.visual_tokens(pixels), expected)
    assert llava.visual_tokens(pixels).shape == (2, llava.num_visual_tokens, llava.width)


def test_states_of_the_tower_are_those_of_transformers(llava):
    pixels = tiny_pixels(2)
    expected = llava.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    for level, states in zip((2, 0, 1), llava.tower_states(pixels, (2, 0, 1)), strict=True):
        assert states.shape == (2, 17, llava.tower_width)
        close(states, expected[level])
    (states,) = llava.tower_states(pixels, [llava.num_tower_layers])
    assert torch.equal(llava.project(states[:, 1:]), llava.visual_tokens(pixels))


def test_one_pass_over_image_and_text_is_that_of_transformers(llava):
    pixels, ids = tiny_pixels(1), torch.tensor([[1, *[4] * 16, 50, 60, 70]])
    expected = llava.network(input_ids=ids, pixel_values=pixels).logits
    text = llava.embed(ids)
    embeddings = torch.cat([text[:, :1], llava.visual_tokens(pixels), text[:, 17:]], dim=1)
    close(llava.logits(llava.run(embeddings)), expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("place", [0, 3, 7], ids=["left", "middle", "right"])
def test_padding_changes_nothing_wherever_it_stands(llava, rows, place, bidirectional):
    junk = 9 * torch.ones(len(rows), 2, llava.width)
    padded = torch.cat([rows[:, :place], junk, rows[:, place:]], dim=1)
    mask = torch.ones(padded.shape[:2], dtype=torch.bool)
    mask[:, place : place + 2] = False
    outputs = llava.run(padded, mask, bidirectional=bidirectional)
    assert outputs.isfinite().all()
    close(outputs[mask].view_as(rows), llava.run(rows, bidirectional=bidirectional))


def test_a_full_mask_is_no_mask(llava, rows):
    mask = torch.ones(rows.shape[:2], dtype=torch.bool)
    close(llava.run(rows, mask), llava.run(rows))
    close(llava.run(rows, mask, bidirectional=True), llava.run(rows, bidirectional=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("trains", [False, True])
def test_only_the_bidirectional_pass_sees_what_follows(llava, rows, masked, trains):
    changed = rows.clone()
    changed[:, -1] += 1
    mask = torch.ones(rows.shape[:2], dtype=torch.bool) if masked else None
    for bidirectional in (False, True):
        outputs = [
            llava.run(one.clone().requires_grad_(trains), mask, bidirectional=bidirectional)[:, :-1]
            for one in (rows, changed)
        ]
        assert torch.allclose(*outputs, atol=1e-5) == (not bidirectional)


def test_training_attention_equals_the_fused_kernel(llava, rows):
    mask = torch.ones(rows.shape[:2], dtype=torch.bool)
    mask[0, :3] = False
    for given in (None, mask):
        for bidirectional in (False, True):
            by_products = llava.run(rows.clone().requires_grad_(), given, bidirectional=bidirectional)
            with torch.no_grad():
                close(by_products, llava.run(rows, given, bidirectional=bidirectional))


def test_pre_norm_tokens_are_what_the_final_norm_takes(llava, rows):
    before, after = llava.run(rows, tokens="pre_norm"), llava.run(rows)
    close(llava.network.model.language_model.norm(before), after)
    assert not torch.allclose(before, after, atol=0.1)


def test_gradient_checkpointing_gives_the_same_gradients(llava, rows):
    gradients = []
    for checkpointing in (False, True):
        leaf = rows.clone().requires_grad_()
        llava.gradient_checkpointing = checkpointing
        llava.run(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    llava.gradient_checkpointing = False
    close(*gradients)


def without_cache(llava, embeddings, mask, max_new_tokens):
    """Greedy answers, a row alone, the whole row anew for every token."""
    answers = []
    for row, real in zip(embeddings, mask, strict=True):
        rows, answer = row[real][None], []
        while len(answer) < max_new_tokens:
            token = int(llava.logits(llava.run(rows)[:, -1]).argmax())
            if token in llava.stop_ids:
                break
            answer.append(token)
            rows = torch.cat([rows, llava.embed(torch.tensor([[token]]))], dim=1)
        answers.append(answer)
    return answers


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_generation_with_a_cache_equals_generation_without(padded):
    llava = tiny_llava(seed=3)
    ids = torch.randint(5, 300, (6, 7), generator=torch.Generator().manual_seed(1))
    embeddings = llava.embed(ids)
    mask = torch.ones(6, 7, dtype=torch.bool)
    if padded:
        for row in range(6):
            mask[row, 7 - row :] = False  # some rows are short
        mask[5, :2] = False
        mask[5, 6] = True  # and one is padded in the middle
    free = without_cache(llava, embeddings, mask, 12)
    assert llava.generate(embeddings, mask if padded else None, max_new_tokens=12) == free
    # Stop some rows early, so that rows leave the batch, and at different times.
    llava.network.generation_config.eos_token_id = [free[0][3], free[1][1], free[3][6]]
    stopped = without_cache(llava, embeddings, mask, 12)
    assert len({len(answer) for answer in stopped}) > 2
    assert llava.generate(embeddings, mask if padded else None, max_new_tokens=12) == stopped


def test_generation_is_that_of_transformers(llava, rows):
    expected = llava.network.generate(
        inputs_embeds=rows[:1], attention_mask=torch.ones(1, 7), max_new_tokens=8, do_sample=False, pad_token_id=3
    )
    assert llava.generate(rows[:1], max_new_tokens=8) == [expected[0].tolist()]


def test_generate_gives_at_most_the_asked_tokens(llava, rows):
    assert [len(answer) for answer in llava.generate(rows, max_new_tokens=1)] == [1, 1, 1]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 16), (16, 40), (1, 900), (20000, 2)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_have_the_models_size_for_every_picture(llava, size, mode):
    assert llava.pixels([Image.new(mode, size)]).shape == (1, 3, 16, 16)


def test_pixels_are_those_of_the_image_processor(llava):
    image = Image.effect_noise((60, 20), 90).convert("RGB")
    expected = llava.image_processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(llava.pixels([image]), expected)


@pytest.mark.parametrize("size", [(60, 20), (20, 61), (33, 32), (16, 16), (12, 300)])
def test_picture_is_padded_to_a_square_as_llava_does_where_the_processor_would_crop(llava, tmp_path, size):
    clip = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    llava.save(tmp_path)
    clip.save_pretrained(tmp_path)  # as the LLaVAs of the hub have it
    image = Image.effect_noise(size, 90).convert("RGB")
    expected = clip(expand2square(image, (122, 116, 104)), return_tensors="pt")["pixel_values"]
    padding = Llava.from_folder(tmp_path)
    assert torch.equal(padding.pixels([image]), expected)
    assert (size == (16, 16)) == torch.equal(clip(image, return_tensors="pt")["pixel_values"], expected)
    padding.save(tmp_path)  # and says so: transformers' own does the same then
    assert torch.equal(Llava.from_folder(tmp_path).pixels([image]), expected)
    own = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(own(image, return_tensors="pt")["pixel_values"], expected)


def test_a_very_long_picture_is_padded_whole(llava):
    """A square of 20,000 pixels a side would take 1.2 GB; both ends are still there, and the middle."""
    llava.image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_pad=True
    )
    image = Image.new("RGB", (20_000, 3_000), "black")
    for left in (0, 7_500, 17_500):
        image.paste("white", (left, 0, left + 2_500, 3_000))
    row = llava.pixels([image])[0, 0, 8]
    assert (row > row.mean()).nonzero().flatten().tolist() == [0, 1, 6, 7, 14, 15]


def expand2square(image, colour):
    """LLaVA's, of its mm_utils.py."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, (0, (width - height) // 2) if width > height else ((height - width) // 2, 0))
    return square


def test_processor_that_does_not_crop_is_left_as_it_is(llava, tmp_path):
    square = {"height": 16, "width": 16}
    llava.save(tmp_path)
    CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False).save_pretrained(tmp_path)
    said = (tmp_path / "preprocessor_config.json").read_bytes()
    image = Image.effect_noise((60, 20), 90).convert("RGB")
    squeezed = CLIPImageProcessorPil(size=square, do_center_crop=False)(image, return_tensors="pt")["pixel_values"]
    stretching = Llava.from_folder(tmp_path)
    assert torch.equal(stretching.pixels([image]), squeezed)
    stretching.save(tmp_path)
    assert (tmp_path / "preprocessor_config.json").read_bytes() == said


def test_a_tower_whose_class_token_is_read_is_refused(llava, tmp_path):
    llava.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vision_feature_select_strategy": "full"}))
    with pytest.raises(ModelError, match=r"reads its tower's class token with the patches; take a LLaVA-1.5 model"):
        Llava.from_folder(tmp_path)


def test_texts_are_neither_padded_nor_cut_whatever_the_tokenizer_file_asks_for(llava, tmp_path):
    turns = [("what is at the top left ?", "a fox on a red background")]
    expected = encode_conversation(llava.tokenizer, TEMPLATES["vicuna_v1"], turns, has_image=True)
    llava.save(tmp_path)
    for most in (5, 999):
        baked = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        baked.enable_truncation(most)
        baked.enable_padding(length=64, pad_id=3, pad_token="<pad>")
        baked.save(str(tmp_path / "tokenizer.json"))
        again = Llava.from_folder(tmp_path).tokenizer
        assert encode_conversation(again, TEMPLATES["vicuna_v1"], turns, has_image=True) == expected


def test_prepared_pictures_are_float32_in_host_memory_whatever_the_model_is(llava):
    images = [Image.effect_noise((60, 20), 90).convert("RGB")]
    expected = llava.prepared(images)
    elsewhere = tiny_llava(torch.bfloat16).to("meta")
    assert torch.equal(elsewhere.prepared(images), expected)
    assert (elsewhere.pixels(images).dtype, elsewhere.pixels(images).device.type) == (torch.bfloat16, "meta")


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_pixels_come_in_order_however_many_threads_take_part(llava, monkeypatch, threads):
    images = [Image.effect_noise((20 + 7 * i, 60 - 5 * i), 90).convert("RGB") for i in range(7)]
    expected = torch.cat([llava.image_processor(image, return_tensors="pt")["pixel_values"] for image in images])
    together = threading.Barrier(threads if threads < 7 else 7, timeout=30)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    prepared = Llava._prepared

    def at_once(self, part):
        together.wait()
        return prepared(self, part)

    monkeypatch.setattr(Llava, "_prepared", at_once)
    assert torch.equal(llava.pixels(images), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by torch.compile itself
def test_compiled_once_for_rows_of_any_length(rows):
    from torch._dynamo.testing import CompileCounter

    llava, counter = tiny_llava(), CompileCounter()
    llava.compile(backend=counter, dynamic=False)
    torch._dynamo.reset()
    for length in range(5, 15):
        longer = rows.repeat(1, 3, 1)[:2, :length].clone().requires_grad_()
        assert llava.run(longer).shape == longer.shape
    assert counter.frame_count == 1


def test_parts_are_the_whole_base(llava):
    parts = [llava.part(name) for name in ("vision", "projector", "language")]
    assert sum(len(part) for part in parts) == len(list(llava.network.parameters()))
    assert len({id(parameter) for part in parts for parameter in part}) == len(list(llava.network.parameters()))


def test_another_attention_is_refused(rows):
    llava = tiny_llava()
    llava.network.set_attn_implementation("eager")
    with pytest.raises(AssertionError, match="eager attention is not causal"):
        llava.run(rows)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path, rows):
    llava = tiny_llava()
    llava.save(tmp_path / "base")
    again = Llava.from_folder(tmp_path / "base")
    assert torch.equal(again.run(rows), llava.run(rows))
    assert again.tokenizer("a fox").input_ids == llava.tokenizer("a fox").input_ids
    llava.save(tmp_path / "half", torch.bfloat16)
    assert Llava.from_folder(tmp_path / "half", torch.bfloat16).dtype == torch.bfloat16
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "base")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_folder_that_is_no_llava_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded as a LLaVA"):
        Llava.from_folder(tmp_path)


def test_missing_weights_are_a_model_error(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_llava().save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(weights) if "lm_head" in name)
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="lacks weights of a LLaVA, such as lm_head"):
        Llava.from_folder(tmp_path)


def test_independent_turns_give_what_each_turn_gives_alone():
    llava = tiny_llava(torch.float64)
    shared, first, second = (torch.randn(1, length, llava.width, dtype=torch.float64) for length in (3, 4, 5))
    turns = torch.tensor([[0] * 3 + [1] * 4 + [2] * 5])
    allowed, positions = independent_turns(turns)
    together = llava.run(torch.cat([shared, first, second], dim=1), positions=positions, allowed=allowed)
    close(together[:, 3:7], llava.run(torch.cat([shared, first], dim=1))[:, 3:])
    close(together[:, 7:], llava.run(torch.cat([shared, second], dim=1))[:, 3:])
    assert not torch.allclose(together[:, 7:], llava.run(torch.cat([shared, first, second], dim=1))[:, 7:])
