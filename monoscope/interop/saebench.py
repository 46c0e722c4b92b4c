"""The object that SAEBench's and SAELens's runners take for an SAE, around one of ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from monoscope.artifact.interop.hooks import hook_of_site
from monoscope.artifact.interop.reading import recorded_reading
from monoscope.errors import MismatchError
from monoscope.sae import SAE
from monoscope.sites import Site

_TOLERANCE = 1e-3  # how far from 1 SAEBench lets a decoder row's norm be before it complains


class BenchSAE(nn.Module):
    """An SAE as SAEBench asks for one: dense codes, any leading axes, decoder rows of norm 1.

    W_enc [D,L], W_dec [L,D] (rows of norm 1), b_enc [L], b_dec [D]; cfg with model_name,
    hook_name, hook_layer, d_in, d_sae, dtype; device, dtype. encode gives f_i ‖W_dec[i]‖, so that
    decode(encode(x)) is the SAE's own reconstruction whatever its decoder norms are.
    """

    def __init__(self, sae: SAE, model_name: str, hook_name: str, hook_layer: int) -> None:
        super().__init__()
        self._sae = [sae]  # in a list: its parameters are not this module's
        norms = sae.W_dec.detach().norm(dim=1)
        self._norms = norms.clamp_min(1e-12)
        rows = sae.W_dec.detach() / self._norms[:, None]
        self.W_enc = nn.Parameter((sae.W_enc.detach() * self._norms[:, None]).T.contiguous())
        self.W_dec = nn.Parameter(torch.where(norms[:, None] > 0, rows, _unit_like(rows)))
        self.b_enc = nn.Parameter(sae.b_enc.detach() * self._norms)
        self.b_dec = nn.Parameter(sae.b_dec.detach().clone())
        self.requires_grad_(False)
        self.cfg: Any = _config(sae, model_name, hook_name, hook_layer)
        self.device, self.dtype = self.W_enc.device, self.W_enc.dtype

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Dense codes [..., L] of x [..., D] in raw model units."""
        sae = self._sae[0]
        codes = sae.encode(x.reshape(-1, x.shape[-1]).to(sae.W_enc))
        dense = codes.to_dense() * self._norms.to(codes.values.device)
        return dense.reshape(*x.shape[:-1], sae.d_sae).to(device=x.device, dtype=self.dtype)

    @torch.no_grad()
    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstruction [..., D] of dense codes [..., L]."""
        return feature_acts.to(self.dtype) @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def to(self, *args: Any, **kwargs: Any) -> BenchSAE:
        """As nn.Module.to; device and dtype follow, and the SAE within moves along."""
        super().to(*args, **kwargs)
        self.device, self.dtype = self.W_enc.device, self.W_enc.dtype
        self._sae[0].to(self.device)
        self._norms = self._norms.to(self.device)
        self.cfg.device, self.cfg.dtype = str(self.device), str(self.dtype).split(".")[1]
        return self

    def check_decoder_norms(self) -> bool:
        """Whether every decoder row has norm 1."""
        return bool((self.W_dec.norm(dim=1) - 1).abs().max() < _TOLERANCE)


class _Config(SimpleNamespace):
    """The settings that runners look up; what is not known is None, as in SAELens's metadata."""

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "metadata"}


def saebench(sae: SAE, model_name: str | None = None, hook_name: str | None = None) -> BenchSAE:
    """The SAE as the object that SAEBench's runners take in place of a SAELens one.

    model_name, hook_name: TransformerLens's names; by default those of the SAE's provenance.
    Needs neither library. Raises MismatchError if the SAE does not say where it belongs, or belongs
    where TransformerLens has no hook.
    """
    origin = sae.provenance
    name = model_name or (origin.get("model") or {}).get("model")
    site = origin.get("site")
    hook = hook_name or hook_of_site(site)
    if not name or not hook:
        raise MismatchError(
            "SAEBench needs the model and the hook an SAE belongs to",
            got=f"model {name}, site {site}",
            hint="Pass model_name and hook_name as TransformerLens calls them.",
        )
    if getattr(sae.config, "hidden", ()):
        raise MismatchError("SAEBench takes SAEs of one layer", got=f"hidden {sae.config.hidden}")
    layer = Site.parse(site).layer if site else None
    numbers = [int(part) for part in hook.split(".") if part.isdigit()]
    return BenchSAE(sae, str(name), hook, numbers[0] if numbers else layer or 0)


def _config(sae: SAE, model_name: str, hook_name: str, hook_layer: int) -> _Config:
    read = recorded_reading(sae.provenance)
    return _Config(
        model_name=model_name,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        hook_name=hook_name,
        hook_layer=hook_layer,
        hook_head_index=None,
        context_size=read.context_size,
        architecture=sae.config.activation,
        architecture_str="monoscope",
        apply_b_dec_to_input=True,
        finetuning_scaling_factor=False,
        activation_fn_str=sae.config.activation,
        activation_fn_kwargs={},
        prepend_bos=read.prepend_bos,
        exclude_special_tokens=read.exclude_special_tokens,
        normalize_activations="none",
        dtype=str(sae.W_enc.dtype).split(".")[1],
        device=str(sae.W_enc.device),
        model_from_pretrained_kwargs={},
        dataset_path=read.dataset_path or "",
        dataset_trust_remote_code=False,
        seqpos_slice=(None,),
        training_tokens=sae.provenance.get("n_tokens"),
        sae_lens_training_version=None,
        neuronpedia_id=None,
    )


def _unit_like(rows: Tensor) -> Tensor:
    """For rows that are all zero: the first unit vector, whose code is always times zero."""
    out = torch.zeros_like(rows)
    out[:, 0] = 1.0
    return out
