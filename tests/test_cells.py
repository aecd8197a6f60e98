"""The runs behind docs/results.md: cells that are accepted, made once, and told as they are."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cells as made
import pytest
import yaml
from tiny import script
from tiny_runs import settings, untrained_base

from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.compressors.config import CompressorConfig
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
        compressor = CompressorConfig.from_dict(config.compressor)
        offered = compressor.token_counts if len(cell.tokens) > 1 else (compressor.num_tokens,)
        assert set(cell.tokens) == set(offered), name
        assert (config.steps, config.batch_size) == (recipe["steps"], recipe["batch_size"]), name
        assert all(CATALOGUE[compressor.compressor].can_give(count, 12) for count in cell.tokens), name
    assert {cell.compressor.get("compressor", "fwd2bot") for cell in cells.CELLS.values()} == set(CATALOGUE)


def test_every_table_has_its_script_and_known_cells(results: ModuleType) -> None:
    paper = yaml.safe_load((ROOT / "results/paper.yaml").read_text())
    for number, table in results.TABLES.items():
        assert set(table.cells) <= set(results.CELLS)
        assert f"run({number})" in (ROOT / f"runs/tab{number}.py").read_text()
        assert f"table_{number}" in paper
    for table in paper.values():
        assert all(len(row["values"]) == len(table["columns"]) for row in table["rows"])


def test_a_cell_is_made_once(cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = untrained_base(tmp_path / "base")
    recipe = settings("fwd2bot", tmp_path / "unused", base, steps=2, evaluate_every=2, checkpoint_every=2)
    recipe["compressor"] = {**recipe["compressor"], "token_counts": []}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(cells, "RECIPE", tmp_path / "recipe.yaml")
    monkeypatch.setattr(cells, "WORK", tmp_path / "work")
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")  # an absolute path stays one below ROOT
    monkeypatch.setattr(cells, "IMAGES", 24)
    assert cells.main(["fwd2bot-4"]) == 0
    path = tmp_path / "results/fwd2bot-4-4-0.json"
    told: dict[str, Any] = json.loads(path.read_text())
    assert (told["cell"], told["tokens"], told["seed"], told["steps"]) == ("fwd2bot-4", 4, 0, 2)
    assert {"test", "composition", "blank", "retrieval", "coco_captions", "sugarcrepe"} <= told["figures"].keys()
    monkeypatch.setattr(cells, "train", None)  # would fail if it were called
    assert cells.main(["fwd2bot-4"]) == 0
    assert cells.main(["--list"]) == 0


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
    assert lines[-1] == "Not run: `single_forward-16` with 16."


def test_the_document_is_what_the_results_say(results: ModuleType) -> None:
    from sections import read_section

    assert read_section(results.DOCUMENT, "methods") == results.rivals()
    for number, table in results.TABLES.items():
        expected = f"{results.our_table(table)}\n\n{results.paper_table(number)}".strip()
        assert read_section(results.DOCUMENT, f"table-{number}") == expected
    for name, gather in results.fig_tokens.DRAWINGS.items():
        drawing = gather()
        told = results.fig_tokens.told(name, drawing, there=any(results.fig_tokens.panels(drawing)))
        assert read_section(results.DOCUMENT, f"figure-{name}") == told
