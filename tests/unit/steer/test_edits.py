"""Edits as values: units, limits, and the written form."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoscope.artifact.checks import weights_hash
from monoscope.errors import ConfigError, LatentError, MismatchError
from monoscope.sae import SAE, SAEConfig
from monoscope.steer import Ablate, Add, Cap, Scale, Set, parse_edit

PLAIN = SAE(
    SAEConfig(d_in=4, d_sae=9, activation="topk", k=2),
    {"site": "resid_post.0", "norm_stats": {"median_norm": 3.0}, "latent_max": [2.0] * 9},
)
with torch.no_grad():
    PLAIN.W_dec.copy_(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", [Add, Set, Cap])
def test_strength_in_each_unit(make_sae, kind):
    sae = make_sae()
    norm = float(sae.W_dec[5].detach().double().pow(2).sum()) ** 0.5
    assert kind(sae, 5, 7.5).strength == 7.5
    assert kind(sae, 5, value=3).strength == 3
    assert kind(sae, 5, times_max=2.5).strength == 2.5 * 6.0  # latent_max[5] is 6
    in_norms = kind(sae, 5, times_norm=0.5)
    assert in_norms.strength * norm == pytest.approx(0.5 * 4.0, rel=1e-12)


@pytest.mark.parametrize("kind", [Add, Set])
def test_a_negative_strength(make_sae, kind):
    assert kind(make_sae(), 5, -7.5).strength == -7.5
    assert kind(make_sae(), 5, times_max=-1).strength == -6.0


@pytest.mark.parametrize("strength", [{"value": -1e-9}, {"times_max": -1}, {"times_norm": -0.1}])
def test_a_cap_below_zero_is_no_cap(make_sae, strength):
    with pytest.raises(ConfigError, match="0 or above"):
        Cap(make_sae(), 5, **strength)


@pytest.mark.parametrize("kind", [Add, Set])
@pytest.mark.parametrize(
    "strength", [{}, {"value": 1.0, "times_max": 2.0}, {"times_max": 1.0, "times_norm": 0.0}]
)
def test_exactly_one_unit(make_sae, kind, strength):
    with pytest.raises(ConfigError, match="exactly one strength"):
        kind(make_sae(), 1, **strength)


@pytest.mark.parametrize("latent", [-1, 17, 10_000])
@pytest.mark.parametrize("build", [Ablate, lambda sae, i: Set(sae, i, 2.0)])
def test_latent_out_of_range_names_the_range(make_sae, latent, build):
    with pytest.raises(LatentError, match=r"0 to 16.*`monoscope features ATLAS`"):
        build(make_sae(), latent)


@pytest.mark.parametrize("latent", [True, 1.0, "3"])
def test_latent_must_be_a_whole_number(make_sae, latent):
    with pytest.raises(LatentError, match="whole number"):
        Ablate(make_sae(), latent)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "5", True])
def test_strength_must_be_a_finite_number(make_sae, bad):
    sae = make_sae()
    for build in (lambda: Add(sae, 0, bad), lambda: Scale(sae, 0, bad)):
        with pytest.raises(ConfigError, match="finite number"):
            build()


BAD_PLACES = (
    "last| |when|when:|when:x|when:-1|when:3:|when:3:-1|when:3:nan|when:3:1e999|when:3.5|ALL"
)


@pytest.mark.parametrize("where", [*BAD_PLACES.split("|"), "", None, 3])
def test_unknown_positions(make_sae, where):
    with pytest.raises(ConfigError, match="all, given, prompt, generated, when:LATENT"):
        Ablate(make_sae(), 0, where=where)


def test_the_latent_of_a_condition_must_exist(make_sae):
    assert Ablate(make_sae(), 0, where="when:16").place.when == 16
    with pytest.raises(LatentError, match="0 to 16"):
        Ablate(make_sae(), 0, where="when:17")


def test_max_comes_from_the_atlas_before_the_sae(make_sae):
    asked = []

    def feature(latent):
        asked.append(latent)
        return SimpleNamespace(max=50.0)

    sae = make_sae()
    atlas = SimpleNamespace(feature=feature, manifest={"sae": {"hash": weights_hash(sae)}})
    edit = Set(sae, 4, times_max=2, atlas=atlas)
    assert edit.strength == 100.0
    assert edit.coefficient(torch.ones(3)).tolist() == [99.0] * 3
    assert asked == [4]  # not once a token


@pytest.mark.parametrize("leaf", ["W_enc", "threshold"])
def test_the_maximum_is_not_taken_from_another_saes_atlas(make_sae, leaf):
    mine, other = make_sae(), make_sae()
    with torch.no_grad():
        getattr(other, leaf).view(-1)[0] += 1  # of the same shape
    atlas = SimpleNamespace(
        feature=lambda latent: SimpleNamespace(max=50.0),
        manifest={"sae": {"hash": weights_hash(other)}},
    )
    assert parse_edit("4=set:2max", other, atlas=atlas).strength == 100.0
    with pytest.raises(MismatchError, match=f"expected {weights_hash(other)[:12]}"):
        parse_edit("4=set:2max", mine, atlas=atlas)
    assert parse_edit("4=set:2", mine, atlas=atlas).strength == 2.0  # which reads nothing there


def test_times_max_without_a_maximum_says_how_to_get_one(make_sae):
    with pytest.raises(ConfigError, match="atlas="):
        Set(make_sae(latent_max=None), 4, times_max=2)


def test_times_max_of_a_latent_that_never_fired(make_sae):
    sae = make_sae(latent_max=[0.0] * 17)
    with pytest.raises(ConfigError, match="never fired"):
        Set(sae, 4, times_max=2)


def test_maxima_of_another_sae(make_sae):
    with pytest.raises(MismatchError, match="17, one a latent"):
        Set(make_sae(latent_max=[1.0, 2.0]), 1, times_max=2)


def test_times_norm_without_a_norm(make_sae):
    with pytest.raises(ConfigError, match="median_norm"):
        Add(make_sae(norm_stats=None), 4, times_norm=1)


def test_times_norm_of_a_row_of_zeros(make_sae):
    sae = make_sae()
    with torch.no_grad():
        sae.W_dec[3] = 0
    with pytest.raises(ConfigError, match="no direction"):
        Add(sae, 3, times_norm=1)


def test_site_is_the_saes_own(make_sae):
    assert str(Ablate(make_sae(site="resid_post.1"), 0).site) == "resid_post.1"
    with pytest.raises(ConfigError, match="site"):
        _ = Ablate(make_sae(site=None), 0).site


def test_edits_are_frozen(make_sae):
    edit = Add(make_sae(), 0, 1.0)
    with pytest.raises(FrozenInstanceError):
        edit.value = 2.0


def test_json_of_an_edit(make_sae):
    assert Set(make_sae(), 5, times_max=0.5, where="generated").to_json() == {
        "edit": "5=set:0.5max@generated",
        "latent": 5,
        "op": "set",
        "where": "generated",
        "site": "resid_post.0",
        "amount": 0.5,
        "unit": "max",
        "strength": 3.0,
    }
    assert Scale(make_sae(), 5, 0).to_json()["amount"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3=set:5max", Set(PLAIN, 3, times_max=5.0)),
        ("3=set:5 max", Set(PLAIN, 3, times_max=5.0)),
        ("3=add:40", Add(PLAIN, 3, 40.0)),
        ("3=add:40raw", Add(PLAIN, 3, 40.0)),
        ("3=add:-0.6norm", Add(PLAIN, 3, times_norm=-0.6)),
        ("3=add:+.6norm@generated", Add(PLAIN, 3, times_norm=0.6, where="generated")),
        ("0=add:1e-3", Add(PLAIN, 0, 0.001)),
        ("3=ablate", Ablate(PLAIN, 3)),
        ("3=ablate@given", Ablate(PLAIN, 3, where="given")),
        ("3=scale:0", Scale(PLAIN, 3, 0.0)),
        ("3=scale:1.5@all", Scale(PLAIN, 3, 1.5)),
        ("3=cap:1.5max@prompt", Cap(PLAIN, 3, times_max=1.5, where="prompt")),
        ("3=cap:0", Cap(PLAIN, 3, 0.0)),
        ("3=add:2@when:4", Add(PLAIN, 3, 2.0, where="when:4")),
        ("3=add:2norm @ When:4:1.5", Add(PLAIN, 3, times_norm=2.0, where="when:4:1.5")),
        (" 3 = SET : 2 Max @ All ", Set(PLAIN, 3, times_max=2.0)),
    ],
)
def test_written_form(text, expected):
    assert parse_edit(text, PLAIN) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "LATENT=OP"),
        ("set:5", "LATENT=OP"),
        ("3", "LATENT=OP"),
        ("x=set:5", "LATENT=OP"),
        ("-3=set:5", "LATENT=OP"),
        ("3=set:", "LATENT=OP"),
        ("3=set:five", "LATENT=OP"),
        ("3=set:nan", "LATENT=OP"),
        ("3=add:1,2", "LATENT=OP"),
        ("3=set", "set needs a value"),
        ("3=ablate:1", "ablate takes no value"),
        ("3=scale:2max", "without a unit"),
        ("3=add:2mean", "unknown unit 'mean'"),
        ("3=sett:2", "did you mean set"),
        ("3=add:2@last", "unknown positions @last"),
        ("3=add:2@when:", "unknown positions @when:"),
        ("3=cap", "cap needs a value"),
    ],
)
def test_bad_written_forms_name_the_grammar_in_one_line(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_edit(text, PLAIN)
    line = str(caught.value)
    assert said in line
    assert "LATENT=OP[:VALUE[UNIT]][@WHERE]" in line
    assert "\n" not in line


def test_written_latent_out_of_range():
    with pytest.raises(LatentError, match="0 to 8"):
        parse_edit("9=ablate", PLAIN)


amounts = st.floats(-1e6, 1e6) | st.integers(-1000, 1000).map(float)
places = st.sampled_from(["all", "generated", "given", "prompt", "when:8", "when:0:2.5"])
strengths = st.tuples(st.sampled_from(["value", "times_max", "times_norm"]), amounts)
latents = st.integers(0, 8)
edits = st.one_of(
    st.builds(lambda i, w: Ablate(PLAIN, i, where=w), latents, places),
    st.builds(lambda i, c, w: Scale(PLAIN, i, c, where=w), latents, amounts, places),
    st.builds(
        lambda kind, i, s, w: kind(PLAIN, i, where=w, **{s[0]: s[1]}),
        st.sampled_from([Add, Set]),
        latents,
        strengths,
        places,
    ),
    st.builds(
        lambda i, s, w: Cap(PLAIN, i, where=w, **{s[0]: abs(s[1])}), latents, strengths, places
    ),
)


@given(edits)
def test_written_form_round_trips(edit):
    assert parse_edit(str(edit), PLAIN) == edit
