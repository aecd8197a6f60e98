"""BLEU-4, CIDEr and ROUGE-L worked by hand, tokens as the official tokeniser cuts them, and its Java programs."""

import math
import os
import sys
from pathlib import Path

import pytest

from fwd2bot.data.world import captions, make_scene
from fwd2bot.errors import InputError
from fwd2bot.evaluation import java_scorers
from fwd2bot.evaluation.caption_metrics import bleu_4, cider, longest_common, rouge_l
from fwd2bot.evaluation.captions import caption_scores
from fwd2bot.evaluation.ptb import ptb_tokens


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_bleu_by_hand() -> None:
    """Five of six words, four of five pairs, three of four triples, two of three quadruples: their product is 1/3."""
    assert bleu_4(words("a b c d e f"), [words("a b c d e x")]) == pytest.approx((1 / 3) ** 0.25)


def test_bleu_of_references_as_close_takes_the_shorter_length() -> None:
    """Of lengths 4 and 6 a caption of 5 is measured by 4, and pays nothing; by 6 alone it pays."""
    assert bleu_4(words("a b c d e"), [words("a b c d", "a b c d e f")]) == pytest.approx(1.0)
    assert bleu_4(words("a b c d e"), [words("a b c d e f")]) == pytest.approx(math.exp(1 - 6 / 5))


def test_bleu_takes_the_closest_length_not_the_shortest() -> None:
    assert bleu_4(words("a b c d e"), [words("a", "a b c d e f")]) == pytest.approx(math.exp(1 - 6 / 5))


def test_bleu_sums_over_the_corpus_and_clips_by_the_best_reference() -> None:
    """Of "a a a a b" only two a may count, and b: 3 of 5 words; with the second image 7 of 9. Pairs: aa, ab and 3."""
    made, wanted = words("a a a a b", "c d e f"), [words("a a b", "a b"), words("c d e f")]
    assert bleu_4(made, wanted) == pytest.approx((7 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25)


def test_bleu_of_nothing_is_nothing() -> None:
    assert bleu_4(words(""), [words("a b c d")]) == pytest.approx(0.0, abs=1e-6)


def test_cider_of_one_image_is_zero() -> None:
    assert cider(words("a b c d"), [words("a b c d")]) == 0.0


@pytest.mark.parametrize(("text", "score"), [("a b c d", 10.0), ("a b c d e", 10.0), ("a b c", 7.5), ("a", 2.5)])
def test_cider_of_an_identical_caption(text: str, score: float) -> None:
    """10, where it is long enough to have every n-gram."""
    assert cider(words(text, "q r s t"), [words(text), words("q r s t")]) == pytest.approx((score + 10) / 2)


def test_cider_by_hand() -> None:
    """a is in both images, so it weighs nothing. Of words b c d / b x y one of three agrees, of pairs ab; no more."""
    made, wanted = words("a b x y", ""), [words("a b c d"), words("a e f g")]
    assert cider(made, wanted) == pytest.approx(10 * (1 / 3 + 1 / 3) / 4 / 2)


def test_cider_weighs_by_images_not_by_references() -> None:
    """b is in two references of one image, and still rare: the score is that of one reference twice."""
    made = words("b c", "")
    assert cider(made, [words("b c", "b c"), words("x")]) == pytest.approx(cider(made, [words("b c"), words("x")]))


def test_cider_counts_the_difference_of_bigrams() -> None:
    """One word against two: cosine 1 / sqrt 2, and one bigram apart."""
    found = cider(words("b", "x"), [words("b c"), words("x")])
    assert found == pytest.approx((10 * math.exp(-1 / 72) / math.sqrt(2) / 4 + 2.5) / 2)


def test_cider_clips_repetitions() -> None:
    """b twice: min(2, 1) * 1 over norms 2 and 1 is half of the cosine; b b is no bigram of the reference."""
    found = cider(words("b b", "x"), [words("b"), words("x")])
    assert found == pytest.approx((10 * math.exp(-1 / 72) / 2 / 4 + 2.5) / 2)


def test_rouge_takes_precision_and_recall_from_different_references() -> None:
    """Recall 1 of the first, precision 3/4 of the second."""
    wanted = words("a", "a b c x x x x x")
    assert rouge_l(words("a b c d"), [wanted]) == pytest.approx(2.44 * 0.75 / (1 + 1.44 * 0.75))


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [("a b c d", "a c x", 2), ("a b a c", "b a b a", 3), ("x", "a b", 0), ("", "a", 0), ("a b c", "a b c", 3)],
)
def test_longest_common_subsequence(first: str, second: str, length: int) -> None:
    assert longest_common(first.split(), second.split()) == longest_common(second.split(), first.split()) == length


def test_rouge_of_nothing_in_common() -> None:
    assert rouge_l(words("x", ""), [words("a b"), words("a")]) == 0.0


def test_rouge_of_nothing_against_nothing() -> None:
    """A reference of marks alone: pycocoevalcap cuts both at spaces, and finds one empty token in each."""
    assert rouge_l(words("", ""), [words("a b", ""), words("a")]) == 0.5


# Every line was cut by Stanford's PTBTokenizer 3.4.1; the marks that the scorer drops are left out.
CUT = [
    ("A man's dog can't run.", "a man 's dog ca n't run"),
    ("it's (very) [nice]", "it 's -lrb- very -rrb- -lsb- nice -rsb-"),
    ("\"hello there\" and 'goodbye' to the dogs' owner.", "hello there and goodbye to the dogs owner"),
    ("They cannot, gonna, wanna, gotta", "they can not gon na wan na got ta"),
    ("o'clock y'all rock'n'roll 'n' 'tis", "o'clock y' all rock 'n' roll 'n' 't is"),
    ("a t-shirt, black-and-white", "a t-shirt black-and-white"),
    ("1/2 and/or 1,000 3.5 2:30 10am 5' 6'2\"", "1/2 and/or 1,000 3.5 2:30 10am 5 6 2"),
    ("'90s 1970's 1980s #1 50% $5 £5 €5 5¢", "'90s 1970 's 1980s # 1 50 % $ 5 # 5 $ 5 5 cents"),
    ("Mr. Smith on St. Mary's Ave. at 7 p.m.", "mr. smith on st. mary 's ave. at 7 p.m."),
    ("a U.S. flag", "a u.s. flag"),
    ("what?! wow!! hmm... so . . . yes -- no - maybe – or — hm", "what ?! wow !! hmm so yes no maybe or hm"),
    ("It’s a “fine” day… isn’t it?", "it 's a fine day is n't it"),
    ("I'm you're they've he'll she'd won't", "i 'm you 're they 've he 'll she 'd wo n't"),
    ("a * star & an &amp; and a/b @home #tag www.coke.com", "a * star & an & and a/b @home #tag www.coke.com"),
    ("No. 5, No.1, no. End", "no. 5 no. 1 no end"),
    ("men's/women's 24/7 7-11 3-D 2-story v1.2 16oz", "men 's / women 's 24/7 7-11 3-d 2-story v1 .2 16oz"),
    ("O'Hare D'Angelo McDonald's James' Ph.D. J. Crew", "o'hare d'angelo mcdonald 's james ph.d. j. crew"),
    ("café naïve 90° ½ cup {x} end.Start 'em", "café naïve 90 ° 1/2 cup -lcb- x -rcb- end.start 'em"),
    ("", ""),
    (" . ", ""),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "tokens"), CUT)
def test_tokens_are_those_of_the_official_tokeniser(caption: str, tokens: str) -> None:
    assert ptb_tokens(caption) == tokens.split()


def test_scores_without_java_are_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_scorers, "why_not", lambda: "Java is not installed")
    made = ["A red bus, parked!", "two DOGS run by the sea"]
    found = caption_scores(made, [["a red bus parked"], ["a cat", "Two dogs run by the sea."]])
    assert found == pytest.approx({"BLEU-4": 100.0, "CIDEr": 1000 * (1 + 0.5) / 2, "ROUGE-L": 100.0})


@pytest.mark.skipif(java_scorers.why_not() is not None, reason="needs Java and pycocoevalcap")
def test_official_programs_agree_with_ours() -> None:
    assert java_scorers.official_tokens([caption for caption, _ in CUT]) == [tokens.split() for _, tokens in CUT]
    texts = [text for number in range(50) for text in captions(make_scene("test", number))]
    assert java_scorers.official_tokens(texts) == [ptb_tokens(text) for text in texts]
    assert java_scorers.meteor(words("a b c d e"), [words("a b c d e")]) == pytest.approx(1.0)


JAVA = """#!{python}
import sys
if "-cp" in sys.argv:
    for line in sys.stdin.read().split("\\n")[:-1]:
        print(line.lower().replace(".", " ."))
    sys.exit({code})
for line in sys.stdin:
    name, *parts = line.rstrip("\\n").split(" ||| ")
    if {code}:
        sys.exit({code})
    if name == "SCORE":
        print(len(parts), len(parts[-1].split()), flush=True)
    else:
        print("\\n".join(["0.5"] * len(parts) + [str(sum(float(part.split()[1]) for part in parts) / 100)]), flush=True)
"""


def pretend_java(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """A `java` that cuts lines at full stops, and whose METEOR is the captions' words in hundredths."""
    (folder / "pycocoevalcap").mkdir()
    (folder / "pycocoevalcap/__init__.py").touch()
    (folder / "java").write_text(JAVA.format(python=sys.executable, code=code))
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.syspath_prepend(folder)


def test_java_programs_are_spoken_with_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_java(tmp_path, monkeypatch)
    assert java_scorers.why_not() is None
    cut = java_scorers.official_tokens(["A bus.", "", "two\nlines\x85here ."])
    assert cut == [["a", "bus"], [], ["two", "lines", "here"]]
    half = java_scorers.official_tokens(["half a pair \ud83d"])  # no character: a model may still write it
    assert half[0][:3] == ["half", "a", "pair"]
    found = caption_scores(["A red bus.", "a dog"], [["a red bus", "a bus"], ["a dog"]])
    assert found["METEOR"] == pytest.approx(100 * (3 + 2) / 100)


def test_java_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_java(tmp_path, monkeypatch, code=1)
    with pytest.raises(InputError, match="tokeniser of pycocoevalcap failed: try `java"):
        java_scorers.official_tokens(["a"])
    with pytest.raises(InputError, match="METEOR of pycocoevalcap failed"):
        java_scorers.meteor(words("a"), [words("a")])


def test_what_is_missing_for_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_java(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert java_scorers.why_not() == "Java is not installed"
    monkeypatch.setattr(java_scorers, "find_spec", lambda name: None)
    assert "pip install" in str(java_scorers.why_not())
