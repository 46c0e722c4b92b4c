"""GGUF files: converted once, the same model ever after; and the embedded model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

import monoscope.lm.gguf as conversion
from monoscope.lm import load_lm
from monoscope.sites import Site

D, NEURONS, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 2, 1
Q8 = gguf.GGMLQuantizationType.Q8_0


def original() -> Any:
    """A random Llama whose matrices are exactly what their 8-bit GGUF blocks say."""
    config = transformers.LlamaConfig(
        hidden_size=D,
        intermediate_size=NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=259,
        max_position_embeddings=48,
        eos_token_id=258,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quants.quantize((parameter * 8).numpy(), Q8)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, Q8)))
            else:
                parameter.uniform_(0.5, 1.5)
    return model


def rotary_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp keeps the two halves of each head's rotation interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: Any, path: Path) -> None:
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(48)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(NEURONS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(259)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "cd", "<eos>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 258 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(256)
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(258)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if "attn_q" in name or "attn_k" in name:
            tensor = rotary_order(tensor, HEADS if "attn_q" in name else KV_HEADS)
        data = tensor.numpy().astype(np.float32)
        if data.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(data, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "cache"))
    model, path = original(), tmp_path / "tiny.gguf"
    write_gguf(model, path)
    capfd.readouterr()

    first = load_lm(path, dtype="float32", device="cpu")
    assert capfd.readouterr() == ("", "")
    ids = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids).bool()
    with torch.no_grad():
        expected = model(ids).logits
    torch.testing.assert_close(first.logits(ids, mask), expected, atol=1e-5, rtol=1e-5)
    assert (
        first.context_length == 48
        and first.eos_ids == {258}
        and first.prefix_ids == ()
        and len(first.sites()) == 15
    )
    assert first.decode(first.encode(["héllo"])[0].ids) == "héllo"

    def never(*_: object) -> None:
        raise AssertionError("converted a second time")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", never)
        second = load_lm(str(path), dtype="float32", device="cpu")
    assert torch.equal(second.logits(ids, mask), first.logits(ids, mask))
    assert second.identity == first.identity
    narrow = load_lm(path, dtype="bfloat16", device="cpu")  # another dtype is another conversion
    assert narrow.dtype == torch.bfloat16 and narrow.identity == first.identity
    weight = narrow.model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight, model.model.layers[1].mlp.up_proj.weight.bfloat16())


def test_a_conversion_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    write_gguf(original(), path)

    def fail(path: Path, dtype: torch.dtype, out: Path) -> None:
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", fail)
        with pytest.raises(KeyboardInterrupt):
            load_lm(path)
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []
    assert load_lm(path).n_layers == LAYERS


@pytest.mark.slow
def test_the_embedded_model() -> None:
    lm = load_lm("demo")
    assert (lm.n_layers, lm.d_model, lm.vocab_size) == (30, 576, 49152)
    assert lm.identity["model"] == "demo" and lm.prefix_ids == () and lm.eos_ids == {2}
    prompts = [e.ids for e in lm.encode(["The capital of France is", "Un, deux, trois"])]
    prompts.append(lm.chat([{"role": "user", "content": "Name a colour."}]))
    longest = max(map(len, prompts))
    ids = torch.tensor([[lm.pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    own = lm.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=16)
    steps = torch.stack(list(lm.stream(prompts, max_new_tokens=16)), dim=1)
    assert torch.equal(steps, own[:, longest:])
    assert "Paris" in lm.decode(steps[0])
    assert prompts[2][0] == 1 and 2 in prompts[2]  # the template's own control tokens
    for text in ("emoji 😀👩\u200d👩\u200d👧", "日本語のテキスト", "def f():\n        return 1  "):
        encoded = lm.encode([text])[0]
        assert "".join(encoded.pieces(text)) == text and lm.decode(encoded.ids) == text
    x = lm.capture(torch.tensor(prompts[:1]), torch.ones(1, len(prompts[0])).bool(), SITE)
    assert x.shape == (1, len(prompts[0]), 576) and x.dtype == lm.dtype


SITE = Site.parse("resid_post.15")
