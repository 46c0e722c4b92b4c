"""A toy language model with two sites and small random SAEs, for the steering tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from monoscope.lm.protocol import Encoded, Hook, Positions
from monoscope.sae import SAE, SAEConfig
from monoscope.sites import Site

BOS, EOS, PAD = 0, 1, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz ."
D = 12


class ToyLM:
    """Letters in, letters out: each block adds a causal mean through a random nonlinear map.

    Token 0 (BOS) has a norm 100 times the others', as attention sinks have in real models.
    """

    name = "toy"
    n_layers, d_model, context_length = 2, D, 200
    vocab_size = len(LETTERS) + 3
    device, dtype = torch.device("cpu"), torch.float32
    prefix_ids = (BOS,)
    special_ids = frozenset({BOS, EOS, PAD})
    pad_id, eos_ids = PAD, frozenset({EOS})

    def __init__(self, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.identity = {"model": "toy", "weights": f"w{seed}", "tokenizer": "letters"}
        self.embed = torch.randn(self.vocab_size, D, generator=rng)
        self.embed[BOS] *= 100
        self.blocks = [torch.randn(2, D, D, generator=rng) / D**0.5 for _ in range(2)]
        self.unembed = torch.randn(D, self.vocab_size, generator=rng)
        self.unembed[:, [BOS, PAD]] = 0

    def sites(self) -> list[str]:
        return ["resid_post.0", "resid_post.1"]

    def width(self, site: Site) -> int:
        return D

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        return [
            Encoded([LETTERS.index(c) + 3 for c in text], list(range(1, len(text) + 1)))
            for text in texts
        ]

    def token_text(self, token_id: int) -> str:
        return LETTERS[token_id - 3] if token_id >= 3 else f"<{token_id}>"

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.token_text(int(i)) for i in ids)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        return [BOS, *self.encode([m["content"] + "." for m in messages])[0].ids]

    def _run(
        self,
        ids: Tensor,
        mask: Tensor,
        generated: Tensor,
        hooks: Mapping[Site, Hook] | None,
        until: Site | None = None,
    ) -> Tensor:
        position = mask.long().cumsum(1) - 1
        at = Positions(ids, mask, generated, position)
        x = self.embed[ids]
        for layer, (mix, out) in enumerate(self.blocks):
            small = torch.where((x.norm(dim=-1) < 50)[..., None] & mask[..., None], x, 0.0)
            mean = small.cumsum(1) / (position + 1).clamp_min(1)[..., None]
            x = x + torch.tanh(mean @ mix + small) @ out
            site = Site("resid_post", layer)
            if site == until:
                return x
            if hooks and site in hooks:
                x = hooks[site](x, at)
        return torch.where((x.norm(dim=-1) < 50)[..., None], x, 0.0) @ self.unembed

    def capture(self, ids: Tensor, mask: Tensor, site: Site) -> Tensor:
        return self._run(ids, mask, torch.zeros_like(mask), None, until=site)

    def logits(self, ids: Tensor, mask: Tensor, hooks: Mapping[Site, Hook] | None = None) -> Tensor:
        return self._run(ids, mask, torch.zeros_like(mask), hooks)

    def session(self, hooks: Mapping[Site, Hook] | None = None) -> ToyReader:
        return ToyReader(self, hooks)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        hooks: Mapping[Site, Hook] | None = None,
    ) -> Iterator[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        width = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (width - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
        generated = torch.zeros_like(mask)
        done = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(max_new_tokens):
            last = self._run(ids, mask, generated, hooks)[:, -1]
            if temperature == 0:
                new = last.argmax(-1)
            else:
                shares = (last / temperature).softmax(-1)
                new = torch.multinomial(shares, 1, generator=rng)[:, 0]
            new = torch.where(done, PAD, new)
            yield new
            done |= new == EOS
            ids = torch.cat([ids, new[:, None]], 1)
            more = torch.ones(len(prompts), 1, dtype=torch.bool)
            mask, generated = torch.cat([mask, more], 1), torch.cat([generated, more], 1)

    def generate(self, prompts: Sequence[Sequence[int]], **options: object) -> list[list[int]]:
        rows = torch.stack(list(self.stream(prompts, **options)), 1).tolist()  # type: ignore[arg-type]
        return [row[: row.index(EOS)] if EOS in row else row for row in rows]

    def lens(self, directions: Tensor) -> Tensor:
        return directions.float() @ self.unembed


class ToyReader:
    """Reads a text in pieces by running all of it again each time."""

    def __init__(self, lm: ToyLM, hooks: Mapping[Site, Hook] | None) -> None:
        self.lm, self.hooks = lm, hooks
        self.ids: list[int] = []
        self.generated: list[bool] = []

    def feed(self, ids: Sequence[int], *, generated: bool = False) -> Tensor:
        self.ids += ids
        self.generated += [generated] * len(ids)
        row = torch.tensor([self.ids])
        marks = torch.tensor([self.generated])
        return self.lm._run(row, torch.ones_like(marks), marks, self.hooks)[0, -1]


MakeSAE = Callable[..., SAE]


@pytest.fixture
def lm() -> ToyLM:
    return ToyLM()


@pytest.fixture
def make_sae() -> MakeSAE:
    """A random SAE of width D at a site of the toy model, with everything an edit may ask for."""

    def make(
        site: str = "resid_post.0", d_sae: int = 17, k: int = 3, seed: int = 0, **provenance: object
    ) -> SAE:
        rng = torch.Generator().manual_seed(seed)
        recorded: dict[str, object] = {
            "site": site,
            "model": {"model": "toy", "weights": "w0", "tokenizer": "letters"},
            "norm_stats": {"mean_norm": 5.0, "median_norm": 4.0},
            "mask_policy": {"special_ids": [BOS, EOS, PAD], "sink_ratio": 10.0, "max_norm": 40.0},
            "latent_max": [float(i) for i in range(1, d_sae + 1)],
        }
        recorded.update(provenance)
        config = SAEConfig(d_in=D, d_sae=d_sae, activation="topk", k=k)
        sae = SAE(config, {key: value for key, value in recorded.items() if value is not None})
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
        return sae

    return make


def positions_of(x: Tensor, generated_from: int = 4) -> Positions:
    """Positions for activations x [B,S,D]: no padding, plain tokens, a tail that was generated."""
    ids = torch.full(x.shape[:2], 5)
    at = torch.arange(x.shape[1]).expand(x.shape[:2])
    return Positions(ids, torch.ones_like(ids, dtype=torch.bool), at >= generated_from, at)


@pytest.fixture
def positions() -> Callable[..., Positions]:
    return positions_of
