"""Captioning: COCO (Karpathy's test), Flickr30k (its 1,000), nocaps and TextCaps (validation).

One sentence a picture, against what people wrote of it: BLEU-4, CIDEr, METEOR, ROUGE-L. LLaVA ships no caption script;
the prompt is the one of its own training mixture, and is told in the result.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar

from fwd2bot.evaluation import java_scorers
from fwd2bot.evaluation.base import Benchmark, Sample, check_complete
from fwd2bot.evaluation.caption_files import Captioned, read_coco, read_flickr30k, read_nocaps, read_textcaps
from fwd2bot.evaluation.caption_metrics import bleu_4, cider, rouge_l
from fwd2bot.evaluation.ptb import ptb_tokens

PROMPT = "Provide a one-sentence caption for the provided image."


class CaptionBenchmark(Benchmark):
    """Pictures with references; predictions are asked for by the pictures' own ids.

    A line may have the id as `image_id`, or the file's name as `image`, in place of `question_id`.
    The official tokeniser and METEOR need Java and pycocoevalcap. Without them captions are cut by `ptb`, and METEOR
    is left out: `settings` says so, and why.
    """

    metric = "CIDEr"
    max_new_tokens = 64
    read: ClassVar[Callable[[Path, str], list[Captioned]]]
    prompt: str = PROMPT
    numbered: ClassVar[bool] = False
    """The data set's own ids are numbers, and its server wants them so."""

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self.captioned = type(self).read(folder, self.split)
        self._keys = {one.image.name: one.key for one in self.captioned}

    def samples(self) -> Sequence[Sample]:
        return [Sample(one.key, one.image, self.prompt) for one in self.captioned]

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        if "image" in row and "question_id" not in row and "image_id" not in row:
            return self._keys.get(Path(row["image"]).name, str(row["image"]))
        return str(row["image_id"] if "image_id" in row else row["question_id"])

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        self.check_scored_here()
        check_complete((one.key for one in self.captioned), predictions)
        captions = [predictions[one.key] for one in self.captioned]
        return caption_scores(captions, [one.captions for one in self.captioned])

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes] | None:
        """COCO's format of results, which both servers take."""
        if self.split not in self.served:
            return None
        keys = [one.key for one in self.captioned]
        check_complete(keys, predictions)
        rows = [{"image_id": int(key) if self.numbered else key, "caption": predictions[key]} for key in keys]
        return f"{self.name}_{self.split}.json", json.dumps(rows).encode()

    def settings(self) -> dict[str, str]:
        reason = java_scorers.why_not()
        if reason is None:
            return {"tokeniser": "Stanford PTBTokenizer 3.4.1", "METEOR": "1.5"}
        return {"tokeniser": "fwd2bot.evaluation.ptb", "METEOR": f"not computed: {reason}"}


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Figures times 100, as papers print them; METEOR where it can be computed."""
    official = java_scorers.why_not() is None
    texts = [*captions, *(text for own in references for text in own)]
    tokens = java_scorers.official_tokens(texts) if official else [ptb_tokens(text) for text in texts]
    ends = accumulate((len(own) for own in references), initial=len(captions))
    wanted = [tokens[start:end] for start, end in pairwise(ends)]
    made = tokens[: len(captions)]
    figures = {"BLEU-4": bleu_4(made, wanted), "CIDEr": cider(made, wanted), "ROUGE-L": rouge_l(made, wanted)}
    if official:
        figures["METEOR"] = java_scorers.meteor(made, wanted)
    return {name: 100.0 * figure for name, figure in figures.items()}


class CocoCaptions(CaptionBenchmark):
    """5,000 pictures, 25,010 references."""

    name = "coco_captions"
    splits = ("test", "val")
    read = read_coco


class Flickr30kCaptions(CaptionBenchmark):
    """1,000 pictures, 5,000 references."""

    name = "flickr30k_captions"
    splits = ("test", "val")
    read = read_flickr30k


class NocapsCaptions(CaptionBenchmark):
    """4,500 pictures, 45,000 references; the official site keeps them private, the file circulates. Test: 10,600."""

    name = "nocaps_captions"
    splits = ("val", "test")
    served = ("test",)
    numbered = True
    read = read_nocaps


class TextCaps(CaptionBenchmark):
    """3,166 pictures, five references each. Test: 3,289."""

    name = "textcaps"
    splits = ("val", "test")
    served = ("test",)
    read = read_textcaps
