"""SAEBench's own core evaluation runs on our object, and where definitions agree so do figures."""

from __future__ import annotations

import pytest

import monoscope as ms
from benchmarks import saebench_core

pytestmark = pytest.mark.peers
SAME = ("l0", "cossim", "ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation",
        "ce_loss_score")  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Of a small SAE, trained for seconds on a little of the embedded model."""
    if not saebench_core.PYTHON.exists():
        pytest.skip("no .venv-peers-bench: run make test-peers")
    out = tmp_path_factory.mktemp("bench")
    lm = ms.load_lm("demo", dtype="float32")
    store = ms.collect(
        lm, ms.Corpus.demo(0), site="resid_post.15", n_tokens=6_000, out=out / "store",
        held_out=0.3,
    )  # fmt: skip
    ms.train(store, d_sae=256, k=16, n_tokens=30_000, batch_size=512, out=out / "sae")
    return saebench_core.compare(out / "sae", store, lm, n_rows=8)


@pytest.mark.parametrize("name", SAME)
def test_the_figures_that_should_agree_do(figures, name):
    """On the same tokens, norm sinks included, in fp32 by two implementations of the model."""
    assert figures["saebench"][name] == pytest.approx(figures["same tokens"][name], rel=2e-3)


def test_explained_variance_differs_by_their_formula_alone(figures):
    """They subtract the square of the mean of x² where a variance has that of the mean of x."""
    mine, theirs = figures["same tokens"], figures["saebench"]
    formula = mine["explained_variance, their formula"]
    assert theirs["explained_variance"] == pytest.approx(formula, rel=2e-3)
    assert theirs["explained_variance"] != pytest.approx(mine["explained_variance"], rel=1e-2)


def test_their_kl_counts_the_last_token_of_a_row_too(figures):
    """One token in 128 more than ours, which counts predictions that have a next token."""
    mine, theirs = figures["same tokens"]["kl_div_with_sae"], figures["saebench"]["kl_div_with_sae"]
    assert theirs == pytest.approx(mine, rel=2e-2)
