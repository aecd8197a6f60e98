"""The loop: resumed runs are the runs that were never stopped, what trains is what was asked for, failures are told."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import config, settings, written

from fwd2bot.checkpoint import load_model
from fwd2bot.data.world import KINDS, make_scene, render
from fwd2bot.data.world.patches import SHOWN, SIZES, patch_words
from fwd2bot.data.world.scene import COLOURS, PLACES
from fwd2bot.data.world.sprites import LETTERS
from fwd2bot.errors import Fwd2BotError
from fwd2bot.training import distributed, loop, run
from fwd2bot.training.compressor import CompressorStage
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.language import FINDING, LanguageStage, answers_right
from fwd2bot.training.optimizers import build_optimizers, rate_at
from fwd2bot.training.stage import Stage, scene_pixels

WHATS = ("tower", "language", "projector", "identity", "average_pool", "fwd2bot")
KILL = """
import os, signal, sys, torch
from fwd2bot.training import loop
torch.set_num_threads(1)
step_of = loop.Job.step
def step(self, batch, number):
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_of(self, batch, number)
loop.Job.step = step
loop.run(sys.argv[1])
"""
HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


class Stopped(BaseException):
    """The power went."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stop_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step_of = loop.Job.step

    def step(self: loop.Job, batch: Any, current: int) -> dict[str, float]:
        if current == number:
            raise Stopped
        return step_of(self, batch, current)

    monkeypatch.setattr(loop.Job, "step", step)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Every tensor of the last checkpoint, and every figure but the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "rate", "utilisation")
    figures = [{name: value for name, value in line.items() if name not in timed} for line in lines]
    return load_file(folder / "checkpoint/last.safetensors"), figures


def assert_same(first: Path, second: Path) -> None:
    (tensors, figures), (others, other_figures) = outcome(first), outcome(second)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert figures == other_figures


# Stopped and resumed.


@pytest.mark.parametrize("what", WHATS)
def test_a_stopped_run_goes_on_to_the_very_same_weights(
    what: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = run(written(tmp_path / "whole", settings(what, tmp_path / "whole/out", tiny_base)))
    path = written(tmp_path / "stopped", settings(what, tmp_path / "stopped/out", tiny_base))
    with monkeypatch.context() as patch:
        stop_before(patch, 5)
        with pytest.raises(Stopped):
            run(path)
    assert not (tmp_path / "stopped/out/done.json").exists()
    stopped = run(path)
    assert "Going on at step 3 of 6." in capsys.readouterr().err
    assert_same(whole, stopped)
    assert len(outcome(stopped)[1]) == 8  # six steps, two evaluations, none of them twice


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_process_goes_on_to_the_very_same_weights(tmp_path: Path, tiny_base: Path) -> None:
    """At once, while its workers, which nobody killed, have not yet noticed."""
    path = written(tmp_path, settings("fwd2bot", tmp_path / "killed", tiny_base, workers=2))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILL, str(path)]
    with (tmp_path / "words").open("w") as words:  # a pipe would have no end before the workers'
        killed = subprocess.run(command, env=environment, stdout=words, stderr=words)
    assert killed.returncode == -signal.SIGKILL, (tmp_path / "words").read_text()
    assert (tmp_path / "killed/checkpoint/last.safetensors").exists()
    run(path)
    (tmp_path / "second").mkdir()
    whole = run(written(tmp_path / "second", settings("fwd2bot", tmp_path / "whole", tiny_base)))
    assert_same(whole, tmp_path / "killed")


def test_a_finished_run_is_left_alone(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, settings("average_pool", tmp_path / "out", tiny_base, steps=1))
    run(path)
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")}
    assert run(path) == tmp_path / "out"
    assert "is already trained; remove it to train anew" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.*")} == before


def test_a_run_killed_while_it_saves_the_model_saves_it_again(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, steps=2))

    def save(self: CompressorStage, folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(CompressorStage, "save", save)
        with pytest.raises(Stopped):
            run(path)
    assert load_model(run(path)).num_tokens == 4


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, steps=1))
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out/train.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(Fwd2BotError, match="Another process is training into"):
            run(path)
        other.communicate()
    run(path)


@pytest.mark.parametrize("change", [{"rank": 3}, {"compressor": "average_pool", "token_counts": []}])
def test_checkpoint_of_another_model_is_told(change: dict[str, Any], tmp_path: Path, tiny_base: Path) -> None:
    values = settings("fwd2bot", tmp_path / "out", tiny_base, steps=1)
    run(written(tmp_path, values))
    (tmp_path / "out/done.json").unlink()
    values["compressor"] = {**values["compressor"], **change}
    with pytest.raises(Fwd2BotError, match=r"is of another model; remove .*out or take another `out`"):
        run(written(tmp_path, values))


def test_tokenizer_of_a_resumed_run_is_the_one_it_began_with(tmp_path: Path, tiny_base: Path) -> None:
    started = config("language", tmp_path, tiny_base)
    first = loop.build_stage(started).tokenizer
    (tmp_path / "checkpoint").mkdir()
    again = loop.build_stage(config("language", tmp_path, tiny_base, model={"tokenizer_scenes": 1}))
    assert again.tokenizer.get_vocab() == first.get_vocab()


# Failures.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_told_and_not_kept(
    value: float, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_of = CompressorStage.losses

    def losses(self: CompressorStage, batch: Any, step: int) -> dict[str, torch.Tensor]:
        found = losses_of(self, batch, step)
        return {**found, "contrastive": found["contrastive"] * value} if step == 4 else found

    monkeypatch.setattr(CompressorStage, "losses", losses)
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base))
    with pytest.raises(Fwd2BotError, match=r"The loss is (nan|inf) at step 4; lower the learning rate"):
        run(path)
    assert not (tmp_path / "out/done.json").exists()
    assert all(tensor.isfinite().all() for tensor in outcome(tmp_path / "out")[0].values())


# What trains.


def trained_names(stage: Stage) -> dict[str, torch.Tensor]:
    return {name: p for name, p in stage.module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("what", "changes", "trained"),
    [
        ("projector", {}, {"multi_modal_projector"}),
        ("identity", {}, {"multi_modal_projector", "language_model"}),
        ("identity", {"train_parts": []}, {"language_model"}),
        ("average_pool", {}, {".lora."}),
        ("fwd2bot", {}, {".lora.compress", ".lora.generate", "summary_embeddings"}),
        ("fwd2bot", {"train_parts": ["vision"]}, {".lora.", "summary_embeddings", "vision_tower"}),
    ],
)
def test_what_is_asked_for_trains_and_nothing_else(
    what: str, changes: dict[str, Any], trained: set[str], tmp_path: Path, tiny_base: Path
) -> None:
    stage = loop.build_stage(config(what, tmp_path, tiny_base, steps=2, **changes))
    names = set(trained_names(stage))
    assert all(any(part in name for part in trained) for name in names)
    assert all(any(part in name for name in names) for part in trained)
    before = {name: p.detach().clone() for name, p in stage.module.named_parameters()}
    loop.train(stage, stage.config)
    after = dict(stage.module.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if name not in names)
    changed = [name for name in names if not torch.equal(before[name], after[name])]
    unread = [name for name in names if "vision_tower" in name and name not in changed]  # the layers after -2
    assert len(changed) + len(unread) == len(names)


@pytest.mark.parametrize(("off", "kept"), [("contrastive", "autoregressive"), ("autoregressive", "contrastive")])
def test_either_loss_can_be_off(off: str, kept: str, tmp_path: Path, tiny_base: Path) -> None:
    stage = loop.build_stage(config("fwd2bot", tmp_path, tiny_base, losses={off: 0.0, kept: 2.0}))
    both = loop.build_stage(config("fwd2bot", tmp_path, tiny_base))
    losses = stage.losses(stage.batch(0), 0)
    assert list(losses) == [kept]
    assert losses[kept].item() == pytest.approx(2 * both.losses(both.batch(0), 0)[kept].item())


def test_prefix_counts_are_drawn_evenly_and_again_the_same(tmp_path: Path, tiny_base: Path) -> None:
    stage, other = (loop.build_stage(config("fwd2bot", tmp_path, tiny_base, seed=seed)) for seed in (0, 1))
    assert isinstance(stage, CompressorStage)
    assert isinstance(other, CompressorStage)
    drawn = [stage.num_tokens(step) for step in range(300)]
    assert set(drawn) == {1, 2, 4}
    assert min(Counter(drawn).values()) > 70
    assert drawn == [stage.num_tokens(step) for step in range(300)]
    assert drawn != [other.num_tokens(step) for step in range(300)]


@pytest.mark.parametrize("what", ["identity", "average_pool"])
def test_one_count_is_not_drawn(what: str, tmp_path: Path, tiny_base: Path) -> None:
    stage = loop.build_stage(config(what, tmp_path, tiny_base))
    assert isinstance(stage, CompressorStage)
    assert {stage.num_tokens(step) for step in range(20)} == {None}


def test_the_language_model_learns_to_find_first(tmp_path: Path, tiny_base: Path) -> None:
    data = {"turns": 12, "finding": 0.5}
    stage = loop.build_stage(config("language", tmp_path, tiny_base, steps=10, batch_size=8, data=data))
    assert isinstance(stage, LanguageStage)
    kinds = [{kind for sample in stage.samples(step) for kind in sample.kinds} for step in (4, 5)]
    assert kinds[0] == {"inventory", *FINDING}
    assert kinds[1] >= {"caption", "inventory", *KINDS} - {"reading"}


def test_a_picture_in_words_shows_every_thing(tmp_path: Path, tiny_base: Path) -> None:
    """Rows that stand for patches are the sums of their words' embeddings; descriptions are plain rows."""
    stage = loop.build_stage(config("language", tmp_path, tiny_base, steps=10, batch_size=8))
    assert isinstance(stage, LanguageStage)
    decode = stage.tokenizer.decode
    for sample, ids in zip(stage.samples(9), stage.batch(9)[0], strict=True):
        rows = [decode([token for token in row if token != stage.tokenizer.pad_token_id]) for row in ids.tolist()]
        shown = set(rows[1 : 1 + 40])
        described = sample.scene.index % 4 == 3
        for thing in sample.scene.things:
            if not described and not thing.text:
                assert f"{thing.name} {thing.size} {PLACES[thing.place]}" in shown
        if described:
            assert decode(ids[1:, 0]).startswith(sample.description.lower())


def test_a_model_starts_from_another_without_its_adapters(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "second").mkdir()
    first = run(written(tmp_path, settings("average_pool", tmp_path / "first", tiny_base, steps=1)))
    second = run(written(tmp_path / "second", settings("fwd2bot", tmp_path / "second/out", first, steps=1)))
    model = load_model(second)
    assert {name for name in ("compress", "generate") if (second / name).is_dir()} == {"compress", "generate"}
    assert torch.equal(model.llava.embed(torch.tensor([5])), load_model(tiny_base).llava.embed(torch.tensor([5])))


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_base_is_kept_in_half_width_and_gives_the_very_same_step(
    tied: bool, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base
    if not tied:
        base = tmp_path / "base"
        llava = load_model(tiny_base).llava
        llava.network.lm_head.weight = torch.nn.Parameter(torch.randn_like(llava.network.lm_head.weight))
        llava.network.config.tie_word_embeddings = llava.network.config.text_config.tie_word_embeddings = False
        llava.save(base)
    given = config("fwd2bot", tmp_path / "out", base, autocast=True)
    found = []
    for halved in (True, False):
        monkeypatch.setattr(TrainConfig, "halves_base", halved)
        stage = loop.build_stage(given)
        job = loop.Job(stage, given)
        losses = [job.step(stage.batch(step), step) for step in range(3)]
        llava = stage.compressor.llava  # of the stage that `given` names
        assert (llava.network.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16) == halved
        assert (llava.network.lm_head.weight.dtype == torch.bfloat16) == (halved and not tied)
        assert llava.network.get_input_embeddings().weight.dtype == torch.float32
        found.append((losses, {name: p.detach().clone() for name, p in job.named.items()}))
    (losses, weights), (plain_losses, plain_weights) = found
    assert losses == plain_losses
    assert all(torch.equal(weight, plain_weights[name]) for name, weight in weights.items())


def test_a_processor_without_bfloat16_trains_in_float32_and_says_so(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {}
    for autocast, has in ((True, False), (False, True)):
        monkeypatch.setattr(distributed, "multiplies_bfloat16", lambda device, has=has: has)
        out = tmp_path / str(autocast)
        run(written(tmp_path, settings("fwd2bot", out, tiny_base, steps=2, autocast=autocast)))
        assert ("no instructions for bfloat16" in capsys.readouterr().err) == autocast
        done = json.loads((out / "done.json").read_text())
        assert done["config"]["autocast"] == autocast
        assert done["precision"] == "float32"
        assert "matrix products in float32" in (out / "README.md").read_text()
        weights[autocast] = load_file(out / "generate/adapter_model.safetensors")
    assert all(torch.equal(weight, weights[False][name]) for name, weight in weights[True].items())


def test_a_compressor_starts_from_the_parts_of_a_llava(tmp_path: Path, tiny_base: Path) -> None:
    """Tab. 13: from the language model, that has seen no picture; the base is then written with the model."""
    init = {part: str(tiny_base.parent / part) for part in ("tower", "language")}
    folder = run(written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, steps=1, init=init)))
    assert (folder / "base/model.safetensors").exists()
    assert load_model(folder).num_tokens == 4


# Pieces.


def test_pixels_in_training_are_those_of_the_models_own_preprocessing(tmp_path: Path, tiny_base: Path) -> None:
    llava = load_model(tiny_base).llava
    scenes = [make_scene("train", index) for index in (4, 6)]  # even ones are drawn twice as large
    pictures = [Image.fromarray(render(scene, size=64)) for scene in scenes]
    np.testing.assert_allclose(scene_pixels(scenes, 32).numpy(), llava.pixels(pictures).numpy(), atol=1e-5)


def test_batches_depend_on_step_and_seed_alone(tmp_path: Path, tiny_base: Path) -> None:
    stage, other = (loop.build_stage(config("fwd2bot", tmp_path, tiny_base, seed=seed)) for seed in (0, 1))
    first, again, next_one = stage.batch(3), stage.batch(3), stage.batch(4)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.answers.ids, again.answers.ids)
    assert not torch.equal(first.pixels, next_one.pixels)
    assert not torch.equal(first.pixels, other.batch(3).pixels)
    numbers = [index for one in (stage, other) for step in range(5) for index in one.indices(step)]
    assert len(set(numbers)) == len(numbers)  # no scene twice


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_worker_processes_prepare_the_same_batches_in_order(tmp_path: Path, tiny_base: Path) -> None:
    here, there = (loop.build_stage(config("tower", tmp_path, tiny_base, workers=count)) for count in (0, 2))
    pairs = zip(loop.batches(here, here.config, 2), loop.batches(there, there.config, 2), strict=True)
    same = [all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) for first, second in pairs]
    assert same == [True] * 4


def test_patch_words_say_name_size_and_place() -> None:
    scene = next(
        s for i in range(99) if len((s := make_scene("train", i)).things) >= 4 and any(t.text for t in s.things)
    )
    said = patch_words(scene, 12).view(12, 12, 3)

    def words(row: int, column: int) -> tuple[str, str, str]:
        shown, size, place = said[row, column].tolist()
        return SHOWN[shown], SIZES[size], (*PLACES, "nowhere")[place]

    for thing in scene.things:
        row, column = int(thing.y / 8), int(thing.x / 8)
        if thing.text is None:
            assert words(row, column) == (thing.name, thing.size, PLACES[thing.place])
        else:
            assert words(row, column - 1) == (thing.text[0].lower(), "sign", PLACES[thing.place])
            assert words(row, column + 1) == (thing.text[1].lower(), "sign", PLACES[thing.place])
            assert said[row, column + 1, 0] >= len(SHOWN) - len(LETTERS)  # a right letter has words of its own
    free = next(place for place in range(9) if scene.at(place) is None)
    assert words(free // 3 * 4 + 1, free % 3 * 4 + 1) == (scene.colour, scene.pattern, "nowhere")


def test_an_orange_background_is_no_fruit() -> None:
    scene = next(s for i in range(99) if (s := make_scene("train", i)).colour == "orange" and len(s.things) == 1)
    counted = Counter(patch_words(scene, 12)[:, 0].tolist())
    assert counted[list(COLOURS).index("orange")] > 100


def test_no_two_names_share_a_word_alone() -> None:
    assert len(set(SHOWN)) == len(SHOWN) - len(LETTERS)  # only the letters stand there twice


def test_learning_rate_rises_stays_and_falls_to_zero(tmp_path: Path, tiny_base: Path) -> None:
    planned = config("fwd2bot", tmp_path, tiny_base, steps=100, warmup=0.1, cooldown=0.4)
    shares = [rate_at(step, planned) for step in range(100)]
    assert shares[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert shares[9:61] == pytest.approx([1.0] * 52)
    assert shares[80] == pytest.approx(0.5)
    assert shares[99] == pytest.approx(0.025)
    flat = config("fwd2bot", tmp_path, tiny_base, steps=10, warmup=0.0, cooldown=0.0)
    assert {rate_at(step, flat) for step in range(10)} == {1.0}


def test_muon_takes_hidden_matrices_and_adamw_the_rest(tmp_path: Path) -> None:
    named = {
        name: torch.nn.Parameter(torch.zeros(shape))
        for name, shape in {"layer.weight": (4, 4), "embed_tokens.weight": (9, 4), "norm.weight": (4,)}.items()
    }
    planned = config("tower", tmp_path, tmp_path, learning_rate=0.01, other_learning_rate=0.002)
    muon, adamw = build_optimizers(planned, named)
    assert [p is named["layer.weight"] for p in muon.param_groups[0]["params"]] == [True]
    assert len(adamw.param_groups[0]["params"]) == 2
    assert (muon.param_groups[0]["full_lr"], adamw.param_groups[0]["full_lr"]) == (0.01, 0.002)
    assert adamw.param_groups[0]["betas"] == (0.9, 0.98)
    (alone,) = build_optimizers(replace(planned, optimizer="adamw", beta2=0.999), named)
    assert alone.param_groups[0]["betas"] == (0.9, 0.999)


def test_an_answer_is_right_when_every_token_is() -> None:
    kinds = [["where", "size", "exist"], ["what"]]
    labels = torch.tensor(
        [[0, -100, 7, 8, 2, -100, 5, 2, -100, 6], [0, -100, -100, -100, -100, -100, 4, 2, -100, -100]]
    )
    wanted = labels[:, 1:][labels[:, 1:] != -100]
    predicted = torch.tensor([7, 9, 2, 5, 2, 6, 4, 2])
    right = answers_right(predicted, wanted, labels, kinds, 2)
    assert right == [("where", False), ("size", True), ("what", True)]  # the last answer of row one is cut off
