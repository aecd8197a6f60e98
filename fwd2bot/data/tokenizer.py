"""A subword tokenizer of LLaMA's kind (BPE with byte fallback), trained on the world's own text.

Lower case, accents folded, punctuation and digits are pieces of their own and every word carries its leading space,
so that "Fox?", "fox ?" and "fox" share their tokens. A word never seen falls apart into pieces or bytes, never into
an error.
"""

import json
import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fwd2bot.data.world.language import captions, plural
from fwd2bot.data.world.questions import PHRASINGS, questions
from fwd2bot.data.world.samples import CAPTION_QUESTION, INVENTORY_QUESTION
from fwd2bot.data.world.scene import make_scene
from fwd2bot.data.world.sprites import object_names

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>", "USER:", "ASSISTANT:")


def world_text(scenes: int = 20_000) -> Iterator[str]:
    """Captions and questions of training scenes, and every name alone and in the plural."""
    for name in object_names():
        yield from (name, plural(name))
    for phrases in PHRASINGS.values():
        yield from phrases
    yield from (CAPTION_QUESTION, INVENTORY_QUESTION)
    for index in range(scenes):
        scene = make_scene("train", index)
        yield from captions(scene)
        for question in questions(scene):
            yield question.text
            yield question.answer
    rng = random.Random(0)
    for _ in range(scenes):
        yield "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 4)))


def _with_plain_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Byte pieces are ordinary vocabulary: as special tokens, decoding an answer would drop them."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def build_tokenizer(vocabulary: int = 1024, scenes: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer; deterministic for (vocabulary, scenes)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
            *(decoders.Replace(f" {mark}", mark) for mark in ".,?:"),
        ]
    )
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, min_frequency=2, show_progress=False, limit_alphabet=64
    )
    tokenizer.train_from_iterator(world_text(scenes), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=_with_plain_bytes(tokenizer),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "USER:", "ASSISTANT:"],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
