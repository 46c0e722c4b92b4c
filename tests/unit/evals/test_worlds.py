"""Worlds obey their own law, and recovery is scored right on answers made by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monoscope.evals import matching, recovery, worlds


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", worlds.KINDS)
def test_a_world_fires_as_often_as_it_says(kind):
    world = worlds.make(kind, 0)
    f, x = world.sample(40_000, generator())
    active = f > 0
    assert active.double().sum(1).mean().item() == pytest.approx(world.l0, rel=0.03)
    expected = world.probability.clone()
    child = world.parent >= 0
    expected[child] *= world.probability[world.parent[child]]
    rates = active.double().mean(0)
    assert torch.allclose(rates, expected.double(), atol=0.006)
    assert torch.allclose(x, f @ world.directions)
    assert torch.allclose(world.directions.norm(dim=1), torch.ones(64))
    assert f[active].min() >= 1


def test_a_child_never_fires_without_its_parent():
    world = worlds.make("hierarchy", 0)
    active = world.sample(20_000, generator())[0] > 0
    for child in (world.parent >= 0).nonzero().flatten().tolist():
        assert not (active[:, child] & ~active[:, world.parent[child]]).any()


def test_only_the_correlated_world_ties_its_groups():
    together = {}
    for kind in ("superposed", "correlated"):
        active = worlds.make(kind, 0).sample(60_000, generator())[0] > 0
        pairs = (active[:, 0::4] & active[:, 1::4]).double().mean()
        together[kind] = float(pairs / active.double().mean() ** 2)
    assert together["superposed"] == pytest.approx(1, abs=0.25)
    assert together["correlated"] > 3


def test_the_same_seed_gives_the_same_world():
    a, b = (worlds.make("superposed", 3) for _ in range(2))
    assert torch.equal(a.sample(9, generator(1))[1], b.sample(9, generator(1))[1])
    assert not torch.equal(a.directions, worlds.make("superposed", 4).directions)


def test_matching_is_the_best_of_all_permutations():
    a, b = torch.randn(5, 3, generator=generator()), torch.randn(5, 3, generator=generator(1))
    cosine = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).double().numpy()
    best = max(sum(cosine[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    assert matching.matched_cosine(a, b) == pytest.approx(best / 5, rel=1e-6)
    both = max(sum(abs(cosine[i, p[i]]) for i in range(5)) for p in permutations(range(5)))
    assert matching.matched_cosine(a, b, signed=False) == pytest.approx(both / 5, rel=1e-6)


def test_nearest_may_be_shared_and_a_row_without_partner_counts_zero():
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, -1.0]])
    b = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert matching.nearest(a, b)[0].tolist()[:2] == [0, 0]
    partner, cosine = matching.matched(a, b)
    assert sorted(partner.tolist())[0] == -1 and 0 in cosine.tolist()


def test_a_perfect_answer_scores_one_and_a_permuted_one_too():
    world = worlds.make("superposed", 0)
    f, x = world.sample(4000, generator())
    order = torch.randperm(64, generator=generator(2))
    found = recovery.figures(world, f, x, 3 * world.directions[order], lambda _: f[:, order])
    assert found["mcc"] == pytest.approx(1, abs=1e-6)
    assert found["f1"] == found["uniqueness"] == found["share_over_0.9"] == 1
    assert found["absorption"] is None
    assert found["l0"] == pytest.approx((f > 0).sum(1).double().mean().item())


def test_chance_is_far_above_zero_in_a_small_world():
    world = worlds.make("superposed", 0)
    f, x = world.sample(2000, generator())
    chance = matching.chance(world.directions, 64, seed=0)  # the world's own seed
    assert 0.25 < chance < 0.5
    assert chance == pytest.approx(matching.chance(world.directions, 64, seed=1), abs=0.03)
    random = recovery._baselines(world, x, 0)["random"]
    assert recovery.figures(world, f, x, *random)["mcc"] == pytest.approx(chance, abs=0.05)


def test_absorption_is_the_silence_that_a_child_adds():
    world = worlds.make("hierarchy", 0)
    truth = world.sample(20_000, generator())[0] > 0
    assert (recovery.absorption(world, truth, truth) == 0).all()
    fires = truth.clone()
    for parent in world.parent[world.parent >= 0].unique().tolist():
        fires[truth[:, world.parent == parent].any(1), parent] = False
    assert (recovery.absorption(world, truth, fires) == 1).all()
    dull = truth & (torch.rand(truth.shape, generator=generator(5)) < 0.5)  # misses at random
    gaps = recovery.absorption(world, truth, dull)
    assert len(gaps) == 16 and gaps.mean() == pytest.approx(0, abs=0.06)
    codes = lambda x: dull.float()  # noqa: E731
    found = recovery.figures(world, truth.float(), truth.float(), world.directions, codes)
    low, high = found["ci"]["absorption"]
    assert low < found["absorption"] < high
    assert found["absorption"] == pytest.approx(gaps.mean())


def test_chance_of_f1_and_uniqueness():
    """Of perfect codes, shuffled partners hit as chance has it; random rows share features."""
    world = worlds.make("superposed", 0)
    f, _ = world.sample(20_000, generator())
    found = recovery._chance(world, f, f, world.directions, 0)
    assert found["chance_f1"] == pytest.approx(0.03 + 1 / 64, abs=0.03)  # one in 64 is its own
    draw = torch.randn(64, 32, generator=generator(9))
    expected = recovery._unique(world, draw).mean()
    assert found["chance_uniqueness"] == pytest.approx(expected, abs=0.15)
    assert recovery._unique(world, world.directions).all()


def test_f1_counts_hits_and_false_alarms():
    world = worlds.make("superposed", 0)
    f, x = world.sample(3000, generator())
    noisy = f.clone()
    noisy[:, 0] = 1.0
    found = recovery.figures(world, f, x, world.directions, lambda _: noisy)
    share = float((f[:, 0] > 0).double().mean())
    assert found["f1"] == pytest.approx((63 + 2 * share / (1 + share)) / 64, rel=1e-9)
    assert np.isfinite(found["mcc"])
