"""The world in the benchmarks' layouts: what a person answers from the scene scores everything there is to score."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from official_files import QUESTIONS, WORD
from world_reader import PLACE, answer

from fwd2bot.data.world import Scene, Thing, make_scene
from fwd2bot.data.world.benchmarks import MME_SUBTASKS, mme_pairs, write_benchmarks
from fwd2bot.data.world.scene import SIGN
from fwd2bot.data.world.sprites import object_names
from fwd2bot.data.world.writers import write_world
from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import Benchmark, Sample
from fwd2bot.evaluation.catalogue import open_benchmark
from fwd2bot.evaluation.yes_no import MME
from fwd2bot.images import decode, read_image

IMAGES = 24
KNOWN = {*object_names(), SIGN}
PERFECT = dict.fromkeys(QUESTIONS, 100.0) | {"mme": 2000.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), IMAGES, "val", benchmarks=True)


def scenes_by_picture(world: Path) -> dict[bytes, Scene]:
    paths = [make_scene("val", index) for index in range(IMAGES)]
    return {(world / "images" / scene.name).read_bytes(): scene for scene in paths}


def in_words(sample: Sample, scene: Scene) -> str:
    """The answer to the first line of the question."""
    question = sample.text.split("\n")[0].lower()
    if re.search(r"\b(?:letters|written|read|says?)\b", question) and not scene.count(SIGN):
        return "unanswerable"
    return answer(question, scene, KNOWN)


def in_a_letter(sample: Sample, scene: Scene) -> str:
    """The letter of the option that is so."""
    options = {text: letter for letter, text in re.findall(r"^([A-D])\. (.+)$", sample.text, re.MULTILINE)}
    question = sample.text.split("\nA. ")[0].split("\n")[-1]
    assert not re.search(PLACE, question) or len(options) == 4
    return options[answer(question, scene, KNOWN)]


def of_mme(sample: Sample, scene: Scene) -> str:
    """Whether the question is the first of its pair, which is so."""
    subtask = sample.key.split("/")[0]
    return "yes" if sample.text.removesuffix(WORD) == mme_pairs(scene)[subtask][0] else "no"


WAYS: dict[str, Callable[[Sample, Scene], str]] = {
    **dict.fromkeys(QUESTIONS, in_words), "scienceqa": in_a_letter, "mmbench": in_a_letter, "mme": of_mme,
}  # fmt: skip


def perfect(benchmark: Benchmark, world: Path) -> dict[str, str]:
    by_picture = scenes_by_picture(world)
    said = {}
    for sample in benchmark.samples():
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
        said[sample.key] = WAYS[benchmark.name](sample, by_picture[content])
    return said


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_from_the_scene_score_everything(world: Path, name: str) -> None:
    benchmark = open_benchmark(name, world / "benchmarks" / name.removesuffix("_without_ocr"))
    said = perfect(benchmark, world)
    figures = benchmark.score(said)
    assert len(said) >= 4
    assert figures[benchmark.metric] == pytest.approx(PERFECT[name])
    wrong = benchmark.score(dict.fromkeys(said, "somewhere else"))
    assert wrong[benchmark.metric] < figures[benchmark.metric]


@pytest.mark.parametrize("name", QUESTIONS)
def test_pictures_can_be_read_under_their_official_names(world: Path, name: str) -> None:
    sample = open_benchmark(name, world / "benchmarks" / name.removesuffix("_without_ocr")).samples()[0]
    if isinstance(sample.image, bytes):
        picture = decode(sample.image, "x").image
    else:
        picture = read_image(sample.image)
    assert picture.size == (192, 192)


@pytest.mark.parametrize(
    ("name", "split"),
    [("gqa", "submission_all"), ("vqav2", "test-dev"), ("vqav2", "test"), ("vizwiz", "test"), ("textvqa", "test"),
     ("mmbench", "test_en")],
)  # fmt: skip
def test_splits_of_servers_have_questions_and_no_answers(world: Path, name: str, split: str) -> None:
    benchmark = open_benchmark(name, world / "benchmarks" / name, split)
    said = perfect(benchmark, world)
    with pytest.raises(InputError, match=f"Only {name}'s server has the answers of {split}"):
        benchmark.score(said)
    made = benchmark.submission(said)
    assert made is not None
    if name != "mmbench":
        assert len(json.loads(made[1])) == len(said)
        assert {next(reversed(row)) for row in json.loads(made[1])} <= {"answer", "prediction"}


def test_mmbench_dev_en_is_the_same(world: Path) -> None:
    folder = world / "benchmarks/mmbench"
    assert open_benchmark("mmbench", folder, "dev_en").samples() == open_benchmark("mmbench", folder).samples()


def test_pope_asks_as_often_for_what_is_there_as_for_what_is_not(world: Path) -> None:
    figures = open_benchmark("pope", world / "benchmarks/pope")
    everything = figures.score(dict.fromkeys(figures.keys(), "yes"))
    for name in ("random", "popular", "adversarial"):
        assert (everything[f"{name}/recall"], everything[f"{name}/accuracy"]) == (100, 50)


def test_a_world_in_the_place_of_another_leaves_nothing_of_it(tmp_path: Path) -> None:
    """MME's files are found by looking into its folders; what a user put there stays."""
    for images, seed in ((40, 0), (30, 1)):
        write_world(tmp_path, images, "test", seed=seed, benchmarks=True)
        (tmp_path / "benchmarks/mme/scene/mine.txt").touch()
    mme = tmp_path / "benchmarks/mme"
    for subtask in MME_SUBTASKS:
        files = {file.name for file in (mme / subtask).rglob("*") if file.is_file() and file.name != "mine.txt"}
        assert max(files) <= "000029.txt"
    assert (mme / "scene/mine.txt").exists()


def test_mme_subtasks_are_those_of_the_scorer() -> None:
    assert (*MME.PERCEPTION, *MME.COGNITION) == MME_SUBTASKS


def test_mme_pairs_of_a_scene_worked_by_hand() -> None:
    fox = Thing(name="fox", place=0, size="large", x=16, y=16, side=30)
    sign = Thing(name=SIGN, place=5, size="large", x=80, y=48, side=30, text="KM")
    scene = Scene(split="test", index=0, colour="red", pattern="plain", seed=3, things=(fox, sign))
    pairs = mme_pairs(scene)
    assert set(pairs) == set(MME_SUBTASKS)
    assert pairs["count"] == ("are there 2 objects in this image?", "are there 3 objects in this image?")
    assert pairs["position"] == ("is the fox left of the sign?", "is the fox right of the sign?")
    down = "would the fox have to move {} to be level with the sign?"
    assert pairs["commonsense_reasoning"] == (down.format("down"), down.format("up"))
    assert pairs["color"][0] == "is the background red?"
    assert pairs["scene"][0] == "is the pattern of the background plain?"
    assert pairs["landmark"][0] == "is the fox at the top left?"
    assert pairs["artwork"] == ("is the fox large?", "is the fox small?")
    assert pairs["OCR"] == ('does the sign say "KM"?', 'does the sign say "MK"?')
    assert pairs["text_translation"][0] == 'is the sign in small letters "km"?'
    assert pairs["numerical_calculation"][0] == "is the number of objects plus three 5?"
    code = "does print(len(objects)) print {} for the objects in this image?"
    assert pairs["code_reasoning"] == (code.format(2), code.format(3))
    assert pairs["existence"][0] in ("is there a fox in this image?", "is there a sign in this image?")
    named = {"is the object at the top left a fox?", "is the object at the middle right a sign?"}
    assert pairs["celebrity"][0] in named
    numbers = {"is the number of foxes here 1?", "is the number of signs here 1?"}
    assert pairs["posters"][0] in numbers
    assert not any(first == second for first, second in pairs.values())


def test_too_few_scenes_are_told(tmp_path: Path) -> None:
    bare = next(scene for scene in (make_scene("test", n) for n in range(50)) if not scene.count(SIGN))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / bare.name).write_bytes(b"")
    with pytest.raises(InputError, match="None of the 1 scenes has a sign to read: write more images"):
        write_benchmarks(tmp_path / "out", [bare], tmp_path / "images")


def test_written_again_it_is_the_same(world: Path, tmp_path: Path) -> None:
    write_benchmarks(tmp_path, [make_scene("val", index) for index in range(IMAGES)], world / "images")
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".tsv", ".txt")]
    assert len(files) > 100
    for path in files:
        assert path.read_bytes() == (world / "benchmarks" / path.relative_to(tmp_path)).read_bytes()
