"""Plans against the real thing: parameters, FLOPs, kept bytes and checkpoints of training steps of tiny models."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import COMPRESSOR, config
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fwd2bot import adapters, attention
from fwd2bot.compressors.base import AnswerBatch
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import IGNORED
from fwd2bot.errors import InputError
from fwd2bot.llava import LANGUAGE_LAYERS, PARTS
from fwd2bot.training import plan as planning
from fwd2bot.training import shapes
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.loop import Job, build_stage, moved
from fwd2bot.training.optimizers import optimizer_tensors
from fwd2bot.training.plan import make_plan
from fwd2bot.training.plan_text import plan_text
from fwd2bot.training.shapes import BASES, Language, Tower, read_base
from fwd2bot.training.workload import Load, Work, count_tokens

ROOT = Path(__file__).parent.parent
TALK = {"kind": "conversations", "path": "talk.json", "images": "pictures"}
CAPTIONED = {**TALK, "captions": "captions.json"}
PAIRS = {"kind": "captions", "path": "{000..331}.tar"}
FWD2BOT = {**COMPRESSOR["fwd2bot"], "token_counts": []}
KINDS: dict[str, dict[str, Any]] = {
    "fwd2bot": {"compressor": FWD2BOT},
    "without L_disc": {"compressor": FWD2BOT, "losses": {"autoregressive": 1.0}},
    "without L_AR": {"compressor": FWD2BOT, "losses": {"contrastive": 1.0}},
    "one adapter": {"compressor": {**FWD2BOT, "adapters": "single", "rank": 3, "text_prompt": "what is this ?"}},
    "embeddings alone": {"compressor": {**FWD2BOT, "adapters": "none"}},
    "full": {"compressor": {**FWD2BOT, "adapters": "full"}},
    "all parts": {"compressor": FWD2BOT, "train_parts": ["vision", "projector", "language"]},
    "llava": {"compressor": COMPRESSOR["identity"], "train_parts": ["projector"]},
    "average_pool": {"compressor": COMPRESSOR["average_pool"]},
    "single_forward": {"compressor": {**FWD2BOT, "compressor": "single_forward"}},
}


def run_of(tmp_path: Path, base: Path, kind: str, **more: Any) -> TrainConfig:
    return config("fwd2bot", tmp_path / "out", base, **{**KINDS[kind], "batch_size": 3, **more})


def work_of(config: TrainConfig) -> Work:
    return Work(config, read_base(config.init))


def longest_caption(stage: Any, batch: Any) -> int:
    listed = stage.compressor.llava.tokenizer(batch.captions, add_special_tokens=False)["input_ids"]
    return max(len(ids) for ids in listed)


def plan_7b(**more: Any) -> planning.Plan:
    wished = {name: more.pop(name) for name in ("gpus", "gpu", "mfu", "text_tokens") if name in more}
    values = {"steps": 100, "batch_size": 32, "init": {"base": "llava-hf/llava-1.5-7b-hf"}, "optimizer": "adamw"}
    return make_plan(TrainConfig(stage="compressor", out=Path("out"), **{**values, **more}), **wished)


# Parameters.


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_model(kind: str, tmp_path: Path, tiny_base: Path) -> None:
    run = run_of(tmp_path, tiny_base, kind)
    compressor, work = build_stage(run).compressor, work_of(run)
    own = {part: {id(p): p.numel() for p in compressor.llava.part(part)} for part in PARTS}  # tied ones stand twice
    assert work.base.parameters == {part: sum(counts.values()) for part, counts in own.items()}
    assert sum(work.trained().values()) == sum(p.numel() for p in compressor.parameters() if p.requires_grad)
    added = {name: count for name, count in work.trained().items() if name not in PARTS}
    assert sum(added.values()) == sum(p.numel() for p in compressor.own_parameters().values())


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_the_base_are_those_in_memory(kind: str, autocast: bool, tmp_path: Path, tiny_base: Path) -> None:
    run = run_of(tmp_path, tiny_base, kind, autocast=autocast)
    llava = build_stage(run).compressor.llava
    own = {id(p): p for part in PARTS for p in llava.part(part)}.values()
    assert work_of(run).base_bytes() == sum(p.nbytes for p in own)
    assert work_of(run).host_bytes() == 4 * sum(p.numel() for p in own)


SIZES: dict[str, Any] = {
    "llava-hf/llava-1.5-7b-hf": {},
    "llava-hf/llava-1.5-13b-hf": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
                                  "num_attention_heads": 40, "num_key_value_heads": 40},
}  # fmt: skip


def counted(network: LlavaForConditionalGeneration) -> dict[str, int]:
    """Parameters by part, those that stand twice once."""
    parts = {part: [network.get_submodule(path) for path in paths] for part, paths in PARTS.items()}
    return {
        part: sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())
        for part, modules in parts.items()
    }


@pytest.mark.parametrize("name", BASES)
def test_parameters_of_llava_are_those_of_its_shapes_on_no_device(name: str, tmp_path: Path) -> None:
    config = LlavaConfig(text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096, **SIZES[name]))
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config)
    assert BASES[name].parameters == counted(network)
    adapters.attach(network, LANGUAGE_LAYERS, {"compress": "compress", "generate": "generate"}, 128, 256)
    trained = plan_7b(init={"base": name}, compressor={"rank": 128}).trained
    added = sum(parameter.numel() for parameter in adapters.adapter_parameters(network).values())
    assert trained["compress LoRA"] + trained["generate LoRA"] == added
    config.save_pretrained(tmp_path)
    assert replace(read_base({"base": str(tmp_path)}), name=name, file_bytes=2) == BASES[name]


def test_defaults_are_those_of_transformers() -> None:
    vision, text = CLIPVisionConfig(), LlamaConfig()
    assert Tower() == shapes._tower(vision.to_dict())
    assert Language() == shapes._llama(text.to_dict()) == shapes._llama({})


def test_heads_that_share_keys_and_biases_are_counted() -> None:
    values = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10,
              "intermediate_size": 36, "num_hidden_layers": 2, "vocab_size": 50}  # fmt: skip
    for tied, biased in product((False, True), repeat=2):
        more = {"tie_word_embeddings": tied, "attention_bias": biased, "mlp_bias": biased}
        llama = LlamaConfig(**values, **more)
        with torch.device("meta"):
            network = LlavaForConditionalGeneration(LlavaConfig(text_config=llama))
        assert shapes._llama(llama.to_dict()).parameters == counted(network)["language"]


# FLOPs.


def all_products(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **_: Any) -> Any:
    """Attention without torch's fused kernel, which FlopCounterMode does not count on a CPU."""
    return attention._products(query, key, value, mask, scaling), None


def labels_of(answers: AnswerBatch | None) -> int:
    return 0 if answers is None else int((answers.labels[:, 1:] != IGNORED).sum())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_a_training_step_are_exact(
    kind: str, checkpointing: bool, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "sdpa_attention_forward", all_products)
    run = run_of(tmp_path, tiny_base, kind, gradient_checkpointing=checkpointing)
    stage, work = build_stage(run), work_of(run)
    job, batch = Job(stage, run), moved(stage.batch(0), stage.device)
    loads = {"as it comes": (batch, work.loads[0])}
    if kind in ("fwd2bot", "one adapter", "single_forward"):
        twice = batch._replace(pixels=torch.cat([batch.pixels] * 2), answers=None, captions=batch.captions * 2)
        loads["pairs by gradient caching"] = twice, Load("pairs", 1.0, images=6, conversations=0, pairs=6, cached=True)
        text = batch._replace(pixels=None, answers=replace(batch.answers, image_position=None, turns=None), captions=[])
        loads["text alone"] = text, Load("text", 1.0, images=0, conversations=3, pairs=0)
    length, caption = int(run.data["length"]), longest_caption(stage, batch)
    for name, (given, load) in loads.items():
        with FlopCounterMode(display=False) as counter:
            job.step(given, 0)
        planned = work.flops(load, length, caption=caption, labels=labels_of(given.answers)).values()
        assert sum(part.total for part in planned) == counter.get_total_flops(), name
        assert (sum(part.again for part in planned) > 0) == (checkpointing or load.cached)


# Bytes.


def kept_bytes(stage: Any, batch: Any) -> int:
    """Of all storages that autograd keeps of a step's losses; the model's own weights do not count."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*stage.module.parameters(), *stage.module.buffers()]}
    owned.add(batch.pixels.untyped_storage().data_ptr())
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), stage.autocast():
        assert stage.losses(batch, 0)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_bytes_of_a_training_step_are_two_per_cent_below_to_five_above(
    kind: str, autocast: bool, checkpointing: bool, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", 0)  # the fused kernel, as on a GPU
    run = run_of(tmp_path, tiny_base, kind, gradient_checkpointing=checkpointing, autocast=autocast)
    stage = build_stage(run)
    batch = moved(stage.batch(0), stage.device)
    work = work_of(run)
    (load,), length, caption = work.loads, int(run.data["length"]), longest_caption(stage, batch)
    planned = work.activations(load, 3, length, checkpointing=checkpointing, caption=caption)
    if checkpointing:  # held by the layers' calls, where the hooks do not see it
        kept = [one.kept() for one in work.passes(load, length, caption, 3).values()]
        planned -= sum(one.rope + one.pairs for one in kept)
    if load.conversations:
        planned += work.head(labels_of(batch.answers)).kept()
    assert 0.98 <= planned / kept_bytes(stage, batch) <= 1.05


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["fwd2bot", "llava", "single_forward"])
def test_bytes_of_a_checkpoint_are_those_of_its_tensors(
    kind: str, optimizer: str, tmp_path: Path, tiny_base: Path
) -> None:
    run = run_of(tmp_path, tiny_base, kind, optimizer=optimizer)
    stage = build_stage(run)
    job = Job(stage, run)
    job.step(stage.batch(0), 0)
    state = [tensor for name, tensor in optimizer_tensors(job.optimizers).items() if not name.endswith(".step")]
    tensors = [*job.named.values(), *state]
    assert work_of(run).disk()["checkpoint"] == sum(tensor.nbytes for tensor in tensors)


def test_memory_is_worked_by_hand_where_nothing_depends_on_the_batch() -> None:
    memory = plan_7b(compressor={"rank": 1, "num_tokens": 2}).memory
    trained = 2 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + 2 * 4096
    tower, language = 24 * 12 * 1024**2 + 1024 * 588, 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    matrices = tower + 1024 * 4096 + 4096**2 + language + 4096 * 32064
    assert memory.parts["base"] == 4 * 7_063_427_072 - 2 * matrices
    assert plan_7b(autocast=False).memory.parts["base"] == plan_7b().host == 4 * 7_063_427_072
    assert memory.parts["adapters and embeddings, float32"] == memory.parts["gradients"] == 4 * trained
    assert memory.parts["adamw's state"] == 8 * trained
    shared = plan_7b(compressor={"rank": 1, "num_tokens": 2}, gpus=2).memory.parts
    assert shared["gradients on their way to other GPUs"] == 4 * trained
    assert memory.parts["gradients on their way to other GPUs"] == 0


def test_a_sharded_model_is_spread_but_for_what_is_gathered() -> None:
    alone = plan_7b(compile=False).memory.parts
    spread = plan_7b(compile=False, sharded=True, gpus=8).memory.parts
    for part in ("base", "adapters and embeddings, float32", "gradients", "adamw's state"):
        assert spread[part] == -(-alone[part] // 8)
    layer, outside = 4 * 4096**2 + 3 * 4096 * 11008, 7_063_427_072 - 24 * 12 * 1024**2
    assert spread["weights gathered from other GPUs"] == 2 * (2 * layer + outside - 32 * layer)
    assert spread["gradients on their way to other GPUs"] == alone["weights gathered from other GPUs"] == 0


def test_1024_pairs_of_7b_fit_on_one_gpu() -> None:
    run = replace(TrainConfig.load(ROOT / "configs/llava-1.5-7b.yaml"), batch_size=16)
    work = Work(run, read_base(run.init))
    memory = {load.name: work.memory(load, 16, gpus=1) for load in work.loads}
    assert next(load.pairs for load in work.loads if load.name == "pairs") == 1024
    assert memory["pairs"].parts["pictures"] == 1024 * 3 * 336**2 * 4
    assert memory["pairs"].total < memory["both"].total < 60e9


def test_most_rows_are_the_last_that_fit() -> None:
    plan = plan_7b(gpus=2, gpu="h100", gradient_checkpointing=True)
    assert plan.fits == (plan.memory.rows <= plan.most_rows)
    for batch, fits in ((2 * plan.most_rows, True), (2 * plan.most_rows + 2, False)):
        assert plan_7b(gpus=2, gpu="h100", gradient_checkpointing=True, batch_size=batch).fits == fits
    assert plan_7b(gpu="rtx-4090").most_rows == 0


def test_checkpointing_is_told_both_ways() -> None:
    with_it, without = plan_7b(gradient_checkpointing=True).memory, plan_7b().memory
    assert with_it.activations == without.activations
    assert with_it.parts["activations"] == with_it.activations["with"]
    assert without.parts["activations"] == without.activations["without"] > with_it.activations["with"]


def test_hours_fall_with_gpus_and_with_their_peak() -> None:
    one, eight, slower = plan_7b(), plan_7b(gpus=8), plan_7b(gpu="a100-80")
    assert one.hours == pytest.approx(8 * eight.hours)
    assert slower.hours == pytest.approx(one.hours * 989.4 / 312)
    assert plan_7b(mfu=0.7).hours == pytest.approx(one.hours / 2)
    seconds = one.flops / (989.4e12 * planning.MFU)
    assert one.hours == pytest.approx(seconds / 3600)
    assert one.images_a_second == pytest.approx(3200 / seconds)


def test_a_step_is_never_faster_than_reading_the_weights() -> None:
    (step,) = plan_7b(batch_size=1, mfu=1.0, data={"length": 1}).steps
    assert step.seconds == step.weight_seconds
    language = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert step.weight_seconds == pytest.approx(3 * (2 + 2) * language / 3.35e12)  # two passes and the text branch


@pytest.mark.parametrize(
    ("sources", "losses", "found"),
    [
        ([], {}, {"both": (1, 32, 32, 32)}),
        ([], {"contrastive": 0.0}, {"both": (1, 32, 32, 0)}),
        ([TALK, PAIRS], {}, {"pairs": (0.5, 64, 0, 64), "conversations": (None, 32, 32, 0), "text": (None, 0, 32, 0)}),
        ([CAPTIONED, PAIRS], {}, {"both": (364_100 / 966_496, 32, 32, 32), "pairs": (301_198 / 966_496, 64, 0, 64),
         "conversations": (260_510 / 966_496, 32, 32, 0), "text": (40_688 / 966_496, 0, 32, 0)}),
        ([CAPTIONED, PAIRS], {"autoregressive": 0.0}, {"both": (0.5, 32, 0, 32), "pairs": (0.5, 64, 0, 64)}),
        ([TALK, PAIRS], {"autoregressive": 0.0}, {"pairs": (1.0, 64, 0, 64)}),
        ([TALK], {"contrastive": 0.0}, {"conversations": (624_610 / 665_298, 32, 32, 0), "text": (None, 0, 32, 0)}),
    ],
)  # fmt: skip
def test_kinds_of_step_are_those_that_the_sampler_deals(sources: Any, losses: Any, found: Any) -> None:
    both = {"autoregressive": 1.0, "contrastive": 1.0, **losses}
    plan = plan_7b(data={"sources": sources}, losses=both, contrastive_batch=64 if sources else 0)
    loads = [step.load for step in plan.steps]
    assert [load.name for load in loads] == list(found)
    assert sum(load.share for load in loads) == pytest.approx(1)
    for load, (share, *counts) in zip(loads, found.values(), strict=True):
        assert share is None or load.share == pytest.approx(share)
        assert [load.images, load.conversations, load.pairs] == counts
        assert load.cached == (load.pairs == 64)


def test_samples_and_tokens_of_a_run_are_counted() -> None:
    plan = plan_7b(data={"sources": [TALK, PAIRS], "length": 100}, contrastive_batch=64, text_tokens=40)
    talk = 624_610 / 665_298
    assert (plan.seen("conversations"), plan.seen("pairs")) == (50 * 32, 50 * 64)
    assert plan.seen("images") == round(50 * (64 + 32 * talk))
    image, caption, answer = 1 + 576 + 9 + 16, 1 + 48 + 9 + 16, 40 + 16
    rows = 64 * (image + caption) + 32 * (talk * (image + answer) + (1 - talk) * 100)
    assert plan.tokens == round(50 * rows)


def test_text_alone_goes_through_pass_two_alone() -> None:
    plan = plan_7b(data={"sources": [TALK], "length": 50}, compressor={"rank": 8})
    (text,) = [step for step in plan.steps if step.load.name == "text"]
    assert list(text.flops) == ["pass 2", "logits"]
    own, adapter = 4 * 4096**2 + 3 * 4096 * 11008, 8 * (4 * 8192 + 3 * (4096 + 11008))
    tokens, first = 32 * 50, 3 * 4096 * (4096 + 8)  # nothing is learnt below the first layer
    backward = 2 * tokens * (32 * (own + 2 * adapter) - first) + 32 * 8 * 32 * 50**2 * 4096
    assert text.flops["pass 2"].backward == backward


def test_rows_from_files_are_shorter_than_they_may_be() -> None:
    told = [one.assumptions[0] for one in (plan_7b(data={"length": 900}), plan_7b(data={"sources": [TALK]}))]
    assert told[0].startswith("a conversation about a picture has 900 tokens")
    assert told[1].startswith("a conversation about a picture has 144 tokens")
    longer = plan_7b(data={"sources": [TALK], "length": 1472})
    assert longer.assumptions[0].startswith("a conversation about a picture has 300 tokens")
    assert longer.memory == plan_7b(data={"sources": [TALK], "length": 1472}, text_tokens=9).memory


def test_base_may_be_a_bundled_name_a_model_folder_or_parts(tiny_base: Path, tmp_path: Path) -> None:
    bundled = read_base({"base": "emoji-world"})
    assert (bundled.tower.patches, bundled.language.width, bundled.language.tied) == (144, 256, True)
    assert bundled.tokenizer is not None
    parts = {part: str(tiny_base.parent / part) for part in ("tower", "language")}
    assert read_base(parts).parameters == read_base({"base": str(tiny_base)}).parameters
    (tmp_path / "config.json").write_text(json.dumps({"fwd2bot": 1, "base": "llava-hf/llava-1.5-13b-hf"}))
    assert read_base({"base": str(tmp_path)}) == BASES["llava-hf/llava-1.5-13b-hf"]
    assert read_base({"base": f"llava-hf/llava-1.5-13b-hf@{40 * 'a'}"}) == BASES["llava-hf/llava-1.5-13b-hf"]
    vicuna = read_base({"tower": "openai/clip-vit-large-patch14-336", "language": "lmsys/vicuna-7b-v1.5"})
    assert sum(vicuna.parameters.values()) == 7_063_427_072 - 2 * 64 * 4096


def test_tokens_are_counted_by_the_base_or_by_length(tiny_base: Path) -> None:
    prompt = CompressorConfig().prompt
    path = read_base({"base": str(tiny_base)}).tokenizer
    assert path is not None
    ids = AutoTokenizer.from_pretrained(path.parent)(prompt, add_special_tokens=False)["input_ids"]
    assert count_tokens(prompt, path) == len(ids)
    assert count_tokens(prompt, None) == 9


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gpus": 0}, "--gpus is 0; it must be from 1 to batch_size, which is 32."),
        ({"gpus": 33}, "--gpus is 33; it must be from 1 to batch_size"),
        ({"gpu": "h1000"}, "--gpu is 'h1000'; it must be one of h100, h100-pcie, h200,"),
        ({"mfu": 0.0}, "--mfu is 0; it must be above 0 and at most 1."),
        ({"mfu": 40.0}, "--mfu is 40; it must be above 0"),
        ({"text_tokens": 0}, "--text-tokens is 0; it must be from 1 to data.length, which is 144."),
        (
            {"init": {"base": "a/b"}},
            "init.base is a/b, which is neither a folder here nor one of llava-hf/llava-",
        ),
        ({"init": {"tower": "a", "language": "b"}}, "init.tower is a, which is neither a trained model's folder nor"),
        ({"compressor": {"rang": 3}}, "'rang' is no setting of a compressor"),
        ({"compressor": {"compressor": "magic"}}, "There is no compressor 'magic'; the compressors are fwd2bot,"),
        ({"compressor": {"rank": 0}}, "rank is 0; it must be above 0"),
        ({"compressor": {"prompt": None}}, "prompt is None; it must be a text"),
        ({"train_parts": ("tail",)}, "'tail' is no part of the base; the parts are vision, projector, language"),
        ({"losses": {"contrastive": 0.0}}, "losses leaves fwd2bot nothing to learn from"),
        ({"contrastive_batch": 64}, "contrastive_batch is 64, but data.sources names no pairs"),
    ],
)
def test_a_wish_that_cannot_be_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_7b(**changes)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "is no JSON object"),
        ('{"model_type": "bert"}', "a model of type 'bert'; a fwd2bot or LLaVA-1.5 folder is needed"),
        ('{"model_type": "llava", "vision_feature_layer": [1, 2]}', "is read at one layer"),
    ],
)
def test_a_config_that_is_no_llava_is_told(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        plan_7b(init={"base": str(tmp_path)})


def test_a_damaged_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        count_tokens("a", tmp_path / "tokenizer.json")


def test_other_stages_have_no_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--plan is for runs of stage compressor; this one is of stage tower"):
        make_plan(config("tower", tmp_path, tmp_path))


@pytest.mark.parametrize(("gpu", "told"), [("h100", "does NOT fit"), ("rtx-4090", "not even one row")])
def test_text_says_what_does_not_fit(gpu: str, told: str) -> None:
    assert told in plan_text(plan_7b(gpu=gpu, data={"length": 2048}))
