"""The tables in docs/design/training.md, made from sae/recipes.py by running this file."""

from __future__ import annotations

import re
from pathlib import Path

from monoscope.sae.recipes import RECIPES, Recipe

PAGE = Path(__file__).parents[2] / "docs" / "design" / "training.md"
BETWEEN = re.compile(r"(?<=<!-- recipes -->\n).*?(?=<!-- /recipes -->)", re.DOTALL)
PARTS = ("activation", "reconstruction", "sparsity", "auxiliary", "decoder", "normalisation")
DEFAULTS = (
    "sparsity_coefficient",
    "sparsity_warmup_fraction",
    "bandwidth",
    "rho",
    "prefixes",
    "auxk_coefficient",
    "preact_coefficient",
    "k_start",
    "k_anneal_fraction",
    "tied",
    "huber",
    "threshold_lr",
    "decoder_lr",
    "decay_fraction",
    "grad_clip",
    "adam_beta1",
    "adam_beta2",
)
QUIET = {
    "threshold_lr": 1.0,
    "decoder_lr": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "k_anneal_fraction": 0.0,
}


def tables() -> str:
    """Both tables: what each recipe is made of and from which paper, and its defaults."""
    rows = [["recipe", *PARTS, "paper"]]
    rows += [
        [f"`{name}`", *(_part(row, part) for part in PARTS), row.paper]
        for name, row in RECIPES.items()
    ]
    defaults = [["recipe", "lr at 4,096 latents", "start", "further defaults"]]
    defaults += [[f"`{name}`", *_defaults(row)] for name, row in RECIPES.items()]
    return f"{_table(rows)}\n{_table(defaults)}"


def _part(row: Recipe, part: str) -> str:
    value = getattr(row, part)
    if part == "reconstruction" and row.prefixes:
        return f"{value}, nested"
    if part == "auxiliary" and row.resample:
        return "resampling"
    return "–" if value is None else str(value)


def _defaults(row: Recipe) -> list[str]:
    told = []
    for name in DEFAULTS:
        value = getattr(row, name)
        if value is None or QUIET.get(name) == value:
            continue
        shown = ", ".join(f"{v:.3g}" for v in value) if isinstance(value, tuple) else value
        factor = " × k" if name == "k_start" else ""
        told.append(f"{name} {shown:g}{factor}" if isinstance(shown, float) else f"{name} {shown}")
    start = f"rows from {row.rows}" + (f", norm {row.init_norm:g}" if row.init_norm != 1 else "")
    start += f", whitened {row.whitening:g}" if row.whitening else ""
    if row.start_l0:
        start += f", L0 {row.start_l0:g}"
    lr = f"{row.lr:g}" + (" × √(4096/d_sae)" if row.lr_by_width else "")
    lr += f", × √({row.lr_steps:,}/steps) below {row.lr_steps:,} steps" if row.lr_steps else ""
    return [lr, start, ", ".join(told)]


def _table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |\n" for row in rows]
    return head + "|" + "---|" * len(rows[0]) + "\n" + "".join(body)


def in_page() -> str:
    found = BETWEEN.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE} has no <!-- recipes --> block"
    return found[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BETWEEN.sub(lambda _: tables(), text), encoding="utf-8")
