"""The runs behind docs/results.md: cells that are accepted, made once, and told as they are."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cells as made
import pytest
import torch
import yaml
from tiny import script
from tiny_runs import settings, written

from fwd2bot.checkpoint import load_model
from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.training.config import TrainConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cells() -> ModuleType:
    return script("runs/cells.py")


@pytest.fixture(scope="module")
def results(cells: ModuleType) -> ModuleType:
    return script("tools/results.py")


def test_every_cell_is_a_configuration(cells: ModuleType, tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "configs/evidence.yaml").read_text())
    for name, cell in cells.CELLS.items():
        path = tmp_path / "cell.yaml"
        path.write_text(yaml.safe_dump({**recipe, **cell.run, "compressor": recipe["compressor"] | cell.compressor}))
        config = TrainConfig.load(path)
        made = [str(TrainConfig.load(ROOT / needed).out) for needed in cell.needs]
        assert all(folder in {"fwd2bot/bundled/emoji-world/base", *made} for folder in config.init.values()), name
        if cell.tower:
            continue
        compressor = CompressorConfig.from_dict(config.compressor)
        offered = compressor.token_counts if len(cell.tokens) > 1 else (compressor.num_tokens,)
        assert set(cell.tokens) == set(offered), name
        assert (config.steps, config.batch_size) == (recipe["steps"], recipe["batch_size"]), name
        assert not (cell.untrained and (CATALOGUE[compressor.compressor].trained or cell.run or cell.needs)), name
        assert all(CATALOGUE[compressor.compressor].can_give(count, 12) for count in cell.tokens), name
        assert not (cell.one_word and CATALOGUE[compressor.compressor].embeds_text), name
    assert {cell.compressor.get("compressor", "fwd2bot") for cell in cells.CELLS.values()} == set(CATALOGUE)


def test_larger_base_is_twice_the_language_model_in_the_same_stages() -> None:
    """4 D^2 of attention and 3 D H of the MLP, a layer; everything but sizes and folders as it is."""
    sizes = []
    for stage in ("language", "projector", "llava"):
        usual, larger = (
            TrainConfig.load(ROOT / f"configs/emoji-world{which}/{stage}.yaml").to_dict() for which in ("", "-larger")
        )
        differ = {name for name in usual if usual[name] != larger[name]}
        assert differ == ({"out", "model"} if stage == "language" else {"out", "init"})
        if stage == "language":
            sizes = [
                one["layers"] * (4 * one["width"] ** 2 + 3 * one["width"] * one["hidden"])
                for one in (usual["model"], larger["model"])
            ]
    assert sizes[1] / sizes[0] == pytest.approx(2.0, abs=0.1)


def test_every_table_has_its_script_and_known_cells(results: ModuleType) -> None:
    paper = yaml.safe_load((ROOT / "results/paper.yaml").read_text())
    assert list(results.TABLES) == list(range(1, 14))
    for number, table in results.TABLES.items():
        assert set(table.cells) <= set(results.CELLS)
        assert f"run({number})" in (ROOT / f"runs/tab{number}.py").read_text()
        assert f"table_{number}" in paper
    assert set(results.CELLS) == {cell for table in results.TABLES.values() for cell in table.cells}
    for table in paper.values():
        assert all(len(row["values"]) == len(table["columns"]) for row in table["rows"])


def test_first_seeds_come_before_further_ones_and_the_larger_base_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = script("runs/tables.py")
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(tables, "make_all", lambda jobs: told.extend(jobs) or 0)
    monkeypatch.setattr("sys.argv", ["tables.py"])
    assert tables.main() == 0
    usual = [(cell, seed) for cell, seed in told if not cell.startswith("larger")]
    assert told[: len(usual)] == usual
    assert [seed for _, seed in usual] == sorted(seed for _, seed in usual)
    assert {seed for cell, seed in told if cell == "fwd2bot-16"} == {seed for cell, seed in told if cell == "e5v"}
    assert {seed for cell, seed in told if cell == "discriminative"} == {0, 1, 2}
    assert {seed for cell, seed in told if cell == "core-4"} == {0}
    assert told.index(("core-4", 0)) < told.index(("core-36", 0)) < told.index(("fwd2bot-16", 1))


@pytest.fixture
def tiny(cells: ModuleType, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Two steps on a base of random weights, two cells, in a folder of their own."""
    recipe = settings("fwd2bot", tmp_path / "unused", tiny_base, steps=2, evaluate_every=2, checkpoint_every=2)
    recipe["compressor"] = {**recipe["compressor"], "token_counts": []}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(cells, "RECIPE", tmp_path / "recipe.yaml")
    monkeypatch.setattr(cells, "WORK", tmp_path / "work")
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")  # an absolute path stays one below ROOT
    monkeypatch.setattr(cells, "IMAGES", 24)
    usual = cells.rival("identity", 16, one_word=True, blank=True)
    tower = written(tmp_path, {**settings("tower", tmp_path / "tower", tiny_base), "steps": 2})
    clip = cells.Cell((1,), needs=(str(tower),), tower=True)
    some = {name: cells.CELLS[name] for name in ("fwd2bot-4", "fastv-4")}
    monkeypatch.setattr(cells, "CELLS", {**some, "identity": usual, "clip": clip})
    return cells


def test_what_another_process_makes_is_left_alone(tiny: ModuleType, tmp_path: Path) -> None:
    with tiny.claim("fwd2bot-4-0.making") as ours:
        assert ours
        assert tiny.main(["fwd2bot-4", "clip"]) == 0
    assert set(paths(tmp_path)) == {"clip"}


def test_a_setting_that_came_after_a_training_had_its_default_there(tiny: ModuleType, tmp_path: Path) -> None:
    config = written(tmp_path, {**settings("tower", tmp_path / "tower", tmp_path), "steps": 2})
    (tmp_path / "tower").mkdir()
    of_then = {name: value for name, value in TrainConfig.load(config).to_dict().items() if name != "report"}
    (tmp_path / "tower/done.json").write_text(json.dumps({"config": of_then}))
    assert tiny.trained_by(config) == tmp_path / "tower"
    (tmp_path / "tower/done.json").write_text(json.dumps({"config": {**of_then, "report": ["wandb"]}}))
    with pytest.raises(InputError, match="was trained with another report than"):
        tiny.trained_by(config)


def told_by(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def test_a_cell_is_made_once(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.main(["fwd2bot-4"]) == 0
    told = told_by(tmp_path / "results/fwd2bot-4-4-0.json")
    assert (told["cell"], told["tokens"], told["seed"], told["steps"]) == ("fwd2bot-4", 4, 0, 2)
    assert list(told["figures"]) == [
        "test",
        "composition",
        "coco_captions",
        "retrieval",
        "sugarcrepe",
        "signs",
        "cost",
    ]
    compressor = load_model(tmp_path / "work/fwd2bot-4-0")
    own = sum(parameter.numel() for parameter in compressor.own_parameters().values())
    assert told["figures"]["cost"] == {"trained_millions": pytest.approx(own / 1e6), "rows_a_layer": 4.0}
    monkeypatch.setattr(tiny, "train", None)  # would fail if it were called
    assert tiny.main(["fwd2bot-4"]) == 0
    assert tiny.main(["--list"]) == 0


def test_what_is_published_without_training_is_put_on_the_base(
    tiny: ModuleType, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "trained_by", None)  # would fail if it were called
    assert tiny.main(["fastv-4"]) == 0
    told = told_by(tmp_path / "results/fastv-4-4-0.json")
    assert (told["steps"], told["figures"]["cost"]["trained_millions"]) == (0, 0.0)
    assert told["figures"]["cost"]["rows_a_layer"] > 4
    model = load_model(tmp_path / "work/fastv-4-0")
    assert model.config.compressor == "fastv"
    assert not model.own_parameters()
    assert torch.equal(model.llava.embed(torch.tensor([5])), load_model(tiny_base).llava.embed(torch.tensor([5])))


def test_a_cell_goes_on_where_it_was_stopped_and_refuses_another_recipe(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trained once; what was answered is not asked again; with another rank the folder is told."""
    assert tiny.main(["identity", "clip"]) == 0
    figures = {cell: told_by(path)["figures"] for cell, path in paths(tmp_path).items()}
    assert list(figures["identity"]["one_word"]) == ["retrieval", "sugarcrepe"]
    assert {"test", "composition", "blank", "coco_captions"} <= set(figures["identity"])
    assert list(figures["clip"]) == ["retrieval", "sugarcrepe", "cost"]
    for path in paths(tmp_path).values():
        path.unlink()
    (tmp_path / "work/identity-0/figures-16/world-blank.jsonl").unlink()
    capfd.readouterr()
    assert tiny.main(["identity"]) == 0
    assert "is already trained" not in capfd.readouterr().err  # no command was started
    assert told_by(paths(tmp_path)["identity"])["figures"] == figures["identity"]
    paths(tmp_path)["identity"].unlink()
    recipe = yaml.safe_load(tiny.RECIPE.read_text())
    tiny.RECIPE.write_text(yaml.safe_dump({**recipe, "learning_rate": 0.5}))
    assert tiny.main(["identity", "clip"]) == 1
    assert "was trained with another learning_rate than" in capfd.readouterr().err
    assert set(paths(tmp_path)) == {"clip"}  # made all the same


def paths(folder: Path) -> dict[str, Path]:
    return {path.name.partition("-")[0]: path for path in (folder / "results").glob("*.json")}


def test_tables_show_means_and_name_what_was_not_run(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    for seed, (mean, recall) in enumerate([(50.0, 20.0), (60.0, 30.0)]):
        figures = {"test": {"mean": mean, "reading": 90.0}, "retrieval": {"text_to_image_R@1": recall}}
        (tmp_path / f"fwd2bot-16-16-{seed}.json").write_text(json.dumps({"figures": figures}))
    table = replace(results.TABLES[7], cells=("single_forward-16", "fwd2bot-16"))
    lines = results.our_table(table).splitlines()
    assert lines[2] == "| `fwd2bot-16` | 16 | 55.0 ± 5.0 | 90.0 ± 0.0 | 25.0 ± 5.0 | – | 2 |"
    assert lines[-1] == "Not run: `single_forward-16`."


def test_tables_of_every_method_go_by_tokens_then_by_what_can_be_stored_then_by_score(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    scores = {"fwd2bot-4": 1, "average_pool-16": 2, "fwd2bot-16": 3, "quecc-16": 9, "fwd2bot-32": 0}
    for name, mean in scores.items():
        count = name.partition("-")[2]
        (tmp_path / f"{name}-{count}-0.json").write_text(json.dumps({"figures": {"test": {"mean": mean}}}))
    lines = results.our_table(replace(results.TABLES[1], cells=tuple(scores))).splitlines()
    shown = [tuple(line.split(" | ")[:3]) for line in lines[2:]]
    assert shown == [
        ("| `fwd2bot-32`", "32", "yes"),
        ("| `fwd2bot-16`", "16", "yes"),
        ("| `average_pool-16`", "16", "yes"),
        ("| `quecc-16`", "16", "no"),
        ("| `fwd2bot-4`", "4", "yes"),
    ]


def test_rows_that_go_on_the_way_are_told_by_their_mean(results: ModuleType) -> None:
    """FastV with 4 of 144 from the second of six layers on: (144 + 5 * 4) / 6."""
    assert results.told_tokens(4, {"cost": {"rows_a_layer": 164 / 6}}) == "4 (27)"
    assert results.told_tokens(4, {"cost": {"rows_a_layer": 4.0}}) == results.told_tokens(4, {}) == "4"


def test_the_document_is_what_the_results_say(results: ModuleType) -> None:
    from sections import read_section

    assert read_section(results.DOCUMENT, "methods") == results.rivals()
    for number, table in results.TABLES.items():
        expected = f"{results.our_table(table)}\n\n{results.paper_table(number)}".strip()
        assert read_section(results.DOCUMENT, f"table-{number}") == expected
    assert read_section(results.DOCUMENT, "curves") == results.curves()
    for name, gather in results.fig_tokens.DRAWINGS.items():
        drawing = gather()
        told = results.fig_tokens.told(name, drawing, there=any(results.fig_tokens.panels(drawing)))
        assert read_section(results.DOCUMENT, f"figure-{name}") == told


def test_no_cell_takes_the_place_of_another_in_the_plots(results: ModuleType) -> None:
    drawn = results.fig_tokens
    cells = dict.fromkeys((*drawn.UNDERSTANDING, *drawn.RETRIEVAL))
    places = [
        (drawn.drawn_as(one), count) for one in cells if one not in drawn.NOT_DRAWN for count in made.CELLS[one].tokens
    ]
    assert len(places) == len(set(places)) > 40


def test_what_is_kept_is_of_the_mean_of_the_full_models_seeds(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full 90 and 80, guessing 20 and 30: of the 60 points above guessing 55 has a half."""
    monkeypatch.setattr(made, "RESULTS", tmp_path)
    for seed, (full, guessing) in enumerate([(90.0, 20.0), (80.0, 30.0)]):
        figures = {"test": {"mean": full}, "blank": {"mean": guessing}}
        (tmp_path / f"identity-144-{seed}.json").write_text(json.dumps({"figures": figures}))
    assert results.kept("identity")({"test": {"mean": 55.0}}) == pytest.approx(50.0)
    assert results.kept("larger_identity")({"test": {"mean": 55.0}}) is None
    assert results.kept("identity")({"retrieval": {}}) is None


def test_word_of_a_picture_stands_in_where_a_method_embeds_no_text(results: ModuleType) -> None:
    read = results.searched("retrieval", "R")
    assert read({"retrieval": {"R": 3}, "one_word": {"retrieval": {"R": 2}}}) == 3.0
    assert read({"one_word": {"retrieval": {"R": 2}}}) == 2.0
    assert read({"test": {}}) is None
