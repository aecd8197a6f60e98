"""Questions that join others while these are being answered."""

import pytest
from tiny import tiny_compressor, tiny_pixels

from fwd2bot.answering import Asked
from fwd2bot.errors import InputError
from fwd2bot.model import Fwd2Bot

QUESTIONS = ["what is at the top left ?", "how many ?", "a fox ?", "is there a star on a red background ?"]


@pytest.fixture(scope="module")
def model():
    return Fwd2Bot(tiny_compressor())


@pytest.fixture(scope="module")
def rows(model):
    """(4, K, D)."""
    return model.compressor.compress(tiny_pixels(4))


def asked(model, row, question, **options):
    return Asked(tokens=row, prompt=model.prompt([(question, None)], len(row)), **options)


def test_answers_are_those_of_the_model_whoever_shares_the_batch(model, rows):
    alone = [model.answer(row[None], [question])[0] for row, question in zip(rows, QUESTIONS, strict=True)]
    ids = [
        model.compressor.llava.tokenizer(text, add_special_tokens=False)["input_ids"] for text in alone
    ]  # of the words; how many steps they take
    assert len({len(one) for one in ids}) > 1, "the answers should end at different times"
    running = model.running()
    answers = running.join([asked(model, rows[0], QUESTIONS[0])])
    running.step()
    answers += running.join([asked(model, rows[place].numpy(), QUESTIONS[place]) for place in (1, 2)])
    running.step()
    answers += running.join([asked(model, rows[3], QUESTIONS[3])])
    while len(running):
        running.step()
    assert [running.text(answer) for answer in answers] == alone
    assert {answer.finish for answer in answers} <= {"stop", "length"}


def test_pictures_of_fewer_tokens_join_the_same_batch(model, rows):
    running = model.running()
    answers = running.join([asked(model, rows[0], "how many ?"), asked(model, rows[1, :2], "how many ?")])
    while len(running):
        running.step()
    expected = model.answer(rows[:1], ["how many ?"]) + model.answer(rows[1:2, :2], ["how many ?"])
    assert [running.text(answer) for answer in answers] == expected


def test_a_mask_is_made_only_where_something_is_padded(model, rows, monkeypatch):
    prefill, masks = model.compressor.llava.prefill, []

    def watched(embeddings, mask, *arguments, **options):
        masks.append(mask)
        return prefill(embeddings, mask, *arguments, **options)

    monkeypatch.setattr(model.compressor.llava, "prefill", watched)
    running = model.running()
    running.join([asked(model, row, "how many ?") for row in rows[:2]])
    running.join([asked(model, row, question) for row, question in zip(rows, QUESTIONS[:2], strict=False)])
    assert [None if mask is None else bool(mask.all()) for mask in masks] == [None, False]


def test_an_answer_ends_at_its_length_and_leaves(model, rows):
    running = model.running()
    short, long = running.join([asked(model, rows[0], "how many ?", max_new_tokens=n) for n in (1, 3)])
    assert (short.finish, len(short.ids), len(running)) == ("length", 1, 1)
    running.step()
    running.leave([long])
    running.step()
    assert (long.finish, len(long.ids), len(running)) == (None, 2, 0)


def test_a_conversation_with_its_history_fits_or_is_refused(model):
    turns = [("how many ?", "two"), ("of what ?", None)]
    assert len(model.prompt(turns, 4).ids) > len(model.prompt(turns[1:], 4).ids)
    with pytest.raises(InputError, match=r"The conversation has \d+ tokens, and this model has room for 188"):
        model.prompt([("how many ? " * 99, "two"), ("?", None)], 4)
    with pytest.raises(InputError, match="question is empty"):
        model.prompt([(" ", "two"), ("?", None)], 4)


def test_a_model_that_only_embeds_refuses(monkeypatch):
    with pytest.raises(InputError, match="answers no questions"):
        Fwd2Bot(tiny_compressor("e5v")).prompt([("?", None)], 1)
