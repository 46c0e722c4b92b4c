"""Taking SAEs in and giving them out, each time with figures that show whether it went well."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monoscope.artifact import load_sae, save_sae
from monoscope.artifact.checks import check_together
from monoscope.artifact.interop import FORMATS, InteropWarning
from monoscope.artifact.interop.export import export_sae
from monoscope.artifact.interop.hub import located
from monoscope.artifact.interop.probe import (
    FILE,
    N_TOKENS,
    TOLERANCE,
    Probe,
    differences,
    read_probe,
    write_probe,
)
from monoscope.errors import ConfigError, nearest
from monoscope.evals import reconstruction, tokens
from monoscope.evals.bootstrap import point

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

SIGHT_TOKENS = 32_768  # held-out tokens behind the figures of an import
_BAD_FVU = 1.0  # the mean alone has this much


@dataclass(frozen=True)
class Imported:
    """An SAE taken in. lost: what could not be carried; figures: on the store's held-out tokens,
    or on the activations that came with it."""

    sae: SAE
    lost: list[str] = field(default_factory=list)
    figures: dict[str, float | int | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        config, origin = self.sae.config, self.sae.provenance
        return {
            "format": (origin.get("imported") or {}).get("format", "monoscope"),
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "activation": config.activation,
            "k": config.k,
            "site": origin.get("site"),
            "model": (origin.get("model") or {}).get("model"),
            **self.figures,
            "lost": self.lost,
        }


def import_sae(
    source: str | Path,
    out: str | Path | None = None,
    *,
    store: ActivationStore | None = None,
    form: str | None = None,
    scale: float | None = None,
) -> Imported:
    """Load an SAE of any known format, look at it on a store, save it as ours.

    source, form, scale: as load_sae.  store: activations of the SAE's model and site; gives fvu and
    l0 on SIGHT_TOKENS held-out tokens, model, site, windows, mask policy and norms where the file
    says none of them, and the probe that later exports are checked on. Without one, the figures are
    those of the activations stored with the SAE, where there are any; and either way what it
    computes must be what was stored with them, or a warning says that it is not.

    Raises what load_sae raises, MismatchError for a store of another width, site or model.
    """
    place = located(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InteropWarning)
        sae = load_sae(place, form=form, scale=scale)
    lost = _passed_on(caught)
    held = read_probe(place, sae.d_sae)
    if held is not None and (changed := _changed(sae, held)):
        lost, held = [*lost, changed], None
    probe = held.x if held is not None and held.real else None
    figures: dict[str, float | int | None] = {} if probe is None else _on_probe(sae, probe)
    lost += _unsaid(sae, store is not None)
    if store is not None:
        check_together(sae, store, None)
        figures = on_sight(sae, store)
        probe = next(store.batches("held_out", N_TOKENS)).acts.float()
        _complete(sae, store)
    fvu = figures.get("fvu")
    if figures and (fvu is None or fvu >= _BAD_FVU):
        lost.append(
            f"fvu {fvu}: worse than the mean; is it another site, or a normalisation that the "
            "file does not hold (--scale)?"
        )
    if out is not None:
        folder = save_sae(sae, out, also=(FILE,))
        if probe is not None:
            write_probe(sae, probe, folder)
    return Imported(sae, lost, figures)


def on_sight(
    sae: SAE, store: ActivationStore, n_tokens: int = SIGHT_TOKENS, seed: int = 0
) -> dict[str, float | int | None]:
    """fvu, l0, cosine and shrinkage of an SAE on about n_tokens held-out tokens of a store."""
    docs = tokens.choose_documents(tokens.held_out_lengths(store), n_tokens, seed)
    return _figures(sae, lambda: tokens.held_out_tiles(store, docs))


def _on_probe(sae: SAE, x: Tensor) -> dict[str, float | int | None]:
    """The same on activations x [n,D]."""
    return _figures(sae, lambda: [(x, torch.zeros(len(x), dtype=torch.int64))])


@torch.no_grad()
def _figures(sae: SAE, tiles: Callable[[], reconstruction.Tiles]) -> dict[str, float | int | None]:
    mean = reconstruction.mean_of(tiles())
    methods = {"sae": reconstruction.with_sae(sae)}
    sums = reconstruction.measure(methods, tiles(), mean)["sae"].sums()
    return point(sums, reconstruction.figures) | {"n_tokens": int(sums.total()["n"][0])}


def _changed(sae: SAE, held: Probe) -> str | None:
    """How the SAE differs from the one whose codes are stored with it; None where it does not."""
    if held.x.shape[1] != sae.d_in:
        return f"{FILE} is of another SAE: its activations have {held.x.shape[1]} dimensions"
    codes, x_hat = differences(sae, held)
    if codes <= TOLERANCE and x_hat <= TOLERANCE:
        return None
    return (
        f"it does not compute what is stored in its {FILE}: codes differ by {codes:.1e}, "
        f"reconstructions by {x_hat:.1e} of their size; its files were changed, or are read wrongly"
    )


def export(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    atlas: Atlas | None = None,
    store: ActivationStore | None = None,
) -> dict[str, Any]:
    """Write the SAE in `source` as `to`: saelens, sparsify, dictionary_learning, hub, neuronpedia …

    atlas: for neuronpedia and saedashboard, which show features, and for the model card of hub.
    store: activations to check the export on, and what the SAE does not say of how texts were
    read; else those stored with the SAE, else drawn ones.
    Returns what was written, how it compared when read back, and what the format cannot carry.

    Raises ConfigError for an unknown format or a missing atlas, MismatchError for an SAE or atlas
    that does not fit, OutputError if the folder cannot be written.
    """
    place = located(source)
    sae = load_sae(place)
    if store is not None:
        check_together(sae, store, None)
        _complete(sae, store)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InteropWarning)
        if to in FORMATS:
            told = export_sae(sae, out, to, _probe(sae, place, store)).to_json()
        else:
            writer = _writers().get(to)
            if writer is None:
                raise _unknown(to)
            told = writer(sae, Path(out), atlas, _probe(sae, place, store))
    _passed_on(caught)
    return {"format": to, "out": os.fspath(out), **told}


def writable() -> tuple[str, ...]:
    """The names that `export` takes."""
    return (*(n for n, f in FORMATS.items() if f.write), *_writers())


_Writer = Callable[["SAE", Path, "Atlas | None", "Tensor | None"], dict[str, Any]]


def _writers() -> dict[str, _Writer]:
    from monoscope.interop.card import write_hub
    from monoscope.interop.neuronpedia import write_neuronpedia
    from monoscope.interop.saedashboard import write_saedashboard

    return {
        "hub": write_hub,
        "neuronpedia": write_neuronpedia,
        "saedashboard": write_saedashboard,
    }


def _unknown(to: str) -> ConfigError:
    close = nearest(to, writable())
    return ConfigError(
        "unknown format to export to",
        got=repr(to),
        expected=f"one of {', '.join(writable())}",
        hint=f"Did you mean {close}?" if close else None,
    )


def _probe(sae: SAE, source: str | Path, store: ActivationStore | None) -> Tensor | None:
    if store is not None:
        return next(store.batches("held_out", N_TOKENS)).acts.float()
    held = read_probe(source, sae.d_sae)
    return held.x if held is not None and held.real else None


def _unsaid(sae: SAE, has_store: bool) -> list[str]:
    """A line where the file does not say where the SAE belongs, so that it was not checked."""
    missing = [name for name in ("model", "site") if not sae.provenance.get(name)]
    if not missing:
        return []
    taken = "the store's taken, unverified but for fvu" if has_store else "unverified; try --store"
    return [f"{' and '.join(missing)}: not named in the file, {taken}"]


def _complete(sae: SAE, store: ActivationStore) -> None:
    """What the file did not say of where and how the SAE is used, as the store says it.

    Not the texts: those of the store need not be those it was trained on.
    """
    said = {k: v for k, v in store.provenance().items() if not k.startswith("corpus")}
    held = sae.provenance
    sae.provenance = held | {k: v for k, v in said.items() if held.get(k) in (None, "", {})}
    if "weights" not in sae.provenance["model"]:  # the same by name: later checks go by the hash
        sae.provenance["model"] = dict(store.identity)


def _passed_on(caught: list[warnings.WarningMessage]) -> list[str]:
    """The InteropWarnings as text; all of them, and any other warning, are raised once more."""
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=3)
    return [str(w.message) for w in caught if issubclass(w.category, InteropWarning)]


__all__ = ["Imported", "export", "import_sae", "on_sight", "writable"]
