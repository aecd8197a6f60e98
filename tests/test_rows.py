"""The script of bytes against answers, and the benchmark of large stores: small runs tell sound figures."""

import json
from pathlib import Path

import pytest
import rows
import torch
from tiny import script
from tiny_runs import saved_fwd2bot

from fwd2bot.store.quantise import QUANTISERS


def test_rows_of_a_tiny_model(tiny_base: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder, out = saved_fwd2bot(tmp_path / "tiny", tiny_base), tmp_path / "rows.json"
    assert rows.main(["--model", str(folder), "--scenes", "2", "--gallery", "4", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["figures"]) == ["float32", *QUANTISERS]
    assert result["figures"]["int2"]["token_bytes_7B"] == 16 * (2 + 4096 // 4)
    assert result["files"]["thumbnail"] < result["files"]["JPEG"] < result["files"]["PNG"]
    assert set(result["defaults"]) == {"token", "vector"}


def test_smallest_that_loses_little_is_the_default() -> None:
    whole = {"answers": 90.0, "text_to_image": 70.0, "image_to_text": 80.0}
    found = {"float32": whole}
    for name, lost, size in (("bf16", 0, 5), ("int8", 0, 4), ("int4", 0.4, 3), ("int2", 0.6, 2), ("binary", 9, 1)):
        found[name] = {key: value - lost for key, value in whole.items()}
        found[name] |= {"token_bytes_bundled": size, "vector_bytes_bundled": size}
    assert rows.defaults(found) == {"token": "int4", "vector": "int4"}
    found["int2"] |= {"answers": 89.5, "text_to_image": 69.6}  # image to text still lost more
    assert rows.defaults(found) == {"token": "int2", "vector": "int4"}


def test_benchmark_of_a_small_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark, out = script("benchmarks/store.py"), tmp_path / "result.json"
    assert benchmark.main(["--rows", "300", "--folder", str(tmp_path), "--out", str(out)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result == json.loads(out.read_text())
    [size] = result["sizes"]
    assert (size["rows"], size["recall"]) == (300, 1.0)
    assert 1.0 < size["disk_ratio"] < 2.0
    assert all(value > 0 for value in size.values())


def test_queries_of_the_benchmark_are_near_their_rows() -> None:
    benchmark = script("benchmarks/store.py")
    vectors, queries = benchmark.vectors(0, 512), benchmark.queries(512, 20)
    cosines = (vectors @ queries.T).max(axis=0)
    assert 0.6 < cosines.mean() < 0.85
    assert (vectors == benchmark.vectors(0, 600)[:512]).all()
