"""The sweep as one self-contained page: FVU against L0 and against d_sae, the law, every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monoscope.page import document, table, text
from monoscope.sweep.plot import STYLE

_SHOWN = (
    "name", "site", "d_sae", "k", "n_tokens", "fvu", "l0", "target_reached", "dead_fraction",
    "measured_on", "error",
)  # fmt: skip


def render(
    rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any], drawn: Mapping[str, Sequence[str]]
) -> str:
    """The page; told: what `Sweep.to_json` gives.  drawn: the plots of each site, as SVG."""
    done = [row for row in rows if row["status"] == "finished"]
    several = bool(told["sites"])
    body = [f"<h1>{len(done)} SAEs on one pass</h1>", f"<style>{STYLE}</style>"]
    for site, plots in drawn.items():
        body += [f"<h2>{text(site)}</h2>"] if several else []
        body.append(
            f'<div class="plots even">{"".join(f"<figure>{plot}</figure>" for plot in plots)}</div>'
        )
        body += _law(told["sites"][site] if several else told, "h3" if several else "h2")
    shown = [
        name for name in _SHOWN
        if (several or name != "site") and any(row[name] is not None for row in rows)
    ]  # fmt: skip
    body += [
        "<h2>Every run</h2>",
        table(shown, ([_cell(row[name]) for name in shown] for row in rows)),
    ]
    return document("monoscope sweep", body)


def _law(told: Mapping[str, Any], heading: str) -> list[str]:
    law, advice = told["law"], told["advice"]
    parts = [f"<{heading}>The scaling law</{heading}>"]
    if law is None:
        return [*parts, f"<p>{text(told['no_law'])}</p>"]
    parts.append(f"<p>L = {text(law['formula'])}, fitted to {law['n_points']} runs; "
                 f"typical error {law['residual']:.1%}</p>")  # fmt: skip
    bounds = law["intervals"]
    parts.append(table(
        ("parameter", "value", f"{law['level']:.0%} from", "to"),
        ([name, f"{value:.3g}", *(f"{b:.3g}" for b in bounds.get(name, ()))]
         for name, value in law["parameters"].items()),
    ))  # fmt: skip
    if law["no_irreducible"] is not None:
        parts.append(f"<p>No irreducible term: {text(law['no_irreducible'])}.</p>")
    if advice is not None:
        low, high = advice["d_sae_interval"]
        beyond = "; this lies beyond what was swept" if advice["extrapolates"] else ""
        parts.append(
            f"<p>For {advice['budget']:.3g} FLOP at L0 {advice['k']:.3g}: d_sae "
            f"{advice['d_sae']:,} ({low:,} to {high:,}) on {advice['n_tokens']:,} tokens, "
            f"FVU {advice['fvu']:.3f} expected{beyond}.</p>"
        )
        if advice["at_bound"] is not None:
            parts.append(f"<p><strong>{text(advice['at_bound'])}</strong></p>")
    elif told["no_advice"] is not None:
        parts.append(f"<p>{text(told['no_advice'])}</p>")
    return parts


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
