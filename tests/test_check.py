"""A row's checks find what was changed, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from store_rows import TOKENS, WIDTH, make_row, new_store

from fwd2bot.store import check

TEXTS = pa.list_(pa.string())


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    columns = {
        "hash": pa.binary(32), "names": TEXTS, "paths": TEXTS, "file_bytes": pa.int64(), "modified": pa.int64(),
        "width": pa.int32(), "height": pa.int32(), "time": pa.int64(), "tokens": pa.binary(13),
        "vector": pa.list_(pa.float32(), 3),
    }  # fmt: skip
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in columns.items()})


def plain_row(number: int = 0, **changes: object) -> dict[str, object]:
    values = {
        "hash": bytes([number]) * 32, "names": ["a", "b"], "paths": ["x/a", "y/b"], "file_bytes": 7, "modified": 8,
        "width": 9, "height": 10, "time": 11, "tokens": bytes(range(13)), "vector": [1.0, -2.0, 0.5],
    }  # fmt: skip
    return {**values, **changes}


CHANGED = [
    ("check", {"hash": b"\x01" + bytes(31)}),
    ("check", {"names": ["a"], "paths": ["b", "x/a", "y/b"]}),
    ("check", {"names": ["b", "a"]}),
    ("check", {"width": 10, "height": 9}),
    ("check", {"time": 12}),
    ("tokens_check", {"tokens": bytes(range(12)) + b"\x0d"}),
    ("tokens_check", {"hash": b"\x01" + bytes(31)}),
    ("vector_check", {"vector": [1.0, -2.0, -0.5]}),
    ("vector_check", {"vector": [-2.0, 1.0, 0.5]}),
    ("vector_check", {"hash": b"\x01" + bytes(31)}),
]


@pytest.mark.parametrize(("part", "changes"), CHANGED)
def test_checks_change_with_any_value_of_their_part(part, changes):
    before, after = (checks[0] for checks in (check.checks(table_of([plain_row(**c)]), part) for c in ({}, changes)))
    assert before != after


def test_checks_find_every_flipped_bit_of_the_tokens():
    tokens = bytes(range(13))
    flipped = [
        bytes(byte ^ (1 << bit) if place == at else byte for place, byte in enumerate(tokens))
        for at in range(13)
        for bit in range(8)
    ]
    rows = [plain_row(tokens=content) for content in (tokens, *flipped)]
    assert len(set(check.checks(table_of(rows), "tokens_check").tolist())) == 105


def test_checks_of_a_row_do_not_depend_on_the_others():
    table = table_of([plain_row(number, width=number) for number in range(50)])
    for part in check.PARTS:
        assert np.array_equal(check.checks(table.slice(17, 9), part), check.checks(table, part)[17:26])


def test_a_hole_of_zeros_is_no_sound_row():
    empty = plain_row(hash=bytes(32), tokens=bytes(13), vector=[0.0] * 3)
    table = table_of([empty]).append_column("tokens_check", pa.array([0], pa.uint64()))
    assert not check.sound(table, ["tokens_check"])[0]


@pytest.mark.parametrize(("part", "column"), [("tokens_check", "tokens"), ("vector_check", "vector")])
def test_a_value_that_is_missing_is_refused(part, column):
    with pytest.raises(ValueError, match="missing"):
        check.checks(table_of([plain_row(**{column: None})]), part)


def test_rows_of_a_store_are_sound_until_one_value_is_another(tmp_path):
    store = new_store(tmp_path / "s")
    store.add([make_row("a"), make_row("b")])
    table = store._dataset.to_table()
    assert check.sound(table, check.PARTS).all()
    first, second = table["vector"].to_pylist()
    at = table.schema.get_field_index("vector")
    vectors = pa.array([first, bytes([second[0] ^ 1]) + second[1:]], table["vector"].type)
    assert check.sound(table.set_column(at, "vector", vectors), check.PARTS).tolist() == [True, False]
    assert table["tokens"].type.byte_width == TOKENS * (WIDTH // 4 + 2)
