"""Sizes of a LLaVA and of GPUs, without weights and without torch: from config.json, or from small tables of facts.

Parameters are counted as transformers builds the modules; `tests/test_plan.py` holds the counts to the real thing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fwd2bot.errors import InputError

BUNDLED = Path(__file__).parent.parent / "bundled"


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A CLIP vision tower; `read` is the layer whose output LLaVA takes, and layers behind it are not run."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    image: int = 224
    patch: int = 32
    channels: int = 3
    read: int = -2

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def layers_run(self) -> int:
        return self.read if self.read >= 0 else self.layers + 1 + self.read

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's linear layers: query, key, value, output, and the two of the feed-forward part."""
        return (*[(self.width, self.width)] * 4, (self.width, self.hidden), (self.hidden, self.width))

    @property
    def pixels(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch**2

    @property
    def parameters(self) -> int:
        biases = sum(out for _, out in self.matrices)
        layer = size(self.matrices) + biases + 4 * self.width  # two norms
        embeddings = self.width * (1 + self.pixels + self.patches + 1)  # class, patches, positions
        return self.layers * layer + embeddings + 4 * self.width


@dataclass(frozen=True, kw_only=True)
class Language:
    """A Llama-type language model; `tied`: the vocabulary's embeddings are its head, too."""

    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_dim: int = 128
    hidden: int = 11008
    vocabulary: int = 32000
    context: int = 2048
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of a layer's linear layers: query, key, value, output, gate, up, down."""
        attention = ((self.width, self.queries), *[(self.width, self.keys)] * 2, (self.queries, self.width))
        return (*attention, *[(self.width, self.hidden)] * 2, (self.hidden, self.width))

    @property
    def parameters(self) -> int:
        outs = [out for _, out in self.matrices]
        biases = sum(outs[:4]) * self.attention_bias + sum(outs[4:]) * self.mlp_bias
        layer = size(self.matrices) + biases + 2 * self.width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.width


@dataclass(frozen=True, kw_only=True)
class Base:
    """A LLaVA: tower, two-layer projector, language model. `file_bytes`: of a number in its files."""

    name: str
    tower: Tower
    language: Language
    projector_bias: bool = True
    tokenizer: Path | None = None
    file_bytes: int = 2

    @property
    def projector_matrices(self) -> tuple[tuple[int, int], ...]:
        return (self.tower.width, self.language.width), (self.language.width, self.language.width)

    @property
    def parameters(self) -> dict[str, int]:
        """By part, as `Llava.part` names them."""
        projector = size(self.projector_matrices) + 2 * self.language.width * self.projector_bias
        return {"vision": self.tower.parameters, "projector": projector, "language": self.language.parameters}

    @property
    def matrices(self) -> int:
        """Numbers in all layers' matrices, the patches' and an own head's among them: what autocast halves."""
        tower, language = self.tower, self.language
        patches, head = tower.width * tower.pixels, language.width * language.vocabulary * (not language.tied)
        layers = tower.layers * size(tower.matrices) + language.layers * size(language.matrices)
        return layers + size(self.projector_matrices) + patches + head


def size(matrices: tuple[tuple[int, int], ...]) -> int:
    """Numbers in matrices."""
    return sum(inner * outer for inner, outer in matrices)


def ends(matrices: tuple[tuple[int, int], ...]) -> int:
    """Numbers in adapters of rank 1 on matrices."""
    return sum(inner + outer for inner, outer in matrices)


_CLIP_L = Tower(width=1024, layers=24, heads=16, hidden=4096, image=336, patch=14)
_7B = Language(vocabulary=32000, context=4096)
_13B = Language(width=5120, layers=40, heads=40, kv_heads=40, hidden=13824, vocabulary=32000, context=4096)
_LLAVA_7B = Language(vocabulary=32064, context=4096)
_LLAVA_13B = Language(width=5120, layers=40, heads=40, kv_heads=40, hidden=13824, vocabulary=32064, context=4096)
BASES = {
    "llava-hf/llava-1.5-7b-hf": Base(name="llava-hf/llava-1.5-7b-hf", tower=_CLIP_L, language=_LLAVA_7B),
    "llava-hf/llava-1.5-13b-hf": Base(name="llava-hf/llava-1.5-13b-hf", tower=_CLIP_L, language=_LLAVA_13B),
}
TOWERS = {"openai/clip-vit-large-patch14-336": _CLIP_L}
LANGUAGES = {"lmsys/vicuna-7b-v1.5": _7B, "lmsys/vicuna-13b-v1.5": _13B}
"""Source: the config.json of each on the hub."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """memory: bytes, the data sheet's GB as 10^9. peak: FLOPs a second of dense bfloat16 products that accumulate in
    float32. bandwidth: bytes a second of its memory."""

    name: str
    memory: float
    peak: float
    bandwidth: float


def _gpu(name: str, gigabytes: float, teraflops: float, gigabytes_a_second: float) -> tuple[str, Gpu]:
    return name, Gpu(name=name, memory=gigabytes * 1e9, peak=teraflops * 1e12, bandwidth=gigabytes_a_second * 1e9)


GPUS = dict(
    (
        _gpu("h100", 80, 989.4, 3350),  # SXM
        _gpu("h100-pcie", 80, 756.5, 2000),
        _gpu("h200", 141, 989.4, 4800),
        _gpu("b200", 180, 2250, 7700),
        _gpu("a100-40", 40, 312, 1555),
        _gpu("a100-80", 80, 312, 2039),  # SXM
        _gpu("l40s", 48, 362.05, 864),
        _gpu("l4", 24, 121, 300),
        _gpu("a10", 24, 125, 600),
        _gpu("rtx-4090", 24, 165.2, 1008),
        _gpu("rtx-3090", 24, 71, 936),
    )
)
"""Source: NVIDIA's data sheets and architecture papers; where a sheet tells the rate with sparsity, half of it."""


def read_base(init: Mapping[str, str]) -> Base:
    """The shapes of what a run starts from: a folder, a bundled model, or an entry of the tables; nothing is fetched.

    Raises InputError for a base that is none of these, or whose config.json is not a LLaVA's.
    """
    if "base" in init:
        return _named_base(init["base"])
    tower = _part(init["tower"], "tower", TOWERS, _clip)
    language = _part(init["language"], "language", LANGUAGES, lambda folder: _llama(_json(folder)))
    folder = Path(init["language"])
    return Base(
        name=f"{init['tower']} and {init['language']}", tower=tower, language=language, tokenizer=_tokenizer(folder)
    )


def _named_base(name: str) -> Base:
    for folder in (Path(name), BUNDLED / name):
        if (folder / "config.json").exists():
            return _folder(name, folder)
    if (known := name.partition("@")[0]) in BASES:  # whatever its version
        return BASES[known]
    raise InputError(
        f"init.base is {name}, which is neither a folder here nor one of {', '.join(BASES)}; "
        "download it, and give its folder."
    )


def _folder(name: str, folder: Path) -> Base:
    """A transformers LLaVA folder, or one of our model folders, whose base is then read."""
    content = _json(folder)
    if "fwd2bot" in content:
        given = str(content.get("base", "base"))
        inner = folder / given
        return _folder(name, inner) if (inner / "config.json").exists() else _named_base(given)
    if content.get("model_type") != "llava":
        kind = content.get("model_type", "unknown")
        raise InputError(f"init.base is {name}, a model of type {kind!r}; a fwd2bot or LLaVA-1.5 folder is needed.")
    vision, text = content.get("vision_config"), content.get("text_config") or {}
    read = _number(folder, content, "vision_feature_layer", -2)
    return Base(
        name=name,
        tower=replace(_CLIP_L, read=read) if vision is None else _tower(vision, read=read),
        language=_llama(text, tied=bool(content.get("tie_word_embeddings"))),
        projector_bias=bool(content.get("multimodal_projector_bias", True)),
        tokenizer=_tokenizer(folder),
        file_bytes=4 if (content.get("dtype") or content.get("torch_dtype")) == "float32" else 2,
    )


def _part(name: str, kind: str, known: Mapping[str, Any], read: Any) -> Any:
    if (Path(name) / "config.json").exists():
        return read(Path(name))
    if name in known:
        return known[name]
    raise InputError(
        f"init.{kind} is {name}, which is neither a trained model's folder nor one of {', '.join(known)}; "
        "train that stage first, or download it and give its folder."
    )


def _clip(folder: Path) -> Tower:
    content = _json(folder)
    return _tower(content.get("vision_config", content))


def _tower(values: Mapping[str, Any], read: int = -2) -> Tower:
    """What config.json leaves out is transformers' default."""
    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
             "hidden": "intermediate_size", "image": "image_size", "patch": "patch_size",
             "channels": "num_channels"}  # fmt: skip
    return Tower(**{ours: int(values[theirs]) for ours, theirs in names.items() if theirs in values}, read=read)


def _llama(values: Mapping[str, Any], tied: bool = False) -> Language:
    """What config.json leaves out is transformers' default."""
    names = {"width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
             "hidden": "intermediate_size", "vocabulary": "vocab_size",
             "context": "max_position_embeddings"}  # fmt: skip
    given = {ours: int(values[theirs]) for ours, theirs in names.items() if values.get(theirs) is not None}
    width, heads = given.get("width", Language.width), given.get("heads", Language.heads)
    return Language(
        **given,
        kv_heads=int(values.get("num_key_value_heads") or heads),
        head_dim=int(values.get("head_dim") or width // heads),
        tied=tied or bool(values.get("tie_word_embeddings")),
        attention_bias=bool(values.get("attention_bias")),
        mlp_bias=bool(values.get("mlp_bias")),
    )


def _number(folder: Path, content: Mapping[str, Any], name: str, default: int) -> int:
    value = content.get(name, default)
    if not isinstance(value, int):
        raise InputError(f"{folder / 'config.json'} says {name} {value!r}; a LLaVA-1.5 model is read at one layer.")
    return value


def _tokenizer(folder: Path) -> Path | None:
    return folder / "tokenizer.json" if (folder / "tokenizer.json").exists() else None


def _json(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:100]
        raise InputError(f"{folder / 'config.json'} cannot be read ({reason}); save or download it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder / 'config.json'} is no JSON object; save or download it again.")
    return content
