"""Metrics against cases worked by hand."""

import numpy as np
import pytest

from fwd2bot.evaluation import metrics
from fwd2bot.evaluation.metrics import above_guessing, exact_match, normalised, recall_at

# Three images, two texts each; the owners of texts 0..5 are 0 0 1 1 2 2. Rows are images.
SCORES = np.array(
    [
        [0.9, 0.1, 0.3, 0.2, 0.0, 0.4],
        [0.2, 0.6, 0.5, 0.1, 0.8, 0.1],
        [0.1, 0.7, 0.4, 0.3, 0.5, 0.9],
    ],
    dtype=np.float32,
)
OWNERS = [0, 0, 1, 1, 2, 2]


def recalls(scores: np.ndarray, owners: list[int], ranks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Of vectors whose products are the scores (images, texts)."""
    return recall_at(scores, np.eye(scores.shape[1], dtype=np.float32), owners, ranks)


def test_recall_by_hand() -> None:
    """Texts to images. Text 0: image 0 first. 1: 2, 1, then 0. 2: 1 first. 3: 2, 0, then 1. 4: 1, then 2. 5: 2 first.

    Images to texts. 0: text 0 first. 1: 4, 1, then 2. 2: 5 first.
    """
    found = recalls(SCORES, OWNERS, (1, 2, 3))
    assert found == pytest.approx(
        {
            "text_to_image_R@1": 100 * 3 / 6,
            "text_to_image_R@2": 100 * 4 / 6,
            "text_to_image_R@3": 100.0,
            "image_to_text_R@1": 100 * 2 / 3,
            "image_to_text_R@2": 100 * 2 / 3,
            "image_to_text_R@3": 100.0,
        }
    )


def test_recall_does_not_depend_on_the_order_of_texts() -> None:
    order = [4, 2, 0, 5, 1, 3]
    assert recalls(SCORES[:, order], [OWNERS[text] for text in order]) == recalls(SCORES, OWNERS)


def test_of_equal_scores_the_wrong_one_comes_first() -> None:
    """All alike: each text has two wrong images beside its own, each image four wrong texts beside its two."""
    flat = np.ones((3, 1), dtype=np.float32)
    found = recall_at(flat, np.ones((6, 1), dtype=np.float32), OWNERS, (1, 2, 3, 4, 5))
    assert [found[f"text_to_image_R@{rank}"] for rank in (1, 2, 3)] == [0.0, 0.0, 100.0]
    assert [found[f"image_to_text_R@{rank}"] for rank in (1, 4, 5)] == [0.0, 0.0, 100.0]


def test_own_texts_that_are_equal_do_not_stand_in_each_others_way() -> None:
    scores = np.array([[0.9, 0.9, 0.1], [0.2, 0.2, 0.5]], dtype=np.float32)
    assert recalls(scores, [0, 0, 1], (1,)) == {"text_to_image_R@1": 100.0, "image_to_text_R@1": 100.0}


def test_recall_where_captions_are_not_five_each() -> None:
    """Image 0 has one text, image 1 three; only text 3 is nearer to the wrong image."""
    scores = np.array([[0.9, 0.1, 0.1, 0.8], [0.2, 0.7, 0.6, 0.3]], dtype=np.float32)
    assert recalls(scores, [0, 1, 1, 1], (1,)) == {"text_to_image_R@1": 75.0, "image_to_text_R@1": 100.0}


def test_recall_a_few_rows_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recalls(SCORES, OWNERS)
    monkeypatch.setattr(metrics, "_CELLS", 7)
    assert recalls(SCORES, OWNERS) == whole


def test_a_picture_without_a_vector_finds_nothing_and_is_not_found() -> None:
    """Image 1 is not there: its text 2, which was right, is wrong now; text 4 goes on to its own image."""
    scores = SCORES.copy()
    scores[1] = np.nan
    found = recalls(scores, OWNERS, (1,))
    assert found["text_to_image_R@1"] == pytest.approx(100 * 3 / 6)
    assert found["image_to_text_R@1"] == pytest.approx(100 * 2 / 3)


def test_ranks_beyond_the_gallery_find_everything() -> None:
    assert recalls(SCORES, OWNERS, (10,)) == {"text_to_image_R@10": 100.0, "image_to_text_R@10": 100.0}


def test_directions_are_not_mixed_up() -> None:
    """Image 1 outshines all others for every text, so texts find only image 1; each image still knows its own text."""
    scores = np.array([[0.5, 0.1], [0.6, 0.9]], dtype=np.float32)
    found = recalls(scores, [0, 1], (1,))
    assert found == {"text_to_image_R@1": 50.0, "image_to_text_R@1": 100.0}


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("Top left.", "top left", True),
        ("  top   LEFT ", "top left", True),
        ("yes, .", "yes", True),
        ("top-left", "top left", True),
        ("yes", "yes it is", False),
        ("a", "b", False),
        ("left top", "top left", False),
        ("3", "three", False),
        ("", "no", False),
        ("12", "1 2", False),
    ],
)
def test_exact_match(answer: str, truth: str, same: bool) -> None:
    assert exact_match(answer, truth) is same
    assert exact_match(truth, answer) is same


def test_normalised_keeps_letters_of_any_script() -> None:
    assert normalised("Ein  Fuchs, JA!") == "ein fuchs ja"
    assert normalised("лиса?") == "лиса"
    assert normalised("?!") == ""


def test_above_guessing_by_hand() -> None:
    assert above_guessing(94.0, 96.0, 46.0) == pytest.approx(96.0)
    assert above_guessing(96.0, 96.0, 46.0) == 100.0
    assert above_guessing(46.0, 96.0, 46.0) == 0.0
    assert above_guessing(41.0, 96.0, 46.0) == pytest.approx(-10.0)


def test_above_guessing_needs_a_model_that_does_more_than_guess() -> None:
    with pytest.raises(ValueError, match=r"the full model scores 46\.0, guessing 46\.0"):
        above_guessing(50.0, 46.0, 46.0)


@pytest.mark.parametrize(("images", "width"), [(100, 256), (37, 768)])
def test_vectors_that_are_all_alike_find_nothing_wherever_they_stand(images: int, width: int) -> None:
    """Their products are not all equal: kernels at a matrix's edge sum in another order."""
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    vector /= np.linalg.norm(vector)
    alike = np.tile(vector, (images, 1)), np.tile(vector, (5 * images, 1))
    assert set(recall_at(*alike, [text // 5 for text in range(5 * images)]).values()) == {0.0}
