"""A model as the one module of a SentenceTransformer: texts and pictures to vectors of unit norm.

from sentence_transformers import SentenceTransformer
from fwd2bot.plugins.sentence_transformers import Fwd2BotModule

model = SentenceTransformer(modules=[Fwd2BotModule("emoji-world", num_tokens=16)])
model.similarity(model.encode(["a fox on red"]), model.encode([Image.open("fox.png")]))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

from fwd2bot.errors import InputError
from fwd2bot.evaluation.embedders import as_embedder
from fwd2bot.images import read_image, upright_rgb
from fwd2bot.model import load

try:
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise InputError("This needs sentence-transformers 6: run pip install 'fwd2bot[mteb]'.") from error

MODALITIES = ["text", "image"]


class Fwd2BotModule(InputModule):  # type: ignore[misc]  # untyped where it is not installed
    """`model`: as `fwd2bot.load` takes it; one that does not embed text is asked for one word, as everywhere here.

    The model stays on the device that it was loaded on. A text is read up to half of the model's context, and an empty
    one as a full stop, so that no document ends a run. Raises ModelError where there is no model, InputError for a
    number of tokens that it does not offer.
    """

    config_file_name = "fwd2bot.json"
    config_keys: ClassVar[list[str]] = ["num_tokens"]

    def __init__(self, model: str | Path = "emoji-world", num_tokens: int | None = None, device: str | None = None):
        super().__init__()
        self.model = load(model, device)
        self.tokenizer = self.model.compressor.llava.tokenizer
        self.num_tokens = num_tokens
        self.embedder = as_embedder(self.model, num_tokens)

    @property
    def modalities(self) -> list[str]:
        return MODALITIES

    def get_embedding_dimension(self) -> int:
        return self.embedder.width

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Texts, pictures, paths of pictures, and dicts of one of them stay as they are until `forward`.

        Raises InputError for anything else, ImageError for a path that cannot be read.
        """
        return {"inputs": [_one(each, prompt) for each in inputs]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """`sentence_embedding` (N, D)."""
        inputs = features["inputs"]  # of one kind: sentence-transformers refuses others
        if isinstance(inputs[0], str):
            vectors = self.embedder.embed_texts([self._readable(text) for text in inputs])
        else:
            vectors = self.embedder.embed_images(inputs)
        return {**features, "sentence_embedding": torch.from_numpy(vectors)}

    def _readable(self, text: str) -> str:
        read = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        spans, most = read["offset_mapping"], self.model.context // 2
        text = text[: spans[most - 1][1]] if len(spans) > most else text
        return text if text.strip() else "."

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """The model's own files below `output_path`/model, so that the folder needs nothing beside it."""
        self.save_config(output_path)
        self.model.save_pretrained(Path(output_path, "model"))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> "Fwd2BotModule":
        """What `save` wrote, from a folder or the hub; SentenceTransformer calls it with `trust_remote_code=True`."""
        known = ("token", "cache_folder", "revision", "local_files_only")
        found = {name: options[name] for name in known if name in options}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **found)
        return cls(cls.load_dir_path(model_name_or_path, subfolder=str(Path(subfolder, "model")), **found), **config)


def _one(given: Any, prompt: str | None) -> str | Image.Image:
    """A text, with the prompt before it, or a picture."""
    try:
        kind = infer_modality(given, MODALITIES)
    except ValueError as error:
        raise InputError(f"A {type(given).__name__} cannot be embedded: give a text or a picture.") from error
    if isinstance(given, dict) and kind in MODALITIES:
        given = given[kind]
    if kind == "text" and isinstance(given, str):
        return (prompt or "") + given
    if kind == "image" and isinstance(given, (Image.Image, str)):
        return read_image(given) if isinstance(given, str) else upright_rgb(given)
    raise InputError(f"Here one vector is of one text or of one picture, not of {kind!r} ({type(given).__name__}).")
