"""Figures 3 to 6: norms, attention, captions and hidden tokens against cases worked by hand; drawings and scripts."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import script, tiny_compressor, tiny_llava
from torch import Tensor, nn

from fwd2bot.adapters import LowRank, StageLinear
from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.data.world import Scene, make_scene, questions
from fwd2bot.data.world.scene import Thing
from fwd2bot.errors import InputError
from fwd2bot.evaluation import analysis, attended
from fwd2bot.evaluation.analysis import (
    caption_scores,
    captions_by_count,
    change_norms,
    dot,
    hidden_scores,
    named_things,
    without,
)
from fwd2bot.evaluation.attended import (
    picture_figures,
    plain_llava,
    shown_things,
    spread,
)
from fwd2bot.evaluation.drawing import draw_norms, overlaid
from fwd2bot.evaluation.world import pictures
from fwd2bot.llava import LANGUAGE_LAYERS, Llava
from fwd2bot.model import Fwd2Bot, load

SCENES = [make_scene("test", index) for index in range(2)]


def scene_of(*names: str) -> Scene:
    """A scene of these things, in reading order."""
    things = tuple(
        Thing(name=name, place=place, size="small", x=16 + place % 3 * 32, y=16 + place // 3 * 32, side=20)
        for place, name in enumerate(names)
    )
    return replace(SCENES[0], things=things)


@pytest.fixture(scope="module")
def folder(model: Fwd2Bot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, model.compressor)
    return folder


def test_norm_of_a_known_change_is_that_of_the_product() -> None:
    """2 * [1, 2]^T [3, 4]: the norm is 2 * sqrt(5) * 5; with [4, -3] it has nothing in common."""
    one, other = (LowRank(nn.Linear(2, 2), rank=1, alpha=2.0) for _ in range(2))
    with torch.no_grad():
        for change, down in ((one, [[3.0, 4.0]]), (other, [[4.0, -3.0]])):
            change.up.copy_(torch.tensor([[1.0], [2.0]]))
            change.down.copy_(torch.tensor(down))
    assert dot(one, one) == pytest.approx(500.0)
    assert dot(one, other) == pytest.approx(0.0)


def test_norms_are_of_each_stage_and_layer(model: Fwd2Bot) -> None:
    found = change_norms(model)
    layers = model.compressor.llava.network.get_submodule(LANGUAGE_LAYERS)
    changed = [[part for part in layer.modules() if isinstance(part, StageLinear)] for layer in layers]
    products = [
        {name: torch.cat([part.low_ranks()[name].product().flatten() for part in parts]) for name in found["norms"]}
        for parts in changed
    ]
    for layer, by_stage in enumerate(products):
        for name, product in by_stage.items():
            assert found["norms"][name][layer] == pytest.approx(float(product.norm()), rel=1e-5)
        alike = torch.cosine_similarity(*by_stage.values(), dim=0)
        assert found["cosines"][layer] == pytest.approx(float(alike), abs=1e-5)
        weights = torch.cat([part.weight.flatten() for part in changed[layer]])
        assert found["weights"][layer] == pytest.approx(float(weights.norm()), rel=1e-5)
    kinds = found["kinds"]["compress"]
    assert set(kinds) == {f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")}
    assert sum(norms[1] ** 2 for norms in kinds.values()) == pytest.approx(found["norms"]["compress"][1] ** 2)


def test_single_adapter_has_one_line_and_no_cosine() -> None:
    found = change_norms(Fwd2Bot(tiny_compressor(adapters="single")))
    assert set(found["norms"]) == {"shared"}
    assert "cosines" not in found


def test_every_line_is_drawn_however_many_there_are(tmp_path: Path) -> None:
    models = {f"m{number}": {"norms": {"compress": [1.0, 2.0], "generate": [2.0, 1.0]}} for number in range(5)}
    draw_norms(models, tmp_path / "norms.svg")
    written = (tmp_path / "norms.svg").read_text()
    assert all(f"m{number}, {adapter}" in written for number in range(5) for adapter in ("compress", "generate"))


def test_norms_of_a_model_without_adapters_are_refused(plain: Fwd2Bot) -> None:
    with pytest.raises(InputError, match="no adapters in its language model"):
        change_norms(plain)


def test_the_plain_llava_is_the_base_without_adapters(folder: Path) -> None:
    model = load(folder, device="cpu")
    plain = plain_llava(model)
    tokens = plain.compress(pictures(SCENES))
    torch.testing.assert_close(tokens, tiny_llava().visual_tokens(plain.compressor.llava.pixels(pictures(SCENES))))
    untouched = Fwd2Bot(make_compressor(tiny_llava(), plain.compressor.config))
    assert plain.caption(tokens, max_new_tokens=8) == untouched.caption(tokens, max_new_tokens=8)


def test_spread_counts_the_places_in_use() -> None:
    weights = torch.tensor([[0.1, 0.1, 0.1, 0.1], [0.3, 0.0, 0.3, 0.0], [0.0, 0.7, 0.0, 0.0]])
    torch.testing.assert_close(spread(weights), torch.tensor([100.0, 50.0, 25.0]))


def test_figures_of_a_picture_worked_by_hand() -> None:
    found = torch.tensor([[[0.4, 0.1, 0.0, 0.0], [0.2, 0.1, 0.0, 0.2]]])  # together 0.3, 0.1, 0, 0.1
    things = torch.tensor([True, False, False, False])
    together = math.exp(-0.6 * math.log(0.6) - 0.4 * math.log(0.2)) / 4
    first = math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)) / 4
    second = math.exp(-0.8 * math.log(0.4) - 0.2 * math.log(0.2)) / 4
    expected = torch.tensor([[50.0], [100 * together], [50 * (first + second)], [60.0]])
    torch.testing.assert_close(picture_figures(found, things), expected)


def test_things_stand_where_the_record_says() -> None:
    """Side 20 at (16, 16) of 96: patches of 8 whose centres 12 and 20 lie within 9 of 16."""
    there = shown_things(scene_of("fox"), 12).view(12, 12)
    assert there.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_the_largest_weight_is_red_and_none_is_grey() -> None:
    mixed = overlaid(torch.zeros(4, 4, 3, dtype=torch.uint8).numpy(), torch.tensor([0.0, 0.0, 0.5, 0.25]), 2)
    assert len({tuple(mixed[row, column]) for row in (0, 1) for column in range(4)}) == 1
    red, half, none = (mixed[row, column].astype(int) for row, column in ((3, 0), (3, 3), (0, 0)))
    assert none.max() == none.min()
    assert red[0] - red[1] > half[0] - half[1] > 0


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("two foxes and a teddy bear on red", {"fox": 2, "teddy bear": 1}),
        ("a small fox at the top left, a large Fox at the center", {"fox": 2}),
        ("a sign that says km, three mice and some dice", {"sign": 1, "mouse": 3, "dice": 1}),
        ("a chicken beside a chick, an alarm clock", {"chicken": 1, "chick": 1, "alarm clock": 1}),
        ("a plain orange background with pine trees", {"pine tree": 1}),
        ("a foxglove, nothing", {}),
    ],
)
def test_named_things_are_counted(text: str, things: dict[str, int]) -> None:
    assert dict(named_things(text)) == things


def test_captions_are_scored_over_all_things() -> None:
    """Five things, three of them named; five names, two of which are not there: the second cat, and the dog."""
    scenes = [scene_of("fox", "fox", "cat"), scene_of("key", "bell")]
    scores = caption_scores(scenes, ["a fox, a cat and a cat", "a small key and a dog"])
    assert scores == {"named": 60.0, "not_there": 40.0, "words": 6.5}
    assert caption_scores(scenes, ["", ""]) == {"named": 0.0, "not_there": 0.0, "words": 0.0}


def test_captions_are_of_rows_cut_to_their_first_tokens(model: Fwd2Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "CAPTION_LENGTH", 6)
    texts = captions_by_count(model, SCENES)
    assert list(texts) == [1, 2, 4, 8]
    two = model.compress(pictures(SCENES), num_tokens=2)
    assert texts[2] == model.caption(two, max_new_tokens=6)
    assert len({tuple(found) for found in texts.values()}) > 1


def test_rows_that_cannot_be_cut_give_what_is_offered(plain: Fwd2Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis, "CAPTION_LENGTH", 2)
    whole = Fwd2Bot(tiny_compressor(attention="bidirectional"))
    assert list(captions_by_count(whole, SCENES)) == [4]
    monkeypatch.setattr(analysis, "COUNTS", (1, 2))
    with pytest.raises(InputError, match="gives none of 1, 2 tokens"):
        captions_by_count(plain, SCENES)


def test_without_hides_a_group() -> None:
    assert without(6, 2, 3) == [True, True, False, False, False, True]


def test_a_hidden_group_changes_the_mask_alone(model: Fwd2Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    generate = Llava.generate

    def spy(llava: Llava, rows: Tensor, mask: Tensor | None, stage: str, **options: Any) -> list[list[int]]:
        calls.append({"rows": rows, "mask": mask, **options})
        return generate(llava, rows, mask, stage, **options)

    monkeypatch.setattr(Llava, "generate", spy)
    tokens = model.compress(pictures(SCENES))
    for keep in ([True] * 8, without(8, 4, 4)):
        model.answer(tokens, ["what is it ?", "where is the fox ?"], keep=keep, max_new_tokens=1)
    whole, hidden = calls
    assert torch.equal(whole["rows"], hidden["rows"])
    assert torch.equal(whole["positions"], hidden["positions"])
    changed = (whole["mask"] != hidden["mask"]).nonzero()
    assert changed.tolist() == [[row, column] for row in range(2) for column in range(5, 9)]  # BOS stands before


class Attentive:
    """Knows the answers, as long as it sees its sixth token."""

    name, num_tokens = "attentive", 16
    compressor = SimpleNamespace(needs_question=False)
    compress_for_questions = Fwd2Bot.compress_for_questions

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Tensor:
        return torch.arange(len(images)).view(-1, 1, 1).expand(-1, 16, 1)

    def answer(self, tokens: Tensor, asked: Sequence[str], *, keep: Sequence[bool] | None = None) -> list[str]:
        known = [{one.text: one.answer for one in questions(scene)} for scene in SCENES]
        seen = keep is None or keep[5]
        return [known[row[0, 0]][text] if seen else "" for row, text in zip(tokens.int(), asked, strict=True)]


def test_scores_fall_where_the_group_is_hidden_that_counts() -> None:
    model: Any = Attentive()
    found = hidden_scores(model, SCENES)
    means = {(group["size"], group["first"]): group["scores"]["mean"] for group in found["groups"]}
    hit = dict.fromkeys([(4, 5), (8, 1)], 0.0)
    assert means == {**dict.fromkeys([(4, 1), (4, 9), (4, 13), (8, 9)], 100.0), **hit}
    assert found["none"]["mean"] == 100.0


def test_too_few_tokens_to_hide_are_told() -> None:
    with pytest.raises(InputError, match="has 4 tokens an image"):
        hidden_scores(Fwd2Bot(tiny_compressor()), SCENES)


@pytest.mark.filterwarnings("ignore:Glyph")  # random weights say anything
@pytest.mark.parametrize("number", [3, 4, 5, 6])
def test_scripts_write_numbers_and_drawing(
    number: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(analysis, "CAPTION_LENGTH", 8)
    monkeypatch.setattr(attended, "CAPTION_LENGTH", 8)
    module = script(f"runs/fig{number}.py")
    arguments = ["--model", str(folder), "--scenes", "1", "--out", str(tmp_path / "a"), "--docs", str(tmp_path / "b")]
    assert module.figure_main(number, module.__doc__, module.make, arguments) == 0
    told = json.loads((tmp_path / f"a/fig{number}.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == told
    assert list(told["models"]) == ["tiny"]
    assert {"commit", "command", "machine", "seconds", "figures"} <= set(told)
    assert (tmp_path / f"b/fig{number}.svg").read_text(encoding="utf-8").count("<text") > 10


def test_the_same_figures_give_the_same_file(model: Fwd2Bot, tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_norms({"tiny": change_norms(model)}, tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "0"], "--scenes is 0"),
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--model", "FOLDER", "--model", "FOLDER"], "of one model; 2 are given"),
        (["--model", "FOLDER", "--docs", "FOLDER/config.json/x"], "cannot be written"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("runs/fig6.py")
    chosen = [value.replace("FOLDER", str(folder)) for value in ["--scenes", "1", *arguments]]
    assert module.figure_main(6, module.__doc__, module.make, chosen) != 0
    assert words in capsys.readouterr().err


def test_missing_matplotlib_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    module = script("runs/fig3.py")
    assert module.figure_main(3, module.__doc__, module.make, ["--model", str(folder)]) == InputError.exit_code
    assert "pip install 'fwd2bot[plots]'" in capsys.readouterr().err
