"""Generated parts of a document: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

import re
from pathlib import Path


def read_section(document: Path, name: str) -> str:
    """The text between the markers, without the lines around it. Raises ValueError where there is no such section."""
    return _match(document.read_text(encoding="utf-8"), document, name)[2].strip("\n")


def write_section(document: Path, name: str, text: str) -> None:
    """Put other text between the markers. Raises ValueError where there is no such section."""
    old = document.read_text(encoding="utf-8")
    found = _match(old, document, name)
    body = f"{found[1]}\n\n{text.strip()}\n\n{found[3]}" if text.strip() else f"{found[1]}\n{found[3]}"
    document.write_text(old[: found.start()] + body + old[found.end() :], encoding="utf-8")


def _match(text: str, document: Path, name: str) -> "re.Match[str]":
    pattern = rf"(<!-- {re.escape(name)}:begin -->)(.*?)(<!-- {re.escape(name)}:end -->)"
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        raise ValueError(f"{document} has no section {name!r}: write <!-- {name}:begin --> and <!-- {name}:end -->")
    return found
