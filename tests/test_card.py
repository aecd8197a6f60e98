"""Model cards: what a finished run knows, and the scores that are put in later."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import settings, written

from fwd2bot.errors import InputError
from fwd2bot.training import run
from fwd2bot.training.card import BEGIN, END, add_scores, last_figures, main, write_card


def result(name: str, tokens: int | None, mean: float, **figures: dict[str, float]) -> dict[str, Any]:
    test = {"exist": mean - 1, "what": mean + 1, "mean": mean}
    parts = {"test": test, "composition": {"mean": mean - 5}, "blank": {"mean": 30.0}, **figures}
    return {
        "name": name, "model": "m", "num_tokens": tokens, "images": 1000, "gallery": 1000, "commit": "abcdef0123456",
        "figures": parts,
    }  # fmt: skip


RECALL = {"text_to_image_R@1": 71.25, "image_to_text_R@1": 80.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A Fwd2Bot trained on a projector that was trained on the untrained parts."""
    folder = tmp_path_factory.mktemp("trained")
    base = run(written(folder, settings("projector", folder / "projector", tiny_base, steps=1)))
    return run(written(folder, settings("fwd2bot", folder / "emoji", base, steps=2)))


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "emoji"))


def test_card_tells_how_the_model_was_trained(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    done = json.loads((trained / "done.json").read_text(encoding="utf-8"))
    assert card.startswith("---\nlibrary_name: fwd2bot\n")  # whose licence the tower has, it does not know
    assert "# emoji" in card
    assert "the compressor `fwd2bot`" in card
    stages = [line for line in card.splitlines() if line.startswith("| ")]
    named = [line.split(" | ")[0].strip("| ") for line in stages]
    assert named.index("tower") < named.index("projector") < named.index("emoji")
    assert f"| emoji | compressor | 2 | 2 | 0 | `{done['commit'][:9]}` |" in stages
    assert "| tower | not known |" in card  # it was never trained here
    assert "nothing of it comes from elsewhere" not in card
    assert done["machine"] in card
    assert "learning_rate: 0.003" in card
    assert "| 4/mean | 0.0 |" in card
    assert f"{BEGIN}\nNot taken yet.\n{END}" in card


def test_card_of_a_model_that_was_all_trained_here_says_so(tmp_path: Path) -> None:
    run(written(tmp_path, settings("language", tmp_path / "speaks", tmp_path, steps=1)))
    card = (tmp_path / "speaks/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "On scenes that the package makes itself" in card
    assert "A language model that speaks about the generated world" in card
    assert "nothing of it comes from elsewhere" in card


def test_card_of_a_run_on_files_names_them_and_no_licence(trained: Path) -> None:
    done = json.loads((trained / "done.json").read_text(encoding="utf-8"))
    done["config"]["data"]["sources"] = [{"kind": "captions", "path": "cc3m/{00000..00331}.tar"}]
    card = write_card(trained, done, {"answers": 50.0}).read_text(encoding="utf-8")
    assert "On the records of `cc3m/{00000..00331}.tar`." in card
    assert "## On records held out, at the end of training" in card
    assert "scenes that the package" not in card
    assert "license" not in card


def test_done_json_holds_the_configuration(trained: Path) -> None:
    done = json.loads((trained / "done.json").read_text(encoding="utf-8"))
    assert {"steps", "seconds", "precision", "commit", "command", "machine", "config"} == set(done)
    assert done["config"]["compressor"]["num_tokens"] == 4
    assert done["config"]["data"]["length"] == 144


def test_scores_are_put_in_and_replaced(trained: Path) -> None:
    rest = (trained / "README.md").read_text(encoding="utf-8").partition(BEGIN)[0]
    add_scores(trained, [result("base", 144, 95.0), result("fwd2bot-4", 4, 90.0, retrieval=RECALL)])
    add_scores(trained, [result("fwd2bot-16", 16, 93.04, retrieval=RECALL)])
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert card.startswith(rest)
    assert "| fwd2bot-16 | 16 | 93.0 | 88.0 | 30.0 | 71.2 | 80.0 | `abcdef012` |" in card
    assert "| exist | 92.0 |" in card
    assert "fwd2bot-4" not in card
    assert "Not taken yet" not in card
    assert card.rstrip().endswith(END)


def test_results_without_answers_or_tokens_have_empty_cells(trained: Path) -> None:
    tower = {**result("tower", None, 0.0), "figures": {"retrieval": RECALL}}
    del tower["images"]
    add_scores(trained, [result("base", 144, 95.0), tower])
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "| tower |  |  |  |  | 71.2 | 80.0 | `abcdef012` |" in card
    assert "| kind | base |" in card


def test_command_merges_results_by_their_files_names(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "fwd2bot-4.json"
    path.write_text(json.dumps(result("ignored", 4, 90.0)), encoding="utf-8")
    assert main([str(trained), str(path)]) == 0
    assert "| fwd2bot-4 | 4 | 90.0 |" in (trained / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "[]", '{"model": "m"}'])
def test_a_file_that_is_no_result_is_told(
    content: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.json").write_text(content)
    assert main([str(trained), str(tmp_path / "odd.json")]) == InputError.exit_code
    assert "odd.json" in capsys.readouterr().err


def test_a_folder_without_a_place_for_scores_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no README\.md: a finished training writes one"):
        add_scores(tmp_path, [result("base", 144, 95.0)])
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.raises(InputError, match="has no place for scores"):
        add_scores(tmp_path, [result("base", 144, 95.0)])


def test_last_figures_are_the_newest_on_validation_scenes(tmp_path: Path) -> None:
    lines = [{"step": 1, "val/mean": 1.0}, {"step": 2, "val/mean": 2.0, "seconds": 3}, {"step": 3, "loss": 9.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_figures(tmp_path / "metrics.jsonl") == {"mean": 2.0}
    (tmp_path / "metrics.jsonl").write_text("")
    assert last_figures(tmp_path / "metrics.jsonl") == {}
