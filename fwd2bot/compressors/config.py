"""What a compressor is told to be. No torch, so that a plan is made in no time."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from fwd2bot.data.conversations import template_named
from fwd2bot.errors import InputError

_CHOICES = {
    "adapters": ("stage", "single", "full", "none"),
    "attention": ("causal", "bidirectional"),
    "tokens": ("final_norm", "pre_norm"),
    "initial_embeddings": ("eos", "random"),
}


@dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Everything that says what a compressor computes; saved in the model folder's config.json.

    adapters: "stage" (a LoRA for each pass), "single" (one for both), "full" (the language model itself is trained),
        "none" (it is frozen).
    token_counts: the numbers of tokens it offers, drawn at random in training; empty: only `num_tokens`.
    attention: of pass 1. tokens: outputs after or before the final norm.
    token_scale: factor on the tokens where they enter pass 2.
    text_prompt: of the text branch; None: the same as `prompt`.
    schedule: of methods that reduce the image's rows inside the language model: pairs (layer, rows), an image having so
        many rows from that layer on; empty: as published, scaled to the model. The last pair's rows are `num_tokens`.

    Raises InputError when a value is not one of its choices, or when values do not go together.
    """

    compressor: str = "fwd2bot"
    num_tokens: int = 16
    token_counts: tuple[int, ...] = ()
    adapters: str = "stage"
    rank: int = 64
    alpha: float = 128.0
    prompt: str = "Summarize the image in a few words."
    text_prompt: str | None = None
    attention: str = "causal"
    tokens: str = "final_norm"
    token_scale: float = 1.0
    temperature: float = 0.05
    template: str = "plain"
    caption_question: str = "Describe the image."
    initial_embeddings: str = "eos"
    schedule: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), field.default)
        object.__setattr__(self, "token_counts", tuple(sorted(self.token_counts)) or (self.num_tokens,))
        object.__setattr__(self, "schedule", tuple(map(tuple, self.schedule)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}.")
        for name in ("num_tokens", "rank", "alpha", "temperature", "token_scale"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.token_counts[0] < 1 or self.token_counts[-1] != self.num_tokens:
            counts = ", ".join(map(str, self.token_counts))
            raise InputError(f"token_counts ({counts}) must end with num_tokens ({self.num_tokens}), from 1 up.")
        if self.attention == "bidirectional" and len(self.token_counts) > 1:
            raise InputError("Bidirectional attention gives one number of tokens only; leave token_counts empty.")
        if self.schedule and (self.schedule[-1][1] != self.num_tokens or min(map(min, self.schedule)) < 1):
            raise InputError(
                f"schedule must end with num_tokens ({self.num_tokens}) rows; layers and rows are from 1 up."
            )
        template_named(self.template)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CompressorConfig":
        """Raises InputError for a name that is no setting."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InputError(f"{name!r} is no setting of a compressor; those are {', '.join(sorted(known))}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it. A schedule that is empty is left out: fingerprints are older than the setting."""
        values = {**asdict(self), "token_counts": list(self.token_counts), "schedule": list(map(list, self.schedule))}
        return {name: value for name, value in values.items() if name != "schedule" or value}


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Raises InputError unless the value is of the default's kind: what YAML and JSON read is checked here."""
    if name == "schedule":
        good = isinstance(value, list | tuple) and all(_is_pair(pair) for pair in value)
    elif isinstance(default, tuple):
        good = isinstance(value, list | tuple) and all(type(count) is int for count in value)
    elif isinstance(default, float):
        good = type(value) in (int, float)
    else:
        good = type(value) is (type(default) if default is not None else str) or value is default
    if not good:
        of = "pairs of whole numbers" if name == "schedule" else "whole numbers"
        kind = {tuple: f"a list of {of}", float: "a number", int: "a whole number"}.get(type(default), "a text")
        raise InputError(f"{name} is {value!r}; it must be {kind}.")


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(number) is int for number in value)
