"""A language model and an SAE too small to say anything, for tests of what is around them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from monoscope.lm import HFModel
from monoscope.sae import SAE, SAEConfig

D, CONTEXT = 12, 64
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def language_model() -> HFModel:
    """Two layers over single bytes, weights drawn once and for all; it has a chat template."""
    alphabet = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(alphabet[:2])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config: Any = transformers.LlamaConfig(
        vocab_size=len(alphabet), hidden_size=D, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=CONTEXT,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return HFModel(transformers.LlamaForCausalLM(config).eval(), fast, "tiny")


def autoencoder(lm: HFModel, d_sae: int) -> SAE:
    """A random TopK SAE at the model's second layer."""
    torch.manual_seed(1)
    sae = SAE(SAEConfig(d_in=D, d_sae=d_sae, activation="topk", k=4))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(d_sae, D), dim=1))
        sae.W_enc.copy_(sae.W_dec)
    sae.provenance = {
        "model": dict(lm.identity), "site": "resid_post.1", "latent_max": [1.0] * d_sae,
        "norm_stats": {"mean_norm": 3.0, "median_norm": 3.0},
    }  # fmt: skip
    return sae
