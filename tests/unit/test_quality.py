"""The quality comparison's bookkeeping, and its evaluator against sums done by hand in fp64."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import quality, quality_rows, quality_train
from monoscope.sae import SAE, SAEConfig


def row(contender="monoscope", fvu=0.2, seed=0, n_tokens=1000, **settings):
    spec = {"contender": contender, "settings": settings, "n_tokens": n_tokens, "seed": seed}
    sizes = {"made_by": "x", "batch_size": 2048, "d_sae": 4096, "k": 2, "store": "abc"}
    return spec | sizes | {"fvu": fvu, "l0": 2.0, "dead": 0.25}


def test_a_finished_run_is_found_again_and_replaced_not_doubled(tmp_path):
    path = tmp_path / "rows.json"
    assert quality_rows.read(path) == []
    quality_rows.add(path, row(recipe="topk", lr=1e-3))
    quality_rows.add(path, row(recipe="topk", lr=1e-3, seed=1))
    quality_rows.add(path, row(recipe="topk", lr=1e-3, fvu=0.1))
    kept = quality_rows.read(path)
    assert [(r["seed"], r["fvu"]) for r in kept] == [(0, 0.1), (1, 0.2)]
    assert quality_rows.key(row(lr=1e-3)) == quality_rows.key(row(lr=1e-3, fvu=0.9))
    for other in (row(lr=2e-3), row("sparsify", lr=1e-3), row(lr=1e-3, n_tokens=2000)):
        assert quality_rows.key(other) != quality_rows.key(row(lr=1e-3))


def test_the_table_has_medians_and_ratios_to_the_best_peer():
    rows = [
        *(row(recipe="topk", fvu=fvu, seed=s) for s, fvu in enumerate((0.10, 0.30, 0.16))),
        *(row("sparsify", fvu=fvu, seed=s) for s, fvu in enumerate((0.20, 0.30))),
        row("saelens", architecture="topk", lr=1e-3, fvu=0.5),
        row("saelens", architecture="topk", lr=1e-3, fvu=0.1, n_tokens=2000),
    ]
    small, large = quality_rows.table(rows).split("2,000 training tokens")
    ours = next(line for line in small.splitlines() if line.startswith("| monoscope topk"))
    # the best peer's median is (0.2 + 0.3) / 2; ours 0.16
    assert [cell.strip() for cell in ours.split("|")[2:8]] == [
        "0.1600", "0.1000 … 0.3000", "2.0", "25.0 %", "0.640", "3",
    ]  # fmt: skip
    assert "saelens topk · lr 0.001 | 0.1000" in large and "monoscope" not in large


def test_labels_name_the_architecture_and_what_was_set():
    assert quality_rows.label(row("sparsify")) == "sparsify signum"
    tried = row("sparsify", optimizer="adam", lr=1e-3)
    assert quality_rows.label(tried) == "sparsify adam · lr 0.001"
    small = row(recipe="topk") | {"batch_size": 512}
    assert quality_rows.label(small) == "monoscope topk · batch 512"
    assert quality_rows.kind(tried) == "sparsify adam"
    rows = [tried, row("sparsify", optimizer="adam", lr=3e-3, fvu=0.1), row("sparsify", fvu=0.05)]
    assert quality_rows.best(rows, "sparsify adam") == rows[1]
    assert quality_rows.best(rows, "saelens topk") is None


def test_the_best_try_at_the_first_budget_goes_on(tmp_path, monkeypatch):
    out = tmp_path / "rows.json"
    tries = [{"optimizer": "adam", "lr": lr} for lr in (1e-3, 3e-3)]
    monkeypatch.setattr(quality, "PEERS", {"sparsify": tries})
    monkeypatch.setattr(
        "sys.argv",
        ["quality", "compare", "--tokens", "1000,4000", "--peer-seeds", "0,1", "--only", "sparsify",
         "--out", str(out)],
    )  # fmt: skip
    args = quality._arguments()
    ran = []
    for spec in quality._compared(args):
        spec["store"] = "abc"
        if quality_rows.key(spec) not in {quality_rows.key(r) for r in quality_rows.read(out)}:
            ran.append((spec["settings"]["lr"], spec["n_tokens"], spec["seed"]))
            fvu = 0.2 if spec["settings"]["lr"] == 3e-3 else 0.3
            quality_rows.add(out, spec | {"fvu": fvu, "l0": 2.0, "dead": 0.0})
    tuned, more = [(1e-3, 1000, 0), (3e-3, 1000, 0)], [(1000, 1), (4000, 0), (4000, 1)]
    assert spec["made_by"].startswith("eai-sparsify==")
    assert ran == tuned + [(3e-3, *run) for run in more]


class Rows:
    """As much of a store as a stream and at_l0 need."""

    def __init__(self, x):
        self.x = x

    def stream(self, batch_size, seed):
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield self.x[torch.randint(len(self.x), (batch_size,), generator=generator)]


@pytest.mark.parametrize("activation", ["jumprelu", "batchtopk"])
def test_one_threshold_is_moved_until_l0_is_k(activation):
    torch.manual_seed(0)
    config = SAEConfig(
        d_in=8, d_sae=32, activation=activation, k=3 if activation == "batchtopk" else None
    )
    sae = SAE(config)
    with torch.no_grad():
        sae.W_enc.normal_()
        sae.W_dec.normal_()
        sae.threshold.fill_(0.05)  # far more than 3 fire
    x = torch.randn(4096, 8)
    z = (x.double() - sae.b_dec.double()) @ sae.W_enc.double().T
    assert float((z > 0.05).double().sum(1).mean()) > 10
    moved = quality.at_l0(sae, 3, Rows(x))
    fires = z > float(moved.threshold)
    assert float(fires.double().sum(1).mean()) == pytest.approx(3, rel=0.02)
    codes = moved.encode(x)
    assert torch.equal(codes.to_dense() > 0, fires)
    assert torch.allclose(codes.to_dense().double(), torch.where(fires, z, 0.0), atol=1e-4)
    assert float(sae.threshold.detach().max()) == pytest.approx(0.05)  # the one given is left alone


def test_topk_is_evaluated_as_it_is():
    sae = SAE(SAEConfig(d_in=8, d_sae=32, activation="topk", k=3))
    assert quality.at_l0(sae, 3, Rows(torch.randn(10, 8))) is sae


def test_thresholds_of_their_own_are_refused():
    sae = SAE(SAEConfig(d_in=8, d_sae=4, activation="jumprelu", k=None))
    with torch.no_grad():
        sae.threshold.copy_(torch.tensor([1.0, 1.0, 1.0, 2.0]))
    with pytest.raises(SystemExit, match="not one threshold"):
        quality.at_l0(sae, 1, Rows(torch.randn(10, 8)))


def test_every_contender_takes_as_many_steps():
    spec = {"n_tokens": 500_000, "batch_size": 2048}
    assert quality_train.whole_steps(spec) == 244 * 2048
    assert json.loads(json.dumps(spec)) == spec
