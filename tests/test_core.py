"""CORE-style merging: masks of scenes drawn by hand, means and order of their tokens."""

import torch

from fwd2bot.compressors.core import find_masks, merge_masks

SCENE = ["..aa", "..aa", "b...", "b..."]


def features_of(scene):
    """A direction for each sign, with a little noise, in different lengths: (1, V, 3)."""
    signs = "".join(scene)
    rows = torch.stack([torch.eye(3)[".ab".index(sign)] for sign in signs])
    noise = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0))
    return ((rows + 0.05 * noise) * torch.linspace(1, 3, len(signs))[:, None])[None]


def test_masks_are_the_things_of_the_scene():
    masks = find_masks(features_of(SCENE), 3)[0]
    groups = {tuple((masks == number).nonzero().flatten().tolist()) for number in range(3)}
    assert groups == {tuple(place for place, sign in enumerate("".join(SCENE)) if sign == one) for one in ".ab"}


def test_masks_are_the_same_under_autocast():
    features = 1 + 0.1 * torch.randn(2, 36, 8, generator=torch.Generator().manual_seed(0))  # near each other
    with torch.autocast("cpu", torch.bfloat16):
        masks = find_masks(features, 6)
    assert torch.equal(masks, find_masks(features, 6))


def test_no_mask_is_empty_where_all_patches_are_alike():
    masks = find_masks(torch.ones(2, 9, 4), 5)
    assert [sorted(set(row)) for row in masks.tolist()] == [list(range(5))] * 2


def test_tokens_are_means_in_the_order_of_rows_and_then_columns():
    features = torch.arange(9.0)[None, :, None] ** 2
    masks = torch.tensor([[2, 2, 1, 0, 0, 1, 3, 0, 1]])
    # centres (row, column): 0: (4/3, 2/3), 1: (1, 2), 2: (0, 1/2), 3: (2, 0)
    expected = [(0 + 1) / 2, (4 + 25 + 64) / 3, (9 + 16 + 49) / 3, 36.0]
    torch.testing.assert_close(merge_masks(features, masks, 4)[0, :, 0], torch.tensor(expected))


def test_masks_of_one_row_stand_by_column():
    features = torch.tensor([[[3.0], [5.0], [7.0], [9.0]]])
    merged = merge_masks(features, torch.tensor([[1, 0, 1, 0]]), 2)
    assert merged[0, :, 0].tolist() == [5.0, 7.0]
    merged = merge_masks(features, torch.tensor([[2, 1, 0, 0]]), 3)
    assert merged[0, :, 0].tolist() == [3.0, 5.0, 8.0]
