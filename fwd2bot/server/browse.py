"""The album's end points, which the page uses: images, pictures, search, captions, attention."""

from dataclasses import asdict
from functools import partial
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fwd2bot.errors import ImageError
from fwd2bot.server.album import Floats, one_of, opened_picture, shown_picture
from fwd2bot.server.pictures import THUMBNAIL
from fwd2bot.server.replies import (
    LONGEST_NAME,
    RequestError,
    check_fields,
    finished,
    number_of,
    read_json,
    text_of,
    within,
)
from fwd2bot.server.served import Served, served


def routes() -> list[BaseRoute]:
    return [
        Route("/album", about, methods=["GET"]),
        Route("/album/images", images, methods=["GET"]),
        Route("/album/picture", picture, methods=["GET"]),
        Route("/album/search", search, methods=["POST"]),
        Route("/album/caption", caption, methods=["POST"]),
        Route("/album/attention", attention, methods=["POST"]),
    ]


async def about(request: Request) -> Response:
    """The figures of the store."""
    at = served(request)
    return JSONResponse(await within(at.limits, at.album.about()))


async def images(request: Request) -> Response:
    """A page of its images."""
    at, asked = served(request), request.query_params
    offset = _number(request, "offset", 0, least=0, most=1 << 40)
    limit = _number(request, "limit", 60, least=1, most=at.limits.results)
    return JSONResponse(await finished(request, at.album.images(offset, limit, asked.get("path")), at.limits))


async def picture(request: Request) -> Response:
    """The picture of an image, as a JPEG."""
    at = served(request)
    name = text_of(dict(request.query_params), "image", longest=LONGEST_NAME)
    size = _number(request, "size", 320, least=THUMBNAIL[0], most=THUMBNAIL[1])
    file = await within(at.limits, at.album.read(at.album.picture_file, name))
    content = await within(at.limits, at.album.decoded(shown_picture, file, size))
    return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


async def search(request: Request) -> Response:
    """The nearest images to a text, a picture that is sent, or an image of the store."""
    at = served(request)
    body = await read_json(request, at.limits)
    check_fields(body, ("query", "like", "image", "top", "cutoff"))
    top = number_of(body, "top", 24, least=1, most=at.limits.results)
    cutoff = body.get("cutoff")
    if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int | float)):
        raise RequestError(400, '"cutoff" must be a number, the least cosine that counts.')
    vector = await _vector(request, at, body)
    return JSONResponse(await finished(request, at.album.read(at.album.search, vector, top, cutoff), at.limits))


async def _vector(request: Request, at: Served, body: dict[str, Any]) -> Floats:
    given = one_of(body, ("query", "like", "image"))
    if given == "query":
        text = text_of(body, "query", longest=at.limits.letters)
        vector: Floats = (await finished(request, at.worker.embed([text]), at.limits))[0]
        return vector
    if given == "like":
        return await at.vector(request, await at.image(text_of(body, "like", longest=at.limits.body_bytes)))
    name = text_of(body, "image", longest=LONGEST_NAME)
    return await at.vector(request, await within(at.limits, at.album.read(at.album.row, name)))


async def caption(request: Request) -> Response:
    """What an image shows, from its row alone."""
    at = served(request)
    body = await read_json(request, at.limits)
    check_fields(body, ("image",))
    name = text_of(body, "image", longest=LONGEST_NAME)
    row = await within(at.limits, at.album.read(at.album.row, name))
    future, _ = at.answer(row, [(at.model.caption_question, None)])
    answered = await finished(request, future, at.limits)
    return JSONResponse({"image": row.name, "caption": answered.text})


async def attention(request: Request) -> Response:
    """What an answer used of an image's row; and, where its picture is there, what the row's tokens drew on."""
    at = served(request)
    body = await read_json(request, at.limits)
    check_fields(body, ("image", "question"))
    name = text_of(body, "image", longest=LONGEST_NAME)
    question = None if body.get("question") is None else text_of(body, "question", longest=at.limits.letters)
    row = await within(at.limits, at.album.read(at.album.row, name))
    picture = await _picture(at, row.name)
    look = partial(at.model.attention, row.tokens, question, picture)
    return JSONResponse(asdict(await finished(request, at.worker.call(look), at.limits)))


async def _picture(at: Served, name: str) -> Image.Image | None:
    """The picture of an image; None where its file is gone, has changed, or may not be shown."""
    try:
        file = await within(at.limits, at.album.read(at.album.picture_file, name))
        return (await within(at.limits, at.album.decoded(opened_picture, file))).image
    except ImageError:
        return None
    except RequestError as error:
        if error.status != 404:
            raise
        return None


def _number(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    """A whole number of the query. Raises RequestError where it is none, or not in these bounds."""
    text = request.query_params.get(name)
    given: Any = int(text) if text is not None and text.isdecimal() and len(text) < 19 else text
    return number_of({name: given}, name, default, least=least, most=most)
