"""HFModel: a Hugging Face causal LM whose activations can be read, edited and steered."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from monoscope.errors import DataError, ModelError
from monoscope.lm import generate as generation
from monoscope.lm import hooks as hooking
from monoscope.lm import lens as logit_lens
from monoscope.lm.families import base_of, port_of, site_names
from monoscope.lm.protocol import Encoded, Hook, Positions
from monoscope.lm.session import Session
from monoscope.lm.tokens import Tokens
from monoscope.sites import Site

# For models that state no limit of their own (recurrent ones, ALiBi).
UNLIMITED = 1_000_000


class HFModel:
    """A causal LM of any Hugging Face family, held in evaluation mode and never trained.

    model, tokenizer: the transformers objects.  name: what to call it.  weights: what tells these
    weights from others, a hash or a commit; by default the hash of what is in memory.
    Raises ModelError for a model that is not a causal LM.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, weights: str | None = None) -> None:
        config = model.config.get_text_config()
        if getattr(config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
            raise ModelError("not a causal language model", got=type(model).__name__)
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.tokens = Tokens(tokenizer, _eos_ids(model))
        self.vocab_size, self.d_model = model.get_output_embeddings().weight.shape
        self.n_layers = int(config.num_hidden_layers)
        self.context_length = int(getattr(config, "max_position_embeddings", None) or UNLIMITED)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.prefix_ids, self.special_ids = self.tokens.prefix_ids, self.tokens.special_ids
        self.pad_id, self.eos_ids = self.tokens.pad_id, self.tokens.eos_ids
        self.identity = {
            "model": name,
            "weights": weights or _weights_in_memory(model),
            "tokenizer": self.tokens.fingerprint,
        }
        self._widths: dict[str, int] = {}
        self._lock = threading.RLock()  # hooks sit on shared modules: one forward pass at a time
        self._accepts = set(inspect.signature(model.forward).parameters)
        self._base = base_of(model)
        inside = {id(module) for module in self._base.modules()}
        self._base_modules = {name for name, m in model.named_modules() if id(m) in inside}

    def sites(self) -> list[str]:
        """Every named site the model has, in the order of the forward pass."""
        return site_names(self.model)

    def width(self, site: Site) -> int:
        """D at the site, found by running one token as far as it.

        Raises SiteError, naming the sites the model has.
        """
        site = Site.parse(site)
        if str(site) not in self._widths:
            token = torch.tensor([[min(self.eos_ids, default=0)]])
            x = self.capture(token, torch.ones_like(token, dtype=torch.bool), site)
            self._widths[str(site)] = x.shape[-1]
        return self._widths[str(site)]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts as tokens with the end of each, no special tokens added."""
        return self.tokens.encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, special tokens included."""
        return self.tokens.decode(ids)

    def token_text(self, token_id: int) -> str:
        """One vocabulary entry: its text, or its bytes as <0x…> where they are no whole text."""
        return self.tokens.token_text(token_id)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation in the model's own template; raises ModelError where it has none."""
        return self.tokens.chat(messages)

    def capture(self, ids: Tensor, mask: Tensor, site: Site) -> Tensor:
        """x [B,S,D] at a site in the model's dtype; the pass stops there, no logits are computed.

        ids [B,S] int64, mask [B,S] bool (False on padding, left or right; x there means nothing).
        Raises SiteError for a site the model lacks, DataError for ids or mask that do not fit.
        """
        return self.capture_many(ids, mask, [site])[0]

    def capture_many(self, ids: Tensor, mask: Tensor, sites: Sequence[Site]) -> list[Tensor]:
        """What `capture` gives at each of the sites, bit for bit, from one forward pass.

        The pass stops at the last of them, whatever their order.  Raises as `capture`.
        """
        parsed = [Site.parse(site) for site in sites]
        ids, mask = self._checked(ids, mask)
        if not parsed:
            return []
        ports = [port_of(self.model, site) for site in parsed]
        # The head, at most, lies outside the base; for anything else logits are never computed.
        inside = all(port.module in self._base_modules for port in ports)
        run = self._base if inside else self.model
        inputs = self._inputs(ids, mask)
        with self._lock, torch.no_grad():
            return hooking.read(self.model, parsed, lambda: run(ids, use_cache=False, **inputs))

    def logits(
        self,
        ids: Tensor,
        mask: Tensor,
        hooks: Mapping[Site, Hook] | None = None,
        *,
        generated: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits [B,S,V] in the model's dtype, with the sites in `hooks` edited.

        A hook gets x in float32; its answer is rounded back to the model's dtype, and returning x
        itself leaves every bit alone. generated [B,S]: what to tell hooks the model wrote itself.
        """
        ids, mask = self._checked(ids, mask)
        written = torch.zeros_like(mask) if generated is None else generated.to(self.device).bool()
        seen = Positions(ids, mask, written, _position(mask))
        inputs = self._inputs(ids, mask)
        with self._lock, torch.no_grad(), hooking.editing(self.model, hooks, seen):
            out = self.model(ids, use_cache=False, **inputs)
        return out.logits

    def session(self, hooks: Mapping[Site, Hook] | None = None) -> Session:
        """Read one text piece by piece, with the sites in `hooks` edited. See `session.Session`."""
        return Session(self, hooks)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        hooks: Mapping[Site, Hook] | None = None,
    ) -> Iterator[Tensor]:
        """The next ids [B], step by step; `pad_id` after a row ended. See `generate.stream`."""
        return generation.stream(
            self,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            hooks=hooks,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        hooks: Mapping[Site, Hook] | None = None,
    ) -> list[list[int]]:
        """New ids only, each row cut before its first end of text."""
        steps = self.stream(
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, hooks=hooks
        )
        return generation.cut(list(steps), len(prompts), self.eos_ids)

    def step(
        self, seen: Positions, attend: Tensor, cache: Any, hooks: Mapping[Site, Hook] | None
    ) -> tuple[Tensor, Any]:
        """One step of generation: logits [B,V] of the last position, and the grown cache.

        seen: the tokens not yet in the cache.  attend [B,S]: the mask over all tokens so far.
        The cache is None for models that keep none; such a model is fed the whole text each step.
        """
        inputs: dict[str, Any] = {"attention_mask": attend.long(), "use_cache": True}
        if "position_ids" in self._accepts:
            inputs["position_ids"] = seen.position
        if "logits_to_keep" in self._accepts:
            # an index, not a count: the slice a count makes is strided, and the unembedding
            # would be copied once for every row of the batch
            last = seen.token_ids.shape[1] - 1
            inputs["logits_to_keep"] = torch.tensor([last], device=seen.token_ids.device)
        if cache is not None:
            inputs["past_key_values"] = cache
        with self._lock, torch.no_grad(), hooking.editing(self.model, hooks, seen):
            out = self.model(seen.token_ids, **inputs)
        return out.logits[:, -1], getattr(out, "past_key_values", None)

    def lens(self, directions: Tensor) -> Tensor:
        """Logit effect [n,V] float32 of directions [n,D]: W_U (γ ⊙ d), γ the final norm's gain.

        Raises ModelError where the model has no final norm, DataError for a wrong shape.
        """
        return logit_lens.lens(self.model, self._gamma, directions)

    @cached_property
    def _gamma(self) -> Tensor:
        with self._lock:
            return logit_lens.final_gamma(self.model)

    def _checked(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if ids.ndim != 2 or ids.shape != mask.shape or ids.numel() == 0:
            raise DataError(
                "token ids and mask do not fit",
                got=f"ids {tuple(ids.shape)}, mask {tuple(mask.shape)}",
                expected="both [B,S], not empty",
            )
        if ids.shape[1] > self.context_length:
            raise DataError(
                "the text is longer than the model's context",
                got=f"{ids.shape[1]} tokens",
                expected=f"at most {self.context_length}",
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise DataError(
                "a token id is outside the vocabulary",
                got=f"ids {int(ids.min())}…{int(ids.max())}",
                expected=f"0…{self.vocab_size - 1}",
            )
        return ids.to(self.device), mask.to(self.device, torch.bool)

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Attention mask and positions for one pass over whole rows.

        With padding only on the right no real token can see any of it, attention being causal; so
        the mask is given as all ones, which lets the attention kernel take its fast causal path.
        """
        if bool((mask[:, :-1] >= mask[:, 1:]).all()):
            return {"attention_mask": torch.ones_like(ids)}
        inputs = {"attention_mask": mask.long()}
        if "position_ids" in self._accepts:
            inputs["position_ids"] = _position(mask)
        return inputs


def _position(mask: Tensor) -> Tensor:
    """Index [B,S] of each token among the real tokens of its row."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _eos_ids(model: Any) -> list[int]:
    """Every end-of-text id that the generation configuration or a configuration names."""
    ids: list[int] = []
    nested = model.config.get_text_config()
    for config in (getattr(model, "generation_config", None), model.config, nested):
        eos = getattr(config, "eos_token_id", None)
        ids += eos if isinstance(eos, list) else [eos] if eos is not None else []
    return ids


def _weights_in_memory(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
