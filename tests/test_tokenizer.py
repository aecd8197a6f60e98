"""The world's tokenizer: what people type shares its tokens, and nothing is ever an error."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from fwd2bot.data.tokenizer import build_tokenizer
from fwd2bot.data.world import captions, make_scene, questions
from fwd2bot.data.world.sprites import object_names

SIZE = {"vocabulary": 1024, "scenes": 1000}
PRINT = """
import hashlib
from fwd2bot.data.tokenizer import build_tokenizer
print(hashlib.sha256(build_tokenizer(vocabulary=400, scenes=100).backend_tokenizer.to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(**SIZE)


def ids(tokenizer: Any, text: str) -> list[int]:
    listed: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return listed


def test_upper_case_accents_and_width_do_not_matter(tokenizer: Any) -> None:
    plain = ids(tokenizer, "what is at the cafe")
    for typed in (
        "WHAT IS AT THE CAFE",
        "What is at the Café",
        "what is at the cafe\u0301",
        "\uff37\uff48at is at the cafe",
    ):
        assert ids(tokenizer, typed) == plain


def test_space_before_punctuation_does_not_matter(tokenizer: Any) -> None:
    assert ids(tokenizer, "where is the fox ?") == ids(tokenizer, "where is the fox?")
    assert ids(tokenizer, " where  is\n the\tfox") == ids(tokenizer, "where is the fox")


def test_missing_punctuation_leaves_the_words_alone(tokenizer: Any) -> None:
    assert ids(tokenizer, "where is the fox?")[:-1] == ids(tokenizer, "where is the fox")


def test_a_word_has_the_same_tokens_anywhere(tokenizer: Any) -> None:
    fox = ids(tokenizer, "fox")
    for text in ("a fox", "fox, bear", "(fox)", "the fox."):
        assert set(fox) <= set(ids(tokenizer, text))


def test_every_name_is_a_token_a_word_or_nearly(tokenizer: Any) -> None:
    assert [len(ids(tokenizer, name)) - len(name.split()) for name in object_names()] == [0] * len(object_names())


def test_unseen_words_fall_into_pieces(tokenizer: Any) -> None:
    for word in ("xylophone", "zzyzx", "antidisestablishmentarianism"):
        assert 1 < len(ids(tokenizer, word)) <= len(word)
        assert tokenizer.decode(ids(tokenizer, word)) == word


@pytest.mark.parametrize(
    "text", ["🧿", "🦖 fox 👩‍🚀", "东京", "привет мир", "\x00", "ß", "fox \u200b bear", "a\U0010ffffb"]
)
def test_what_was_never_seen_goes_to_bytes_and_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids(tokenizer, text)


def test_everything_the_world_says_comes_back(tokenizer: Any) -> None:
    for index in range(100):
        scene = make_scene("test", index)
        for text in (*captions(scene), *(question.text for question in questions(scene))):
            decoded = tokenizer.decode(ids(tokenizer, text))
            assert decoded == text.lower()


def test_letters_of_a_sign_are_tokens_of_their_own(tokenizer: Any) -> None:
    """Two unknown letters must not be one token that the model has never seen."""
    listed = tokenizer.convert_ids_to_tokens(ids(tokenizer, "qx kz"))
    assert listed == ["▁q", "x", "▁k", "z"]


def test_counts_are_single_tokens(tokenizer: Any) -> None:
    assert all(len(ids(tokenizer, str(count))) == 1 for count in range(7))
    assert len(ids(tokenizer, "12")) == 2


def test_special_tokens_are_single_and_dropped_from_answers(tokenizer: Any) -> None:
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        2,
        3,
    )
    for special in ("<s>", "</s>", "<pad>", "<image>", "USER:", "ASSISTANT:"):
        assert len(ids(tokenizer, special)) == 1
    answer = ids(tokenizer, "USER: where is it? ASSISTANT: top left</s>")
    assert tokenizer.decode(answer[-3:], skip_special_tokens=True) == "top left"
    assert tokenizer.decode(answer, skip_special_tokens=True).split() == ["where", "is", "it?", "top", "left"]


def test_words_that_look_like_special_tokens_are_words(tokenizer: Any) -> None:
    user = tokenizer.convert_tokens_to_ids("USER:")
    assert user not in ids(tokenizer, "user: user")
    assert len(ids(tokenizer, "<0x41>")) > 1
    assert ids(tokenizer, "") == ids(tokenizer, "   ") == []


def test_saved_and_loaded_it_is_the_same(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Is there a fox?", "USER: 🧿 zzyzx ASSISTANT:", "<image> top left</s>"):
        assert ids(loaded, text) == ids(tokenizer, text)
        assert loaded.decode(ids(loaded, text)) == tokenizer.decode(ids(tokenizer, text))
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded.pad_token_id == tokenizer.pad_token_id


def test_vocabulary_has_the_size_asked_for(tokenizer: Any) -> None:
    assert len(tokenizer) == SIZE["vocabulary"]
    assert len(build_tokenizer(vocabulary=400, scenes=50)) == 400


def test_two_processes_build_the_same_tokenizer() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    here = build_tokenizer(vocabulary=400, scenes=100).backend_tokenizer.to_str()
    assert printed.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()
