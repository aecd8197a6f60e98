"""The CLIP tower as a rival in retrieval."""

import json

import pytest
import torch
from transformers import CLIPModel

from fwd2bot.data.tokenizer import build_tokenizer
from fwd2bot.data.world import captions
from fwd2bot.errors import ModelError
from fwd2bot.evaluation.tower import Tower, main, tower_vectors
from fwd2bot.evaluation.world import gallery
from fwd2bot.training.tower import image_processor, small_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    tokenizer = build_tokenizer(600, scenes=50)
    torch.manual_seed(0)
    CLIPModel(small_clip(len(tokenizer), image=32, patch=8, width=64, layers=2, text_layers=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return folder


def test_vectors_are_unit_and_in_order(folder):
    scenes = gallery(6)
    images, texts = tower_vectors(Tower(folder), scenes)
    assert images.shape == (6, 64)
    assert texts.shape == (30, 64)
    torch.testing.assert_close(torch.from_numpy(texts).norm(dim=1), torch.ones(30))
    alone = Tower(folder).embed_texts([captions(scenes[3])[2]])
    torch.testing.assert_close(torch.from_numpy(texts[17:18]), alone, rtol=1e-5, atol=1e-6)


def test_text_is_cut_at_the_trained_length(folder):
    same_beginning = ["fox fox fox fox fox fox fox fox fox fox", "fox fox fox fox fox fox fox fox cow cow"]
    first, second = Tower(folder, text_length=8).embed_texts(same_beginning)
    torch.testing.assert_close(first, second)
    first, second = Tower(folder).embed_texts(same_beginning)
    assert (first - second).abs().max() > 1e-4


def test_result_has_the_shape_of_the_world_benchmark(folder, tmp_path, capsys):
    assert main(["--tower", str(folder), "--gallery", "6", "--out", str(tmp_path / "a/tower.json")]) == 0
    result = json.loads((tmp_path / "a/tower.json").read_text())
    assert result == json.loads(capsys.readouterr().out)
    assert set(result["figures"]["retrieval"]) >= {"text_to_image_R@1", "image_to_text_R@1"}
    assert result["commit"]


def test_folder_without_tower_raises(tmp_path):
    with pytest.raises(ModelError, match="holds no tower"):
        Tower(tmp_path)
