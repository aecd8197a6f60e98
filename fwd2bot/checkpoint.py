"""Model folders: saved, loaded, copied, fingerprinted. Weights are safetensors only.

    config.json                       {"fwd2bot": 1, "base": "base", "compressor": {...}}
    base/                             a LLaVA in the transformers layout; or "base" names a folder beside, or a hub id
    compress/, generate/, shared/     the adapters there are, in PEFT's layout
    summary_embeddings.safetensors    the compressor's own embeddings; of a method with modules compressor.safetensors

A plain LLaVA folder counts as a model, too: every visual token, LLaVA-1.5's own template.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fwd2bot import adapters, hub
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.disk import file_hash
from fwd2bot.errors import InputError, ModelError
from fwd2bot.llava import Llava
from fwd2bot.preprocessing import pads_pictures

FORMAT = 1
_EMBEDDINGS, _MODULES = "summary_embeddings.safetensors", "compressor.safetensors"
_ADAPTERS = ("compress", "generate", "shared")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LAYOUT = ("base/", *(f"{name}/" for name in _ADAPTERS), _EMBEDDINGS, _MODULES)
"""Where the weights of a model are, within its folder."""
_BASE_KINDS = (".json", ".safetensors", ".model", ".txt", ".jinja")
_HUB_FILES = [*(f"*{kind}" for kind in _BASE_KINDS), "README.md"]
_BASE_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer.model")
_TOWER_FILES = ("open_clip_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                "vocab.json")  # fmt: skip
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
    own = {name: p.detach().to("cpu", dtype).contiguous() for name, p in compressor.added_parameters().items()}
    if own:
        save_file(own, folder / _own_file(own))
    content = {"fwd2bot": FORMAT, "base": base or "base", "compressor": compressor.config.to_dict()}
    (folder / "config.json").write_text(_as_json(content), "utf-8")


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    base: Path | None = None,
) -> Compressor:
    """Reads a model folder, ours or a plain LLaVA's, for use; adapters take `dtype`, too.

    base: what `base_folder` gave, here and below; None: it is looked for.
    Raises ModelError when a file is missing or damaged, when shapes do not fit, or when it is no LLaVA.
    """
    config, base = _read_config(folder, base)
    try:
        compressor = make_compressor(Llava.from_folder(base, dtype), config)
    except InputError as error:
        raise ModelError(f"{folder} does not fit: {error}") from error
    for name in adapters.adapter_names(compressor):
        adapters.load_adapter(compressor.llava.network, name, folder / name)
    _load_own(compressor, folder)
    for parameter in compressor.own_parameters().values():
        parameter.data = parameter.data.to(dtype)
    return compressor.requires_grad_(False).eval().to(device)


def fingerprint(folder: Path, base: Path | None = None) -> str:
    """A tagged hash, "sha256:...", over what makes a row: weights, tokenizer.json, preprocessing, settings.

    Costs one reading of the files. Weights in another dtype are other weights. Not in it is which of its tokens
    tokenizer_config.json calls the first and the last.
    """
    config, base = _read_config(folder, base)
    settings = {name: value for name, value in config.to_dict().items() if name not in _TRAINING_ONLY}
    try:
        padded = pads_pictures(base)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"The preprocessing of {base} cannot be read: {reason}") from error
    if padded:
        settings["pictures"] = "padded"  # older rows are of pictures that were cut to a square
    return _fingerprint(settings, folder, base, _hashed_files(folder, base))


def fingerprint_as_it_is(folder: Path, base: Path) -> Callable[[], str]:
    """`fingerprint`, for later: it raises ModelError when the files are no longer what they are now."""
    return partial(_fingerprint_of, folder, base, _states(folder, base))


def _fingerprint_of(folder: Path, base: Path, before: Any) -> str:
    taken = fingerprint(folder, base)
    if _states(folder, base) != before:
        raise ModelError(f"{folder} has changed since the model was loaded; load it again.")
    return taken


def plain_fingerprint(folder: Path) -> str:
    """The same of a tower of transformers or OpenCLIP, so of the files alone, whatever its tokenizer is read from."""
    named = [path for name in _TOWER_FILES if (path := folder / name).exists()]
    vocabularies = sorted([*_visible(folder, "*.model"), *_visible(folder, "*.txt")])
    return _fingerprint({}, folder, folder, dict.fromkeys([*_hashed_files(folder, folder), *named, *vocabularies]))


def _fingerprint(settings: dict[str, Any], folder: Path, base: Path, files: Iterable[Path]) -> str:
    total = hashlib.sha256(_canonical(settings))
    for path in files:
        role = path.relative_to(base) if path.is_relative_to(base) else path.relative_to(folder)
        total.update(f"\n{role.as_posix()} {_content_hash(path)}".encode())
    return f"sha256:{total.hexdigest()}"


def base_folder(folder: Path) -> Path:
    """Where the LLaVA of a model folder is. Raises ModelError as `load_model` does."""
    return _read_config(folder)[1]


def weight_files(folder: Path, base: Path | None = None) -> list[Path]:
    """The safetensors of a model folder and of its base."""
    return [path for path in _hashed_files(folder, base or base_folder(folder)) if path.suffix == ".safetensors"]


def find_on_hub(name: str) -> Path:
    """Downloads a model's files from the hub and gives their folder. Raises ModelError when that fails."""
    return hub.download(name, _HUB_FILES)


def model_files(folder: Path, name: str = "") -> dict[str, Path | bytes]:
    """What makes a model, by its place in a folder that needs nothing beside it.

    `name` is what it will be called there; with a hub id the card says how it is used. A base that lies elsewhere here
    comes with it, one of the hub is named only. The card gets the head that the hub reads. What training leaves
    (checkpoints, metrics) is no part of it. Raises ModelError as `load_model` does.
    """
    config, base = _read_settings(folder)
    card = _card(folder, config, base, name).encode()
    files: dict[str, Path | bytes] = {"config.json": folder / "config.json", "README.md": card}
    if base != ".":
        files |= {path.relative_to(folder).as_posix(): path for path in _own_files(folder)}
    if _base_on_hub(folder, base):
        return files
    found = _base_folder(folder, base)
    within = "" if base == "." else "base/"
    files |= {within + path.name: path for path in _visible(found, "*") if path.suffix in _BASE_KINDS}
    if base not in (".", "base"):
        files["config.json"] = _as_json({**_read_json(folder / "config.json"), "base": "base"}).encode()
    return files


def copy_model(folder: Path, target: Path) -> None:
    """The files of a model as they are, so with the same fingerprint, in a new folder that needs nothing beside it.

    Raises ModelError as `load_model` does, InputError as `new_folder` does.
    """
    files = model_files(folder, target.name)
    with new_folder(target) as new:
        for place, content in files.items():
            (new / place).parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                (new / place).write_bytes(content)
            else:
                shutil.copyfile(content, new / place)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in: it takes the name `folder` when all is written, and is gone where that fails.

    Raises InputError when something is there already, and when it cannot be written: no room, no right.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise InputError(f"{folder} is there already; name a folder that is new or empty.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as beside:
            new = Path(beside) / folder.name
            new.mkdir()
            yield new
            new.replace(folder)
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))  # safetensors tells the number in its text alone
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            message = f"{folder} cannot be written: the disk is full; free some, or name a folder on another disk."
            raise InputError(message) from error
        reason = os.strerror(number) if number else " ".join(str(error).split())[:200]
        raise InputError(f"{folder} cannot be written: {reason}; name another folder.") from error


def _card(folder: Path, config: CompressorConfig, base: str, name: str) -> str:
    """README.md with the head that the hub reads, and with how the model is used where the text does not say it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    library, tags = ("transformers", ["llava"]) if base == "." else ("fwd2bot", ["fwd2bot", "llava"])
    head = {"library_name": library, "pipeline_tag": "image-text-to-text", "tags": tags}
    if _base_on_hub(folder, base):
        head.update(base_model=base.partition("@")[0], base_model_relation="adapter")
    title = name.rpartition("/")[2] or folder.resolve().name
    if not text:
        text = f"# {title}\n\nA LLaVA with the compressor `{config.compressor}`.\n"
    if "/" in name and base != "." and "fwd2bot.load(" not in text:
        text += f'''
## How it is used

```python
import fwd2bot

model = fwd2bot.load("{name}")
tokens = model.compress(["picture.png"])
print(model.answer(tokens, ["what is at the top left?"]), model.caption(tokens))
```
'''
    return hub.with_head(text, head)


def _read_config(folder: Path, base: Path | None = None) -> tuple[CompressorConfig, Path]:
    """The settings and the base's folder, which is fetched where it is one of the hub, and not known yet."""
    config, named = _read_settings(folder)
    return config, base or _base_folder(folder, named)


def _read_settings(folder: Path) -> tuple[CompressorConfig, str]:
    """The settings, and what `config.json` calls the base: a folder, relative to this one, or a hub id.

    Of a plain LLaVA the base is ".".
    """
    content = _read_json(folder / "config.json")
    if "fwd2bot" not in content:
        if content.get("model_type") != "llava":
            kind = content.get("model_type", "unknown")
            raise ModelError(f"{folder} holds a model of type {kind!r}; a fwd2bot or LLaVA-1.5 folder is needed.")
        return CompressorConfig(compressor="identity", adapters="none", template="vicuna_v1"), "."
    if content["fwd2bot"] != FORMAT:
        raise ModelError(f"{folder} has format {content['fwd2bot']}, this version reads {FORMAT}; update fwd2bot.")
    try:
        config = CompressorConfig.from_dict(content["compressor"])
        base = (Path() / content["base"]).as_posix()
    except (KeyError, TypeError, InputError) as error:
        raise ModelError(f"{folder / 'config.json'} is damaged ({error}); save or download the model again.") from error
    return config, base


def _base_folder(folder: Path, base: str) -> Path:
    if (folder / base).is_dir():
        return folder / base
    if not _base_on_hub(folder, base):
        raise ModelError(f"{folder} needs its base model, and {folder / base} is not there; put it there.")
    found = find_on_hub(base)
    own = found / _read_settings(found)[1]  # one of our models may be named there, for the base that it holds
    return own if own.is_dir() else found


def _base_on_hub(folder: Path, base: str) -> bool:
    return not (folder / base).is_dir() and not base.startswith(".") and base.count("/") == 1


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} is no model folder: it has no {path.name}.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); save or download the model again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it is no JSON object; save or download the model again.")
    return content


def _own_file(own: Iterable[str]) -> str:
    """The file of the parameters that a compressor adds to its base beside adapters."""
    return _EMBEDDINGS if "summary_embeddings" in own else _MODULES


def _load_own(compressor: Compressor, folder: Path) -> None:
    own = compressor.added_parameters()
    if not own:
        return
    path = folder / _own_file(own)
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
    yield from _visible(base, "*.safetensors")
    yield from (base / name for name in _BASE_FILES if (base / name).exists())
    if folder != base:
        yield from _own_files(folder)


def _own_files(folder: Path) -> Iterator[Path]:
    """What a compressor adds to its base."""
    yield from _visible(folder, "*.safetensors")
    yield from (path for name in _ADAPTERS for file in _ADAPTER_FILES if (path := folder / name / file).exists())


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Without what systems put there, such as ._model.safetensors."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _states(folder: Path, base: Path) -> dict[Path, tuple[int, int]]:
    """What tells without reading it whether a file that makes the fingerprint has changed."""
    files = [path for path in (folder / "config.json", *_hashed_files(folder, base)) if path.exists()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _content_hash(path: Path) -> str:
    """Of the content; of JSON, without what a mere re-save changes."""
    if path.suffix == ".json":
        return hashlib.sha256(_canonical(_without_volatile(_read_json(path)))).hexdigest()
    if path.is_symlink():
        # The hub's cache names a large file by this very hash. What it leads to may have another: Xet's.
        cached = path.readlink()
        if cached.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", cached.name):
            return cached.name
    return file_hash(path)


def _without_volatile(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_volatile(value) for name, value in content.items() if name not in _VOLATILE}
    return content


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()
