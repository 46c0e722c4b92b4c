"""Geometry and density against dense fp64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.evals import density, geometry
from monoscope.ops.codes import SparseCodes


def test_cosines_against_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK", 7)
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) * 3
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).numpy()
    off = cosine[~np.eye(40, dtype=bool)]
    found = geometry.of_rows(rows)
    most = np.where(np.eye(40, dtype=bool), -1, cosine).max(1)
    assert found["max_cosine"]["mean"] == pytest.approx(most.mean(), rel=1e-5)
    assert found["max_cosine"]["0.95"] == pytest.approx(np.quantile(most, 0.95), rel=1e-5)
    assert found["mean_abs_cosine"] == pytest.approx(np.abs(off).mean(), rel=1e-5)
    assert found["rms_cosine"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-5)
    sigma = np.linalg.svd(unit.numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    ratio = (sigma**2).sum() ** 2 / (sigma**4).sum()
    assert found["participation_ratio"] == pytest.approx(ratio, rel=1e-5)


def test_of_too_many_rows_a_sample_is_compared_with_all(monkeypatch):
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    whole = geometry.of_rows(rows)
    monkeypatch.setattr(geometry, "PAIRS", 40 * 40 - 1)  # 39 rows of 40
    found = [geometry.of_rows(rows, seed) for seed in (0, 0, 1)]
    assert whole["n_compared"] == 40 and found[0]["n_compared"] == 39
    assert found[0] == found[1] != found[2]
    assert found[0]["rms_cosine"] == pytest.approx(whole["rms_cosine"], rel=0.05)
    assert found[0]["effective_rank"] == whole["effective_rank"]
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-1)
    picked = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:39]
    most = float(cosine[picked].amax(1).mean())
    assert found[2]["max_cosine"]["mean"] == pytest.approx(most, rel=1e-5)
    assert geometry.max_cosine(rows) is None
    assert geometry.max_cosine(rows[:39]) is not None


def test_known_ranks():
    assert geometry.of_rows(torch.eye(9))["effective_rank"] == pytest.approx(9, rel=1e-6)
    one = geometry.of_rows(torch.ones(5, 9))
    assert one["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert one["share_max_cosine_over_0.9"] == 1


def test_rows_of_length_zero_are_left_out():
    rows = torch.cat([torch.eye(4), torch.zeros(3, 4)])
    assert geometry.of_rows(rows)["n_rows"] == 4
    assert geometry.of_rows(torch.zeros(3, 4))["max_cosine"] is None


def test_counts_against_dense_loops():
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(30, 9, generator=generator) * (torch.rand(30, 9, generator=generator) < 0.3)
    dense[:, 8] = 0
    doc = torch.tensor([3] * 10 + [5] * 12 + [9] * 8)
    counts = density.Counts.of(9)
    for part in (slice(0, 10), slice(10, 30)):
        counts.add(SparseCodes.from_dense(dense[part]), doc[part])
    found = density.summary(counts)
    fired = (dense > 0).numpy()
    assert counts.hits.tolist() == fired.sum(0).tolist()
    assert counts.docs.tolist() == [
        sum(fired[doc.numpy() == d, i].any() for d in (3, 5, 9)) for i in range(9)
    ]
    assert found["n_tokens"] == 30 and found["n_documents"] == 3
    assert found["l1"] == pytest.approx(dense.double().sum().item() / 30, rel=1e-6)
    assert found["share_silent"] == pytest.approx(1 / 9)
    per_token = np.sort(fired.sum(1))
    assert found["l0_histogram"] == np.bincount(per_token).tolist()
    assert found["l0_quantiles"]["0.5"] == per_token[14]
    assert found["l0_quantiles"]["1"] == per_token[-1]
    share = fired.mean(0)
    over = share[share > 0.1]
    assert found["share_over_10_percent"] == pytest.approx(len(over) / 9)
    assert found["mass_over_10_percent"] == pytest.approx(over.sum() / share.sum())


def test_a_stored_zero_has_not_fired():
    codes = SparseCodes(torch.tensor([1, 2]), torch.tensor([0.0, 1.0]), torch.tensor([0, 2]), 4)
    counts = density.Counts.of(4)
    counts.add(codes, torch.tensor([0]))
    assert counts.hits.tolist() == [0, 0, 1, 0]


def test_a_log_histogram_holds_every_positive_value():
    found = density.log_histogram(np.array([1e-4, 1.1e-4, 0.5, 1.0]))
    assert sum(found["counts"]) == 4
    assert found["first"] == -4.0 and found["counts"][0] == 2 and found["counts"][-1] == 1
    assert density.log_histogram(np.array([]))["counts"] == []


def test_intervals_of_density_are_those_of_resampled_documents():
    """Against a loop over replicates that counts dense codes again, document by document."""
    rng = np.random.default_rng(0)
    docs = []
    for _ in range(30):
        rate = np.array([0.3, 0.008, 0.02, 0.12, 0.004]) * rng.uniform(0.2, 1.8, 5)
        docs.append(rng.random((rng.integers(20, 90), 5)) * (rng.random((1, 5)) < rate.clip(0, 1)))
        docs[-1][rng.random(docs[-1].shape) > 0.5] = 0
    counts = density.Counts.of(5)
    for first in (0, 10):
        part = docs[first : first + 10] if first == 0 else docs[first:]
        codes = SparseCodes.from_dense(torch.from_numpy(np.concatenate(part)).float())
        counts.add(
            codes, torch.arange(len(part)).repeat_interleave(torch.tensor([len(d) for d in part]))
        )
    assert counts.n_documents == 30 and counts.n_tokens == sum(map(len, docs))
    assert torch.equal(counts.by_group.sum(0).long(), counts.hits)
    draws: dict[str, list[float]] = {
        "l1": [],
        "share_over_10_percent": [],
        "mass_over_1_percent": [],
    }
    for _ in range(3000):
        x = np.concatenate([docs[i] for i in rng.integers(30, size=30)])
        fired = (x > 0).mean(0)
        draws["l1"].append(x.sum() / len(x))
        draws["share_over_10_percent"].append((fired > 0.1).mean())
        draws["mass_over_1_percent"].append(fired[fired > 0.01].sum() / fired.sum())
    found = density.intervals(counts, 3000, 1)
    for name, values in draws.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), rel=0.1, abs=0.02)
    assert density.intervals(counts, 0, 1) == {}
