from pathlib import Path

import pytest
import torch
from tiny import tiny_compressor, tiny_llava, tiny_pixels, tiny_tokens

from fwd2bot.adapters import StageLinear, adapter_names
from fwd2bot.checkpoint import load_model, save_model
from fwd2bot.compressors import base
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.compressors.catalogue import CATALOGUE, make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import TEMPLATES, encode_conversation
from fwd2bot.errors import InputError
from fwd2bot.losses import autoregressive_loss
from fwd2bot.model import Fwd2Bot

TEXTS = ["a fox on a red background", "stars", "how many stars are there ?"]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def batch_of(compressor, turns, image_index=None, has_image=True):
    tokenizer, template = compressor.llava.tokenizer, TEMPLATES[compressor.config.template]
    encoded = [encode_conversation(tokenizer, template, one, has_image) for one in turns]
    return AnswerBatch.collate(encoded, tokenizer.pad_token_id, image_index)


TURNS = [[("what is it ?", "a fox")], [("how many ?", "2"), ("where ?", "at the top left")]]


@pytest.mark.parametrize("name", CATALOGUE)
class TestContract:
    """What every entry of the catalogue keeps."""

    def test_gives_the_tokens_it_offers(self, name):
        compressor = tiny_compressor(name)
        for count in compressor.token_counts:
            tokens = tiny_tokens(compressor, tiny_pixels(3), num_tokens=count)
            assert tokens.shape == (3, compressor.rows_of(count), compressor.llava.width)
            assert tokens.dtype == compressor.llava.dtype
            assert tokens.isfinite().all()
        assert tiny_tokens(compressor, tiny_pixels(1)).shape[1] == compressor.rows_of(compressor.num_tokens)
        assert compressor.num_tokens == compressor.token_counts[-1]
        rows = compressor.rows_a_layer(tokens)
        assert not compressor.storable or compressor.rows_of() == compressor.num_tokens == tokens.shape[1] == rows

    def test_every_number_of_tokens_that_the_catalogue_tells(self, name):
        method, llava, pixels = CATALOGUE[name], tiny_llava(), tiny_pixels(2)
        for count in method.counts(llava.grid) if method.counts else (1, 3, 20):
            config = CompressorConfig(compressor=name, num_tokens=count, adapters="none", prompt="sum up")
            compressor = make_compressor(llava, config)
            tokens = tiny_tokens(compressor, pixels)
            assert tokens.shape == (2, compressor.rows_of(), llava.width)
            assert tokens.isfinite().all()

    def test_is_what_the_catalogue_tells(self, name):
        compressor, method = tiny_compressor(name), CATALOGUE[name]
        assert method.storable == (not compressor.inside and not method.needs_question)
        assert method.embeds_text == (type(compressor).compress_text is not Compressor.compress_text)
        # all counts, stages, vectors
        by_training = compressor.every_count or name == "visual_context_compressor" or not method.answers
        assert method.trained == bool(compressor.added_parameters() or by_training)

    def test_half_precision(self, name):
        compressor = tiny_compressor(name, torch.bfloat16)
        tokens = tiny_tokens(compressor, tiny_pixels(2, torch.bfloat16))
        assert tokens.dtype == torch.bfloat16
        assert tokens.isfinite().all()
        assert compressor.answer_loss(tokens, batch_of(compressor, TURNS)).isfinite()

    def test_trains_under_autocast(self, name):
        compressor = tiny_compressor(name)
        trained = compressor.trainable()
        with torch.autocast("cpu", torch.bfloat16):
            loss = compressor.answer_loss(tiny_tokens(compressor, tiny_pixels(2)), batch_of(compressor, TURNS))
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in trained if parameter.grad is not None)

    def test_refuses_other_numbers_of_tokens(self, name):
        with pytest.raises(InputError, match="tokens an image, not 3"):
            tiny_compressor(name).compress(tiny_pixels(1), num_tokens=3)

    def test_gives_the_same_again_alone_and_in_a_batch(self, name):
        compressor, pixels = tiny_compressor(name), tiny_pixels(3)
        tokens = tiny_tokens(compressor, pixels)
        assert torch.equal(tiny_tokens(compressor, pixels), tokens)
        for row in range(3):
            close(tiny_tokens(compressor, pixels[row : row + 1]), tokens[row : row + 1])
        assert not torch.allclose(tokens[0], tokens[1], atol=1e-3)

    def test_sees_the_question_where_the_catalogue_says_so(self, name):
        compressor, pixels = tiny_compressor(name), tiny_pixels(2)
        first, second = (compressor.compress(pixels, [text] * 2) for text in ("what is it ?", "how many ?"))
        sees = compressor.inside and compressor.reads_question
        assert CATALOGUE[name].needs_question == (sees or not torch.equal(first, second))

    def test_answers_in_the_making_and_attention_are_of_all_rows_or_refused(self, name):
        model = Fwd2Bot(tiny_compressor(name))
        if not model.compressor.inside:
            assert len(model.running()) == 0
            return
        with pytest.raises(InputError, match=f"{name} reduces while it answers"):
            model.running()
        with pytest.raises(InputError, match=f"{name} reduces while it answers"):
            model.attention(model.compressor.compress(tiny_pixels(1))[0], "what is it ?")

    def test_every_trained_parameter_has_a_gradient(self, name):
        compressor = tiny_compressor(name)
        trained = compressor.trainable()
        tokens = tiny_tokens(compressor, tiny_pixels(2))
        loss = compressor.answer_loss(tokens, batch_of(compressor, TURNS))
        if compressor.embeds_text:
            loss = loss + compressor.embed_rows(tokens).sum() + compressor.compress_text(TEXTS).sum()
        loss.backward()
        for parameter in trained:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0

    def test_the_loss_is_that_of_all_logits(self, name):
        compressor = tiny_compressor(name)
        tokens, batch = tiny_tokens(compressor, tiny_pixels(2)), batch_of(compressor, TURNS)
        logits = compressor.answer_logits(tokens, batch)[:, :-1].flatten(0, 1)
        expected = autoregressive_loss(logits, batch.labels[:, 1:].flatten())
        close(compressor.answer_loss(tokens, batch), expected)

    def test_answers_the_same_alone_and_in_a_batch(self, name):
        compressor = tiny_compressor(name, layers=4)
        tokens, batch = tiny_tokens(compressor, tiny_pixels(2)), batch_of(compressor, TURNS)
        together = compressor.answer_logits(tokens, batch)
        asked = [[("what ?", None)], [("where is the red fox ?", None)]]
        answers = compressor.generate(tokens, batch_of(compressor, asked), max_new_tokens=6)
        for row in range(2):
            alone = batch_of(compressor, TURNS[row : row + 1])
            logits = compressor.answer_logits(tokens[row : row + 1], alone)
            close(together[row : row + 1, : alone.ids.shape[1]], logits)
            prompt = batch_of(compressor, asked[row : row + 1])
            assert compressor.generate(tokens[row : row + 1], prompt, max_new_tokens=6) == answers[row : row + 1]

    def test_text_and_rows_give_vectors_of_one_width(self, name):
        compressor = tiny_compressor(name)
        assert compressor.embed_rows(tiny_tokens(compressor, tiny_pixels(2))).shape == (2, compressor.llava.width)
        if not compressor.embeds_text:
            pytest.skip(f"{name} does not embed text")
        tokens = compressor.compress_text(TEXTS)
        for row, text in enumerate(TEXTS):  # alone nothing is padded
            close(compressor.compress_text([text]), tokens[row : row + 1])

    def test_comes_back_from_its_folder(self, name, tmp_path):
        compressor, pixels = tiny_compressor(name), tiny_pixels(2)
        save_model(tmp_path, compressor)
        again = load_model(tmp_path)
        assert again.config == compressor.config
        assert torch.equal(tiny_tokens(again, pixels), tiny_tokens(compressor, pixels))
        batch = batch_of(compressor, TURNS)
        tokens = tiny_tokens(compressor, pixels)
        assert torch.equal(again.answer_logits(tokens, batch), compressor.answer_logits(tokens, batch))

    def test_the_first_tokens_are_those_of_fewer_if_it_says_so(self, name):
        if not tiny_compressor(name).cuttable:
            pytest.skip(f"rows of {name} cannot be cut")
        compressor = tiny_compressor(name, token_counts=(1, 4))
        close(tiny_tokens(compressor, tiny_pixels(2), num_tokens=1), tiny_tokens(compressor, tiny_pixels(2))[:, :1])


def test_the_catalogue_is_the_files():
    files = {path.stem for path in Path(base.__file__).parent.glob("*.py")}
    assert files - {"__init__", "base", "catalogue", "config", "grid", "inside", "tower"} == set(CATALOGUE)


def test_an_unknown_compressor_names_those_there_are():
    with pytest.raises(InputError, match="no compressor 'pru_merge'; the compressors are fwd2bot, identity"):
        make_compressor(tiny_llava(), CompressorConfig(compressor="pru_merge"))


def test_prefixes_of_a_row_are_the_shorter_rows_for_pictures_and_texts():
    compressor = tiny_compressor(token_counts=(1, 2, 3, 4))
    pixels = tiny_pixels(2)
    for count in (1, 2, 3):
        close(compressor.compress(pixels, num_tokens=count), compressor.compress(pixels)[:, :count])
        close(compressor.compress_text(TEXTS, num_tokens=count), compressor.compress_text(TEXTS)[:, :count])


def test_bidirectional_pass_one_mixes_all_summary_tokens():
    compressor = tiny_compressor(attention="bidirectional")
    assert not compressor.cuttable
    pixels, before = tiny_pixels(1), tiny_compressor(attention="bidirectional").compress(tiny_pixels(1))
    with torch.no_grad():
        compressor.summary_embeddings[-1] += 1
    changed = (compressor.compress(pixels) - before).abs().amax(dim=-1)[0]
    assert (changed > 1e-3).all()
    causal, other = tiny_compressor(), tiny_compressor()
    with torch.no_grad():
        other.summary_embeddings[-1] += 1
    changed = (causal.compress(pixels) - other.compress(pixels)).abs().amax(dim=-1)[0]
    assert (changed[:-1] < 1e-5).all()
    assert changed[-1] > 1e-3


def test_bidirectional_attention_stays_in_pass_one():
    causal, both = tiny_compressor(), tiny_compressor(attention="bidirectional")
    tokens, batch = causal.compress(tiny_pixels(2)), batch_of(causal, TURNS)
    assert torch.equal(causal.answer_logits(tokens, batch), both.answer_logits(tokens, batch))


def test_pictures_and_texts_go_one_way(monkeypatch):
    """Given the same content, the two branches give the same tokens."""
    compressor = tiny_compressor()
    ids = compressor.llava.tokenizer(TEXTS[0], add_special_tokens=False, return_tensors="pt").input_ids
    monkeypatch.setattr(compressor.llava, "visual_tokens", lambda pixels: compressor.llava.embed(ids))
    close(compressor.compress(tiny_pixels(1)), compressor.compress_text(TEXTS[:1]))


def test_pass_one_runs_over_bos_content_prompt_and_summary_embeddings():
    compressor = tiny_compressor()
    llava, pixels = compressor.llava, tiny_pixels(2)
    prompt = llava.tokenizer("sum up", add_special_tokens=False, return_tensors="pt").input_ids
    rows = torch.cat(
        [
            llava.embed(torch.tensor([[1], [1]])),
            llava.visual_tokens(pixels),
            llava.embed(prompt).expand(2, -1, -1),
            compressor.summary_embeddings.expand(2, -1, -1),
        ],
        dim=1,
    )
    close(compressor.compress(pixels), llava.run(rows, stage="compress")[:, -4:])
    close(
        tiny_compressor(tokens="pre_norm").compress(pixels),
        llava.run(rows, stage="compress", tokens="pre_norm")[:, -4:],
    )


def test_without_a_prompt_nothing_stands_before_the_summary_embeddings():
    compressor, pixels = tiny_compressor(prompt=""), tiny_pixels(1)
    llava = compressor.llava
    bos = llava.embed(torch.tensor([llava.tokenizer.bos_token_id]))[None]
    rows = torch.cat([bos, llava.visual_tokens(pixels), compressor.summary_embeddings[None]], dim=1)
    close(compressor.compress(pixels), llava.run(rows, stage="compress")[:, -4:])
    assert compressor.compress_text(TEXTS).isfinite().all()


def test_the_text_branch_can_have_a_prompt_of_its_own():
    same, other = tiny_compressor(text_prompt="sum up"), tiny_compressor(text_prompt="a red fox")
    close(same.compress_text(TEXTS), tiny_compressor().compress_text(TEXTS))
    assert not torch.allclose(other.compress_text(TEXTS), same.compress_text(TEXTS), atol=1e-3)
    assert torch.equal(other.compress(tiny_pixels(1)), same.compress(tiny_pixels(1)))


@pytest.mark.parametrize(
    ("kind", "names"), [("stage", ["compress", "generate"]), ("single", ["shared"]), ("full", []), ("none", [])]
)
def test_kinds_of_adapters(kind, names):
    compressor = tiny_compressor(adapters=kind)
    layers = [module for module in compressor.modules() if isinstance(module, StageLinear)]
    assert all(list(layer.lora) == names for layer in layers)
    assert bool(layers) == bool(names)
    language = {id(parameter) for parameter in compressor.llava.part("language")}
    trained = {id(parameter) for parameter in compressor.trainable()}
    assert (language <= trained) == (kind == "full")
    rows = torch.randn(1, 4, 32)
    passes = [compressor.llava.run(rows, stage=stage) for stage in ("compress", "generate")]
    assert torch.equal(*passes) == (kind != "stage")


def test_token_scale_acts_where_the_tokens_enter_pass_two():
    plain, scaled = tiny_compressor(), tiny_compressor(token_scale=0.5)
    tokens, batch = plain.compress(tiny_pixels(2)), batch_of(plain, TURNS)
    assert torch.equal(scaled.compress(tiny_pixels(2)), tokens)
    assert torch.equal(scaled.embed_rows(tokens), plain.embed_rows(tokens))
    close(scaled.answer_logits(2 * tokens, batch), plain.answer_logits(tokens, batch))


def test_conversations_may_share_a_picture():
    compressor = tiny_compressor()
    tokens = compressor.compress(tiny_pixels(3))
    shared = compressor.answer_logits(tokens, batch_of(compressor, TURNS, image_index=[2, 0]))
    assert torch.equal(shared, compressor.answer_logits(tokens[[2, 0]], batch_of(compressor, TURNS)))


def test_loss_of_text_alone_is_that_of_transformers():
    compressor = tiny_compressor("identity", adapters="none")
    batch = batch_of(compressor, TURNS[:1], has_image=False)
    expected = compressor.llava.network(input_ids=batch.ids, labels=batch.labels).loss
    close(compressor.answer_loss(None, batch), expected)


def test_identity_is_the_llava_itself():
    compressor = tiny_compressor("identity", adapters="none", template="vicuna_v1")
    pixels, batch = tiny_pixels(1), batch_of(compressor, TURNS[:1])
    place = batch.image_position
    ids = torch.cat([batch.ids[:, :place], torch.full((1, 16), 4), batch.ids[:, place:]], dim=1)
    labels = torch.cat([batch.labels[:, :place], torch.full((1, 16), -100), batch.labels[:, place:]], dim=1)
    expected = compressor.llava.network(input_ids=ids, pixel_values=pixels, labels=labels)
    close(compressor.answer_loss(compressor.compress(pixels), batch), expected.loss)
    logits = compressor.answer_logits(compressor.compress(pixels), batch)
    close(logits[:, place:], expected.logits[:, place + 16 :])
    close(logits[:, place - 1], expected.logits[:, place + 15])


def test_padding_of_conversations_changes_nothing():
    compressor = tiny_compressor()
    tokens, batch = compressor.compress(tiny_pixels(2)), batch_of(compressor, TURNS)
    alone = batch_of(compressor, TURNS[:1])
    together = compressor.answer_logits(tokens, batch)[:1, : alone.ids.shape[1]]
    close(together, compressor.answer_logits(tokens[:1], alone))


def test_average_pool_takes_means_over_squares_of_the_grid():
    compressor = tiny_compressor("average_pool")
    grid = compressor.llava.visual_tokens(tiny_pixels(1))[0].view(4, 4, -1)
    tokens = compressor.compress(tiny_pixels(1))[0]
    close(tokens[1], grid[0:2, 2:4].flatten(0, 1).mean(0))
    close(tokens[2], grid[2:4, 0:2].flatten(0, 1).mean(0))


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("average_pool", 8, "1, 4, 9, 16"),
        ("token_packer", 9, "1, 4, 16"),
        ("prumerge", 1, "2 to 16"),
        ("visionzip", 17, "2 to 16"),
    ],
)
def test_a_number_of_tokens_that_a_method_cannot_give_is_an_input_error(name, count, told):
    with pytest.raises(InputError, match=f"{name} gives {told} tokens on this base's grid of 4 x 4, not {count}"):
        tiny_compressor(name, num_tokens=count)


def test_numbers_of_tokens_on_the_grid_of_llava():
    told = {name: method.token_counts(24) for name, method in CATALOGUE.items()}
    assert told["token_packer"] == [1, 4, 9, 16, 36, 64, 144, 576]
    assert told["matryoshka_query"] == "1 to 256"
    assert told["prumerge"] == "2 to 576"
    assert told["identity"] == [576]
    assert told["fwd2bot"] == "any"


def test_compress_only_reads_with_the_language_model_as_it_is():
    compressor, whole = tiny_compressor("compress_only"), tiny_compressor()
    assert adapter_names(compressor) == ["compress"]
    with torch.no_grad():
        for name, parameter in compressor.own_parameters().items():
            parameter.copy_(whole.own_parameters()[name])
    tokens = compressor.compress(tiny_pixels(2))
    assert torch.equal(tokens, whole.compress(tiny_pixels(2)))
    rows = torch.randn(1, 4, 32)
    assert torch.equal(compressor.llava.run(rows, stage="generate"), compressor.llava.run(rows))
    with pytest.raises(InputError, match="keeps the language model as it is; take adapters stage or none, not full"):
        tiny_compressor("compress_only", adapters="full")


def test_single_forward_compresses_in_the_tower():
    compressor, pixels = tiny_compressor("single_forward"), tiny_pixels(2)
    before = compressor.compress(pixels)
    with torch.no_grad():
        for parameter in compressor.llava.part("language"):
            parameter.zero_()
    assert torch.equal(compressor.compress(pixels), before)
    with torch.no_grad():
        compressor.tower_embeddings[0].neg_()
    assert not torch.allclose(compressor.compress(pixels), before, atol=1e-3)


def test_hidden_tokens_change_the_answer_as_if_they_said_nothing():
    compressor = tiny_compressor(stir=True)
    tokens, prompts = compressor.compress(tiny_pixels(2)), batch_of(compressor, [[("what ?", None)], [("a b c", None)]])
    keep = torch.tensor([True, False, True, True])
    changed = tokens.clone()
    changed[:, 1] = 7.0  # what is hidden does not matter
    hidden = compressor.generate(tokens, prompts, max_new_tokens=6, keep=keep)
    assert compressor.generate(changed, prompts, max_new_tokens=6, keep=keep) == hidden
    assert compressor.generate(changed, prompts, max_new_tokens=6) != compressor.generate(
        tokens, prompts, max_new_tokens=6
    )
    everything = compressor.generate(tokens, prompts, max_new_tokens=6, keep=torch.ones(4, dtype=torch.bool))
    assert everything == compressor.generate(tokens, prompts, max_new_tokens=6)


def test_hidden_tokens_keep_their_places(monkeypatch):
    compressor, seen = tiny_compressor(), {}
    monkeypatch.setattr(
        compressor.llava, "generate", lambda rows, mask, stage, **options: seen.update(options, mask=mask)
    )
    prompts = batch_of(compressor, [[("what ?", None)]])
    compressor.generate(compressor.compress(tiny_pixels(1)), prompts, keep=torch.tensor([True, False, False, True]))
    assert seen["mask"][0, :6].tolist() == [True, True, False, False, True, True]
    assert seen["positions"][0].tolist() == list(range(prompts.ids.shape[1] + 4))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"adapters": "lora"}, "adapters is 'lora'; it must be one of stage, single, full, none"),
        ({"attention": "both"}, "attention is 'both'"),
        ({"tokens": "last"}, "tokens is 'last'"),
        ({"initial_embeddings": "zero"}, "initial_embeddings is 'zero'"),
        ({"num_tokens": 0}, "num_tokens is 0; it must be above 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"rank": -1}, "rank is -1"),
        ({"num_tokens": "16"}, "num_tokens is '16'; it must be a whole number"),
        ({"alpha": True}, "alpha is True; it must be a number"),
        ({"prompt": None}, "prompt is None; it must be a text"),
        ({"text_prompt": 1}, "text_prompt is 1; it must be a text"),
        ({"schedule": [2, 16]}, r"schedule is \[2, 16\]; it must be a list of pairs of whole numbers"),
        ({"schedule": [[2, 8]]}, r"schedule must end with num_tokens \(16\) rows"),
        ({"token_counts": 16}, "token_counts is 16; it must be a list of whole numbers"),
        ({"token_counts": (4, 32)}, r"token_counts \(4, 32\) must end with num_tokens \(16\)"),
        ({"token_counts": (4, 16), "attention": "bidirectional"}, "one number of tokens only"),
        ({"template": "chatml"}, "no chat template 'chatml'"),
        ({"ranks": 3}, "'ranks' is no setting of a compressor"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_an_input_error(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        CompressorConfig.from_dict(settings)


def test_settings_survive_a_dictionary():
    config = CompressorConfig(num_tokens=8, token_counts=(8, 2, 4), prompt="in short", schedule=((1, 9), (2, 8)))
    assert CompressorConfig.from_dict(config.to_dict()) == config
    assert config.token_counts == (2, 4, 8)


def test_a_text_longer_than_the_context_is_an_input_error():
    with pytest.raises(InputError, match=r"text of \d+ tokens is too long; this model can embed \d+ at once"):
        tiny_compressor().compress_text(["fox " * 300])


def test_initial_summary_embeddings():
    llava = tiny_llava()
    eos = llava.network.get_input_embeddings().weight[2]
    assert tiny_compressor(stir=False).summary_embeddings.eq(eos).all()
    random = tiny_compressor(stir=False, initial_embeddings="random").summary_embeddings
    assert not random[0].eq(random[1]).any()


def test_unknown_parts_are_an_input_error():
    with pytest.raises(InputError, match="'head' is no part of the base; the parts are vision, projector, language"):
        tiny_compressor().trainable(["head"])
