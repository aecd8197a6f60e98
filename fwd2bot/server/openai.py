"""OpenAI's end points: chat completions with streaming, models, embeddings."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fwd2bot.images import Picture
from fwd2bot.server.album import Floats
from fwd2bot.server.batching import Answered
from fwd2bot.server.messages import ChatRequest
from fwd2bot.server.replies import (
    RequestError,
    as_request_error,
    error_body,
    finished,
    read_json,
    text_of,
    too_slow,
    within,
)
from fwd2bot.server.served import Served, served
from fwd2bot.store import Row
from fwd2bot.store.urls import SCHEME


def routes() -> list[BaseRoute]:
    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", models, methods=["GET"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]


async def models(request: Request) -> Response:
    """The one model, alone or in a list."""
    at = served(request)
    described = {"id": at.model.name, "object": "model", "created": 0, "owned_by": "fwd2bot"}
    asked = request.path_params.get("name")
    if asked is None:
        return JSONResponse({"object": "list", "data": [described]})
    _check_model(at, asked)
    return JSONResponse(described)


async def chat(request: Request) -> Response:
    at = served(request)
    body = await read_json(request, at.limits)
    _check_model(at, body.get("model"))
    asked = ChatRequest.read(body, context=at.model.context, limits=at.limits)
    image = await at.image(asked.image)
    if asked.stream:
        return _streamed(at, asked, image)
    future, prompt_tokens = at.answer(image, asked.turns, asked.max_new_tokens, stop=asked.stop)
    answered = await finished(request, future, at.limits)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answered.text, "refusal": None},
        "logprobs": None,
        "finish_reason": answered.finish,
    }
    head = _head(at, "chat.completion")
    return JSONResponse({**head, "choices": [choice], "usage": _usage(prompt_tokens, answered.tokens)})


def _streamed(at: Served, asked: ChatRequest, image: Row | Picture) -> Response:
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def later(piece: str | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    future, prompt_tokens = at.answer(image, asked.turns, asked.max_new_tokens, stop=asked.stop, on_text=later)
    future.add_done_callback(lambda _: later(None))
    events = _events(at, asked, future, pieces, prompt_tokens)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(
    at: Served, asked: ChatRequest, future: "Future[Answered]", pieces: "asyncio.Queue[str | None]", prompt_tokens: int
) -> AsyncIterator[str]:
    """Server-sent events; what goes wrong on the way is one of them."""
    head = _head(at, "chat.completion.chunk")
    usage: dict[str, Any] = {"usage": None} if asked.include_usage else {}

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice], **usage})

    until = time.monotonic() + at.limits.seconds
    try:
        yield chunk({"role": "assistant", "content": ""})
        while (piece := await asyncio.wait_for(pieces.get(), until - time.monotonic())) is not None:
            yield chunk({"content": piece})
        answered = future.result()
        yield chunk({}, answered.finish)
        if asked.include_usage:
            yield _event({**head, "choices": [], "usage": _usage(prompt_tokens, answered.tokens)})
        yield "data: [DONE]\n\n"
    except Exception as error:
        told = as_request_error(too_slow(at.limits) if isinstance(error, TimeoutError) else error)
        yield _event(error_body(told.status, told.message, told.code))
    finally:
        future.cancel()  # where the asker is gone


async def embeddings(request: Request) -> Response:
    """Unit vectors of texts, and of pictures by data URL, file, or the URL of a stored row."""
    at = served(request)
    body = await read_json(request, at.limits)
    _check_model(at, body.get("model"))
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RequestError(400, '"encoding_format" must be "float" or "base64".')
    if body.get("dimensions") not in (None, at.model.width):
        raise RequestError(400, f'Vectors have {at.model.width} numbers here; leave "dimensions" out.')
    inputs = _inputs(body, at)
    vectors = await within(at.limits, _vectors(request, at, inputs))
    count = sum(at.num_tokens if _is_picture(one) else at.model.count_tokens(one) for one in inputs)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": data, "model": at.model.name, "usage": usage})


async def _vectors(request: Request, at: Served, inputs: Sequence[str]) -> list[Floats]:
    """One of each input: texts together, pictures one after the other, so that one is in memory at a time."""
    texts = [one for one in inputs if not _is_picture(one)]
    of_texts: Iterator[Floats] = iter(())
    if texts:
        found = await finished(request, at.worker.embed(texts), at.limits)
        of_texts = iter(found)
    return [await at.vector(request, await at.image(one)) if _is_picture(one) else next(of_texts) for one in inputs]


def _inputs(body: dict[str, Any], at: Served) -> list[str]:
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= at.limits.inputs:
        raise RequestError(400, f'"input" must be a text or a list of 1 to {at.limits.inputs}.')
    for one in inputs:
        if not (isinstance(one, str) and _is_picture(one)):
            text_of({"input": one}, "input", longest=at.limits.letters)
    return inputs


def _is_picture(text: str) -> bool:
    return text.startswith(("data:", "file:", SCHEME))


def _encoded(vector: Floats, encoding: str) -> list[float] | str:
    numbers = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(numbers.tobytes()).decode() if encoding == "base64" else numbers.tolist()


def _check_model(at: Served, name: Any) -> None:
    if name is None:
        raise RequestError(400, f'"model" is missing; the model is {at.model.name!r}.')
    if name != at.model.name:
        told = f"There is no model {str(name)[:80]!r} here; the model is {at.model.name!r}."
        raise RequestError(404, told, code="model_not_found")


def _head(at: Served, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": at.model.name}


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
