"""The core figures of an evaluation: what `evaluate` returns, the family "core" of a result file.

Every number carries its definition as the field's description; a figure that was not measured, or
that has no meaning on these tokens, is None (JSON null), never a stand-in number.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class _Figures(BaseModel):
    """What is measured of the SAE and of every baseline alike; N tokens, x [N,D] in raw units."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fvu: float = Field(description="Σ‖x−x̂‖² / Σ‖x−μ‖², μ the mean of the same tokens")
    l0: float = Field(description="mean number of non-zero latents per token")
    cosine: float = Field(description="mean over tokens of cos(x, x̂); 0 where either is zero")
    shrinkage: float = Field(description="Σ‖x̂‖ / Σ‖x‖; below 1 the reconstruction is too short")
    delta_ce: float | None = Field(None, description="CE spliced − CE clean, nats per token")
    kl: float | None = Field(None, description="mean KL(clean ‖ spliced), nats per token")
    loss_recovered_zero: float | None = Field(
        None, description="(CE_zero − CE_spliced) / (CE_zero − CE_clean)"
    )
    loss_recovered_mean: float | None = Field(
        None, description="(CE_mean − CE_spliced) / (CE_mean − CE_clean)"
    )
    n_tokens: int = Field(description="held-out tokens that the reconstruction figures cover")
    n_splice_tokens: int = Field(description="predictions that the downstream figures average")
    n_documents: int = Field(description="held-out documents behind n_tokens")
    n_splice_documents: int = Field(description="held-out documents behind n_splice_tokens")
    ci: dict[str, Interval | None] = Field(
        description="95 % percentile bootstrap over documents, by figure; null where undefined"
    )


class Baseline(_Figures):
    """A reference method at the SAE's own L0, on the same tokens."""

    method: str = Field(description="what the baseline is, in a sentence")
    ce: float | None = Field(None, description="cross-entropy with the splice, nats per token")


class Result(_Figures):
    """An SAE measured on the held-out documents of a store."""

    dead_fraction: float = Field(
        description="share of latents with no activation in dead_window_tokens; "
        "that only shows a density below 3 / dead_window_tokens"
    )
    dead_window_tokens: int = Field(description="tokens, held-out and train, looked at for that")
    ce_clean: float | None = Field(None, description="cross-entropy of the model as it is")
    ce_sae: float | None = Field(None, description="cross-entropy with x̂ in place of x")
    ce_zero: float | None = Field(None, description="cross-entropy with 0 in place of x")
    ce_mean: float | None = Field(None, description="cross-entropy with the train mean instead")
    kl_zero: float | None = Field(None, description="mean KL(clean ‖ zero in place of x), nats")
    kl_mean: float | None = Field(None, description="mean KL(clean ‖ train mean instead), nats")
    baselines: dict[str, Baseline] = Field(description="reference methods, by name")
    provenance: dict[str, Any] = Field(description="model, site, mask policy and settings")

    @property
    def ce(self) -> float | None:
        """Cross-entropy with the SAE spliced in, nats per token; the same as `ce_sae`."""
        return self.ce_sae

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return self.model_dump(mode="json")
