"""Golden runs: ten seeded steps of every stage give the recorded losses. A refactor keeps them; a change of what is
computed records them anew, alone, and its commit says why:

    python tests/test_golden.py
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from tiny import keep_dtype_in_norms
from tiny_runs import config, untrained_base

from fwd2bot.training.loop import Job, build_stage

GOLDEN = Path(__file__).parent / "golden/training.json"
WHATS = ("tower", "language", "projector", "identity", "average_pool", "fwd2bot")
STEPS = 10


def losses(what: str, out: Path, base: Path) -> dict[str, list[float]]:
    """The losses of ten steps, on one thread, all by AdamW (Muon's own products are bfloat16).

    In float64, so that every processor gives the same: float32 was 2e-4 apart after eight steps on one without AVX-512.
    """
    torch.set_num_threads(1)
    rate = 0.03 if what in ("fwd2bot", "average_pool") else 0.003
    planned = config(what, out, base, steps=STEPS, batch_size=3, optimizer="adamw", learning_rate=rate)
    stage = build_stage(planned)
    stage.module.double()
    job = Job(stage, planned)
    found: dict[str, list[float]] = {}
    for step in range(STEPS):
        for name, value in job.step(stage.batch(step), step).items():
            found.setdefault(name, []).append(round(value, 8))
    return found


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("what", WHATS)
def test_ten_steps_give_the_recorded_losses(what: str, tmp_path: Path, tiny_base: Path) -> None:
    found = losses(what, tmp_path, tiny_base)
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))[what]
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert found[name] == pytest.approx(values, abs=1e-5), name


def test_recorded_losses_fall_and_differ() -> None:
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(recorded) == set(WHATS)
    assert set(recorded["fwd2bot"]) == {"autoregressive", "contrastive"}
    for what, by_name in recorded.items():
        for name, values in by_name.items():
            assert len(set(values)) == STEPS, (what, name)
    assert recorded["identity"]["autoregressive"][-1] < recorded["identity"]["autoregressive"][0]


def record() -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        keep_dtype_in_norms(patch)
        base = untrained_base(Path(folder) / "models")
        found = {what: losses(what, Path(folder) / what, base) for what in WHATS}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    record()
