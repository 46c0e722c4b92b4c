"""Features on a text, against codes computed by hand from the model's own activations."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.data.masking import MaskPolicy
from monoscope.errors import ConfigError, CorpusError, MismatchError
from monoscope.features.text import (
    TextFeatures,
    differences,
    features_on_chat,
    features_on_text,
)
from monoscope.lm.protocol import Encoded
from monoscope.ops.codes import SparseCodes
from monoscope.sites import Site

D, L, BOS, PAD = 6, 9, 1, 0


class LM:
    """Reads characters; an activation depends on the token and the tokens before it in its row."""

    name, pad_id, prefix_ids, special_ids = "toy", PAD, (BOS,), frozenset({BOS, PAD})
    context_length, device, dtype = 64, torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.identity = {"model": "toy", "weights": "w" * 20, "tokenizer": "t" * 20}
        self.table = torch.randn(300, D, generator=torch.Generator().manual_seed(0))
        self.seen: list[list[int]] = []

    def width(self, site: Site) -> int:
        assert str(site) == "resid_post.1"
        return D

    def encode(self, texts: list[str]) -> list[Encoded]:
        return [Encoded([ord(c) for c in t], list(range(1, len(t) + 1))) for t in texts]

    def capture(self, ids: Tensor, mask: Tensor, site: Site) -> Tensor:
        self.seen += [row[m].tolist() for row, m in zip(ids, mask, strict=True)]
        x = self.table[ids] * mask[..., None]
        x = x + 0.1 * x.cumsum(1)
        return torch.where((ids == ord("!"))[..., None], x * 1000, x)  # an attention sink


class SAE:
    def __init__(self, **provenance: Any) -> None:
        self.W = torch.randn(L, D, generator=torch.Generator().manual_seed(1))
        self.W_dec = self.W
        self.config = SimpleNamespace(d_in=D, d_sae=L)
        policy = MaskPolicy((BOS, PAD), max_norm=50.0).to_dict()
        self.provenance = {"site": "resid_post.1", "mask_policy": policy} | provenance

    def encode(self, x: Tensor) -> SparseCodes:
        return SparseCodes.from_dense((x @ self.W.T - 1.0).relu())


def by_hand(lm: LM, sae: SAE, text: str, step: int) -> Tensor:
    """Codes [S, L] of each character, from its own window computed alone."""
    rows = []
    for at, char in enumerate(text):
        start = at // step * step
        ids = torch.tensor([[BOS, *map(ord, text[start : at + 1])]])
        x = lm.capture(ids, torch.ones_like(ids, dtype=torch.bool), Site.parse("resid_post.1"))
        code = sae.encode(x[0, -1:]).to_dense()[0]
        rows.append(torch.zeros(L) if char == "!" else code)
    return torch.stack(rows)


@pytest.mark.parametrize("context_length", [128, 8, 2])
def test_every_value_is_the_one_computed_by_hand(context_length: int) -> None:
    lm, sae, text = LM(), SAE(), "the cat! sat on the mat, and so on."
    got = features_on_text(lm, sae, text, context_length=context_length)
    want = by_hand(lm, sae, text, min(context_length, 64) - 1)
    assert "".join(token.piece for token in got.tokens) == text
    assert [t.kept for t in got.tokens] == [c != "!" for c in text]
    for latent in range(L):
        assert got.values(latent) == pytest.approx(want[:, latent].tolist(), abs=1e-5)
    for token in got.tokens:
        values = [v for _, v in token.active]
        assert values == sorted(values, reverse=True) and all(v > 0 for v in values)


def test_totals_add_up_and_rank() -> None:
    got = features_on_text(LM(), SAE(), "abcabcaXbc")
    assert len(got.totals) > 3
    for total in got.totals:
        values = got.values(total.latent)
        assert total.sum == pytest.approx(sum(values))
        assert total.max == max(values) == values[total.peak]
        assert total.n_tokens == sum(v > 0 for v in values)
    assert [t.sum for t in got.totals] == sorted((t.sum for t in got.totals), reverse=True)
    assert [t.max for t in got.ranked("max")] == sorted((t.max for t in got.totals), reverse=True)
    assert {t.latent for t in got.totals} == {i for t in got.tokens for i, _ in t.active}


def test_latents_left_out_are_gone_from_tokens_and_totals_and_the_rest_stays() -> None:
    got = features_on_text(LM(), SAE(), "abcabcaXbc!")
    out = {got.totals[0].latent, got.totals[2].latent}
    rest = got.without(out)
    assert [t for t in got.totals if t.latent not in out] == list(rest.totals)
    assert [len(t.active) for t in rest.tokens] == [
        sum(i not in out for i, _ in t.active) for t in got.tokens
    ]
    for latent in range(L):
        assert rest.values(latent) == ([0.0] * 11 if latent in out else got.values(latent))
    assert got.without(set()) == got


def test_every_window_starts_with_the_prefix_and_none_is_too_long() -> None:
    lm = LM()
    features_on_text(lm, SAE(), "x" * 100, context_length=8)
    assert len(lm.seen) == 15 and all(row[0] == BOS and len(row) <= 8 for row in lm.seen)
    assert sum(len(row) - 1 for row in lm.seen) == 100
    lm.seen.clear()
    features_on_text(lm, SAE(), "x" * 100, context_length=10_000)
    assert max(len(row) for row in lm.seen) == lm.context_length


def test_json_holds_the_same_and_can_be_cut() -> None:
    got = features_on_text(LM(), SAE(), "abc!")
    data = json.loads(json.dumps(got.to_json(per_token=2, limit=3)))
    assert data["text"] == "abc!" and data["site"] == "resid_post.1"
    assert [t["piece"] for t in data["tokens"]] == list("abc!")
    assert data["tokens"][3] == {"piece": "!", "token_id": 33, "kept": False, "active": []}
    first = got.tokens[0].active[0]
    assert data["tokens"][0]["active"][0] == {"latent": first[0], "value": first[1]}
    assert all(len(t["active"]) <= 2 for t in data["tokens"])
    assert [t["latent"] for t in data["totals"]] == [t.latent for t in got.totals[:3]]
    assert len(got.to_json()["totals"]) == len(got.totals)


def test_a_text_of_masked_tokens_has_no_features() -> None:
    got = features_on_text(LM(), SAE(), "!!")
    assert isinstance(got, TextFeatures) and got.totals == ()


def test_without_a_recorded_policy_only_special_tokens_are_masked() -> None:
    got = features_on_text(LM(), SAE(mask_policy=None), "a!\x01")
    assert [t.kept for t in got.tokens] == [True, True, False]


def test_mistakes_are_named() -> None:
    with pytest.raises(CorpusError, match="no tokens"):
        features_on_text(LM(), SAE(), "")
    with pytest.raises(ConfigError, match="does not say where"):
        features_on_text(LM(), SAE(site=None), "a")
    with pytest.raises(ConfigError, match="window is too small: got context_length 1"):
        features_on_text(LM(), SAE(), "a", context_length=1)
    with pytest.raises(MismatchError, match=r"another model \(weights differ\)"):
        features_on_text(LM(), SAE(model={"weights": "other"}), "a")
    sae = SAE()
    sae.config.d_in = 99
    with pytest.raises(MismatchError, match="got d_in 99"):
        features_on_text(LM(), sae, "a")


def test_two_texts_differ_by_mean_over_the_tokens_that_count():
    lm, sae = LM(), SAE()
    a, b = (features_on_text(lm, sae, text) for text in ("ab!c", "xyz"))
    codes = [by_hand(lm, sae, text, 127) for text in ("ab!c", "xyz")]
    codes[0][2] = 0  # the sink is masked, and is not among the tokens that the mean is over
    gap = codes[0].sum(0) / 3 - codes[1].sum(0) / 3
    told = differences(a, b)
    assert {row.latent for row in told} == set(torch.nonzero(gap).flatten().tolist())
    assert [row.difference for row in told] == pytest.approx(
        sorted((float(g) for g in gap if g), reverse=True), abs=1e-5
    )
    for row in told:
        assert row.a - row.b == pytest.approx(float(gap[row.latent]), abs=1e-5)
    assert [r.latent for r in differences(a, b, 1)] == [told[0].latent, told[-1].latent]


def test_a_chat_is_read_in_the_template_without_another_prefix():
    class Chatty(LM):
        def chat(self, messages):
            return [BOS, *(ord(c) for m in messages for c in f"{m['role'][0]}:{m['content']};")]

        def decode(self, ids):
            return "".join(map(chr, ids))

    lm, sae = Chatty(), SAE()
    found = features_on_chat(lm, sae, [{"role": "user", "content": "hi"}])
    assert found.text == "\x01u:hi;"
    assert [t.kept for t in found.tokens] == [False] + [True] * 5
    assert lm.seen == [[BOS, *map(ord, "u:hi;")]]


def test_totals_are_told_in_the_order_asked_for():
    found = features_on_text(LM(), SAE(), "what fires here?")
    for by in ("sum", "max", "n_tokens"):
        told = found.to_json(by=by, limit=4)["totals"]
        assert [t[by] for t in told] == sorted((t[by] for t in told), reverse=True)
        assert [t["latent"] for t in told] == [t.latent for t in found.ranked(by)[:4]]
