"""Accuracy against tokens and bytes: what is drawn of results, what is not, and what is said of the rest."""

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cells
import pytest
import thumbnails
from PIL import Image
from tiny import script, tiny_llava

from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.world import make_scene
from fwd2bot.evaluation.tradeoff import Panel, draw_tradeoffs
from fwd2bot.model import Fwd2Bot

T2I = "text_to_image_R@1"


@pytest.fixture
def plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with results and figures of its own below the test's folder."""
    module = script("runs/fig_tokens.py")
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "evidence")
    for name in ("WORLD", "FIGURES"):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setattr(module, "THUMBNAILS", tmp_path / "thumbnails.json")
    (tmp_path / "evidence").mkdir()
    return module


def result(path: Path, answers: float | None = None, recall: float | None = None, rows: float | None = None) -> None:
    figures: dict[str, Any] = {} if answers is None else {"test": {"mean": answers}}
    figures |= {} if rows is None else {"cost": {"rows_a_layer": rows}}
    figures |= {} if recall is None else {"retrieval": {T2I: recall}}
    path.write_text(json.dumps({"figures": figures}))


def test_lines_are_means_over_seeds_by_tokens_and_by_bytes(plots: ModuleType, tmp_path: Path) -> None:
    """A row of 4 tokens of 256 numbers: 4 * 66 bytes in 2 bits a number, and 260 of the vector."""
    result(tmp_path / "evidence/fwd2bot-4-4-0.json", 70.0, 20.0)
    result(tmp_path / "evidence/fwd2bot-4-4-1.json", 80.0, 40.0)
    result(tmp_path / "evidence/fwd2bot-16-16-0.json", 90.0, 50.0)
    result(tmp_path / "evidence/quecc-4-4-0.json", 60.0)
    result(tmp_path / "evidence/fastv-4-4-0.json", 50.0, rows=27.5)  # from the second of six layers on
    result(tmp_path / "evidence/identity-144-0.json", 95.0)
    drawing = plots.of_evidence()
    answers, answers_by_bytes, recalls, recalls_by_bytes = plots.panels(drawing)
    assert answers.lines == {"fwd2bot": [(4, 75.0), (16, 90.0)], "quecc": [(4, 60.0)], "fastv": [(27.5, 50.0)]}
    assert answers_by_bytes.lines == {"fwd2bot": [(524, 75.0), (1316, 90.0)]}  # what QueCC gives cannot be stored
    assert recalls.lines == {"fwd2bot": [(4, 30.0), (16, 50.0)]}
    assert recalls_by_bytes.lines == {"fwd2bot": [(524, 30.0), (1316, 50.0)]}
    assert answers.levels == {"every visual token": 95.0}
    assert recalls.levels == {}
    assert {"`fwd2bot-32`", "`matryoshka_query` with 4"} <= set(drawing.missing)
    assert not any("`fwd2bot-4`" in words for words in drawing.missing)


def test_a_model_that_only_embeds_has_no_line_of_answers(plots: ModuleType, tmp_path: Path) -> None:
    result(tmp_path / "evidence/e5v-1-0.json", None, 33.0)
    tokens, by_bytes = plots.panels(plots.of_evidence())
    assert (tokens.title, tokens.lines) == ("Search by text", {"e5v": [(1, 33.0)]})
    assert by_bytes.lines == {"e5v": [(326, 33.0)]}


def test_jpeg_files_stand_beside_rows_searched_among_as_many(plots: ModuleType, tmp_path: Path) -> None:
    points = [
        {"side": side, "bytes": size, "figures": {"test": {"mean": mean}, "retrieval": {T2I: 2.0}}}
        for side, size, mean in ((192, 8000, 94.0), (32, 975, 60.0))
    ]
    (tmp_path / "thumbnails.json").write_text(json.dumps({"images": 200, "gallery": 200, "points": points}))
    result(tmp_path / "world/fwd2bot-16.json", 95.0, 69.0)
    drawing = plots.of_the_bundled()
    _, answers, _, recalls = plots.panels(drawing)
    assert answers.marks == [(975, 60.0, "32 px"), (8000, 94.0, "192 px")]
    assert recalls.marks == []
    *_, recalls = plots.panels(replace(drawing, gallery=200))
    assert recalls.marks == [(975, 2.0, "32 px"), (8000, 2.0, "192 px")]


def test_what_is_there_is_drawn_and_the_rest_is_told(plots: ModuleType, tmp_path: Path) -> None:
    result(tmp_path / "world/fwd2bot-16.json", 95.0, 69.0)
    result(tmp_path / "world/base.json", 93.0)
    said = plots.draw()
    assert "tokens-bundled.svg" in said["tokens-bundled"]
    assert "Not run, so not drawn: `fwd2bot-4`, `fixed-16`" in said["tokens-bundled"]
    assert "svg" not in said["tokens"]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["tokens-bundled.svg"]
    assert plots.main() == 0


def test_a_drawing_names_every_line_once(tmp_path: Path) -> None:
    one = Panel("Answers", "tokens", "%", {"fwd2bot": [(4, 70.0), (16, 80.0)], "core": [(4, 60.0)]}, {"full": 90.0})
    other = replace(one, title="By bytes", marks=[(900, 50.0, "32 px")], marked="JPEG files")
    draw_tradeoffs([one, other], tmp_path / "one.svg")
    draw_tradeoffs([one, other], tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    words = [each.text for each in ET.parse(tmp_path / "one.svg").iter() if each.tag.endswith("}text")]
    for name in ("fwd2bot", "core", "full", "JPEG files", "32 px", "Answers", "By bytes"):
        assert words.count(name) == 1, name


# What small files are.


def test_thumbnails_are_files_of_that_many_pixels() -> None:
    (picture,) = thumbnails.pictures([make_scene("test", 3)])
    sizes = [len(thumbnails.jpeg(picture, side)) for side in (192, 96, 32)]
    assert sizes == sorted(sizes, reverse=True)
    small = Image.open(io.BytesIO(thumbnails.jpeg(picture, 96)))
    assert (small.format, small.size) == ("JPEG", (96, 96))
    (shown,) = thumbnails.thumbnails([make_scene("test", 3)], 96)
    assert shown.tobytes() == small.convert("RGB").tobytes()


def test_thumbnails_are_measured_in_the_full_model() -> None:
    plain = Fwd2Bot(make_compressor(tiny_llava(), CompressorConfig(compressor="identity", adapters="none")))
    large, small = thumbnails.measure(plain, 2, (192, 32))
    assert (large["side"], small["side"]) == (192, 32)
    assert large["bytes"] > small["bytes"]
    assert "mean" in small["figures"]["test"]
    assert 0 <= small["figures"]["retrieval"][T2I] <= 100
    with pytest.raises(SystemExit):
        thumbnails.main(["--scenes", "3"])


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path, made = tmp_path / "there.json", {"fingerprint": "a", "images": 2}
    assert thumbnails.there(path, made) == {}
    path.write_text(json.dumps({**made, "points": [{"side": 192, "bytes": 8000}]}))
    assert thumbnails.there(path, made) == {192: {"side": 192, "bytes": 8000}}
    assert thumbnails.there(path, {**made, "images": 4}) == {}
