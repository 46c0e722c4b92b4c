"""`evaluate` as a whole: keys, windows, baselines, determinism, mistakes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from pydantic import ValidationError

from monoscope.errors import ConfigError, DataError, MismatchError
from monoscope.evals.result import Result
from monoscope.evals.run import evaluate
from monoscope.sae import SAE, SAEConfig

KEYS = [
    "fvu",
    "l0",
    "dead_fraction",
    "dead_window_tokens",
    "cosine",
    "ce_clean",
    "ce_sae",
    "ce_zero",
    "ce_mean",
    "loss_recovered_zero",
    "loss_recovered_mean",
    "kl",
    "n_tokens",
    "baselines",
    "ci",
]
DOWNSTREAM = [
    "ce_clean",
    "ce_sae",
    "ce_zero",
    "ce_mean",
    "delta_ce",
    "kl",
    "loss_recovered_zero",
    "loss_recovered_mean",
]


@pytest.fixture(scope="module")
def full(make, lm, harvested):
    """One whole evaluation, read-only."""
    store = copy.deepcopy(harvested)
    return store, evaluate(make.sae(), store, lm, bootstrap=200)


def held_out(store):
    return torch.cat([part.acts for part in store.rows["held_out"]]).double()


def test_keys(full):
    _, result = full
    data = result.to_json()
    assert set(KEYS) <= set(data)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert Result.model_validate(data) == result
    assert result.ce == result.ce_sae == data["ce_sae"]


def test_reconstruction_figures(full, sae):
    store, result = full
    x = held_out(store)
    codes = sae.encode(x.float())
    error = (x - sae.decode(codes).double()).square().sum()
    assert result.fvu == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-6)
    assert result.l0 == pytest.approx(codes.l0.double().mean().item(), rel=1e-12)
    assert result.n_tokens == len(x) == store.n_tokens("held_out")
    n_with_rows = sum(len(part) > 0 for part in store.rows["held_out"])
    assert result.n_documents == n_with_rows


def test_the_dead_window_is_held_out_plus_train(full, sae, lm):
    store, result = full
    assert result.dead_window_tokens == store.n_tokens()
    everything = torch.cat([p.acts for s in ("train", "held_out") for p in store.rows[s]])
    fired = (sae.encode(everything).to_dense() != 0).any(0)
    assert result.dead_fraction == pytest.approx(1 - fired.double().mean().item())
    short = evaluate(sae, store, bootstrap=0, baselines=False, dead_tokens=0)
    assert short.dead_window_tokens == store.n_tokens("held_out")
    some = evaluate(
        sae, store, bootstrap=0, baselines=False, dead_tokens=store.n_tokens("held_out") + 9
    )
    assert some.dead_window_tokens == store.n_tokens("held_out") + 9


def test_downstream_figures_agree_with_each_other(full):
    _, r = full
    assert r.delta_ce == pytest.approx(r.ce_sae - r.ce_clean)
    gap = r.ce_zero - r.ce_clean
    assert r.loss_recovered_zero == pytest.approx((r.ce_zero - r.ce_sae) / gap)
    assert r.kl > 0
    assert 0 < r.n_splice_tokens <= r.n_tokens
    assert r.n_splice_documents <= r.n_documents


def test_intervals_hold_the_figure(full):
    _, r = full
    data = r.to_json()
    for name in ("fvu", "l0", "cosine", "shrinkage", "delta_ce", "kl", "ce_sae", "ce_clean"):
        low, high = data["ci"][name]
        assert low <= data[name] <= high
    assert {"loss_recovered_zero", "loss_recovered_mean"} <= set(data["ci"])
    for row in data["baselines"].values():
        assert set(row["ci"]) >= {"fvu", "delta_ce"}


def test_baselines_stand_beside(full):
    store, r = full
    assert set(r.baselines) == {"random", "neurons", "pca", "mean"}
    for name in ("random", "pca"):
        row = r.baselines[name]
        assert row.l0 == pytest.approx(round(r.l0), abs=0.35)
        assert None not in (row.kl, row.delta_ce, row.loss_recovered_zero, row.ce)
        assert row.n_tokens == r.n_tokens
        assert row.n_documents == r.n_documents
        assert 0 < row.n_splice_tokens < r.n_splice_tokens
        assert 0 < row.n_splice_documents <= -(-r.n_splice_documents // 4) + 1
    x, mean = held_out(store), store.norm_stats.mean.double()
    fvu = (x - mean).square().sum() / (x - x.mean(0)).square().sum()
    assert r.baselines["mean"].fvu == pytest.approx(float(fvu), rel=1e-6)
    assert r.baselines["mean"].l0 == 0
    assert r.baselines["mean"].loss_recovered_mean in (0, None)
    assert r.baselines["pca"].fvu < r.baselines["random"].fvu < r.baselines["mean"].fvu


def test_baselines_do_not_change_the_sae_figures(full, sae, lm):
    store, r = full
    alone = evaluate(sae, store, lm, baselines=False, bootstrap=200)
    assert alone.baselines == {}
    for name in (*DOWNSTREAM, "fvu", "l0", "cosine"):
        assert getattr(alone, name) == pytest.approx(getattr(r, name), rel=1e-6), name


def test_same_seed_same_result(full, sae, lm):
    store, r = full
    assert evaluate(sae, store, lm, bootstrap=200) == r


def test_the_order_of_documents_does_not_matter(full, sae):
    store, r = full
    for split in store.rows:
        store.rows[split].reverse()
    again = evaluate(sae, store, baselines=False, bootstrap=200)
    for split in store.rows:
        store.rows[split].reverse()
    for name in ("fvu", "l0", "cosine", "shrinkage", "dead_fraction"):
        assert getattr(again, name) == pytest.approx(getattr(r, name), rel=1e-12)
    for name in ("fvu", "l0"):
        assert again.ci[name] == pytest.approx(r.ci[name], rel=1e-12)


def test_without_a_model(sae, store):
    r = evaluate(sae, store, bootstrap=50)
    assert [getattr(r, name) for name in DOWNSTREAM] == [None] * len(DOWNSTREAM)
    assert r.n_splice_tokens == r.n_splice_documents == 0
    assert r.baselines["pca"].ce is None and r.baselines["pca"].fvu < 1
    assert set(r.ci) == {"fvu", "l0", "cosine", "shrinkage"}


def test_fewer_tokens(sae, store, lm):
    r = evaluate(sae, store, lm, n_tokens=20, n_splice_tokens=15, bootstrap=0, baselines=False)
    lengths = [len(part) for part in store.rows["held_out"]]
    assert 20 <= r.n_tokens < 20 + max(lengths)
    assert 1 <= r.n_splice_tokens < 15 + max(lengths)
    assert r.ci == {}
    other = evaluate(sae, store, n_tokens=20, bootstrap=0, baselines=False, seed=1)
    assert other.fvu != r.fvu


def test_a_perfect_sae_loses_nothing(store, lm, make):
    """W = (I, −I) with every code kept reconstructs exactly up to rounding."""

    class Perfect(make.sae):
        def __init__(self) -> None:
            super().__init__(d_sae=2 * make.d_in, k=2 * make.d_in)
            self.W_enc = self.W_dec = torch.cat([torch.eye(make.d_in), -torch.eye(make.d_in)])
            self.b_dec = torch.zeros(make.d_in)

    r = evaluate(Perfect(), store, lm, bootstrap=0, baselines=False)
    assert r.fvu == 0 and r.cosine == pytest.approx(1, abs=1e-7)
    assert r.ce_sae == r.ce_clean and r.kl == 0 and r.delta_ce == 0
    assert r.loss_recovered_zero == 1


def test_the_real_sae_class(store, lm):
    sae = SAE(SAEConfig(d_in=store.d_in, d_sae=20, activation="topk", k=3))
    torch.manual_seed(1)
    sae.W_enc.data = sae.W_dec.data = torch.randn(20, store.d_in) / store.d_in**0.5
    r = evaluate(sae, store, lm, bootstrap=20)
    x = held_out(store).float()
    error = (x - sae.decode(sae.encode(x))).double().square().sum()
    spread = (x - x.mean(0)).double().square().sum()
    assert r.fvu == pytest.approx(float(error / spread), rel=1e-5)
    assert not sae.W_enc.requires_grad or sae.W_enc.grad is None


def test_progress_ends_at_its_total(sae, store, lm):
    calls = []
    evaluate(sae, store, lm, bootstrap=0, progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert done == sorted(done) and len({t for _, t in calls}) == 1
    assert calls[-1][0] == calls[-1][1]
    assert len(calls) > 3


def test_what_is_written_as_json_reads_back(full):
    _, r = full
    assert Result.model_validate_json(json.dumps(r.to_json(), allow_nan=False)) == r


def test_the_schema_is_strict(full):
    data = full[1].to_json()
    with pytest.raises(ValidationError):
        Result.model_validate(data | {"explained_variance": 0.9})
    with pytest.raises(ValidationError):
        Result.model_validate(data | {"fvu": float("nan")})
    with pytest.raises(ValidationError):
        full[1].fvu = 0.0


def test_no_held_out_tokens(sae, store):
    store.rows["held_out"].clear()
    with pytest.raises(DataError, match="no held-out tokens"):
        evaluate(sae, store)


def test_activations_that_do_not_vary(make):
    store = make.store({s: [torch.ones(4, make.d_in)] for s in ("train", "held_out")})
    with pytest.raises(DataError, match=r"all the same.*4 tokens"):
        evaluate(make.sae(), store)


@pytest.mark.parametrize(
    "setting", [{"n_tokens": 0}, {"n_splice_tokens": -1}, {"bootstrap": -1}, {"dead_tokens": -5}]
)
def test_counts_out_of_range(sae, store, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        evaluate(sae, store, **setting)


def test_another_site(sae, store):
    sae.provenance["site"] = "embed"
    with pytest.raises(MismatchError):
        evaluate(sae, store)
