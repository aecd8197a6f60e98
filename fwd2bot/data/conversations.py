"""From questions and answers to token ids: the chat templates, and where the image's rows are put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fwd2bot.errors import InputError

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The text around questions and answers.

    `before_image` opens a conversation, the image's rows follow, then `after_image` and the turns: `question` with the
    user's words, `answer` with the model's, closed by the tokenizer's end-of-sequence token. From the second turn on,
    `next_turn` stands before the question.
    """

    name: str
    before_image: str
    after_image: str
    question: str
    answer: str
    next_turn: str = ""


TEMPLATES = {
    template.name: template
    for template in (
        ChatTemplate(
            name="vicuna_v1",
            before_image="A chat between a curious user and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the user's questions. USER: ",
            after_image="\n",
            question="{} ASSISTANT:",
            answer=" {}",
            next_turn="USER: ",
        ),
        ChatTemplate(
            name="short", before_image="", after_image="", question="USER: {} ASSISTANT:", answer=" {}", next_turn=""
        ),
        ChatTemplate(name="plain", before_image="", after_image="", question="{} ASSISTANT:", answer=" {}"),
    )
}
"""vicuna_v1 is LLaVA-1.5's own; short is the same without its opening sentence, plain has
no words of its own: both for small models."""


class Encoded(NamedTuple):
    """Token ids, labels (`IGNORED` but on answers and their closing token), and where the image's rows go in.

    `image_position` counts tokens; it is the same for every conversation of one template, and None without an image.
    """

    ids: list[int]
    labels: list[int]
    image_position: int | None


def template_named(name: str) -> ChatTemplate:
    """Raises InputError for a name that is not in `TEMPLATES`."""
    if name not in TEMPLATES:
        raise InputError(f"There is no chat template {name!r}; the templates are {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def encode_conversation(
    tokenizer: Any, template: ChatTemplate, turns: Sequence[tuple[str, str | None]], has_image: bool
) -> Encoded:
    """Ids and labels of a conversation; an answer of None (the last turn's) is the model's to give.

    The whole text behind the image is tokenized at once, as LLaVA-1.5 does, and labels follow the characters.
    """
    end = tokenizer.eos_token
    text, answers = "", []  # answers: (first, last) character of what is to be learnt
    for index, (question, answer) in enumerate(turns):
        text += (template.next_turn if index else "") + template.question.format(_plain(tokenizer, question))
        if answer is not None:
            start = len(text)
            text += template.answer.format(_plain(tokenizer, answer)) + end
            answers.append((start, len(text)))
    first = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    if has_image:
        first += _tokenize(tokenizer, template.before_image)[0]
        text, shift = template.after_image + text, len(template.after_image)
    else:
        text, shift = template.before_image + text, len(template.before_image)
    ids, spans = _tokenize(tokenizer, text)
    learnt = [any(low + shift < stop and start < high + shift for low, high in answers) for start, stop in spans]
    labels = [token if learn else IGNORED for token, learn in zip(ids, learnt, strict=True)]
    return Encoded(first + ids, [IGNORED] * len(first) + labels, len(first) if has_image else None)


def _tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def _plain(tokenizer: Any, text: str) -> str:
    """The user's words with no power over the template: special tokens written out in them are dropped."""
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, " ")
    return text.strip()
