"""A made-up atlas for the read API's tests, made in a second, with hostile text in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monoscope.features.index import index
from tests.unit.features import atlas_world

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT, '<img src=x onerror="window.owned = true">', "]]>", "</script>", "<!--",
    "\u202egnp.exe\u202c", "\u2066\u2069", "&lt;b&gt;", "\x1b[2J", "${'x'}", "</div></main>",
)  # fmt: skip
N_LATENTS, D_IN = 60, 12


def make(folder: Path, hostile: tuple[str, ...] = (SCRIPT,)) -> Path:
    """An atlas of 60 latents over 80 documents in which some tokens are `hostile`: one in twelve
    where that is SCRIPT alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas_world, "PIECES", [*atlas_world.PIECES, *hostile])
        store = atlas_world.make_store(n_docs=80, d_in=D_IN)
    sae = atlas_world.FakeSAE(D_IN, N_LATENTS, 5)
    atlas = index(sae, store, atlas_world.FakeLM(D_IN), folder, seed=4)
    atlas.set_labels(
        {
            "latent": i,
            "label": f'" Paris" · " x{i}"' if i % 3 == 0 else ("unclear" if i % 3 == 1 else None),
            "label_method": None if i % 3 == 2 else "rule",
            "label_f1": None if i % 3 else (i % 7) / 7,
            "label_auc": None if i % 3 else 0.5 + (i % 5) / 10,
        }
        for i in range(N_LATENTS)
        if i != 3
    )
    return folder
