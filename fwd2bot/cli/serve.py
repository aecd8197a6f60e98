"""`fwd2bot serve`."""

import argparse
import os
from typing import TYPE_CHECKING, cast

from fwd2bot.cli.commands import load_model
from fwd2bot.cli.output import note
from fwd2bot.errors import InputError
from fwd2bot.store import Store
from fwd2bot.store.base import SKETCHED_FROM
from fwd2bot.wording import plural

if TYPE_CHECKING:
    from fwd2bot.server.batching import ServedModel

TOKEN = "FWD2BOT_TOKEN"


def run_serve(options: argparse.Namespace) -> int:
    try:
        from fwd2bot.server import run
        from fwd2bot.server.guard import is_loopback
        from fwd2bot.server.served import Served
    except ImportError as error:
        raise InputError("Serving needs starlette and uvicorn: run pip install 'fwd2bot[serve]'.") from error
    token = (options.token or os.environ.get(TOKEN) or "").strip() or None
    loopback = is_loopback(options.host)
    if not loopback and token is None:
        raise InputError(f"{options.host} is reached by others, so a token is needed: give --token, or set {TOKEN}.")
    for name in ("batch", "queue"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(options, name)}.")
    store = Store.open(options.store)
    listening = run.bind(options.host, options.port)
    try:
        if len(store) >= SKETCHED_FROM:
            note(f"reading {plural(len(store), 'row')} for the search")
        served = Served.open(
            cast("ServedModel", load_model(options, store)),
            store,
            images=options.images,
            token=token,
            loopback=loopback,
            batch=options.batch,
            queue=options.queue,
        )
    except BaseException:
        listening.close()
        raise
    told = f"{options.store} ({plural(len(store), 'image')}) with {served.model.name} at {run.address(listening)}"
    server = run.Stoppable(served)
    try:
        server.serve_on(listening, lambda: note(f"serving {told}; Ctrl-C stops"))
    finally:
        served.close(server.patience)
    note("stopped")
    return 0
