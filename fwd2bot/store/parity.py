"""A guard of a file: what finds every changed byte in it, and gives small damage back.

The file is cut into blocks, each with its CRC-32. Block i belongs to group i mod G, and the exclusive or of a group's
blocks is kept: one damaged block of each group can be computed from the others, so that G blocks in a row can be lost.
A guard takes a 40th of a large file. Where every block is a group of its own, it is a copy.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
LARGEST_BLOCK = 4096  # what disks lose at once
SHARE = 64  # blocks of a group in a large file
FEWEST_GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Of the file at `path` below the store's folder."""

    path: str
    size: int
    block: int
    crcs: NDArray[np.uint32]
    parity: Bytes  # (groups, block)

    @classmethod
    def of(cls, root: Path, path: str, *, copy: bool = False) -> "Guard":
        """Of the file as it is now. Raises OSError where it cannot be read."""
        size = (root / path).stat().st_size
        block = LARGEST_BLOCK
        while block > 64 and block * SHARE > size:
            block //= 2
        count = -(-size // block)
        groups = count if copy else min(count, max(FEWEST_GROUPS, -(-count // SHARE)))
        crcs: list[int] = []
        parity = np.zeros((groups, block), dtype=np.uint8)
        with (root / path).open("rb") as file:
            for stripe in _stripes(file, size, parity.shape):
                parity[: len(stripe)] ^= stripe
                crcs += [zlib.crc32(one) for one in stripe]
        return cls(path=path, size=size, block=block, crcs=np.array(crcs, dtype="<u4"), parity=parity)

    def to_bytes(self) -> bytes:
        head = {"path": self.path, "size": self.size, "block": self.block, "groups": len(self.parity)}
        content = json.dumps(head).encode() + b"\n" + self.crcs.tobytes() + self.parity.tobytes()
        return content + zlib.crc32(content).to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, content: bytes) -> "Guard":
        """Raises ValueError where the guard itself is damaged."""
        body, crc = content[:-4], content[-4:]
        if zlib.crc32(body) != int.from_bytes(crc, "little"):
            raise ValueError("its check does not fit")
        text, _, rest = body.partition(b"\n")
        head = json.loads(text)
        block, count = head["block"], -(-head["size"] // head["block"])
        crcs = np.frombuffer(rest[: 4 * count], dtype="<u4")
        parity = np.frombuffer(rest[4 * count :], dtype=np.uint8).reshape(head["groups"], block)
        return cls(path=head["path"], size=head["size"], block=block, crcs=crcs, parity=parity)

    def damaged(self, root: Path) -> list[int]:
        """Blocks of the file that are not as they were (all where it is gone); [-1] where only its end has more."""
        file_size, bad = 0, []
        with _opened(root / self.path) as file:
            file_size = file.seek(0, 2)
            file.seek(0)
            for number, stripe in enumerate(_stripes(file, self.size, self.parity.shape)):
                first = number * len(self.parity)
                found = [zlib.crc32(one) for one in stripe]
                bad += [first + i for i, crc in enumerate(found) if crc != self.crcs[first + i]]
        cut = range(file_size // self.block, len(self.crcs)) if file_size < self.size else range(0)
        return sorted({*bad, *cut}) or ([-1] if file_size != self.size else [])

    def heal(self, root: Path, bad: list[int], target: Path) -> bool:
        """Writes the file as it was. False, and nothing is left, where two bad blocks are of one group."""
        bad = [block for block in bad if block >= 0]
        if len({block % len(self.parity) for block in bad}) < len(bad):
            return False
        missing = self.parity.copy()
        with _opened(root / self.path) as file, target.open("wb") as healed:
            for number, stripe in enumerate(_stripes(file, self.size, self.parity.shape)):
                lost = [block % len(self.parity) for block in bad if block // len(self.parity) == number]
                stripe[lost] = 0
                missing[: len(stripe)] ^= stripe
                healed.write(stripe.tobytes())
            for block in bad:
                healed.seek(block * self.block)
                healed.write(missing[block % len(self.parity)].tobytes())
            healed.truncate(self.size)
        if self.damaged_at(target):
            target.unlink()
            return False
        return True

    def damaged_at(self, file: Path) -> list[int]:
        """`damaged` of a file that lies elsewhere."""
        return Guard(**{**vars(self), "path": file.name}).damaged(file.parent)


def _opened(path: Path) -> BinaryIO:
    return path.open("rb") if path.exists() else BytesIO()


def _stripes(file: BinaryIO, size: int, shape: tuple[int, ...]) -> Iterator[Bytes]:
    """(<= groups, block) at a time, as many blocks as `size` has; 0 where there is nothing, and behind the end."""
    groups, block = shape
    count = -(-size // block)
    for first in range(0, count, max(groups, 1)):
        blocks = min(groups, count - first)
        wanted = min(blocks * block, size - first * block)
        stripe = np.zeros((blocks, block), dtype=np.uint8)
        content = np.frombuffer(file.read(wanted), dtype=np.uint8)
        stripe.reshape(-1)[: len(content)] = content
        yield stripe
