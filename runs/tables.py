"""Which cells a table of docs/results.md needs. runs/tab1.py and the others run them."""

import sys
from dataclasses import dataclass

from cells import EACH, GRID, main

UNDERSTANDING = (
    "identity",
    "fwd2bot-32", "fwd2bot-16", "fwd2bot-4", "fwd2bot-prefix",
    "matryoshka_multimodal", "matryoshka_query",
    *(f"{name}-{count}" for count in GRID for name in EACH),
    "compress_only-16", "compress_only-4",
)  # fmt: skip
RETRIEVAL = ("fwd2bot-32", "fwd2bot-16", "fwd2bot-4", "fwd2bot-prefix", "single_forward-16", "compress_only-16")


@dataclass(frozen=True)
class Table:
    """A table of the paper: what it is about here, its cells, the columns that are read, how many seeds."""

    title: str
    cells: tuple[str, ...]
    columns: str
    seeds: int = 1


TABLES: dict[int, Table] = {
    1: Table("Questions, by method and number of tokens", UNDERSTANDING, "questions"),
    2: Table("Captions, by method and number of tokens", UNDERSTANDING, "captions"),
    3: Table("Retrieval", RETRIEVAL, "retrieval"),
    4: Table("Compositions (SugarCrepe's seven kinds)", RETRIEVAL, "compositions"),
    5: Table("Losses", ("discriminative", "generative", "fwd2bot-16"), "both", seeds=3),
    6: Table("Adapters", ("full_fine_tuning", "single_lora", "fwd2bot-16"), "both", seeds=3),
    7: Table("Double against single forward", ("single_forward-16", "fwd2bot-16"), "both", seeds=3),
    12: Table("Attention in pass 1", ("bidirectional", "fwd2bot-16"), "both", seeds=3),
    13: Table("Start", ("from_language_model", "fwd2bot-16"), "both", seeds=3),
}
"""By the paper's number. Tables 9, 10 and 11 are columns of 3, 4 and 2 here; 8 wants a base twice the size."""


def run(number: int) -> None:
    """Make what the table lacks."""
    table = TABLES[number]
    sys.exit(main([*table.cells, "--seeds", str(table.seeds)]))
