"""What an atlas tells about a latent: its page, and its line in a list."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from monoscope.features.does import does
from monoscope.features.label_tokens import label_tokens
from monoscope.features.lineage import Relation
from monoscope.features.methods import judged


@dataclass(frozen=True)
class Example:
    """A place in the corpus where the latent fires.

    kind: "top" or "band"; band: 0 (weakest) … 4, None for top; rank: from 0, strongest first.
    pieces: the text token by token around the place (together, the text as it stands); values: the
    activation on each, 0 where silent or masked; peak: which of them is the example's own token.
    doc, pos: that token's document and number in it; start: the number of the first piece.
    """

    kind: str
    band: int | None
    rank: int
    value: float
    doc: int
    pos: int
    token: str
    start: int
    pieces: list[str]
    values: list[float]
    peak: int
    split: str
    meta: dict[str, str]

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Neighbour:
    """Another latent near this one, by `kind` "decoder" or "coactivation", best first.

    cosine: of the decoder rows; n_both: tokens on which both fire; jaccard, pmi (nats; None where
    never both): of firing on the same tokens. label: the other's.
    """

    other: int
    kind: str
    rank: int
    cosine: float
    jaccard: float
    pmi: float | None
    n_both: int
    label: str | None


@dataclass(frozen=True)
class Feature:
    """All that the atlas knows of one latent; the figures are defined in atlas.json.

    label: a human's if there is one, else a language model's that earned it, else n-grams' or the
    rule's, whichever predicts better; label_method says which ("human", "llm", "ngram", "rule").
    label_f1, label_auc, label_base: its scores, None under a human's label, which has none; a
    language model's has no F1, and its AUC is that of detection on windows of text. rule_label,
    label_rule: the rule's own label and the rule as data, whoever labelled. explanation: the
    language model's words, scores and evidence, kept or not; None where none was asked.
    ngram, similarity, output, judgement: its rows of the tables that further methods leave (see
    docs/labels.md), None where they were not run on it. reads: the held-out AUC of its label, a
    human's left aside. part_of, splits_into: its parent in a smaller SAE, its children in a larger
    one; None where `monoscope split` did not tie the atlas to such.
    top_tokens, top_logits: vocabulary entries that the direction raises most; bottom_…: lowers
    most, lowest first. None if the index was made without a language model.
    """

    latent: int
    n_active: int
    density: float
    mean: float
    std: float
    max: float
    hist: list[int]
    meta_mass: dict[str, float]
    top_tokens: list[str] | None
    top_logits: list[float] | None
    bottom_tokens: list[str] | None
    bottom_logits: list[float] | None
    label: str | None
    label_method: str | None
    label_f1: float | None
    label_auc: float | None
    label_base: float | None
    rule_label: str | None
    label_rule: dict[str, Any] | None
    examples: list[Example]
    neighbours: list[Neighbour]
    explanation: dict[str, Any] | None = None
    ngram: dict[str, Any] | None = None
    similarity: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    judgement: dict[str, Any] | None = None
    reads: float | None = None
    part_of: Relation | None = None
    splits_into: Relation | None = None

    @property
    def top(self) -> list[Example]:
        """The strongest contexts, at most one per document."""
        return [example for example in self.examples if example.kind == "top"]

    @property
    def label_tokens(self) -> list[str]:
        """The tokens that its label carries, see `label_tokens.label_tokens`."""
        return label_tokens(self.label, self.label_method, self.label_rule, self.ngram)

    @property
    def does(self) -> str | None:
        """Whether it "reads", "writes", does "both" or "neither", see `outputs.does`."""
        return does(self.reads, None if self.output is None else self.output["writes"])

    def band(self, band: int) -> list[Example]:
        """The sampled contexts of one activation band, 0 (weakest) … 4."""
        return [example for example in self.examples if example.band == band]

    def to_json(self) -> dict[str, Any]:
        """The page as plain JSON values."""
        told = [one.to_json() for one in judged(self)]
        return {**asdict(self), "does": self.does, "judged": told}


@dataclass(frozen=True)
class Row:
    """A latent in a list. tokens: the commonest tokens of its top contexts.

    label_f1, label_auc: the rule's scores on held-out documents, None under a human's label.
    match: in a search, what was hit ("label", "token", "logit"), and matched: the text that was.
    """

    latent: int
    label: str | None
    label_method: str | None
    label_f1: float | None
    label_auc: float | None
    n_active: int
    density: float
    max: float
    hist: list[int]
    interest: float
    tokens: list[str]
    match: str | None = None
    matched: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return asdict(self)
