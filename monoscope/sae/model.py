"""SAE: the one autoencoder class. Rows are latents in both matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monoscope.errors import DataError, LatentError
from monoscope.ops import SparseCodes, backend, make_encoder
from monoscope.ops.autograd import decode_values, encode_values
from monoscope.ops.select import Encoder, batch_topk
from monoscope.sae.config import SAEConfig

ENCODE_BATCH = 4096  # tokens encoded at a time, so that memory does not grow with the input


class SAE(nn.Module):
    """Sparse autoencoder: f = act(W_enc (x − b_dec) + b_enc), x̂ = Σ f_i W_dec[i] + b_dec.

    W_enc, W_dec [L, D] float32; b_enc [L]; b_dec [D]; threshold: scalar buffer, the smallest value
    that fires at inference (batchtopk; 0 elsewhere).
    provenance: what the SAE was trained on; JSON-able, saved with it.
    """

    def __init__(self, config: SAEConfig, provenance: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = provenance or {}
        self.W_enc = nn.Parameter(torch.zeros(config.d_sae, config.d_in))
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, config.d_in))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float32))
        self._encoder: tuple[tuple[float, ...], Encoder] | None = None

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @torch.no_grad()
    def encode(self, x: Tensor) -> SparseCodes:
        """Codes of x [N, D] in raw model units, by the rule used at inference.

        Does not depend on what else is in the batch: batchtopk uses its calibrated threshold.
        Raises DataError if the width is not D.
        """
        x = self._checked(x)
        encoder = self.encoder()
        parts = [self._select(encoder, part - self.b_dec) for part in x.split(ENCODE_BATCH)]
        return SparseCodes.concat(parts) if parts else self._select(encoder, x)

    @torch.no_grad()
    def decode(self, codes: SparseCodes) -> Tensor:
        """Reconstruction [N, D] of the codes, in raw model units."""
        out: Tensor = backend(self.W_dec).decode(codes, self.W_dec)
        return out + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x)), differentiable in the weights through the latents that fire."""
        codes = self.codes_with_grad(x, self.encode(x))
        return self.reconstruct(codes)

    def encoder(self) -> Encoder:
        """The selections over the present weights; rebuilt when they have changed."""
        # the sums are there because torch's fused optimisers do not raise a parameter's version
        sums = float(self.W_enc.detach().sum()), float(self.b_enc.detach().sum())
        key = (*sums, self.W_enc._version, self.b_enc._version, self.W_enc.data_ptr())
        if self._encoder is None or self._encoder[0] != key:
            self._encoder = (key, make_encoder(self.W_enc, self.b_enc))
        return self._encoder[1]

    def select_training(self, x: Tensor, guess: float) -> tuple[SparseCodes, float]:
        """The latents a training step uses: batchtopk shares k·N among the batch, others as encode.

        Returns the codes (no gradient) and the smallest value kept, the next step's guess.
        """
        centred = (x - self.b_dec).detach()
        encoder = make_encoder(self.W_enc, self.b_enc)  # the weights change at every step
        if self.config.activation == "batchtopk":
            assert self.config.k is not None
            return batch_topk(encoder, centred, self.config.k, guess)
        return self._select(encoder, centred), 0.0

    def codes_with_grad(self, x: Tensor, codes: SparseCodes) -> SparseCodes:
        """The chosen codes with values that carry gradients to W_enc, b_enc and b_dec."""
        values = encode_values(x, self.W_enc, self.b_enc, self.b_dec, codes)
        return codes.with_values(values)

    def reconstruct(self, codes: SparseCodes) -> Tensor:
        """As decode, with gradients to the values, W_dec and b_dec."""
        return decode_values(codes.values, self.W_dec, codes) + self.b_dec

    def _select(self, encoder: Encoder, centred: Tensor) -> SparseCodes:
        if self.config.activation == "topk":
            assert self.config.k is not None
            return encoder.topk(centred, self.config.k)
        return encoder.above(centred, self.threshold)

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise DataError(
                "activations have the wrong shape", got=list(x.shape), expected=f"[N, {self.d_in}]"
            )
        return x.to(device=self.W_enc.device, dtype=self.W_enc.dtype)


def require_latent(sae: SAE, latent: int) -> None:
    """Raise LatentError unless 0 <= latent < L."""
    if not 0 <= latent < sae.d_sae:
        raise LatentError("no such latent", got=latent, expected=f"0 to {sae.d_sae - 1}")


__all__ = ["SAE", "require_latent"]
