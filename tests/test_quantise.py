"""Quantisers: what comes back, how many bytes it takes, and that each token stands alone."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fwd2bot.errors import StoreError
from fwd2bot.store.quantise import QUANTISERS, Floats, quantiser
from fwd2bot.store.rotate import rotate, rotate_back

names = pytest.mark.parametrize("name", QUANTISERS)
tokens = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9).map(lambda eighths: 8 * eighths)),
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
    assert not codec.decode(codec.encode(np.zeros((2, 8), dtype=np.float32))).any()


@names
def test_a_token_decodes_alone_as_among_others(name: str) -> None:
    codec = quantiser(name)
    codes = codec.encode(np.random.default_rng(1).standard_normal((33, 5, 96)).astype(np.float32))
    whole = codec.decode(codes)
    assert whole.shape == (33, 5, 96)
    assert np.array_equal(whole[7, 2], codec.decode(codes[7, 2]))


@names
def test_signs_are_those_of_the_rotated_numbers(name: str) -> None:
    codec = quantiser(name)
    vectors = np.random.default_rng(2).standard_normal((50, 64)).astype(np.float32)
    bits = np.unpackbits(codec.signs(codec.encode(vectors)), axis=-1).astype(bool)
    rotated = rotate(vectors)
    clear = np.abs(rotated) > 0.05
    assert np.array_equal(bits[clear], (rotated > 0)[clear])


@pytest.mark.parametrize(("name", "lost"), [("int4", 0.0095), ("int2", 0.1175), ("binary", 0.3634)])
def test_spherical_loses_what_the_best_levels_lose_of_a_normal_distribution(name: str, lost: float) -> None:
    """Also where some channels are ten times the others. Max (1960), Table I: mean squared error."""
    codec = quantiser(name)
    tokens = np.random.default_rng(3).standard_normal((200, 256)).astype(np.float32)
    tokens[:, ::8] *= 10
    back = codec.decode(codec.encode(tokens))
    direction = (back * tokens).sum(axis=1) / np.linalg.norm(back, axis=1) / np.linalg.norm(tokens, axis=1)
    assert 1 - np.square(direction).mean() == pytest.approx(lost, rel=0.1)  # the angle: the norm is kept beside it
    assert np.linalg.norm(back, axis=1) == pytest.approx(np.linalg.norm(tokens, axis=1), rel=2**-8)


def test_binary_keeps_the_signs_of_the_rotated_token_and_its_norm() -> None:
    codec = quantiser("binary")
    token = np.array([[3, -1, 2, 5, -4.5, 1, 1.25, -7]], dtype=np.float32)
    expected = rotate_back(np.sign(rotate(token))) * np.float32(10.5 / 8**0.5)  # 110.8 ** 0.5 in bfloat16
    assert codec.decode(codec.encode(token)) == pytest.approx(expected, rel=1e-6)


def test_spherical_refuses_a_width_that_does_not_fill_bytes() -> None:
    assert quantiser("int4").token_bytes(6) == 5
    with pytest.raises(StoreError, match="Tokens of 6 numbers cannot be kept as int2, which packs 4 into a byte"):
        quantiser("int2").token_bytes(6)


# The rotation.


@pytest.mark.parametrize("width", [1, 6, 8, 96, 256])
def test_rotation_keeps_dot_products_and_turns_back(width: int) -> None:
    left, right = np.random.default_rng(4).standard_normal((2, 5, width)).astype(np.float32)
    assert rotate(left) @ rotate(right).T == pytest.approx(left @ right.T, abs=1e-4)
    assert rotate_back(rotate(left)) == pytest.approx(left, abs=1e-5)


def test_rotation_is_this_one_for_ever() -> None:
    """Signs of SHAKE-256 of "fwd2bot", then Hadamard's matrix: a change makes every store unreadable."""
    signs = 1 - 2.0 * np.unpackbits(np.frombuffer(hashlib.shake_256(b"fwd2bot").digest(1), dtype=np.uint8))
    matrix = np.array([[1, 1], [1, -1]])
    hadamard = np.kron(matrix, matrix) / 2
    token = np.array([1.0, 2.0, -3.0, 0.5, 4.0, -1.0], dtype=np.float32)
    assert rotate(token[:4]) == pytest.approx(hadamard @ (token[:4] * signs[:4]))
    once = np.concatenate([token[:2], hadamard @ (token[2:] * signs[:4])])
    assert rotate(token) == pytest.approx(np.concatenate([hadamard @ (once[:4] * signs[4:]), once[4:]]))


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
