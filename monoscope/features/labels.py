"""Offline labels: for every latent the rule over tokens and metadata that best predicts it.

No language model writes them. Rules are proposed and chosen on documents of the train split and
scored on held-out documents, so a label says exactly what was measured and how well it holds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monoscope.artifact.checks import check_atlas, check_together
from monoscope.errors import DataError, FormatError
from monoscope.features import front, side
from monoscope.features.label_sample import Hits, Progress, Sample, by_latent, draw_sample
from monoscope.features.rule_search import find_rules
from monoscope.features.rules import LABEL_WIDTH, META, AnyOf, Rule
from monoscope.files import write_atomic
from monoscope.visible import quoted

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.sae.model import SAE

SUMMARY_FILE = "labels.json"
MIN_TRAIN = 10  # firings in the sample below which no rule is sought
MIN_HELD_OUT = 10  # held-out firings below which a score would be noise, so is null
FLOOR = 0.25  # weighed F1 on the choosing part below which a label says it is unclear
MARGIN = 0.1  # of the way from "it always fires" to a perfect rule that a clear label must go


@dataclass(frozen=True)
class Score:
    """How a rule does on held-out tokens; every figure is a ratio of token counts.

    precision = TP/rule fires, recall = TP/latent fires, f1 = 2·TP/(rule fires + latent fires),
    specificity = TN/latent silent, beside recall, which is the sensitivity;
    auc = (recall + specificity)/2, the area under a yes/no rule's curve;
    mass = share of the latent's summed activation that falls where the rule fires.
    """

    n_fired: int
    n_rule: int
    n_tokens: int
    precision: float
    recall: float
    f1: float
    auc: float
    mass: float
    specificity: float

    @classmethod
    def from_counts(
        cls, tp: int, n_rule: int, n_fired: int, n_tokens: int, *, mass: float
    ) -> Score:
        """The score of a rule that fires n_rule times, tp of them among the latent's n_fired."""
        quiet = n_tokens - n_fired
        recall = tp / n_fired if n_fired else 0.0
        specificity = 1 - (n_rule - tp) / quiet if quiet else 0.0
        return cls(
            n_fired=n_fired,
            n_rule=n_rule,
            n_tokens=n_tokens,
            precision=tp / n_rule if n_rule else 0.0,
            recall=recall,
            f1=2 * tp / (n_rule + n_fired) if n_rule + n_fired else 0.0,
            auc=(recall + specificity) / 2,
            mass=mass,
            specificity=specificity,
        )


@side.one_writer("label by rule")
def label(
    atlas: Atlas,
    sae: SAE,
    store: ActivationStore,
    *,
    n_tokens: int = 200_000,
    n_held_out: int = 60_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Atlas:
    """Label every latent of `atlas` by rule and score each label on held-out documents.

    n_tokens: tokens of the train split on which rules are proposed and chosen; n_held_out:
    tokens of the held-out split on which they are scored. A score is null below 10 held-out
    firings. Writes the rules' table, the labels in front (a language model's and n-grams' stay
    there if they belong there, see front.py) and `labels.json`.

    Raises MismatchError if atlas, SAE and store do not belong together; DataError if the train
    split is empty; OutputError while another command labels the atlas.
    """
    from monoscope.features.ngrams.again import held_against  # which needs this module

    check_same(atlas, sae, store)
    n_tokens = min(n_tokens, sum(info.n_tokens for info in store.shards("train")))
    n_held_out = min(n_held_out, sum(info.n_tokens for info in store.shards("held_out")))
    total = n_tokens + n_held_out
    report = _part(progress, 0, total)
    train = draw_sample(sae, store, "train", n_tokens, seed=seed, progress=report)
    if not train.table.n_tokens:
        raise DataError("there is nothing to label from: the store's train split is empty")
    keys = [name.removeprefix(META) for name in train.table.columns if name.startswith(META)]
    report = _part(progress, n_tokens, total)
    held = draw_sample(
        sae, store, "held_out", n_held_out, seed=seed, meta_keys=keys, progress=report
    )
    rows, rules = label_rows(train, held, seed=seed)
    summary = summarise(rows, rules, train, held, seed=seed)
    again = held_against(atlas, store, {row["latent"]: row for row in rows}, train, held)
    front.keep_rules(atlas, rows)
    side.merge_rows(atlas, front.NGRAMS, again)
    front.settle(atlas)
    write_atomic(Path(atlas.folder) / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return atlas


def label_summary(folder: str | Path) -> dict[str, Any]:
    """Read the summary that `label` left in an atlas folder.

    Raises FormatError if the atlas has not been labelled or the file is damaged.
    """
    path = Path(folder) / SUMMARY_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise FormatError(
            "this atlas has no labels yet", got=path, hint="Run `monoscope label`."
        ) from exc
    except ValueError as exc:
        raise FormatError(f"{path} is damaged", got=exc, expected="JSON") from exc
    if not isinstance(data, dict):
        raise FormatError(f"{path} is damaged", got=type(data).__name__, expected="a JSON object")
    return data


def label_rows(
    train: Sample, held: Sample, *, seed: int = 0
) -> tuple[list[dict[str, Any]], list[Rule | None]]:
    """One row of label columns per latent, and the rule behind each label (None where none)."""
    found = find_rules(train.table, train.firings, _choosing(train.doc, seed))
    fired, held_hits = train.firings.totals, by_latent(held.firings)
    rows: list[dict[str, Any]] = []
    rules: list[Rule | None] = []
    for latent, n_fired in enumerate(fired.tolist()):
        enough = n_fired >= MIN_TRAIN
        rule = found.rules[latent] if enough else None
        clear = rule is not None and found.score[latent] >= _floor(n_fired, train.table.n_tokens)
        if not clear:
            rule = found.plain[latent] if enough else None
        score = _score(rule, held, held_hits[latent]) if rule else None
        rows.append(_row(latent, _text(rule, clear, n_fired), rule, score, n_fired, train, held))
        rules.append(rule)
    return rows, rules


def summarise(
    rows: list[dict[str, Any]], rules: list[Rule | None], train: Sample, held: Sample, *, seed: int
) -> dict[str, Any]:
    """Figures over all labels, beside the control: each rule scored on another latent.

    The control shifts the rules among the scored latents by a random amount, so it keeps their
    breadth and breaks only their match; a label means something as far as it beats it.
    """
    scored = [row["latent"] for row in rows if row["label_f1"] is not None]
    f1 = [rows[i]["label_f1"] for i in scored]
    auc = [rows[i]["label_auc"] for i in scored]
    clear = [i for i in scored if not rows[i]["label"].startswith("unclear")]
    alive = int((train.firings.totals > 0).sum())
    hits = by_latent(held.firings)
    control: list[Score] = []
    if len(scored) > 1:
        order = np.random.default_rng(seed).permutation(scored).tolist()
        for latent, other in zip(order, order[1:] + order[:1], strict=True):
            rule = rules[other]
            assert rule is not None
            control.append(_score(rule, held, hits[latent]))
    return {
        "schema_version": 1,
        "method": "rule",
        "seed": seed,
        "n_tokens": train.table.n_tokens,
        "n_held_out_tokens": held.table.n_tokens,
        "n_documents": len(np.unique(train.doc)),
        "n_held_out_documents": len(np.unique(held.doc)),
        "n_latents": len(rows),
        "n_alive": alive,
        "n_scored": len(scored),
        "n_clear": len(clear),
        "share_auc_0.9": _share(auc, 0.9, alive),
        "share_f1_0.5": _share(f1, 0.5, alive),
        "median_f1": _median(f1),
        "median_auc": _median(auc),
        "control": {
            "definition": "the same rules, each scored on a random other scored latent",
            "median_f1": _median([s.f1 for s in control]),
            "median_auc": _median([s.auc for s in control]),
            "share_auc_0.9": _share([s.auc for s in control], 0.9, alive),
        },
    }


def check_same(atlas: Atlas, sae: SAE, store: ActivationStore) -> None:
    """Raise MismatchError unless the atlas is of this SAE, and both go with the store."""
    check_together(sae, store, None)
    check_atlas(sae, atlas.manifest)


def _choosing(doc: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """The rows of one document in three; every row where there are fewer than three documents."""
    ids = np.random.default_rng([seed, 2]).permutation(np.unique(doc))
    return np.isin(doc, ids[::3]) if len(ids) >= 3 else np.ones(len(doc), dtype=bool)


def _floor(n_fired: int, n_tokens: int) -> float:
    """The F1 below which a rule says nothing: FLOOR, or a little over that of "it always fires"."""
    density = n_fired / n_tokens
    always = 2 * density / (1 + density)
    return max(FLOOR, always + MARGIN * (1 - always))


def _score(rule: Rule, held: Sample, hits: Hits) -> Score:
    rows, values = hits
    right = rule.fires(held.table, rows)
    n = (int(right.sum()), rule.count(held.table), len(rows), held.table.n_tokens)
    total = float(values.sum())
    return Score.from_counts(*n, mass=float(values[right].sum()) / total if total else 0.0)


def _text(rule: Rule | None, clear: bool, n_fired: int) -> str | None:
    if rule is None:
        return (
            "unclear · too rare in the sample"
            if 0 < n_fired < MIN_TRAIN
            else ("unclear" if n_fired else None)
        )
    if clear:
        return rule.describe()
    assert isinstance(rule, AnyOf)
    head = "unclear · best guess "  # of the rules on tokens, and not good enough to be a label
    for n in range(len(rule.values), 0, -1):
        text = head + ", ".join(quoted(value) for value in rule.values[:n])
        if len(text) <= LABEL_WIDTH:
            return text
    return head + AnyOf("token", rule.values[:1]).describe(LABEL_WIDTH - len(head))


def _row(
    latent: int, text: str | None, rule: Rule | None, score: Score | None, n_fired: int,
    train: Sample, held: Sample,
) -> dict[str, Any]:  # fmt: skip
    """The label columns of one latent; scores null where too few held-out tokens fire."""
    enough = score is not None and score.n_fired >= MIN_HELD_OUT
    detail = None if rule is None else rule.to_json()
    if detail is not None and score is not None:
        detail["held_out"] = asdict(score) if enough else {"n_fired": score.n_fired}
    density = score.n_fired / held.table.n_tokens if score and held.table.n_tokens else None
    return {
        "latent": latent,
        "label": text,
        "label_rule": None if detail is None else json.dumps(detail, ensure_ascii=False),
        "label_method": None if text is None else "rule",
        "label_f1": score.f1 if score and enough else None,
        "label_auc": score.auc if score and enough else None,
        "label_base": density,
    }


def _part(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _share(values: list[float], least: float, of: int) -> float | None:
    return sum(value >= least for value in values) / of if of else None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
