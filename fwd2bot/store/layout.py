"""Which bytes of a data file are plain numbers, and which tell Lance how to read it.

A changed number is found when its row is held against its checks. A changed byte elsewhere might make Lance ask for
more memory than there is, which ends the process: such bytes must be sound before Lance sees them.
"""

import re
from pathlib import Path

from lance.file import LanceFileReader

_PLAIN = re.compile(
    r"FullZipLayout \{ bits_rep: 0, bits_def: 0, num_items: (\d+), .*Flat \{ bits_per_value: \d+, data: None, \}"
    r".*BitsPerValue\( (\d+), \)"
)


def plain_ranges(file: Path) -> list[tuple[int, int]]:
    """(begin, end) of a data file's buffers that hold values one after the other, and nothing else."""
    found = []
    for column in LanceFileReader(str(file.absolute())).metadata().columns:
        for page in column.pages:
            match = _PLAIN.search(" ".join(page.encoding.split()))
            if match is None or len(page.buffers) != 1:
                continue
            [buffer] = page.buffers
            if buffer.size * 8 == int(match[1]) * int(match[2]):
                found.append((int(buffer.position), int(buffer.position + buffer.size)))
    return found
