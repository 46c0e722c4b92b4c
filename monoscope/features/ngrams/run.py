"""Labels latents by n-grams: explained on train documents, scored on held-out ones, kept as found.

What each latent gets is written group by group, so that a run that is broken off goes on where it
was. The label goes in front of a rule's where it predicts train tokens better, by correlation and
not at the cost of F1; held-out scores choose nothing. A language model's label and a person's stay
in front of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monoscope.errors import ConfigError, DataError, require_at_least
from monoscope.features import front, side
from monoscope.features.label_sample import Hits, Sample, by_latent, draw_sample
from monoscope.features.labels import MIN_HELD_OUT, check_same
from monoscope.features.ngrams import patterns as pat
from monoscope.features.ngrams.agreement import Agreement, Sparse, agreement
from monoscope.features.ngrams.choose import choose, with_endings
from monoscope.features.ngrams.reading import Reading
from monoscope.features.ngrams.search import Context, Limits, Probe, search
from monoscope.features.ngrams.table import NAME, save
from monoscope.features.rules import META, rule_from_json

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.features.feature import Feature
    from monoscope.lm.protocol import LM
    from monoscope.sae.model import SAE

VERSION = 3
_GROUP = 16  # latents searched together and then written

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is searched and read.

    n_top, per_band: contexts explained, of the strongest and of each of the five activation bands;
    longest, n_swaps: see `search.Limits`; most: patterns kept; n_tokens: train tokens on which
    patterns are weighed and chosen, n_held_out: held-out tokens on which they are scored.

    Raises ConfigError for a number out of range.
    """

    n_top: int = 10
    per_band: int = 1
    longest: int = 8
    n_swaps: int = 3
    most: int = 12
    n_tokens: int = 100_000
    n_held_out: int = 60_000
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_top": 1, "per_band": 0, "longest": 1, "n_swaps": 1, "most": 1}
        require_at_least(self, least | {"n_tokens": 1, "n_held_out": 1})
        if self.longest > 32:
            raise ConfigError("longest is out of range", got=self.longest, expected="at most 32")

    @property
    def limits(self) -> Limits:
        """What the search of one context may cost."""
        return Limits(self.longest, self.n_swaps)

    @property
    def most_texts(self) -> int:
        """Short texts that the model reads for one latent at the very most."""
        return self.limits.most_texts(self.n_top + 5 * self.per_band)


@dataclass(frozen=True)
class Part:
    """The sampled tokens of one split: sequences, rules' table, and each latent's activations."""

    sample: Sample
    reading: Reading
    hits: list[Hits]

    @classmethod
    def draw(
        cls, sae: SAE, store: ActivationStore, split: Any, n_tokens: int, seed: int, keys: Any
    ) -> Part:
        """About n_tokens of a split; DataError where it holds none."""
        sample = draw_sample(sae, store, split, n_tokens, seed=seed, meta_keys=keys)
        if not len(sample.doc):
            raise DataError(f"the store's {split} split is empty", got=str(store.path))
        return cls.of(store, sample)

    @classmethod
    def of(cls, store: ActivationStore, sample: Sample) -> Part:
        """What was drawn before, with its documents read."""
        documents = store.get_documents(np.unique(sample.doc).tolist())
        return cls(
            sample, Reading.build(documents, sample.doc, sample.pos), by_latent(sample.firings)
        )


@side.one_writer("label by n-grams")
def label_ngrams(
    atlas: Atlas,
    sae: SAE,
    store: ActivationStore,
    lm: LM,
    latents: Sequence[int],
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find, weigh and score n-grams for latents; write table, labels and summary; the summary.

    Latents that the table holds from the same settings are not searched again. Scores are null
    below 10 held-out firings.

    Raises MismatchError if atlas, SAE, store and model do not belong together, LatentError,
    DataError where a split is empty, OutputError while another command labels the atlas.
    """
    settings = settings or Settings()
    check_same(atlas, sae, store)
    probe = Probe(lm, sae)
    wanted = [atlas.require(latent) for latent in dict.fromkeys(latents)]
    mark = side.fingerprint(VERSION, asdict(settings), store.identity)
    held, rules = side.read_rows(atlas, NAME), front.rules_of(atlas)
    done = {
        latent
        for latent in wanted
        if latent in held
        and held[latent]["settings"] == mark
        and front.is_against(held[latent], rules[latent])
    }
    todo = [latent for latent in wanted if latent not in done]
    train = Part.draw(sae, store, "train", settings.n_tokens, settings.seed, None)
    keys = [n.removeprefix(META) for n in train.sample.table.columns if n.startswith(META)]
    test = Part.draw(sae, store, "held_out", settings.n_held_out, settings.seed, keys)
    for start in range(0, len(todo), _GROUP):
        some = [atlas.feature(latent) for latent in todo[start : start + _GROUP]]
        rows = _explain(some, store, probe, train, test, settings)
        side.merge_rows(
            atlas,
            NAME,
            [row | front.rule_figures(rules[row["latent"]]) | {"settings": mark} for row in rows],
        )
        if progress is not None:
            progress(len(done) + start + len(some), len(wanted))
    rows = _controlled(atlas, wanted, test, settings)
    n_shown = save(atlas, rows)
    summary = summarise(rows, settings, probe, len(todo)) | {"n_labelled": n_shown}
    side.write_summary(atlas, NAME, summary)
    return summary


def summarise(
    rows: Sequence[dict[str, Any]], settings: Settings, probe: Probe, n_new: int
) -> dict[str, Any]:
    """Figures over latents beside the control, each latent's real activations with the patterns of
    another; shares are of all latents asked for, whether they could be scored or not."""
    scored = [row for row in rows if row["r"] is not None]

    def median(name: str) -> float | None:
        values = [row[name] for row in scored if row[name] is not None]
        return float(np.median(values)) if values else None

    def share(name: str, least: float) -> float | None:
        hits = sum(row[name] is not None and row[name] >= least for row in scored)
        return hits / len(rows) if rows else None

    return {
        "schema_version": 1,
        "method": "ngram",
        "settings": asdict(settings),
        "n_latents": len(rows),
        "n_explained": sum(row["label"] is not None for row in rows),
        "n_scored": len(scored),
        "median_r": median("r"),
        "median_auc": median("auc"),
        "median_f1": median("f1"),
        "share_auc_0.9": share("auc", 0.9),
        "share_r_0.5": share("r", 0.5),
        "rule_median_r": median("rule_r"),
        "control": {
            "definition": "each latent's activations predicted by another latent's patterns",
            "median_r": median("control_r"),
            "median_auc": median("control_auc"),
            "share_auc_0.9": share("control_auc", 0.9),
        },
        "cost": {
            "n_new": n_new,
            "most_texts_a_latent": settings.most_texts,
            "texts_a_latent": probe.n_texts / n_new if n_new else None,
            "tokens_a_latent": probe.n_tokens / n_new if n_new else None,
        },
    }


def _explain(
    features: Sequence[Feature], store: ActivationStore, probe: Probe, train: Part, test: Part,
    settings: Settings,
) -> list[dict[str, Any]]:  # fmt: skip
    contexts = _contexts(features, store, settings)
    flat = [context for own in contexts for context in own]
    pool = train.reading.ids[train.reading.row >= 0]
    search(probe, flat, pool, settings.limits, settings.seed)
    return [
        _row(feature, own, probe, train, test, settings)
        for feature, own in zip(features, contexts, strict=True)
    ]


def _contexts(
    features: Sequence[Feature], store: ActivationStore, settings: Settings
) -> list[list[Context]]:
    """Each latent's strongest places, and some of each activation band, with the tokens up to them.

    Places in the held-out split are left out, whatever the atlas was made from.
    """
    chosen = []
    for feature in features:
        bands = [feature.band(band)[: settings.per_band] for band in range(5)]
        some = [*feature.top[: settings.n_top], *(example for band in bands for example in band)]
        places = {(e.doc, e.pos): e for e in some if e.split == "train" and e.value > 0}
        chosen.append(list(places.values()))
    documents = store.get_documents({e.doc for some in chosen for e in some})
    return [
        [
            Context(feature.latent, _tokens(documents[e.doc], e.pos, settings.longest), e.value,
                    e.doc, e.pos)
            for e in some
        ]
        for feature, some in zip(features, chosen, strict=True)
    ]  # fmt: skip


def _tokens(document: Any, pos: int, longest: int) -> tuple[int, ...]:
    return tuple(int(i) for i in document.token_ids[max(0, pos + 1 - longest) : pos + 1])


def _row(
    feature: Feature, contexts: Sequence[Context], probe: Probe, train: Part, test: Part,
    settings: Settings,
) -> dict[str, Any]:  # fmt: skip
    docs = sorted({c.doc for c in contexts})
    told = [(c.pattern, c.value) for c in contexts]
    found = [(pattern, value) for pattern, value in told if pattern is not None]
    chosen = _choose(found, feature.latent, train, docs, settings)
    texts = {t: probe.lm.token_text(t) for p in chosen for t in p.tokens if t is not None}
    fair = scored(chosen, feature.latent, train, docs)
    score = scored(chosen, feature.latent, test, ())
    rule, held_rule = (
        by_rule(feature.latent, feature.label_rule, train, docs),
        by_rule(feature.latent, feature.label_rule, test, ()),
    )
    enough = score is not None and score.n_fired >= MIN_HELD_OUT
    evidence = [
        {"doc": c.doc, "pos": c.pos, "value": c.value, "suffix": c.suffix, "wild": c.wild}
        for c in contexts
    ]
    return {
        "latent": feature.latent,
        "label": pat.describe(chosen, texts),
        "shown": bool(chosen) and better(fair, rule),
        **{name: getattr(score, name) if enough else None for name in _FIGURES},
        "rule_r": None if held_rule is None or not enough else held_rule.r,
        "train_r": None if fair is None else fair.r,
        "train_rule_r": None if rule is None else rule.r,
        "n_fired": 0 if score is None else score.n_fired,
        "n_tokens": test.reading.n,
        "n_contexts": len(contexts),
        "n_long": sum(c.suffix is None for c in contexts),
        "patterns": pat.to_json(chosen, texts),
        "evidence": json.dumps(evidence),
    }


_FIGURES = ("r", "auc", "f1", "sensitivity", "specificity")


def _choose(
    found: Sequence[tuple[pat.Tokens, float]], latent: int, train: Part, docs: Sequence[int],
    settings: Settings,
) -> list[pat.Pattern]:  # fmt: skip
    """The patterns that predict best in train documents that were not explained.

    Where none of them matches there, those found stand as they are, with their contexts' values.
    """
    real = np.zeros(train.reading.n)
    rows, values = train.hits[latent]
    real[rows] = values
    fair = train.reading.outside(docs)
    chosen = choose(with_endings(found), train.reading, real, fair, settings.most)
    return chosen or pat.merge(found, settings.most)


def scored(
    found: Sequence[pat.Pattern], latent: int, part: Part, docs: Sequence[int]
) -> Agreement | None:
    """How the patterns predict the latent outside the documents; None where it never fires."""
    return _agree(part.reading.predict(found), latent, part, docs)


def _agree(predicted: Sparse, latent: int, part: Part, docs: Sequence[int]) -> Agreement | None:
    if not len(docs):
        return agreement(predicted, part.hits[latent], part.reading.n)
    outside = part.reading.outside(docs)
    pairs = [(rows[outside[rows]], v[outside[rows]]) for rows, v in (predicted, part.hits[latent])]
    return agreement(pairs[0], pairs[1], int(outside.sum()))


def by_rule(
    latent: int, given: dict[str, Any] | None, part: Part, docs: Sequence[int]
) -> Agreement | None:
    """The same figures for the yes and no of a rule as data; None where there is no rule."""
    if given is None:
        return None
    rows = np.flatnonzero(rule_from_json(given).fires(part.sample.table)).astype(np.int64)
    return _agree((rows, np.ones(len(rows))), latent, part, docs)


def better(fair: Agreement | None, rule: Agreement | None) -> bool:
    """Whether n-grams tell strong tokens better than the rule, and firing ones no worse."""
    if fair is None or fair.r <= 0:
        return False
    return rule is None or (fair.r > rule.r and fair.f1 >= rule.f1)


def _controlled(
    atlas: Atlas, latents: Sequence[int], test: Part, settings: Settings
) -> list[dict[str, Any]]:
    """The latents' rows with the control: each scored latent with another's patterns."""
    held = side.read_rows(atlas, NAME)
    rows = [held[latent] for latent in latents]
    able = [row for row in rows if row["r"] is not None and row["label"] is not None]
    order = [able[i] for i in np.random.default_rng(settings.seed).permutation(len(able))]
    for row in rows:
        row["control_r"] = row["control_auc"] = None
    if len(order) > 1:
        for row, other in zip(order, order[1:] + order[:1], strict=True):
            score = scored(pat.from_json(other["patterns"]), row["latent"], test, ())
            assert score is not None
            row["control_r"], row["control_auc"] = score.r, score.auc
    return rows
