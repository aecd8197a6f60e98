"""Quantisers: what comes back, how many bytes it takes, and that each token stands alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fwd2bot.errors import StoreError
from fwd2bot.store.quantise import QUANTISERS, Floats, quantiser

names = pytest.mark.parametrize("name", QUANTISERS)
tokens = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)


@names
@given(given_tokens=tokens)
@settings(max_examples=60, deadline=None)
def test_decode_gives_each_number_within_the_tolerance(name: str, given_tokens: Floats) -> None:
    codec = quantiser(name)
    back = codec.decode(codec.encode(given_tokens))
    assert back.dtype == np.float32
    assert (np.abs(back - given_tokens) <= codec.tolerance(given_tokens)).all()


@names
def test_a_row_can_be_cut_after_any_token(name: str) -> None:
    codec = quantiser(name)
    original = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    codes = codec.encode(original)
    assert codes.shape == (4, codec.token_bytes(8))
    assert codes.dtype == np.uint8
    whole = codec.decode(codes)
    content = codes.tobytes()
    for count in range(1, 5):
        part = np.frombuffer(content[: count * codec.token_bytes(8)], dtype=np.uint8).reshape(count, -1)
        assert np.array_equal(codec.decode(part), whole[:count])


@names
def test_encode_of_what_was_decoded_is_the_same(name: str) -> None:
    codec = quantiser(name)
    codes = codec.encode(np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32))
    assert np.array_equal(codec.encode(codec.decode(codes)), codes)


@names
def test_zeros_stay_zeros(name: str) -> None:
    codec = quantiser(name)
    assert not codec.decode(codec.encode(np.zeros((2, 3), dtype=np.float32))).any()


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    codec = quantiser("bf16")
    values = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5]], dtype=np.float32)
    assert codec.decode(codec.encode(values))[0].tolist() == [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5]


def test_int8_scales_each_token_by_its_own_largest_number() -> None:
    codec = quantiser("int8")
    values = np.array([[127, -63.4, 1], [1.27, 0.01, 0]], dtype=np.float32)
    assert codec.decode(codec.encode(values)) == pytest.approx(np.array([[127, -63, 1], [1.27, 0.01, 0]]))


def test_quantiser_refuses_an_unknown_name() -> None:
    with pytest.raises(StoreError, match="bf16, int8"):
        quantiser("int3")
