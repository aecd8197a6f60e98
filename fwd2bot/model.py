"""What a user loads: pictures to tokens, tokens to answers and captions, texts and tokens to vectors.

Shapes: B pictures, K summary tokens, D width.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fwd2bot import adapters, checkpoint, hub
from fwd2bot.answering import RunningAnswers
from fwd2bot.attended import View, view
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.data.conversations import Encoded, encode_conversation, template_named
from fwd2bot.errors import InputError, ModelError, check_list, check_texts
from fwd2bot.images import opened
from fwd2bot.llava import Llava

_HALF = re.compile("[\ud800-\udfff]")
BUNDLED = Path(__file__).parent / "bundled"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL = 1 << 30
"""Bytes of weights below which a model runs in float32, with its adapters folded into copies of the weights."""


class Fwd2Bot:
    """A compressor in use: batched, sorted by length, without gradients. `load` makes one.

    A batch of pictures, questions or texts of any size is cut into batches of `batch_size`.
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        name: str = "unsaved",
        source: str = "",
        folder: Path | None = None,
        fingerprint: Callable[[], str] | None = None,
    ) -> None:
        """folder: that it was loaded from; fingerprint: of the files as they were then, taken when it is asked for."""
        self.compressor = compressor
        self.name = name
        self.source = source or name
        """What `load` takes to make it again: a bundled name, a hub id, the whole path of a folder."""
        self._batch_size = 32
        self._folder, self._fingerprint = folder, fingerprint
        self._template = template_named(compressor.config.template)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | None = None, dtype: str | None = None) -> "Fwd2Bot":
        """`load`, by the name that it has in transformers."""
        return load(name, device, dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder that needs nothing beside it: the files that it was loaded from, as they are.

        A model in memory is written as it is there. Raises InputError when the folder holds something, or when it
        cannot be written; ModelError when the files are others by now.
        """
        with self._on_disk() as saved:
            checkpoint.copy_model(saved, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a model of fwd2bot",
    ) -> str:
        """Puts on the hub what `save_pretrained` writes, in one commit; gives the commit's address.

        private: of a repository that is new; None: as your account has it. token: None: that of `hf auth login`.
        Raises ModelError when the hub cannot be reached, or refuses.
        """
        with self._on_disk() as saved:
            files = checkpoint.model_files(saved, repo_id)
            return hub.upload(
                repo_id, files, replaces=checkpoint.LAYOUT, private=private, token=token, message=commit_message
            )

    @contextmanager
    def _on_disk(self) -> Iterator[Path]:
        """The folder that it was loaded from; of a model in memory, one that is there as long as the block."""
        if self._folder is not None:
            if self._fingerprint is not None:
                checkpoint.model_files(self._folder)  # tells what is missing
                self._fingerprint()
            yield self._folder
            return
        with TemporaryDirectory() as place:
            with checkpoint.new_folder(Path(place) / "model") as folder:
                checkpoint.save_model(folder, self.compressor)
            yield Path(place) / "model"

    @property
    def batch_size(self) -> int:
        """How many pictures, questions or texts go through the model at once. Raises InputError below 1."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        if size < 1:
            raise InputError(f"A batch cannot have {size} members; take 1 or more.")
        self._batch_size = size

    @property
    def num_tokens(self) -> int:
        """The number of tokens a picture when none is named."""
        return self.compressor.num_tokens

    @property
    def token_counts(self) -> tuple[int, ...]:
        """The numbers of tokens that it offers, ascending."""
        return self.compressor.token_counts

    @property
    def width(self) -> int:
        """D, of a token and of a vector."""
        return self.compressor.llava.width

    @property
    def storable(self) -> bool:
        return self.compressor.storable

    @property
    def embeds_text(self) -> bool:
        return self.compressor.embeds_text

    @property
    def answers(self) -> bool:
        """It answers questions; else its tokens are vectors to search by."""
        return self.compressor.answers

    @property
    def cuttable(self) -> bool:
        """The first k tokens of a row are what compress(num_tokens=k) gives."""
        return self.compressor.cuttable

    @property
    def caption_question(self) -> str:
        """What asks for a caption, as the model was trained."""
        return self.compressor.config.caption_question

    @property
    def context(self) -> int:
        """The most positions of a conversation: its tokens, the picture's, and the answer's."""
        return self._llava.context

    @cached_property
    def fingerprint(self) -> str:
        """Of the files it was loaded from. Raises ModelError when there are none, or when they are others by now."""
        if self._fingerprint is None:
            raise ModelError("This model is not saved, so it has no fingerprint; save and load it.")
        return self._fingerprint()

    def prepare(self, images: Sequence[Image.Image | str | Path]) -> Tensor:
        """B pictures or paths -> their pixels (B, 3, H, W), which `compress` takes in their place.

        For who has the next pictures while the model is at work. Raises ImageError for a path that cannot be read,
        InputError for what is neither picture nor path.
        """
        check_list(images, "pictures")
        return self._llava.pixels([opened(one) for one in images])

    @torch.no_grad()
    def compress(
        self,
        images: Sequence[Image.Image | str | Path] | Tensor,
        num_tokens: int | None = None,
        questions: Sequence[str] | None = None,
    ) -> Tensor:
        """B pictures or paths, or what `prepare` made of them -> summary tokens (B, K, D).

        Raises ImageError for a path that cannot be read, InputError for what is neither picture nor path, for a number
        of tokens that is not offered, for pixels that `prepare` did not make, and for a method that compresses for a
        question where there is none.
        """
        check_list(images, "pictures")
        if isinstance(images, Tensor):
            self._check_pixels(images)
        parts = [torch.empty(0, self.compressor.rows_of(num_tokens), self.width, device=self._llava.device)]
        for start in range(0, len(images), self.batch_size):
            chunk = slice(start, start + self.batch_size)
            part = images[chunk]
            pixels = part.to(self._llava.device) if isinstance(part, Tensor) else self.prepare(part)
            parts.append(self.compressor.compress(pixels, None if questions is None else questions[chunk], num_tokens))
        return torch.cat([part.to(parts[-1].dtype) for part in parts])

    def compress_for_questions(
        self, images: Sequence[Image.Image | str | Path], num_tokens: int | None = None
    ) -> Callable[[Sequence[int], Sequence[str]], Tensor]:
        """What gives the tokens (Q, K, D) that questions are answered from: numbers of their pictures, Q questions.

        The pictures are compressed once, or, by a method that needs the question, for each question anew.
        """
        if self.compressor.needs_question:
            return lambda rows, questions: self.compress([images[row] for row in rows], num_tokens, questions)
        tokens = self.compress(images, num_tokens)
        return lambda rows, _: tokens[torch.tensor(rows, device=tokens.device, dtype=torch.long)]

    def answer(
        self,
        tokens: Any,
        questions: Sequence[str],
        *,
        keep: Sequence[bool] | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """One answer to each of B questions, question b about row b of the tokens (B, K, D).

        `keep` (K) hides the other tokens, to see what each group of them holds.
        Raises InputError for a question that is empty, no text, or does not fit the context, a number unlike B, or a
        model that only embeds.
        """
        check_texts(questions, "questions")
        if max_new_tokens < 0:
            raise InputError(f"An answer cannot have {max_new_tokens} tokens; leave max_new_tokens out, or raise it.")
        rows = self._rows(tokens)
        if len(rows) != len(questions):
            raise InputError(f"There are {len(questions)} questions to {len(rows)} rows of tokens; give one for each.")
        if keep is not None and len(keep) != rows.shape[1]:
            raise InputError(f"keep has {len(keep)} values for {rows.shape[1]} tokens a picture; give one for each.")
        prompts = [self.prompt([(question, None)], rows.shape[1], max_new_tokens) for question in questions]
        return self._generate(rows, prompts, keep, max_new_tokens)

    def caption(self, tokens: Any, *, max_new_tokens: int = 64) -> list[str]:
        """A description of each row of tokens (B, K, D), by the question that the model was trained on."""
        rows = self._rows(tokens)
        return self.answer(rows, [self.caption_question] * len(rows), max_new_tokens=max_new_tokens)

    def prompt(self, turns: Sequence[tuple[str, str | None]], num_tokens: int, max_new_tokens: int = 64) -> Encoded:
        """A conversation about a picture of so many tokens, as (question, answer), the last answer None: to be given.

        Raises InputError for a question that is empty, a text with a character that is none, a conversation that does
        not fit the context, or a model that only embeds.
        """
        if not self.answers:
            raise InputError(f"{self.name} only embeds, so it answers no questions; take a fwd2bot model.")
        if any(not question.strip() for question, _ in turns):
            raise InputError("The question is empty; write one.")
        _check_letters(text for turn in turns for text in turn if text is not None)
        encoded = encode_conversation(self._llava.tokenizer, self._template, turns, has_image=True)
        count, room = len(encoded.ids), self._llava.context - num_tokens - max_new_tokens
        if room < 1:
            raise InputError(
                f"{num_tokens} tokens and an answer of {max_new_tokens} leave no room for the question in the model's "
                f"context of {self._llava.context}; take a smaller max_new_tokens."
            )
        if count > room:
            what = "question" if len(turns) == 1 else "conversation"
            raise InputError(f"The {what} has {count} tokens, and this model has room for {room}; shorten it.")
        return encoded

    def count_tokens(self, text: str) -> int:
        """How many tokens of the language model a text has."""
        return len(self._llava.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def running(self) -> RunningAnswers:
        """An empty batch of answers that questions join while others are being answered.

        Raises InputError as `RunningAnswers`.
        """
        return RunningAnswers(self.compressor)

    def attention(
        self, tokens: Any, question: str | None = None, picture: Image.Image | str | Path | None = None
    ) -> View:
        """What an answer used of one row of tokens (K, D), and what these drew on in their picture, or its path.

        question None: the caption's; picture None: only what the answer used.
        Raises InputError as `answer`, where the model leaves rows out while it answers, and with a picture where it
        does not compress by its language model.
        """
        asked = self.caption_question if question is None else question
        row = torch.as_tensor(tokens)
        if row.ndim != 2:
            raise InputError(f"One row of tokens (tokens, {self.width}) is looked at, not {tuple(row.shape)}.")
        (rows,) = self._rows(row[None])
        (text,) = self.answer(rows[None], [asked])
        return view(self.compressor, rows, asked, text, None if picture is None else opened(picture))

    @torch.no_grad()
    def embed(self, inputs: Any, num_tokens: int | None = None) -> Tensor:
        """B texts, or tokens (B, K, D) -> vectors (B, D) of unit norm; their dot products are cosines.

        num_tokens: of the images that a text is compared with; of more tokens, where a row can be cut, the first so
        many. Raises InputError for a text that is empty, no text or too long, when the model does not embed text, and
        where rows cannot be cut to so many.
        """
        check_list(inputs, "texts")
        if len(inputs) == 0:
            return torch.empty(0, self.width, device=self._llava.device)
        if isinstance(inputs[0], str):
            check_texts(inputs, "texts")
            vectors = self._embed_texts(inputs, num_tokens)
        else:
            chunks = self._cut(self._rows(inputs), num_tokens).split(self.batch_size)
            vectors = torch.cat([self.compressor.embed_rows(chunk) for chunk in chunks])
        return F.normalize(vectors.float(), dim=-1)

    def _cut(self, rows: Tensor, num_tokens: int | None) -> Tensor:
        if num_tokens is None or num_tokens == rows.shape[1]:
            return rows
        if not self.cuttable or num_tokens not in self.token_counts or num_tokens > rows.shape[1]:
            raise InputError(f"Rows of {rows.shape[1]} tokens give no vectors of {num_tokens}; leave num_tokens out.")
        return rows[:, :num_tokens]

    def _embed_texts(self, texts: Sequence[str], num_tokens: int | None) -> Tensor:
        if not self.embeds_text:
            raise InputError(f"{self.name} does not embed text, so it cannot search by words; take a fwd2bot model.")
        if any(not text.strip() for text in texts):
            raise InputError("A text to embed is empty; write what the picture shows.")
        _check_letters(texts)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = torch.empty(len(texts), self.width, device=self._llava.device, dtype=torch.float32)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            tokens = self.compressor.compress_text([texts[index] for index in chunk], num_tokens)
            vectors[chunk] = self.compressor.embed_text_rows(tokens).float()
        return vectors

    @torch.inference_mode()
    def _generate(
        self, rows: Tensor, prompts: list[Encoded], keep: Sequence[bool] | None, max_new_tokens: int
    ) -> list[str]:
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        pad = self._llava.tokenizer.pad_token_id or 0
        kept = None if keep is None else torch.as_tensor(keep, device=rows.device)
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            batch = AnswerBatch.collate([prompts[index] for index in chunk], pad).to(rows.device)
            ids = self.compressor.generate(rows[chunk], batch, max_new_tokens=max_new_tokens, keep=kept)
            texts = self._llava.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for index, text in zip(chunk, texts, strict=True):
                answers[index] = text.strip()
        return answers

    @property
    def _llava(self) -> Llava:
        return self.compressor.llava

    def _check_pixels(self, pixels: Tensor) -> None:
        side = int(self._llava.network.config.vision_config.image_size)
        if pixels.shape[1:] != (3, side, side) or not pixels.is_floating_point():
            shape = (tuple(pixels.shape), str(pixels.dtype).removeprefix("torch."))
            raise InputError(
                f"Pixels are floats of the shape (pictures, 3, {side}, {side}) here, not {shape[1]} of {shape[0]}; "
                "give pictures, or what prepare makes of them."
            )

    def _rows(self, tokens: Any) -> Tensor:
        """Tokens from memory, rows of them in a list, or of a store; on the model's device and in its dtype."""
        try:
            listed = isinstance(tokens, list | tuple) and any(isinstance(one, Tensor) for one in tokens)
            rows = torch.stack([*tokens]) if listed else torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"Tokens are numbers of the shape (pictures, tokens, {self.width}), and this {type(tokens).__name__} "
                "holds something else; take what compress or a store gives."
            ) from error
        if rows.ndim != 3 or rows.shape[2] != self.width:
            shape = tuple(rows.shape)
            raise InputError(f"Tokens have the shape (pictures, tokens, {self.width}) here, not {shape}.")
        if not rows.isfinite().all():
            raise InputError("The tokens hold numbers that are none (NaN or infinite): compress the picture again.")
        return rows.to(self._llava.device, self._llava.dtype)


def _check_letters(texts: Iterable[str]) -> None:
    """Raises InputError where half of a surrogate pair stands for a byte that is no letter: no tokenizer reads it."""
    for text in texts:
        if _HALF.search(text):
            raise InputError(f"{text[:80]!r} has a character that is none in UTF-8; write it anew.")


def load(name: str | Path, device: str | None = None, dtype: str | None = None) -> Fwd2Bot:
    """A bundled model by its name, a model folder, or a hub id, which alone is looked for on the net.

    A hub id is owner/name, or owner/name@version with a branch, tag or commit.

    Device: a GPU if there is one. Dtype: float32 for small models, bfloat16 for large ones.
    Raises InputError for an unknown device or dtype, ModelError when the model is not there or cannot be read.
    """
    folder = find_model(name)
    base = checkpoint.base_folder(folder)  # once: one of the hub is asked for each time, and may change
    chosen, fingerprint = dtype_named(dtype, folder, base), checkpoint.fingerprint_as_it_is(folder, base)
    compressor = checkpoint.load_model(folder, chosen, device_named(device), base=base)
    if chosen == torch.float32 and _is_small(folder, base):
        adapters.fold(compressor)
    if folder.parent == BUNDLED or not Path(name).is_dir():
        return Fwd2Bot(compressor, name=str(name), folder=folder, fingerprint=fingerprint)
    whole = folder.resolve()
    return Fwd2Bot(compressor, name=whole.name, source=str(whole), folder=folder, fingerprint=fingerprint)


def bundled_names() -> list[str]:
    """The models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def find_model(name: str | Path) -> Path:
    """The folder of a model, named as `load` takes it. Raises ModelError when there is none, InputError for no name."""
    if not isinstance(name, str | Path):
        raise InputError(f"A model is named by a text or a path, not {type(name).__name__}; 'emoji-world' is bundled.")
    text = str(name)
    if text in bundled_names() and not (isinstance(name, Path) and name.is_dir()):
        return BUNDLED / text
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_file():
        raise ModelError(f"{text} is a file, not a model: name the folder of the model.")
    if hub.ID.fullmatch(text):
        return checkpoint.find_on_hub(text)
    known = ", ".join(bundled_names()) or "none"
    raise ModelError(f"There is no model {text!r}: give a folder, a hub id (owner/name), or a bundled one ({known}).")


def dtype_named(name: str | None, folder: Path, base: Path | None = None) -> torch.dtype:
    """None: what the model in this folder is loaded in, float32 where it is small. Raises InputError for others."""
    if name is not None and name not in DTYPES:
        raise InputError(f"{name!r} is no dtype here; the dtypes are {', '.join(DTYPES)}.")
    return DTYPES[name or ("float32" if _is_small(folder, base) else "bfloat16")]


def _is_small(folder: Path, base: Path | None) -> bool:
    return sum(path.stat().st_size for path in checkpoint.weight_files(folder, base)) < _SMALL


def device_named(name: str | None) -> torch.device:
    """None: a GPU if there is one. Raises InputError for one that cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"The device {name!r} cannot be used here; take cpu, or leave it out.") from error
    return device
