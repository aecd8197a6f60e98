"""Plug-ins beside a stand-in for the program that loads them; runs/with_*.py checks them with the program itself."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import with_lmms_eval
import with_mteb
import yaml
from PIL import Image
from tiny import tiny_compressor

from fwd2bot.checkpoint import save_model
from fwd2bot.errors import InputError
from fwd2bot.evaluation.metrics import recall_at
from fwd2bot.model import load

ROOT = Path(__file__).parent.parent
PICTURES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    save_model(folder, tiny_compressor(num_tokens=4))
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, plugin: str, **modules: dict[str, Any]) -> ModuleType:
    """One of our plug-ins, imported anew beside modules with these names (__ for a dot) and contents."""
    for dotted, content in modules.items():
        name = dotted.replace("__", ".")
        for at in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:at])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part, ModuleType(part)))
        vars(sys.modules[name]).update(content)
    monkeypatch.delitem(sys.modules, f"fwd2bot.plugins.{plugin}", raising=False)
    module = import_module(f"fwd2bot.plugins.{plugin}")
    monkeypatch.delitem(sys.modules, f"fwd2bot.plugins.{plugin}")  # gone again when the test ends
    return module


# lmms-eval.


class Harness:
    """What lmms-eval's base class is to us."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@dataclass
class Manifest:
    model_id: str
    simple_class_path: str


@pytest.fixture
def lmms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return stand_in(monkeypatch, "lmms_eval", lmms_eval__api__model={"lmms": Harness})


@pytest.fixture
def harnessed(lmms: ModuleType, folder: Path) -> Any:
    model = lmms.CompressedModel(str(folder), device="cpu", batch_size="2")
    model.task_dict = {"colours": {"test": PICTURES}}
    return model


def request(text: str, number: int, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(args=(text, {"max_new_tokens": 5, **settings}, lambda doc: [doc], number, "colours", "test"))


def test_lmms_eval_is_told_of_the_class_by_the_entry_point(monkeypatch: pytest.MonkeyPatch, lmms: ModuleType) -> None:
    import fwd2bot.plugins

    stand_in(monkeypatch, "lmms_eval", lmms_eval__models__registry_v2={"ModelManifest": Manifest})
    manifest = fwd2bot.plugins.lmms_eval_manifest()
    assert manifest.model_id == "fwd2bot"
    path, _, name = manifest.simple_class_path.rpartition(".")
    assert path == "fwd2bot.plugins.lmms_eval"
    assert hasattr(lmms, name)
    project = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."lmms_eval.models"]\nfwd2bot = "fwd2bot.plugins:lmms_eval_manifest"' in project
    for entry in entry_points(group="lmms_eval.models"):  # none, where the package is not installed
        assert entry.value == "fwd2bot.plugins:lmms_eval_manifest"


def test_answers_are_those_of_the_model_in_the_order_of_the_requests(harnessed: Any, folder: Path) -> None:
    asked = [
        ("what is it ?", 2, 5),
        ("<image>\nwhat is at the top left ?", 0, 3),
        ("how many ?", 2, 5),
        ("a fox ?", 1, 5),
    ]
    found = harnessed.generate_until([request(text, number, max_new_tokens=limit) for text, number, limit in asked])
    plain = load(folder, "cpu")
    for (text, number, limit), answer in zip(asked, found, strict=True):
        tokens = plain.compress([PICTURES[number]])
        assert answer == plain.answer(tokens, [text.removeprefix("<image>\n")], max_new_tokens=limit)[0].strip()
    assert len(set(found)) > 1


def test_a_picture_is_compressed_once(harnessed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    compress = harnessed.model.compress
    monkeypatch.setattr(harnessed.model, "compress", lambda one, *rest: seen.append(len(one)) or compress(one, *rest))
    for _ in range(2):
        harnessed.generate_until([request(f"is it {number} ?", number % 2) for number in range(5)])
    assert seen == [2]


def test_rows_of_the_newest_pictures_are_kept(
    harnessed: Any, lmms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [request("what is it ?", number) for number in range(3)]
    whole = harnessed.generate_until(asked)
    harnessed._rows.clear()
    one = harnessed.model.compress(PICTURES[:1])[0].nbytes
    for room, kept in ((2 * one, 2), (1, 1)):
        monkeypatch.setattr(lmms, "_KEPT", room)
        assert harnessed.generate_until(asked) == whole
        assert len(harnessed._rows) == kept
        assert list(harnessed._rows) == [lmms._key(picture) for picture in PICTURES[-kept:]]


def test_a_method_that_needs_the_question_compresses_for_each(lmms: ModuleType, tmp_path: Path) -> None:
    save_model(tmp_path / "asking", tiny_compressor("quecc", num_tokens=4))
    model = lmms.CompressedModel(str(tmp_path / "asking"), device="cpu")
    model.task_dict = {"colours": {"test": PICTURES}}
    asked = [request("what is it ?", 0), request("how many ?", 0)]
    assert len(model.generate_until(asked)) == 2
    assert not model._rows


def test_an_answer_ends_where_the_task_says(harnessed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harnessed.model, "answer", lambda rows, texts, **_: ["yes\n\nit is. no"] * len(texts))
    asked = [request("?", 0, until=until) for until in (["it", "\n\n"], ".", ["\n\n"], None)]
    whole = "yes\n\nit is. no"  # a blank line is what lmms-eval fills in
    assert harnessed.generate_until(asked) == ["yes", "yes\n\nit is", whole, whole]


@pytest.mark.parametrize(("asked", "batch"), [("1", 1), (3, 3), (None, 32), ("auto", 32)])
def test_as_many_at_once_as_lmms_eval_is_told(lmms: ModuleType, folder: Path, asked: Any, batch: int) -> None:
    assert lmms.CompressedModel(str(folder), device="cpu", batch_size=asked).model.batch_size == batch


@pytest.mark.parametrize(("context", "limit"), [(256, 64), (8192, 1024)])
def test_a_task_without_a_limit_has_llavas_as_far_as_the_context_goes(
    harnessed: Any, monkeypatch: pytest.MonkeyPatch, context: int, limit: int
) -> None:
    harnessed.model.compressor.llava.network.config.text_config.max_position_embeddings = context
    limits: list[int] = []
    monkeypatch.setattr(
        harnessed.model, "answer", lambda rows, texts, max_new_tokens: limits.append(max_new_tokens) or [""]
    )
    harnessed.generate_until([request("what is it ?", 0, max_new_tokens=None)])
    assert limits == [limit]


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 3}])
def test_sampling_is_refused(harnessed: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"colours samples or searches .* answers are greedy here"):
        harnessed.generate_until([request("what ?", 0, **settings)])


@pytest.mark.parametrize(("shown", "words"), [([], "0 things"), (PICTURES[:2], "2 things"), (["a.mp4"], "a str")])
def test_all_but_one_picture_is_refused(harnessed: Any, shown: list[Any], words: str) -> None:
    one = SimpleNamespace(args=("what ?", {}, lambda doc: shown, 0, "colours", "test"))
    with pytest.raises(InputError, match=f"colours shows {words} with document 0"):
        harnessed.generate_until([one])


def test_what_cannot_be_asked_has_no_answer_and_the_others_have_theirs(
    harnessed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [request("what is it ?", number) for number in range(3)]
    whole = harnessed.generate_until(asked)
    harnessed.task_dict["colours"]["test"] = [*PICTURES, None]
    none = SimpleNamespace(args=("what ?", {"max_new_tokens": 5}, lambda doc: [], 3, "colours", "test"))
    found = harnessed.generate_until([asked[0], none, request("fox " * 300, 1), *asked[1:]])
    assert found == [whole[0], "", "", *whole[1:]]
    assert "colours, document 3, has no answer: colours shows 0 things" in caplog.text
    assert "colours, document 1, has no answer: The question has" in caplog.text


def test_only_one_process_and_known_settings(
    lmms: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="num_token"):
        lmms.CompressedModel(str(folder), device="cpu", num_token=4)
    lmms.CompressedModel(str(folder), device="cpu", batch_size="1", max_batch_size="2")
    save_model(tmp_path / "vectors", tiny_compressor("vlm2vec", num_tokens=1))
    with pytest.raises(InputError, match="only embeds"):
        lmms.CompressedModel(str(tmp_path / "vectors"), device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="in one process"):
        lmms.CompressedModel(str(folder), device="cpu")


def test_other_kinds_of_tasks_are_refused(harnessed: Any) -> None:
    with pytest.raises(InputError, match="measures no likelihood"):
        harnessed.loglikelihood([])
    with pytest.raises(InputError, match="one question at a time"):
        harnessed.generate_until_multi_round([])


def test_number_of_tokens_is_checked_when_lmms_eval_loads_it(lmms: ModuleType, folder: Path) -> None:
    with pytest.raises(InputError, match="5"):
        lmms.CompressedModel(str(folder), num_tokens=5, device="cpu")


def test_tasks_of_the_run_are_over_the_files_that_it_writes() -> None:
    for kind in ("random", "popular", "adversarial"):
        task = yaml.safe_load((ROOT / f"runs/lmms_tasks/world_pope_{kind}.yaml").read_text())
        assert (ROOT / "runs/lmms_tasks" / task["include"]).is_file()
        assert task["dataset_kwargs"]["data_files"]["test"] == f"work/plugins/pope/coco_pope_{kind}.json"


# sentence-transformers.


class Module(torch.nn.Module):
    """What a module of sentence-transformers is to us; files stay where they are."""

    config_file_name = ""
    config_keys: ClassVar[list[str]] = []

    def save_config(self, folder: str) -> None:
        content = {key: getattr(self, key) for key in self.config_keys}
        Path(folder, self.config_file_name).write_text(yaml.safe_dump(content))

    @classmethod
    def load_config(cls, folder: str, subfolder: str = "", **_: Any) -> Any:
        return yaml.safe_load(Path(folder, subfolder, cls.config_file_name).read_text())

    @classmethod
    def load_dir_path(cls, folder: str, subfolder: str, **_: Any) -> str:
        return str(Path(folder, subfolder))


def kind_of(given: Any, _: Any) -> str | tuple[str, ...]:
    if isinstance(given, dict):
        return next(iter(given)) if len(given) == 1 else tuple(given)
    if isinstance(given, Image.Image) or str(given).endswith(".png"):
        return "image"
    if isinstance(given, str | tuple):
        return "text"
    raise ValueError("unknown")


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return stand_in(
        monkeypatch,
        "sentence_transformers",
        sentence_transformers__base__modality={"infer_modality": kind_of},
        sentence_transformers__base__modules={"InputModule": Module},
    )


def embed(module: Any, inputs: list[Any], **options: Any) -> torch.Tensor:
    vectors: torch.Tensor = module(module.preprocess(inputs, **options))["sentence_embedding"]
    return vectors


def test_vectors_are_those_of_the_model(sentences: ModuleType, folder: Path, tmp_path: Path) -> None:
    module, plain = sentences.Fwd2BotModule(folder, device="cpu"), load(folder, "cpu")
    PICTURES[1].save(tmp_path / "green.png")
    shown = embed(module, [PICTURES[0], str(tmp_path / "green.png"), {"image": PICTURES[2]}])
    torch.testing.assert_close(shown, plain.embed(plain.compress(PICTURES)), rtol=0, atol=1e-6)
    told = embed(module, ["a fox", {"text": "two stars"}])
    torch.testing.assert_close(told, plain.embed(["a fox", "two stars"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(embed(module, ["fox"], prompt="a "), told[:1], rtol=0, atol=1e-6)
    assert module.get_embedding_dimension() == told.shape[1] == plain.width
    assert module.modalities == ["text", "image"]


@pytest.mark.parametrize("method", ["fwd2bot", "identity"])
def test_no_document_ends_a_run(sentences: ModuleType, tmp_path: Path, method: str) -> None:
    """Long texts are cut as others cut them, and an empty one is a full stop."""
    counts = {"num_tokens": 4} if method == "fwd2bot" else {}
    save_model(tmp_path / "tiny", tiny_compressor(method, **counts))
    module = sentences.Fwd2BotModule(tmp_path / "tiny", device="cpu")
    long, half = "fox " * 1000, module.model.context // 2
    cut = module._readable(long)
    assert long.startswith(cut)
    assert module.model.count_tokens(cut) == half
    found = embed(module, ["a fox", long, cut, " ", "."])
    torch.testing.assert_close(found[1], found[2])
    torch.testing.assert_close(found[3], found[4])
    torch.testing.assert_close(found[0], embed(module, ["a fox"])[0], rtol=0, atol=1e-5)


def test_a_picture_that_is_opened_has_the_vector_of_its_file(
    sentences: ModuleType, folder: Path, tmp_path: Path
) -> None:
    """Transparency is on white, and a photograph stands as its EXIF says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (32, 16), "blue")
    turned.paste("red", (0, 0, 8, 16))
    turned.save(tmp_path / "turned.png", exif=exif)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 4, 16))
    clear.save(tmp_path / "clear.png")
    module = sentences.Fwd2BotModule(folder, device="cpu")
    for name in ("turned.png", "clear.png"):
        with Image.open(tmp_path / name) as opened:
            one, other = embed(module, [opened, str(tmp_path / name)])
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_module_is_whole_after_it_was_saved(sentences: ModuleType, folder: Path, tmp_path: Path) -> None:
    module = sentences.Fwd2BotModule(folder, 4, device="cpu")
    module.save(str(tmp_path))
    again = sentences.Fwd2BotModule.load(str(tmp_path), trust_remote_code=True, token=None)
    assert again.num_tokens == 4
    assert again.model.fingerprint == module.model.fingerprint
    torch.testing.assert_close(embed(again, ["a fox"]), embed(module, ["a fox"]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "A int cannot be embedded"),
        (("a fox", "a star"), "not of 'text' \\(tuple\\)"),
        ({"text": "a fox", "image": PICTURES[0]}, "not of \\('text', 'image'\\)"),
    ],
)
def test_what_is_neither_text_nor_picture_is_refused(
    sentences: ModuleType, folder: Path, given: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        sentences.Fwd2BotModule(folder, device="cpu").preprocess([given])


# Without the programs.


@pytest.mark.parametrize(
    ("plugin", "needs", "words"),
    [
        ("sentence_transformers", "sentence_transformers", "sentence-transformers 6: run pip install"),
        ("mteb", "sentence_transformers", "sentence-transformers 6: run pip install"),
        ("lmms_eval", "lmms_eval", "docs/plugins.md says how"),
    ],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, plugin: str, needs: str, words: str) -> None:
    for name in ("sentence_transformers", "mteb", "lmms_eval"):
        monkeypatch.delitem(sys.modules, f"fwd2bot.plugins.{name}", raising=False)
    monkeypatch.setitem(sys.modules, needs, None)
    with pytest.raises(InputError, match=words):
        import_module(f"fwd2bot.plugins.{plugin}")


# What the scripts that run the programs conclude.


def test_equal_captions_are_counted_both_ways() -> None:
    """Both texts are the first picture's; that of the second finds the wrong picture, and ties decide the rest."""
    images, texts = np.eye(2, dtype=np.float32), np.array([[1, 0], [1, 0]], dtype=np.float32)
    most = with_mteb.lucky(images, texts, np.array([0, 1]))
    least = recall_at(images, texts, [0, 1])
    assert (least["text_to_image_R@1"], most["text_to_image_R@1"]) == (50.0, 50.0)
    assert (least["image_to_text_R@1"], most["image_to_text_R@1"]) == (0.0, 100.0)


@pytest.mark.parametrize(("found", "code"), [(0.88, 0), (0.9, 0), (0.92, 0), (0.86, 1), (0.94, 1)])
def test_mteb_must_lie_between_both_of_our_figures(
    found: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_mteb, "RESULT", tmp_path / "mteb.json")
    keys = ("model", "fingerprint", "num_tokens", "images", "texts", "commit", "machine")
    own = {**dict.fromkeys(keys, "x"), "figures": dict.fromkeys(with_mteb.PAIRS, 88.0)}
    theirs: dict[str, Any] = dict.fromkeys(("version", "name", "revision"), "x")
    for task, figure in with_mteb.PAIRS.values():
        theirs.setdefault(task, {})[figure] = found
    assert with_mteb.compare(own, dict.fromkeys(with_mteb.PAIRS, 92.0), theirs) == code


@pytest.mark.parametrize(("text", "score", "code"), [("yes", 0.9, 0), ("no", 0.9, 1), ("yes", 0.8, 1)])
def test_lmms_eval_must_give_our_answers_and_our_figures(
    text: str, score: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_lmms_eval, "RESULT", tmp_path / "lmms_eval.json")
    monkeypatch.setattr(with_lmms_eval, "answers_of", lambda way: {1: "yes"})
    own = dict.fromkeys(("model", "fingerprint", "num_tokens", "commit", "machine"), "x")
    figures = with_lmms_eval.FIGURES
    theirs = {f"world_plain_{kind}": dict.fromkeys(figures.values(), score) for kind in with_lmms_eval.KINDS}
    scored = {"plain": {f"{kind}/{figure}": 90.0 for kind in with_lmms_eval.KINDS for figure in figures}}
    assert with_lmms_eval.compare(own, theirs, {1: text}, scored) == code
