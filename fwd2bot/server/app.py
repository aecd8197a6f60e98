"""The application: every end point, behind its guard.

A module with end points has `routes()`, and stands in `ROUTES`.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from fwd2bot.server import browse, openai
from fwd2bot.server.guard import Guard
from fwd2bot.server.metrics import CONTENT_TYPE
from fwd2bot.server.replies import RequestError
from fwd2bot.server.served import Served, served

WEB = Path(__file__).parent / "web"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Not from the machine's own table, which may have others."""
ROUTES = (openai.routes, browse.routes)


def make_app(at: Served) -> ASGIApp:
    """Who makes it closes `at`."""
    routes: list[BaseRoute] = [route for of_module in ROUTES for route in of_module()]
    routes += [
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/", page, methods=["GET"]),
        Route("/static/{file:path}", page, methods=["GET"]),
    ]
    return Guard(Router(routes, redirect_slashes=False), at)


async def health(request: Request) -> Response:
    """200; 503 while it is stopping, and where the model answers nothing any more."""
    at = served(request)
    status = "stopping" if at.stopping else "ok" if at.worker.alive else "failed"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503)


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return Response(served(request).metrics.text(), headers={"content-type": CONTENT_TYPE})


async def page(request: Request) -> Response:
    """The page and its files: those that lie in the package, by their names, and no path from outside."""
    name = request.path_params.get("file", "index.html")
    files = {path.relative_to(WEB).as_posix(): path for path in WEB.rglob("*") if path.is_file()}
    if name not in files:
        raise RequestError(404, "There is nothing at this address.")
    return Response(
        files[name].read_bytes(), media_type=KINDS[Path(name).suffix], headers={"cache-control": "no-cache"}
    )
