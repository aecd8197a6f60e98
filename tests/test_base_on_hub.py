"""Models whose base is one of the hub: looked for once, and named with its commit."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import tiny_compressor, tiny_llava
from tiny_runs import config, untrained_base

from fwd2bot import hub
from fwd2bot.checkpoint import base_folder, load_model, save_model
from fwd2bot.errors import InputError, ModelError
from fwd2bot.model import load
from fwd2bot.training.compressor import CompressorStage, find_base

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that holds its base."""
    return untrained_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def asked(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was asked for. It has a LLaVA, makers/llava, and a model that holds one, makers/small.llava-2."""
    names: list[str] = []
    for name, folder in (("llava", tiny_base / "base"), ("small.llava-2", tiny_base)):
        shutil.copytree(folder, tmp_path / f"cache/models--makers--{name}/snapshots/{COMMIT}")

    def download(name: str, patterns: Sequence[str]) -> Path:
        names.append(name)
        owner, _, repo = name.partition("@")[0].partition("/")
        return tmp_path / f"cache/models--{owner}--{repo}/snapshots/{COMMIT}"

    monkeypatch.setattr(hub, "download", download)
    return names


def test_a_base_of_the_hub_is_asked_for_once(tmp_path: Path, asked: list[str]) -> None:
    save_model(tmp_path / "small", tiny_compressor(), base="makers/llava@v1")
    shutil.rmtree(tmp_path / f"cache/models--makers--llava/snapshots/{COMMIT}")
    tiny_llava().save(tmp_path / f"cache/models--makers--llava/snapshots/{COMMIT}")
    model = load(tmp_path / "small")
    assert model.fingerprint.startswith("sha256:")
    assert asked == ["makers/llava@v1"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("makers/llava", f"makers/llava@{COMMIT}"),
        ("makers/llava@v1", f"makers/llava@{COMMIT}"),
        ("makers/llava@refs/pr/1", f"makers/llava@{COMMIT}"),
        ("makers/small.llava-2", f"makers/small.llava-2@{COMMIT}"),
        ("named", f"makers/llava@{COMMIT}"),
        ("holds", "../holds/base"),
    ],
)
def test_what_is_trained_names_its_base_with_the_commit(
    tmp_path: Path, tiny_base: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, given: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "named", load_model(tiny_base), base="makers/llava")
    shutil.copytree(tiny_base, tmp_path / "holds")
    stage = CompressorStage(config("fwd2bot", tmp_path / "out", Path(), init={"base": given}))
    before = len(asked)
    stage.save(tmp_path / "out")
    assert len(asked) == before <= 1, "the hub may be away when the training ends"
    assert json.loads((tmp_path / "out/config.json").read_text())["base"] == name
    weights = (tiny_base / "base/model.safetensors").read_bytes()
    assert (base_folder(tmp_path / "out") / "model.safetensors").read_bytes() == weights
    assert load_model(tmp_path / "out").num_tokens == 4


def test_a_name_that_is_no_id_is_refused(asked: list[str]) -> None:
    for given in ("nowhere", "a/b/c", "a/b@", "../a/b"):
        with pytest.raises(InputError, match=f"init.base is {given}, which is no folder; train that stage first"):
            find_base(given)
    assert asked == []


def test_a_base_of_the_hub_that_is_no_llava_is_refused(tmp_path: Path, asked: list[str]) -> None:
    save_model(tmp_path / "small", tiny_compressor(), base="makers/llava")
    found = tmp_path / f"cache/models--makers--llava/snapshots/{COMMIT}/config.json"
    found.write_text('{"model_type": "qwen2"}')
    with pytest.raises(ModelError, match=r"holds a model of type 'qwen2'; a fwd2bot or LLaVA-1.5 folder is needed"):
        base_folder(tmp_path / "small")  # never loaded: transformers would make a LLaVA of 7 billion weights of it


def test_only_folders_of_the_hubs_cache_have_a_name_there(tmp_path: Path) -> None:
    assert hub.name_of(tmp_path) is None
    assert hub.name_of(tmp_path / "models--gpt2/snapshots/abc") is None
    assert hub.name_of(tmp_path / "models--a--b-c.d/snapshots/abc") == "a/b-c.d@abc"
