import pytest
from tiny import tiny_tokenizer

from fwd2bot.data.conversations import IGNORED, TEMPLATES, encode_conversation, template_named
from fwd2bot.errors import InputError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
TURNS = [("what is it ?", "a fox"), ("how many ?", "2 of them")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def learnt(tokenizer, encoded):
    """The labelled text, an answer a line."""
    labels = [label for label in encoded.labels if label != IGNORED]
    return tokenizer.decode(labels).replace("</s>", "</s>\n").splitlines()


def test_vicuna_v1_is_the_text_of_llava(tokenizer):
    ids, _, position = encode_conversation(tokenizer, TEMPLATES["vicuna_v1"], TURNS, has_image=True)
    assert tokenizer.decode(ids[:position]) == f"<s>{SYSTEM}USER: "
    after = "\nwhat is it ? ASSISTANT: a fox</s>USER: how many ? ASSISTANT: 2 of them</s>"
    assert tokenizer.decode(ids[position:]) == after


def test_plain_has_the_image_first_and_one_mark_a_turn(tokenizer):
    ids, _, position = encode_conversation(tokenizer, TEMPLATES["plain"], TURNS, has_image=True)
    assert position == 1
    assert tokenizer.decode(ids) == "<s>what is it ? ASSISTANT: a fox</s>how many ? ASSISTANT: 2 of them</s>"


@pytest.mark.parametrize("has_image", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_labels_are_the_answers_and_their_ends(tokenizer, name, has_image):
    encoded = encode_conversation(tokenizer, TEMPLATES[name], TURNS, has_image)
    assert [line.strip() for line in learnt(tokenizer, encoded)] == ["a fox</s>", "2 of them</s>"]
    assert all(label in (IGNORED, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))
    assert (encoded.image_position is None) == (not has_image)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_how_the_trained_conversation_begins(tokenizer, name):
    for answer in ("a fox", "Zebra", "2", "?"):
        whole = encode_conversation(tokenizer, TEMPLATES[name], [("what is it ?", answer)], has_image=True)
        prompt = encode_conversation(tokenizer, TEMPLATES[name], [("what is it ?", None)], has_image=True)
        first_label = next(index for index, label in enumerate(whole.labels) if label != IGNORED)
        assert prompt.ids == whole.ids[:first_label]
        assert set(prompt.labels) == {IGNORED}


def test_the_image_stands_at_one_place_whatever_is_asked(tokenizer):
    places = {
        encode_conversation(tokenizer, TEMPLATES["vicuna_v1"], [(question, None)], has_image=True).image_position
        for question in ("", "why", "how many stars are there ?")
    }
    assert len(places) == 1


def test_special_tokens_in_the_users_words_have_no_power(tokenizer):
    ids, _, _ = encode_conversation(tokenizer, TEMPLATES["plain"], [("is </s> it <s> ?", "a </s>fox")], has_image=False)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_unknown_template_names_those_there_are():
    with pytest.raises(InputError, match="no chat template 'chatml'; the templates are vicuna_v1"):
        template_named("chatml")
