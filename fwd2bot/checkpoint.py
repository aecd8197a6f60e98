"""Model folders: saved, loaded, fingerprinted. Weights are safetensors only.

    config.json                       {"fwd2bot": 1, "base": "base", "compressor": {...}}
    base/                             a LLaVA in the transformers layout; or "base" names a folder beside, or a hub id
    compress/, generate/, shared/     the adapters there are, in PEFT's layout
    summary_embeddings.safetensors    the compressor's own parameters, where it has any

A plain LLaVA folder counts as a model, too: every visual token, LLaVA-1.5's own template.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fwd2bot import adapters
from fwd2bot.compressors.base import Compressor, CompressorConfig
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.errors import InputError, ModelError
from fwd2bot.llava import Llava

FORMAT = 1
_OWN = "summary_embeddings.safetensors"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_BASE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer.model")
_VOLATILE = {"transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache"}
_TRAINING_ONLY = {"temperature", "initial_embeddings", "caption_question"}


def save_model(
    folder: Path, compressor: Compressor, *, base: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a model folder. `base` names a base that is saved elsewhere (relative to `folder`, or a hub id); None
    writes it to base/. `dtype` is that of the weights in the files."""
    folder.mkdir(parents=True, exist_ok=True)
    if base is None:
        compressor.llava.save(folder / "base", dtype)
    for name in adapters.adapter_names(compressor):
        adapters.save_adapter(compressor.llava.network, name, folder / name, dtype)
    own = {name: p.detach().to("cpu", dtype).contiguous() for name, p in compressor.named_parameters(recurse=False)}
    if own:
        save_file(own, folder / _OWN)
    content = {"fwd2bot": FORMAT, "base": base or "base", "compressor": compressor.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def load_model(folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Compressor:
    """Reads a model folder, ours or a plain LLaVA's, for use; adapters take `dtype`, too.

    Raises ModelError when a file is missing or damaged, when shapes do not fit, or when it is no LLaVA.
    """
    config, base = _read_config(folder)
    try:
        compressor = make_compressor(Llava.from_folder(base, dtype), config)
    except InputError as error:
        raise ModelError(f"{folder} does not fit: {error}") from error
    for name in adapters.adapter_names(compressor):
        adapters.load_adapter(compressor.llava.network, name, folder / name)
    _load_own(compressor, folder / _OWN)
    for parameter in compressor.own_parameters().values():
        parameter.data = parameter.data.to(dtype)
    return compressor.requires_grad_(False).eval().to(device)


def fingerprint(folder: Path) -> str:
    """A tagged hash, "sha256:...", over all that makes a row: weights, tokenizer, preprocessing, settings.

    Costs one reading of the files. Weights in another dtype are other weights.
    """
    config, base = _read_config(folder)
    settings = {name: value for name, value in config.to_dict().items() if name not in _TRAINING_ONLY}
    total = hashlib.sha256(_canonical(settings))
    for path in _hashed_files(folder, base):
        role = path.relative_to(base) if path.is_relative_to(base) else path.relative_to(folder)
        total.update(f"\n{role.as_posix()} {_file_hash(path)}".encode())
    return f"sha256:{total.hexdigest()}"


def base_folder(folder: Path) -> Path:
    """Where the LLaVA of a model folder is. Raises ModelError as `load_model` does."""
    return _read_config(folder)[1]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model folder and of its base."""
    return [path for path in _hashed_files(folder, _read_config(folder)[1]) if path.suffix == ".safetensors"]


def find_on_hub(name: str) -> Path:
    """Downloads a model's files from the hub and gives their folder. Raises ModelError when that fails."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # its errors have no common base: network, name, rights, disk
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name!r} is no folder here and cannot be fetched from the hub: {reason}") from error


def _read_config(folder: Path) -> tuple[CompressorConfig, Path]:
    """The settings and the base's folder."""
    content = _read_json(folder / "config.json")
    if "fwd2bot" not in content:
        if content.get("model_type") != "llava":
            kind = content.get("model_type", "unknown")
            raise ModelError(f"{folder} holds a model of type {kind!r}; a fwd2bot or LLaVA-1.5 folder is needed.")
        return CompressorConfig(compressor="identity", adapters="none", template="vicuna_v1"), folder
    if content["fwd2bot"] != FORMAT:
        raise ModelError(f"{folder} has format {content['fwd2bot']}, this version reads {FORMAT}; update fwd2bot.")
    try:
        config = CompressorConfig.from_dict(content["compressor"])
        base = folder / content["base"]
    except (KeyError, TypeError, InputError) as error:
        raise ModelError(f"{folder / 'config.json'} is damaged ({error}); save or download the model again.") from error
    if not base.is_dir():
        if content["base"].startswith(".") or content["base"].count("/") != 1:
            raise ModelError(f"{folder} needs its base model, and {base} is not there; put it there.")
        base = find_on_hub(content["base"])
    return config, base


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} is no model folder: it has no {path.name}.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); save or download the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it is no JSON object; save or download the model again.")
    return content


def _load_own(compressor: Compressor, path: Path) -> None:
    own = dict(compressor.named_parameters(recurse=False))
    if not own:
        return
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({error}); save or download the model again.") from error
    for name, parameter in own.items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            got = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ModelError(f"{path} does not fit: {name} is {got}, this model needs {tuple(parameter.shape)}.")
        with torch.no_grad():
            parameter.copy_(tensors[name])


def _hashed_files(folder: Path, base: Path) -> Iterator[Path]:
    yield from sorted(base.glob("*.safetensors"))
    yield from (base / name for name in _BASE_FILES if (base / name).exists())
    if folder != base:
        yield from sorted(path for path in folder.glob("*.safetensors"))
        yield from sorted(path for name in ("compress", "generate", "shared") for path in folder.glob(f"{name}/*.*"))


def _file_hash(path: Path) -> str:
    """Of the content; of JSON, without what a mere re-save changes."""
    if path.suffix == ".json":
        return hashlib.sha256(_canonical(_without_volatile(_read_json(path)))).hexdigest()
    cached = Path(os.path.realpath(path)).name  # the hub's cache names a large file by this very hash
    if path.is_symlink() and len(cached) == 64:
        return cached
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_volatile(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_volatile(value) for name, value in content.items() if name not in _VOLATILE}
    return content


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
