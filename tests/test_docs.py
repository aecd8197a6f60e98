"""Documents say what is so: their code runs, their tables are those of the code, their generated parts are fresh."""

import json
import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path

import choices
import numpy as np
import plugins
import pytest
import rows
import scores
import sections
import speeds
import store_tables
import transcript
import world_picture
import yaml
from PIL import Image

from fwd2bot.cli.parser import make_parser
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.catalogue import CATALOGUE, LLAVA_GRID
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.evaluation.base import Benchmark
from fwd2bot.llava import Llava
from fwd2bot.model import Fwd2Bot, bundled_names
from fwd2bot.store import Store
from fwd2bot.store.quantise import DEFAULT_QUANTISATION, DEFAULT_VECTORS
from fwd2bot.training.config import SETTINGS, TrainConfig

ROOT = Path(__file__).parent.parent
README, TRAINING, WORLD = ROOT / "README.md", ROOT / "docs/training.md", ROOT / "docs/world.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
BUDGET = ("init", "steps", "batch_size", "data", "seed", "train_parts")
BUDGET += ("optimizer", "learning_rate", "other_learning_rate", "weight_decay", "warmup", "cooldown", "clip")
OF_THE_WORLD = [path for path in CONFIGS if path.parent.name.startswith("emoji-world")]
RIVALS = [path for path in CONFIGS if path.stem.startswith(("average_pool", "fixed"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def tables(document: Path) -> list[list[list[str]]]:
    """Every table as rows of cells, without its head."""
    found = re.findall(r"(?:^\|.*\n)+", document.read_text("utf-8"), re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in one.splitlines()[2:]] for one in found]


def settings_table(first: str) -> dict[str, str]:
    """name -> default, of the table in docs/training.md whose first row is about `first`."""
    (rows,) = [table for table in tables(TRAINING) if table[0][0] == f"`{first}`" and len(table[0]) == 3]
    return {name.strip("`"): default for name, default, _ in rows}


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


# Settings.


@pytest.mark.parametrize(("first", "kind"), [("stage", TrainConfig), ("compressor", CompressorConfig)])
def test_every_setting_is_in_the_table_with_its_default(first, kind):
    told = settings_table(first)
    assert list(told) == [field.name for field in fields(kind)]
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING:
            assert told[field.name] == "required"
        else:
            assert yaml.safe_load(told[field.name].strip("`")) == plain(default), field.name


def test_every_setting_of_a_stage_is_in_the_table_with_its_default():
    (rows,) = [table for table in tables(TRAINING) if table[0][0] == "`model.vocabulary`"]
    told = {
        (stage, name.strip("`")): yaml.safe_load(default.strip("`"))
        for name, stages, default, _ in rows
        for stage in stages.split(", ")
    }
    assert told == {
        (stage, f"{part}.{name}"): default
        for stage, parts in SETTINGS.items()
        for part, values in parts.items()
        for name, default in values.items()
    }


def test_methods_in_the_documents_are_those_of_the_catalogue():
    (rows,) = [table for table in tables(TRAINING) if table[0][0] == "`fwd2bot`"]
    words = dict(re.findall(r"(Squares|Whole windows|Divisors): ([\d, ]+)\.", TRAINING.read_text("utf-8")))
    told = {name.strip("`"): (*facts, words.get(counts.capitalize(), counts)) for name, _, *facts, counts in rows}
    assert list(told) == list(CATALOGUE)
    for name, method in CATALOGUE.items():
        asked = ("yes" if one else "no" for one in (method.trained, method.needs_question, method.storable))
        *facts, counts = told[name]
        assert facts == [method.source or "-", *asked]
        assert counts == method.told_counts(LLAVA_GRID)


@pytest.mark.parametrize("text", blocks(TRAINING, "yaml"))
def test_configurations_in_the_documents_are_accepted(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config = TrainConfig.load(path)
    CompressorConfig.from_dict(config.compressor)


@pytest.mark.parametrize("path", OF_THE_WORLD, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_configurations_in_the_repository_are_accepted_and_run_by_a_script(path):
    config = TrainConfig.load(path)
    CompressorConfig.from_dict(config.compressor)
    work = Path("work") / path.parent.name
    assert config.out == work / path.stem
    larger = work.name == "emoji-world-larger"  # of Table 8; on the tower of the smaller one
    shared = {"work/emoji-world/tower"} if larger else set()
    assert all(Path(folder).parent == work or folder in shared for folder in config.init.values())
    script = ROOT / ("runs/cells.py" if larger else "runs/train_emoji_world.sh")
    assert re.search(rf"\b{path.stem}\b", script.read_text())


@pytest.mark.parametrize("path", RIVALS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_rivals_have_the_budget_of_fwd2bot(path):
    ours, theirs = TrainConfig.load(path.with_name("fwd2bot.yaml")), TrainConfig.load(path)
    for name in BUDGET:
        assert getattr(theirs, name) == getattr(ours, name), f"{path} has another {name} than fwd2bot.yaml"
    for name in ("adapters", "rank", "alpha", "template"):
        assert theirs.compressor[name] == ours.compressor[name]


def test_choices_that_the_documents_tell_are_those_of_the_configuration():
    assert sections.read_section(TRAINING, "choices") == choices.choices(choices.CONFIG), "run `tools/choices.py`"


def test_figures_of_other_programs_are_those_of_their_results():
    for name in plugins.PROGRAMS:
        assert sections.read_section(plugins.DOCUMENT, name) == plugins.table(name), "run `tools/plugins.py`"


def test_published_figures_are_told_where_ours_are_the_same():
    result = json.loads((ROOT / "results/published.json").read_text("utf-8"))
    told = (ROOT / "docs/benchmarks.md").read_text("utf-8").partition("## Checked against published figures")[2]
    for figure in (one for figures in result["figures"].values() for one in figures.values()):
        assert round(figure["here"], 1) == figure["published"]
        assert f" {figure['published']}" in told
    assert all(result["uploads"].values())


# Commands and code.


def commands(document: Path) -> list[str]:
    """Every command line of ours in a document: in code spans, and in blocks, there perhaps behind a $."""
    text = document.read_text("utf-8")
    lines = [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    found = [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines] + re.findall(r"`([^`\n]+)`", text)
    return [line for line in found if line.startswith("fwd2bot ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_can_be_parsed(document):
    for line in commands(document):
        if "COMMAND" not in line and len(shlex.split(line)) > 2:
            make_parser().parse_args(shlex.split(line)[1:])


def test_table_of_commands_has_every_command():
    (rows,) = [table for table in tables(README) if table[0][0] == "`fwd2bot demo`"]
    told = [shlex.split(row[0].strip("`"))[1] for row in rows]
    (action,) = [action for action in make_parser()._actions if action.dest == "command"]
    assert told == list(action.choices)


def test_commands_of_the_transcript_can_be_parsed():
    for line in transcript.COMMANDS.splitlines():
        program, *arguments = shlex.split(line)
        assert program in ("fwd2bot", "rm")
        if program == "fwd2bot":
            make_parser().parse_args(arguments)


def test_transcript_shows_each_command_with_what_it_said():
    said = transcript.transcript(["a b", "c"], {"a b": "one\ntwo\n", "c": ""}.__getitem__)
    assert said == "$ a b\none\ntwo\n$ c"


def test_command_that_fails_stops_the_transcript(tmp_path):
    with pytest.raises(SystemExit, match=r"fwd2bot info none\.store: exit code 5"):
        transcript.execute_in(tmp_path)("fwd2bot info none.store")


def test_python_of_the_readme_runs_with_the_bundled_model(tmp_path, monkeypatch, capsys):
    if "emoji-world" not in bundled_names():
        pytest.skip("needs the bundled model emoji-world")
    from fwd2bot.engine import compress_images
    from fwd2bot.model import load

    album = ROOT / "fwd2bot/bundled/album"
    compress_images(load("emoji-world"), [album], tmp_path / "album.store")
    (tmp_path / "fwd2bot/bundled").mkdir(parents=True)
    (tmp_path / "fwd2bot/bundled/album").symlink_to(album)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    exec(compile(code, str(README), "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 4


@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=lambda path: path.name)
def test_python_of_other_documents_runs(document):
    for code in blocks(document, "python"):
        if "from fwd2bot.data" in code:
            exec(compile(code, str(document), "exec"), {})


SEAMS = {
    "llava": Llava, "compressor": Compressor, "model": Fwd2Bot, "store": Store, "Store": Store, "Llava": Llava,
    "benchmark": Benchmark,
}  # fmt: skip
GIVEN_ON_CREATION = {"tokenizer", "gradient_checkpointing", "network", "config", "name", "source"}


def test_names_of_the_seams_are_those_of_the_code():
    code = re.sub(r"#.*", "", "\n".join(blocks(ROOT / "docs/architecture.md", "python")))
    named = re.findall(r"\b(llava|compressor|model|store|Store|Llava|benchmark)\.(\w+)((?:, \.\w+)*)", code)
    assert {subject for subject, _, _ in named} == set(SEAMS)
    for subject, first, more in named:
        for name in [first, *re.findall(r"\w+", more)]:
            assert hasattr(SEAMS[subject], name) or name in GIVEN_ON_CREATION, f"{subject}.{name}"


# Links and generated parts.


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
    local = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert not [link for link in local if not (document.parent / link).exists()]


def test_files_that_documents_name_are_there():
    text = "\n".join(document.read_text("utf-8") for document in DOCUMENTS)
    named = re.findall(r"`((?:docs|runs|tools|tests|configs/emoji-world)/[\w./-]+\.\w+)`", text)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_examples_of_the_world_are_fresh():
    scenes = world_picture.shown_scenes()
    message = "run `python tools/world_picture.py`"
    assert sections.read_section(WORLD, "questions") == world_picture.question_table(scenes), message
    assert sections.read_section(WORLD, "captions") == world_picture.caption_list(
        scenes[world_picture.CAPTIONED - 1]
    ), message
    with Image.open(ROOT / "docs/world.png") as picture:
        kept = np.asarray(picture.convert("RGBA")).astype(int)
    drawn = np.asarray(world_picture.grid(scenes)).astype(int)
    assert kept.shape == drawn.shape
    assert np.abs(kept - drawn).max() <= 8, message  # another Pillow may round otherwise


def test_scores_of_the_readme_are_those_of_the_results():
    told = sections.read_section(README, "scores")
    if not (scores.RESULTS / "base.json").exists():
        assert not told, "README.md tells scores that no file in results/world gives"
        pytest.skip("needs results/world/*.json")
    assert told == scores.section(scores.RESULTS), "run `python tools/scores.py`"


def test_speeds_of_the_readme_are_those_of_the_newest_result():
    told = sections.read_section(README, "speed")
    assert told == speeds.section(speeds.newest(speeds.RESULTS)), "run `python tools/speeds.py`"


def test_tables_of_the_store_are_those_of_the_results():
    message = "run `tools/store_tables.py`"
    told = store_tables.rows_section(json.loads(store_tables.ROWS.read_text("utf-8")))
    assert sections.read_section(store_tables.DOCUMENT, "rows") == told, message
    measured = store_tables.search_section(store_tables.newest(store_tables.BENCHMARKS))
    assert sections.read_section(store_tables.DOCUMENT, "search") == measured, message


def test_defaults_of_the_store_are_the_smallest_that_lose_little():
    result = json.loads(store_tables.ROWS.read_text("utf-8"))
    assert rows.defaults(result["figures"]) == {"token": DEFAULT_QUANTISATION, "vector": DEFAULT_VECTORS}
    assert result["defaults"] == rows.defaults(result["figures"])


def test_scores_are_of_the_bundled_model():
    if "emoji-world" not in bundled_names() or not (scores.RESULTS / "fwd2bot-16.json").exists():
        pytest.skip("needs the bundled model emoji-world and results/world/fwd2bot-16.json")
    from fwd2bot.checkpoint import fingerprint
    from fwd2bot.model import BUNDLED

    for name, model in (("fwd2bot-16", "emoji-world"), ("fwd2bot-4", "emoji-world"), ("fixed-4", "emoji-world-4")):
        result = json.loads((scores.RESULTS / f"{name}.json").read_text("utf-8"))
        assert result["fingerprint"] == fingerprint(BUNDLED / model), f"take the figures of {name} again"


def result(mean: float, blank: float, tokens: int, **figures: object) -> dict[str, object]:
    kinds = dict.fromkeys(scores.KINDS, mean)
    return {
        "commit": "0123456789abcdef",
        "num_tokens": tokens,
        "images": 1000,
        "gallery": 500,
        "figures": {
            "test": {**kinds, "mean": mean},
            "blank": {"mean": blank},
            "composition": {"mean": mean - 1.0},
            **figures,
        },
    }


def test_share_kept_above_guessing_leans_on_the_base(tmp_path):
    recalls = {"text_to_image_R@1": 71.0, "image_to_text_R@1": 82.0}
    found = {
        "base": result(95.0, 35.0, 144),
        "fwd2bot-16": result(92.0, 34.0, 16, retrieval=recalls),
        "tower": {"commit": "f" * 40, "num_tokens": None, "gallery": 500, "figures": {"retrieval": recalls}},
    }
    for name, content in found.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = {row.name: row for row in scores.lines(scores.read_results(tmp_path))}
    assert [row.kept for row in rows.values()] == pytest.approx([100.0, 95.0, None, 0.0])
    text = scores.section(tmp_path)
    assert "| **Fwd2Bot** | 16 | 92.0 | 95.0 | 91.0 | 71.0 | 82.0 | `0123456` |" in text
    assert "| the CLIP tower alone | – | – | – | – | 71.0 | 82.0 | `fffffff` |" in text
    assert "| a blank image: guessing | 144 | 35.0 | 0.0 | – | – | – | `0123456` |" in text


def test_table_of_rows_tells_bytes_and_marks_the_defaults():
    figures = {"answers": 90.0, "text_to_image": 70.0, "image_to_text": 80.0}
    sizes = {"token_bytes_bundled": 1056, "vector_bytes_bundled": 130, "token_bytes_7B": 16416, "vector_bytes_7B": 2050}
    found = {"float32": figures, "bf16": {**figures, **sizes}, "int2": {**figures, **sizes, "answers": 89.62}}
    result = {
        "figures": found,
        "defaults": {"token": "int2", "vector": "bf16"},
        "files": {"JPEG": 7000, "thumbnail": 2000},
    }
    text = store_tables.rows_section(
        {**result, "command": "rows.py", "commit": "f" * 40, "scenes": 500, "gallery": 1000}
    )
    assert "| float32 | 16,384 | 90.0 | 1,024 | 70.0 | 80.0 | 262,144 | 16,384 |" in text
    assert "| int2 | **1,056** | **89.6** | 130 | 70.0 | 80.0 | 16,416 | 2,050 |" in text
    assert "A row with both defaults takes 1,186 bytes; its picture 7,000 as a JPEG" in text
    assert "a row takes 18,466 bytes" in text


def test_scores_without_a_base_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="there is no"):
        scores.read_results(tmp_path)


def test_section_is_replaced_and_read(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("before\n<!-- x:begin -->\nold\n<!-- x:end -->\nafter <!-- y:begin --><!-- y:end -->\n")
    sections.write_section(path, "x", "new\nlines\n")
    assert sections.read_section(path, "x") == "new\nlines"
    assert path.read_text().startswith("before\n<!-- x:begin -->\n\nnew\nlines\n\n<!-- x:end -->\nafter")
    sections.write_section(path, "x", "")
    assert path.read_text().startswith("before\n<!-- x:begin -->\n<!-- x:end -->\nafter")
    with pytest.raises(ValueError, match="has no section 'z'"):
        sections.read_section(path, "z")


# Bundling.


def test_bundled_model_has_its_base_and_its_own_name(tmp_path):
    import bundle
    from tiny import tiny_compressor

    from fwd2bot.checkpoint import load_model, save_model

    models, compressor = tmp_path / "bundled", tiny_compressor()
    save_model(tmp_path / "trained", compressor)
    (tmp_path / "trained/README.md").write_text("---\nlicense: x\n---\n\n# trained\n\n# more\n")
    for _ in range(2):  # the second replaces the first
        size = bundle.bundle(tmp_path / "trained", models / "small-world")
    assert (models / "small-world/README.md").read_text() == "---\nlicense: x\n---\n\n# small-world\n\n# more\n"
    assert 0 < size < sum(path.stat().st_size for path in (tmp_path / "trained").rglob("*") if path.is_file())
    assert [path.name for path in models.iterdir()] == ["small-world"]
    again = load_model(models / "small-world")
    for name, parameter in compressor.named_parameters():
        assert np.allclose(parameter, again.get_parameter(name), rtol=1 / 128, atol=1e-6)


def test_bundled_model_shares_the_base_that_it_was_trained_on_and_no_other(tmp_path):
    import bundle
    from tiny import tiny_compressor

    from fwd2bot.checkpoint import load_model, save_model

    models, other = tmp_path / "bundled", tiny_compressor()
    for parameter in other.llava.network.parameters():
        parameter.data += 0.1
    for name, compressor in (("first", tiny_compressor()), ("second", tiny_compressor()), ("other", other)):
        save_model(tmp_path / name, compressor)
        (tmp_path / name / "README.md").write_text(f"# {name}\n")
    first = bundle.bundle(tmp_path / "first", models / "large")
    both = bundle.bundle(tmp_path / "second", models / "small", "large")
    assert first < both < 2 * first
    assert not (models / "small/base").exists()
    assert load_model(models / "small").num_tokens == tiny_compressor().num_tokens
    with pytest.raises(SystemExit, match="was trained on another base than that of large: bundle it whole"):
        bundle.bundle(tmp_path / "other", models / "strange", "large")
    assert {path.name for path in models.iterdir()} == {"large", "small"}


def test_bundle_that_is_too_large_is_refused(tmp_path, monkeypatch):
    import bundle
    from tiny import tiny_compressor

    from fwd2bot.checkpoint import save_model

    monkeypatch.setattr(bundle, "LIMIT", 1000)
    save_model(tmp_path / "trained", tiny_compressor())
    (tmp_path / "trained/README.md").write_text("# trained\n")
    with pytest.raises(SystemExit, match="at most 1,000 may be bundled"):
        bundle.bundle(tmp_path / "trained", tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_promises_of_the_security_page_have_their_tests():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/security.md").read_text("utf-8"))
    assert len(named) >= 8
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert not missing


def test_figures_of_the_security_page_are_those_of_the_result():
    result = json.loads((ROOT / "results/reveal.json").read_text("utf-8"))
    (rows,) = [table for table in tables(ROOT / "docs/security.md") if table[0][0].startswith("things named right")]
    psnr = [result["psnr"][name] for name in ("mlp", "ridge", "mean picture")]
    assert [value for _, value in rows] == [f"{value:.1f}" for value in (*result["facts"].values(), *psnr)]
