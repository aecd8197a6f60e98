"""How much of this machine's rate a training reaches, and where the rest goes.

    python benchmarks/training.py configs/emoji-world/fwd2bot.yaml                  # two minutes on two cores
    python benchmarks/training.py configs/llava-1.5-7b.yaml --random --rows 16      # real shapes, random weights: a GPU

Steps of the configuration itself, on scenes of the generated world, then pass 1 alone without gradients. A share is
FLOPs of the model's products (what gradient checkpointing computes again does not count) over the rate of a large
bfloat16 product, measured before and after. Standard output ends with one line of JSON (--json: nothing else).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ending import add_options, end
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.llava import Llava
from fwd2bot.training.compressor import CompressorStage
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.loop import Job, moved
from fwd2bot.training.progress import matmul_rate
from fwd2bot.training.shapes import BUNDLED, Base, read_base
from fwd2bot.training.tower import image_processor

WARM_UP = 3
KINDS = (
    ("attention", ("scaled_dot_product", "flash", "fmha")),
    ("products", ("aten::mm", "aten::addmm", "aten::bmm", "convolution", "gemm", "nvjet", "cutlass")),
    ("fused kernels between products", ("CompiledFxGraph", "triton")),
)
"""What a kernel or operation is, by a part of its name; the first that fits. All else is "the rest"."""


def random_llava(base: Base, device: torch.device) -> Llava:
    """A LLaVA of these shapes with random weights, and the bundled model's tokenizer."""
    tower, language = base.tower, base.language
    tokenizer: Any = AutoTokenizer.from_pretrained(BUNDLED / "emoji-world/base")
    if language.vocabulary < len(tokenizer):
        raise InputError(f"{base.name} has {language.vocabulary} tokens; random weights need {len(tokenizer)}.")
    vision = CLIPVisionConfig(
        hidden_size=tower.width,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        intermediate_size=tower.hidden,
        image_size=tower.image,
        patch_size=tower.patch,
        num_channels=tower.channels,
    )
    text = LlamaConfig(
        hidden_size=language.width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.kv_heads,
        head_dim=language.head_dim,
        intermediate_size=language.hidden,
        vocab_size=language.vocabulary,
        max_position_embeddings=language.context,
        attention_bias=language.attention_bias,
        mlp_bias=language.mlp_bias,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=language.tied,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=tower.read,
        vision_feature_select_strategy="default",
        multimodal_projector_bias=base.projector_bias,
        tie_word_embeddings=language.tied,
    )
    with device:
        network: Any = LlavaForConditionalGeneration(config)
    return Llava(network, tokenizer, image_processor(tower.image))


def measure(config: TrainConfig, random: bool, steps: int) -> dict[str, Any]:
    """Seconds, shares and memory of training steps and of pass 1."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = read_base(config.init)
    torch.manual_seed(config.seed)
    stage = CompressorStage(config, random_llava(base, device) if random else None)
    job = Job(stage, config)
    batches = [moved(stage.batch(step), stage.device) for step in range(steps)]
    peak = matmul_rate(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed([lambda batch=batch, step=step: job.step(batch, step) for step, batch in enumerate(batches)])
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    flops = statistics.mean(stage.flops(batch) or 0.0 for batch in batches)
    parts = profiled(lambda: job.step(batches[0], 0), device)
    compress = without_gradients(stage, batches[0].pixels)
    compress_seconds = timed([compress] * steps)
    peak = max(peak, matmul_rate(device))
    assert stage.work is not None, "read_base knows the shapes"
    load = stage.work.loads[0]
    passes = stage.work.passes(load, 1, 1)
    forward = stage.work.tower(config.batch_size).flops().forward
    forward += passes["pass 1"].flops(False).forward if "pass 1" in passes else 0
    return {
        "product_rate": peak,
        "training": {
            "seconds": seconds,
            "rows_per_s": config.batch_size / seconds,
            "share": flops / seconds / peak,
            "time": parts,
        },
        "compress": {
            "seconds": compress_seconds,
            "images_per_s": config.batch_size / compress_seconds,
            "share": forward / compress_seconds / peak,
        },
        "memory": {"measured": memory, "planned": stage.work.memory(load, config.batch_size, 1).total},
    }


def without_gradients(stage: CompressorStage, pixels: torch.Tensor) -> Callable[[], object]:
    """Pass 1 as one compresses an album."""

    @torch.inference_mode()
    def run() -> object:
        with stage.autocast():
            return stage.compressor.compress(pixels)

    return run


def timed(jobs: Sequence[Callable[[], object]]) -> float:
    """Median seconds of the jobs; some are done before, and do not count."""
    taken = []
    for number, job in enumerate([*jobs[:1] * WARM_UP, *jobs]):
        start = time.perf_counter()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number >= WARM_UP:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def profiled(job: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Shares of the time that kinds of kernels take."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        job()
    time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    shares = dict.fromkeys([*(kind for kind, _ in KINDS), "the rest"], 0.0)
    for event in found.key_averages():
        fitting = (kind for kind, names in KINDS if any(name in event.key for name in names))
        shares[next(fitting, "the rest")] += getattr(event, time_of)
    total = sum(shares.values())
    return {kind: value / total for kind, value in shares.items()}


def told(result: Mapping[str, Any]) -> str:
    """The figures for people."""
    training, compress, memory = result["training"], result["compress"], result["memory"]
    lines = [
        f"{result['config']} on {result['machine']}: a product reaches {result['product_rate'] / 1e12:.3g} TFLOP/s",
        f"training   {training['rows_per_s']:.3g} rows/s, {training['share']:.1%} of the product rate",
        "  of its time " + ", ".join(f"{kind} {share:.0%}" for kind, share in training["time"].items()),
        f"compress   {compress['images_per_s']:.3g} images/s, {compress['share']:.1%} of the product rate",
    ]
    if memory["measured"] is not None:
        lines.append(f"memory     {memory['measured'] / 1e9:.1f} GB, planned {memory['planned'] / 1e9:.1f} GB")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML of a run of stage compressor")
    parser.add_argument("--random", action="store_true", help="random weights of the base's shapes")
    parser.add_argument("--rows", type=int, help="rows of a step (default: the configuration's)")
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed")
    parser.add_argument("--compile", action="store_true", help="torch.compile, whatever the configuration says")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        if min(options.steps, 1 if options.rows is None else options.rows) < 1:
            raise InputError("--steps and --rows must be at least 1.")
        config = TrainConfig.load(options.config)
        if config.stage != "compressor":
            raise InputError(f"{options.config} is a run of stage {config.stage}; one of stage compressor is needed.")
        with tempfile.TemporaryDirectory() as folder:
            config = replace(
                config,
                out=Path(folder),
                data={**config.data, "sources": []},
                batch_size=options.rows or config.batch_size,
                contrastive_batch=0,
                compile=config.compile or options.compile,
                gradient_checkpointing=config.gradient_checkpointing and not options.no_checkpointing,
            )
            figures = measure(config, options.random, options.steps)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    figures |= {"config": options.config.as_posix(), "rows": config.batch_size, "random": options.random}
    if torch.cuda.is_available():
        figures["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    end(options, figures, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
