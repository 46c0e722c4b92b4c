"""SAE: the one autoencoder class. Rows are latents in both matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from monoscope.errors import ConfigError, DataError, LatentError
from monoscope.ops import SparseCodes, backend, make_encoder
from monoscope.ops.autograd import decode_values, encode_values
from monoscope.ops.select import Encoder
from monoscope.sae.activations import Active, Dense, Rule, rule_of
from monoscope.sae.config import SAEConfig, count_of
from monoscope.sae.frames import CARRIERS, carry, frame
from monoscope.sae.normalise import radius

ENCODE_BATCH = 4096  # tokens encoded at a time, so that memory does not grow with the input


class SAE(nn.Module):
    """Sparse autoencoder: f = act(W_enc (x − b_dec) + b_enc), x̂ = Σ f_i W_dec[i] + b_dec.

    W_enc, W_dec [L, D] float32; b_enc [L]; b_dec [D]; threshold: what a value must exceed to fire,
    a scalar buffer (batchtopk; 0 elsewhere) or a parameter [L] (jumprelu).  gated: b_mag, r_mag.
    With normalisation "unit", x − b_dec is divided by r = ‖x − b_dec‖/√D and f multiplied by it.
    With hidden layers (h ← relu(h Wᵀ + b) on the way in, h ← relu(h + b) W on the way out), both
    matrices are [L, H], H the innermost width.
    provenance: what the SAE was trained on; JSON-able, saved with it.
    """

    threshold: Tensor
    b_mag: Tensor
    r_mag: Tensor

    def __init__(self, config: SAEConfig, provenance: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = provenance or {}
        self.rule: Rule = rule_of(config.activation, config.hidden)
        # Outright: a model that loads on another thread changes torch's default dtype meanwhile.
        zeros = partial(torch.zeros, dtype=torch.float32)
        inner = config.hidden[-1] if config.hidden else config.d_in
        self.W_enc = nn.Parameter(zeros(config.d_sae, inner))
        self.b_enc = nn.Parameter(zeros(config.d_sae))
        self.W_dec = nn.Parameter(zeros(config.d_sae, inner))
        self.b_dec = nn.Parameter(zeros(config.d_in))
        leaves = self.rule.leaves(config.d_sae)
        if "threshold" not in leaves:
            self.register_buffer("threshold", zeros(()))
        for name, value in leaves.items():
            self.register_parameter(name, nn.Parameter(value))
        widths = list(pairwise((config.d_in, *config.hidden)))
        self.in_weights = nn.ParameterList(zeros(out, into) for into, out in widths)
        self.in_biases = nn.ParameterList(zeros(out) for _, out in widths)
        self.out_weights = nn.ParameterList(zeros(out, into) for into, out in widths[::-1])
        self.out_biases = nn.ParameterList(zeros(out) for _, out in widths[::-1])
        self._encoder: tuple[tuple[float, ...], Encoder] | None = None

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @torch.no_grad()
    def encode(self, x: Tensor, k: int | None = None) -> SparseCodes:
        """Codes of x [N, D] in raw model units, by the rule used at inference.

        Does not depend on what else is in the batch: batchtopk uses its calibrated threshold.
        k: for topk only, another number of latents than it was trained with (Makhzani 2013: αk).
        x of any floating dtype is taken at the dtype of the weights.
        Raises DataError if the width is not D, for whole numbers, and for what has no values or is
        on another device than the weights; ConfigError for a k that does not go.
        """
        if k is not None:
            if self.config.activation != "topk":
                raise ConfigError(
                    "encode takes k for topk only", got=f"k {k}, {self.config.activation}"
                )
            k = count_of("k", k, self.d_sae)
        x = self._checked(x)
        parts = [self._encode(part, k) for part in x.split(ENCODE_BATCH)]
        return SparseCodes.concat(parts) if parts else self._encode(x, k)

    @torch.no_grad()
    def choose(self, x: Tensor) -> SparseCodes:
        """The latents that may fire on x [N, D], with pre-activations as thresholds see them.

        Unlike encode, the values are those before gated's magnitudes and before "unit" gives the
        token's norm back; all tokens at once.
        """
        return self.rule.choose(self, self._centre(self._checked(x))[0], None)

    def _encode(self, x: Tensor, k: int | None) -> SparseCodes:
        if self.config.normalisation in CARRIERS:
            framed, token_size, values = frame(self.config.normalisation, x)
            return carry(self.rule.select(self, framed - self.b_dec, k), token_size, values)
        centred, size = self._centre(x)
        codes = self.rule.select(self, centred, k)
        return codes if size is None else codes.with_values(codes.values * size[codes.rows])

    def _centre(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What W_enc sees of raw x [N, D]; with "unit", also what codes are multiplied by, [N]."""
        if self.config.normalisation in CARRIERS:
            framed, size, _ = frame(self.config.normalisation, x)
            return framed - self.b_dec, size
        centred = x - self.b_dec
        if self.config.normalisation == "none":
            return centred, None
        size = radius(centred)
        return centred / size[:, None], size

    @torch.no_grad()
    def decode(self, codes: SparseCodes) -> Tensor:
        """Reconstruction [N, D] of the codes, in raw model units."""
        return self._outward(backend(self.W_dec).decode(codes, self.W_dec)) + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x)), differentiable in the weights through the latents that fire.

        With normalisation "unit", b_dec gets its gradient through the decoder only.
        Raises ConfigError for the normalisations of imported SAEs, which cannot be trained.
        """
        x = self._checked(x)
        if self.config.normalisation in CARRIERS:
            raise ConfigError(
                "an imported SAE of this normalisation can be used but not trained",
                got=self.config.normalisation,
            )
        if isinstance(self.rule, Dense):
            f = self.rule.apply(self.dense_preactivations(self._centre(x)[0]))
            return self.reconstruct(f)
        with torch.no_grad():
            centred, size = self._centre(x)
            codes = self.rule.choose(self, centred, None)
        if size is None:
            f = self.rule.finish(self, codes, self.preactivations(x, codes))
        else:
            nowhere = torch.zeros_like(self.b_dec)
            z = encode_values(centred, self.W_enc, self.b_enc, nowhere, codes)
            f = self.rule.finish(self, codes, z) * size[codes.rows]
        return self.reconstruct(codes.with_values(f))

    def encoder(self) -> Encoder:
        """The selections over the present weights; rebuilt when they have changed."""
        # the sums are there because torch's fused optimisers do not raise a parameter's version
        sums = float(self.W_enc.detach().sum()), float(self.b_enc.detach().sum())
        key = (*sums, self.W_enc._version, self.b_enc._version, self.W_enc.data_ptr())
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = (key, make_encoder(self.W_enc, self.b_enc))
        return self._encoder[1]

    def activate(
        self, x: Tensor, *, k: int | None = None, guess: float = 0.0, bandwidth: float = 1.0
    ) -> Active:
        """What the latents do on the normalised batch x [N, D] of a training step.

        k: latents a token now (default config.k).  guess: where batchtopk starts to look.
        bandwidth: ε of jumprelu's straight-through estimators.
        """
        return self.rule.train(self, x, k or self.config.k or 0, guess, bandwidth)

    def preactivations(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """z [nnz] at the entries of codes selected from x; gradients to W_enc, b_enc and b_dec."""
        return encode_values(x, self.W_enc, self.b_enc, self.b_dec, codes)

    def dense_preactivations(self, centred: Tensor) -> Tensor:
        """z [N, L] of x − b_dec, through the hidden layers; gradients to all of them."""
        h = centred
        for weight, bias in zip(self.in_weights, self.in_biases, strict=True):
            h = torch.addmm(bias, h, weight.T).relu()
        return torch.addmm(self.b_enc, h, self.W_enc.T)

    def reconstruct(self, codes: SparseCodes | Tensor) -> Tensor:
        """As decode, also of dense f [N, L], with gradients to the values, W_dec and b_dec."""
        if isinstance(codes, Tensor):
            return self._outward(codes @ self.W_dec) + self.b_dec
        return self._outward(decode_values(codes.values, self.W_dec, codes)) + self.b_dec

    def tie(self) -> None:
        """Let W_dec be W_enc: one parameter, two names."""
        self.W_dec = self.W_enc

    def untie(self) -> None:
        """Give W_dec weights of its own again."""
        if self.W_dec is self.W_enc:
            self.W_dec = nn.Parameter(self.W_enc.detach().clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAE:
        """As nn.Module's, behind .to() and .bfloat16(); thresholds stay at least float32."""
        threshold = self.threshold.detach().clone()
        super()._apply(fn, recurse)
        if self.threshold.dtype.itemsize < 4:
            self.threshold.data = threshold.to(self.threshold.device)
        return self

    def _outward(self, h: Tensor) -> Tensor:
        for weight, bias in zip(self.out_weights, self.out_biases, strict=True):
            h = (h + bias).relu() @ weight
        return h

    def _checked(self, x: Tensor) -> Tensor:
        """x with the dtype and on the device of the weights, if it is activations of this width."""
        if not isinstance(x, Tensor):
            raise DataError(
                "activations must be a tensor",
                got=type(x).__name__,
                expected=f"a torch tensor [N, {self.d_in}]",
            )
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise DataError(
                "activations have the wrong shape", got=list(x.shape), expected=f"[N, {self.d_in}]"
            )
        if not x.is_floating_point():
            raise DataError(
                "activations have the wrong dtype",
                got=x.dtype,
                expected="float32, float64, bfloat16 or float16",
                hint="Token ids go through the language model first.",
            )
        for what, tensor in (("activations", x), ("the SAE's weights", self.W_enc)):
            if tensor.is_meta:
                raise DataError(
                    f"{what} are on the meta device, where tensors have no values",
                    expected="cpu or a GPU",
                    hint="Load or compute them outside of torch.device('meta').",
                )
        if x.device != self.W_enc.device:
            raise DataError(
                "activations and the SAE's weights are on two devices",
                got=f"activations on {x.device}, weights on {self.W_enc.device}",
                expected="one device",
                hint=f"Use x.to('{self.W_enc.device}') or sae.to('{x.device}').",
            )
        return x.to(dtype=self.W_enc.dtype)


def require_latent(sae: SAE, latent: int) -> None:
    """Raise LatentError unless 0 <= latent < L."""
    if not 0 <= latent < sae.d_sae:
        raise LatentError(
            "no such latent", got=latent, expected=f"0 to {sae.d_sae - 1}",
            hint="`monoscope features ATLAS` lists those there are.",
        )  # fmt: skip


def require_directions(sae: Any, what: str) -> None:
    """Raise ConfigError if the SAE's latents are no directions in the model's activations."""
    hidden = getattr(sae.config, "hidden", ())
    if hidden:
        raise ConfigError(
            f"{what} needs latents that are directions in the model's activations",
            got=f"an autoencoder with hidden layers {list(hidden)}",
            expected="an SAE whose decoder is linear",
            hint="Train it without --set hidden=….",
        )


__all__ = ["SAE", "require_directions", "require_latent"]
