"""The official tokeniser and METEOR: two Java programs that come with pycocoevalcap, which alone is known here.

Its Python wrappers write into their own folder, so the programs are run directly. Source: pycocoevalcap 1.2.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from fwd2bot.errors import InputError
from fwd2bot.evaluation.ptb import LEFT_OUT

_TOKENISER = "tokenizer/stanford-corenlp-3.4.1.jar"
_METEOR = "meteor/meteor-1.5.jar"
_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def why_not() -> str | None:
    """What must be installed before the programs can run; None: they can."""
    if find_spec("pycocoevalcap") is None:
        return "pycocoevalcap is not installed (pip install 'fwd2bot[captions]')"
    if shutil.which("java") is None:
        return "Java is not installed"
    return None


def official_tokens(captions: Sequence[str]) -> list[list[str]]:
    """Captions as the official scorer cuts them, punctuation left out. Raises InputError where Java fails."""
    command = ["-cp", _jar(_TOKENISER), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = "".join(_BREAKS.sub(" ", caption) + "\n" for caption in captions)
    with _java(command) as process:
        out, _ = process.communicate(lines)
    cut = out.split("\n")[: len(captions)]
    if process.returncode or len(cut) < len(captions):
        raise InputError(f"The tokeniser of pycocoevalcap failed: try `java {' '.join(command)}`.")
    return [[token for token in line.split() if token not in LEFT_OUT] for line in cut]


def meteor(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """METEOR 1.5 of the whole corpus, 0 to 1, from its own statistics. Raises InputError where Java fails."""
    command = ["-Xmx2G", "-jar", _jar(_METEOR), "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        with _java(command) as process:
            assert process.stdin is not None, "a pipe"
            assert process.stdout is not None, "a pipe"
            told = [
                _ask(process.stdin, process.stdout, ["SCORE", *map(_line, own), _line(caption)])
                for caption, own in zip(captions, references, strict=True)
            ]
            _ask(process.stdin, process.stdout, ["EVAL", *told])
            for _ in told[1:]:
                process.stdout.readline()  # the images' own scores
            return float(process.stdout.readline())
    except (OSError, ValueError) as error:
        raise InputError(f"METEOR of pycocoevalcap failed: try `java {' '.join(command)}`.") from error


def _ask(to: IO[str], back: IO[str], parts: Sequence[str]) -> str:
    to.write(" ||| ".join(parts) + "\n")
    to.flush()
    return back.readline().strip()


def _line(tokens: Sequence[str]) -> str:
    return " ".join(tokens).replace("|||", "")


def _java(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["java", "-Dfile.encoding=UTF-8", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",  # half of a surrogate pair is no character
    )


def _jar(name: str) -> str:
    spec = find_spec("pycocoevalcap")
    assert spec is not None, "ask why_not first"
    assert spec.submodule_search_locations, "it is a package"
    return str(Path(spec.submodule_search_locations[0]) / name)
