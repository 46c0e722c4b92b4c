"""What each method of labelling found about a feature: its words, its scores, and their control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from monoscope.visible import quoted, visible

if TYPE_CHECKING:
    from monoscope.features.feature import Feature


@dataclass(frozen=True)
class Judged:
    """One label with what it earned on held-out text, None where that was not measured.

    method: "rule", "ngram", "llm" (a language model's words and its own judgement), "judged" (a
    label there was, judged by a language model) or "examples" (likeness to examples; no words).
    sensitivity: yes where the latent fires; specificity: no where it is silent. auc: ½ for chance.
    control: the same with another latent's label. hard_auc: against tokens or windows on which its
    neighbours fire; fuzzing_auc: of telling its own marked tokens from others. by: the model that
    judged. unit: "token" or "window", what is told apart.
    """

    method: str
    text: str | None
    unit: str
    auc: float | None
    sensitivity: float | None
    specificity: float | None
    control: float | None = None
    f1: float | None = None
    r: float | None = None
    hard_auc: float | None = None
    fuzzing_auc: float | None = None
    by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def judged(feature: Feature) -> list[Judged]:
    """Every label and score that the atlas has of a feature, in the order they are made in."""
    found = [_rule(feature), _ngram(feature.ngram), _examples(feature.similarity)]
    found += [
        _asked("llm", feature.explanation, "explanation"),
        _asked("judged", feature.judgement, "label"),
    ]
    return [one for one in found if one is not None]


def lines(feature: Feature) -> list[str]:
    """The same as lines of text, and what the feature does; nothing that its label's line says."""
    told = []
    for one in judged(feature):
        if one.method == feature.label_method == "rule":
            continue
        figures = [
            f"{name} {value:.2f}"
            for name, value in (
                ("r", one.r), ("F1", one.f1), ("AUC", one.auc), ("hard negatives", one.hard_auc),
                ("fuzzing", one.fuzzing_auc),
                ("sensitivity", one.sensitivity), ("specificity", one.specificity),
                ("control", one.control),
            )
            if value is not None
        ]  # fmt: skip
        words = f" {quoted(one.text)}" if one.text and one.text != feature.label else ""
        by = f" by {visible(one.by)}" if one.by else ""
        told.append(f"{_NAMES[one.method]}{words}{by}: {', '.join(figures) or 'not scored'}")
    if feature.output is not None:
        told.append(_output(feature))
    return told


_NAMES = {
    "rule": "by rule",
    "ngram": "by n-grams",
    "examples": "by likeness to its examples",
    "llm": "named",
    "judged": "judged",
}


def _rule(feature: Feature) -> Judged | None:
    """The rule's scores, which stand in the rule itself whoever labelled since."""
    held: Mapping[str, Any] = (feature.label_rule or {}).get("held_out") or {}
    if feature.label_rule is None or "auc" not in held:
        return None
    recall = held["recall"]
    specificity = held.get("specificity", 2 * held["auc"] - recall)  # atlases of before say no more
    return Judged(
        "rule", feature.rule_label, "token", held["auc"], recall, specificity, f1=held["f1"]
    )


def _ngram(row: Mapping[str, Any] | None) -> Judged | None:
    if row is None or row["label"] is None:
        return None
    return Judged(
        "ngram", row["label"], "token", row["auc"], row["sensitivity"], row["specificity"],
        control=row["control_auc"], f1=row["f1"], r=row["r"],
    )  # fmt: skip


def _examples(row: Mapping[str, Any] | None) -> Judged | None:
    if row is None:
        return None
    return Judged(
        "examples", None, "window", row["auc"], None, None,
        control=row["control_auc"], hard_auc=row["hard_auc"],
    )  # fmt: skip


def _asked(method: str, row: Mapping[str, Any] | None, words: str) -> Judged | None:
    if row is None or row[words] is None:
        return None
    return Judged(
        method, row[words], "window", row["detection_auc"], row["detection_sensitivity"],
        row["detection_specificity"], control=row["shuffled_auc"], hard_auc=row["contrast_auc"],
        fuzzing_auc=row["fuzzing_auc"], by=row["model"],
    )  # fmt: skip


def _output(feature: Feature) -> str:
    """ "reads (label AUC 0.81), does not write (+0.10 nats; …)", by the thresholds of `outputs`."""
    row = feature.output or {}
    own = {"label": "its label's tokens", "contexts": "its contexts' tokens"}
    mine = own.get(row.get("basis") or "", "its tokens")
    figures = [
        f"{name} {row[key]:+.2f}"
        for name, key in ((mine, "writes"), ("its logit lens", "lens"),
                          ("another's tokens", "control"))
        if row[key] is not None
    ]  # fmt: skip
    reads = "label AUC not known" if feature.reads is None else f"label AUC {feature.reads:.2f}"
    return f"does: {feature.does or 'unknown'} · {reads} · turned up, nats: {', '.join(figures)}"
