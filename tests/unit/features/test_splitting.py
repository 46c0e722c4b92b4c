"""Planted families: a parent that is split, one that is kept, and a latent that has no parent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from monoscope.errors import ConfigError
from monoscope.features import splitting as module
from monoscope.features.splitting import splitting
from monoscope.sae import SAE, SAEConfig

D = 6


@dataclass
class Rows:
    acts: Tensor


class Store:
    """Tokens of three kinds: two uses of the first direction, and one of the second."""

    def __init__(self, n: int = 400) -> None:
        draw = torch.Generator().manual_seed(0)
        self.kind = torch.randint(0, 4, (n,), generator=draw)
        self.x = KINDS[self.kind] * 3

    def batches(self, split: str, size: int) -> Any:
        assert split == "train"
        return (Rows(part) for part in self.x.split(size))


E = torch.eye(D)
TILT = 0.5  # how far the two uses of a direction lie apart
USE_A, USE_B = E[0] + TILT * E[2], E[0] - TILT * E[2]
KINDS = torch.stack([USE_A, USE_B, E[1], torch.zeros(D)])


def sae(rows: list[Tensor], bias: float) -> SAE:
    made = SAE(SAEConfig(d_in=D, d_sae=len(rows), activation="relu", k=None))
    with torch.no_grad():
        unit = torch.nn.functional.normalize(torch.stack(rows), dim=1)
        made.W_dec.copy_(unit)
        made.W_enc.copy_(unit)
        made.b_enc.fill_(bias)
    return made


@pytest.fixture(autouse=True)
def _no_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_together", lambda *of: None)
    monkeypatch.setattr(module, "TILE_TOKENS", 37)


def test_a_split_parent_has_two_children_and_a_kept_one_has_one(tmp_path: Path) -> None:
    small = sae([E[1], E[5], E[0]], bias=-1.0)  # 1 never fires
    large = sae([USE_A, E[1], E[4], USE_B], bias=-2.5)  # 2 never fires
    store = Store()
    table = splitting(small, large, store, out=tmp_path / "splitting.parquet")  # type: ignore[arg-type]
    assert pq.read_table(tmp_path / "splitting.parquet").equals(table)
    rows = {row["child"]: row for row in table.to_pylist()}
    assert sorted(rows) == [0, 1, 3]
    assert [rows[child]["parent"] for child in (0, 1, 3)] == [2, 0, 2]
    assert [rows[child]["parent_by_firing"] for child in (0, 1, 3)] == [2, 0, 2]
    assert [rows[child]["n_siblings"] for child in (0, 1, 3)] == [2, 1, 2]
    count = torch.bincount(store.kind, minlength=4)
    a, b, n = int(count[0]), int(count[1]), len(store.kind)
    row = rows[0]
    assert (row["n_child"], row["n_parent"], row["n_both"]) == (a, a + b, a)
    assert row["cosine"] == pytest.approx(1 / np.sqrt(1 + TILT**2))
    assert row["parent_given_child"] == 1.0
    assert row["contingency"] == pytest.approx(1 - b / (n - a))


def test_direction_and_use_may_disagree() -> None:
    """A child that points where one latent does, but fires where another does."""
    small = sae([E[0], E[1]], bias=-1.0)
    large = sae([E[0], E[1], E[0]], bias=-1.0)
    with torch.no_grad():
        large.W_enc[2] = E[1]
    row = splitting(small, large, Store()).to_pylist()[2]  # type: ignore[arg-type]
    assert (row["parent"], row["parent_by_firing"]) == (0, 1)
    assert row["n_both"] == 0 and row["contingency"] < 0 < row["contingency_by_firing"]


def test_no_more_tokens_are_read_than_asked_for() -> None:
    small, large = sae([E[0], E[1]], -1.0), sae([E[0], E[1], E[0]], -1.0)
    store = Store()
    table = splitting(small, large, store, n_tokens=50)  # type: ignore[arg-type]
    assert table["n_child"][1].as_py() == int((store.kind[:50] == 2).sum())


def test_the_first_must_be_the_smaller() -> None:
    with pytest.raises(ConfigError, match="from a smaller SAE to a larger"):
        splitting(sae([E[0]], 0.0), sae([E[0]], 0.0), Store())  # type: ignore[arg-type]
