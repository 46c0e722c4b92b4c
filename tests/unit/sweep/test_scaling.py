"""The law finds the parameters that losses were made from, and says how sure it is."""

from __future__ import annotations

import numpy as np
import pytest

from monoscope.errors import ConfigError, DataError
from monoscope.sweep.scaling import FURTHEST, fit_law, flop_per_token, recommend

TRUTH = {"alpha": 0.4, "beta_k": -0.5, "beta_n": -0.12, "gamma": 0.02, "tau": 2.0, "beta_t": 0.35}


def grid(tokens: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    cells = np.meshgrid([1024, 2048, 4096, 16384], [8, 16, 32, 64], tokens)
    return tuple(part.ravel().astype(float) for part in cells)


def losses(n: np.ndarray, k: np.ndarray, t: np.ndarray, with_tokens: bool) -> np.ndarray:
    """Written out from the formula."""
    p = TRUTH
    made = np.exp(
        p["alpha"] + p["beta_k"] * np.log(k) + p["beta_n"] * np.log(n)
        + p["gamma"] * np.log(k) * np.log(n)
    )  # fmt: skip
    return made + np.exp(p["tau"]) * t ** -p["beta_t"] if with_tokens else made


@pytest.mark.parametrize("tokens", [(1e6,), (2.5e5, 1e6, 4e6)])
def test_exact_losses_give_exact_parameters(tokens: tuple[float, ...]) -> None:
    n, k, t = grid(tokens)
    loss = losses(n, k, t, len(tokens) > 1)
    law = fit_law(n, k, t, loss, bootstrap=0)
    assert law.parameters == pytest.approx(
        {name: TRUTH[name] for name in law.parameters}, rel=1e-3, abs=1e-3
    )
    assert law.has_tokens == (len(tokens) > 1)
    np.testing.assert_allclose(law.predict(n, k, t), loss, rtol=1e-5)
    assert law.residual < 1e-6


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    n, k, t = grid((1e6,))
    exact = losses(n, k, t, False)
    held = []
    for seed in range(60):
        noise = np.random.default_rng(1000 + seed).normal(0, 0.02, len(n))
        law = fit_law(n, k, t, exact * np.exp(noise), bootstrap=200, seed=seed)
        held += [low <= TRUTH[name] <= high for name, (low, high) in law.intervals.items()]
    assert 0.88 < np.mean(held) < 0.99


def test_noisy_losses_over_tokens_stay_near_the_truth() -> None:
    n, k, t = grid((1.25e5, 5e5, 2e6))
    noise = np.random.default_rng(5).normal(0, 0.005, len(n))
    law = fit_law(n, k, t, losses(n, k, t, True) * np.exp(noise), bootstrap=40)
    assert law.parameters["beta_t"] == pytest.approx(TRUTH["beta_t"], abs=0.1)
    low, high = law.intervals["beta_t"]
    assert low < law.parameters["beta_t"] < high


@pytest.mark.parametrize("tokens", [(1e6,), (2.5e5, 1e6, 4e6)])
def test_an_irreducible_loss_is_found_where_there_is_one(tokens: tuple[float, ...]) -> None:
    n, k, t = grid(tokens)
    loss = losses(n, k, t, len(tokens) > 1) + 0.15
    law = fit_law(n, k, t, loss, bootstrap=0)
    truth = TRUTH | {"irreducible": 0.15}
    assert law.parameters == pytest.approx({p: truth[p] for p in law.parameters}, rel=1e-2)
    assert list(law.parameters)[-1] == "irreducible" and law.no_irreducible is None
    np.testing.assert_allclose(law.predict(n, k, t), loss, rtol=1e-4)
    assert "+ irreducible" in law.to_json()["formula"]


def test_an_irreducible_loss_is_claimed_no_oftener_than_chance_has_it() -> None:
    """Noise alone makes the F test refuse E = 0 in one of twenty; where the law goes without, it
    says how large E may be, and that holds the truth."""
    n, k, t = grid((1e6,))
    claimed, held = [], []
    for seed in range(30):
        noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, len(n)))
        law = fit_law(n, k, t, losses(n, k, t, False) * noise, bootstrap=0)
        claimed.append("irreducible" in law.parameters)
        law = fit_law(n, k, t, (losses(n, k, t, False) + 0.15) * noise, bootstrap=0)
        if law.irreducible_up_to is not None:
            assert "do not tell it from 0" in str(law.no_irreducible)
            held.append(law.irreducible_up_to >= 0.15)
    assert np.mean(claimed) < 0.2
    assert len(held) > 3 and np.mean(held) > 0.8


def test_two_sizes_cannot_show_an_irreducible_loss() -> None:
    n, k, t = grid((1e6,))
    two = n <= 2048
    law = fit_law(n[two], k[two], t[two], losses(n, k, t, False)[two], bootstrap=0)
    assert "irreducible" not in law.parameters and law.irreducible_up_to is None
    assert law.no_irreducible is not None and "2 sizes" in law.no_irreducible


@pytest.mark.parametrize(("budget", "side"), [(6e8, "smallest"), (1e12, None), (1e18, "largest")])
def test_an_answer_on_the_bound_of_the_search_says_so(budget: float, side: str | None) -> None:
    n, k, t = grid((1.25e5, 5e5, 2e6, 8e6))
    law = fit_law(n, k, t, losses(n, k, t, True), bootstrap=5)
    advice = recommend(law, budget, 8, d_in=57)
    if side is None:
        assert advice.at_bound is None
    else:
        assert advice.at_bound is not None and side in advice.at_bound and advice.extrapolates
        end = 1024 / FURTHEST if side == "smallest" else 16384 * FURTHEST
        assert advice.d_sae == pytest.approx(end, rel=0.01)
    assert advice.to_json()["at_bound"] == advice.at_bound


@pytest.mark.parametrize("budget", [3e14, 3e15])
def test_the_budget_is_spent_where_the_loss_is_least(budget: float) -> None:
    n, k, t = grid((1.25e5, 5e5, 2e6, 8e6))
    law = fit_law(n, k, t, losses(n, k, t, True), bootstrap=10)
    advice = recommend(law, budget, 32, d_in=576)
    sizes = np.geomspace(1024 / FURTHEST, 16384 * FURTHEST, 20_001)  # brute force
    tokens = budget / (2 * 576 * sizes + 8 * 576 * 32)
    all_losses = losses(sizes, np.full_like(sizes, 32), tokens, True)
    assert advice.d_sae == pytest.approx(sizes[np.argmin(all_losses)], rel=0.02)
    assert advice.fvu == pytest.approx(all_losses.min(), rel=1e-3)
    spent = advice.n_tokens * float(flop_per_token(576, advice.d_sae, 32))
    assert spent == pytest.approx(budget, rel=1e-3)
    assert advice.extrapolates == (not 1.25e5 <= advice.n_tokens <= 8e6
                                   or not 1024 <= advice.d_sae <= 16384)  # fmt: skip


def test_what_cannot_be_fitted_is_said() -> None:
    n, k, t = grid((1e6,))
    loss = losses(n, k, t, False)
    with pytest.raises(DataError, match="too few runs"):
        fit_law(n[:3], k[:3], t[:3], loss[:3])
    same = n == 1024
    with pytest.raises(DataError, match="4 runs with 1 sizes"):
        fit_law(n[same], k[same], t[same], loss[same])
    with pytest.raises(DataError, match="positive losses"):
        fit_law(n, k, t, loss * 0)
    law = fit_law(n, k, t, loss, bootstrap=0)
    with pytest.raises(ConfigError, match="one number of tokens"):
        recommend(law, 1e15, 32, 576)
    n, k, t = grid((2.5e5, 1e6))
    with pytest.raises(ConfigError, match="budget is too small"):
        recommend(fit_law(n, k, t, losses(n, k, t, True), bootstrap=0), 1e6, 32, 576)
