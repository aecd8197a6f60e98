"""A LLaVA of a few thousand random weights, for tests: 16 visual tokens, width 32, two layers each."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.llava import Llava

TEXT = ["a fox on a red background", "what is at the top left ?", "how many stars are there ?", "ASSISTANT: USER:"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def tiny_llava(dtype: torch.dtype = torch.float32, seed: int = 0, *, layers: int = 2, image: int = 16) -> Llava:
    """The same weights for the same seed, frozen, in evaluation mode."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=image, patch_size=4
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, image_seq_length=(image // 4) ** 2)
    config.dtype = dtype
    network = LlavaForConditionalGeneration._from_config(config, dtype=dtype)
    square = {"height": image, "width": image}
    processor = LlavaImageProcessorPil(size={"shortest_edge": image}, crop_size=square, do_pad=True)
    return Llava(network, tokenizer, processor).requires_grad_(False).eval()


def tiny_compressor(
    name: str = "fwd2bot", dtype: torch.dtype = torch.float32, *, stir: bool = True, layers: int = 2, **settings: object
) -> Compressor:
    """A compressor on a tiny LLaVA; with `stir` the adapters are not zero any more. Frozen until `trainable()`."""
    values = {"num_tokens": 4, "rank": 2, "alpha": 4.0, "prompt": "sum up", **settings}
    compressor = make_compressor(
        tiny_llava(dtype, layers=layers), CompressorConfig.from_dict({"compressor": name, **values})
    )
    if stir:
        with torch.no_grad():
            for parameter in compressor.own_parameters().values():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    compressor.requires_grad_(False).eval()
    return compressor.double() if dtype == torch.float64 else compressor


def tiny_tokens(compressor: Compressor, pixels: torch.Tensor, num_tokens: int | None = None) -> torch.Tensor:
    """Compressed, for a question where there must be one."""
    questions = ["what is it ?"] * len(pixels) if compressor.needs_question else None
    return compressor.compress(pixels, questions, num_tokens)


def tiny_pixels(count: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(count, 3, 16, 16)."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count)).to(dtype)


def script(path: str) -> ModuleType:
    """A script outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parent.parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keep_dtype_in_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA's RMSNorm computes in float32 whatever it is given; afterwards it keeps the dtype."""

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        variance = hidden.pow(2).mean(-1, keepdim=True)
        scaled: torch.Tensor = self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)
        return scaled

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
