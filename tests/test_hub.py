"""Models go to the hub and come back. The hub is a small server on this machine, asked by the real client."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import close_session, constants
from PIL import Image
from tiny import tiny_compressor, tiny_llava

from fwd2bot import checkpoint, hub
from fwd2bot.checkpoint import save_model
from fwd2bot.cli import main
from fwd2bot.errors import InputError, ModelError
from fwd2bot.model import Fwd2Bot, bundled_names, load

SHA = "0123456789" * 4


class FakeHub(ThreadingHTTPServer):
    """Repositories are folders, each with one version; whoever sends no token that may write is refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.private: dict[str, object] = {}
        self.messages: list[str] = []
        self.refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer

    def files(self, repo: str) -> list[Path]:
        return sorted(path for path in (self.folder / repo).rglob("*") if path.is_file())


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self.read()

    def do_HEAD(self) -> None:
        self.read()

    def read(self) -> None:
        place = self.path.partition("?")[0]
        if self.server.refusal is not None:
            return self.refuse(*self.server.refusal)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", place):
            return self.send_file(self.server.folder / found[1] / found[3])
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/([^/]+))?", place)
        if found is None:
            return self.refuse(404)
        repo, what, version = found.groups()
        if not (self.server.folder / repo).is_dir():
            return self.refuse(404, "RepoNotFound")
        if version not in (None, "main", "v1", SHA):
            return self.refuse(404, "RevisionNotFound")
        if what != "tree":
            return self.reply({"id": repo, "sha": SHA, "siblings": []})
        root = self.server.folder / repo
        files = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in self.server.files(repo)]
        return self.reply([{"type": "file", "path": path, "size": size, "oid": "0" * 40} for path, size in files])

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        body = self.chunks() if length is None else self.rfile.read(int(length))
        if self.server.refusal is not None:
            return self.refuse(*self.server.refusal)
        if self.headers["Authorization"] != "Bearer writes":
            return self.refuse(403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            (self.server.folder / repo).mkdir(parents=True, exist_ok=True)
            self.server.private[repo] = asked.get("visibility")
            return self.reply({"url": f"{self.server.address}/{repo}"})
        if self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            return self.reply({})
        if self.path.endswith("/preupload/main"):
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.reply({"files": [{"path": one["path"], **modes} for one in json.loads(body)["files"]]})
        repo = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        self.commit(self.server.folder / repo, body)
        address = f"{self.server.address}/{repo}/commit/{SHA}"
        return self.reply({"success": True, "commitOid": SHA, "commitUrl": address})

    def commit(self, repo: Path, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "deletedFile":
                (repo / value["path"]).unlink()
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                (repo / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (repo / value["path"]).write_bytes(base64.b64decode(value["content"]))

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send_file(self, path: Path) -> None:
        content = path.read_bytes()
        self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA})

    def refuse(self, status: int, code: str = "") -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"} if code else {})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that everything here talks to, as somebody who may write."""
    fake = FakeHub(tmp_path / "hub")
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, fake.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "ENDPOINT", fake.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses"), raising=False)
    monkeypatch.setenv("HF_TOKEN", "writes")
    monkeypatch.setenv("NO_PROXY", "*")
    close_session()
    thread = Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    close_session()
    fake.shutdown()
    thread.join()
    fake.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained model: its base beside it, and what else training leaves."""
    save_model(tmp_path / "runs/llava", tiny_compressor("identity", adapters="none"))
    save_model(tmp_path / "runs/small", tiny_compressor(token_counts=(1, 2, 4)), base="../llava/base")
    (tmp_path / "runs/small/README.md").write_text("---\nlicense: mit\ntags:\n- emoji\n---\n\n# small\n\nA card.\n")
    (tmp_path / "runs/small/metrics.jsonl").write_text("{}\n")
    (tmp_path / "runs/small/checkpoint").mkdir()
    (tmp_path / "runs/small/checkpoint/state.safetensors").write_bytes(b"large")
    return tmp_path / "runs/small"


def head(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


PICTURES = [Image.new("RGB", (20, 16), "red"), Image.new("RGB", (16, 16), "blue")]
QUESTIONS = ["what is at the top left ?", "x"]


# There and back.


def test_a_model_comes_back_from_the_hub_as_it_went(server: FakeHub, folder: Path) -> None:
    model = load(folder)
    address = model.push_to_hub("someone/small", private=True, commit_message="first")
    again = Fwd2Bot.from_pretrained("someone/small")
    assert address == f"{server.address}/someone/small/commit/{SHA}"
    assert (server.private, server.messages) == ({"someone/small": "private"}, ["first"])
    assert (again.name, again.source) == ("someone/small", "someone/small")
    assert again.fingerprint == model.fingerprint
    tokens = model.compress(PICTURES)
    assert again.compress(PICTURES).equal(tokens)
    assert again.answer(tokens, QUESTIONS, max_new_tokens=8) == model.answer(tokens, QUESTIONS, max_new_tokens=8)
    assert load("someone/small@v1").fingerprint == model.fingerprint


def test_a_model_is_pushed_as_the_command_says(server: FakeHub, folder: Path) -> None:
    assert main(["push", str(folder), "someone/small", "--private", "--message", "by the command"]) == 0
    assert (server.private, server.messages) == ({"someone/small": "private"}, ["by the command"])


def test_only_the_model_goes_to_the_hub(server: FakeHub, folder: Path) -> None:
    load(folder).push_to_hub("someone/small")
    there = {path.relative_to(server.folder / "someone/small").as_posix() for path in server.files("someone/small")}
    assert {"README.md", "config.json", "base/model.safetensors", "base/tokenizer.json"} < there
    assert {path.partition("/")[0] for path in there} == {
        "README.md", "base", "compress", "config.json", "generate", "summary_embeddings.safetensors"
    }  # fmt: skip
    assert server.private == {"someone/small": None}


def test_the_card_on_the_hub_says_what_it_is_and_how_it_is_used(server: FakeHub, folder: Path) -> None:
    load(folder).push_to_hub("someone/small")
    card = (server.folder / "someone/small/README.md").read_text()
    assert head(card) == {
        "license": "mit",
        "tags": ["emoji", "fwd2bot", "llava"],
        "library_name": "fwd2bot",
        "pipeline_tag": "image-text-to-text",
    }
    assert card.split("---\n")[2].startswith("\n# small\n\nA card.\n")
    assert 'fwd2bot.load("someone/small")' in card
    load("someone/small").push_to_hub("someone/small")
    assert (server.folder / "someone/small/README.md").read_text() == card


def test_a_base_of_the_hub_is_named_and_not_copied(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llava().save(server.folder / "makers/llava")
    save_model(tmp_path / "small", tiny_compressor(), base="makers/llava@v1")
    model = load(tmp_path / "small")
    model.push_to_hub("small")
    there = server.folder / "me/small"
    assert sorted(path.name for path in there.iterdir()) == [
        "README.md", "compress", "config.json", "generate", "summary_embeddings.safetensors"
    ]  # fmt: skip
    told = head((there / "README.md").read_text())
    assert (told["base_model"], told["base_model_relation"]) == ("makers/llava", "adapter")
    assert "# small\n" in (there / "README.md").read_text()
    assert load("me/small").fingerprint == model.fingerprint


def test_a_plain_llava_stays_one(server: FakeHub, tmp_path: Path) -> None:
    tiny_llava().save(tmp_path / "llava")
    model = load(tmp_path / "llava")
    model.push_to_hub("someone/llava")
    card = (server.folder / "someone/llava/README.md").read_text()
    assert head(card)["library_name"] == "transformers"
    assert "fwd2bot.load" not in card
    assert load("someone/llava").fingerprint == model.fingerprint


def test_what_is_no_longer_part_of_the_model_goes(server: FakeHub, tmp_path: Path) -> None:
    there = server.folder / "someone/small"
    Fwd2Bot(tiny_compressor(adapters="single")).push_to_hub("someone/small")
    (there / "pictures").mkdir()
    (there / "pictures/a.png").write_bytes(b"mine")
    assert (there / "shared/adapter_model.safetensors").exists()
    Fwd2Bot(tiny_compressor()).push_to_hub("someone/small")
    assert not (there / "shared/adapter_model.safetensors").exists()
    assert (there / "pictures/a.png").exists()
    assert (there / "generate/adapter_model.safetensors").exists()


def test_a_token_may_be_given(server: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    load(folder).push_to_hub("someone/small", token="writes")
    assert server.files("someone/small")


# A folder.


def test_a_saved_model_needs_nothing_beside_it(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    fingerprint = model.fingerprint
    model.save_pretrained(tmp_path / "deep/copy")
    shutil.rmtree(folder.parent)
    again = load(tmp_path / "deep/copy")
    assert again.fingerprint == fingerprint
    assert again.compress(PICTURES).equal(model.compress(PICTURES))
    assert json.loads((tmp_path / "deep/copy/config.json").read_text())["base"] == "base"
    assert head((tmp_path / "deep/copy/README.md").read_text())["license"] == "mit"
    assert [path.name for path in tmp_path.joinpath("deep").iterdir()] == ["copy"]


def test_a_model_in_memory_is_saved_as_it_is(tmp_path: Path) -> None:
    compressor = tiny_compressor()
    Fwd2Bot(compressor).save_pretrained(tmp_path / "tiny")
    model = load(tmp_path / "tiny")
    assert model.compress(PICTURES).allclose(Fwd2Bot(compressor).compress(PICTURES), atol=1e-5)
    assert (tmp_path / "tiny/README.md").read_text().endswith("# tiny\n\nA LLaVA with the compressor `fwd2bot`.\n")


def test_a_model_whose_base_is_gone_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    shutil.rmtree(folder.parent / "llava")
    with pytest.raises(ModelError, match="small needs its base model"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# Refusals.


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (
            401,
            "RepoNotFound",
            "it is not there, or private; check the name, and for a private model log in",
        ),
        (404, "RepoNotFound", "it is not there, or private"),
        (403, "GatedRepo", r"it is gated; ask for access at http://\S+/someone/small, then log in with"),
        (404, "RevisionNotFound", "it has no version 'v7'; name a branch, a tag or a commit of it"),
        (403, "", r"your token may not read it; take one that may, see http://\S+/settings/tokens"),
        (500, "", r"http://\S+ answers with an error of its own \(500\); try again later"),
        (418, "", "LocalEntryNotFoundError: Got: HfHubHTTPError"),
    ],
    ids=["no token", "no model", "gated", "no version", "no right", "broken", "other"],
)
def test_a_hub_that_does_not_give_says_what_to_do(server: FakeHub, status: int, code: str, remedy: str) -> None:
    server.refusal = (status, code)
    with pytest.raises(ModelError, match=remedy) as error:
        load("someone/small@v7")
    assert str(error.value).startswith("'someone/small@v7' is no folder here and cannot be fetched from the hub: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "token", "refusal", "remedy"),
    [
        ("someone/small", "", None, "it must know who you are; log in with `hf auth login`, or set HF_TOKEN"),
        ("someone/small", "reads", None, "your token may not write there; take one that may, see"),
        ("someone/small", "old", (401, ""), "your token is not accepted; log in with `hf auth login`"),
        ("a/b/c", "writes", None, "that is no hub id; write owner/name"),
    ],
    ids=["no token", "no right", "old token", "no id"],
)
def test_a_hub_that_does_not_take_says_what_to_do(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, token: str, refusal: tuple[int, str], remedy: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.refusal = refusal
    with pytest.raises(ModelError, match=f"'{name}' cannot be put on the hub: {remedy}") as error:
        Fwd2Bot(tiny_compressor()).push_to_hub(name)
    assert "\n" not in str(error.value)
    assert not server.messages


def test_no_network_is_told_both_ways(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"fetched from the hub: http://127.0.0.1:1 cannot be reached; check the conn"):
        load("someone/small")
    with pytest.raises(ModelError, match=r"put on the hub: http://127.0.0.1:1 cannot be reached; check the connection"):
        hub.upload("someone/small", {"config.json": b"{}"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set; unset it, or give a folder"):
        load("someone/small")


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(ModelError, match="the disk is full; free some, or set HF_HOME to a folder on another disk"):
        checkpoint.find_on_hub("someone/small")


@pytest.mark.parametrize("text", ["---\n- a list\n---\n", "---\na: [\n---\n"])
def test_a_card_with_a_broken_head_is_told(text: str) -> None:
    with pytest.raises(ModelError, match=r"The head of README.md, between the lines ---, is no YAML mapping"):
        hub.with_head(text, {"license": "mit"})


def test_a_card_keeps_its_text_and_its_own_words() -> None:
    card = hub.with_head("# A\n\n---\n\nb\n", {"license": "mit", "tags": ["a"]})
    assert card == "---\nlicense: mit\ntags:\n- a\n---\n\n# A\n\n---\n\nb\n"
    assert hub.with_head(card, {"license": "apache-2.0", "tags": ["a", "b"]}) == card.replace("- a\n", "- a\n- b\n")
    assert hub.with_head("---\n---\nx", {"license": "mit"}) == "---\nlicense: mit\n---\nx"


def test_a_folder_that_is_taken_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match="is there already; name a folder that is new or empty"):
        load(folder).save_pretrained(folder)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "the disk is full; free some, or name a folder on another disk"),
        (checkpoint.SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (PermissionError(13, "Permission denied"), "Permission denied; name another folder"),
        (checkpoint.SafetensorError("odd"), "odd; name another folder"),
    ],
    ids=["full", "full for safetensors", "no right", "other"],
)
def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing(
    tmp_path: Path, error: Exception, sentence: str
) -> None:
    def write() -> None:
        with checkpoint.new_folder(tmp_path / "target") as new:
            (new / "half").write_text("x")
            raise error

    with pytest.raises(InputError, match=f"target cannot be written: {sentence}"):
        write()
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_may_be_there_but_no_file(tmp_path: Path) -> None:
    with checkpoint.new_folder(tmp_path) as new:
        (new / "a").write_text("x")
    assert (tmp_path / "a").read_text() == "x"
    with pytest.raises(InputError, match="a is there already"), checkpoint.new_folder(tmp_path / "a"):
        pass
    with pytest.raises(InputError, match="cannot be written: File exists"), checkpoint.new_folder(tmp_path / "a/b"):
        pass


# The document.


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_document_says_what_works(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "emoji-world" not in bundled_names():
        pytest.skip("needs the bundled model emoji-world")
    pytest.importorskip("peft", reason="needs peft, to read adapters as others do")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs/sharing.md").read_text()
    hub_code, peft_code, _ = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(hub_code, "docs/sharing.md", "exec"), names)
    assert server.private == {"someone/emoji-world": "private"}
    exec(compile(peft_code, "docs/sharing.md", "exec"), names)
    llava, reader = names["model"].compressor.llava, names["reader"]
    reader.load_adapter("shared/emoji-world/compress", "compress")
    reader.to(llava.device)
    rows = torch.randn(2, 9, llava.width, generator=torch.Generator().manual_seed(0)).to(llava.device)
    for adapter, stage in (("default", "generate"), ("compress", "compress")):
        reader.set_adapter(adapter)
        with torch.no_grad():
            theirs = reader(inputs_embeds=rows).logits
            torch.testing.assert_close(theirs, llava.logits(llava.run(rows, stage=stage)), rtol=1e-3, atol=1e-3)
