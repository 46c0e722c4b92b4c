"""Splicing against a tiny Llama with hand-placed hooks, one unpadded window at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope.evals import splice
from monoscope.evals.bootstrap import point
from monoscope.evals.splice import Window


@pytest.fixture
def rows(store):
    docs = [store.docs[i] for i in sorted(store.docs)]
    return splice.windows(docs, store.manifest.prefix_ids, 11)


def run(lm, store, rows, replacements, site):
    return splice.splice(lm, site, store.mask_policy, replacements, rows).sums()


def keep_of(lm, store, row):
    ids = torch.tensor([row.token_ids])
    x = lm.hidden(ids)
    return ids, x, store.mask_policy.keep(ids, torch.ones_like(ids).bool(), x)[0]


def by_hand(lm, store, rows, replace):
    """Per-document [n, ce_clean, ce, kl] in fp64 from one pass per window, edited by a raw hook."""
    sums: dict[int, np.ndarray] = {}
    for row in rows:
        ids, x, keep = keep_of(lm, store, row)
        edited = x.clone()
        for s in range(len(keep)):
            if keep[s]:
                edited[0, s] = replace(x[0, s][None])[0]
        handle = lm.model.model.layers[0].register_forward_hook(lambda *_, e=edited: e)
        with torch.no_grad():
            spliced = lm.model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        handle.remove()
        with torch.no_grad():
            clean = lm.model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        total = sums.setdefault(row.doc, np.zeros(4))
        for s in range(len(keep) - 1):
            if keep[s]:
                target = row.token_ids[s + 1]
                kl = (clean[s].exp() * (clean[s] - spliced[s])).sum()
                total += [1, -clean[s, target], -spliced[s, target], kl]
    return sums


def test_windows_are_cut_as_the_harvest_cuts_them(store):
    doc = store.docs[0].__class__(4, "train", "", list(range(2, 27)), [], {})
    got = splice.windows([doc], (1,), 11)
    assert [w.token_ids for w in got] == [
        (1, *range(2, 12)),
        (1, *range(12, 22)),
        (1, *range(22, 27)),
    ]
    assert {w.doc for w in got} == {4}
    assert splice.windows([doc], (), 11)[0].token_ids == tuple(range(2, 13))


def test_batches_hold_every_window_once_within_the_budget(rows, monkeypatch):
    monkeypatch.setattr(splice, "_MAX_LOGITS", 37 * 40)
    batches = list(splice._batches(rows, 37))
    assert sorted(map(repr, (r for b in batches for r in b))) == sorted(map(repr, rows))
    for batch in batches:
        assert len(batch) * max(len(r.token_ids) for r in batch) <= 40
    monkeypatch.setattr(splice, "_MAX_LOGITS", 1)
    assert all(len(batch) == 1 for batch in splice._batches(rows, 37))


def test_identity_costs_exactly_nothing(lm, store, rows, make):
    sums = run(lm, store, rows, {"same": lambda x: x.clone()}, make.site)
    total = sums.total()
    assert total["n"][0] > 100
    assert total["ce_same"][0] == total["ce_clean"][0]
    assert (sums.values[:, sums.columns.index("kl_same")] == 0).all()


@pytest.mark.parametrize("kind", ["zero", "mean", "sae"])
def test_against_hand_placed_hooks(lm, store, rows, make, sae, kind):
    mean = store.norm_stats.mean
    replace = {
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
        "sae": lambda x: sae.decode(sae.encode(x)),
    }[kind]
    sums = run(lm, store, rows, {kind: replace}, make.site)
    expected = by_hand(lm, store, rows, replace)
    assert sums.columns == ("n", "ce_clean", f"ce_{kind}", f"kl_{kind}")
    scored = {d: row for d, row in expected.items() if row[0]}
    assert sums.docs.tolist() == sorted(scored)
    for doc, got in zip(sums.docs.tolist(), sums.values, strict=True):
        np.testing.assert_allclose(got, scored[doc], rtol=2e-5, atol=2e-5)
    assert sums.total()[f"kl_{kind}"][0] > 0.01 * sums.total()["n"][0]


def test_masked_tokens_are_never_replaced_nor_scored(lm, store, rows, make):
    """The prefix and the tokens above max_norm keep their activation; the fixture has both."""
    seen = []

    def spy(x):
        seen.append(x)
        return x

    sums = run(lm, store, rows, {"spy": spy}, make.site)
    n_kept, n_scored, n_sinks = 0, 0, 0
    for row in rows:
        _, x, keep = keep_of(lm, store, row)
        n_kept += int(keep.sum())
        n_scored += int(keep[:-1].sum())
        n_sinks += int((x[0, 1:].norm(dim=1) > store.mask_policy.max_norm).sum())
    assert n_sinks > 10
    assert sum(len(x) for x in seen) == n_kept
    assert sums.total()["n"][0] == n_scored
    assert torch.cat(seen).norm(dim=1).max() <= store.mask_policy.max_norm


@pytest.mark.parametrize("tokens_per_batch", [1, 25, 70])
def test_batching_and_order_do_not_matter(lm, store, rows, make, monkeypatch, tokens_per_batch):
    whole = run(lm, store, rows, {"zero": torch.zeros_like}, make.site)
    monkeypatch.setattr(splice, "_MAX_LOGITS", lm.vocab_size * tokens_per_batch)
    monkeypatch.setattr(splice, "_CHUNK", 3)
    again = run(lm, store, rows[::-1], {"zero": torch.zeros_like}, make.site)
    assert again.docs.tolist() == whole.docs.tolist()
    np.testing.assert_allclose(again.values, whole.values, rtol=1e-5, atol=1e-5)


def test_logits_stay_within_one_small_batch(lm, store, rows, make, monkeypatch):
    monkeypatch.setattr(splice, "_MAX_LOGITS", lm.vocab_size * 50)
    lm.max_logits = 0
    run(lm, store, rows, {"zero": torch.zeros_like}, make.site)
    assert 0 < lm.max_logits <= lm.vocab_size * 50


def test_a_window_with_nothing_to_score(lm, store, make):
    """A prefix and one token: the only prediction made from a kept token has no next one."""
    sums = run(lm, store, [Window(3, (1, 7))], {"zero": torch.zeros_like}, make.site)
    assert sums.total()["n"][0] == 0
    only_prefix = run(lm, store, [Window(3, (1,))], {"zero": torch.zeros_like}, make.site)
    assert only_prefix.total()["n"][0] == 0


def sums_with(**per_token: float) -> dict[str, np.ndarray]:
    columns = {"kl_sae": 0.0, "ce_clean": 2.0, "ce_sae": 2.5, "ce_zero": 4.0, "ce_mean": 3.0}
    return {n: np.array([5 * v]) for n, v in (columns | per_token).items()} | {"n": np.array([5.0])}


def test_loss_recovered_by_hand():
    got = splice.figures(sums_with(kl_sae=0.3), "sae")
    assert {name: pytest.approx(value[0]) for name, value in got.items()} == {
        "ce": 2.5,
        "delta_ce": 0.5,
        "kl": 0.3,
        "loss_recovered_zero": 0.75,
        "loss_recovered_mean": 0.5,
    }


def test_loss_recovered_may_be_negative_or_above_one():
    assert splice.figures(sums_with(ce_sae=5.0), "sae")["loss_recovered_zero"][0] == -0.5
    assert splice.figures(sums_with(ce_sae=1.8), "sae")["loss_recovered_zero"][0] > 1


@pytest.mark.parametrize("ce_zero", [2.0, 1.5, 2.0 + splice.TINY_GAP / 2])
def test_loss_recovered_is_undefined_where_the_ablation_costs_nothing(ce_zero):
    got = splice.figures(sums_with(ce_zero=ce_zero), "sae")
    assert np.isnan(got["loss_recovered_zero"][0])
    assert got["loss_recovered_mean"][0] == 0.5


def test_no_predictions_no_figures():
    nothing = {name: np.array([0.0]) for name in sums_with()}
    assert all(np.isnan(v[0]) for v in splice.figures(nothing, "sae").values())


def test_undefined_becomes_none(lm, store, make):
    sums = run(
        lm,
        store,
        [Window(3, (1, 7))],
        {"sae": torch.zeros_like, "zero": torch.zeros_like, "mean": torch.zeros_like},
        make.site,
    )
    assert set(point(sums, lambda s: splice.figures(s, "sae")).values()) == {None}
