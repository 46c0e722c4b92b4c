"""report.html: the demo's results as one page that needs neither network nor script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monoscope.assets import DEMO
from monoscope.features.feature import Example, Feature
from monoscope.page import curve, document, histogram, table, text

FIGURES = {
    "fvu": ("FVU", ".3f"),
    "l0": ("L0", ".1f"),
    "cosine": ("cosine", ".3f"),
    "delta_ce": ("ΔCE", "+.3f"),
    "kl": ("KL", ".3f"),
    "loss_recovered_zero": ("recovered, zero", ".3f"),
    "loss_recovered_mean": ("recovered, mean", ".3f"),
}
"""Columns of the table of figures: key of a Result -> title, format."""

DEMO_MODEL = "SmolLM2-135M-Instruct"
"""The model that goes by the name of demo."""

_CONTEXTS = 6


def render_report(
    summary: Mapping[str, Any],
    *,
    events: Sequence[Mapping[str, Any]],
    densities: Sequence[float],
    features: Sequence[Feature],
    attributions: Sequence[str],
) -> str:
    """The page. events: training log; densities: of every alive latent; features: samples."""
    title = f"monoscope: {model_name(summary['model']['model'])} at {summary['site']}"
    body = [
        f"<h1>{text(title)}</h1>",
        _overview(summary),
        "<h2>On held-out documents</h2>",
        _figures(summary["eval"]),
        "<h2>Training</h2>",
        '<div class="plots even">',
        curve("loss", [(e["n_tokens"], e["loss"]) for e in events]),
        curve("L0", [(e["n_tokens"], e["l0"]) for e in events]),
        histogram("features by density (share of tokens on which one fires)", densities),
        "</div>",
        "<h2>Features</h2>",
        *(_feature(feature) for feature in features),
        "<h2>Steering</h2>",
        _steering(summary["steer"]),
        "<h2>Wall time</h2>",
        _times(summary),
        "<h2>Licences and attributions</h2>",
        *(f"<p><small>{text(line)}</small></p>" for line in attributions),
    ]
    return document(title, body)


def model_name(name: str) -> str:
    """A model's name as its makers gave it."""
    return DEMO_MODEL if name == DEMO else name


def figure_rows(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Formatted figures of the SAE and of each baseline; – where one was not measured."""
    rows = [("this SAE", result), *result["baselines"].items()]
    return [(name, [_figure(row.get(key), key) for key in FIGURES]) for name, row in rows]


def _figure(value: float | None, key: str) -> str:
    return "–" if value is None else format(value, FIGURES[key][1])


def _overview(summary: Mapping[str, Any]) -> str:
    got, run, atlas = summary["collect"], summary["train"], summary["index"]
    return (
        f"<p>{got['n_tokens']:,} tokens of {got['n_documents']:,} documents; trained on "
        f"{run['n_tokens']:,} tokens; {atlas['n_alive']:,} of {atlas['n_features']:,} features "
        f"alive on {atlas['n_tokens']:,} tokens.</p>"
    )


def _figures(result: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{text(title)}</th>" for title, _ in FIGURES.values())
    rows = "".join(
        f"<tr><td>{text(name)}</td>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in figure_rows(result)
    )
    methods = "; ".join(f"{name}: {row['method']}" for name, row in result["baselines"].items())
    dead = f"{100 * result['dead_fraction']:.1f} % of features silent in "
    return (
        f'<div class="wide"><table class="n"><tr><th></th>{head}</tr>{rows}</table></div>'
        f"<p><small>{dead}{result['dead_window_tokens']:,} tokens. FVU: unexplained share of the "
        "variance. ΔCE, KL: nats per token lost by splicing the reconstruction into the model. "
        f"Baselines: {text(methods)}.</small></p>"
    )


def _feature(feature: Feature) -> str:
    score = "" if feature.label_f1 is None else f" · label F1 {feature.label_f1:.2f}"
    lens = ", ".join(f'"{token}"' for token in (feature.top_tokens or [])[:6])
    lines = "".join(context(example, feature.max) for example in feature.top[:_CONTEXTS])
    return (
        f"<h3>#{feature.latent} {text(feature.label or 'no label')}</h3>"
        f'<p class="dim">fires on {100 * feature.density:.3g} % of tokens{score}'
        f"{' · raises ' + text(lens) if lens else ''}</p>{lines}"
    )


def context(example: Example, scale: float) -> str:
    """An example's text, each token shaded by its activation's share of `scale`."""
    parts = []
    for piece, value in zip(example.pieces, example.values, strict=True):
        share = min(max(value / scale, 0.0), 1.0) if scale > 0 else 0.0
        shown = text(piece)
        parts.append(f'<mark style="--a:{share:.2f}">{shown}</mark>' if share >= 0.05 else shown)
    before = "…" if example.start > 0 else ""
    return f'<p class="context">{before}{"".join(parts)}</p>'


def _steering(steer: Mapping[str, Any]) -> str:
    writer = steer["writer"]
    if writer is None:
        return "<p>No feature promises anything to try.</p>"
    samples = "".join(_sample(sample) for sample in steer["samples"])
    beaten = "" if writer["score"] > 0 else " No feature tried wrote better than its controls."
    return (
        f"<p>Feature #{writer['latent']}, {text(steer['label'] or 'no label')}, which promises "
        f"{text(steer['promise'])}, added at "
        f"{writer['times_norm']:g} × the median norm; the best writer of "
        f"{steer['n_candidates']} features tried.{beaten}</p>"
        f"{samples}"
    )


def _sample(sample: Mapping[str, Any]) -> str:
    """A prompt, and what the model says after it without and with the feature, side by side."""
    halves = "".join(
        f'<figure><figcaption class="dim">{key}</figcaption>'
        f'<p class="said">{text(sample[key])}</p></figure>'
        for key in ("default", "steered")
    )
    cost = f"‖Δ‖/‖x‖ {sample['relative_norm']:.2f} · KL {sample['kl']:.2f}"
    return (
        f'<h3>{text(sample["prompt"])} … <span class="dim">{cost}</span></h3>'
        f'<div class="plots">{halves}</div>'
    )


def time_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Stage, seconds of work on it, and what is to be said of them; then their sum."""
    spent: Mapping[str, float | None] = summary["seconds"]
    rows = [
        (
            name,
            "–" if seconds is None else f"{seconds:.1f} s",
            ("not timed; " if seconds is None else "") + "made by an earlier run"
            if name in summary["reused"]
            else "",
        )
        for name, seconds in spent.items()
    ]
    known = [seconds for seconds in spent.values() if seconds is not None]
    missing = "" if len(known) == len(spent) else "without what was not timed"
    return [*rows, ("in all", f"{sum(known):.1f} s", missing)]


def _times(summary: Mapping[str, Any]) -> str:
    return table(["stage", "wall time", ""], time_rows(summary))
