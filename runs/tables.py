"""Which cells a table of docs/results.md needs. runs/tab1.py and the others run them; all in one command:

    python runs/tables.py

One training of every cell comes first, those of 36 tokens after the others; then the further seeds, last the base of
Table 8. Killed and started again, it goes on; started twice with OMP_NUM_THREADS=1, two cores need two thirds of the
time.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from cells import BOTH_WAYS, EACH, GRID, UNTRAINED, make_all

UNDERSTANDING = (
    "base", "identity",
    "fwd2bot-32", "fwd2bot-16", "fwd2bot-4", "fwd2bot-prefix",
    "matryoshka_multimodal", "matryoshka_query",
    *(f"{name}-{count}" for count in GRID for name in (*EACH, *UNTRAINED, *(f"{one}_untrained" for one in BOTH_WAYS))),
    "single_forward-16", "compress_only-16", "compress_only-4", "average_pool_unscaled-16",
)  # fmt: skip
RETRIEVAL = (
    "clip", "identity", "e5v", "vlm2vec",
    "fwd2bot-32", "fwd2bot-16", "fwd2bot-4", "fwd2bot-prefix", "single_forward-16", "compress_only-16",
)  # fmt: skip
ONE_WORD = ("identity", "prumerge-16", "matryoshka_multimodal", "matryoshka_query", "fwd2bot-16")
SIGNS = (
    "identity",
    "prumerge-36",
    "matryoshka_multimodal",
    "matryoshka_query",
    "fwd2bot-32",
    "fwd2bot-16",
    "fwd2bot-4",
)
CLAIMS = (
    "identity", "fwd2bot-16", "fwd2bot-4", "average_pool-16", "average_pool-4", "token_packer-16", "token_packer-4",
    "matryoshka_query", "e5v", "vlm2vec",
)  # fmt: skip
"""Cells of several seeds in every table: Fwd2Bot, and who may beat it."""
SEEDS = 3


@dataclass(frozen=True)
class Table:
    """A table of the paper: what it is about here, its cells, the columns that are read; all: every cell has SEEDS."""

    title: str
    cells: tuple[str, ...]
    columns: str
    all: bool = False

    def jobs(self) -> Iterator[tuple[str, int]]:
        """Cells with their seeds, the first seed of all before the second of any."""
        for seed in range(SEEDS):
            yield from ((cell, seed) for cell in self.cells if seed == 0 or self.all or cell in CLAIMS)


TABLES: dict[int, Table] = {
    1: Table("Questions, by method and number of tokens", UNDERSTANDING, "questions"),
    2: Table("Captions, by method and number of tokens", UNDERSTANDING, "captions"),
    3: Table("Retrieval", RETRIEVAL, "retrieval"),
    4: Table("Compositions (SugarCrepe's seven kinds)", RETRIEVAL, "compositions"),
    5: Table("Losses", ("discriminative", "generative", "fwd2bot-16"), "both", all=True),
    6: Table("Adapters", ("full_fine_tuning", "single_lora", "fwd2bot-16"), "both", all=True),
    7: Table("Double against single forward", ("single_forward-16", "fwd2bot-16"), "both", all=True),
    8: Table(
        "A language model of twice the size",
        ("larger_identity", "larger_fwd2bot-32", "larger_fwd2bot-16", "larger_fwd2bot-4"),
        "larger",
    ),
    9: Table("Retrieval of compressors that are asked for one word", ONE_WORD, "retrieval"),
    10: Table("Compositions of compressors that are asked for one word", ONE_WORD, "compositions"),
    11: Table("Captions of pictures with a sign to read", SIGNS, "signs"),
    12: Table("Attention in pass 1", ("bidirectional", "fwd2bot-16"), "both", all=True),
    13: Table("Start", ("from_language_model", "fwd2bot-16"), "both", all=True),
}
"""By the paper's number."""


def run(number: int) -> None:
    """Make what the table lacks."""
    table = TABLES[number]
    argparse.ArgumentParser(description=f"Table {number}, {table.title}: makes the cells that it lacks.").parse_args()
    sys.exit(make_all(table.jobs()))


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    jobs = [(cell, seed, number) for number, table in TABLES.items() for cell, seed in table.jobs()]
    jobs.sort(key=lambda job: (job[2] == 8, job[1], job[0].endswith("-36")))
    return make_all(job[:2] for job in jobs)


if __name__ == "__main__":
    sys.exit(main())
