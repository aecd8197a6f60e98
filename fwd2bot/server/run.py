"""A server on a port, until it is told to stop. Alone imports uvicorn.

Told to stop, it first refuses what is new (503, also at /health) and finishes what runs; told again, it goes at once.
"""

import errno
import math
import os
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from fwd2bot.errors import InputError
from fwd2bot.server.app import make_app
from fwd2bot.server.served import Served

GRACE = 30.0
"""Seconds that what runs may still take once the server was told to stop."""
CONNECTIONS = 1024
SILENCE = 60.0
"""Seconds that a connection may be there without a whole request, or without taking what it was sent."""


def bind(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0: one that is free. Raises InputError where it cannot be had."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"There is no port {port}: take one from 1 to 65535, or 0 for one that is free.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        number = int(getattr(error, "errno", 0) or 0)  # of a name that nobody knows it is another kind of number
        reason = os.strerror(number) if number in errno.errorcode else getattr(error, "strerror", None) or str(error)
        raise InputError(f"{host} port {port} cannot be served on ({reason}): take another --host or --port.") from None


def address(listening: socket.socket) -> str:
    """http://host:port"""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Stoppable(uvicorn.Server):
    """A server that, told to stop, finishes what runs."""

    def __init__(self, served: Served) -> None:
        config = uvicorn.Config(
            make_app(served),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            http="h11",  # whose connections `_close_silent` knows
            ws="none",
        )
        super().__init__(config)
        self._served = served
        self._began: Callable[[], None] = lambda: None
        self._until = math.inf
        self._silent: dict[Any, tuple[object, float]] = {}  # connections, at which point, since when

    def serve_on(self, listening: socket.socket, began: Callable[[], None] = lambda: None) -> None:
        """Serves until it is told to stop; calls `began` when it can be asked."""
        self._began = began
        self.run(sockets=[listening])

    def stop(self) -> None:
        """Once: finish what runs; twice: at once."""
        if self._served.stopping:
            self._until, self.force_exit = 0.0, True
        else:
            self._served.stopping, self._until = True, time.monotonic() + GRACE

    @property
    def patience(self) -> float | None:
        """Seconds that what runs may still take; None: as long as it takes."""
        return 1.0 if time.monotonic() > self._until else None

    # uvicorn's own.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._began()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        self._close_silent()
        ended = await super().on_tick(counter)
        drained = not self._served.requests or time.monotonic() > self._until
        return ended or (self._served.stopping and drained)

    def _close_silent(self) -> None:
        """Connections that ask for nothing, or take nothing of what they asked for, would take the places of others;
        uvicorn sees to the idle ones alone."""
        now, before = time.monotonic(), self._silent
        self._silent = {}
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            last = connection.cycle  # the request that it made last
            left = connection.transport.get_write_buffer_size()  # bytes that it was sent and did not take
            if last is not None and not last.response_complete and not left:
                continue
            seen, since = before.get(connection, ((last, left), now))
            if seen != (last, left):
                since = now
            self._silent[connection] = ((last, left), since)
            if now - since > SILENCE:
                connection.transport.abort()
