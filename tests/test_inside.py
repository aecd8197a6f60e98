"""Methods that reduce the image's rows inside the language model, against their definitions."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_compressors import TURNS, batch_of, close
from tiny import tiny_compressor, tiny_llava, tiny_pixels

from fwd2bot.attention import taken
from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.illava import merged
from fwd2bot.compressors.inside import prompt_ends
from fwd2bot.compressors.text_interaction import inflection
from fwd2bot.errors import InputError
from fwd2bot.export import export_model
from fwd2bot.training.stage import turn_numbers

NAMES = ("fastv", "v2drop", "illava", "text_interaction", "visual_context_compressor")
QUESTIONS = [[("what ?", None)], [("where is the red fox ?", None)], [("how many stars are there ?", None)]]


def deep(name, **settings):
    """Of six layers, as the bundled model has."""
    return tiny_compressor(name, torch.float64, layers=6, **settings)


def seen(hidden, previous=None, positions=None):
    """What a method may look at, with scores ranked as they are."""
    return SimpleNamespace(
        hidden=hidden,
        previous=previous,
        positions=positions,
        ranked=lambda scores: scores.argsort(dim=1, descending=True, stable=True),
    )


@pytest.fixture(scope="module")
def large():
    """32 layers and 576 visual tokens, as the methods are published for."""
    return tiny_llava(layers=32, image=96)


@pytest.mark.parametrize(
    ("name", "count", "counts", "mean"),
    [
        ("fastv", 288, {2: 288}, 306),
        ("v2drop", 1, {3: 288, 17: 144, 22: 1}, 202.8125),
        ("visual_context_compressor", 72, {2: 72}, 103.5),
        ("text_interaction", 127, {2: 127}, (2 * 576 + 30 * 127) / 32),
        ("illava", 200, {8: 200}, (8 * 285 + 24 * 200) / 32),  # 576 * 368 / 729 = 291 go in the tower
    ],
)
def test_schedules_are_those_published(large, name, count, counts, mean):
    compressor = make_compressor(large, CompressorConfig(compressor=name, num_tokens=count, adapters="none"))
    assert compressor.counts == counts
    assert compressor.rows_a_layer(torch.ones(2, compressor.rows_of(), 1)) == mean
    assert compressor.num_tokens == count


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("fastv", {1: 2}),
        ("v2drop", {1: 8, 3: 4, 4: 2}),
        ("illava", {2: 2}),
        ("text_interaction", {1: 2}),
        ("visual_context_compressor", {1: 2}),
    ],
)
def test_schedules_are_scaled_to_the_model(name, counts):
    assert deep(name, num_tokens=2).counts == counts


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_generation_with_a_cache_equals_teacher_forcing(name):
    """Each next token is what the whole row, run anew, says; the prompt's end stays where it was."""
    compressor, tokens = deep(name, num_tokens=2), None
    tokens = compressor.compress(tiny_pixels(3))
    given = compressor.generate(tokens, batch_of(compressor, QUESTIONS), max_new_tokens=6)
    assert sum(map(len, given)) > 6
    for row, answer in enumerate(given):
        prompt = batch_of(compressor, QUESTIONS[row : row + 1])
        ids = torch.cat([prompt.ids, torch.tensor([answer], dtype=torch.long)], dim=1)
        labels = ids.clone()
        labels[:, : prompt.ids.shape[1]] = -100
        logits = compressor.answer_logits(tokens[row : row + 1], replace(prompt, ids=ids, labels=labels, mask=None))
        said = logits[0, prompt.ids.shape[1] - 1 :].argmax(-1).tolist()
        assert said[: len(answer)] == answer
        assert len(answer) == 6 or said[len(answer)] in compressor.llava.stop_ids


@pytest.mark.parametrize("name", NAMES)
def test_independent_turns_are_reduced_as_if_each_were_alone(name):
    compressor, turns = deep(name), [("what is it ?", "a fox"), ("how many stars are there ?", "2")]
    tokens, batch = compressor.compress(tiny_pixels(2)), batch_of(compressor, [turns, TURNS[0]], image_index=[1, 0])
    shared = torch.full((2, 1), batch.image_position)
    packed = replace(batch, turns=turn_numbers(batch.labels, compressor.llava.tokenizer.eos_token_id, shared))
    logits = compressor.answer_logits(tokens, packed)
    for row, number, turn in [(0, 1, turns[0]), (0, 2, turns[1]), (1, 1, TURNS[0][0])]:
        alone = batch_of(compressor, [[turn]], image_index=[1 - row])
        own = packed.turns[row] == number
        close(logits[row][own][: int((alone.ids != 3).sum())], compressor.answer_logits(tokens, alone)[0, 1:])


@pytest.mark.parametrize("name", NAMES)
def test_prompts_that_end_with_the_image_are_answered(name):
    compressor = deep(name, num_tokens=1)
    tokens, batch = compressor.compress(tiny_pixels(2)), batch_of(compressor, TURNS[:1] * 2)
    start, answer = batch.ids[:, : batch.image_position], batch.ids[:, 8:11]
    spoken = replace(
        batch, ids=torch.cat([start, answer], dim=1), labels=torch.cat([start * 0 - 100, answer], dim=1), mask=None
    )
    assert prompt_ends(spoken).tolist() == [0, 0]
    first = compressor.answer_logits(tokens, spoken)[:, 0].argmax(-1).tolist()
    prompt = replace(batch, ids=start, labels=start * 0 - 100, mask=None)
    assert [one[:1] for one in compressor.generate(tokens, prompt, max_new_tokens=1)] == [[token] for token in first]


def test_the_end_of_a_prompt_is_before_the_first_label():
    compressor = deep("fastv")
    batch = batch_of(compressor, TURNS)
    labelled = [row.index(next(label for label in row if label != -100)) for row in batch.labels.tolist()]
    assert prompt_ends(batch).tolist() == [place - 1 for place in labelled]
    prompts = batch_of(compressor, QUESTIONS[:2])
    assert prompt_ends(prompts).tolist() == (prompts.mask.sum(dim=1) - 1).tolist()


def run_by_hand(llava, hidden, positions, layers):
    """transformers' own eager layers, with the attention of each."""
    language, length, found = llava.network.model.language_model, hidden.shape[1], []
    mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype).triu(1)[None, None]
    rope = language.rotary_emb(hidden, positions)
    for layer in layers:
        attended = layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rope, attention_mask=mask)
        found.append(attended[1][0].mean(dim=0))
        hidden = hidden + attended[0]
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden, found


@pytest.mark.parametrize("name", ["fastv", "visual_context_compressor"])
def test_answers_are_those_of_the_layers_run_by_hand(name):
    compressor = deep(name, adapters="none", schedule=((2, 4),))
    eager = tiny_llava(torch.float64, layers=6).double()
    eager.network.set_attn_implementation("eager")
    layers = eager.network.model.language_model.layers
    tokens = compressor.compress(tiny_pixels(1))
    batch = batch_of(compressor, [[("how many stars are there ?", "2")]])
    (end,) = (prompt_ends(batch) + 16).tolist()
    text = eager.embed(batch.ids)
    hidden, positions = torch.cat([text[:, :1], tokens, text[:, 1:]], dim=1), torch.arange(text.shape[1] + 16)[None]
    hidden, attended = run_by_hand(eager, hidden, positions, layers[:2])
    if name == "fastv":
        chosen = sorted(attended[1][end, 1:17].tolist(), reverse=True)[:4]
        stays = [
            place for place in range(positions.shape[1]) if not 1 <= place < 17 or attended[1][end, place] in chosen
        ]
        hidden, positions = hidden[:, stays], positions[:, stays]
    else:
        pooled = torch.stack([hidden[:, 1 + 4 * run : 5 + 4 * run].mean(dim=1) for run in range(4)], dim=1)
        hidden = torch.cat([hidden[:, :1], pooled, hidden[:, 17:]], dim=1)
        positions = torch.cat([positions[:, :1], torch.tensor([[2, 6, 10, 14]]), positions[:, 17:]], dim=1)
    hidden, _ = run_by_hand(eager, hidden, positions, layers[2:])
    expected = eager.logits(eager.network.model.language_model.norm(hidden))
    close(compressor.answer_logits(tokens, batch)[:, 1:], expected[:, 5:])


def test_fastv_keeps_what_its_own_question_attends_to():
    compressor, kept = deep("fastv"), []
    tokens = compressor.compress(tiny_pixels(1)).expand(3, -1, -1)
    chosen = compressor.keep
    compressor.keep = lambda *given: kept.append(chosen(*given)) or kept[-1]
    compressor.answer_logits(tokens, batch_of(compressor, QUESTIONS))
    places = kept[0].places
    assert places.shape == (3, 4)
    assert torch.equal(places, places.sort(dim=1).values)
    assert len({tuple(row) for row in places.tolist()}) > 1


def test_v2drop_keeps_what_the_layer_changed_most_in_order():
    previous = torch.zeros(1, 4, 2)
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 4.5], [6.0, 0.0], [-1.0, -1.0]]])  # 5, 4.5, 6, 1.4
    compressor = tiny_compressor("v2drop")
    assert compressor.keep(seen(hidden, previous), 2).places.tolist() == [[0, 2]]
    assert compressor.keep(seen(hidden + 9, previous + 9), 3).places.tolist() == [[0, 1, 2]]


def test_illava_gives_the_least_attended_row_the_largest_weight():
    rows = torch.tensor([[[10.0], [20.0], [30.0], [40.0]]])
    kept = merged(rows, torch.tensor([[2, 0, 3, 1]]), 2)
    assert kept.places.tolist() == [[1, 3]]
    assert kept.hidden[0, :, 0].tolist() == [20.0, 25.0]  # (3 * 30 + 2 * 10 + 1 * 40) / 6, where 40 was


def test_illava_merges_in_the_tower(monkeypatch):
    compressor, pixels = tiny_compressor("illava"), tiny_pixels(2)
    assert compressor.merged_in_tower() == {1: 8}  # 16 * 368 / 729, in layer 5 to 8 of 27, of 3
    llava, calls = compressor.llava, []
    block = llava.network.model.vision_tower.encoder.layers[1]
    (entering,) = llava.tower_states(pixels, [1])
    normed = block.layer_norm1(entering)
    attended = entering + block.self_attn(normed)[0]
    eager = tiny_llava()
    eager.network.set_attn_implementation("eager")
    received = eager.network.model.vision_tower(pixels, output_attentions=True).attentions[1].mean(dim=(1, 2))[:, 1:]
    expected = []
    for row, scores in zip(attended, received.tolist(), strict=True):
        lowest = sorted(range(16), key=scores.__getitem__)[:9]
        mean = sum((9 - rank) * row[1 + place] for rank, place in enumerate(lowest)) / 45
        stays = [mean if place == lowest[-1] else row[1 + place] for place in range(16) if place not in lowest[:-1]]
        expected.append(torch.stack([row[0], *stays]))
    hidden = torch.stack(expected)
    hidden = hidden + block.mlp(block.layer_norm2(hidden))
    close(compressor.compress(pixels), llava.project(hidden[:, 1:]))
    monkeypatch.setattr(compressor, "merged_in_tower", lambda: calls.append(1) or {})
    close(compressor.compress(pixels), llava.visual_tokens(pixels))
    assert calls


def test_pooled_rows_take_the_mean_position_rounded_down():
    compressor = tiny_compressor("visual_context_compressor")
    rows = torch.arange(16.0).view(1, 16, 1)
    kept = compressor.keep(seen(rows, positions=torch.arange(35, 51)[None]), 2)
    assert kept.positions.tolist() == [[38, 46]]  # 35..42 -> 35 + 3
    assert kept.hidden[0, :, 0].tolist() == [3.5, 11.5]
    assert kept.places.tolist() == [[0, 8]]


def test_stages_of_pooling_follow_one_another_in_training_only():
    stages = ((1, 2), (1, 8), (3, 8), (3, 16))
    compressor = deep("visual_context_compressor", num_tokens=16, schedule=stages)
    assert compressor.counts == {3: 16}
    assert compressor.rows_a_layer(torch.ones(2, 16, 1)) == 16
    compressor.train()
    found = []
    for step in range(8):
        compressor.progress = step / 8
        found.append(dict(compressor.counts))
    assert found == [{layer: count} for layer, count in stages for _ in range(2)]
    compressor.progress = 1.0
    assert compressor.counts == {3: 16}


def test_inflection_point_is_farthest_below_the_line_between_the_ends():
    curves = torch.tensor([[10.0, 3.0, 2.0, 1.0, 0.0], [10.0, 9.0, 8.0, 1.0, 0.0]])
    assert inflection(curves).tolist() == [1, 3]  # line 10, 7.5, 5, 2.5, 0


def test_rows_that_never_enter_are_none_of_a_layer():
    """One layer before the reduction and one behind it: pictures of 3 and of 9 rows, of which 2 stay."""
    compressor = tiny_compressor("text_interaction", num_tokens=2)
    tokens = torch.zeros(2, 16, 32)
    tokens[0, :3], tokens[1, :9] = 1, 1
    assert compressor.rows_a_layer(tokens) == ((3 + 2) / 2 + (9 + 2) / 2) / 2


def test_text_interaction_drops_what_is_unlike_the_class_token():
    compressor, pixels = deep("text_interaction", num_tokens=3), tiny_pixels(2)
    tokens, present = compressor.compress(pixels), compressor.present(compressor.compress(pixels))
    (features,) = compressor.llava.tower_states(pixels, [2])
    close(tokens[present], compressor.llava.visual_tokens(pixels)[present])
    likeness = torch.cosine_similarity(features[:, 1:], features[:, :1], dim=-1)
    for row in range(2):
        count = max(3, int(inflection(likeness[row].sort(descending=True).values[None])))
        assert present[row].sum() == count < 16
        assert likeness[row][present[row]].min() > likeness[row][~present[row]].max()


def test_rows_that_are_not_there_are_as_if_they_had_been_taken_out():
    compressor, pixels = deep("text_interaction", num_tokens=3), tiny_pixels(2)
    tokens = compressor.compress(pixels)
    assert len(set(compressor.present(tokens).sum(dim=1).tolist())) == 2
    batch, asked = batch_of(compressor, TURNS), batch_of(compressor, QUESTIONS[:2])
    logits, answers = compressor.answer_logits(tokens, batch), compressor.generate(tokens, asked, max_new_tokens=5)
    for row in range(2):
        fewer = tokens[row : row + 1, compressor.present(tokens)[row]]
        alone, prompt = batch_of(compressor, TURNS[row : row + 1]), batch_of(compressor, QUESTIONS[row : row + 1])
        close(logits[row : row + 1, : alone.ids.shape[1]], compressor.answer_logits(fewer, alone))
        assert compressor.generate(fewer, prompt, max_new_tokens=5) == answers[row : row + 1]


def test_the_question_of_text_interaction_is_all_text_behind_the_image():
    compressor, scores = deep("text_interaction", num_tokens=3, adapters="none"), []
    eager = tiny_llava(torch.float64, layers=6).double()
    eager.network.set_attn_implementation("eager")
    tokens = compressor.llava.visual_tokens(tiny_pixels(1))
    compressor.keep = lambda seen, _: (
        scores.append(seen.attention(question=True)) or type(compressor).keep(compressor, seen, 3)
    )
    batch = batch_of(compressor, QUESTIONS[1:2])
    compressor.answer_logits(tokens, batch)
    text = eager.embed(batch.ids)
    hidden = torch.cat([text[:, :1], tokens, text[:, 1:]], dim=1)
    _, attended = run_by_hand(
        eager, hidden, torch.arange(hidden.shape[1])[None], eager.network.model.language_model.layers[:1]
    )
    close(scores[0][0], attended[0][17:, 1:17].mean(dim=0))


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("fastv", {"token_counts": (1, 4)}, "fastv gives one number of tokens only"),
        ("fastv", {"schedule": ((2, 4),)}, "layers must rise and stay below 2"),
        ("v2drop", {"schedule": ((1, 2), (1, 4))}, "cannot reduce 16 rows as 1: 2, 1: 4"),
        ("illava", {"num_tokens": 9}, "illava gives 1 to 8 tokens on this base's grid of 4 x 4, not 9"),
        ("illava", {"schedule": ((1, 9), (1, 4))}, "cannot reduce 8 rows as 1: 9, 1: 4"),
        ("visual_context_compressor", {"num_tokens": 3}, "gives 1, 2, 4, 8, 16 tokens on this base's grid"),
        ("visual_context_compressor", {"schedule": ((1, 3), (1, 4))}, "cannot average 16 rows to 3; take a divisor"),
    ],
)
def test_what_does_not_fit_the_model_is_an_input_error(name, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_compressor(name, **settings)


def test_one_layer_is_too_few():
    with pytest.raises(InputError, match="works between layers of the language model, and this one has 1"):
        tiny_compressor("fastv", layers=1)


def test_hiding_tokens_by_hand_is_refused():
    compressor = tiny_compressor("fastv")
    tokens = compressor.compress(tiny_pixels(1))
    with pytest.raises(InputError, match="chooses by itself what it shows"):
        compressor.generate(tokens, batch_of(compressor, QUESTIONS[:1]), keep=torch.ones(16, dtype=torch.bool))


def test_a_model_that_leaves_tokens_out_is_not_exported(tmp_path):
    save_model(tmp_path / "fastv", tiny_compressor("fastv"))
    with pytest.raises(InputError, match="fastv leaves tokens out inside the language model"):
        export_model(tmp_path / "fastv", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_taken_rows_are_each_elements_own():
    assert taken(torch.arange(6).view(2, 3, 1), torch.tensor([[2, 0], [1, 1]]))[..., 0].tolist() == [[2, 0], [4, 4]]


def scored(**scores):
    """As `seen`, of rows 10, 20, 30, 40; what the last token, and what all of the question attended to."""
    given = seen(torch.tensor([[[10.0], [20.0], [30.0], [40.0]]]))
    given.attention = lambda *, question=False: torch.tensor([scores["question" if question else "last"]])
    return given


def test_illava_merges_what_the_last_token_attends_to_least():
    kept = tiny_compressor("illava").keep(scored(last=[0.4, 0.1, 0.3, 0.2], question=[0.1, 0.4, 0.2, 0.3]), 2)
    assert kept.places.tolist() == [[0, 2]]
    assert kept.hidden[0, :, 0].tolist() == [10.0, pytest.approx((3 * 20 + 2 * 40 + 1 * 30) / 6)]


@pytest.mark.parametrize(("name", "places"), [("fastv", [0, 2]), ("text_interaction", [1, 3])])
def test_one_keeps_what_the_last_token_attends_to_and_one_what_all_of_the_question_does(name, places):
    kept = tiny_compressor(name).keep(scored(last=[0.4, 0.1, 0.3, 0.2], question=[0.1, 0.4, 0.2, 0.3]), 2)
    assert kept.places.tolist() == [places]
