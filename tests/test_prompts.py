"""Prompt embeddings: from the exported folder alone they are those that the model itself reads."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_compressor
from transformers import AutoModelForCausalLM

from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.data.conversations import encode_conversation, template_named
from fwd2bot.engine import compress_images
from fwd2bot.errors import InputError, ModelError
from fwd2bot.export import export_model
from fwd2bot.model import BUNDLED, bundled_names, load
from fwd2bot.prompts import Prompts
from fwd2bot.store import Store

ROOT = Path(__file__).parent.parent

QUESTION = "  what is </s> at the top left ? "


def exported(folder: Path, **settings: object) -> tuple[Compressor, Path]:
    compressor = tiny_compressor(**settings)
    save_model(folder / "model", compressor)
    export_model(folder / "model", folder / "plain", target="vllm")
    return compressor, folder / "plain"


@pytest.mark.parametrize("template", ["vicuna_v1", "short"])
def test_embeddings_are_what_the_model_reads(tmp_path: Path, template: str) -> None:
    compressor, folder = exported(tmp_path, template=template, token_scale=1.7)
    row = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    encoded = encode_conversation(compressor.llava.tokenizer, template_named(template), [(QUESTION, None)], True)
    expected = compressor._rows(row[None], AnswerBatch.collate([encoded], pad_id=3))[0]
    assert torch.equal(Prompts(folder).embeddings(row.numpy(), QUESTION), expected)


def test_embeddings_have_the_dtype_of_the_weights(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_compressor())
    export_model(tmp_path / "model", tmp_path / "plain", target="vllm", dtype="bfloat16")
    assert Prompts(tmp_path / "plain").embeddings(torch.zeros(4, 32), QUESTION).dtype == torch.bfloat16


def test_prompts_name_the_model_that_makes_their_rows(tmp_path: Path) -> None:
    compressor, folder = exported(tmp_path)
    prompts = Prompts(folder)
    assert prompts.fingerprint == load(tmp_path / "model").fingerprint
    assert prompts.caption_question == compressor.config.caption_question


def test_code_of_the_document_gives_vllm_what_the_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for vLLM, which `runs/with_vllm.py` runs for real."""
    if "emoji-world" not in bundled_names():
        pytest.skip("needs the bundled model emoji-world")
    model = load("emoji-world", device="cpu")
    compress_images(model, [BUNDLED / "album/crown.png"], tmp_path / "album.store")
    export_model("emoji-world", tmp_path / "plain-llm", target="vllm")

    def greedy(temperature: float, max_tokens: int) -> dict[str, Any]:
        return {"do_sample": temperature > 0, "max_new_tokens": max_tokens}

    class Engine:
        def __init__(self, folder: str, enable_prompt_embeds: bool) -> None:
            self.network = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

        def generate(self, prompts: list[dict[str, torch.Tensor]], sampling: dict[str, Any]) -> list[SimpleNamespace]:
            (rows,) = (one["prompt_embeds"] for one in prompts)
            mask = torch.ones(1, len(rows), dtype=torch.long)
            told = self.network.generate(inputs_embeds=rows[None], attention_mask=mask, **sampling)
            text = model.compressor.llava.tokenizer.decode(told[0], skip_special_tokens=True)
            return [SimpleNamespace(outputs=[SimpleNamespace(text=text)])]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=greedy))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n([^`]*vllm.*?)^```", (ROOT / "docs/sharing.md").read_text(), re.DOTALL | re.M)
    exec(compile(code, "docs/sharing.md", "exec"), {})
    row = Store.open("album.store").get(["crown.png"])[0]
    assert capsys.readouterr().out.strip() == model.answer(row.tokens[None], ["what is at the top left?"])[0] == "lion"


# Mistakes.


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    prompts, row = Prompts(exported(tmp_path)[1]), torch.zeros(4, 32)
    with pytest.raises(InputError, match=r"the shape \(tokens, 32\) here, not \(4, 31\)"):
        prompts.embeddings(row[:, 1:], QUESTION)
    with pytest.raises(InputError, match="The question is empty"):
        prompts.embeddings(row, " ")
    with pytest.raises(InputError, match=r"has \d+ tokens; this model has room for 251: shorten it"):
        prompts.embeddings(row, "star " * 300)


def test_other_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not of `fwd2bot export MODEL --to .* --for vllm`"):
        Prompts(tmp_path)


@pytest.mark.parametrize("damage", ["text", "field", "weights", "template"])
def test_damaged_folder_is_told(tmp_path: Path, damage: str) -> None:
    folder = exported(tmp_path)[1]
    reading = folder / "fwd2bot.json"
    values = json.loads(reading.read_text())
    if damage == "text":
        reading.write_text("{")
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"cut")
    elif damage == "field":
        reading.write_text(json.dumps({name: value for name, value in values.items() if name != "token_scale"}))
    else:
        reading.write_text(json.dumps({**values, "template": "gone"}))
    with pytest.raises(ModelError, match="is damaged: export the model again"):
        Prompts(folder)
