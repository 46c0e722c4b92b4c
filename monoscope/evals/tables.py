"""The tables of a result: every score with its interval, and each baseline beside it.

One list of tables, from which the HTML page and the Markdown of `report` are both made. A family
that was not measured makes no table; a figure that a result does not hold is a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

BASES = {
    "sae": "SAE", "random": "random SAE", "neurons": "neurons", "pca": "PCA", "mean": "mean",
}  # fmt: skip
"""Columns, as they are headed."""


@dataclass(frozen=True)
class Table:
    """A heading, a line on what is measured, and text cells."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table as Markdown, under a heading."""
        lines = [f"### {self.title}", "", self.note, ""] if self.note else [f"### {self.title}", ""]
        lines += [_line(self.head), "|" + "---|" * len(self.head), *map(_line, self.rows)]
        return "\n".join(lines) + "\n"


def tables(families: Mapping[str, Any]) -> Iterator[Table]:
    """Every table that a result's families have figures for, without rows that hold none."""
    for make in (
        _core, _specials, _slices, _density, _geometry, _worlds, _probing, _corpus, _ablation,
        _letters, _stability, _random_model, _labels,
    ):  # fmt: skip
        for table in make(families):
            rows = [row for row in table.rows if any(held != "–" for held in row[1:])]
            if rows:
                yield replace(table, rows=rows)


def cell(value: Any, ci: Any = None, form: str = ".3f") -> str:
    """A figure with its interval in brackets; a dash for what is undefined."""
    if not isinstance(value, int | float):
        return "–"
    shown = format(value, form)
    return f"{shown} ({ci[0]:{form}} to {ci[1]:{form}})" if ci else shown


def _of(figures: Mapping[str, Any] | None, name: str) -> str:
    """A figure and its interval from an object that holds figures and their "ci"."""
    if not figures:
        return "–"
    form = ".1f" if name == "l0" else ".3f"
    return cell(figures.get(name), (figures.get("ci") or {}).get(name), form)


def _mean(figures: Mapping[str, Any] | None) -> str:
    """A mean over tasks, concepts or letters."""
    return cell(figures["mean"], figures.get("ci")) if figures else "–"


def _held(families: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = families.get(name)
    return None if not isinstance(found, Mapping) or "skipped" in found else found


def _core(families: Mapping[str, Any]) -> Iterator[Table]:
    core = families["core"]
    methods = {"sae": core, **(core.get("baselines") or {})}
    names = {
        "fvu": "FVU", "l0": "L0", "cosine": "cosine", "shrinkage": "shrinkage",
        "delta_ce": "ΔCE, nats", "kl": "KL, nats", "loss_recovered_zero": "recovered (zero)",
        "loss_recovered_mean": "recovered (mean)",
    }  # fmt: skip
    rows = [
        [title, *(_of(figures, name) for figures in methods.values())]
        for name, title in names.items()
        if core.get(name) is not None
    ]
    note = f"{core['n_tokens']:,} tokens of {core['n_documents']:,} held-out documents"
    if core.get("n_splice_tokens"):
        note += f"; {core['n_splice_tokens']:,} of them through the model"
    yield Table("Reconstruction, and what it costs the model", note, _head(methods), rows)


def _specials(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "special_tokens")
    if not held:
        return
    rows = []
    for name, title in {"fvu": "FVU", "l0": "L0", "delta_ce": "ΔCE", "kl": "KL"}.items():
        for way in ("without", "with"):
            others = held[way].get("baselines") or {}
            cells = [_of(others.get(b), name) for b in list(BASES)[1:]]
            rows.append([f"{title}, {way}", _of(held[way], name), *cells])
    share = held["share_of_tokens_masked"]
    note = f"{held['with']['n_tokens']:,} real tokens, {share:.2%} of them special or sinks"
    yield Table("With and without special tokens and sinks", note, _head(BASES), rows)


def _slices(families: Mapping[str, Any]) -> Iterator[Table]:
    rows = []
    for key, values in (_held(families, "slices") or {}).items():
        for value, methods in values.items():
            if "sae" in methods:
                inside = methods.get("downstream")
                rows.append(
                    [f"{key} {value}", f"{methods['sae']['n_tokens']:,}"]
                    + [_of(methods.get("sae"), "fvu")]
                    + [_of({"fvu": methods.get(b, {}).get("fvu")}, "fvu") for b in list(BASES)[1:]]
                    + [_of(methods.get("sae"), "l0"), _of(inside, "delta_ce")]
                    + [_of(inside, "kl")]
                )
    if rows:
        head = ("slice", "tokens", *(f"FVU, {b}" for b in BASES.values()), "L0", "ΔCE", "KL")
        yield Table("By position and by what the corpus says of a text", "", head, rows)


def _geometry(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "geometry")
    if not held:
        return
    sides = ("decoder", "encoder", "random")
    rows = []
    for name, title in {
        "effective_rank": "effective rank", "participation_ratio": "participation ratio",
        "rms_cosine": "rms cosine of pairs", "share_max_cosine_over_0.9": "share with a twin > 0.9",
    }.items():  # fmt: skip
        rows.append([title, *(cell((held.get(s) or {}).get(name)) for s in sides)])
    largest = [((held.get(s) or {}).get("max_cosine") or {}).get("0.5") for s in sides]
    rows.append(["median of each row's largest cosine", *map(cell, largest)])
    note = "of all the weights: nothing is sampled, so there is no interval"
    yield Table("Geometry", note, ("", "decoder", "encoder", "random rows"), rows)


def _density(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "density")
    if not held or "n_tokens" not in held:
        return
    rows = [
        [title, _of(held, name)]
        for name, title in {
            "share_over_1_percent": "share of latents on over 1 % of tokens",
            "mass_over_1_percent": "their share of all firings",
            "share_over_10_percent": "share of latents on over 10 % of tokens",
            "mass_over_10_percent": "their share of all firings",
            "l1": "sum of codes per token", "share_silent": "share silent on all these tokens",
        }.items()
    ]  # fmt: skip
    note = f"{held['n_tokens']:,} tokens of {held['n_documents']:,} held-out documents"
    yield Table("Density", note, ("", BASES["sae"]), rows)


def _worlds(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "worlds")
    if not held:
        return
    kinds = {k: v for k, v in held.items() if isinstance(v, Mapping)}
    bases = [b for b in BASES if b != "mean"]
    rows = []
    for kind, methods in kinds.items():
        for name in ("mcc", "uniqueness", "f1", "absorption"):
            if methods["sae"].get(name) is None:
                continue
            chance = cell(methods.get(f"chance_{name}"))
            rows.append([f"{kind}: {name}", *(_of(methods.get(b), name) for b in bases), chance])
    l0 = ", ".join(f"{kind} {cell(m['sae'].get('l0'), form='.1f')}" for kind, m in kinds.items())
    note = (
        f"the recipe {held['recipe']} trained anew on each world; interval over true features, for "
        f"absorption over parents; L0: {l0}"
    )
    yield Table("Worlds with known truth", note, (*_head(bases), "chance"), rows)


def _probing(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "probing")
    if held:
        n = held["mean"]["dense"]["auc"]["n"]
        yield _probes(f"Sparse probing, AUC over {n} tasks", "interval over tasks", held["mean"])


def _corpus(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "corpus_probes")
    for key, means in ((held or {}).get("mean") or {}).items():
        concepts = held["concepts"][key] if held else {}
        note = f"{len(concepts)} concepts on documents of the corpus; interval over concepts"
        yield _probes(f"Corpus probes, AUC: {key}", note, means)


def _probes(title: str, note: str, means: Mapping[str, Any]) -> Table:
    bases = [b for b in BASES if b in means]
    rows = [
        [f"k = {k}", *(_mean(means[b][k]["auc"]) for b in bases), _mean(gain)]
        for k, gain in means["sae_minus_neurons"].items()
    ]
    note += f". A dense probe on all of x: {_mean(means['dense']['auc'])}"
    return Table(title, note, (*_head(bases), "SAE − neurons, paired"), rows)


def _ablation(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "ablation")
    if not held:
        return
    by = held["by_basis"]
    rows = [
        [f"n = {n}", *(_mean(by[b][str(n)]["score"]) for b in by)]
        + [_mean(by["sae"][str(n)][part]) for part in ("own_drop", "others_drop")]
        for n in held["n"]
    ]
    note = f"{held['n_concepts']} concepts; drop of the concept's own probe minus the others' drop"
    head = (*_head(by), "SAE: own drop", "SAE: others' drop")
    yield Table("Targeted ablation, balanced accuracy", note, head, rows)


def _letters(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "letters")
    if not held:
        return
    bases = [b for b in BASES if b in held]
    rows = [
        [title, *(_mean(held[b].get(name)) for b in bases)]
        for name, title in (
            ("absorption", "absorption"),
            ("silent", "share of words on which the letter's latents are silent"),
        )
    ]
    note = (
        f"{held['n_words']:,} words, {held['n_letters']} letters; interval over letters. "
        f"AUC of a dense letter probe: {_mean(held['probe_auc'])}"
    )
    yield Table("First-letter absorption", note, _head(bases), rows)


def _stability(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "stability")
    if not held:
        return
    rows = []
    for name, title in {
        "cosine": "matched cosine",
        "found": f"share ≥ {held['threshold']}",
    }.items():
        cells = []
        for kind in ("between_seeds", "given_against_them"):
            span = held[kind].get(f"{name}_range")
            cells.append(cell(held[kind][name], span))
        rows.append([title, *cells, _of(held["chance"], name)])
    trained = held["trained_here_tokens"]
    note = f"{held['n_others']} further seeds" + (f" of {trained:,} tokens" if trained else "")
    if held.get("l0_of_others"):
        low, high = min(held["l0_of_others"]), max(held["l0_of_others"])
        note += f", L0 {low:.1f} to {high:.1f} beside {held['l0']:.1f}"
    head = ("", "between seeds", "this SAE against them", "random directions")
    yield Table("Stability across seeds", f"{note}; range over pairs", head, rows)


def _random_model(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "random_model")
    if not held:
        return
    core, control = families["core"], held["core"]
    rows = [
        [title, _of(core, name), _of(control, name)]
        for name, title in {
            "fvu": "FVU", "l0": "L0", "cosine": "cosine", "dead_fraction": "dead",
        }.items()
    ]  # fmt: skip
    ranks = [
        ((of.get("geometry") or {}).get("decoder") or {}).get("effective_rank")
        for of in (families, held)
    ]
    rows.append(["effective rank", *(cell(rank, form=".0f") for rank in ranks)])
    for name in ("random", "pca"):
        pair = [(of.get("baselines") or {}).get(name) for of in (core, control)]
        rows.append([f"FVU of {BASES[name]}", *(_of(figures, "fvu") for figures in pair)])
    note = (
        f"an SAE trained alike on {held['trained_on_tokens']:,} tokens of a model of random weights"
    )
    if held.get("l0_as_trained") is not None:
        note += f", its threshold moved: as trained its L0 was {held['l0_as_trained']:.1f}"
    yield Table("Random weights", note, ("", "this SAE", "on random weights"), rows)


def _labels(families: Mapping[str, Any]) -> Iterator[Table]:
    held = _held(families, "label_scores")
    if not held:
        return
    rows = []
    for name, figures in held["scores"].items():
        if figures.get("median") is not None:
            control = (held.get("control") or {}).get("median_" + name.removeprefix("label_"))
            rows.append(
                [
                    name,
                    f"{figures['n']:,}",
                    _of(figures, "median"),
                    cell(control),
                    _of(figures, "share_over_0.9"),
                ]
            )
    note = f"{held['n_alive']:,} alive latents; scores on held-out documents; interval over latents"
    head = ("score", "scored", "median", "median of the control", "share of alive ≥ 0.9")
    if rows:
        yield Table("Labels", note, head, rows)


def _head(names: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    return ("", *(BASES.get(name, name) for name in names))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
