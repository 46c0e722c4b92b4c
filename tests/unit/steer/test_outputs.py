"""Output scores of many latents at once: each against the one-by-one score, and their control."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monoscope.errors import ConfigError, LatentError, ModelError
from monoscope.steer.outputs import draw_others, lens_promises, output_scores
from monoscope.steer.screen import by_rank, output_score

PROMPTS = ("the sea", "a day")
OWN = {0: "ab", 1: "bc", 2: "", 3: "d"}


class Fake:
    """An atlas in which latent i fires on the letters OWN[i], the first of them oftenest."""

    def feature(self, latent):
        letters = OWN[latent]
        top = [
            SimpleNamespace(pieces=["x", letter], peak=1)
            for n, letter in enumerate(letters)
            for _ in range(9 - n)
        ]
        return SimpleNamespace(
            latent=latent, label=None, label_tokens=[], top=top, top_tokens=["q"]
        )


def ids(lm, letters):
    return [lm.encode([letter])[0].ids[0] for letter in letters]


def test_every_score_is_that_of_the_latent_by_itself(lm, make_sae):
    sae, others = make_sae(), {0: 1, 1: 3, 2: 0, 3: 2}
    found = output_scores(lm, sae, Fake(), list(OWN), others=others, prompts=PROMPTS, seed=3)
    assert [o.latent for o in found] == list(OWN)
    logits = lm.lens(sae.W_dec.detach())
    for o in found:
        own, other = OWN[o.latent], OWN[others[o.latent]]
        strange = by_rank(ids(lm, other))
        strange = {t: w for t, w in strange.items() if t not in ids(lm, own)}
        wanted = {
            "writes": by_rank(ids(lm, own)),
            "lens": by_rank(logits[o.latent].topk(10).indices.tolist()),
            "control": strange,
        }
        for name, promise in wanted.items():
            mine = getattr(o, name)
            if not promise:
                assert mine is None
                continue
            alone = output_score(lm, sae, {o.latent: promise}, prompts=PROMPTS, seed=3)[0]
            assert mine.score == pytest.approx(alone.score, abs=1e-5)
            assert mine.random == pytest.approx(alone.random, abs=1e-6)
        assert o.tokens == list(own)
    assert found[0].control is not None and found[2].writes is None


def test_a_direction_that_writes_its_letter_is_told_from_one_that_does_not(lm, make_sae):
    sae = make_sae(site="resid_post.1")  # the last block: what is written here is said
    with torch.no_grad():
        a, d = ids(lm, "ad")
        sae.W_dec[0] = lm.unembed[:, a]
        sae.W_dec[3] = -lm.unembed[:, d]
    found = output_scores(lm, sae, Fake(), [0, 3], prompts=PROMPTS, times_norm=1.0)
    assert found[0].writes.score > 0.5 > 0 > found[1].writes.score
    assert found[0].lens_tokens[0] == "a"


def test_what_a_label_carries_is_its_promise_and_the_basis_is_said(lm, make_sae):
    """Whatever the contexts peak on; without tokens in the label, they are the promise."""

    class Labelled(Fake):
        def feature(self, latent):
            made = super().feature(latent)
            made.label_tokens = ["d", "c"] if latent == 0 else []
            return made

    sae = make_sae()
    found = output_scores(lm, sae, Labelled(), [0, 1, 2], others={1: 0}, prompts=PROMPTS, seed=3)
    assert [o.basis for o in found] == ["label", "contexts", None]
    assert found[0].tokens == ["d", "c"] and found[1].tokens == ["b", "c"]
    wanted = by_rank(ids(lm, "dc"))
    alone = output_score(lm, sae, {0: wanted}, prompts=PROMPTS, seed=3)[0]
    assert found[0].writes.score == pytest.approx(alone.score, abs=1e-5)


def test_groups_are_told_as_they_are_done_and_others_are_others(lm, make_sae, monkeypatch):
    monkeypatch.setattr("monoscope.steer.outputs._TILE", 3)
    told: list = []
    output_scores(lm, make_sae(), Fake(), [3, 1, 0, 2], prompts=PROMPTS, done=told.append)
    assert [[o.latent for o in group] for group in told] == [[3, 1, 0], [2]]
    others = draw_others([4, 5, 6, 7], 1)
    assert sorted(others) == sorted(others.values()) == [4, 5, 6, 7]
    assert all(a != b for a, b in others.items()) and draw_others([4], 1) == {}


def test_without_a_lens_there_is_no_promise_of_its_own_kind(lm, make_sae, monkeypatch):
    def no_lens(directions):
        raise ModelError("no final norm")

    monkeypatch.setattr(lm, "lens", no_lens)
    assert lens_promises(lm, make_sae(), [0]) == {}
    found = output_scores(lm, make_sae(), Fake(), [0], prompts=PROMPTS)[0]
    assert found.lens is None and found.writes is not None and found.control is None
    with pytest.raises(LatentError):
        output_scores(lm, make_sae(), Fake(), [99], prompts=PROMPTS)
    with pytest.raises(ConfigError, match="n_random"):
        output_scores(lm, make_sae(), Fake(), [0], prompts=PROMPTS, n_random=0)
