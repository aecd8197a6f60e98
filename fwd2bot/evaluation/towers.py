"""Towers as rivals in retrieval: CLIP, SigLIP (both versions), BLIP and BLIP-2 folders of transformers, OpenCLIP's own.

A folder's `config.json` says which. Each is used as it was trained: how a text is prepared, what closes it, how it is
padded, where it is pooled. The world's own CLIP tower (`training/tower.py`) is one of them.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    Blip2ForImageTextRetrieval,
    BlipForImageTextRetrieval,
)
from transformers.utils.logging import disable_progress_bar

from fwd2bot.checkpoint import plain_fingerprint
from fwd2bot.errors import InputError, ModelError
from fwd2bot.evaluation.embedders import Embedder, as_numpy
from fwd2bot.model import Fwd2Bot, device_named, find_model, load

_OPEN_CLIP, _OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_CAPTION_TOKENS = 35


class Tower(Embedder):
    """A folder's network with its tokenizer and preprocessing, in float32."""

    kind: ClassVar[Any] = AutoModel
    padding: ClassVar[bool | str] = True

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.name, self.vectors = folder.resolve().name, type(self).__name__
        self._load()
        self.network.to(device).eval()

    @cached_property
    def fingerprint(self) -> str:
        return plain_fingerprint(self.folder)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return as_numpy(F.normalize(self._seen([image.convert("RGB") for image in images]), dim=-1))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return as_numpy(F.normalize(self._read(list(texts)), dim=-1))

    def _load(self) -> None:
        disable_progress_bar()
        self.network: Any
        self.network, report = self.kind.from_pretrained(
            self.folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ModelError(
                f"{self.folder} lacks weights of {type(self).__name__}, such as {min(report['missing_keys'])}; take a "
                "model that was trained to compare pictures with texts."
            )
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        self.tokenizer.padding_side = "right"  # as all were trained; transformers pads SigLIP 2 on the left
        self.processor: Any = AutoImageProcessor.from_pretrained(self.folder)
        self.width, self.context = self._sizes(self.network.config)

    @abstractmethod
    def _sizes(self, config: Any) -> tuple[int, int]:
        """Width of a vector, and the most tokens of a text."""

    @abstractmethod
    def _seen(self, images: list[Image.Image]) -> Tensor:
        """(N, D) or (N, Q, D)"""

    @abstractmethod
    def _read(self, texts: list[str]) -> Tensor:
        """(N, D)"""

    def _pixels(self, images: list[Image.Image]) -> Any:
        return self.processor(images=images, return_tensors="pt").to(self.device)

    def _words(self, texts: list[str]) -> Any:
        """Token ids and their mask; what is too long is cut, what closes a text stays."""
        options = {"padding": self.padding, "truncation": True, "max_length": self.context, "return_tensors": "pt"}
        return self.tokenizer(texts, **options).to(self.device)


class CLIP(Tower):
    """Texts are pooled at the token that closes them."""

    def _load(self) -> None:
        super()._load()
        if not self.tokenizer.num_special_tokens_to_add():  # the world's: its tokenizer is also the language model's
            config = self.network.config.text_config
            ids = [config.bos_token_id, config.eos_token_id]
            first, last = self.tokenizer.convert_ids_to_tokens(ids)
            frame = TemplateProcessing(
                single=f"{first} $A {last}", special_tokens=list(zip((first, last), ids, strict=True))
            )
            self.tokenizer.backend_tokenizer.post_processor = frame

    def _sizes(self, config: Any) -> tuple[int, int]:
        return int(config.projection_dim), int(config.text_config.max_position_embeddings)

    def _seen(self, images: list[Image.Image]) -> Tensor:
        found: Tensor = self.network.get_image_features(**self._pixels(images)).pooler_output
        return found

    def _read(self, texts: list[str]) -> Tensor:
        found: Tensor = self.network.get_text_features(input_ids=self._words(texts)["input_ids"]).pooler_output
        return found


class SigLIP(CLIP):
    """Texts are padded to the full length, padding is seen as it was in training, and the last token is pooled.

    Both versions learnt small letters. The tokenizer of the first makes them and drops punctuation; that of the second
    is Gemma's, which keeps capitals.
    """

    padding = "max_length"

    def _load(self) -> None:
        try:
            Tower._load(self)
        except ImportError as error:
            raise ModelError(f"{self.folder} needs sentencepiece: run pip install 'fwd2bot[siglip]'.") from error

    def _sizes(self, config: Any) -> tuple[int, int]:
        return int(config.text_config.projection_size), int(config.text_config.max_position_embeddings)

    def _read(self, texts: list[str]) -> Tensor:
        return super()._read([text.lower() for text in texts] if self.tokenizer.is_fast else texts)


def blip_caption(text: str, words: int) -> str:
    """A text as BLIP and BLIP-2 were given it: small letters, few signs, single spaces, at most so many words.

    Source: `pre_caption` of salesforce/BLIP (056a169, data/utils.py; 30 words in retrieval) and of salesforce/LAVIS
    (506965b, lavis/processors/blip_processors.py; 50 words). Both evaluate retrieval on at most 35 tokens.
    """
    text = re.sub(r"\s{2,}", " ", re.sub(r'[.!"()*#:;~]', " ", text.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:words])


class BLIP(Tower):
    """The projections of both first tokens; the matching head, which must read every pair, is not used."""

    kind = BlipForImageTextRetrieval

    def _sizes(self, config: Any) -> tuple[int, int]:
        return int(config.image_text_hidden_size), min(_CAPTION_TOKENS, config.text_config.max_position_embeddings)

    def _seen(self, images: list[Image.Image]) -> Tensor:
        states = self.network.vision_model(**self._pixels(images)).last_hidden_state
        found: Tensor = self.network.vision_proj(states[:, 0])
        return found

    def _read(self, texts: list[str]) -> Tensor:
        words = self._words([blip_caption(text, 30) for text in texts])
        mask = words["attention_mask"]
        states = self.network.text_encoder(input_ids=words["input_ids"], attention_mask=mask).last_hidden_state
        found: Tensor = self.network.text_proj(states[:, 0])
        return found


class BLIP2(Tower):
    """A vector for each query of the Q-Former, of which the one nearest to the text counts."""

    kind = Blip2ForImageTextRetrieval

    def _load(self) -> None:
        super()._load()
        self.vectors_an_image = int(self.network.config.num_query_tokens)

    def _sizes(self, config: Any) -> tuple[int, int]:
        return int(config.image_text_hidden_size), min(_CAPTION_TOKENS, config.qformer_config.max_position_embeddings)

    def _seen(self, images: list[Image.Image]) -> Tensor:
        patches = self.network.vision_model(**self._pixels(images)).last_hidden_state
        queries = self.network.query_tokens.expand(len(patches), -1, -1)
        states = self.network.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
        found: Tensor = self.network.vision_projection(states)
        return found

    def _read(self, texts: list[str]) -> Tensor:
        words = self._words([blip_caption(text, 50) for text in texts])
        rows, mask = self.network.embeddings(input_ids=words["input_ids"]), words["attention_mask"]
        states = self.network.qformer(query_embeds=rows, query_length=0, attention_mask=mask).last_hidden_state
        found: Tensor = self.network.text_projection(states[:, 0])
        return found


class OpenCLIP(Tower):
    """A folder of OpenCLIP's own layout, loaded by open_clip, which takes the one file of weights before any other."""

    def _load(self) -> None:
        if not (self.folder / _OPEN_CLIP_WEIGHTS).exists():
            raise ModelError(
                f"{self.folder} has no {_OPEN_CLIP_WEIGHTS}; save the weights in that file: pickled ones are not read."
            )
        if find_spec("open_clip") is None:
            raise ModelError(f"{self.folder} is a model of OpenCLIP: pip install open_clip_torch to load it.")
        open_clip, place = import_module("open_clip"), f"local-dir:{self.folder.resolve()}"
        self.network, self.processor = open_clip.create_model_from_pretrained(place)
        self.tokenizer = open_clip.get_tokenizer(place)
        config = json.loads((self.folder / _OPEN_CLIP).read_text("utf-8"))
        self.width, self.context = self._sizes(config["model_cfg"])

    def _sizes(self, config: Any) -> tuple[int, int]:
        return int(config["embed_dim"]), int(config["text_cfg"].get("context_length", 77))

    def _seen(self, images: list[Image.Image]) -> Tensor:
        found: Tensor = self.network.encode_image(torch.stack([self.processor(one) for one in images]).to(self.device))
        return found

    def _read(self, texts: list[str]) -> Tensor:
        found: Tensor = self.network.encode_text(self.tokenizer(texts).to(self.device))
        return found


TOWERS: dict[str, type[Tower]] = {"clip": CLIP, "siglip": SigLIP, "siglip2": SigLIP, "blip": BLIP, "blip-2": BLIP2}
"""By the `model_type` of config.json."""


def tower_kind(folder: Path) -> type[Tower] | None:
    """Which tower a folder holds; None: it is none."""
    try:
        kind = TOWERS.get(json.loads((folder / "config.json").read_text("utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError):
        kind = None
    return kind or (OpenCLIP if (folder / _OPEN_CLIP).exists() else None)


def load_tower(folder: Path, device: str | None = None) -> Tower:
    """Raises ModelError where the folder holds no tower, or a damaged one."""
    kind = tower_kind(folder)
    if kind is None:
        raise ModelError(
            f"{folder} holds no tower: a folder of transformers ({', '.join(TOWERS)}) or of OpenCLIP is needed."
        )
    try:
        return kind(folder, device_named(device))
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder} cannot be loaded as {kind.__name__}: {reason}") from error


def load_any(name: str, device: str | None = None, dtype: str | None = None) -> Fwd2Bot | Tower:
    """A tower where the folder or hub id is one, else a model as `fwd2bot.load` gives it, with what that raises.

    Raises InputError for a tower in another dtype than float32.
    """
    folder = find_model(name)
    if tower_kind(folder) is None:
        return load(name, device, dtype)
    if dtype not in (None, "float32"):
        raise InputError(f"{name} is a tower, which computes in float32; leave --dtype out.")
    tower = load_tower(folder, device)
    if not Path(name).is_dir():
        tower.name = name
    return tower
