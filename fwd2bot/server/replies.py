"""Answers to a request: errors in OpenAI's schema, and waiting for the model no longer than the asker does."""

import asyncio
import json
from collections.abc import Awaitable, Container, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from fwd2bot.errors import Fwd2BotError, ImageError, InputError
from fwd2bot.server.batching import DeadError, FullError

Result = TypeVar("Result")
KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


LONGEST_NAME = 4096
"""Letters of an image's name."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may cost."""

    body_bytes: int = 16 << 20
    large_bytes: int = 1 << 20  # a body beyond that counts as large
    large: int = 16  # such requests at once: a bound on memory
    pixels: int = 50_000_000  # of a picture that is sent
    letters: int = 100_000  # of a conversation, or of a text to embed
    inputs: int = 256  # of /v1/embeddings
    results: int = 1000  # of a search, or a page of images
    body_seconds: float = 30.0  # to send the body
    seconds: float = 120.0  # to answer


class RequestError(Exception):
    """What the asker can mend: a status of 400 to 499, or 503, and a sentence. code: OpenAI's word for it."""

    def __init__(self, status: int, message: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after = status, message, code, retry_after


def error_body(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's schema."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def as_request_error(error: Exception) -> RequestError:
    """Any error as a status and a sentence."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, FullError):
        told = f"The server is full; ask again in {error.retry_after} s."
        return RequestError(429, told, code="rate_limit_exceeded", retry_after=error.retry_after)
    if isinstance(error, DeadError):
        return RequestError(503, "The model has failed, and answers nothing any more: start the server again.")
    if isinstance(error, ClientDisconnect):
        return RequestError(499, "The asker is gone.")
    if isinstance(error, InputError | ImageError):
        return RequestError(400, str(error))
    if isinstance(error, Fwd2BotError):
        return RequestError(500, str(error))
    if isinstance(error, HTTPException):
        known = {404: "There is nothing at this address.", 405: "This address takes another method."}
        return RequestError(error.status_code, known.get(error.status_code, error.detail))
    return RequestError(500, f"A mistake of ours ({type(error).__name__}): please report what the server's log says.")


def error_response(error: Exception) -> Response:
    told = as_request_error(error)
    headers = {} if told.retry_after is None else {"retry-after": str(told.retry_after)}
    if told.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(told.status, told.message, told.code), told.status, headers)


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The object in a request's body. Raises RequestError where it is none, or takes too long."""
    try:
        async with asyncio.timeout(limits.body_seconds):
            content = await request.body()
        text = content.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_number)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a letter that is written in two is no text
    except TimeoutError:
        raise RequestError(408, f"The body did not arrive within {limits.body_seconds:g} s.") from None
    except (ValueError, RecursionError):
        raise RequestError(400, "The body is not JSON: send an object.") from None
    if not isinstance(value, dict):
        raise RequestError(400, "The body is not an object of JSON.")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is none of JSON's numbers")


def check_fields(body: dict[str, Any], known: Container[str]) -> None:
    """Raises RequestError for a field that would be overlooked."""
    if unknown := [name for name in body if name not in known]:
        raise RequestError(400, f'This server does not know the field "{unknown[0][:80]}"; leave it out.')


async def finished(request: Request, work: "Future[Result] | Coroutine[Any, Any, Result]", limits: Limits) -> Result:
    """What the model or the album gives. Raises RequestError where that takes too long; stops the work where the asker
    is gone."""
    waiting = asyncio.wrap_future(work) if isinstance(work, Future) else asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if gone.done():
            raise ClientDisconnect
        raise too_slow(limits)
    finally:
        gone.cancel()
        waiting.cancel()  # and with it the work


def too_slow(limits: Limits) -> RequestError:
    return RequestError(504, f"The answer took more than {limits.seconds:g} s: ask for less, or later.", code="timeout")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def within(limits: Limits, work: Awaitable[Result]) -> Result:
    """What a thread gives. Raises RequestError where that takes too long."""
    try:
        async with asyncio.timeout(limits.seconds):
            return await work
    except TimeoutError:
        raise too_slow(limits) from None


def text_of(body: dict[str, Any], name: str, *, longest: int) -> str:
    """A field that must be a text. Raises RequestError where it is none, or too long."""
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RequestError(400, f'"{name}" must be a text that is not empty.')
    if len(value) > longest:
        raise RequestError(400, f'"{name}" has {len(value):,} letters; at most {longest:,} are read.')
    return value


def number_of(body: dict[str, Any], name: str, default: int, *, least: int, most: int) -> int:
    """A field that must be a whole number. Raises RequestError where it is none, or not in these bounds."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(
            400, f'"{name}" must be a whole number from {least} to {most}, not {json.dumps(value)[:80]}.'
        )
    return value
