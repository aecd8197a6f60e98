"""Rows as Arrow tables: the columns of a store."""

import time

import numpy as np
import pyarrow as pa

from fwd2bot.store import check
from fwd2bot.store.names import path_text
from fwd2bot.store.rows import Header, Row

HEADER_KEY = b"fwd2bot"
New = tuple[Row, dict[str, str]]  # a row that comes in, and its names with their paths


def schema(header: Header, *, checked: bool = True) -> pa.Schema:
    size = header.num_tokens * header.quantiser.token_bytes(header.width)
    fields: list[tuple[str, pa.DataType]] = [
        ("hash", pa.binary(32)),
        ("names", pa.list_(pa.string())),
        ("paths", pa.list_(pa.string())),  # as many as names: where each was when it was compressed
        ("file_bytes", pa.int64()),
        ("modified", pa.int64()),  # of the file, in seconds since 1970
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("tokens", pa.binary(size)),  # token by token, as the quantiser writes one
        ("vector", pa.binary(header.vector_quantiser.token_bytes(header.width))),
        ("time", pa.int64()),  # of the commit, in seconds since 1970
    ]
    if checked:
        fields += [(part, pa.uint64()) for part in check.PARTS]
    return pa.schema(fields, metadata={HEADER_KEY: header.to_json().encode()})


def table_of(header: Header, new: list[New]) -> pa.Table:
    """Rows that come in, encoded, with their checks."""
    tokens = np.zeros((len(new), header.num_tokens, header.width), dtype=np.float32)
    vectors = np.zeros((len(new), header.width), dtype=np.float32)
    for place, (row, _) in enumerate(new):
        tokens[place], vectors[place] = row.tokens, row.vector
    columns = {
        "hash": [bytes.fromhex(row.hash) for row, _ in new],
        "names": [list(names) for _, names in new],
        "paths": [list(map(path_text, names.values())) for _, names in new],
        "file_bytes": [row.file_bytes for row, _ in new],
        "modified": [row.modified for row, _ in new],
        "width": [row.width for row, _ in new],
        "height": [row.height for row, _ in new],
        "tokens": [codes.tobytes() for codes in header.quantiser.encode(tokens)],
        "vector": [codes.tobytes() for codes in header.vector_quantiser.encode(vectors)],
        "time": [int(time.time())] * len(new),
    }
    return with_checks(pa.table(columns, schema=schema(header, checked=False)))


def under_names(table: pa.Table, names: list[dict[str, str]]) -> pa.Table:
    """Rows, whole and sound, under other names with their paths."""
    table = table.drop_columns(list(check.PARTS))
    for column, values in (
        ("names", [list(one) for one in names]),
        ("paths", [list(map(path_text, one.values())) for one in names]),
    ):
        field = table.schema.field(column)
        table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    return with_checks(table)


def with_checks(table: pa.Table) -> pa.Table:
    """The table with a check for each part of its rows."""
    for part in check.PARTS:
        table = table.append_column(part, pa.array(check.checks(table, part), pa.uint64()))
    return table
