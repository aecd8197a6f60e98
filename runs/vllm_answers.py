"""Runs inside vLLM's environment, by `runs/with_vllm.py`: prompt embeddings of a file to greedy answers in another."""

import json
import sys
from pathlib import Path

import vllm
from safetensors.torch import load_file


def main(folder: str, prompts: str, answers: str) -> None:
    engine = vllm.LLM(
        model=folder, dtype="float32", enable_prompt_embeds=True, enforce_eager=True, max_num_seqs=16,
        kv_cache_memory_bytes=1 << 28,
    )  # fmt: skip
    rows = [rows for _, rows in sorted(load_file(prompts).items())]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=64)
    told = engine.generate([{"prompt_embeds": one} for one in rows], greedy, use_tqdm=False)
    found = {"version": vllm.__version__, "answers": [one.outputs[0].text.strip() for one in told]}
    Path(answers).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
