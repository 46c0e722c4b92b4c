"""benchmarks/gpu.py runs from its options to its rows; what it measures is for a GPU to say."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import contenders, gpu


class Here:
    """A contender in this process."""

    def __init__(
        self, name: str, python: Path, module: Path, sizes: dict[str, Any], threads: int
    ) -> None:
        assert module == Path(contenders.__file__)
        self.name, self.peak_mib = name, 1.0
        self.seconds: list[float] = []
        self._run = contenders.CONTENDERS[name](sizes)

    def turn(self, n: int, *, keep: bool) -> None:
        begun = time.perf_counter()
        self._run(n)
        if keep:
            self.seconds.append((time.perf_counter() - begun) / n)

    def close(self) -> None:
        pass


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("recipe", ["topk", "matryoshka"])
def test_its_rows(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "Contender", Here)
    monkeypatch.setattr(contenders, "N_DIRECTIONS", 64)
    told = ["gpu.py", "--device", "cpu", "--tiny", "--no-peers", "--recipe", recipe]
    monkeypatch.setattr("sys.argv", [*told, "--out", str(tmp_path / "gpu.csv")])
    gpu.main()
    printed = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["contender"] for row in rows] == [gpu.FLOOR, *gpu.OURS]
    assert rows[0]["times_encoder_bf16"] == "1.0"
    for row in rows:
        assert row["device"] and row["recipe"] == recipe and row["d_sae"] == "64"
        assert float(row["ms_p10"]) <= float(row["ms_p50"]) <= float(row["ms_p90"])
        assert float(row["peak_mib"]) > 0
    with (tmp_path / "gpu.csv").open(newline="") as written:
        assert list(csv.DictReader(written)) == rows


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA device here"):
        gpu.main()


def test_peers_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.peers_here(tmp_path / ".venv-peers" / "bin" / "python") == []
    said = capsys.readouterr().err
    assert "saelens is left out" in said and "sparsify is left out" in said
