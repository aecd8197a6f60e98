"""A stand-in for `fwd2bot serve`, so that the page is tested without a model: canned answers over the sample album.

python tests/fake_server.py --port 8000 --images 100000
"""

import argparse
import base64
import fnmatch
import json
import mimetypes
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import fwd2bot

PACKAGE = Path(fwd2bot.__file__).parent
ALBUM = PACKAGE / "bundled/album"
WEB = PACKAGE / "server/web"
POLICY = "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
ANSWER = "a lion, and a lion again"
GRID, TOKENS = (3, 4), 4


@dataclass(kw_only=True)
class Canned:
    """What the fake album holds and how it behaves."""

    count: int = 24
    gone: frozenset[str] = frozenset()
    token: str | None = None
    pause: float = 0.0  # seconds between two words of an answer
    full: int = 0  # how many chats are refused as if the server were full
    breaks: bool = False  # answers end in the middle
    may_caption: threading.Event = field(default_factory=threading.Event)  # cleared, captions wait
    may_attend: threading.Event = field(default_factory=threading.Event)  # cleared, attention waits
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # what was posted

    def __post_init__(self) -> None:
        self.may_caption.set()
        self.may_attend.set()
        self.files = sorted(ALBUM.glob("*.png"))
        told = [json.loads(line) for line in (ALBUM / "captions.jsonl").read_text("utf-8").splitlines()]
        self.captions = {one["image"]: one["captions"][0] for one in told}

    def name(self, index: int) -> str:
        """The sample album, and again in folders 001, 002 ... where there are to be more images than it has."""
        folder, place = divmod(index, len(self.files))
        return f"{folder:03}/{self.files[place].name}" if folder else self.files[place].name

    def image(self, name: str) -> dict[str, Any]:
        picture = None if name in self.gone else f"/album/picture?image={quote(name, safe='')}"
        size = (ALBUM / Path(name).name).stat().st_size
        told = {"image": name, "url": f"fwd2bot://{quote(name)}", "picture": picture}
        return {**told, "width": 192, "height": 192, "file_bytes": size, "row_bytes": 9216, "tokens": TOKENS}

    def page(self, asked: dict[str, str]) -> dict[str, Any]:
        indices = list(range(self.count))
        if "path" in asked:
            indices = [index for index in indices if fnmatch.fnmatchcase(self.name(index), asked["path"])]
        start = int(asked["offset"])
        shown = indices[start : start + int(asked["limit"])]
        return {"total": len(indices), "images": [self.image(self.name(index)) for index in shown]}

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        """By words: 0.80, 0.75 ... of the images whose caption has them all; by a picture: it, then all others."""
        names = [file.name for file in self.files]
        if "query" in body:
            names = [name for name in names if all(word in self.captions[name] for word in body["query"].split())]
        elif "image" in body:
            names = [body["image"], *(name for name in names if name != body["image"])]
        else:
            base64.b64decode(body["like"].partition("base64,")[2], validate=True)
            names = names[::-1]
        scores = [round(0.8 - 0.05 * place, 2) for place in range(len(names))]
        found = [{**self.image(name), "score": score} for name, score in zip(names, scores, strict=True)]
        return {"results": found[: body["top"]]}

    def attention(self, body: dict[str, Any]) -> dict[str, Any]:
        """Token k drew on place k alone; the answer used token k for (k + 1) / 10."""
        self.may_attend.wait(30)
        rows, columns = GRID
        drawn = [[float(place == token) for place in range(rows * columns)] for token in range(TOKENS)]
        return {
            "grid": GRID,
            "seen": [1.0, 1.0],
            "compress": None if body["image"] in self.gone else drawn,
            "answer": [(token + 1) / 10 for token in range(TOKENS)],
            "text": ANSWER if body["question"] else self.captions[Path(body["image"]).name],
        }


class Handler(BaseHTTPRequestHandler):
    canned: Canned

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        static = WEB / (address.path.removeprefix("/static/") if address.path != "/" else "index.html")
        if static.parent == WEB and static.is_file():
            return self.reply(200, static.read_bytes(), mimetypes.guess_type(static.name)[0] or "text/plain")
        if self.refused():
            return None
        if address.path == "/album":
            return self.reply_json(self.about())
        if address.path == "/album/images":
            return self.reply_json(self.canned.page(asked))
        if address.path == "/album/picture":
            return self.reply(200, (ALBUM / Path(asked["image"]).name).read_bytes(), "image/png")
        return self.fail(404, "There is nothing at this address.")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return None
        self.canned.asked.append((self.path, body))
        if self.path == "/album/search":
            if body.get("query") == "refuse":
                return self.fail(400, "The text is too long: write a shorter one.")
            return self.reply_json(self.canned.search(body))
        if self.path == "/album/caption":
            self.canned.may_caption.wait(60)
            return self.reply_json({"image": body["image"], "caption": self.canned.captions[Path(body["image"]).name]})
        if self.path == "/album/attention":
            return self.reply_json(self.canned.attention(body))
        if self.path == "/v1/chat/completions":
            return self.stream()
        return self.fail(404, "There is nothing at this address.")

    def about(self) -> dict[str, Any]:
        told = {"model": "canned", "num_tokens": TOKENS, "bytes_per_row": 9216, "store": "album.store"}
        return {**told, "rows": self.canned.count, "image_bytes": 15484 * self.canned.count}

    def stream(self) -> None:
        if self.canned.full > 0:
            self.canned.full -= 1
            return self.fail(429, "The server is full; ask again in 1 s.", {"Retry-After": "1"})
        self.head(200, "text/event-stream")
        for part in re.findall(r" ?\w+,?", ANSWER):
            delta = {"choices": [{"index": 0, "delta": {"content": part}}]}
            self.wfile.write(f"data: {json.dumps(delta)}\n\n".encode())
            self.wfile.flush()
            time.sleep(self.canned.pause)
            if self.canned.breaks:
                return None
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def refused(self) -> bool:
        token = self.canned.token
        wrong = token is not None and self.headers.get("Authorization") != f"Bearer {token}"
        if wrong:
            self.fail(401, "This server asks for a token.")
        return wrong

    def fail(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps({"error": {"message": message}}).encode(), "application/json", headers)

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), "application/json")

    def reply(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.head(status, kind, {"Content-Length": str(len(content)), **(headers or {})})
        self.wfile.write(content)

    def head(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Security-Policy": POLICY, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *told: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that stops an answer closes its connection."""


@contextmanager
def serving(canned: Canned, port: int = 0) -> Iterator[str]:
    """The address of a fake server, as long as the block."""
    server = _Server(("127.0.0.1", port), type("Served", (Handler,), {"canned": canned}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--images", type=int, default=24)
    options = parser.parse_args()
    with serving(Canned(count=options.images, pause=0.1), options.port) as address:
        print(address, flush=True)
        threading.Event().wait()
