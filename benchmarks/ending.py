"""How every benchmark ends: what people read, then one line of JSON; with --out, the JSON in a file, too."""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fwd2bot.provenance import provenance


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON there")


def end(options: argparse.Namespace, figures: dict[str, Any], told: Callable[[dict[str, Any]], str]) -> None:
    """Prints and writes the figures, with the date, the commit, the command and the machine; `told` is for people."""
    result = {"date": datetime.now(UTC).date().isoformat(), **provenance(), **figures}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not options.json:
        print(told(result))
    print(json.dumps(result))
