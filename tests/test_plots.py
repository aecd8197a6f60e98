"""Curves of trainings: which panels there are, and what cannot be drawn."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fwd2bot.errors import InputError
from fwd2bot.training.plots import main, panels, read_curves

LINES = [
    {"step": 50, "seconds": 9.0, "autoregressive": 2.0, "contrastive": 1.0, "rate": 20.0},
    {"step": 100, "seconds": 20.0, "val/16/mean": 40.0, "val/16/what": 30.0, "val/16/text_to_image_R@1_of_256": 9.0},
    {"step": 100, "seconds": 20.0, "autoregressive": 1.5, "contrastive": 0.5, "rate": 21.0},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path / "run"


def test_losses_come_first_then_validation_then_rates(folder: Path) -> None:
    curves = read_curves(folder)
    assert curves["autoregressive"] == [(50, 2.0), (100, 1.5)]
    shown = ["autoregressive", "contrastive", "val/16/mean", "val/16/text_to_image_R@1_of_256", "rate"]
    assert panels({"run": curves}) == shown


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_drawn(ending: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / f"curves/all.{ending}"
    other = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)  # of the same name
    assert main([str(folder), str(other), "--out", str(out)]) == 0
    if ending == "png":
        colours = Image.open(out).convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 20  # lines and letters, not a blank page
        assert {(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)} <= {colour for _, colour in colours}  # two lines
    else:
        assert "#1f77b4" in out.read_text()
        assert "#ff7f0e" in out.read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "give the folder of a training"), ("", "told nothing yet"), ("[1]\n", "something else"), ("{", "else")],
)
def test_what_is_no_training_is_told(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert main([str(tmp_path), "--out", str(tmp_path / "x.svg")]) == InputError.exit_code
    assert words in capsys.readouterr().err


def test_an_unknown_kind_of_picture_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(tmp_path / "x.doc")]) == InputError.exit_code
    assert "x.doc cannot be written" in capsys.readouterr().err
