"""The two processors of answers and the soft score, against vectors taken from the published code."""

import pytest

from fwd2bot.evaluation.normalise import _CONTRACTIONS, evalai_processed, soft_score, vqa_processed

SAME = {
    "Two dogs.": "2 dogs", "1,000": "1000", "3.5 oz": "3.5 oz", "black-white": "black white", "yes - no": "yes no",
    "U.S.": "us", "dont know": "don't know", "None": "0", "A/C unit": "c unit", "$5.00!": "$5.00", "no.1": "no.1",
    "10:30": "10:30", "50%": "50%", "7.": "7", "a\nred\tcar": "red car", "": "", "the": "", " Ten ": "10",
}  # fmt: skip


@pytest.mark.parametrize(("answer", "processed"), SAME.items())
def test_both_processors_agree(answer: str, processed: str) -> None:
    assert vqa_processed(answer) == processed
    assert evalai_processed(answer) == processed


@pytest.mark.parametrize(
    ("answer", "evalai", "vqa"),
    [
        ("The cat's", "cat 's", "cat's"),
        ("let's go", "let 's go", "let's go"),
        ("red,blue", "redblue", "red blue"),
        ("1,000-2", "1000 2", "10002"),  # digits around a comma glue every mark, unless it went before
        ("a- b-c?", "bc", "bc"),  # one mark beside a space takes all marks of its kind
    ],
)
def test_processors_differ(answer: str, evalai: str, vqa: str) -> None:
    assert evalai_processed(answer) == evalai
    assert vqa_processed(answer) == vqa


def test_at_most_32_stops_are_removed() -> None:
    assert vqa_processed("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("word", "contraction"),
    [
        ("couldnt've", "couldn't've"), ("couldn'tve", "couldn't've"), ("twas", "'twas"), ("yall", "y'all"),
        ("y'alldve", "y'alldve"), ("yall'd've", "y'all'd've"), ("somebody'd", "somebodyd"), ("im", "im"),
        ("Im", "im"), ("ill", "ill"), ("its", "its"), ("wed've", "we'd've"),
    ],
)  # fmt: skip
def test_contractions_get_their_apostrophe(word: str, contraction: str) -> None:
    assert vqa_processed(word) == contraction


def test_contractions_are_as_many_as_published() -> None:
    assert len(_CONTRACTIONS) == 114  # 120, less four with a capital and two that change nothing


@pytest.mark.parametrize(("matching", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_score_leaves_each_human_out_once(matching: int, score: float) -> None:
    assert soft_score("a", ["a"] * matching + ["b"] * (10 - matching)) == pytest.approx(score)
