"""A training's YAML file: every mistake is one sentence, told before any work is done."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import MODEL, settings, written

from fwd2bot.cli import main
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.training import run
from fwd2bot.training.config import SETTINGS, TrainConfig
from fwd2bot.training.loop import build_stage
from fwd2bot.training.shapes import BASES

CONFIGS = Path(__file__).parent.parent / "configs"
TALK = {"kind": "conversations", "path": "talk.json", "images": "pictures"}


def load(tmp_path: Path, what: str = "fwd2bot", **changes: Any) -> TrainConfig:
    return TrainConfig.load(written(tmp_path, settings(what, tmp_path / "out", tmp_path / "base", **changes)))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_configuration_of_the_repository_is_sound(path: Path) -> None:
    config = TrainConfig.load(path)
    assert config.stage in SETTINGS
    assert set(SETTINGS[config.stage]["data"]) == set(config.data)


PAPERS = [CONFIGS / f"llava-1.5-{size}.yaml" for size in ("7b", "13b")]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_value_of_the_papers_runs_says_where_it_is_from(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    bare = [line for line in lines if "#" not in line and not line.endswith(":")]
    named = r"\s*(stage|out|- kind|path): \S+"  # says itself what it is
    assert not [line for line in bare if not re.fullmatch(named, line)]


def test_the_papers_runs_differ_in_their_base_alone() -> None:
    small, large = (TrainConfig.load(path) for path in PAPERS)
    assert replace(large, out=small.out, init=small.init) == small
    CompressorConfig.from_dict(small.compressor)
    assert [config.init["base"] for config in (small, large)] == list(BASES)
    assert (small.optimizer, small.beta2) == ("adamw", 0.999)
    assert [config.out.name for config in (small, large)] == [path.stem for path in PAPERS]


def test_settings_left_out_are_filled_in(tmp_path: Path) -> None:
    config = load(tmp_path, data={"length": 100})
    assert config.data == {**SETTINGS["compressor"]["data"], "length": 100}
    assert (config.data["sources"], config.data["broken"]) == ([], 0.01)
    assert config.losses == {"autoregressive": 1.0, "contrastive": 1.0}
    assert config.out == tmp_path / "out"


def test_numbers_that_yaml_takes_for_strings_are_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tmp_path / "base"))
    path.write_text(path.read_text().replace("learning_rate: 0.003", "learning_rate: 1e-3"))
    assert "1e-3" in path.read_text()
    path.write_text(path.read_text() + "losses: {autoregressive: 1, contrastive: 1e-1}\n")
    assert TrainConfig.load(path).learning_rate == 0.001
    assert TrainConfig.load(path).losses == {"autoregressive": 1.0, "contrastive": 0.1}


def test_dictionary_makes_the_same_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, train_parts=["projector"])
    assert TrainConfig.load(written(tmp_path, config.to_dict())) == config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stage": "lamp"}, "stage is 'lamp'; it must be one of tower, language, projector, compressor"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; it must be muon or adamw"),
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 up"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"batch_size": "8"}, "batch_size is '8'; it must be a whole number"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"seed": 2**63}, "it must be below 2 to the 63rd"),
        ({"seed": 0.5}, "seed is 0.5; it must be a whole number from 0 up"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number above 0"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be a number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be a number"),
        ({"beta2": 0}, "beta2 is 0; it must be a number above 0"),
        ({"beta2": 1}, "beta2 is 1; it must be less than 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be a number from 0 up"),
        ({"warmup": 0.7, "cooldown": 0.5}, "warmup and cooldown are 1.2 of the steps; at most 1"),
        ({"compile": "yes"}, "compile is 'yes'; it must be true or false"),
        ({"lerning_rate": 1}, "'lerning_rate' is no setting; the settings are autocast, batch_size"),
        ({"data": {"lenght": 100}}, "data.lenght is no setting of this stage; those are length, turns"),
        ({"data": {"length": 10.5}}, "data.length is 10.5; it must be a whole number"),
        ({"data": {"captioning": "often"}}, "data.captioning is 'often'; it must be a number from 0 up"),
        ({"data": [1]}, r"data is \[1\]; it must hold settings"),
        ({"model": {"width": 64}}, "model.width is no setting of this stage; this stage has none"),
        ({"losses": {"ranking": 1.0}}, "losses.ranking is no loss; the losses are autoregressive, contrastive"),
        ({"losses": {"contrastive": -1}}, "losses.contrastive is -1; it must be a number from 0 up"),
        ({"init": {}}, "A compressor starts from other models: init must name base or tower and language"),
        ({"init": {"base": "a", "tower": "b"}}, "init must name base or tower and language"),
        ({"init": {"clip": "a"}}, "init.clip is 'a'; init names folders: base, or tower and language"),
        ({"init": {"base": 3}}, "init.base is 3; init names folders"),
        ({"train_parts": "projector"}, r"train_parts is 'projector'; it must be a list, such as \[projector\]"),
        ({"compressor": "fwd2bot"}, "compressor is 'fwd2bot'; it must hold settings"),
        ({"contrastive_batch": -4}, "contrastive_batch is -4; it must be a whole number from 0 up"),
        ({"contrastive_batch": 9}, "contrastive_batch is 9; it must be 0 or a multiple of batch_size, which is 2"),
        ({"data": {"broken": 1.5}}, "data.broken is 1.5; it is a share, at most 1"),
        ({"data": {"sources": "a.json"}}, "data.sources is 'a.json'; it must be a list of sources"),
        ({"data": {"sources": ["a.json"]}}, r"data.sources\[0\] is 'a.json'; it must hold settings"),
        ({"data": {"sources": [{"path": "a"}]}}, r"\[0\].kind is None; it must be one of conversations, captions"),
        ({"data": {"sources": [TALK, {"kind": "captions"}]}}, r"data.sources\[1\] lacks the setting 'path'"),
        ({"data": {"sources": [{**TALK, "image": "b"}]}}, r"\[0\].image is no setting of conversations; those are"),
        ({"data": {"sources": [{**TALK, "images": 3}]}}, r"\[0\].images is 3; it must be a file or folder, as text"),
        ({"data": {"sources": [{**TALK, "weight": 0}]}}, r"\[0\].weight is 0; it must be a number above 0"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_file(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        load(tmp_path, **changes)
    assert str(caught.value).startswith(str(tmp_path / "run.yaml"))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_sources_are_filled_in_and_written_as_they_were_read(tmp_path: Path) -> None:
    shards = {"kind": "captions", "path": "cc3m/{00000..00331}.tar", "weight": 2}
    config = load(tmp_path, data={"sources": [TALK, shards], "broken": 0}, contrastive_batch=8)
    assert config.data["sources"] == [
        {**TALK, "captions": None, "captions_held_out": None, "weight": 1.0},
        {**shards, "images": None, "weight": 2.0},
    ]
    assert (config.data["broken"], config.contrastive_batch) == (0.0, 8)
    assert TrainConfig.load(written(tmp_path, config.to_dict())) == config


def test_pairs_beyond_a_batch_are_for_compressors_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contrastive_batch is of stage compressor; stage tower has none"):
        load(tmp_path, "tower", contrastive_batch=4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stage: [", "is not YAML: while parsing"),
        ("stage: 2024-02-30", "is not YAML: day is out of range"),
        ("stage: tower\nout:\nsteps: 1\nbatch_size: 1\n", "out is None; it must be a folder's name"),
        ("stage: tower\nout: ' '\nsteps: 1\nbatch_size: 1\n", "out is ' '; it must be a folder's name"),
        ("- a\n- b\n", "must hold settings"),
        ("", "must hold settings"),
        ("stage: tower\nout: x\nsteps: 1\n", "lacks the setting 'batch_size'"),
        ("3: 4\n", "'3' is no setting"),
    ],
)
def test_a_file_that_is_no_configuration_is_an_input_error(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        TrainConfig.load(tmp_path / "run.yaml")


def test_a_missing_or_binary_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        TrainConfig.load(tmp_path / "none.yaml")
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not YAML"):
        TrainConfig.load(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"init": {"base": "nowhere"}}, "init.base is nowhere, which is no folder; train that stage first"),
        ({"init": {"tower": "a", "language": "b"}}, "init.tower is a, which holds no trained model"),
        ({"compressor": {"compressor": "magic"}}, "no compressor 'magic'"),
        ({"compressor": {"rang": 3}}, "'rang' is no setting of a compressor"),
        ({"compressor": {"num_tokens": "many"}}, "num_tokens is 'many'; it must be a whole number"),
        ({"train_parts": ["tail"]}, "'tail' is no part of the base"),
        ({"losses": {"contrastive": 0.0}}, "losses leaves fwd2bot nothing to learn from"),
        ({"data": {"sources": [TALK]}}, r"data.sources: .* is not there \(path of conversations\)"),
        ({"data": {"length": 4}}, r"data.length is 4; .* takes \d+ tokens and more"),
        ({"contrastive_batch": 8}, "contrastive_batch is 8, but data.sources names no pairs"),
    ],
)
def test_what_only_the_models_can_tell_is_told_before_training(
    changes: dict[str, Any], sentence: str, tmp_path: Path, tiny_base: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        build_stage(TrainConfig.load(written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, **changes))))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_parts": ["tail"]}, "'tail' is no part of the base"),
        ({"losses": {"contrastive": 0.0}}, "losses leaves fwd2bot nothing to learn from"),
        ({"compressor": {"compressor": "e5v"}}, "e5v only embeds"),
        ({"data": {"sources": [TALK]}}, "is not there"),
        ({"data": {"sources": [{"kind": "captions", "path": "none.tar"}]}}, "none.tar cannot be found"),
    ],
)
def test_what_needs_no_base_is_told_before_it_is_looked_for(
    changes: dict[str, Any], sentence: str, tmp_path: Path, tiny_base: Path
) -> None:
    values = settings("fwd2bot", tmp_path / "out", tiny_base, **changes)
    with pytest.raises(InputError, match=sentence):
        build_stage(TrainConfig.load(written(tmp_path, {**values, "init": {"base": "nowhere"}})))


@pytest.mark.parametrize(
    ("stage", "model", "sentence"),
    [
        ("tower", {"width": 100}, "model.width is 100; a tower has heads of 64"),
        ("tower", {"image": 30}, "model.image is 30, which patches of model.patch 8 do not fill"),
        ("tower", {"layers": 1}, "model.layers is 1; LLaVA reads the layer before the last"),
        ("language", {"width": 30, "heads": 4}, "model.width is 30; with model.heads 4 it must be a multiple of 8"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(
    stage: str, model: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        build_stage(load(tmp_path, stage, model={**MODEL[stage], **model}))


def test_captions_longer_than_the_tower_reads_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.text_length is 97; a tower reads at most 96 tokens"):
        build_stage(load(tmp_path, "tower", data={"text_length": 97}))


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken, which cannot be written: File exists"):
        run(written(tmp_path, settings("tower", tmp_path / "taken", tmp_path)))


def test_command_tells_a_mistake_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, settings("tower", tmp_path / "out", tmp_path, steps=-1))
    assert main(["train", str(path)]) == InputError.exit_code
    assert "steps is -1" in capsys.readouterr().err
    with pytest.raises(InputError):
        run(path)
    assert not (tmp_path / "out").exists()
