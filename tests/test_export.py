"""Plain transformers folders: what their README's code answers from a row is what the model answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_run import Run, make_run
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_compressor, tiny_llava, tiny_pixels
from transformers import AutoImageProcessor

from fwd2bot import export
from fwd2bot.adapters import GENERATE, attach
from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.data.conversations import encode_conversation, template_named
from fwd2bot.errors import InputError, ModelError
from fwd2bot.export import export_model, merge
from fwd2bot.llava import Llava
from fwd2bot.model import Fwd2Bot, bundled_names, load
from fwd2bot.store import Store

PICTURES = [Image.linear_gradient("L").resize((16, 16)).convert("RGB"), Image.new("RGB", (16, 16), "red")]
QUESTION = "what is at the top left ?"
CASES = {
    "fwd2bot": {"compressor": "fwd2bot", "template": "vicuna_v1", "token_scale": 1.7},
    "one LoRA": {"compressor": "fwd2bot", "adapters": "single", "template": "short"},
    "full": {"compressor": "fwd2bot", "adapters": "full"},
    "average_pool": {"compressor": "average_pool", "token_scale": 0.3},
    "single_forward": {"compressor": "single_forward"},
    "identity": {"compressor": "identity", "adapters": "none"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "tiny-world", tiny_compressor(token_scale=1.7))
    return tmp_path / "tiny-world"


def run_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the code in the folder's README defines, when it is run there."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, str(folder / "README.md"), "exec"), names)
    return names


def our_pass(compressor: Compressor, row: torch.Tensor, question: str) -> tuple[torch.Tensor, list[int]]:
    """Logits at every place of pass 2, and the ids of the answer."""
    template = template_named(compressor.config.template)
    encoded = encode_conversation(compressor.llava.tokenizer, template, [(question, None)], has_image=True)
    batch = AnswerBatch.collate([encoded], pad_id=3)
    rows = compressor._rows(row[None], batch)
    (ids,) = compressor.generate(row[None], batch, max_new_tokens=12)
    return compressor.llava.logits(compressor.llava.run(rows, None, GENERATE))[0], ids


@torch.no_grad()
@pytest.mark.parametrize("target", ["transformers", "vllm"])
@pytest.mark.parametrize("case", CASES)
def test_plain_folder_answers_from_a_row_as_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, target: str
) -> None:
    settings: dict[str, Any] = dict(CASES[case])
    compressor = tiny_compressor(settings.pop("compressor"), **settings)
    save_model(tmp_path / "model", compressor)
    done = export_model(tmp_path / "model", tmp_path / "plain", target=target)
    assert done.merged == (compressor.config.adapters in ("stage", "single"))
    names = run_readme(tmp_path / "plain", monkeypatch)
    for row in Fwd2Bot(compressor).compress(PICTURES):
        logits, ids = our_pass(compressor, row, QUESTION)
        rows = names["prompt"](row.numpy(), QUESTION)[None]
        torch.testing.assert_close(names["model"](inputs_embeds=rows).logits[0], logits, rtol=1e-4, atol=1e-4)
        told = names["model"].generate(inputs_embeds=rows, do_sample=False, max_new_tokens=12)[0].tolist()
        assert [token for token in told if token not in compressor.llava.stop_ids] == ids
        assert ids
        ours = Fwd2Bot(compressor).answer(row[None], [QUESTION])
        assert [names["answer"](row, QUESTION)] == ours


def test_bundled_model_and_its_plain_folder_answer_alike_from_the_rows_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "emoji-world" not in bundled_names():
        pytest.skip("needs the bundled model emoji-world")
    from fwd2bot.engine import compress_images
    from fwd2bot.model import BUNDLED

    model = load("emoji-world", device="cpu")
    album = [BUNDLED / "album" / name for name in ("crown.png", "camera.png")]
    compress_images(model, album, tmp_path / "album.store", quantisation="int8")
    rows = Store.open(tmp_path / "album.store").get(["crown.png", "camera.png"])
    export_model("emoji-world", tmp_path / "plain", target="vllm")
    names = run_readme(tmp_path / "plain", monkeypatch)
    for row in rows:
        for question in ("what is at the top left?", "Describe the image."):
            assert names["answer"](row.tokens, question) == model.answer(row.tokens[None], [question])[0]


def test_plain_llava_sees_as_before(tmp_path: Path, folder: Path) -> None:
    export_model(folder, tmp_path / "plain")
    pixels = tiny_pixels(2)
    plain = Llava.from_folder(tmp_path / "plain")
    with torch.no_grad():
        torch.testing.assert_close(plain.visual_tokens(pixels), tiny_llava().visual_tokens(pixels))
        torch.testing.assert_close(plain.pixels(PICTURES), tiny_llava().pixels(PICTURES))


def test_plain_llava_pads_pictures_in_transformers_as_here(tmp_path: Path, folder: Path) -> None:
    crops = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
    (folder / "base/processor_config.json").write_text(json.dumps({"patch_size": 4, "image_processor": crops}))
    export_model(folder, tmp_path / "plain")
    wide = Image.linear_gradient("L").resize((40, 16)).convert("RGB")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(processor(wide, return_tensors="pt")["pixel_values"], tiny_llava().pixels([wide]))
    assert json.loads((tmp_path / "plain/processor_config.json").read_text()) == {"patch_size": 4}


def test_layouts_have_the_files_that_transformers_writes(tmp_path: Path, folder: Path) -> None:
    (folder / "base/processor_config.json").write_text('{"patch_size": 4}')
    small = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    small.add("tokenizer_config.json")
    export_model(folder, tmp_path / "llava")
    export_model(folder, tmp_path / "llm", target="vllm")
    assert {path.name for path in (tmp_path / "llm").iterdir()} == small | {"fwd2bot.json"}
    extra = {"preprocessor_config.json", "processor_config.json"}
    assert {path.name for path in (tmp_path / "llava").iterdir()} == small | extra
    for what, kind, architecture in (
        ("llava", "llava", "LlavaForConditionalGeneration"),
        ("llm", "llama", "LlamaForCausalLM"),
    ):
        config = json.loads((tmp_path / what / "config.json").read_text())
        assert (config["model_type"], config["architectures"]) == (kind, [architecture])


def test_head_that_shares_its_weights_is_written_once(tmp_path: Path) -> None:
    llava = tiny_llava()
    llava.network.lm_head.weight = llava.network.get_input_embeddings().weight
    export._write_llm(llava, tmp_path, torch.float32)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("target", ["transformers", "vllm"])
def test_files_have_the_dtype_that_was_asked_for(tmp_path: Path, folder: Path, target: str) -> None:
    done = export_model(folder, tmp_path / "plain", target=target, dtype="bfloat16")
    weights = load_file(tmp_path / "plain/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "plain/config.json").read_text())["dtype"] == "bfloat16"
    assert (done.target, done.dtype) == (target, "bfloat16")
    assert done.bytes == (tmp_path / "plain/model.safetensors").stat().st_size


def test_merge_adds_the_product_of_its_stage_alone() -> None:
    root = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    attach(root, "", {"compress": "compress", "generate": "generate"}, rank=1, alpha=3.0)
    layer = root[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.lora["generate"].down.copy_(torch.tensor([[0.5, -1.0]]))
        layer.lora["generate"].up.fill_(2.0)
        layer.lora["compress"].up.fill_(100.0)
    assert merge(root, "generate")
    assert layer.weight.tolist() == [[1.0 + 3.0 * 2.0 * 0.5, 2.0 - 3.0 * 2.0 * 1.0]]
    assert not merge(root, "other")


def test_merge_of_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    root = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False))
    attach(root, "", {"generate": "generate"}, rank=8, alpha=16.0)
    root = root.bfloat16()
    with torch.no_grad():
        root[0].lora["generate"].up.normal_()
    low_rank, before = root[0].lora["generate"], root[0].weight.detach().double().clone()
    exact = before + 2 * low_rank.up.double() @ low_rank.down.double()
    merge(root, "generate")
    assert torch.equal(root[0].weight.detach(), exact.bfloat16())


def test_readme_says_how_a_row_is_read(tmp_path: Path, folder: Path) -> None:
    export_model(folder, tmp_path / "plain")
    text = (tmp_path / "plain/README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n")
    assert "| a row | 4 tokens, each of 32 numbers, times 1.7 |" in text
    assert "| before it | the token `<s>` |" in text
    assert "| behind it | `{} ASSISTANT:`, with the question in place of the braces |" in text
    assert load(folder).fingerprint in text


# Mistakes.


def test_unknown_target_or_dtype_is_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="'gguf' is nothing to export for; a model is exported for transformers"):
        export_model(folder, tmp_path / "plain", target="gguf")
    with pytest.raises(InputError, match="'int8' is no dtype here"):
        export_model(folder, tmp_path / "plain", dtype="int8")


def test_damaged_model_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    (folder / "generate/adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="generate cannot be read"):
        export_model(folder, tmp_path / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-world"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command in the folder above the model's."""
    monkeypatch.chdir(tmp_path)
    return make_run(monkeypatch, capsys)


def test_command_says_what_it_wrote(command: Run, folder: Path) -> None:
    ran = command("export", "tiny-world", "--to", "plain", "--for", "vllm", "--dtype", "float16")
    size = Path("plain/model.safetensors").stat().st_size
    assert ran == (0, f"plain: {size:,} bytes in float16; its README.md says how rows are read\n", "")


def test_command_says_that_there_was_nothing_to_merge(command: Run, tmp_path: Path) -> None:
    tiny_llava().save(tmp_path / "llava")
    ran = command("export", "llava", "--to", "plain")
    assert (ran.code, ran.err) == (0, "fwd2bot: llava has no adapter to merge; plain has its base as it is\n")
    before, after = load_file("llava/model.safetensors"), load_file("plain/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["export", "tiny-world", "--to", "tiny-world"], 2, "tiny-world is there already; name a folder that is new"),
        (["export", "nothing", "--to", "plain"], 4, "There is no model 'nothing'"),
        (["export", "text", "--to", "plain"], 4, "text holds a model of type 'llama'; a fwd2bot or LLaVA-1.5 folder"),
        (["export", "tiny-world", "--to", "tiny-world/config.json/a"], 2, "a cannot be written"),
        (["export", "tiny-world", "--to", "plain", "--for", "gguf"], 2, "invalid choice: 'gguf'"),
        (["export", "tiny-world"], 2, "required: --to"),
        (["push", "tiny-world", "someone/small"], 4, "must know who you are; log in with `hf auth login`"),
        (["push", "nothing", "someone/small"], 4, "There is no model 'nothing'"),
    ],
)
def test_mistake_is_one_line_and_an_exit_code(
    command: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "no token"))
    Path("text").mkdir()
    Path("text/config.json").write_text('{"model_type": "llama"}')
    ran = command(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert ran.err.startswith("fwd2bot: ")
    assert ran.err.count("\n") == 1
