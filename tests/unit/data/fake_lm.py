"""A language model of a few lines, whose activations can be computed by hand."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monoscope.data.corpus import Document, is_held_out
from monoscope.errors import SiteError
from monoscope.sites import Site

PAD, BOS, EOS, SINK = 0, 1, 2, 3
VOCAB, D = 211, 5
WORDS = ("ash", "birch", "cedar", "elm", "fir", "gum", "hazel", "ivy", "juniper", "larch", "été")


@dataclass
class Tokens:
    ids: list[int]
    ends: list[int]


@dataclass
class FakeLM:
    """Each word is a token; x depends on the tokens of its row up to and including its own."""

    prefix_ids: tuple[int, ...] = (BOS,)
    dtype: torch.dtype = torch.float32
    context_length: int = 64
    special_ids: frozenset[int] = frozenset({PAD, BOS, EOS})
    pad_id: int = PAD
    identity: dict[str, str] = field(
        default_factory=lambda: {"model": "fake", "weights": "w0", "tokenizer": "t0"}
    )
    shapes: list[tuple[int, int]] = field(default_factory=list)  # of the captures asked for, and
    asked: list[tuple[str, ...]] = field(default_factory=list)  # at which sites
    encoded_chars: int = 0
    fail_after: int | None = None  # captures before a simulated crash

    def width(self, site: Site) -> int:
        return D

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        self.encoded_chars += sum(map(len, texts))
        return [self.encode_one(text) for text in texts]

    def encode_one(self, text: str) -> Tokens:
        found = list(re.finditer(r"\s*\S+|\s+$", text))
        return Tokens([token_id(m[0].strip()) for m in found], [m.end() for m in found])

    def capture_many(self, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> list[Tensor]:
        assert ids.shape == mask.shape
        assert mask.dtype == torch.bool
        assert ids.shape[1] <= self.context_length
        if self.fail_after is not None and len(self.shapes) >= self.fail_after:
            raise ConnectionError("the machine went away")
        self.shapes.append(tuple(ids.shape))
        self.asked.append(tuple(str(site) for site in sites))
        x = self.activations(ids)
        return [self.at(site, ids, x) for site in sites]

    def at(self, site: Site, ids: Tensor, x: Tensor) -> Tensor:
        return x

    def activations(self, ids: Tensor) -> Tensor:
        x = TABLE[ids]
        mixed = x + 0.1 * x.cumsum(1)
        mixed[ids == SINK] *= 1000
        return mixed.to(self.dtype)


class SitedLM(FakeLM):
    """A FakeLM with two layers that differ in width, in values and in where their sinks are."""

    def width(self, site: Site) -> int:
        if site.layer not in (0, 1):
            raise SiteError(f"the model has no layer {site.layer}", got=site)
        return D + 2 * site.layer

    def at(self, site: Site, ids: Tensor, x: Tensor) -> Tensor:
        if not site.layer:
            return x
        deeper = torch.cat([x, x[..., :2].square()], -1).flip(-1) - 1
        return torch.where((ids == SINK).unsqueeze(-1), deeper.sign(), deeper)


def token_id(word: str) -> int:
    if word in ("<eos>", "<sink>"):
        return EOS if word == "<eos>" else SINK
    return 4 + zlib.crc32(word.encode()) % (VOCAB - 4)


TABLE = torch.randn(VOCAB, D, generator=torch.Generator().manual_seed(7)) + torch.arange(D) / 3


class FakeCorpus:
    """A re-iterable list of documents."""

    def __init__(self, documents: Sequence[Document], name: str = "fake") -> None:
        self.documents = list(documents)
        self.description = {"kind": "texts", "name": name}
        self.fingerprint = f"{zlib.crc32(repr(self.documents).encode()):064x}"
        self.attribution = ["nobody"]

    def __iter__(self):
        return iter(self.documents)


def make_corpus(n: int, seed: int = 0, longest: int = 40) -> FakeCorpus:
    """n documents of 1 … longest words, with control tokens and sinks here and there."""
    draw = torch.Generator().manual_seed(seed)

    def number(below: int) -> int:
        return int(torch.randint(below, (1,), generator=draw))

    documents = []
    for i in range(n):
        words = [WORDS[number(len(WORDS))] + str(number(30)) for _ in range(1 + number(longest))]
        if i % 3 == 0:
            words[number(len(words))] = "<eos>"
        if i % 4 == 1:
            words[number(len(words))] = "<sink>"
        documents.append(Document(" ".join(words), {"number": str(i), "lang": "de"}))
    return FakeCorpus(documents)


@dataclass
class Expected:
    """What a store must hold, worked out document by document, a token at a time."""

    rows: dict[tuple[int, int], Tensor]  # (doc, pos) -> x
    token_ids: dict[tuple[int, int], int]
    split: dict[int, str]


def by_hand(
    lm: FakeLM, corpus: FakeCorpus, n_docs: int, window: int, max_doc_tokens: int, held_out: float
) -> Expected:
    """Every real token that is not special, sinks included."""
    expected = Expected({}, {}, {})
    for doc, document in enumerate(corpus.documents[:n_docs]):
        ids = lm.encode_one(document.text).ids[:max_doc_tokens]
        expected.split[doc] = "held_out" if is_held_out(document.key, held_out) else "train"
        for start in range(0, len(ids), window):
            row = [*lm.prefix_ids, *ids[start : start + window]]
            x = lm.activations(torch.tensor([row]))[0, len(lm.prefix_ids) :]
            for offset, token in enumerate(ids[start : start + window]):
                if token not in lm.special_ids:
                    expected.rows[doc, start + offset] = x[offset]
                    expected.token_ids[doc, start + offset] = token
    return expected
