"""What the API answers about features, documents and annotations, as typed models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

Latent = Annotated[int, Field(ge=0, lt=2**31)]
_LIST_NAME = r"^[^/\x00-\x1f]+$"
ListName = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=_LIST_NAME)]


class Bins(BaseModel):
    """A histogram's counts from bin `start` on, empty bins at both ends left out."""

    start: int
    counts: list[int]


class Context(BaseModel):
    """Text token by token; values: the latent on each, null where it was not recorded."""

    pieces: list[str]
    values: list[float | None]
    peak: int


class FeatureRow(BaseModel):
    """A latent in a list. label_f1, label_auc: the rule's, null under a human's label."""

    latent: int
    label: str | None
    label_method: str | None
    label_f1: float | None
    label_auc: float | None
    n_active: int
    density: float
    max: float
    interest: float
    hist: Bins
    tokens: list[str]
    context: Context | None


class FeaturePage(BaseModel):
    """One page of a list. total: how many the whole list holds; next_cursor: null on the last."""

    items: list[FeatureRow]
    total: int
    sort: str
    next_cursor: str | None


class Label(BaseModel):
    """What a latent is called, and how that was got.

    method: "human", "llm", "ngram", "rule" or null. f1, auc: of the rule or n-grams on held-out
    documents, base: the share of held-out tokens on which the latent fires. rule: the rule as data
    with its counts.
    explanation: a language model's words with their scores and evidence, used as the label or not;
    under "llm", auc is its detection AUC and f1 is null. judged: every label and score there is, by
    any method. output: what it writes when turned up; reads: its label's AUC, a human's left aside;
    does: "reads", "writes", "both", "neither", or null where that is not known.
    """

    text: str | None
    method: str | None
    f1: float | None
    auc: float | None
    base: float | None
    rule_text: str | None
    rule: dict[str, Any] | None
    explanation: dict[str, Any] | None
    judged: list[dict[str, Any]]
    output: dict[str, Any] | None
    reads: float | None
    does: str | None
    n_changes: int


class ExampleOut(BaseModel):
    """A place where the latent fires. band: 0 (weakest) … 4, null for the strongest contexts."""

    kind: str
    band: int | None
    rank: int
    value: float
    doc: int
    pos: int
    start: int
    n_tokens: int
    pieces: list[str]
    values: list[float]
    peak: int
    split: str
    meta: dict[str, str]


class Logit(BaseModel):
    """A vocabulary entry and how much the direction raises it, by the logit lens."""

    token: str
    logit: float


class NeighbourOut(BaseModel):
    """Another latent nearby; the figures are defined in the atlas's definitions."""

    latent: int
    kind: Literal["decoder", "coactivation"]
    cosine: float
    jaccard: float
    pmi: float | None
    n_both: int
    label: str | None
    density: float
    max: float
    hist: Bins


class MetaShare(BaseModel):
    """share: of the latent's activation on documents with this value; base: of all tokens."""

    name: str
    share: float
    base: float | None


class KinOut(BaseModel):
    """A latent of another SAE that this one is a part of, or that is a part of this one.

    cosine: of decoder rows; n_active, n_both: tokens read on which it, and on which both fire;
    contingency: parent_given_child less P(parent fires | child silent); agrees: whether by_firing,
    the latent of the smaller SAE with the highest contingency, is the parent by direction too.
    """

    latent: int
    label: str | None
    cosine: float
    n_active: int
    n_both: int
    parent_given_child: float
    contingency: float
    agrees: bool
    by_firing: int | None


class RelationOut(BaseModel):
    """A feature's parent in one smaller SAE, or its children in one larger.

    id: the other atlas as the list of atlases has it, null where it is not among them; name: its
    folder; chance: a cosine that chance gives; trouble: why its labels cannot be read, or null.
    """

    id: str | None
    name: str
    d_sae: int
    n_tokens: int
    chance: float
    trouble: str | None
    kin: list[KinOut]


class FeatureDetail(BaseModel):
    """All that the atlas knows of one latent."""

    latent: int
    label: Label
    note: str
    lists: list[str]
    n_active: int
    n_tokens: int
    density: float
    mean: float
    std: float
    max: float
    hist: Bins
    examples: list[ExampleOut]
    raises: list[Logit] | None
    lowers: list[Logit] | None
    lens_reason: str | None
    neighbours: list[NeighbourOut]
    part_of: RelationOut | None
    splits_into: RelationOut | None
    meta: list[MetaShare]


class Around(BaseModel):
    """Where a latent stands in a list: its rank from 1 (null: not in it) and its neighbours."""

    latent: int
    previous: int | None
    next: int | None
    rank: int | None
    total: int


class Facet(BaseModel):
    """One value of a facet and how many of the latents found have it; term: its filter."""

    name: str
    count: int
    term: str


class FigureFacet(BaseModel):
    """How a figure is spread over the latents found: edges [n + 1], counts [n]."""

    name: str
    edges: list[float]
    counts: list[int]
    unknown: int


class Facets(BaseModel):
    """What the latents found are like."""

    total: int
    status: list[Facet]
    meta: dict[str, list[Facet]]
    lists: list[Facet]
    figures: list[FigureFacet]


class DocumentOut(BaseModel):
    """A whole document, token by token, with one latent's activation where the atlas recorded it.

    values: null outside the recorded windows; documents are recorded where they hold an example.
    """

    doc: int
    split: str
    pieces: list[str]
    values: list[float | None]
    meta: dict[str, str]
    n_recorded: int


class MapInfo(BaseModel):
    """Whether the atlas has a map; hint: how to make one."""

    available: bool
    n: int
    hint: str | None = None


class LabelChange(BaseModel):
    """A label as a human set it at a time (UTC); text null: it was removed."""

    text: str | None
    changed: str


class LabelHistory(BaseModel):
    """Every label that a human gave, the newest first."""

    items: list[LabelChange]


class Text(BaseModel):
    """What a person writes; blank text removes."""

    text: str = Field(max_length=20_000)


class LabelText(BaseModel):
    """A label as a person writes it, one line; blank text removes it."""

    text: str = Field(max_length=400)


class Lists(BaseModel):
    """Lists of latents by name."""

    lists: dict[str, list[int]]


class AnnotationsOut(BaseModel):
    """Everything humans wrote about this SAE's latents."""

    sae: str
    labels: dict[int, str]
    notes: dict[int, str]
    lists: dict[str, list[int]]
