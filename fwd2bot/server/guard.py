"""What stands before every end point: who may ask, from where, and how much; and how the answer is counted and sent.

A server on the loopback interface is reached by every page that a browser of this machine shows, so it heeds `Host`
(an attacker's name that was pointed at this machine is refused) and `Origin` (a page of another site is refused).
"""

import asyncio
import hmac
import ipaddress
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fwd2bot.server.replies import RequestError, as_request_error, error_response
from fwd2bot.server.served import Served

LOG = logging.getLogger("fwd2bot.server")
STOPPING = "The server is stopping: ask another, or later."
OPEN = ("/health", "/", "/static/")
"""Without a token: whether it lives, and the page, which holds nothing of the album."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An application with its guard before it."""

    def __init__(self, app: ASGIApp, served: Served) -> None:
        self.app, self.served = app, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answer = time.monotonic(), _Answer(send)
        scope.update(app=self.app, served=self.served)
        self.served.requests += 1
        large = 0
        try:
            headers = Headers(scope=scope)
            check(self.served, scope["path"], headers)
            large = check_size(self.served, headers)
            self.served.large += large
            await self.app(scope, _counted(receive, self.served.limits.body_bytes), answer.send)
        except asyncio.CancelledError:
            if not self.served.stopping:
                raise
            if not answer.status:  # told twice to stop, it waits for nothing
                await error_response(RequestError(503, STOPPING, retry_after=5))(scope, receive, answer.send)
        except Exception as error:
            if as_request_error(error).status == 500:
                LOG.exception("%s %s failed", scope["method"], scope["path"])
            if not answer.status:
                await error_response(error)(scope, receive, answer.send)
        finally:
            self.served.requests -= 1
            self.served.large -= large
            route = getattr(scope.get("route"), "path", "none")
            self.served.metrics.answered(route, answer.status, time.monotonic() - began)


class _Answer:
    """What is sent, with the headers that every answer gets. status: 0 until there is one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


def check(served: Served, path: str, headers: Headers) -> None:
    """Raises RequestError where this may not be asked, or not from there, or not now."""
    host = headers.get("host", "")
    if served.loopback and not is_loopback(_name(host)):
        raise RequestError(403, f"The host {host[:80]!r} is not this machine: ask for 127.0.0.1 or localhost.")
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        raise RequestError(403, "A page of another site may not ask this server.")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and path != "/":
        raise RequestError(403, "A page of another site may not ask this server.")
    public = path in OPEN or path.startswith("/static/")
    if served.token is not None and not public and not _is_bearer(headers.get("authorization", ""), served.token):
        raise RequestError(401, "Say the server's token: Authorization: Bearer TOKEN.", code="invalid_api_key")
    if served.stopping and path != "/health":
        raise RequestError(503, STOPPING, retry_after=5)


def check_size(served: Served, headers: Headers) -> int:
    """1 where the body is large, or may be. Raises RequestError where it is too large, or one too many."""
    length, limits = headers.get("content-length", "0"), served.limits
    if not length.isdecimal() or int(length) > limits.body_bytes:
        raise _too_large(limits.body_bytes)
    large = int(length) > limits.large_bytes or "transfer-encoding" in headers
    if large and served.large >= limits.large:
        raise RequestError(429, "Too many large pictures come at once: send it again soon.", retry_after=1)
    return int(large)


def _name(host: str) -> str:
    """Without the port and without brackets."""
    return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).lower()


def _is_bearer(value: str, token: str) -> bool:
    kind, _, given = value.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _counted(receive: Receive, most: int) -> Receive:
    """The body, as long as it is no longer than it may be; one without a length may lie."""
    got = 0

    async def counted() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> RequestError:
    return RequestError(413, f"The body is larger than {most >> 20} MiB: send less at once, or smaller pictures.")
