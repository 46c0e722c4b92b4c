"""Every named site of every family, against blocks written out by hand in this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from monoscope.errors import DataError, SiteError
from monoscope.lm import HFModel, Positions
from monoscope.sites import Site

N_LAYERS, D, NEURONS, VOCAB, CONTEXT = 3, 12, 20, 300, 64  # as in conftest.py

Visit = Callable[[str, Tensor], Tensor]
Tiny = Callable[..., HFModel]
Randomised = Callable[..., Any]
KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")
close = {"atol": 1e-5, "rtol": 1e-5}


# --- what each block computes, written out with its own submodules -------------------------------


def _gated(mlp: Any, x: Tensor) -> Tensor:
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


def llama_block(block: Any, visit: Visit, h: Tensor, *args: Any, **kw: Any) -> Tensor:
    h = visit("resid_pre", h)
    normed = block.input_layernorm(h)
    h = visit("resid_mid", h + visit("attn_out", block.self_attn(hidden_states=normed, **kw)[0]))
    x = visit("mlp_in", block.post_attention_layernorm(h))
    out = block.mlp.down_proj(visit("mlp_post", _gated(block.mlp, x)))
    return visit("resid_post", h + visit("mlp_out", out))


def gemma2_block(block: Any, visit: Visit, h: Tensor, *args: Any, **kw: Any) -> Tensor:
    if "position_embeddings_local" in kw:  # Gemma 3 before transformers 5 hands over both kinds
        kinds = kw.pop("position_embeddings_global"), kw.pop("position_embeddings_local")
        kw["position_embeddings"] = kinds[block.self_attn.is_sliding]
    h = visit("resid_pre", h)
    attended = block.self_attn(hidden_states=block.input_layernorm(h), **kw)[0]
    h = visit("resid_mid", h + visit("attn_out", block.post_attention_layernorm(attended)))
    x = visit("mlp_in", block.pre_feedforward_layernorm(h))
    out = block.mlp.down_proj(visit("mlp_post", _gated(block.mlp, x)))
    return visit("resid_post", h + visit("mlp_out", block.post_feedforward_layernorm(out)))


def gpt2_block(block: Any, visit: Visit, h: Tensor, *args: Any, **kw: Any) -> Tensor:
    h = visit("resid_pre", h)
    masks = [a for a in args if isinstance(a, Tensor) and a.ndim == 4]
    attended = block.attn(block.ln_1(h), attention_mask=masks[0] if masks else None)[0]
    h = visit("resid_mid", h + visit("attn_out", attended))
    x = visit("mlp_in", block.ln_2(h))
    out = block.mlp.c_proj(visit("mlp_post", block.mlp.act(block.mlp.c_fc(x))))
    return visit("resid_post", h + visit("mlp_out", out))


def neox_block(block: Any, visit: Visit, h: Tensor, *args: Any, **kw: Any) -> Tensor:
    h = visit("resid_pre", h)
    attended = visit("attn_out", block.attention(block.input_layernorm(h), **kw)[0])
    mid = h if block.use_parallel_residual else visit("resid_mid", h + attended)
    x = visit("mlp_in", block.post_attention_layernorm(mid))
    neurons = visit("mlp_post", block.mlp.act(block.mlp.dense_h_to_4h(x)))
    out = visit("mlp_out", block.mlp.dense_4h_to_h(neurons))
    return visit("resid_post", out + attended + h if block.use_parallel_residual else mid + out)


BLOCKS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), llama_block),
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_nested"), gemma2_block),
    **dict.fromkeys(("neox_parallel", "neox_sequential"), neox_block),
    "gpt2": gpt2_block,
}
FAMILIES = sorted(BLOCKS)


def padded_batch(side: str) -> tuple[Tensor, Tensor]:
    """Random ids [3,9] with rows of 9, 5 and 2 real tokens, padded on the given side."""
    ids = torch.randint(2, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 9, dtype=torch.bool)
    for row, length in enumerate((9, 5, 2)):
        mask[row, slice(9 - length, 9) if side == "left" else slice(0, length)] = True
    return ids * mask, mask


def blocks_of(model: Any) -> Any:
    if hasattr(model, "transformer"):
        return model.transformer.h
    if hasattr(model.model if hasattr(model, "model") else None, "language_model"):
        return model.model.language_model.layers
    return (model.gpt_neox if hasattr(model, "gpt_neox") else model.model).layers


def by_hand(lm: HFModel, family: str, ids: Tensor, mask: Tensor, visit: Visit) -> Tensor:
    """Logits from blocks written by hand; `visit("kind.layer", x)` sees and replaces each site."""
    blocks = blocks_of(lm.model)
    answers_tuple: list[bool] = []
    probe = blocks[0].register_forward_hook(lambda m, i, o: answers_tuple.append(type(o) is tuple))
    lm.model(ids[:1, :1])
    probe.remove()

    def replace(layer: int, block: Any) -> None:
        def forward(h: Tensor, *args: Any, **kw: Any) -> Any:
            out = BLOCKS[family](block, lambda k, x: visit(f"{k}.{layer}", x), h, *args, **kw)
            return (out,) if answers_tuple[0] else out

        block.forward = forward

    try:
        for layer, block in enumerate(blocks):
            replace(layer, block)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            return lm.model(ids, attention_mask=mask.long(), position_ids=positions).logits
    finally:
        for block in blocks:
            del block.forward


def kinds_of(family: str) -> list[str]:
    return [k for k in KINDS if not (k == "resid_mid" and family == "neox_parallel")]


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_what_a_block_written_by_hand_computes(
    tiny: Tiny, family: str, side: str
) -> None:
    lm = tiny(family)
    ids, mask = padded_batch(side)
    seen: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> Tensor:
        return seen.setdefault(name, x)

    logits = by_hand(lm, family, ids, mask, note)
    assert list(seen) == lm.sites()[1:]
    for name, x in seen.items():
        got = lm.capture(ids, mask, Site.parse(name))
        torch.testing.assert_close(got[mask], x[mask], **close, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(lm.logits(ids, mask)[mask], logits[mask], **close)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_models_own_hidden_states(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    ids, mask = padded_batch("right")
    with torch.no_grad():
        out = lm.model(ids, attention_mask=mask.long(), output_hidden_states=True)
    states = out.hidden_states
    torch.testing.assert_close(
        lm.capture(ids, mask, Site.parse("embed"))[mask], states[0][mask], **close
    )
    for layer in range(N_LAYERS):
        before = lm.capture(ids, mask, Site.parse(f"resid_pre.{layer}"))
        torch.testing.assert_close(before[mask], states[layer][mask], **close)
        after = lm.capture(ids, mask, Site.parse(f"resid_post.{layer}"))
        if layer + 1 < N_LAYERS:  # the last hidden state has passed the final norm
            torch.testing.assert_close(after[mask], states[layer + 1][mask], **close)


def test_widths_and_names(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    assert len(lm.sites()) == 1 + 7 * N_LAYERS and lm.sites()[0] == "embed"
    for name in lm.sites():
        assert lm.width(Site.parse(name)) == (NEURONS if name.startswith("mlp_post") else D)
    assert lm.width(Site.parse("module:transformer.h.1.mlp.c_fc")) == NEURONS
    assert lm.width(Site.parse("module:lm_head")) == VOCAB


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_several_sites_are_read_in_one_pass_bit_for_bit(tiny: Tiny, family: str, side: str) -> None:
    """Every site at once, the first of the pass last and one of them twice."""
    lm = tiny(family)
    batch = padded_batch(side)
    sites = [Site.parse(name) for name in reversed(lm.sites())]
    sites.append(sites[3])
    alone = [lm.capture(*batch, site) for site in sites]
    ran: list[int] = []
    handle = blocks_of(lm.model)[0].register_forward_pre_hook(lambda m, i: ran.append(1))
    try:
        together = lm.capture_many(*batch, sites)
    finally:
        handle.remove()
    assert ran == [1]
    for site, one, x in zip(sites, alone, together, strict=True):
        assert x.dtype == one.dtype and torch.equal(x, one), str(site)


def test_several_sites_may_end_with_the_head(tiny: Tiny) -> None:
    lm, batch = tiny("llama"), padded_batch("right")
    sites = [Site.parse(name) for name in ("module:lm_head", "resid_post.2", "embed")]
    together = lm.capture_many(*batch, sites)
    for site, x in zip(sites, together, strict=True):
        assert torch.equal(x, lm.capture(*batch, site)), str(site)
    assert torch.equal(together[0], lm.logits(*batch))
    assert lm.capture_many(*batch, []) == []


def test_several_sites_are_read_no_further_than_the_last(tiny: Tiny) -> None:
    lm = tiny("llama")
    ran: list[str] = []
    layers = lm.model.model.layers
    later = {"attention": layers[2].self_attn, "MLP": layers[2].mlp}
    handles = [
        module.register_forward_pre_hook(lambda m, i, w=what: ran.append(w))
        for what, module in later.items()
    ]
    try:
        sites = [Site.parse(name) for name in ("resid_pre.2", "resid_pre.1")]
        lm.capture_many(*padded_batch("right"), sites)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == []


def test_what_a_later_module_writes_in_place_is_not_read(tiny: Tiny) -> None:
    """The second block's input is the first one's output: one tensor, changed after it was read."""
    lm, batch = tiny("llama"), padded_batch("right")
    sites = [Site.parse(name) for name in ("resid_post.0", "resid_post.1")]
    expected = lm.capture(*batch, sites[0])

    def spoil(module: Any, args: Any, kwargs: Any) -> None:
        (args[0] if args else kwargs["hidden_states"]).add_(1.0)

    handle = lm.model.model.layers[1].register_forward_pre_hook(spoil, with_kwargs=True)
    try:
        assert torch.equal(lm.capture_many(*batch, sites)[0], expected)
    finally:
        handle.remove()


def test_one_of_several_sites_that_is_missing_is_named(tiny: Tiny) -> None:
    lm, batch = tiny("llama"), padded_batch("right")
    with pytest.raises(SiteError, match="no layer 7"):
        lm.capture_many(*batch, [Site.parse("resid_post.0"), Site.parse("resid_post.7")])
    lm.model.model.unused = torch.nn.Linear(2, 2)
    try:
        with pytest.raises(SiteError, match=r"never runs.* got module:model\.unused:out"):
            lm.capture_many(*batch, [Site.parse("module:model.unused"), Site.parse("embed")])
    finally:
        del lm.model.model.unused


@pytest.mark.parametrize("name", ["resid_post.1", "mlp_post.1", "resid_pre.2", "attn_out.1"])
def test_capture_runs_no_further_than_the_site(tiny: Tiny, name: str) -> None:
    lm = tiny("llama")
    ran: list[str] = []
    later = {"last block's MLP": lm.model.model.layers[2].mlp, "head": lm.model.lm_head}
    handles = [
        module.register_forward_pre_hook(lambda m, i, w=what: ran.append(w))
        for what, module in later.items()
    ]
    try:
        x = lm.capture(*padded_batch("right"), Site.parse(name))
        assert ran == []
        lm.logits(*padded_batch("right"))
        assert ran == list(later)
    finally:
        for handle in handles:
            handle.remove()
    weight = torch.ones(x.shape[-1], requires_grad=True)  # the tensor may be trained on
    (x @ weight).sum().backward()
    assert weight.grad is not None and not x.is_inference()


# --- editing -------------------------------------------------------------------------------------


def nudge(name: str, x: Tensor) -> Tensor:
    """A change that differs by site, position and coordinate, and is not a mere shift."""
    rng = torch.Generator().manual_seed(sum(map(ord, name)))
    return x * 0.7 + torch.randn(x.shape, generator=rng, dtype=torch.float32).to(x.dtype)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_at_every_site_is_the_edit_in_a_block_written_by_hand(
    tiny: Tiny, family: str, side: str
) -> None:
    lm = tiny(family)
    ids, mask = padded_batch(side)
    clean = lm.logits(ids, mask)[mask]
    for kind in kinds_of(family):
        target = f"{kind}.1"
        expected = by_hand(
            lm, family, ids, mask, lambda n, x, t=target: nudge(n, x) if n == t else x
        )[mask]
        hooks = {Site.parse(target): lambda x, at, t=target: nudge(t, x)}
        got = lm.logits(ids, mask, hooks)[mask]
        torch.testing.assert_close(got, expected, **close, msg=lambda m, t=target: f"{t}: {m}")
        assert (got - clean).abs().max() > 1e-2, f"the edit at {target} does nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_at_all_sites_together(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    ids, mask = padded_batch("right")
    expected = by_hand(lm, family, ids, mask, nudge)[mask]
    names = [n for n in reversed(lm.sites()) if n != "embed"]  # any order will do
    hooks = {Site.parse(n): lambda x, at, n=n: nudge(n, x) for n in names}
    torch.testing.assert_close(lm.logits(ids, mask, hooks)[mask], expected, **close)


def test_embed_and_the_first_blocks_input_are_one_place_edited_in_that_order(tiny: Tiny) -> None:
    lm = tiny("gemma3")
    ids, mask = padded_batch("right")
    hooks = {
        Site.parse("resid_pre.0"): lambda x, at: x * 2,
        Site.parse("embed"): lambda x, at: x + 1,
    }
    expected = by_hand(
        lm, "gemma3", ids, mask, lambda n, x: (x + 1) * 2 if n == "resid_pre.0" else x
    )
    torch.testing.assert_close(lm.logits(ids, mask, hooks)[mask], expected[mask], **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox_sequential"])
def test_a_hook_that_changes_nothing_leaves_every_bit(
    tiny: Tiny, family: str, dtype: torch.dtype
) -> None:
    lm = tiny(family, dtype)
    ids, mask = padded_batch("left")
    clean = lm.logits(ids, mask)
    seen: list[torch.dtype] = []

    def same(x: Tensor, at: Positions) -> Tensor:
        seen.append(x.dtype)
        return x

    sites = [Site.parse(name) for name in lm.sites()]
    assert torch.equal(lm.logits(ids, mask, dict.fromkeys(sites, same)), clean)
    assert torch.equal(lm.logits(ids, mask, dict.fromkeys(sites, lambda x, at: x.clone())), clean)
    assert seen == [torch.float32] * len(sites) and clean.dtype == dtype


def test_what_a_hook_may_look_at(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids, mask = padded_batch("left")
    looked: list[Positions] = []

    def look(x: Tensor, at: Positions) -> Tensor:
        looked.append(at)
        return x

    written = torch.zeros_like(mask)
    written[:, -1] = True
    lm.logits(ids, mask, {Site.parse("resid_post.0"): look}, generated=written)
    assert torch.equal(looked[0].token_ids, ids) and torch.equal(looked[0].mask, mask)
    assert torch.equal(looked[0].generated, written)
    assert looked[0].position[1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_hooks_leave_with_the_call_even_when_they_fail(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids, mask = padded_batch("right")
    clean = lm.logits(ids, mask)

    def fail(x: Tensor, at: Positions) -> Tensor:
        raise RuntimeError("the hook's own mistake")

    with pytest.raises(RuntimeError, match="own mistake"):
        lm.logits(ids, mask, {Site.parse("resid_mid.1"): fail})
    assert torch.equal(lm.logits(ids, mask), clean)


def test_hooks_that_break_the_rules_are_named(tiny: Tiny) -> None:
    ids, mask = padded_batch("right")
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(DataError, match=r"resid_post\.0 changed its input in place"):
            tiny("llama", dtype).logits(
                ids, mask, {Site.parse("resid_post.0"): lambda x, at: x.mul_(2)}
            )
    with pytest.raises(DataError, match=r"resid_post\.0 returned the wrong shape.*\(3, 8, 12\)"):
        tiny("llama").logits(ids, mask, {Site.parse("resid_post.0"): lambda x, at: x[:, 1:]})


# --- sites a model lacks -------------------------------------------------------------------------


def test_a_layer_the_model_lacks_names_those_it_has(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(SiteError, match=r"no layer 3: got resid_post\.3; expected embed, .* 0…2"):
        lm.width(Site.parse("resid_post.3"))
    with pytest.raises(SiteError, match="no layer 3"):
        lm.logits(*padded_batch("right"), {Site.parse("mlp_in.3"): lambda x, at: x})


def test_parallel_attention_and_mlp_have_no_stream_between_them(tiny: Tiny) -> None:
    lm = tiny("neox_parallel")
    assert not any(name.startswith("resid_mid") for name in lm.sites())
    with pytest.raises(SiteError, match="in parallel"):
        lm.capture(*padded_batch("right"), Site.parse("resid_mid.0"))
    assert "resid_mid.0" in tiny("neox_sequential").sites()


def test_module_sites(tiny: Tiny) -> None:
    lm = tiny("qwen2")
    ids, mask = padded_batch("right")
    inner = Site.parse("module:model.layers.1.self_attn.o_proj:in")
    found: list[Tensor] = []
    o_proj = lm.model.model.layers[1].self_attn.o_proj
    handle = o_proj.register_forward_hook(lambda m, i, o: found.extend((i[0], o)))
    lm.model(ids)
    handle.remove()
    torch.testing.assert_close(lm.capture(ids, mask, inner)[mask], found[0][mask], **close)
    out = lm.capture(ids, mask, Site.parse("module:model.layers.1.self_attn.o_proj"))
    torch.testing.assert_close(out[mask], found[1][mask], **close)
    keyword = lm.capture(ids, mask, Site.parse("module:model.layers.1.self_attn:in"))
    torch.testing.assert_close(
        keyword[mask],
        lm.model.model.layers[1].input_layernorm(lm.capture(ids, mask, Site.parse("resid_pre.1")))[
            mask
        ],
        **close,
    )
    doubled = lm.logits(ids, mask, {Site.parse("module:lm_head"): lambda x, at: 2 * x})
    torch.testing.assert_close(doubled, 2 * lm.logits(ids, mask), **close)
    zeroed = lm.logits(
        ids, mask, {Site.parse("module:model.layers.1.self_attn:in"): lambda x, at: 0 * x}
    )
    assert not torch.allclose(zeroed, lm.logits(ids, mask))


def test_module_sites_that_hold_no_activation_per_token(tiny: Tiny) -> None:
    lm = tiny("llama")
    batch = padded_batch("right")
    with pytest.raises(SiteError, match=r"no such module.*Did you mean module:model\.layers\.1"):
        lm.capture(*batch, Site.parse("module:model.layer.1"))
    with pytest.raises(SiteError, match=r"does not hold one activation per token.*int64"):
        lm.capture(*batch, Site.parse("module:model.embed_tokens:in"))
    with pytest.raises(SiteError, match="does not hold one activation per token"):
        lm.capture(*batch, Site.parse("module:model"))
    with pytest.raises(SiteError, match="never runs this module"):
        lm.capture(*batch, Site.parse("module:model.layers"))


def test_a_family_without_named_sites_works_through_modules(
    byte_tokenizer: Any, randomised: Randomised
) -> None:
    config = transformers.OPTConfig(
        hidden_size=D, word_embed_proj_dim=D, ffn_dim=NEURONS, num_hidden_layers=2,
        num_attention_heads=2, vocab_size=VOCAB, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    model = randomised(config)
    lm = HFModel(model, byte_tokenizer, "tiny-opt")
    ids, mask = padded_batch("left")
    assert lm.sites() == ["embed"]
    embed = lm.capture(ids, mask, Site.parse("embed"))
    torch.testing.assert_close(embed, model.get_input_embeddings()(ids))
    with torch.no_grad():
        states = model(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    got = lm.capture(ids, mask, Site.parse("module:model.decoder.layers.0"))
    torch.testing.assert_close(got[mask], states[1][mask], **close)
    with pytest.raises(SiteError, match=r"'opt' has no named sites.*module:model\.decoder\.layers"):
        lm.capture(ids, mask, Site.parse("resid_post.0"))
    norm = model.model.decoder.final_layer_norm
    expected = (torch.eye(D) * norm.weight) @ model.lm_head.weight.T
    torch.testing.assert_close(lm.lens(torch.eye(D)), expected, **close)


# --- the logit lens and bad input ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "gain"),
    [
        ("llama", lambda m: m.model.norm.weight),
        ("gemma", lambda m: 1 + m.model.norm.weight),
        ("gemma2", lambda m: 1 + m.model.norm.weight),
        ("gemma3", lambda m: 1 + m.model.norm.weight),
        ("gemma3_nested", lambda m: 1 + m.model.language_model.norm.weight),
        ("gpt2", lambda m: m.transformer.ln_f.weight),
        ("neox_parallel", lambda m: m.gpt_neox.final_layer_norm.weight),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lens_applies_the_final_norms_gain(
    tiny: Tiny, family: str, gain: Callable[[Any], Tensor], dtype: torch.dtype
) -> None:
    lm = tiny(family, dtype)
    directions = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
    gamma = gain(lm.model).double() if dtype == torch.float32 else gain(lm.model.float()).double()
    head = lm.model.get_output_embeddings().weight.double()
    lm.model.to(dtype)
    got = lm.lens(directions)
    expected = (directions.double() * gamma) @ head.T
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


def test_the_lens_of_an_odd_width(byte_tokenizer: Any, randomised: Randomised) -> None:
    config = transformers.GPT2Config(n_embd=15, n_head=3, n_layer=1, vocab_size=VOCAB)
    model = randomised(config)
    lm = HFModel(model, byte_tokenizer, "odd")
    expected = (torch.eye(15) * model.transformer.ln_f.weight) @ model.lm_head.weight.T
    torch.testing.assert_close(lm.lens(torch.eye(15)), expected, **close)
    with pytest.raises(DataError, match=r"got \(2, 14\); expected \[n, 15\]"):
        lm.lens(torch.zeros(2, 14))


def test_ids_that_cannot_be_run(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids, mask = padded_batch("right")
    with pytest.raises(DataError, match="do not fit"):
        lm.logits(ids, mask[:, :-1])
    with pytest.raises(DataError, match=r"outside the vocabulary.*0…299"):
        lm.logits(ids + 300, mask)
    long = torch.ones(1, CONTEXT + 1, dtype=torch.int64)
    with pytest.raises(DataError, match="65 tokens; expected at most 64"):
        lm.capture(long, long.bool(), Site.parse("embed"))
