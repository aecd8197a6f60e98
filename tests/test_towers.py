"""Towers as rivals in retrieval: each kind against a few lines of plain transformers."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPModel,
    GemmaTokenizer,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from fwd2bot import cli
from fwd2bot.checkpoint import plain_fingerprint
from fwd2bot.data.tokenizer import build_tokenizer
from fwd2bot.errors import ModelError
from fwd2bot.evaluation import towers
from fwd2bot.evaluation.towers import Tower, blip_caption, load_any, load_tower, tower_kind
from fwd2bot.evaluation.world import main
from fwd2bot.training.tower import image_processor, small_clip

TEXTS = ["a fox on a red background", "stars", "how many stars are there ? " * 9]
PICTURES = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue", "green")]
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8, "initializer_range": 0.3}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"vocab_size": 320, "max_position_embeddings": 24, "initializer_range": 0.3}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
LONG = {**TEXT, "max_position_embeddings": 64}
LENGTH = 24


def framed_tokenizer() -> Any:
    """It opens and closes each text, as those of towers do."""
    tokenizer = tiny_tokenizer()
    frame = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = frame
    return tokenizer


def saved(folder: Path, network: Any, tokenizer: Any, processor: Any) -> Path:
    for part in (network.eval(), tokenizer, processor):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, of random weights."""
    torch.manual_seed(0)
    square = {"height": 16, "width": 16}
    clip_processor = CLIPImageProcessorPil(size=square, crop_size=square)
    siglip_processor = SiglipImageProcessorPil(size=square)
    world = build_tokenizer(400, scenes=20)
    qformer = {**LONG, "encoder_hidden_size": 32, "use_qformer_text_input": True, "cross_attention_frequency": 1}
    small = small_clip(len(world), image=16, patch=8, width=64, layers=2, text_layers=1)
    made = {
        "world": (CLIPModel(small), world, image_processor(16)),
        "siglip": (SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VISION)),
                   framed_tokenizer(), siglip_processor),
        "siglip2": (Siglip2Model(Siglip2Config(text_config={**TEXT, "projection_size": 32},
                                               vision_config={**VISION, "num_patches": 4})),
                    framed_tokenizer(), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=6)),
        "blip": (BlipForImageTextRetrieval(BlipConfig(text_config={**LONG, "encoder_hidden_size": 32},
                                                      vision_config=VISION, image_text_hidden_size=8)),
                 framed_tokenizer(), clip_processor),
        "blip-2": (Blip2ForImageTextRetrieval(Blip2Config(vision_config=VISION, qformer_config=qformer,
                                                          num_query_tokens=3, image_text_hidden_size=8)),
                   framed_tokenizer(), clip_processor),
    }  # fmt: skip
    torch.nn.init.normal_(made["blip-2"][0].query_tokens)
    return {name: saved(tmp_path_factory.mktemp("towers") / name, *parts) for name, parts in made.items()}


KINDS = ("world", "siglip", "siglip2", "blip", "blip-2")


def plain_text(name: str, tower: Tower, text: str) -> torch.Tensor:
    """The same in plain transformers, one text at a time, so that nothing is padded but as the tower was trained."""
    network, tokenizer = tower.network, tower.tokenizer
    length = 35 if name.startswith("blip") else tower.context
    if name == "blip":
        text = " ".join(text.split()[:30])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 2]
    end = 3 if name == "world" else 2
    row = torch.tensor([[1, *ids, end]])
    if name == "world":
        return network.text_projection(network.text_model(input_ids=row).last_hidden_state[0, len(ids) + 1])
    if name.startswith("siglip"):
        row = F.pad(row, (0, LENGTH - row.shape[1]), value=3)
        return network.text_model.head(network.text_model(input_ids=row).last_hidden_state[0, LENGTH - 1])
    if name == "blip":
        return network.text_proj(network.text_encoder(input_ids=row).last_hidden_state[0, 0])
    states = network.qformer(query_embeds=network.embeddings(input_ids=row), query_length=0).last_hidden_state
    return network.text_projection(states[0, 0])


@pytest.mark.parametrize("name", KINDS)
class TestKinds:
    def test_texts_are_those_of_plain_transformers_alone_and_in_a_batch(self, name, folders):
        tower = load_tower(folders[name], "cpu")
        vectors = tower.embed_texts(TEXTS)
        assert vectors.shape == (3, tower.width)
        with torch.inference_mode():
            plain = torch.stack([F.normalize(plain_text(name, tower, text), dim=-1) for text in TEXTS])
        np.testing.assert_allclose(vectors, plain.numpy(), rtol=1e-3, atol=1e-4)
        assert abs(vectors[0] - vectors[1]).max() > 1e-3

    def test_pictures_have_unit_norm_alone_and_in_a_batch(self, name, folders):
        tower = load_tower(folders[name], "cpu")
        vectors = tower.embed_images(PICTURES)
        several = (3,) if name == "blip-2" else ()
        assert vectors.shape == (3, *several, tower.width)
        assert tower.vectors_an_image == (3 if several else 1)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(tower.embed_images(PICTURES[1:2]), vectors[1:2], rtol=1e-3, atol=1e-4)
        assert abs(vectors[0] - vectors[1]).max() > 1e-3


def test_blip2_scores_are_those_of_its_own_forward(folders):
    tower = load_tower(folders["blip-2"], "cpu")
    words, pixels = tower._words(TEXTS), tower._pixels(PICTURES)
    with torch.inference_mode():
        own = tower.network(**pixels, input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    scores = (tower.embed_images(PICTURES) @ tower.embed_texts(TEXTS).T).max(axis=1)
    np.testing.assert_allclose(scores, own.logits_per_image.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["blip", "blip-2"])
def test_texts_of_blip_lose_capitals_and_signs(name, folders):
    tower = load_tower(folders[name], "cpu")
    given, meant, other = tower.embed_texts(['A  Fox (on): "red" stars!', "a fox on red stars", "a fox on red star"])
    np.testing.assert_allclose(given, meant, rtol=1e-5)
    assert abs(given - other).max() > 1e-3


def test_blip_caption_is_that_of_blip_and_lavis():
    assert blip_caption(' A\tFox (red):\n"on" ~Blue, isn\'t it?.\n', 30) == "a\tfox red on blue, isn't it?"
    assert blip_caption("one. two;  three four", 3) == "one two three"


def test_capitals_are_nothing_to_a_siglip_with_the_tokenizer_of_gemma(folders, tmp_path):
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters]
    gemma = GemmaTokenizer({name: place for place, name in enumerate(names)}, add_bos_token=False, add_eos_token=True)
    folder = shutil.copytree(folders["siglip"], tmp_path / "siglip2-of-one-size")
    gemma.save_pretrained(folder)
    tower = load_tower(folder, "cpu")
    assert type(tower.tokenizer) is GemmaTokenizer
    assert tower._words(["A fox"])["input_ids"].tolist() == [[32, 5, 11, 20, 29, 1, *[0] * 18]]
    given, meant, other = tower.embed_texts(["A Fox", "a fox", "a box"])
    np.testing.assert_array_equal(given, meant)
    assert abs(given - other).max() > 1e-3


def test_the_tokenizer_of_siglip_1_is_read(folders, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece (pip install 'fwd2bot[siglip]')")
    from transformers import SiglipTokenizer

    options = {"vocab_size": 40, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "spiece"), minloglevel=2, **options
    )
    folder = shutil.copytree(folders["siglip"], tmp_path / "siglip")
    (folder / "tokenizer.json").unlink()
    SiglipTokenizer(str(tmp_path / "spiece.model")).save_pretrained(folder)
    tower = load_tower(folder, "cpu")
    ids = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model")).encode("a fox")
    assert tower._words(["A Fox!"])["input_ids"].tolist() == [[*ids, *[1] * (LENGTH - len(ids))]]
    given, meant, other = tower.embed_texts(["A Fox!", "a fox", "stars"])
    np.testing.assert_array_equal(given, meant)
    assert abs(given - other).max() > 1e-3


def test_siglip_1_without_its_extra_is_told(folders, monkeypatch):
    def lacking(folder):
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(towers.AutoTokenizer, "from_pretrained", lacking)
    with pytest.raises(ModelError, match=r"needs sentencepiece: run pip install 'fwd2bot\[siglip\]'"):
        load_tower(folders["siglip"])


def test_a_world_tower_goes_through_the_suite(folders, tmp_path, capsys):
    out = tmp_path / "a/tower.json"
    assert main(["--model", str(folders["world"]), "--gallery", "4", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result == json.loads(capsys.readouterr().out)
    assert set(result["figures"]) == {"retrieval"}
    assert set(result["figures"]["retrieval"]) >= {"text_to_image_R@1", "image_to_text_R@1"}
    assert (result["model"], result["num_tokens"]) == ("world", None)
    assert result["fingerprint"].startswith("sha256:")
    assert main(["--model", str(folders["world"]), "--gallery", "4", "--tokens", "4"]) == 2
    assert "world gives no tokens to choose a number of" in capsys.readouterr().err


def test_the_command_takes_a_tower_and_tells_no_number_of_tokens(folders, tmp_path, capsys):
    given = ["evaluate", "--suite", "world", "--images", "2", "--model", str(folders["world"])]
    assert cli.main([*given, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("world: world\n  retrieval text_to_image_R@1 ")
    assert cli.main([*given, "--dtype", "bfloat16"]) == 2
    assert "which computes in float32; leave --dtype out" in capsys.readouterr().err


def test_a_tower_of_the_hub_has_the_name_that_it_has_there(folders, monkeypatch):
    monkeypatch.setattr(towers, "find_model", lambda name: folders["world"])
    assert load_any("someone/clip", "cpu").name == "someone/clip"


def test_folders_of_another_kind_are_told(tmp_path, tiny_base, folders):
    assert tower_kind(tiny_base) is None
    with pytest.raises(ModelError, match=r"holds no tower: a folder of transformers \(clip, siglip, "):
        load_tower(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"holds a model of type 'bert'; a fwd2bot or LLaVA-1\.5 folder is needed"):
        load_any(str(tmp_path))
    (tmp_path / "config.json").write_text((folders["blip"] / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot be loaded as BLIP: "):
        load_any(str(tmp_path))


def test_weights_that_lack_the_projections_are_told(tmp_path, folders):
    network = BlipForImageTextRetrieval.from_pretrained(folders["blip"])
    state = {name: value for name, value in network.state_dict().items() if "text_proj" not in name}
    network.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"lacks weights of BLIP, such as text_proj\.bias; take a model that was"):
        load_tower(tmp_path)


@pytest.fixture
def open_clip_folder(tmp_path):
    config = {"model_cfg": {"embed_dim": 3, "text_cfg": {"context_length": 5}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_open_clip_with_pickled_weights_is_told(open_clip_folder):
    (open_clip_folder / "open_clip_model.safetensors").rename(open_clip_folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no open_clip_model\.safetensors; save the weights in that file"):
        load_any(str(open_clip_folder))


def test_the_fingerprint_of_a_tower_covers_what_its_texts_are_read_from(open_clip_folder):
    seen = {plain_fingerprint(open_clip_folder)}
    config = {"model_cfg": {"embed_dim": 3, "text_cfg": {"context_length": 6}}}
    for name in ("open_clip_config.json", "tokenizer_config.json", "vocab.json"):
        (open_clip_folder / name).write_text(json.dumps(config))
        seen.add(plain_fingerprint(open_clip_folder))
    for name in ("open_clip_model.safetensors", "spiece.model", "vocab.txt", "merges.txt"):
        (open_clip_folder / name).write_bytes(b"others")
        seen.add(plain_fingerprint(open_clip_folder))
    assert len(seen) == 8
    (open_clip_folder / "README.md").write_text("words")
    assert plain_fingerprint(open_clip_folder) in seen


def test_open_clip_that_is_not_installed_is_told(open_clip_folder, monkeypatch):
    monkeypatch.setattr(towers, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="is a model of OpenCLIP: pip install open_clip_torch"):
        load_any(str(open_clip_folder))


def test_open_clip_is_asked_for_its_own_preprocessing_and_vectors(open_clip_folder, monkeypatch):
    """A stand-in of open_clip: the mean colour, and three numbers of the text."""
    network = torch.nn.Identity()
    network.encode_image = lambda pixels: pixels.mean(dim=(2, 3))
    network.encode_text = lambda ids: ids.float()
    place = f"local-dir:{open_clip_folder.resolve()}"
    stand_in = SimpleNamespace(
        create_model_from_pretrained=lambda name: {
            place: (network, lambda one: torch.tensor(np.array(one)).permute(2, 0, 1).float())
        }[name],
        get_tokenizer=lambda name: {place: lambda texts: torch.tensor([[len(text), 1, 2] for text in texts])}[name],
    )
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    monkeypatch.setattr(towers, "find_spec", lambda name: stand_in)
    tower = load_any(str(open_clip_folder), "cpu")
    np.testing.assert_allclose(tower.embed_images(PICTURES[:2]), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(tower.embed_texts(["ab"]), [[2 / 3, 1 / 3, 2 / 3]], rtol=1e-6)
    assert tower.width == 3
