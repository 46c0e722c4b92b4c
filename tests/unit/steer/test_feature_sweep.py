"""A feature's sweep: what it counts and asks is the feature's own promise, after which prompts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from monoscope.errors import ConfigError
from monoscope.steer.feature_sweep import sweep_feature
from monoscope.steer.promises import promised
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.sweep import Point, Progress, SweetSpot, sweep

LATENT, STRENGTHS = 5, (0.2, 0.6)


@pytest.fixture
def lm(lm):
    """The toy, reading what is no small letter as a blank, and remembering what it was asked."""

    class Forgiving(type(lm)):
        asked: list[str] = []  # noqa: RUF012 (one a test)

        def encode(self, texts):
            self.asked += texts
            small = ("".join(c if c in "abcdefghijklmnopqrstuvwxyz ." else " " for c in t.lower())
                     for t in texts)  # fmt: skip
            return super().encode(list(small))

    made = Forgiving()
    Forgiving.asked.clear()
    return made


@pytest.fixture
def sae(make_sae):
    return make_sae("resid_post.1", k=1)


def feature(*peaks, tops=(), says=()):
    """A feature whose strongest contexts peak on these letters."""
    contexts = [SimpleNamespace(pieces=["x", peak], peak=1) for peak in peaks]
    return SimpleNamespace(
        latent=LATENT, label="letters", label_tokens=list(says), top=contexts, top_tokens=list(tops)
    )


def test_what_is_counted_are_the_commonest_peaks_else_the_lens_else_what_is_given(lm):
    weights, tokens, basis = promised(lm, feature("b", "a", "a", " "))
    assert (tokens, basis) == (["a", "b"], "contexts")
    assert list(weights.values()) == [1.0, pytest.approx(0.6309, abs=1e-4)]  # 1/log2(2), 1/log2(3)
    assert promised(lm, feature("b", "a", says=["c", "no token", "d"]))[1:] == (["c", "d"], "label")
    assert promised(lm, feature("b", says=["no token"]))[1:] == (["b"], "contexts")
    assert promised(lm, feature("a", says=["c"]), ["z"])[1:] == (["z"], "given")
    assert promised(lm, feature(tops=["q"]))[1:] == (["q"], "logits")
    assert promised(lm, feature("a"), ["z"])[1:] == (["z"], "given")
    with pytest.raises(ConfigError, match="nothing to count"):
        promised(lm, feature())


def test_it_is_the_sweep_with_its_prompts_and_asking_spelt_out(lm, sae):
    task = sweep_feature(
        lm, sae, feature("a"), "once", strengths=STRENGTHS, max_new_tokens=5, seed=3
    )
    assert (task.ask, task.neutral) == ("Write about a.", NEUTRAL_PROMPTS)
    done: list[tuple[int, int]] = []
    result = task.result(lambda n, total: done.append((n, total)))
    prompts = ["once", *NEUTRAL_PROMPTS]
    ids = [[[*lm.prefix_ids, *e.ids] for e in lm.encode(texts)]
           for texts in (prompts, [f"Write about a.\n\n{p}" for p in prompts])]  # fmt: skip
    own = list(
        sweep(
            lm, sae, LATENT, {lm.encode(["a"])[0].ids[0]: 1.0}, prompts=ids[0], asked=ids[1],
            strengths=STRENGTHS, max_new_tokens=5, seed=3,
        )
    )  # fmt: skip
    assert list(result.points) == [e for e in own if isinstance(e, Point)]
    assert result.spot == own[-1] and isinstance(result.spot, SweetSpot)
    assert done == [(e.done, e.total) for e in own if isinstance(e, Progress)]
    told = result.to_json()
    assert [p["kind"] for p in told["points"]] == [p.kind for p in result.points]
    assert told["sweetspot"]["best"]["score"] == result.spot.best.score
    with pytest.raises(ConfigError, match="read already"):
        task.result()


def test_a_chat_is_tried_alone_and_asks_in_what_the_user_said_last(lm, sae):
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    task = sweep_feature(
        lm, sae, feature("a"), turns, ask="say a", strengths=STRENGTHS, max_new_tokens=2
    )
    assert task.neutral == ()
    assert "say a\n\nthree." in lm.asked and "one." in lm.asked
    assert turns[2]["content"] == "three"  # what was given stays as it was


def test_nothing_to_continue_is_refused_before_anything_is_written(lm, sae):
    for nothing in ("", []):
        with pytest.raises(ConfigError):
            sweep_feature(lm, sae, feature("a"), nothing)
