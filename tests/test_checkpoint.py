import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_compressor, tiny_llava, tiny_pixels

from fwd2bot import checkpoint
from fwd2bot.checkpoint import fingerprint, load_model, model_files, save_model
from fwd2bot.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", tiny_compressor())
    return tmp_path / "model"


def change(path, name, value):
    content = json.loads(path.read_text())
    content[name] = value
    path.write_text(json.dumps(content))


def test_a_model_folder_has_the_documented_files(folder):
    assert {path.name for path in folder.iterdir()} == {
        "base",
        "compress",
        "config.json",
        "generate",
        "summary_embeddings.safetensors",
    }
    assert json.loads((folder / "config.json").read_text())["base"] == "base"
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_weights_of_a_methods_modules_are_saved_fingerprinted_and_loaded_in_the_dtype(tmp_path):
    compressor = tiny_compressor("token_packer")
    save_model(tmp_path, compressor)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "compressor.safetensors", "config.json", "generate"}
    kept = load_file(tmp_path / "compressor.safetensors")
    assert kept.keys() == {f"packer.{name}" for name, _ in compressor.packer.named_parameters()}
    assert {parameter.dtype for parameter in load_model(tmp_path, torch.bfloat16).packer.parameters()} == {
        torch.bfloat16
    }
    before = fingerprint(tmp_path)
    kept["packer.query.weight"][0, 0] += 1.0
    save_file(kept, tmp_path / "compressor.safetensors")
    assert fingerprint(tmp_path) != before
    del kept["packer.query.weight"]
    save_file(kept, tmp_path / "compressor.safetensors")
    with pytest.raises(ModelError, match=r"packer\.query\.weight is missing, this model needs"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_saved_again_it_has_the_same_fingerprint(tmp_path, dtype):
    save_model(tmp_path / "one", tiny_compressor(), dtype=dtype)
    save_model(tmp_path / "two", load_model(tmp_path / "one"), dtype=dtype)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert fingerprint(tmp_path / "one").startswith("sha256:")
    pixels = tiny_pixels(2)
    assert torch.equal(load_model(tmp_path / "one").compress(pixels), load_model(tmp_path / "two").compress(pixels))


@pytest.mark.parametrize(
    "file",
    [
        "base/model.safetensors",
        "compress/adapter_model.safetensors",
        "generate/adapter_model.safetensors",
        "summary_embeddings.safetensors",
    ],
)
def test_every_weight_is_in_the_fingerprint(folder, file):
    before = fingerprint(folder)
    tensors = load_file(folder / file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, folder / file, metadata={"format": "pt"})
    assert fingerprint(folder) != before


def test_prompt_and_preprocessing_are_in_the_fingerprint_but_not_the_temperature(folder):
    fingerprints = {fingerprint(folder)}
    content = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", "compressor", {**content["compressor"], "temperature": 0.5})
    assert {fingerprint(folder)} == fingerprints
    change(folder / "config.json", "compressor", {**content["compressor"], "prompt": "in a word"})
    fingerprints.add(fingerprint(folder))
    change(folder / "base" / "preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5])
    fingerprints.add(fingerprint(folder))
    change(folder / "generate" / "adapter_config.json", "lora_alpha", 5)
    fingerprints.add(fingerprint(folder))
    assert len(fingerprints) == 4


def test_the_folder_may_move(folder, tmp_path):
    before = fingerprint(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere") == before


def test_a_base_may_stand_beside(tmp_path):
    compressor, pixels = tiny_compressor(), tiny_pixels(2)
    save_model(tmp_path / "base", tiny_compressor("identity", adapters="none"))
    save_model(tmp_path / "small", compressor, base="../base/base")
    assert not (tmp_path / "small" / "base").exists()
    assert torch.equal(load_model(tmp_path / "small").compress(pixels), compressor.compress(pixels))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelError, match="needs its base model"):
        load_model(tmp_path / "small")


@pytest.mark.parametrize("kind", ["single", "full"])
def test_other_kinds_of_adapters_come_back(tmp_path, kind):
    compressor, pixels = tiny_compressor(adapters=kind), tiny_pixels(2)
    with torch.no_grad():
        if kind == "full":
            compressor.llava.network.lm_head.weight.add_(1)
    save_model(tmp_path, compressor)
    again = load_model(tmp_path)
    assert torch.equal(again.compress(pixels), compressor.compress(pixels))
    assert torch.equal(again.llava.network.lm_head.weight, compressor.llava.network.lm_head.weight)


def test_a_plain_llava_folder_is_a_model(tmp_path):
    llava, pixels = tiny_llava(), tiny_pixels(2)
    llava.save(tmp_path)
    compressor = load_model(tmp_path)
    assert compressor.config.template == "vicuna_v1"
    assert torch.equal(compressor.compress(pixels), llava.visual_tokens(pixels))
    assert fingerprint(tmp_path).startswith("sha256:")


def test_loaded_in_another_dtype_all_weights_have_it(folder):
    compressor = load_model(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in compressor.parameters()} == {torch.bfloat16}
    assert compressor.llava.network.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert compressor.compress(tiny_pixels(1)).dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in compressor.parameters())


def damage(folder, how):
    config = json.loads((folder / "config.json").read_text())
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no json":
        (folder / "config.json").write_text("{'")
    elif how == "a list":
        (folder / "config.json").write_text("[]")
    elif how == "another model":
        (folder / "config.json").write_text('{"model_type": "qwen2"}')
    elif how == "newer":
        change(folder / "config.json", "fwd2bot", 99)
    elif how == "unknown setting":
        change(folder / "config.json", "compressor", {"tokens_per_image": 4})
    elif how == "unknown compressor":
        change(folder / "config.json", "compressor", {**config["compressor"], "compressor": "pru_merge"})
    elif how == "no settings":
        change(folder / "config.json", "compressor", None)
    elif how == "no base":
        shutil.rmtree(folder / "base")
    elif how == "no adapter":
        shutil.rmtree(folder / "generate")
    elif how == "no summary":
        (folder / "summary_embeddings.safetensors").unlink()
    elif how == "other summary":
        save_file({"summary_embeddings": torch.zeros(2, 32)}, folder / "summary_embeddings.safetensors")
    elif how == "cut weights":
        path = folder / "base" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "other weights":
        shutil.rmtree(folder / "base")
        llava = tiny_llava()
        llava.network.lm_head.weight = torch.nn.Parameter(torch.zeros(10, 32))
        llava.save(folder / "base")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("no config", "is no model folder: it has no config.json"),
        ("no json", "cannot be read"),
        ("a list", "is no JSON object"),
        ("another model", "a model of type 'qwen2'; a fwd2bot or LLaVA-1.5 folder is needed"),
        ("newer", "has format 99, this version reads 1; update fwd2bot"),
        ("unknown setting", "damaged .*'tokens_per_image' is no setting"),
        ("unknown compressor", "no compressor 'pru_merge'"),
        ("no settings", "is damaged"),
        ("no base", "needs its base model"),
        ("no adapter", "adapter in .*generate cannot be read"),
        ("no summary", "summary_embeddings.safetensors cannot be read"),
        ("other summary", r"summary_embeddings is \(2, 32\), this model needs \(4, 32\)"),
        ("cut weights", "cannot be loaded as a LLaVA"),
        ("other weights", "cannot be loaded as a LLaVA"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_a_damaged_folder_is_a_model_error(folder, how, sentence):
    damage(folder, how)
    with pytest.raises(ModelError, match=sentence):
        load_model(folder)


@pytest.mark.parametrize("shared", [False, True], ids=["in the repository", "in the store of all repositories"])
def test_a_file_of_the_hubs_cache_is_known_by_its_name(tmp_path, shared):
    name, content = "ab" * 32, tmp_path / "blobs/cd" / ("cd" * 32)  # of the content, and what Xet calls it
    path, blob = tmp_path / "models--a--b/snapshots/1/base/model.safetensors", tmp_path / "models--a--b/blobs" / name
    for one in (path, blob, content):
        one.parent.mkdir(parents=True)
    content.write_bytes(b"weights")
    blob.symlink_to(f"../../blobs/cd/{content.name}") if shared else blob.write_bytes(b"weights")
    path.symlink_to(f"../../../blobs/{name}")
    assert path.read_bytes() == b"weights"
    assert checkpoint._content_hash(path) == name


def test_a_link_to_elsewhere_is_read(tmp_path):
    for target in (tmp_path / "blobs/cd" / ("cd" * 32), tmp_path / "blobs" / ("a" * 40), tmp_path / ("ab" * 32)):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"weights")
        path = tmp_path / f"{target.name}.safetensors"
        path.symlink_to(target)
        assert checkpoint._content_hash(path) == hashlib.sha256(b"weights").hexdigest()


def test_what_others_leave_in_the_folder_is_no_part_of_the_model(folder):
    before, files = fingerprint(folder), model_files(folder)
    strays = ("._summary_embeddings.safetensors", "base/._model.safetensors", "base/._config.json",
              "compress/.DS_Store", "generate/._adapter_model.safetensors", "generate/README.md")  # fmt: skip
    for name in strays:
        (folder / name).write_bytes(b"stray")
    assert (fingerprint(folder), model_files(folder)) == (before, files)
    assert not [path for path in checkpoint.weight_files(folder) if path.name.startswith(".")]


@pytest.mark.parametrize("crops", [True, False])
def test_rows_of_pictures_that_were_cut_are_another_models(folder, monkeypatch, crops):
    """They were cut to a square before they were padded to one; the files are the same."""
    change(folder / "base/preprocessor_config.json", "do_pad", None)
    change(folder / "base/preprocessor_config.json", "do_center_crop", crops)
    now = fingerprint(folder)
    monkeypatch.setattr(checkpoint, "pads_pictures", lambda base: False)
    assert (fingerprint(folder) == now) == (not crops)


def test_a_preprocessing_that_cannot_be_read_is_a_model_error(folder):
    (folder / "base/preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"The preprocessing of .*base cannot be read: "):
        fingerprint(folder)


def test_a_hub_that_cannot_be_reached_is_a_model_error():
    with pytest.raises(ModelError, match="'someone/some-model' is no folder here and cannot be fetched from the hub"):
        checkpoint.find_on_hub("someone/some-model")
