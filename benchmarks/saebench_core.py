"""SAEBench's core figures beside ours, of one SAE on the same tokens: `saebench_core.py SAE STORE`.

Needs `make test-peers` (its environment .venv-peers-bench). Prints a table; the column "why" says
what a difference comes from, and `compare` shows it by computing SAEBench's formula in fp64.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import monoscope as ms
from monoscope.evals import splice
from monoscope.evals.reconstruction import with_sae
from monoscope.sites import Site

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-peers-bench" / "bin" / "python"
SCRIPT = ROOT / "tests" / "interop" / "peers" / "bench.py"
N_ROWS = 8  # windows of 128 tokens; a multiple of SAEBench's batch


def full_windows(store: Any, n: int = N_ROWS) -> list[splice.Window]:
    """Whole windows of held-out documents, for SAEBench knows no padding."""
    size, prefix = store.manifest.arguments.context_length, store.manifest.prefix_ids
    rows = splice.windows(store.documents("held_out"), prefix, size)
    return [row for row in rows if len(row.token_ids) == size][:n]


def theirs(sae: str | Path, lm: Any, rows: list[splice.Window], ignored: set[int]) -> dict:
    """What SAEBench's run_evals says, flat."""
    with tempfile.TemporaryDirectory() as room:
        lm.model.save_pretrained(f"{room}/model")
        tensors = {
            "tokens": torch.tensor([row.token_ids for row in rows]),
            "ignored": torch.tensor(sorted(ignored)),
        }
        save_file(tensors, f"{room}/tokens.safetensors")
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        args = [sae, f"{room}/model", f"{room}/tokens.safetensors", f"{room}/out.json"]
        run = subprocess.run([PYTHON, SCRIPT, *args], capture_output=True, text=True, env=env)
        if run.returncode:
            raise RuntimeError(run.stderr[-3000:])
        nested = json.loads(Path(f"{room}/out.json").read_text())
    return {name: value for group in nested.values() for name, value in group.items()}


@torch.no_grad()
def ours(sae: ms.SAE, lm: Any, store: Any, rows: list[splice.Window], *, sinks: bool) -> dict:
    """Our figures on the same rows; sinks: keep the norm sinks, which we leave out by default."""
    site = Site.parse(store.site)
    policy = replace(store.mask_policy, max_norm=None) if sinks else store.mask_policy
    x = _activations(lm, site, policy, rows)
    x_hat, l0 = with_sae(sae)(x)
    wide, narrow = x.double(), x_hat.double()
    error = (wide - narrow).square().sum(1)
    fvu = float(error.sum() / (wide - wide.mean(0)).square().sum())
    made = {"sae": lambda part: with_sae(sae)(part)[0], "zero": torch.zeros_like}
    sums = splice.splice(lm, site, policy, made, rows).sums().total()
    n = float(sums["n"][0])
    ce = {k: float(sums[f"ce_{k}"][0]) / n for k in ("clean", "sae", "zero")}
    # SAEBench 0.6: mean‖x‖² − (mean over tokens and coordinates of x²)² in place of the variance
    wrong = float(wide.square().sum(1).mean() - wide.square().mean() ** 2)
    return {
        "n_tokens": len(x),
        "l0": float(l0.double().mean()),
        "cossim": float(torch.cosine_similarity(wide, narrow).mean()),
        "explained_variance": 1 - fvu,
        "explained_variance, their formula": 1 - float(error.mean()) / wrong,
        "ce_loss_without_sae": ce["clean"],
        "ce_loss_with_sae": ce["sae"],
        "ce_loss_with_ablation": ce["zero"],
        "ce_loss_score": (ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]),
        "kl_div_with_sae": float(sums["kl_sae"][0]) / n,
    }


def _activations(lm: Any, site: Site, policy: Any, rows: list[splice.Window]) -> Tensor:
    ids, mask = splice.pad(rows, lm.pad_id, lm.device)
    parts = []
    for part in range(0, len(rows), 4):
        x = lm.capture(ids[part : part + 4], mask[part : part + 4], site)
        keep = policy.keep(ids[part : part + 4], mask[part : part + 4], x)
        parts.append(x[keep].float())
    return torch.cat(parts)


def compare(sae: str | Path, store: Any, lm: Any, n_rows: int = N_ROWS) -> dict[str, dict]:
    """{"saebench", "same tokens", "monoscope"}: theirs, ours with their mask, ours by default."""
    rows, loaded = full_windows(store, n_rows), ms.load_sae(sae)
    return {
        "saebench": theirs(sae, lm, rows, set(store.mask_policy.special_ids)),
        "same tokens": ours(loaded, lm, store, rows, sinks=True),
        "monoscope": ours(loaded, lm, store, rows, sinks=False),
    }


def main(sae: str, store: str) -> None:
    from monoscope.data.store import ActivationStore

    found = compare(sae, ActivationStore.open(store), ms.load_lm("demo", dtype="float32"))
    print(f"{'figure':36} {'SAEBench':>12} {'same tokens':>12} {'monoscope':>12}")
    for name in found["monoscope"]:
        cells = [found[column].get(name) for column in ("saebench", "same tokens", "monoscope")]
        print(f"{name:36} " + " ".join(f"{v:12.4f}" if v is not None else " " * 12 for v in cells))


if __name__ == "__main__":
    main(*sys.argv[1:])
