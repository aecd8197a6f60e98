"""The benchmark of serving: sound figures of a tiny model, and an eye for what is wrong."""

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from serving import chat, on_a_port, opened
from tiny import script
from tiny_runs import saved_fwd2bot


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return script("benchmarks/serving.py")


def test_figures_of_a_tiny_model(
    benchmark: ModuleType, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    folder, out = saved_fwd2bot(tmp_path / "tiny", tiny_base), tmp_path / "results/serving.json"
    small = ["--answers", "4", "--rounds", "1", "--clients", "3", "--seconds", "2"]
    assert benchmark.main(["--model", str(folder), *small, "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    for one in result["batching"].values():
        assert one["ratio"] == pytest.approx(one["32_at_once_per_s"] / one["one_at_once_per_s"])
    load = result["load"]
    assert (load["clients"], load["wrong"], load["failed"]) == (3, [], [])
    assert load["answers"] >= 3
    assert 0 < load["p50_s"] <= load["p99_s"]


def test_what_is_wrong_refused_or_failed_is_counted(benchmark: ModuleType, tmp_path: Path) -> None:
    asked = benchmark.Request("/v1/chat/completions", chat("colour ?"), "red")
    untrue = benchmark.Request("/v1/chat/completions", chat("colour ?"), "blue")
    unknown = benchmark.Request("/album/caption", {"image": "none.png"}, "")
    with opened(tmp_path, queue=1) as served, on_a_port(served) as address:
        place = address.removeprefix("http://").split(":")

        def load_of(request: Any) -> Any:
            load = benchmark.Load()
            benchmark.client(place, [request], time.monotonic() + 0.2, 0, load)
            return load

        load = load_of(asked)
        assert load.seconds
        assert not load.wrong
        assert load_of(untrue).wrong[0][1:] == ("red", "blue")
        assert "There is no image 'none.png'" in load_of(unknown).failed[0]
        served.worker.queue = 0
        load = load_of(asked)
        assert (load.refused > 0, load.seconds) == (True, [])


def test_what_is_asked_for_is_the_whole_bundled_album(benchmark: ModuleType) -> None:
    pairs = benchmark.questions()
    assert len(pairs) == 224
    assert len({image for image, _ in pairs}) == 24


@pytest.mark.parametrize("option", ["--clients", "--answers", "--rounds", "--seconds"])
def test_nothing_to_do_is_one_line(benchmark: ModuleType, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert benchmark.main([option, "0"]) == 2
    assert capsys.readouterr().err == "fwd2bot: --clients, --rounds, --answers and --seconds must be at least 1.\n"
