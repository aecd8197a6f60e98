"""A guard of a file: what finds every changed byte in it, and gives small damage back.

The file is cut into blocks, each with its CRC-32. Block i belongs to group i mod G, and the exclusive or of a group's
blocks is kept: one damaged block of each group can be computed from the others, so that G blocks in a row can be lost.
A guard takes a 60th of a large file. Where every block is a group of its own, it is a copy.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
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
    plain: tuple[tuple[int, int], ...] = ()  # (begin, end) of bytes that need not be sound for the file to be read

    @classmethod
    def of(cls, root: Path, path: str, *, copy: bool = False, plain: Sequence[tuple[int, int]] = ()) -> "Guard":
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
        return cls(
            path=path, size=size, block=block, crcs=np.array(crcs, dtype="<u4"), parity=parity, plain=tuple(plain)
        )

    def to_bytes(self) -> bytes:
        head = {"path": self.path, "size": self.size, "block": self.block, "groups": len(self.parity)}
        sums = json.dumps({**head, "plain": self.plain}).encode() + b"\n" + self.crcs.tobytes()
        return b"".join(part + zlib.crc32(part).to_bytes(4, "little") for part in (sums, self.parity.tobytes()))

    @classmethod
    def read(cls, file: Path, *, parity: bool = True) -> "Guard":
        """Without parity, it finds but does not heal. Raises ValueError where the guard itself is damaged."""
        with file.open("rb") as opened:
            line = opened.readline()
            head = json.loads(line)
            count = -(-head["size"] // head["block"])
            sums = opened.read(4 * count)
            _check(line + sums, opened.read(4))
            content = opened.read() if parity else b""
        if parity:
            _check(content[:-4], content[-4:])
        groups = np.frombuffer(content[:-4], dtype=np.uint8).reshape(-1, head["block"])
        plain = tuple((begin, end) for begin, end in head["plain"])
        crcs = np.frombuffer(sums, dtype="<u4")
        return cls(path=head["path"], size=head["size"], block=head["block"], crcs=crcs, parity=groups, plain=plain)

    def can_be_read(self, root: Path) -> bool:
        """Whether the file has its length, and all its bytes but the plain ones are as they were."""
        file = root / self.path
        if not file.exists() or file.stat().st_size != self.size:
            return False
        with file.open("rb") as opened:
            for number in self.blocks_of_form():
                opened.seek(number * self.block)
                content = opened.read(min(self.block, self.size - number * self.block))
                if zlib.crc32(content.ljust(self.block, b"\0")) != self.crcs[number]:
                    return False
        return True

    def blocks_of_form(self) -> list[int]:
        """The blocks that are not plain bytes alone."""
        form = np.ones(len(self.crcs), dtype=bool)
        for begin, end in self.plain:
            form[-(-begin // self.block) : end // self.block] = False
        return np.flatnonzero(form).tolist()

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


def _check(content: bytes, crc: bytes) -> None:
    if zlib.crc32(content) != int.from_bytes(crc, "little") or len(crc) != 4:
        raise ValueError("its check does not fit")


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
