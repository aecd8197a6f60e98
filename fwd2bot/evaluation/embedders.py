"""What retrieval and SugarCrepe ask of a model: pictures and texts to vectors of unit norm.

A model of ours gives its own vectors where it embeds text. Every other one is asked for one word, as E5-V asks: what
stands at the last token of the prompt is the vector, with no training for it (the paper's rows of LLaVA, PruMerge,
Matryoshka: Tab. 3, 4, 9, 10). Towers are in `towers.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fwd2bot.compressors.e5v import IMAGE_PROMPT, TEXT_PROMPT
from fwd2bot.data.conversations import template_named
from fwd2bot.errors import InputError
from fwd2bot.model import Fwd2Bot


class Embedder(ABC):
    """Pictures and texts to vectors, which are compared by their products.

    name, fingerprint: of the model, as results tell them. vectors: how they are made, as results tell it. width: D.
    vectors_an_image: Q; where there are several, the nearest counts. num_tokens: an image, where it is compressed.
    """

    name: str
    vectors: str
    width: int
    vectors_an_image: int = 1
    num_tokens: int | None = None
    batch_size: int = 32

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Raises ModelError where the model has no files."""

    @abstractmethod
    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """N pictures, at least one -> (N, D), or (N, Q, D)."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N texts, at least one -> (N, D)."""


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and which of them stands at each place.

    A text that stands several times is embedded once: in another batch it would come out a rounding apart, and chance
    would say which of its images is the nearest.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), [places[text] for text in texts]


class ModelEmbedder(Embedder):
    """A model that embeds text: the vectors that it was trained to give. Raises InputError for a number of tokens that
    it does not offer."""

    vectors = "its own"

    def __init__(self, model: Fwd2Bot, num_tokens: int | None = None) -> None:
        self.model = model
        self.num_tokens = model.compressor.chosen_count(num_tokens)
        self.name, self.width, self.batch_size = model.name, model.width, model.batch_size

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return as_numpy(self.model.embed(self.model.compress(images, self.num_tokens)))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return as_numpy(self.model.embed(texts, self.num_tokens))


class OneWordEmbedder(ModelEmbedder):
    """Any other model, as it is: its tokens and a request for one word, in its own chat template."""

    vectors = "asked for one word"

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        asked = [IMAGE_PROMPT] * len(images)
        questions = asked if self.model.compressor.needs_question else None
        return self._states(self.model.compress(images, self.num_tokens, questions), asked)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._states(None, [TEXT_PROMPT.format(text) for text in texts])

    def _states(self, tokens: Tensor | None, asked: Sequence[str]) -> NDArray[np.float32]:
        template = template_named(self.model.compressor.config.template)
        return as_numpy(F.normalize(self.model.compressor.last_states(tokens, asked, template).float(), dim=-1))


def as_embedder(model: Fwd2Bot | Embedder, num_tokens: int | None = None) -> Embedder:
    """An embedder as it is; a model of ours with so many tokens an image.

    Raises InputError for a number of tokens that is not offered.
    """
    if isinstance(model, Embedder):
        if num_tokens is not None:
            raise InputError(f"{model.name} gives no tokens to choose a number of; leave --tokens out.")
        return model
    return (ModelEmbedder if model.embeds_text else OneWordEmbedder)(model, num_tokens)


def as_numpy(vectors: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors.float().cpu().numpy()
    return found
