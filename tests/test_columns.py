"""Columns are read as their definitions say, whole and in slices."""

import zlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwd2bot.store.columns import fixed, text_sums

TEXTS = pa.list_(pa.string())


@settings(max_examples=100, deadline=None)
@given(
    lists=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=3), max_size=6),
    start=st.integers(0, 3),
    end=st.integers(0, 6),
)
def test_text_sums_are_of_the_texts_with_a_zero_byte_between(lists: list[list[str]], start: int, end: int) -> None:
    expected = [zlib.crc32("\0".join(texts).encode()) for texts in lists]
    assert text_sums(pa.array(lists, TEXTS)).tolist() == expected
    assert text_sums(pa.array(lists, TEXTS)[start:end]).tolist() == expected[start:end]


def test_a_missing_text_has_no_sum() -> None:
    with pytest.raises(ValueError, match="a text is missing"):
        text_sums(pa.array([["a"], ["b", None]], TEXTS))


def test_fixed_gives_the_bytes_of_slices_and_chunks() -> None:
    rows = [bytes([row, row + 1, row + 2]) for row in range(5)]
    array = pa.array(rows, pa.binary(3))
    assert [row.tobytes() for row in fixed(array[1:4])] == rows[1:4]
    assert [row.tobytes() for row in fixed(pa.chunked_array([array[:2], array[2:]]))] == rows
    assert fixed(array[:0]).shape == (0, 3)
