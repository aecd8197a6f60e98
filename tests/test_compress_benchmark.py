"""The benchmark of compressing tells a model that waits for pictures from one that does not."""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny import script

from fwd2bot import ingest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return script("benchmarks/compress.py")


def figures(benchmark: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert benchmark.main(["--model", str(folder), "--images", "64", "--side", "32", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_shares_are_parts_of_the_time(
    benchmark: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results/compress.json"
    arguments = ["--model", str(folder), "--images", "3", "--side", "32", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result == json.loads(out.read_text())
    assert all(0 < result[name] < 1 for name in ("model", "prepare", "write"))
    assert (result["images"], result["side"]) == (3, 32)
    assert lines[1].startswith("of the time the model works")


def test_a_model_slower_than_its_files_works_nearly_always(
    benchmark: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, compress = ingest.read_file, benchmark.Fwd2Bot.compress
    delays = {"file": 0.01, "image": 0.0}

    def slow_read(*given: Any, **options: Any) -> Any:
        time.sleep(delays["file"])
        return read(*given, **options)

    def slow_compress(model: Any, images: Any, *given: Any, **options: Any) -> Any:
        time.sleep(delays["image"] * len(images))
        return compress(model, images, *given, **options)

    monkeypatch.setattr(ingest, "read_file", slow_read)
    monkeypatch.setattr(benchmark.Fwd2Bot, "compress", slow_compress)
    waiting = figures(benchmark, folder, capsys)
    delays["image"] = 0.05
    working = figures(benchmark, folder, capsys)
    assert waiting["model"] < 0.5
    assert working["model"] > 1.5 * waiting["model"]


@pytest.mark.parametrize("option", ["--images", "--side"])
def test_nothing_to_do_is_one_line(benchmark: ModuleType, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert benchmark.main([option, "0"]) == 2
    assert capsys.readouterr().err == "fwd2bot: --images and --side must be at least 1.\n"
