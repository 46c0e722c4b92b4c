"""The figures of a run: a row of the table for each latent, and the summary with its controls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from monoscope.features.explain.cost import bill
from monoscope.features.explain.endpoint import Usage
from monoscope.features.explain.items import Item
from monoscope.features.explain.judge import Judge
from monoscope.features.explain.plan import Case, Settings
from monoscope.features.explain.scores import Score, mean, score


def _score(judged: Sequence[tuple[Item, float]], yes: str, no: str) -> Score:
    held = [(item.truth, p) for item, p in judged if item.kind in (yes, no)]
    return score([truth for truth, _ in held], [p for _, p in held])


def _scores(case: Case) -> dict[str, Score]:
    return {
        "detection": _score(case.judged, "positive", "random"),
        "contrast": _score(case.judged, "positive", "hard"),
        "fuzzing": _score(case.judged, "marked", "mismarked"),
        "shuffled": _score(case.shuffled, "positive", "random"),
        "shuffled_fuzzing": _score(case.shuffled_fuzz, "marked", "mismarked"),
    }


def table_row(case: Case, model: str) -> dict[str, Any]:
    """One latent's row of the table `explanations`, but for what the rule said."""
    scores = _scores(case)
    figures = {
        f"{test}_{name}": value
        for test, s in scores.items()
        if test != "shuffled_fuzzing"  # a figure of the run, in its summary
        for name, value in (
            ("auc", s.auc), ("accuracy", s.balanced_accuracy),
            ("sensitivity", s.sensitivity), ("specificity", s.specificity),
        )
    }  # fmt: skip
    evidence = {
        "explained_from": sorted(case.evidence.docs),
        "judged": [[i.kind, i.doc, i.start, round(p, 4)] for i, p in case.judged],
    }
    return {
        "latent": case.latent,
        "explanation": case.explanation,
        "model": model,
        "n_excerpts": case.evidence.n,
        **figures,
        "n_positive": scores["detection"].n_pos,
        "n_random": scores["detection"].n_neg,
        "n_hard": scores["contrast"].n_neg,
        "n_marked": scores["fuzzing"].n_pos,
        "n_failed": case.n_failed,
        "evidence": json.dumps(evidence),
    }


def judgement(row: dict[str, Any], label: str, method: str) -> dict[str, Any]:
    """A row of the table `judgements`: what a label that was there, and by whom, was judged to be
    worth."""
    figures = {k: v for k, v in row.items() if k not in ("explanation", "n_excerpts")}
    return figures | {"label": label, "label_method": method}


def summarise(
    judge: Judge, cases: list[Case], random: list[Case], settings: Settings, expected: Usage
) -> dict[str, Any]:
    """Means over latents with intervals, the controls, what failed and what it cost."""
    seed, prices = settings.seed, judge.budget.prices
    scores, control = [_scores(case) for case in cases], [_scores(case) for case in random]

    def figures(held: Sequence[dict[str, Score]], *tests: str, of: str = "auc") -> dict[str, Any]:
        return {t: asdict(mean([getattr(s[t], of) for s in held], seed)) for t in tests}

    return {
        "schema_version": 1,
        "method": "llm",
        "model": judge.endpoint.model,
        "url": judge.endpoint.url,
        "prompts": judge.prompts.hash,
        "settings": asdict(settings),
        "n_latents": len(cases),
        "n_explained": sum(case.explanation is not None for case in cases),
        "n_scored": sum(s["detection"].auc is not None for s in scores),
        "auc": figures(scores, "detection", "fuzzing", "contrast"),
        "balanced_accuracy": figures(
            scores, "detection", "fuzzing", "contrast", of="balanced_accuracy"
        ),
        "control": {
            "shuffled": figures(scores, "shuffled")["shuffled"]
            | {
                "fuzzing": figures(scores, "shuffled_fuzzing")["shuffled_fuzzing"],
                "definition": "detection, and fuzzing, with another latent's explanation",
            },
            "random_sae": figures(control, "detection", "fuzzing")
            | {"definition": "explained and judged alike: latents of a frozen random SAE"},
        },
        "n_failed": sum(judge.failures.values()),
        "failures": dict(sorted(judge.failures.items())),
        "n_repaired": judge.n_repaired,
        "n_retries": judge.endpoint.n_retries,
        "n_batches": judge.n_batches,
        "n_batches_with_logprobs": judge.n_logprobs,
        "not_supported": list(judge.endpoint.dropped),
        "estimated": bill(expected, prices),
        "spent": bill(judge.spent, prices),
        "reused": bill(judge.reused, prices),
    }
