"""What a chat completion asks: OpenAI's fields, checked one by one, and the conversation in its messages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fwd2bot.server.replies import Limits, RequestError, check_fields, number_of

# Other fields of OpenAI's, with the values that ask for nothing that this server lacks.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "temperature": (0,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "modalities": (["text"],),
}
IGNORED = {"seed", "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"}
KNOWN = {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options"}
NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """turns: (question, answer), the last answer None; image: the URL of the picture that it is all about."""

    turns: Sequence[tuple[str, str | None]]
    image: str
    max_new_tokens: int
    stop: Sequence[str]
    stream: bool
    include_usage: bool

    @classmethod
    def read(cls, body: dict[str, Any], *, context: int, limits: Limits) -> "ChatRequest":
        """Raises RequestError, with one sentence, for whatever this server cannot do."""
        for name, value in body.items():
            if name in WITHOUT_EFFECT and value is not None and value not in WITHOUT_EFFECT[name]:
                only = json.dumps(WITHOUT_EFFECT[name][0])
                raise RequestError(400, f'"{name}" can only be {only} here, since answers are greedy; leave it out.')
        check_fields(body, KNOWN | IGNORED | WITHOUT_EFFECT.keys())
        turns, image = read_messages(body.get("messages"), limits)
        default = number_of(body, "max_tokens", NEW_TOKENS, least=1, most=context)
        options = body.get("stream_options") or {}
        if not isinstance(options, dict) or not isinstance(body.get("stream") or False, bool):
            raise RequestError(400, '"stream" must be true or false, and "stream_options" an object.')
        return cls(
            turns=turns,
            image=image,
            max_new_tokens=number_of(body, "max_completion_tokens", default, least=1, most=context),
            stop=read_stop(body.get("stop")),
            stream=bool(body.get("stream")),
            include_usage=bool(options.get("include_usage")),
        )


def read_stop(value: Any) -> list[str]:
    """Up to four texts."""
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(one, str) and one for one in texts):
        raise RequestError(400, '"stop" must be a text, or up to four, none of them empty.')
    return texts


def read_messages(messages: Any, limits: Limits) -> tuple[list[tuple[str, str | None]], str]:
    """The turns, and the one picture that they are about. User and assistant take turns, and the user is the last."""
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, '"messages" must be a list with at least one message.')
    images: list[str] = []
    turns: list[tuple[str, str | None]] = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role in ("system", "developer", "tool", "function"):
            raise RequestError(400, f"The model has no place for a {role} message: say it in the user's.")
        if role != ("user", "assistant")[index % 2]:
            raise RequestError(400, "Messages must be of user and assistant in turns, the user's first.")
        text = _content(message.get("content"), images if role == "user" else None)
        if role == "user":
            turns.append((text, None))
        else:
            turns[-1] = (turns[-1][0], text)
    if turns[-1][1] is not None:
        raise RequestError(400, "The last message must be the user's.")
    letters = sum(len(question) + len(answer or "") for question, answer in turns)
    if letters > limits.letters:
        raise RequestError(400, f"The conversation has {letters:,} letters; at most {limits.letters:,} are read.")
    if not images:
        raise RequestError(400, "No message shows a picture: add an image_url part, such as fwd2bot://fox.png.")
    if len(set(images)) > 1:
        raise RequestError(400, f"The conversation shows {len(set(images))} pictures; ask about one at a time.")
    return turns, images[0]


def _content(content: Any, images: list[str] | None) -> str:
    """The text of a message; URLs of its pictures go to `images` (None: it may have none)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(400, "The content of a message must be a text, or a list of parts.")
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" and images is not None:
            url = part.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if not isinstance(url, str) or not url:
                raise RequestError(400, 'A part of type "image_url" needs {"image_url": {"url": "..."}}.')
            images.append(url)
        else:
            raise RequestError(400, 'Parts of a message are of type "text", and in the user\'s "image_url".')
    return "\n".join(texts)
