"""What edits do to activations, against the formulas written out in fp64."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from monoscope.errors import MismatchError
from monoscope.lm.protocol import Positions
from monoscope.sae import SAEConfig
from monoscope.sae.trained import check_fits
from monoscope.sites import Site
from monoscope.steer import Ablate, Add, Cap, Scale, Set
from monoscope.steer.apply import Meter, hooks_for

SITE = Site("resid_post", 0)


def activations(b=3, s=7, seed=3):
    return torch.randn(b, s, 12, generator=torch.Generator().manual_seed(seed))


def codes64(sae, x):
    """TopK codes [..., L] by hand in fp64: k largest pre-activations, negative ones dropped."""
    w = {name: p.detach().double() for name, p in sae.named_parameters()}
    z = (x.double() - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
    top = z.topk(sae.config.k, dim=-1)
    return torch.zeros_like(z).scatter(-1, top.indices, top.values.clamp_min(0))


def busiest(sae, x, rank=0):
    """The latent that fires on most tokens of x (rank 0), the next (1), …"""
    return int((codes64(sae, x) > 0).flatten(0, -2).sum(0).argsort(descending=True)[rank])


def run(edits, x, at):
    (hook,) = hooks_for(edits).values()
    return hook(x, at)


FORMULAS = {
    "add": (lambda sae, i: Add(sae, i, 2.5), lambda f: torch.full_like(f, 2.5)),
    "add negative": (lambda sae, i: Add(sae, i, -4.0), lambda f: torch.full_like(f, -4.0)),
    "set": (lambda sae, i: Set(sae, i, 6.0), lambda f: 6.0 - f),
    "scale": (lambda sae, i: Scale(sae, i, 3.0), lambda f: 3.0 * f - f),
    "ablate": (lambda sae, i: Ablate(sae, i), lambda f: -f),
    "cap": (lambda sae, i: Cap(sae, i, 1.0), lambda f: -(f - 1.0).clamp_min(0)),
    "cap at 0": (lambda sae, i: Cap(sae, i, 0.0), lambda f: -f),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("rank", [0, 1, 16])
def test_each_op_against_its_formula(make_sae, positions, name, rank):
    sae, x = make_sae(), activations()
    build, coefficient = FORMULAS[name]
    latent = busiest(sae, x, rank)
    f = codes64(sae, x)[..., latent]
    assert (f > 0).any() == (rank < 2)
    expected = x.double() + coefficient(f)[..., None] * sae.W_dec[latent].detach().double()
    torch.testing.assert_close(
        run([build(sae, latent)], x, positions(x)).double(), expected, atol=2e-5, rtol=1e-5
    )
    assert run([build(sae, latent)], x, positions(x)).dtype == torch.float32


def test_set_replaces_one_code_and_keeps_the_error_term(make_sae, positions):
    sae, x = make_sae(), activations()
    latent = busiest(sae, x)
    d = sae.W_dec[latent].detach()
    moved = run([Set(sae, latent, 9.0)], x, positions(x)) - x
    along = (moved @ d) / (d @ d)
    torch.testing.assert_close(moved, along[..., None] * d, atol=1e-5, rtol=1e-5)
    before = codes64(sae, x) @ sae.W_dec.detach().double() + sae.b_dec.detach().double()
    error = x.double() - before
    clamped = codes64(sae, x)
    clamped[..., latent] = 9.0
    after = clamped @ sae.W_dec.detach().double() + sae.b_dec.detach().double()
    torch.testing.assert_close((x + moved).double(), after + error, atol=2e-5, rtol=1e-5)


def test_a_topk_latent_that_is_not_selected_has_no_activation(make_sae, positions):
    sae, x = make_sae(k=1), activations()
    z = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    latent = busiest(sae, x)
    losing = (z[..., latent] > 0) & (z.argmax(-1) != latent)
    winning = (z[..., latent] > 0) & (z.argmax(-1) == latent)
    assert losing.any() and winning.any()  # one encoder row alone would read both as active
    out = run([Ablate(sae, latent)], x, positions(x))
    assert torch.equal(out[losing], x[losing])
    assert not torch.isclose(out[winning], x[winning]).all(-1).any()


def test_scale_by_one_changes_no_bit(make_sae, positions):
    sae, x = make_sae(), activations()
    latent = busiest(sae, x)
    assert torch.equal(run([Scale(sae, latent, 1.0)], x, positions(x)), x)


def test_ablate_is_set_zero_and_scale_zero(make_sae, positions):
    sae, x = make_sae(), activations()
    at, latent = positions(x), busiest(sae, x)
    ablated = run([Ablate(sae, latent)], x, at)
    assert torch.equal(ablated, run([Set(sae, latent, 0.0)], x, at))
    assert torch.equal(ablated, run([Scale(sae, latent, 0.0)], x, at))
    assert not torch.equal(ablated, x)


def test_positions_all_generated_given(make_sae, positions):
    sae, x = make_sae(), activations(s=7)
    at = positions(x, generated_from=4)
    everywhere = run([Add(sae, 2, 5.0)], x, at)
    generated = run([Add(sae, 2, 5.0, where="generated")], x, at)
    given = run([Add(sae, 2, 5.0, where="given")], x, at)
    assert torch.equal(generated[:, :4], x[:, :4])
    assert torch.equal(generated[:, 4:], everywhere[:, 4:])
    assert torch.equal(given[:, 4:], x[:, 4:])
    assert torch.equal(given[:, :4], everywhere[:, :4])
    assert (everywhere != x).any(-1).all()


def test_masked_positions_are_left_alone(make_sae, positions):
    sae, x = make_sae(), activations(b=2, s=5)
    at = positions(x)
    x[0, 0] *= 1000  # a sink
    at.token_ids[0, 1] = 1  # a special token
    at.mask[1, :2] = False  # padding
    out = run([Set(sae, 2, 5.0), Add(sae, 3, -2.0)], x, at)
    untouched = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    assert torch.equal(out[untouched], x[untouched])
    assert (out != x).any(-1)[~untouched].all()


def test_without_a_recorded_policy_only_padding_is_left_alone(make_sae, positions):
    x = activations(b=1, s=4)
    at = positions(x)
    at.mask[0, 3] = False
    x[0, 0] *= 1000
    out = run([Add(make_sae(mask_policy=None), 2, 5e4)], x, at)
    assert (out != x).any(-1).tolist() == [[True, True, True, False]]


def test_cap_keeps_the_error_term_and_every_bit_below_the_cap(make_sae, positions):
    sae, x = make_sae(), activations()
    latent = busiest(sae, x)
    codes = codes64(sae, x)
    f = codes[..., latent]
    cap = float(f[f > 0].median())
    above = f > cap + 1e-3
    assert above.any() and ((f > 0) & (f < cap)).any()
    out = run([Cap(sae, latent, cap)], x, positions(x))
    assert torch.equal(out[f < cap - 1e-3], x[f < cap - 1e-3])
    w_dec, b_dec = sae.W_dec.detach().double(), sae.b_dec.detach().double()
    error = x.double() - codes @ w_dec - b_dec
    codes[..., latent] = f.clamp_max(cap)
    torch.testing.assert_close(out.double(), codes @ w_dec + b_dec + error, atol=2e-5, rtol=1e-5)


def test_prompt_is_given_by_another_name(make_sae, positions):
    sae, x = make_sae(), activations()
    at = positions(x, generated_from=4)
    given = run([Add(sae, 2, 5.0, where="given")], x, at)
    assert torch.equal(run([Add(sae, 2, 5.0, where="prompt")], x, at), given)
    assert not torch.equal(given, x)


@pytest.mark.parametrize("threshold", [None, 6.0])
def test_when_another_latent_fires(make_sae, positions, threshold):
    sae, x, meter = make_sae(), activations(), Meter()
    other = busiest(sae, x)
    g = codes64(sae, x)[..., other]
    bound = 0.0 if threshold is None else threshold
    fires = g > bound
    assert fires.any() and not fires.all()
    assert threshold is None or ((g > 0) & ~fires).any()
    where = f"when:{other}" if threshold is None else f"when:{other}:{threshold}"
    (hook,) = hooks_for([Add(sae, 3, 2.5, where=where)], meter=meter).values()
    out = hook(x, positions(x))
    assert torch.equal(out[~fires], x[~fires])
    expected = x.double() + 2.5 * sae.W_dec[3].detach().double()
    torch.testing.assert_close(out[fires].double(), expected[fires], atol=2e-5, rtol=1e-5)
    assert meter.count == int(fires.sum())


def test_the_condition_is_read_from_the_unedited_x(make_sae, positions):
    sae, x = make_sae(), activations()
    other = busiest(sae, x)
    fires = codes64(sae, x)[..., other] > 0
    edits = [Ablate(sae, other), Add(sae, 3, 2.5, where=f"when:{other}")]
    for order in permutations(edits):
        moved = run(order, x, positions(x)) - x
        ablated = run([Ablate(sae, other)], x, positions(x)) - x
        d = 2.5 * sae.W_dec[3].detach() * fires[..., None]
        torch.testing.assert_close(moved, ablated + d, atol=2e-5, rtol=1e-5)


def test_a_condition_that_never_holds_leaves_x_itself(make_sae, positions):
    x = activations()
    (hook,) = hooks_for([Add(make_sae(), 3, 2.5, where="when:0:1e6")]).values()
    assert hook(x, positions(x)) is x


def test_several_edits_read_the_unedited_x_and_sum(make_sae, positions):
    one, two, x = make_sae(seed=0), make_sae(seed=5, d_sae=9, k=2), activations()
    at = positions(x)
    i, j, k = busiest(one, x), busiest(one, x, 1), busiest(two, x)
    edits = [
        Add(one, 0, 30.0),
        Set(one, i, 6.0),
        Scale(two, k, -2.0, where="generated"),
        Ablate(one, j),
    ]
    f, g = codes64(one, x)[..., None], codes64(two, x)[..., None]
    d, e = one.W_dec.detach().double(), two.W_dec.detach().double()
    expected = x.double() + 30.0 * d[0] + (6.0 - f[..., i, :]) * d[i] - f[..., j, :] * d[j]
    expected -= 3.0 * g[..., k, :] * at.generated[..., None] * e[k]
    for order in permutations(edits):
        torch.testing.assert_close(run(order, x, at).double(), expected, atol=3e-5, rtol=1e-5)


def test_one_hook_a_site(make_sae):
    first, second = make_sae(), make_sae(site="resid_post.1")
    hooks = hooks_for([Ablate(first, 0), Ablate(second, 1), Add(first, 2, 1.0)])
    assert set(hooks) == {SITE, Site("resid_post", 1)}
    assert hooks_for([]) == {}


def test_hook_never_writes_in_place_and_returns_x_where_nothing_is_edited(make_sae, positions):
    x = activations()
    before = x.clone()
    at = positions(x, generated_from=99)
    (hook,) = hooks_for([Set(make_sae(), 0, 3.0, where="generated")]).values()
    assert hook(x, at) is x
    run([Set(make_sae(), 0, 3.0)], x, at)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_x_is_kept(make_sae, positions, dtype):
    sae, x = make_sae(), activations().to(dtype)
    out = run([Add(sae, 1, 2.0)], x, positions(x))
    expected = x.double() + 2.0 * sae.W_dec[1].detach().double()
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=1e-2)


def test_meter_is_the_mean_relative_size_over_edited_positions(make_sae, positions):
    sae, x, meter = make_sae(), activations(), Meter()
    at = positions(x, generated_from=4)
    edit = Add(sae, 3, times_norm=0.75, where="given")
    (hook,) = hooks_for([edit], meter=meter).values()
    hook(x, at)
    expected = (0.75 * 4.0 / x[:, :4].double().norm(dim=-1)).mean()
    assert meter.mean == pytest.approx(float(expected), rel=1e-6)
    assert meter.count == 12
    assert Meter().mean == 0.0


def test_generated_can_be_told_from_outside(make_sae, positions):
    x = activations(b=1, s=3)
    at: Positions = positions(x, generated_from=99)
    hooks = hooks_for(
        [Add(make_sae(), 3, 1.0, where="generated")],
        generated=torch.tensor([[False, False, True]]),
    )
    (hook,) = hooks.values()
    assert (hook(x, at) != x).any(-1).tolist() == [[False, False, True]]


def test_an_sae_of_another_width_or_model_does_not_fit(lm, make_sae):
    check_fits(lm, make_sae())
    check_fits(lm, make_sae(model=None))
    with pytest.raises(MismatchError, match="trained on another model"):
        check_fits(lm, make_sae(model={"model": "other", "weights": "w9"}))
    narrow = make_sae()
    narrow.config = SAEConfig(d_in=5, d_sae=17, activation="topk", k=3)
    with pytest.raises(MismatchError, match="d_in 5; expected 12"):
        check_fits(lm, narrow)
