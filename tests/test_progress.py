"""What one watches: the line on the screen, the files beside it, other libraries where they are asked for."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import config, settings, written

from fwd2bot.data.conversations import IGNORED, TEMPLATES
from fwd2bot.errors import InputError
from fwd2bot.training import progress, run
from fwd2bot.training.loop import build_stage
from fwd2bot.training.progress import Watch, matmul_rate


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def watch_on(out: Path, base: Path, step: int = 0, seconds: float = 0.0, **more: Any) -> Watch:
    out.mkdir(exist_ok=True)
    return Watch(config("fwd2bot", out, base, **{"steps": 100, "log_every": 2, **more}), step, seconds)


def test_the_line_tells_losses_rate_utilisation_and_what_is_left(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "matmul_rate", lambda device: 50.0)
    clock = Clock(monkeypatch)
    watch = watch_on(tmp_path, tiny_base)
    for step, loss in ((1, 1.0), (2, 3.0)):
        clock.now += 4.0
        watch.step(step, {"autoregressive": loss, "contrastive": 0.5}, rows=32, flops=120.0)
    told = capsys.readouterr().err
    assert told == "step 2/100  L_AR 2  L_disc 0.5  8.0 rows/s  60% of the product rate  6 min 32 s left\n"
    expected = {"step": 2, "seconds": 8.0, "autoregressive": 2.0, "contrastive": 0.5, "rate": 8.0, "utilisation": 0.6}
    assert lines(tmp_path / "metrics.jsonl") == [expected]


def test_time_for_figures_and_checkpoints_is_not_in_the_rate(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    watch = watch_on(tmp_path, tiny_base, step=2, seconds=50.0)
    clock.now += 1.0
    watch.step(3, {"loss": 1.0}, rows=10, flops=None)
    clock.now += 100.0
    watch.figures(3, {"val/mean": 50.0}, [])
    clock.now += 100.0
    watch.resumed()
    clock.now += 1.0
    watch.step(4, {"loss": 1.0}, rows=10, flops=None)
    figures, losses = lines(tmp_path / "metrics.jsonl")
    assert figures == {"step": 3, "seconds": 151.0, "val/mean": 50.0}
    assert losses == {"step": 4, "seconds": 252.0, "loss": 1.0, "rate": 10.0}


@pytest.mark.parametrize(("step", "kept"), [(3, [{"step": 2}]), (0, [])])
def test_what_is_done_again_is_told_again(
    step: int, kept: list[dict[str, int]], tmp_path: Path, tiny_base: Path
) -> None:
    """Also by a run that was killed before its first checkpoint."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text('{"step": 2}\n{"step": 4}\nnot json\n{"step": ')
    watch_on(tmp_path, tiny_base, step=step)
    assert lines(tmp_path / "metrics.jsonl") == lines(tmp_path / "samples.jsonl") == kept


@pytest.mark.parametrize("template", TEMPLATES)
def test_samples_hold_question_answer_and_truth(tmp_path: Path, tiny_base: Path, template: str) -> None:
    values = settings("fwd2bot", tmp_path / "out", tiny_base, validation=4, steps=3)
    values["compressor"] = {**values["compressor"], "template": template}
    values["data"] = {**values["data"], "length": 320}
    run(written(tmp_path, values))
    samples = lines(tmp_path / "out/samples.jsonl")
    assert [set(sample) for sample in samples] == [{"step", "question", "truth", "answer"}] * 2
    stage = build_stage(config("fwd2bot", tmp_path, tiny_base, **{key: values[key] for key in ("compressor", "data")}))
    batch = next(iter(stage.feed.validation()))
    text = stage.compressor.llava.tokenizer.decode(batch.answers.ids[0])
    words = TEMPLATES[template]
    said = words.question.format(samples[0]["question"]) + words.answer.format(samples[0]["truth"]) + "</s>"
    assert said.replace(" ", "") in text.replace(" ", "")


def test_a_row_that_is_cut_before_its_answer_is_no_sample(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = build_stage(config("fwd2bot", tmp_path, tiny_base, batch_size=4, validation=4))
    stage.module.eval()
    whole = stage.answer_samples()
    batch = next(iter(stage.feed.validation()))
    words = batch._replace(pixels=None, questions=["about no picture"] * 4)
    monkeypatch.setattr(stage.feed, "validation", lambda: iter([words, batch]))
    batch.answers.labels[1] = IGNORED
    assert stage.answer_samples() == [whole[0], *whole[2:]]
    batch.answers.labels[:] = IGNORED
    assert stage.answer_samples() == []


def test_a_step_has_the_flops_that_torch_counts(tmp_path: Path, tiny_base: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    stage = build_stage(config("fwd2bot", tmp_path, tiny_base, batch_size=4))
    stage.compressor.train()
    batch = stage.batch(0)
    with FlopCounterMode(display=False) as counter:
        sum(stage.losses(batch, 0).values()).backward()
    assert stage.flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.05)  # captions are padded


@pytest.mark.parametrize("library", ["tensorboard", "wandb"])
def test_a_report_that_is_not_installed_is_told(
    library: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"report names {library}, which is not installed; run pip install {library}"):
        watch_on(tmp_path, tiny_base, report=(library,))


def test_figures_and_samples_go_to_weights_and_biases(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    stub = SimpleNamespace(
        init=lambda **settings: SimpleNamespace(
            log=lambda figures, step: logged.append((step, figures)), finish=lambda: logged.append(settings["name"])
        ),
        Table=lambda columns, data: (columns, data),
    )
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setattr(progress, "find_spec", lambda name: stub)
    watch = watch_on(tmp_path / "mine", tiny_base, report=("wandb",))
    watch.figures(2, {"val/mean": 1.5}, [{"question": "q", "truth": "t", "answer": "a"}])
    watch.close()
    table = (["question", "truth", "answer"], [["q", "t", "a"]])
    assert logged == [(2, {"val/mean": 1.5}), (2, {"samples": table}), "mine"]


def test_a_run_of_weights_and_biases_is_the_folders_own(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    stub = SimpleNamespace(init=lambda **settings: begun.append(settings["id"]))
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.setattr(progress, "find_spec", lambda name: stub)
    for folder, step in (("a/llava", 0), ("a/llava", 50), ("b/llava", 0), ("a/llava", 0)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        watch_on(tmp_path / folder, tiny_base, step=step, report=("wandb",))
    assert begun[0] == begun[1]
    assert len({*begun}) == 3  # another folder of that name, and the same one trained anew


def test_an_unknown_report_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(InputError, match="report names paper; there are tensorboard and wandb"):
        config("fwd2bot", tmp_path, tiny_base, report=("paper",))


def test_the_rate_of_products_is_measured() -> None:
    assert matmul_rate(torch.device("cpu")) > 1e8
