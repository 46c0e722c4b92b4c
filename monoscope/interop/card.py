"""A folder for the Hugging Face hub: the SAE as SAELens reads it, and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from monoscope.artifact.interop.export import export_sae
from monoscope.artifact.interop.saelens import WRITES
from monoscope.files import write_atomic
from monoscope.interop.shown import require_atlas

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

_ROWS = 12  # features that the card shows


def write_hub(sae: SAE, folder: Path, atlas: Atlas | None, probe: Tensor | None) -> dict[str, Any]:
    """Write cfg.json and sae_weights.safetensors, which SAELens and monoscope load by the
    repository's name, and README.md with what is known of the SAE; upload it with `hf upload`.

    atlas: its attribution and some features go into the card.
    """
    if atlas is not None:
        atlas = require_atlas(sae, atlas, "hub")
    told = export_sae(sae, folder, "saelens", probe).to_json()
    write_atomic(folder / "README.md", card(sae, atlas))
    return told | {"upload": f"hf upload OWNER/NAME {folder} ."}


def card(sae: SAE, atlas: Atlas | None) -> str:
    """The model card: metadata that the hub indexes, figures, how to load it, features."""
    origin, config = sae.provenance, sae.config
    model = (origin.get("model") or {}).get("model")
    head = ["---", "library_name: saelens", "tags:", "- sparse-autoencoder", "- interpretability"]
    head += [f"base_model: {model}"] if model and "/" in str(model) else []
    rows = {
        "model": model,
        "site": origin.get("site"),
        "latents": f"{config.d_sae:,}",
        "width of the activations": config.d_in,
        "activation": config.activation + (f", k {config.k}" if config.k else ""),
        "training tokens": f"{origin['n_tokens']:,}" if origin.get("n_tokens") else None,
        "recipe": origin.get("recipe"),
        "corpus": (origin.get("corpus") or {}).get("name"),
    }
    parts = [
        "\n".join([*head, "---"]),
        f"# Sparse autoencoder, {config.d_sae:,} latents"
        + (f", at {origin['site']}" if origin.get("site") else ""),
        _table("", "", [(k, str(v)) for k, v in rows.items() if v is not None]),
        _masking(origin.get("mask_policy")),
        _loading(config.activation),
    ]
    if atlas is not None:
        parts += [_features(atlas), _sources(atlas)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _masking(policy: Any) -> str:
    if not isinstance(policy, dict):
        return ""
    limit = policy.get("max_norm")
    ids = json.dumps(policy.get("special_ids", []))
    far = f" and tokens with ‖x‖ above {limit:,.1f}" if isinstance(limit, int | float) else ""
    return f"Trained without special tokens (ids {ids}){far}. Use it the same way."


def _loading(activation: str) -> str:
    assert activation in WRITES
    return (
        "## Loading\n\n```python\nimport monoscope as ms\n\n"
        'sae = ms.load_sae("OWNER/NAME")\n```\n\n'
        "or with SAELens, `SAE.load_from_disk(folder)`, of the downloaded folder. It takes raw "
        "activations of the model and gives raw reconstructions. `probe.safetensors` holds "
        "activations with the codes and reconstructions they must give."
    )


def _features(atlas: Atlas) -> str:
    rows = [
        (str(row.latent), _cell(row.label or ""), f"{row.density:.2e}", _cell(" ".join(row.tokens)))
        for row in atlas.list("interest", limit=_ROWS)
    ]
    head = "| latent | label | density | fires on |\n|---|---|---|---|\n"
    return "## Some features\n\n" + head + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sources(atlas: Atlas) -> str:
    lines = atlas.manifest.get("attribution") or []
    return "## Texts\n\n" + "\n".join(f"- {_cell(str(line))}" for line in lines) if lines else ""


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    head = f"| {left} | {right} |\n|---|---|\n"
    return head + "\n".join(f"| {_cell(a)} | {_cell(b)} |" for a, b in rows)


def _cell(text: str) -> str:
    """Text that cannot end a cell or begin HTML."""
    one_line = " ".join(text.split())
    return one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
