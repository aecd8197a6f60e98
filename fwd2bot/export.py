"""A model as a plain transformers folder, for programs that know nothing of it: pass 2 with its adapter merged.

Two layouts: for "transformers", a `LlavaForConditionalGeneration` with tokenizer and image processor; for "vllm", the
language model alone (LLaVA-1.5's is a `LlamaForCausalLM`), which takes prompt embeddings (`prompts.py`). Pass 1 stays
with the model: rows are made by it, and read by what is written here. The README.md that goes with it says how.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from fwd2bot import adapters, checkpoint
from fwd2bot.adapters import GENERATE, StageLinear
from fwd2bot.compressors.base import Compressor
from fwd2bot.data.conversations import ChatTemplate, template_named
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.model import dtype_named, find_model
from fwd2bot.prompts import write_reading


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: for which program, the weights' dtype and bytes, and whether there was an adapter to merge."""

    target: str
    dtype: str
    bytes: int
    merged: bool


def export_model(
    name: str | Path, folder: str | Path, *, target: str = "transformers", dtype: str | None = None
) -> Exported:
    """Writes the model that `load` calls `name` to a new folder. Dtype: that in which `load` would compute.

    Raises InputError for an unknown target or dtype, for a folder that holds something or cannot be written, and for a
    method that changes the language model; ModelError when the model cannot be read.
    """
    if target not in LAYOUTS:
        raise InputError(f"{target!r} is nothing to export for; a model is exported for {' or '.join(LAYOUTS)}.")
    source, folder = find_model(name), Path(folder)
    kind = dtype_named(dtype, source)
    fingerprint = checkpoint.fingerprint(source)
    with checkpoint.new_folder(folder) as new:
        compressor = checkpoint.load_model(source, kind)
        if compressor.inside:
            method = compressor.config.compressor
            raise InputError(f"{method} leaves tokens out inside the language model, which a plain LLaVA cannot do.")
        if not compressor.answers:
            raise InputError(f"{compressor.config.compressor} only embeds: there is no pass that answers to export.")
        merged = merge(compressor.llava.network, GENERATE)
        generation = compressor.llava.network.generation_config
        generation.eos_token_id = sorted(compressor.llava.stop_ids)  # an answer ends where it ends with us
        LAYOUTS[target].write(compressor.llava, new, kind)
        if target == "vllm":
            write_reading(new, compressor, fingerprint)
        for extra in LAYOUTS[target].extras:
            if (checkpoint.base_folder(source) / extra).exists():
                copyfile(checkpoint.base_folder(source) / extra, new / extra)
        _without_image_processor(new / "processor_config.json")
        (new / "README.md").write_text(_readme(compressor, folder.name, target, fingerprint, merged), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Exported(target=target, dtype=str(kind).removeprefix("torch."), bytes=size, merged=merged)


@torch.no_grad()
def merge(root: nn.Module, stage: str) -> bool:
    """Adds the adapter of a stage to the weights for good; false where there is none. Computed in float32."""
    layers = [module for module in root.modules() if isinstance(module, StageLinear) and stage in module.routes]
    for layer in layers:
        change = layer.low_ranks()[layer.routes[stage]].product(torch.float32)
        layer.weight.copy_(layer.weight.float() + change)
    return bool(layers)


def _without_image_processor(path: Path) -> None:
    """transformers would take the one that may stand in this file for the one in preprocessor_config.json."""
    if path.exists():
        told = json.loads(path.read_text(encoding="utf-8"))
        told.pop("image_processor", None)
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _write_llava(llava: Llava, folder: Path, dtype: torch.dtype) -> None:
    llava.save(folder, dtype)


def _write_llm(llava: Llava, folder: Path, dtype: torch.dtype) -> None:
    """The language model and its head, under the names that they have alone."""
    network = llava.network
    language = adapters.without_adapters(network.model.language_model.state_dict())
    state = {**{f"model.{path}": tensor for path, tensor in language.items()}, "lm_head.weight": network.lm_head.weight}
    config = deepcopy(network.config.text_config)
    config.tie_word_embeddings = network.lm_head.weight is network.get_input_embeddings().weight
    with torch.device("meta"):
        alone: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    alone.load_state_dict(state, assign=True)
    alone.tie_weights()
    alone.generation_config = network.generation_config
    alone.save_pretrained(folder)
    llava.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one is written, which small files of the base go with it, and what its README calls it."""

    write: Callable[[Llava, Path, torch.dtype], None]
    extras: tuple[str, ...]
    title: str
    loader: str
    task: str


LAYOUTS = {
    "transformers": Layout(
        write=_write_llava,
        extras=("processor_config.json", "chat_template.jinja", "chat_template.json"),
        title="A LLaVA",
        loader="LlavaForConditionalGeneration",
        task="image-text-to-text",
    ),
    "vllm": Layout(
        write=_write_llm,
        extras=(),
        title="The language model of a LLaVA",
        loader="AutoModelForCausalLM",
        task="text-generation",
    ),
}


def _readme(compressor: Compressor, title: str, target: str, fingerprint: str, merged: bool) -> str:
    """Says how a row is fed: scale, place and text, as a table and as code."""
    config, llava, layout = compressor.config, compressor.llava, LAYOUTS[target]
    template, tokenizer = template_named(config.template), llava.tokenizer
    counts = " or ".join(map(str, compressor.token_counts))
    weights = "its adapter of pass 2 is merged into the weights" if merged else "it has no adapter to merge"
    scale = f"times {config.token_scale:g}" if config.token_scale != 1 else "as they are"
    begin = f"the token `{tokenizer.bos_token}`" if tokenizer.bos_token_id is not None else "nothing"
    before = f"{begin}, then the text `{template.before_image}`" if template.before_image else begin
    return f"""---
library_name: transformers
pipeline_tag: {layout.task}
tags:
- fwd2bot
---

# {title}

{layout.title} in the layout of transformers, written by `fwd2bot export`; {weights}.
It answers questions about images from rows of tokens, which the fwd2bot model with this fingerprint makes of them:
`{fingerprint}`.

## How a row is read

| | |
|---|---|
| a row | {counts} tokens, each of {llava.width} numbers, {scale} |
| before it | {before} |
| behind it | `{_shown(template)}`, with the question in place of the braces |
| positions | 0, 1, 2 ... over all of this: a row takes as many places as it has tokens |
| an answer | greedy, up to `{tokenizer.eos_token}` |
| a caption | the answer to `{config.caption_question}` |

```python
{_snippet(compressor, layout)}```
"""


def _shown(template: ChatTemplate) -> str:
    return (template.after_image + template.question).replace("\n", "\\n")


def _snippet(compressor: Compressor, layout: Layout) -> str:
    """Code that loads the folder and answers from a row; tests run it."""
    template, tokenizer = template_named(compressor.config.template), compressor.llava.tokenizer
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = f"{begin}" if not template.before_image else f"{begin} + ids({template.before_image!r})"
    scale = f" * {compressor.config.token_scale}" if compressor.config.token_scale != 1 else ""
    loaders = ", ".join(sorted({"AutoTokenizer", layout.loader}))
    return f'''import torch
from transformers import {loaders}

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {layout.loader}.from_pretrained(folder)


def ids(text):
    return tokenizer(text, add_special_tokens=False).input_ids


def embedded(numbers):
    return model.get_input_embeddings()(torch.tensor(numbers, dtype=torch.long, device=model.device))


@torch.no_grad()
def prompt(row, question):
    """Tokens (K, D) and a question -> what the model reads in the place of words, (T, D)."""
    before = {before}
    behind = ids({template.after_image + template.question!r}.format(question.strip()))
    tokens = torch.as_tensor(row).to(model.device, model.dtype){scale}
    return torch.cat([embedded(before), tokens, embedded(behind)])


def answer(row, question):
    rows = prompt(row, question)[None]
    mask = torch.ones(rows.shape[:2], dtype=torch.long, device=model.device)
    told = model.generate(inputs_embeds=rows, attention_mask=mask, do_sample=False, max_new_tokens=64)
    return tokenizer.decode(told[0], skip_special_tokens=True).strip()
'''
