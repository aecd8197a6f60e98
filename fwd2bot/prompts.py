"""Prompt embeddings: what a language model of `export --for vllm` reads of a row and a question in the place of words.

Only the tokenizer and the table of word embeddings are loaded, so that a client of a big model stays small.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer

from fwd2bot.compressors.base import Compressor
from fwd2bot.data.conversations import encode_conversation, template_named
from fwd2bot.errors import InputError, ModelError

READING = "fwd2bot.json"
"""Beside the weights: how rows are read, and which model makes them."""
_TABLE = "model.embed_tokens.weight"


def write_reading(folder: Path, compressor: Compressor, fingerprint: str) -> None:
    """Writes what `Prompts` needs to know beside the exported language model."""
    config = compressor.config
    values = {
        "fingerprint": fingerprint,
        "template": config.template,
        "token_scale": config.token_scale,
        "caption_question": config.caption_question,
        "context": compressor.llava.context,
    }
    (folder / READING).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class Prompts:
    """Makes prompt embeddings for the language model in a folder of `export --for vllm`."""

    def __init__(self, folder: str | Path) -> None:
        """Raises ModelError where the folder is not one of `export --for vllm`, or is damaged."""
        self.folder = Path(folder)
        try:
            values: dict[str, Any] = json.loads((self.folder / READING).read_text(encoding="utf-8"))
            self.fingerprint, self.caption_question = str(values["fingerprint"]), str(values["caption_question"])
            self._template, self._scale = template_named(values["template"]), float(values["token_scale"])
            self._context = int(values["context"])
            self._tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
            self._table = _word_embeddings(self.folder)
        except FileNotFoundError:
            raise ModelError(f"{folder} is not of `fwd2bot export MODEL --to {folder} --for vllm`: make it.") from None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, InputError) as error:
            raise ModelError(f"{folder} is damaged: export the model again ({error}).") from error

    def embeddings(self, tokens: Any, question: str) -> Tensor:
        """A row's tokens (K, D) and a question -> what the model reads (T, D), in the dtype of its weights.

        Raises InputError for an empty question, one that does not fit the context, or tokens of another width.
        """
        rows, width = torch.as_tensor(tokens), self._table.shape[1]
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(f"Tokens of an image have the shape (tokens, {width}) here, not {tuple(rows.shape)}.")
        if not question.strip():
            raise InputError("The question is empty; write one.")
        encoded = encode_conversation(self._tokenizer, self._template, [(question, None)], has_image=True)
        if len(encoded.ids) + len(rows) >= self._context:
            room = self._context - len(rows) - 1
            raise InputError(f"The question has {len(encoded.ids)} tokens; this model has room for {room}: shorten it.")
        words = self._table[torch.tensor(encoded.ids)]
        scaled = rows.to(words.device, words.dtype) * self._scale
        return torch.cat([words[: encoded.image_position], scaled, words[encoded.image_position :]])


def _word_embeddings(folder: Path) -> Tensor:
    """(vocabulary, D), read without the other weights."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            if _TABLE in weights.keys():  # noqa: SIM118 (not a dict)
                table: Tensor = weights.get_tensor(_TABLE)
                return table
    raise KeyError(_TABLE)
