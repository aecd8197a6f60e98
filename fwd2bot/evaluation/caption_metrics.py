"""BLEU-4, CIDEr and ROUGE-L of captions that are cut into tokens already, as pycocoevalcap 1.2 defines them.

Everything takes one caption an image and one or more references an image, as lists of tokens, and gives shares (papers
print them times 100). Source: Papineni et al. 2002, Vedantam et al. 2015 (the "D" variant), Lin 2004.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

Tokens = Sequence[str]
_Ngram = tuple[str, ...]
_LONGEST = 4
_SIGMA = 6.0
_BETA = 1.2


def bleu_4(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Clipped counts over the whole corpus; of reference lengths the closest counts, of two as close the shorter."""
    correct, guessed = [0] * _LONGEST, [0] * _LONGEST
    length = wanted = 0
    for caption, own in zip(captions, references, strict=True):
        length += len(caption)
        wanted += min((abs(len(one) - len(caption)), len(one)) for one in own)[1]
        for n in range(1, _LONGEST + 1):
            allowed: Counter[_Ngram] = Counter()
            for one in own:
                allowed |= _ngrams(one, n)
            guessed[n - 1] += max(0, len(caption) - n + 1)
            correct[n - 1] += (_ngrams(caption, n) & allowed).total()
    precision = math.prod((right + 1e-15) / (all_ + 1e-9) for right, all_ in zip(correct, guessed, strict=True))
    ratio = (length + 1e-15) / (wanted + 1e-9)
    return precision ** (1 / _LONGEST) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def cider(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """CIDEr-D, mean over images; 10 is the most. An n-gram's weight depends on all images: never average over parts."""
    frequency: Counter[_Ngram] = Counter()
    for own in references:
        frequency.update({ngram for one in own for n in range(1, _LONGEST + 1) for ngram in _ngrams(one, n)})
    images = math.log(len(captions))

    def weighted(tokens: Tokens, n: int) -> dict[_Ngram, float]:
        counts = _ngrams(tokens, n).items()
        return {ngram: count * (images - math.log(max(1, frequency[ngram]))) for ngram, count in counts}

    scores = []
    for caption, own in zip(captions, references, strict=True):
        total = 0.0
        for n in range(1, _LONGEST + 1):
            mine = weighted(caption, n)
            total += sum(_similarity(mine, weighted(one, n)) * _closeness(caption, one) for one in own)
        scores.append(10.0 * total / _LONGEST / len(own))
    return sum(scores) / len(scores)


def rouge_l(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """F of the longest common subsequence, its precision and its recall each the best of any reference; mean."""
    scores = []
    for made, wanted in zip(captions, references, strict=True):
        caption, own = made or [""], [one or [""] for one in wanted]  # cut at spaces, nothing is one empty token
        common = [(longest_common(caption, one), len(one)) for one in own]
        precision = max(length for length, _ in common) / max(1, len(caption))
        recall = max(length / max(1, wanted) for length, wanted in common)
        bottom = recall + _BETA**2 * precision
        scores.append((1 + _BETA**2) * precision * recall / bottom if bottom else 0.0)
    return sum(scores) / len(scores)


def longest_common(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for token in first:
        before = 0  # of the row above, one to the left
        for at, other in enumerate(second, 1):
            above = lengths[at]
            lengths[at] = before + 1 if token == other else max(above, lengths[at - 1])
            before = above
    return lengths[-1]


def _ngrams(tokens: Tokens, n: int) -> Counter[_Ngram]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _similarity(mine: dict[_Ngram, float], other: dict[_Ngram, float]) -> float:
    """Cosine, in which no n-gram counts for more than it has in the reference."""
    product = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in mine.items() if ngram in other)
    norms = float(np.linalg.norm([*mine.values()]) * np.linalg.norm([*other.values()]))
    return product / norms if norms else 0.0


def _closeness(caption: Tokens, reference: Tokens) -> float:
    """Less the more the numbers of bigrams differ."""
    difference = max(0, len(caption) - 1) - max(0, len(reference) - 1)
    return math.exp(-(difference**2) / (2 * _SIGMA**2))
