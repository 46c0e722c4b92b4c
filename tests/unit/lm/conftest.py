"""Tiny random models of each family, and a tiny tokenizer, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from monoscope.lm import HFModel

N_LAYERS, D, NEURONS, VOCAB, CONTEXT = 3, 12, 20, 300, 64

_ROPE: dict[str, Any] = dict(
    hidden_size=D,
    intermediate_size=NEURONS,
    num_hidden_layers=N_LAYERS,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=6,
    vocab_size=VOCAB,
    max_position_embeddings=CONTEXT,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=1,
)
_NEOX = {k: v for k, v in _ROPE.items() if k not in ("num_key_value_heads", "head_dim")}
_GPT2: dict[str, Any] = dict(
    n_embd=D,
    n_inner=NEURONS,
    n_layer=N_LAYERS,
    n_head=2,
    vocab_size=VOCAB,
    n_positions=CONTEXT,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=1,
)
_GEMMA = {**_ROPE, "sliding_window": 4, "query_pre_attn_scalar": 6, "hidden_activation": "gelu"}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_ROPE, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**_ROPE, sliding_window=4),
    "qwen2": lambda: transformers.Qwen2Config(
        **{k: v for k, v in _ROPE.items() if k != "head_dim"}
    ),
    "qwen3": lambda: transformers.Qwen3Config(**_ROPE),
    "gemma": lambda: transformers.GemmaConfig(**_ROPE),
    "gemma2": lambda: transformers.Gemma2Config(**_GEMMA),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GEMMA),
    "gemma3_nested": lambda: transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**_GEMMA),
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
    "gpt2": lambda: transformers.GPT2Config(**_GPT2),
    "neox_parallel": lambda: transformers.GPTNeoXConfig(**_NEOX, use_parallel_residual=True),
    "neox_sequential": lambda: transformers.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
}


def _randomised(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A model with weights large enough that every part of it matters, norms included."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if name.endswith("bias"):
                parameter.copy_(noise * 0.05)  # larger ones in the last norm drown the text
            else:
                parameter.copy_(noise * 0.3 + 0.5 * (parameter.ndim == 1))
    return model.to(dtype).eval()


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """Byte-level BPE of 300 entries: 0 pad, 1 end of text, then bytes and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["the cat sat on the mat; the dog ran    \n    home"] * 3, trainer
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )


@pytest.fixture(scope="session")
def randomised() -> Callable[..., Any]:
    """randomised(config, dtype) -> a random transformers model of that configuration."""
    return _randomised


@pytest.fixture(scope="session")
def tiny(byte_tokenizer: Any) -> Callable[..., HFModel]:
    """tiny(family, dtype) -> a small random HFModel of that family, made once."""
    made: dict[tuple[str, torch.dtype], HFModel] = {}

    def make(family: str, dtype: torch.dtype = torch.float32) -> HFModel:
        if (family, dtype) not in made:
            model = _randomised(CONFIGS[family](), dtype)
            made[family, dtype] = HFModel(model, byte_tokenizer, f"tiny-{family}")
        return made[family, dtype]

    return make
