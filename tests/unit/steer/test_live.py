"""Side by side, token by token: the same texts and figures as the whole comparison at once."""

from __future__ import annotations

import pytest
import torch

from monoscope.errors import ConfigError, DataError, MismatchError
from monoscope.steer import Add, Cap, Scale, Set, generate, side_by_side
from monoscope.steer.generate import prompt_ids

PROMPT = "once upon a time"


def both(lm, edits=(), **settings):
    tokens = list(side_by_side(lm, prompt_ids(lm, PROMPT), edits=edits, **settings))
    return [t for t in tokens if t.side == "default"], [t for t in tokens if t.side == "steered"]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 4}])
@pytest.mark.parametrize("where", ["all", "generated", "when:4"])
def test_texts_and_figures_are_those_of_generate(lm, make_sae, settings, where):
    edits = [
        Add(make_sae(seed=1), 3, times_norm=1.0, where=where),
        Set(make_sae("resid_post.1", seed=2), 5, times_norm=2.0, where=where.replace("4", "9")),
    ]
    whole = generate(lm, PROMPT, edits=edits, max_new_tokens=25, **settings)
    default, steered = both(lm, edits, max_new_tokens=25, **settings)
    assert "".join(t.text for t in default) == whole.default
    assert "".join(t.text for t in steered) == whole.steered
    assert whole.kl > 1e-3
    said = [t for t in steered if not t.ended]
    for live, scored in zip(said, whole.tokens, strict=True):
        assert live.token_id == scored.token_id
        assert live.logp == pytest.approx(scored.logp_steered, abs=1e-4)
        assert live.logp_default == pytest.approx(scored.logp_default, abs=1e-4)
    assert sum(t.kl for t in said) / len(said) == pytest.approx(whole.kl, abs=1e-4)
    if len(said) == 25:  # an end of text is drawn after one more position was read
        assert steered[-1].relative_norm == pytest.approx(whole.relative_norm, rel=1e-5)


@pytest.mark.parametrize(
    "edit", [None, lambda sae: Scale(sae, 2, 1.0), lambda sae: Cap(sae, 2, 1e6)]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_an_effective_edit_the_sides_are_equal(lm, make_sae, edit, temperature):
    edits = [edit(make_sae())] if edit else []
    default, steered = both(lm, edits, max_new_tokens=20, temperature=temperature)
    assert [t.token_id for t in default] == [t.token_id for t in steered]
    assert all(t.kl == 0 and t.relative_norm == 0 for t in steered)
    assert all(t.logp == t.logp_default for t in steered)


def test_tokens_come_in_turn_and_the_longer_side_goes_on_alone(lm, make_sae):
    sae = make_sae("resid_post.1")
    with torch.no_grad():
        sae.W_dec[3] = lm.unembed[:, 1]  # the direction of the end of text
    tokens = list(
        side_by_side(
            lm, prompt_ids(lm, PROMPT), edits=[Add(sae, 3, 8.0, where="generated")],
            max_new_tokens=12,
        )
    )  # fmt: skip
    (end,) = [t.index for t in tokens if t.side == "steered" and t.ended]
    assert 0 < end < 11
    together, alone = tokens[: 2 * end + 2], tokens[2 * end + 2 :]
    assert [t.side for t in together] == ["default", "steered"] * (end + 1)
    assert [(t.side, t.index) for t in alone] == [("default", i) for i in range(end + 1, 12)]
    assert next(t for t in tokens if t.ended).text == ""


def test_kl_by_hand(lm, make_sae):
    edit = Add(make_sae(), 3, times_norm=2.0)
    _, steered = both(lm, [edit], max_new_tokens=1)
    given = torch.tensor([prompt_ids(lm, PROMPT)])
    x = lm.embed[given][0].double()
    logits = []
    for push in (True, False):
        h = x
        for layer, (mix, out) in enumerate(lm.blocks):
            small = torch.where((h.norm(dim=-1) < 50)[:, None], h, 0.0)
            mean = small.cumsum(0) / torch.arange(1, len(h) + 1)[:, None]
            h = h + torch.tanh(mean @ mix.double() + small) @ out.double()
            if push and layer == 0:
                move = edit.strength * edit.sae.W_dec[3].detach().double()
                h = torch.cat([h[:1], h[1:] + move])
        logits.append((h[-1] @ lm.unembed.double()).log_softmax(-1))
    p, q = logits
    assert steered[0].kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
    assert steered[0].logp_default == pytest.approx(float(q[steered[0].token_id]), abs=1e-4)


def test_what_cannot_be_written_is_said_at_once(lm, make_sae):
    given = prompt_ids(lm, PROMPT)
    with pytest.raises(ConfigError, match="outgrow"):
        side_by_side(lm, given, max_new_tokens=10**9)
    with pytest.raises(DataError, match="empty"):
        side_by_side(lm, [])
    with pytest.raises(ConfigError, match="top_p"):
        side_by_side(lm, given, top_p=2)
    with pytest.raises(MismatchError):
        side_by_side(lm, given, edits=[Add(make_sae(model={"weights": "w9"}), 1, 2.0)])
